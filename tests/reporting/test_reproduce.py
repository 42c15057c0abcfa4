"""Every published value knows the command that makes it here, and what that has come to has a verdict."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import bench as library
from bench.core.discovery import Catalogue, Named
from bench.core.metric import Metric
from bench.core.types import Kind
from bench.planning.plan import check_kind, suite_of
from bench.reporting import reproduce
from bench.reporting.reproduce import Aim, Times, reproduced, selected
from reports import published, views
from reports.comparison import Cube
from reports.statistics import Interval
from tests.conftest import bench

ROW: dict[str, Any] = {
    "suite": "sinusoid", "setting": "K=5", "algorithm": "maml", "step": 1, "norm": None, "value": 4.0, "ci95": None,
    "unit": None, "iterations": 100, "grade": "primary", "origin": "original", "source": "a paper", "notes": None,
    "run_suite": "sinusoid", "run_algorithm": "maml[meta_batch=2]", "preset": "smoke", "seeds": 2, "differs": None,
}  # fmt: skip
ROWS = [
    ROW,
    ROW | {"step": 10, "value": 1_000.0, "ci95": 0.5},
    ROW | {"value": 5.0, "origin": "others", "source": "a library", "differs": "its own network"},
    ROW | {"setting": "K=10", "algorithm": "scratch", "run_algorithm": "scratch[inner_lr=0.01]", "seeds": 1},
]
OPTIONS = ("--threads", "1", "--out", "run")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Four published values, nothing that is committed, and a folder of one's own."""
    frame = pd.DataFrame(ROWS).astype({"step": "Int64", "iterations": "Int64", "ci95": float})
    monkeypatch.setattr(published, "values", lambda: frame)
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path / "results")
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def verdicts() -> list[str]:
    return list(reproduced(published.values(), Path("run"))["verdict"])


def test_every_row_names_a_suite_and_an_algorithm_that_can_meet() -> None:
    catalogue, rows = Catalogue(), published.values()
    kinds: dict[str, Kind] = {}
    for row in rows.drop_duplicates(["run_suite", "run_algorithm"]).to_dict("records"):
        aim = Aim.of({str(name): value for name, value in row.items()}, catalogue)
        assert aim.refused == "", aim
        assert (aim.suite.name, aim.algorithm.name) == (row["suite"], row["algorithm"])
        suite = suite_of(catalogue, aim.suite)
        assert row["preset"] in suite.presets
        if aim.suite.name not in kinds:
            check_kind(catalogue, aim.suite, suite, Named(aim.algorithm.name, {}))
    assert set(rows["origin"]) == {"original", "others"}
    assert rows["seeds"].between(1, 3).all()


def test_a_setting_that_is_published_is_one_that_the_command_scores() -> None:
    catalogue, rows = Catalogue(), published.values()
    rows = rows[rows["setting"].notna()]
    for (text, setting), _ in rows.groupby(["run_suite", "setting"]):
        name, _, given = str(text).partition("[")
        pairs = dict(pair.split("=") for pair in given.rstrip("]").split(",") if pair)
        suite = suite_of(catalogue, Named(name, pairs))
        assert setting in {published.setting_of(each.setting) for each in suite.evaluations}, text


def test_inside_is_where_either_interval_holds_the_others_value() -> None:
    assert published.verdict(Interval(98.9, 98.0, 99.8), 98.7, 0.4) == ("inside", pytest.approx(0.2))
    assert published.verdict(Interval(98.9, 98.8, 99.0), 98.7, 0.4)[0] == "inside"  # theirs holds ours
    assert published.verdict(Interval(0.61, 0.55, 0.67), 0.67, math.nan)[0] == "inside"  # ours holds theirs
    assert published.verdict(Interval(0.61, 0.56, 0.66), 0.67, math.nan) == ("outside", pytest.approx(-0.06))
    assert published.verdict(Interval(math.inf, math.nan, math.nan), 0.67, math.nan) == ("outside", math.inf)


def test_a_mean_of_single_tasks_is_inside_of_nothing() -> None:
    scores = np.full((2, 3, 600), 0.1)  # steps, seeds, tasks
    scores[1, 0, 0] = 1e9
    cube = Cube(
        *("sinusoid", "K=5", "none", "maml", "m"), Metric("mse", "", "lower", low=0), 4.0, (1, 5), (0, 1, 2),
        tuple(range(600)), (1, 5), scores,
    )  # fmt: skip
    aim, found = Aim.of(ROW, Catalogue()), reproduce.Found([(None, None)], done=100)  # type: ignore[list-item]
    made = [
        reproduce._told(ROW | {"step": step, "value": 0.1, "ci95": math.nan}, aim, found, [cube], None)
        for step in (1, 5)
    ]
    assert made[1]["low"] < 0.1 < made[1]["high"]
    assert "of 1,800 scores 1 are worse than knowing nothing" in made[1]["how"] and "median 0.1:" in made[1]["how"]
    assert not made[0]["how"]


def test_what_is_named_is_chosen_and_a_setting_may_be_short() -> None:
    assert set(selected(["sinusoid"])["algorithm"]) == {"maml", "finetune"}
    [setting] = selected(["omniglot/maml/5w1s"])["setting"].unique()
    assert setting == "5-way 1-shot"
    splits = {"5-way 1-shot", "5-way 1-shot, split of Vinyals"}
    assert set(selected(["omniglot/protonet/5w1s"])["setting"]) == splits
    assert len(selected(["sinusoid", "sinusoid/maml"])) == len(selected(["sinusoid"]))
    refused = bench("reproduce", "omniglot/mmal/5w1s", code=2).output
    assert "unknown published algorithm 'mmal'. Did you mean 'maml'?" in refused


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_what_is_missing_is_run_once_and_stands_beside_what_was_published() -> None:
    assert verdicts() == ["not run"] * 4
    listed = bench("reproduce", *OPTIONS).output
    assert listed.count("not run [") == 3 and not Path("run").exists()  # two values of one row
    assert "not run: up to" not in listed and "bench reproduce sinusoid --dry-run` says how long" in listed
    tried = bench("reproduce", "sinusoid/maml", "--dry-run", *OPTIONS).output
    assert tried.count("not run: up to") == 2 and not Path("run").exists()
    done = bench("reproduce", "sinusoid/maml", *OPTIONS).output
    assert verdicts() == ["inside", "outside", "differs in protocol", "not run"]
    assert "(2 seeds)" in done and "5 [" in done and "a library, primary" in done
    frame = library.reproduce(["sinusoid"], out="run", dry_run=True, threads=1)
    ours = library.load("run")
    own = ours[(ours["setting"] == "K=5") & (ours["step"] == 1)]["value"].mean()
    assert frame["ours"].iloc[0] == pytest.approx(own)
    assert frame["gap"].iloc[0] == pytest.approx(own - 4.0)
    assert frame["seconds"].isna().tolist() == [True, True, True, False]
    again = bench("reproduce", "sinusoid/maml", *OPTIONS, "--csv", "all.csv").output
    assert "finished (" not in again
    assert len(pd.read_csv("all.csv")) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_what_is_committed_counts_and_what_others_began_goes_on() -> None:
    cut: dict[str, Any] = {"preset": "smoke", "threads": 1, "engine": "eager", "seeds": (0,)}
    library.run("sinusoid", "maml[meta_batch=2]", out="theirs", time_limit=0.05, **cut)
    library.export("theirs", to="results")
    assert verdicts()[:2] == ["running", "running"]
    bench("reproduce", "sinusoid/maml", "--out", "run")  # threads and engine as they were begun
    record = next(record for record in reproduce.Store.open(Path("run")).records() if record.spec.seed == 0)
    assert record.pieces > 1
    library.export("run", to="results")
    assert [verdict == "running" for verdict in verdicts()[:2]] == [False, False]
    assert "finished (" not in bench("reproduce", "sinusoid/maml", "--threads", "1", "--out", "another").output


@pytest.mark.usefixtures("few")
def test_a_shorter_run_is_on_its_way() -> None:
    library.run("sinusoid", "maml[meta_batch=2]", out="run", preset="smoke", iterations=20, threads=1, engine="eager")
    found = reproduced(published.values(), Path("run"))
    assert list(found["verdict"][:1]) == ["running"] and list(found["how"][:1]) == ["20 of 100"]


@pytest.mark.usefixtures("few")
def test_what_this_machine_measured_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = reproduce.Asked(threads=1)
    aim = Aim.of(ROW, Catalogue())
    first = Times(asked, Path("run"))(aim, 2, [])
    monkeypatch.setattr(reproduce, "predict", pytest.fail)
    assert Times(asked, Path("run"))(aim, 4, []) == pytest.approx(2 * first)


def test_the_popular_number_says_that_it_is_of_first_order() -> None:
    rows = selected(["cifar_fs/fomaml/5w1s"])
    [view] = views.reproduced(reproduced(rows, Path("nowhere")))
    assert "57.06 ± 3.83 (first order) [1]" in view.markdown()
