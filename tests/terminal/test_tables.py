"""What the table says is what the records hold, at any width."""

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from bench.core.metric import Metric
from bench.core.records import Component, Judgement, Record, Spec, Trial, Tuning
from bench.terminal import tables as terminal
from reports.comparison import compare, cubes
from reports.frame import cells, tidy
from reports.views import View, comparisons


def spec(**changes: Any) -> Spec:
    suite = Component(name="sinusoid", given={}, parameters={}, source="")
    given = changes.pop("given", {})
    algorithm = Component(name="maml", given=given, parameters=given, source="")
    plain: dict[str, Any] = {
        "suite_version": 1,
        "norm": "none",
        "outer": "Adam(rate=0.001)",
        "manifests": {"K=5/test": "", "K=5/validation": ""},
        "seed": 0,
        "iterations": 1_500,
        "validate_every": 100,
        "selection": "last",
        "test_tasks": 4,
        "validation_tasks": 2,
        "engine": "eager",
        "dtype": "float32",
        "device": "cpu",
        "threads": 1,
    }
    return Spec(suite=suite, algorithm=algorithm, **(plain | changes))


MSE, NLL, LOSS = Metric("mse", "", "lower", low=0), Metric("nll", "nats", "lower"), Metric("loss", "nats", "lower")
ACCURACY, ECE = Metric("accuracy", "%", "higher", low=0, high=100), Metric("ece", "%", "lower", low=0, high=100)


def record(of: Spec, metrics: tuple[Metric, ...] = (MSE,), **changes: Any) -> Record:
    judged = Judgement(metrics=metrics, report_steps=(0, 1), floor=4.25, caveat="a caveat")
    plain: dict[str, Any] = {
        "outcome": "finished",
        "stopped_at": of.iterations,
        "seconds_per_iteration": 0.0125,
        "train_seconds": 20.0,
        "compile_seconds": 3.0,
        "peak_bytes": 10**8,
        "finished": "",
        "environment": {},
    }
    return Record(cell=of.id, spec=of, judgement=judged, **(plain | changes))


def scores(
    values: dict[int, list[float]], setting: str = "K=5", norm: str = "none", metric: str = "mse"
) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"setting": setting, "norm": norm, "metric": metric, "task": task, "step": step, "value": value}
            for step, column in values.items()
            for task, value in enumerate(column)
        ]
    )


ONE = scores({0: [4.0, 4.0, 4.0, 4.0], 1: [1.0, 2.0, 1.0, 2.0]})


def one_view(*results: tuple[Record, pd.DataFrame], unfinished: tuple[Record, ...] = ()) -> View:
    [made] = comparisons(tidy(results), [record for record, _ in results] + list(unfinished))
    return made


def printed(view: View, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(terminal, "console", lambda: Console(width=width, highlight=False, markup=False, emoji=False))
    terminal.comparison(view)
    return capsys.readouterr().out


def test_a_row_holds_score_interval_and_cost() -> None:
    [row] = one_view((record(spec()), ONE)).frame().to_dict("records")
    assert (row["algorithm"], row["mse @0"], row["mse @1"]) == ("maml", "4.00 ± 0.00", "1.50 ± 0.92")
    assert row["median @1"] == "1.50"  # four tasks tell nothing of its interval
    costs = {"s/iteration": "0.0125", "train s": "20", "compile s": "3", "peak MB": "100", "iterations": "1,500"}
    assert {name: row[name] for name in costs} == costs


def test_what_adapting_takes_is_each_settings_own_and_missing_where_it_was_not_measured() -> None:
    both = pd.concat([scores({0: [4.0], 1: [1.0]}, setting=setting) for setting in ("K=5", "K=10")])
    seconds = [{"K=5": 0.001, "K=10": 0.00234567}, {"K=5": 0.003, "K=10": 0.004}, {"K=5": 0.002, "K=10": 0.005}]
    new = [(record(spec(seed=seed), test_seconds=its), both) for seed, its in enumerate(seconds)]
    old = record(spec(given={"steps": 2})), both
    made = one_view(*new, old)
    rows = made.frame().set_index(["setting", "algorithm"])["adapt ms/task"]
    assert rows.to_dict() == {
        ("K=5", "maml"): "2", ("K=10", "maml"): "4", ("K=5", "maml[steps=2]"): "–", ("K=10", "maml[steps=2]"): "–",
    }  # fmt: skip
    assert any(note.startswith("adapt ms/task: adapting to a test task, @1") for note in made.notes)
    alone = one_view(old)
    assert not [text for text in (*alone.columns, *alone.notes) if "adapt ms" in text]


def test_what_all_rows_share_is_said_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(one_view((record(spec()), ONE)), 1_000, monkeypatch, capsys)
    assert "in every row: setting K=5, tasks 4, seeds 1, iterations 1,500, outcome finished" in text
    assert "over tasks (fewer than three seeds: what another seed would reach is not in it); lower is better" in text
    assert "knowing nothing: 4.25" in text
    assert text.rstrip().endswith("a caveat")
    assert "outcome" not in text.partition("in every row")[0]


def test_what_differs_stays_in_the_rows() -> None:
    both = pd.concat([scores({0: [4.0], 1: [1.0]}, norm=norm) for norm in ("transductive", "inductive")])
    set_ = record(spec(given={"inner_lr": 0.1}), selected={"inner_lr": 0.03})
    made = one_view((record(spec()), both), (set_, both)).frame()
    assert list(made["norm"]) == ["transductive", "transductive", "inductive", "inductive"]
    assert list(made["algorithm"]) == ["maml", "maml[inner_lr=0.1]"] * 2
    assert list(made["selected"]) == ["–", "inner_lr=0.03"] * 2


def test_small_scores_keep_two_digits_of_their_interval() -> None:
    made = one_view((record(spec()), scores({0: [1.0] * 4, 1: [0.00120, 0.00124, 0.00120, 0.00124]})))
    assert made.frame()["mse @1"].iloc[0] == "0.001220 ± 0.000037"


def test_seeds_are_pooled_and_those_that_diverged_are_counted() -> None:
    done = [(record(spec(seed=seed)), ONE) for seed in (0, 1, 2)]
    lost = record(spec(seed=3), outcome="diverged", stopped_at=30, message="the loss is nan")
    made = one_view(*done, unfinished=(lost,))
    [row] = made.frame().to_dict("records")
    assert (row["seeds"], row["outcome"]) == ("3", "3 finished, 1 diverged")
    assert "over seeds and tasks" in made.notes[0]
    assert f"maml, seed 3, diverged: the loss is nan; see cells/{lost.cell}/log.txt" in made.notes


def test_a_suite_whose_cells_all_failed_still_has_its_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = one_view(unfinished=(record(spec(), outcome="failed", message="boom"),))
    assert list(made.frame()[["algorithm", "seeds"]].iloc[0]) == ["maml", "0"]
    assert "outcome failed" in printed(made, 80, monkeypatch, capsys)


def test_an_interval_that_the_metrics_range_cuts_off_says_its_ends() -> None:
    near = scores({0: [100.0] * 39 + [60.0], 1: [70.0, 75.0] * 20}, metric="accuracy")
    done = record(spec(), metrics=(ACCURACY,))
    [row] = one_view((done, near)).frame().to_dict("records")
    assert row["accuracy % @0"] == "99.00 (96.98 to 100.00)"
    assert row["accuracy % @1"] == "72.50 ± 0.81"


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_no_interval_leaves_the_metrics_range_however_seeds_differ(count: int) -> None:
    found = []
    for seed in range(count):
        column = [100.0 * (seed % 2)] * 3 + [20.0]
        both = scores({0: column, 1: column}, metric="accuracy")
        found.append((record(spec(seed=seed), metrics=(ACCURACY,)), both))
    compared = compare(cubes(tidy(found), cells([record for record, _ in found])))
    assert (compared["low"] >= 0).all()
    assert (compared["high"] <= 100).all()
    assert (compared["low"] < compared["mean"]).all()


def test_further_metrics_stand_beside_the_headline_where_a_method_has_them() -> None:
    metrics = (MSE, NLL, LOSS)
    nll = scores({0: [1.0, 2.0], 1: [0.25, 0.75]}, metric="nll")
    loss = scores({0: [1.0, 2.0], 1: [0.25, 0.75]}, metric="loss")
    mse = scores({0: [4.0, 4.0], 1: [1.0, 2.0]})
    sure, unsure = record(spec(), metrics), record(spec(given={"steps": 2}), metrics)
    made = one_view((sure, pd.concat([mse, loss])), (unsure, pd.concat([mse, nll, loss])))
    assert list(made.frame()["nll nats @1"]) == ["–", "0.50 ± 3.18"]
    assert made.columns.index("nll nats @1") < made.columns.index("tasks")
    assert not [name for name in made.columns if "loss" in name or name == "nll nats @0"]
    assert any(note.startswith("nll nats: ") and note.endswith("lower is better") for note in made.notes)
    alone = one_view((sure, mse))
    assert not [text for text in (*alone.columns, *alone.notes) if "nll" in text]


def test_a_calibration_error_stays_within_its_range() -> None:
    shown = pd.concat([
        scores({0: [90.0, 90.0], 1: [95.0, 95.0]}, metric="accuracy"),
        scores({0: [0.0, 8.0], 1: [0.0, 8.0]}, metric="ece"),
    ])  # fmt: skip
    [row] = one_view((record(spec(), (ACCURACY, ECE)), shown)).frame().to_dict("records")
    assert row["ece % @1"] == "4.00 (0.00 to 54.82)"


def test_scores_beyond_knowing_nothing_are_counted_where_they_spoil_a_mean() -> None:
    made = one_view((record(spec()), scores({0: [1.0] * 30, 1: [1.0] * 28 + [float("inf"), 900.0]})))
    said = "the mean @1 is made by 2 of 30 scores, on 6.7 % of the tasks; worse than knowing nothing: 2 @1"
    assert f"heavy tail: maml, K=5: {said}" in made.notes
    [row] = made.frame().to_dict("records")
    assert (row["mse @1"], row["median @1"]) == ("∞", "1.00 (1.00 to 1.00)")


def test_whom_adaptation_harms_stands_in_a_wide_terminal_and_in_no_narrow_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    view = one_view((record(spec()), scores({0: [1.0] * 20, 1: [0.5] * 15 + [1.5, 2.0, 3.0, 4.0, 1.0]})))
    [row] = view.frame().to_dict("records")
    assert row["harmed % @1"].startswith("20.00 ")
    assert row["worst tenth @1"] == "3.50"
    wide, narrow = (printed(view, width, monkeypatch, capsys) for width in (1_000, 80))
    assert "worst tenth @1" in wide
    assert "worst tenth @1" not in narrow
    assert "harmed %, worst tenth, medians: in a wider terminal" in narrow


def test_several_suites_have_a_front_page_on_which_what_is_missing_is_marked_and_not_averaged_over() -> None:
    def on(suite: str, algorithm: str, value: float, seed: int = 0, **changes: Any) -> tuple[Record, pd.DataFrame]:
        suites = {"suite": Component(name=suite, given={}, parameters={}, source="")}
        named = {"algorithm": Component(name=algorithm, given={}, parameters={}, source="")}
        made = spec(seed=seed).model_copy(update=suites | named)
        return record(made, train_seconds=10.0 * (seed + 1), **changes), scores(
            {0: [4.0] * 4, 1: [value, value + 1] * 2}
        )

    done = [on("a", "maml", 1.0), on("a", "anil", 5.0), on("a", "late", 0.1), on("a", "late", 0.1, seed=1)]
    done += [on("b", "maml", 1.0), on("b", "anil", 0.0)]
    lost, partly = (on("b", "late", 0, outcome="diverged")[0], on("b", "maml", 0, seed=1, outcome="diverged")[0])
    whole, *others = comparisons(tidy(done), [*(r for r, _ in done), lost, partly])
    assert [view.title for view in others] == ["a", "b"]
    rows = whole.frame(best="*{}").set_index("algorithm")
    assert list(rows.index) == ["maml", "anil", "late"]  # who is measured everywhere, then the others
    assert list(rows["mean rank"]) == ["1.50", "1.50", "–"]  # among anil and maml
    assert list(rows["b: mse @1"]) == ["1.50 ± 0.92, 1 of 2 diverged", "*0.50 (0.00 to 1.42)", "diverged"]
    assert list(rows["a: rank"]) == ["2 b", "3 c", "1 a"]
    assert list(rows["a: train s"]) == ["10", "10", "15"]
    assert comparisons(tidy(done[:2]), [r for r, _ in done[:2]])[0].title == "a"  # one suite has none


def test_medians_that_decide_are_printed_at_every_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [
        (record(spec(given={"as": name})), scores({0: [1.0] * 30, 1: [value] * 29 + [float("inf")]}))
        for name, value in (("good", 1.0), ("behind", 2.0))
    ]
    text = printed(one_view(*found), 80, monkeypatch, capsys)
    assert "* 1.00 (1.00 to 1.00)" in text
    assert "medians: in a wider" not in text
    assert "medians decide what is marked" in text.replace("\n", " ")


def test_the_best_and_what_is_level_with_it_are_marked_and_a_row_alone_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    tasks = rng.uniform(1, 3, size=40)
    level = tasks + 0.5 * (np.arange(40) % 2 - 0.49)
    columns = {"good": tasks, "level": level, "behind": tasks + 1}
    found = [
        (record(spec(given={"as": name})), scores({0: list(column), 1: list(column)}))
        for name, column in columns.items()
    ]
    text = printed(one_view(*found), 1_000, monkeypatch, capsys)
    assert re.search(r"maml\[as=good\] +\* \d", text)
    assert re.search(r"maml\[as=level\] +≈ \d", text)
    assert re.search(r"maml\[as=behind\] +\d", text)
    assert "*: the best; ≈: can't be told apart from it" in text
    alone = printed(one_view(found[0]), 1_000, monkeypatch, capsys)
    assert "the best" not in alone
    assert "* " not in alone


def test_the_printed_table_and_the_reports_files_have_the_same_digits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    found = []
    for arm in ({}, {"steps": 2}, {"steps": 3}):
        for seed in range(3):
            values = {step: list(rng.lognormal(0.0, 1.0, 20)) for step in (0, 1)}
            found.append((record(spec(seed=seed, given=arm)), scores(values)))
    view = one_view(*found)
    wide = printed(view, 1_000, monkeypatch, capsys)
    numbers = {entry.text for row in view.rows for name, entry in zip(view.columns, row, strict=True) if "@" in name}
    assert len(numbers) == 3 * 7
    for text in (wide, view.markdown(), view.latex().replace("$\\pm$", "±")):
        assert sorted(number for number in numbers if number not in text) == []


@pytest.mark.parametrize("order", [[5, 4, 3, 2, 1, 0], [2, 0, 1, 5, 3, 4], [1, 3, 5, 0, 2, 4]])
def test_the_same_cells_in_another_order_have_the_same_digits_and_marks(
    order: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    values = [{step: list(rng.lognormal(0.0, 1.0, 20)) for step in (0, 1)} for _ in range(3)]
    found = []
    for arm in ({}, {"steps": 2}):  # two that reach the same
        for seed, one in enumerate(values):
            made = record(spec(seed=seed, given=arm), train_seconds=0.1 * 3**seed, selected={"inner_lr": 0.1 + seed})
            found.append((made, scores(one)))
    view, other = one_view(*found), one_view(*(found[i] for i in order))
    assert {entry.mark for row in view.rows for entry in row} == {"", "best", "level"}
    for text in (View.latex, View.markdown, lambda v: printed(v, 1_000, monkeypatch, capsys)):
        assert sorted(text(view).splitlines()) == sorted(text(other).splitlines())


def test_cells_that_share_a_label_are_told_apart_by_what_differs() -> None:
    longer, edited = spec(iterations=3_000), spec(suite_version=2)
    other = spec(given={"steps": 5}, iterations=3_000)
    known = cells([record(of) for of in (spec(), spec(seed=1), longer, other, edited)])
    labels = known.set_index("cell")["algorithm"]
    assert set(known["base"]) == {"maml", "maml[steps=5]"}
    assert labels[longer.id] == "maml, iterations 3000"
    assert labels[other.id] == "maml[steps=5]"
    assert labels[edited.id] == f"maml, iterations 1500, arm {edited.arm}"
    assert labels[spec(seed=1).id] == labels[spec().id]
    assert labels.drop(spec(seed=1).id).is_unique


@pytest.mark.parametrize("width", [60, 80, 120, 1000])
def test_every_figure_is_whole_at_every_width(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = record(spec(given={"inner_lr": 0.25, "gradient": "mixed"}), seconds_per_iteration=123.4567)
    view = one_view((record(spec()), ONE), (long, ONE))
    text = printed(view, width, monkeypatch, capsys)
    assert max(map(len, text.splitlines())) <= width
    assert len(re.findall(r"[*≈] 1\.50 ± 0\.92", text)) == 2
    assert len(re.findall(r"1\.50(?! ±)", text)) == (4 if width == 1_000 else 0)  # median and interquartile mean
    assert ("medians: in a wider terminal" in text) == (width < 1_000)
    assert re.search(r"maml\[inner_lr=0\.25,gradient=mixed\] .*123\.4567", text)
    assert "in every row" in text


def test_a_wide_terminal_gets_one_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made = one_view((record(spec()), ONE))
    assert printed(made, 200, monkeypatch, capsys).count("algorithm") == 1
    assert printed(made, 80, monkeypatch, capsys).count("algorithm") > 1


def test_a_tuned_row_says_so_and_what_choosing_its_values_cost() -> None:
    part = Component(name="maml", given={}, parameters={}, source="")
    trials = [
        Trial(number=i, parameters={"steps": i + 1}, default=i == 0, outcome="finished", score=score,
              iterations=10, cells=())
        for i, score in enumerate((2.0, 1.0))
    ]  # fmt: skip
    tuning = Tuning(
        trials=tuple(trials), study="", suite=part, algorithm=part, space={}, metric="mse", better="lower", step=1,
        iterations=10, seeds=(0,), validation_tasks=2, sampler="tpe", pruner="none", seed=0, batch=5, finished="",
    )  # fmt: skip
    default, tuned = record(spec()), record(spec(given={"steps": 2}), tuning=tuning)
    assert not {"trials", "tuning iterations"} & set(one_view((default, ONE)).columns)
    made = one_view((default, ONE), (tuned, ONE)).frame()
    columns = ["algorithm", "selected", "trials", "tuning iterations"]
    assert made[columns].to_numpy().tolist() == [["maml", "–", "–", "–"], ["maml (tuned)", "steps=2", "2", "20"]]
