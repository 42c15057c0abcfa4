"""Learners of every kind run as plug-in files: trained, resumed, tuned, reported, told what they do not suit."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

import bench
from bench.cli import main
from bench.core.errors import BenchError
from tests.conftest import ROOT, SMALL

PROBES = {
    "prototypes": "glyphs[net=fc]",
    "annealed": "sinusoid",
    "signmaml": "sinusoid",
}


def file_of(name: str) -> Path:
    folder = ROOT / "examples" if name == "signmaml" else ROOT / "tests" / "probes"
    return folder / f"{name}.py"


def run(name: str, out: Path, **options: Any) -> Any:
    fixed = {"preset": "smoke", "threads": 1, "engine": "eager", "plugins": [file_of(name)], "out": out}
    return bench.run(PROBES[name], f"{name}[meta_batch=4]", **fixed | {"iterations": 5} | options)


def digests(scores: Any) -> set[str]:
    return {record.digest for record in scores.store.records() if record.spec.iterations == 70}


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_is_a_plug_in_of_at_most_sixty_lines_that_trains(name: str, tmp_path: Path) -> None:
    assert len(file_of(name).read_text().splitlines()) <= 60
    scores = run(name, tmp_path)
    assert scores["value"].notna().all()
    assert set(scores["algorithm"]) == {f"{name}[meta_batch=4]"}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBES)
def test_a_probe_cut_at_thirty_iterations_ends_with_the_digest_of_one_that_was_not(name: str, tmp_path: Path) -> None:
    run(name, tmp_path / "cut", iterations=30)
    assert digests(run(name, tmp_path / "cut", iterations=70)) == digests(run(name, tmp_path / "whole", iterations=70))


@pytest.mark.forms(2)
@pytest.mark.slow
@pytest.mark.parametrize("name", PROBES)
def test_a_probe_is_tuned_and_reported(name: str, tmp_path: Path) -> None:
    common = [
        "--plugin",
        str(file_of(name)),
        "--suite",
        PROBES[name],
        "--algos",
        f"{name}[meta_batch=4]",
        "--out",
        str(tmp_path / "run"),
    ]
    tuned = [*SMALL[:2], "--trials", "2", "--trial-iterations", "2", "--preset", "smoke"]
    for command in (["tune", *common, *tuned], ["run", *common, *SMALL, "--tuned"]):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
    result = CliRunner().invoke(main, ["report", str(tmp_path / "run"), "--plugin", str(file_of(name))])
    assert result.exit_code == 0, result.output
    assert f"{name}" in (tmp_path / "run" / "report" / "index.html").read_text()


def scores_of(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    return frame[frame["metric"] == metric]


def test_who_says_how_sure_it_is_is_scored_by_its_density(tmp_path: Path) -> None:
    scores = bench.run("sinusoid", "ensemble", preset="smoke", iterations=2, threads=1, engine="eager", out=tmp_path)
    assert len(scores_of(scores, "nll")) == len(scores_of(scores, "mse")) > 0


def test_who_does_not_say_how_sure_it_is_has_no_density(tmp_path: Path) -> None:
    assert set(bench.run("sinusoid", "maml", preset="smoke", iterations=2, threads=1, out=tmp_path)["metric"]) == {
        "mse"
    }


@pytest.mark.parametrize(("name", "suite"), [("prototypes", "sinusoid")])
def test_what_a_method_does_not_suit_is_refused_with_what_it_can_meet(name: str, suite: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=PROBES[name].partition("[")[0]):
        bench.run(suite, name, preset="smoke", plugins=[file_of(name)], out=tmp_path, threads=1)
