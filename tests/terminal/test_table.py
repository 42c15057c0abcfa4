"""What the table says is what the records hold, at any width."""

import re
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from bench.core.records import Component, Judgement, Record, Spec, Trial, Tuning
from bench.terminal import show
from reports.frame import tidy, told_apart
from reports.table import Table, tables


def spec(**changes: Any) -> Spec:
    suite = Component(name="sinusoid", given={}, parameters={}, source="")
    given = changes.pop("given", {})
    algorithm = Component(name="maml", given=given, parameters=given, source="")
    plain: dict[str, Any] = {
        "suite_version": 1,
        "norm": "none",
        "manifests": {"K=5/test": "", "K=5/validation": ""},
        "outer": "Adam(rate=0.001)",
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


def record(of: Spec, **changes: Any) -> Record:
    judged = Judgement(metric="mse", unit="", better="lower", report_steps=(0, 1), floor=4.25, caveat="a caveat")
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


def scores(values: dict[int, list[float]], setting: str = "K=5", norm: str = "none") -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"setting": setting, "norm": norm, "metric": "mse", "task": task, "step": step, "value": value}
            for step, column in values.items()
            for task, value in enumerate(column)
        ]
    )


ONE = scores({0: [4.0, 4.0, 4.0, 4.0], 1: [1.0, 2.0, 1.0, 2.0]})


def one_table(*results: tuple[Record, pd.DataFrame], unfinished: tuple[Record, ...] = ()) -> Table:
    [made] = tables(tidy(results), [record for record, _ in results] + list(unfinished))
    return made


def printed(report: Table, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(show, "console", lambda: Console(width=width, highlight=False, markup=False, emoji=False))
    show.table(report)
    return capsys.readouterr().out


def test_a_row_holds_score_interval_and_cost() -> None:
    made = one_table((record(spec()), ONE))
    [row] = made.scores.to_dict("records")
    assert row == {"algorithm": "maml", "mse @0": "4.00 ± 0.00", "mse @1": "1.50 ± 0.49"}
    [cost] = made.costs.to_dict("records")
    assert cost == {"s/iteration": "0.0125", "train s": "20", "compile s": "3", "peak MB": "100"}


def test_what_all_rows_share_is_said_once() -> None:
    made = one_table((record(spec()), ONE))
    assert made.notes[0] == (
        "in every row: setting K=5, norm none, tasks 4, seeds 1, iterations 1,500, outcome finished"
    )
    assert "over tasks (one seed); lower is better; knowing nothing: 4.25" in made.notes[1]
    assert made.notes[-1] == "a caveat"


def test_what_differs_stays_in_the_rows() -> None:
    both = pd.concat([scores({0: [4.0], 1: [1.0]}, norm=norm) for norm in ("transductive", "inductive")])
    tuned = record(spec(given={"inner_lr": 0.1}), selected={"inner_lr": 0.03})
    made = one_table((record(spec()), both), (tuned, both))
    assert list(made.scores["norm"]) == ["transductive", "inductive"] * 2
    assert list(made.scores["algorithm"]) == ["maml", "maml", "maml[inner_lr=0.1]", "maml[inner_lr=0.1]"]
    assert list(made.costs["selected"]) == ["–", "–", "inner_lr=0.03", "inner_lr=0.03"]


def test_small_scores_keep_two_digits_of_their_interval() -> None:
    made = one_table((record(spec()), scores({0: [1.0], 1: [0.00120, 0.00124, 0.00120, 0.00124]})))
    assert made.scores["mse @1"].iloc[0] == "0.001220 ± 0.000020"


def test_seeds_are_pooled_and_those_that_diverged_are_counted() -> None:
    done = [(record(spec(seed=seed)), ONE) for seed in (0, 1)]
    lost = record(spec(seed=2), outcome="diverged", stopped_at=30, message="the loss is nan")
    made = one_table(*done, unfinished=(lost,))
    assert "seeds 2" in made.notes[0]
    assert "outcome 2 finished, 1 diverged at 31" in made.notes[0]
    assert "over seeds and tasks" in made.notes[1]
    assert f"maml, seed 2, diverged: the loss is nan; see cells/{lost.cell}/log.txt" in made.notes


def test_a_suite_whose_cells_all_failed_still_has_its_table() -> None:
    made = one_table(unfinished=(record(spec(), outcome="failed", message="boom"),))
    assert list(made.scores.iloc[0]) == ["maml", "–", "–"]
    assert "outcome failed" in made.notes[0]


def test_cells_that_share_a_label_are_told_apart_by_what_differs() -> None:
    longer, edited = spec(iterations=3_000), spec(suite_version=2)
    other = spec(given={"steps": 5}, iterations=3_000)
    frame = tidy((record(of), ONE) for of in (spec(), spec(seed=1), longer, other, edited))
    labels = told_apart(frame).drop_duplicates("cell").set_index("cell")["algorithm"]
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
    made = one_table((record(spec()), ONE), (long, ONE))
    text = printed(made, width, monkeypatch, capsys)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("1.50 ± 0.49") == 2
    assert re.search(r"maml\[inner_lr=0\.25,gradient=mixed\] .*123\.4567", text)
    assert "in every row" in text


def test_a_wide_terminal_gets_one_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made = one_table((record(spec()), ONE))
    assert printed(made, 120, monkeypatch, capsys).count("algorithm") == 1
    assert printed(made, 60, monkeypatch, capsys).count("algorithm") == 2


def test_a_table_with_tuned_rows_says_whose_values_each_row_has_and_what_they_cost() -> None:
    part = Component(name="maml", given={}, parameters={}, source="")
    trials = [
        Trial(number=i, parameters={"steps": i + 1}, default=i == 0, outcome="finished", score=score,
              iterations=10, cells=())
        for i, score in enumerate((2.0, 1.0))
    ]  # fmt: skip
    plain: dict[str, Any] = {
        "study": "", "suite": part, "algorithm": part, "space": {}, "metric": "mse", "better": "lower", "step": 1,
        "iterations": 10, "seeds": (0,), "validation_tasks": 2, "sampler": "tpe", "pruner": "none", "seed": 0,
        "batch": 5, "finished": "",
    }  # fmt: skip
    both, first = Tuning(trials=tuple(trials), **plain), Tuning(trials=tuple(trials[:1]), **plain)
    default, tuned, same = record(spec()), record(spec(given={"steps": 2}), tuning=both), record(spec(seed=1))
    assert not {"values", "trials", "tuning iterations"} & set(one_table((default, ONE)).costs)
    costs = one_table((default, ONE), (tuned, ONE)).costs
    assert costs[["values", "trials", "tuning iterations"]].to_numpy().tolist() == [
        ["default", "–", "–"],
        ["tuned", "2", "20"],
    ]
    costs = one_table((same.model_copy(update={"tuning": first}), ONE)).costs
    assert costs["values"].tolist() == ["tuned, the default"]
