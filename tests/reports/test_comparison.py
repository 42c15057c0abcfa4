"""Who is best, who is level, what the pairs are: on scores made by hand."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.core.metric import Metric
from reports import comparison, published
from reports.comparison import Cube

MSE, SUCCESS = Metric("mse", "", "lower", low=0), Metric("success", "", "higher", low=0, high=10)


def cell(**changes: Any) -> dict[str, Any]:
    plain = {
        "suite": "sinusoid",
        "suite_name": "sinusoid",
        "suite_given": "{}",
        "domain": "",
        "algorithm": "maml",
        "algorithm_name": "maml",
        "arm": "m",
        "seed": 0,
        "iterations": 10_000,
        "engine": "eager",
        "device": "cpu",
        "threads": 1,
        "parameters": '{"gradient": "reverse", "steps": 1}',
        "seconds_per_iteration": 0.2,
        "peak_bytes": 100.0,
        "outcome": "finished",
        "setting": "K=5",
        "norm": "none",
        "metrics": (MSE,),
        "floor": 4.0,
        "report_steps": (1, 10),
    }
    return plain | changes


def cube(algorithm: str, values: Any, **changes: Any) -> Cube:
    """A cube of two steps, the second half of the first: values [S, T]."""
    last = np.asarray(values, dtype=float)
    plain: dict[str, Any] = {
        "suite": "sinusoid",
        "setting": "K=5",
        "norm": "none",
        "algorithm": algorithm,
        "arm": algorithm,
        "metric": MSE,
        "floor": 4.0,
        "report_steps": (1, 10),
        "seeds": tuple(range(len(last))),
        "tasks": tuple(range(last.shape[1])),
        "steps": (0, 1, 10),
        "values": np.stack([4 * last, 2 * last, last]),
    }
    return Cube(**(plain | changes))


RNG = np.random.default_rng(0)
TASKS = RNG.uniform(1, 5, size=(1, 60))
GOOD = TASKS + 0.01 * RNG.normal(size=(3, 60))
NOISE = RNG.normal(size=(3, 60))
LEVEL = GOOD + 0.05 * (NOISE - NOISE.mean()) + 0.0001  # a little worse, and less than can be told
WORSE = GOOD + 0.5


def test_scores_come_back_as_seeds_by_tasks_whatever_the_order_of_the_rows() -> None:
    rows = [
        {"suite": "sinusoid", "setting": "K=5", "norm": "none", "algorithm": "maml", "arm": "m", "metric": metric}
        | {"seed": seed, "task": task, "step": step, "value": 100 * step + 10 * seed + task}
        for metric in ("mse", "other")
        for seed in (3, 1)
        for task in (2, 0, 1)
        for step in (1, 0)
    ]
    rows[0]["value"] = np.nan
    [made] = comparison.cubes(pd.DataFrame(rows), pd.DataFrame([cell()]))
    assert (made.seeds, made.tasks, made.steps) == ((1, 3), (0, 1, 2), (0, 1))
    assert made.at(0).tolist() == [[10, 11, 12], [30, 31, 32]]
    assert made.at(1).tolist() == [[110, 111, 112], [130, 131, np.inf]]  # what is no number is the worst


def test_the_best_and_what_cannot_be_told_apart_from_it_are_marked() -> None:
    made = comparison.compare([cube("good", GOOD), cube("level", LEVEL), cube("worse", WORSE)])
    assert dict(zip(made["algorithm"], made["mark"], strict=True)) == {"good": "best", "level": "level", "worse": ""}
    [behind] = made.loc[(made["algorithm"] == "worse") & (made["step"] == 10), "behind"]
    assert behind == pytest.approx(0.5)


def test_higher_is_better_where_the_suite_says_so() -> None:
    made = comparison.compare([cube("good", GOOD, metric=SUCCESS), cube("worse", WORSE, metric=SUCCESS)])
    assert set(made.loc[made["mark"] == "best", "algorithm"]) == {"worse"}


def test_medians_decide_where_single_tasks_spoil_a_mean() -> None:
    spoilt = GOOD - 0.5
    spoilt[0, 0] = np.inf
    made = comparison.compare([cube("spoilt", spoilt), cube("good", GOOD)])
    assert set(made["by"]) == {"median"}
    assert set(made.loc[made["mark"] == "best", "algorithm"]) == {"spoilt"}


def test_who_is_harmed_is_who_was_better_off_at_step_0() -> None:
    before = np.array([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    after = np.array([[0.5, 1.0, 2.0, 0.5], [0.5, 1.0, np.inf, 2.0]])
    values = np.stack([before, before, after])
    assert replace(cube("maml", after), values=values).harmed(10).value == 100 * 3 / 8
    assert replace(cube("maml", after), values=-values, metric=SUCCESS).harmed(10).value == 100 * 3 / 8
    assert np.isnan(replace(cube("maml", after), values=values[1:], steps=(1, 10)).harmed(10).value)
    spread = comparison.quantiles([replace(cube("maml", after), values=values)]).set_index("step")
    assert (spread.loc[10, "q05"], spread.loc[10, "q50"], spread.loc[10, "q95"]) == (0.5, 1.0, np.inf)
    assert spread.loc[1, "harmed"] == 0.0


def test_one_seed_speaks_of_tasks_alone_and_has_no_variance_of_seeds() -> None:
    made = comparison.compare([cube("one", TASKS)])
    assert set(made["over"]) == {"tasks"}
    assert made["variance_seeds"].isna().all()


def test_pairs_share_tasks_and_are_corrected_within_a_setting() -> None:
    fewer = cube("fewer", WORSE[:, 10:], tasks=tuple(range(10, 60)))
    made = comparison.differences([cube("good", GOOD), cube("worse", WORSE), fewer])
    assert list(zip(made["a"], made["b"], made["tasks"], strict=True)) == [
        ("good", "worse", 60),
        ("good", "fewer", 50),
        ("worse", "fewer", 50),
    ]
    assert made["difference"].tolist() == pytest.approx([-0.5, -0.5, 0.0])
    assert made["improvement"].tolist() == [1.0, 1.0, 0.5]
    assert made["p_holm"].iloc[0] == pytest.approx(min(1, 3 * made["p"].iloc[0]))
    assert made["p_holm"].iloc[2] == 1.0


def test_a_difference_that_is_told_and_small_is_equivalent_within_a_margin_of_the_metrics_kind() -> None:
    percent = Metric("accuracy", "%", "higher", low=0, high=100)
    [points] = comparison.differences([cube(n, v, metric=percent) for n, v in (("a", GOOD), ("b", WORSE))]).to_dict(
        "records"
    )
    assert (points["margin"], points["p_holm"] < 0.001, points["p_equivalent"] < 0.001) == (1.0, True, True)
    [spread] = comparison.differences([cube("a", GOOD), cube("b", WORSE)]).to_dict("records")
    assert spread["margin"] == pytest.approx(0.2 * GOOD.mean(0).std(ddof=1))
    assert spread["p_equivalent"] > 0.999
    spoilt = WORSE.copy()
    spoilt[0, 0] = np.inf
    third = [cube("a", GOOD), cube("b", WORSE), cube("c", spoilt)]
    same, *none = comparison.differences(third).to_dict("records")
    assert same["p_equivalent"] == spread["p_equivalent"]  # whatever a third does
    sizes = [[pair[name] for name in ("d_tasks", "d_seeds", "margin", "p_equivalent")] for pair in none]
    assert np.isnan(sizes).all()


def test_two_share_a_letter_if_and_only_if_they_are_not_apart() -> None:
    assert comparison.letters(3, []) == ["a", "a", "a"]
    assert comparison.letters(3, [(0, 2)]) == ["a", "ab", "b"]
    rng = np.random.default_rng(0)
    for count in range(1, 9):
        apart = {pair for pair in combinations(range(count), 2) if rng.random() < 0.5}
        found = comparison.letters(count, apart)
        shared = {(i, j) for i, j in combinations(range(count), 2) if set(found[i]) & set(found[j])}
        assert shared == set(combinations(range(count), 2)) - apart
        assert all(found)


def test_standings_are_of_the_headline_setting_and_join_what_cannot_be_told_apart() -> None:
    made = [cube("worse", WORSE), cube("level", LEVEL), cube("good", GOOD), cube("good", WORSE, setting="K=10")]
    cells = pd.DataFrame([cell(arm=each.arm, algorithm=each.algorithm) for each in made])
    found = comparison.standings(made, comparison.compare(made), cells)
    assert list(zip(found["algorithm"], found["rank"], found["letters"], strict=True)) == [
        ("good", 1, "a"),
        ("level", 2, "a"),
        ("worse", 3, "b"),
    ]
    assert found["value"].iloc[0] == pytest.approx(GOOD.mean())
    assert comparison.standings([], comparison.compare([]), cells).empty


def test_only_pairs_that_are_wanted_are_corrected_for() -> None:
    made = comparison.differences(
        [cube("a", GOOD), cube("b", WORSE), cube("c", LEVEL)], lambda x, y: (x.algorithm, y.algorithm) == ("a", "b")
    )
    assert len(made) == 1
    assert made["p_holm"].iloc[0] == made["p"].iloc[0]


def test_second_order_is_held_against_what_differs_in_the_operator_alone() -> None:
    first = '{"gradient": "first_order", "steps": 1}'
    rows = [cell(seed=s, seconds_per_iteration=0.2 + 0.01 * s) for s in range(3)]
    rows += [cell(algorithm="fomaml", arm="f", seed=s, parameters=first, seconds_per_iteration=0.1) for s in range(3)]
    rows += [cell(algorithm="slow", arm="t", parameters=first, threads=2, seconds_per_iteration=9.0)]
    rows += [cell(algorithm="other", arm="o", parameters='{"gradient": "first_order", "steps": 5}')]
    [made] = comparison.orders(pd.DataFrame(rows)).to_dict("records")
    assert (made["second"], made["first"], made["operator"], made["seeds"]) == ("maml", "fomaml", "reverse", 3)
    assert made["ratio"] == pytest.approx((2.0 * 2.1 * 2.2) ** (1 / 3))
    assert made["low"] < made["ratio"] < made["high"]


def test_seeds_that_were_kept_at_fewer_steps_are_compared_at_those() -> None:
    about = {"suite": "sinusoid", "setting": "K=5", "norm": "none", "algorithm": "maml", "arm": "m", "metric": "mse"}
    rows = [
        about | {"seed": seed, "task": task, "step": step, "value": float(10 * seed + task + step)}
        for seed, steps in ((0, (0, 1, 2, 10)), (1, (0, 1, 10)))
        for task in (0, 1)
        for step in steps
    ]
    [made] = comparison.cubes(pd.DataFrame(rows), pd.DataFrame([cell()]))
    assert made.steps == (0, 1, 10)
    assert made.at(10).tolist() == [[10, 11], [20, 21]]


def test_a_setting_is_published_without_its_number_of_queries() -> None:
    assert published.setting_of("5-way 1-shot, 15 queries") == "5-way 1-shot"
    assert published.setting_of("5-way 1-shot, split by alphabet") != "5-way 1-shot"


def test_a_published_value_has_a_verdict_only_with_an_interval() -> None:
    omniglot = {"suite": "omniglot", "suite_name": "omniglot", "setting": "5-way 1-shot", "norm": "transductive"}
    accuracy = {"metrics": (Metric("accuracy", "%", "higher"),), "report_steps": (1, 3)}
    cells = pd.DataFrame([cell(), cell(arm="o", iterations=1_200, **omniglot, **accuracy)])
    common = {"low": 0.0, "high": 1.0}
    compared = pd.DataFrame(
        [
            {"suite": "sinusoid", "setting": "K=5", "norm": "none", "algorithm": "maml", "arm": "m", "step": 10}
            | {"mean": 0.35, **common},
            *(
                {"suite": "omniglot", "setting": "5-way 1-shot", "algorithm": "maml", "arm": "o", "step": 3}
                | {"norm": norm, "mean": mean, **common}
                for norm, mean in (("transductive", 98.9), ("inductive", 98.9))
            ),
        ]
    )
    made = published.beside(compared, cells)
    found = {(row["suite"], row["norm"], row["published"]): row for row in made.to_dict("records")}
    assert found["sinusoid", "none", 0.35]["verdict"] == ""
    omni = found["omniglot", "transductive", 98.7]
    assert omni["verdict"] == "inside"
    assert "trained for 1,200 meta-iterations, published 60,000" in omni["protocol"]
    assert not any(norm == "inductive" for _, norm, _ in found)  # the paper's normalises with the query batch


def test_published_values_were_read_in_a_source_that_is_named() -> None:
    known = published.values()
    assert set(known["grade"]) == {"primary", "secondary"}
    assert known["source"].notna().all()
    assert known["value"].notna().all()
