"""The library: what is called leaves the process that calls it as it was."""

import html
import logging
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import bench
from bench.api import load, run
from bench.cells.watch import Silent
from bench.cli import main
from bench.core.errors import BenchError
from bench.planning.forecast import predict
from bench.planning.plan import Request, plan
from bench.reporting.costing import cost
from bench.reporting.filming import film
from bench.storage.store import Store
from bench.tuning.settings import Settings
from bench.tuning.sweep import sweeps, tune

SMALL: dict[str, Any] = {"preset": "smoke", "iterations": 3}
TRIAL: dict[str, Any] = {"preset": "smoke", "trial_iterations": 2, "threads": 1}
ASKED = Request(suites="sinusoid", algos="maml[meta_batch=2]", engine="eager", threads=1, **SMALL)


def surroundings() -> dict[str, Any]:
    """What a process has but one of."""
    loggers = [logging.getLogger(), *(x for x in logging.root.manager.loggerDict.values() if hasattr(x, "level"))]
    return {
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "generator": torch.random.get_rng_state().sum().item(),
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "verbosity": optuna.logging.get_verbosity(),
        "warnings": list(warnings.filters),
        "path": list(sys.path),
        "loggers": {x.name: (x.level, list(x.handlers), x.propagate, x.disabled) for x in loggers},
    }


def refused_film(out: Path) -> None:
    with pytest.raises(BenchError, match="cannot be filmed"):
        film(out, None, None, 0, out / "film.mp4")


CALLS: dict[str, Callable[[Path], object]] = {
    "run": lambda out: run("sinusoid", "maml", out=out, threads=1, engine="eager", **SMALL),
    "run, engine open": lambda out: run("sinusoid", "maml", out=out, threads=1, **SMALL),
    "run in processes": lambda out: run("sinusoid", "maml", out=out, workers=1, engine="eager", **SMALL),
    "cost": lambda _: cost("sinusoid", "maml", steps=(1,), tasks=(2,), threads=1),
    "load and model": lambda out: load(out).model(load(out)["cell"][0]),
    "load and learner": lambda out: load(out).learner(load(out)["cell"][0]).adapt(([[0.0]], [[1.0]]))([[2.0]]),
    "forecast": lambda out: list(predict(plan(ASKED), out / "none")),
    "sweep": lambda out: tune(sweeps(ASKED, Settings(trials=1)), out / "tuned", Silent()),
    "tune": lambda out: bench.tune(
        "sinusoid", "maml", out=out, trials=1, trial_iterations=1, threads=1, preset="smoke"
    ),
    "report": lambda out: bench.report(out, out=out / "report"),
    "audit": lambda out: bench.audit(out),
    "score": lambda out: bench.score(out, "sinusoid_freq"),
    "merge": lambda out: bench.merge([out], into=out.parent / "merged"),
    "film": refused_film,
    "the command": lambda out: CliRunner().invoke(main, ["data", "fetch", "sinusoid", "--data-dir", str(out)]),
}


LONG = ("run in processes", "cost", "tune", "run, engine open", "forecast", "film")


@pytest.mark.parametrize("name", [pytest.param(c, marks=pytest.mark.slow if c in LONG else ()) for c in CALLS])
def test_a_call_leaves_the_process_as_it_was(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.reporting.costing.LONG_ENOUGH", 0.0)
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path / "cache"))  # nothing is known of engines
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    CALLS["run"](tmp_path)  # what others load lazily is loaded
    torch.set_num_threads(2)
    try:
        before = surroundings()
        CALLS[name](tmp_path)
        after = surroundings()
    finally:
        torch.set_num_threads(1)
    loggers = after.pop("loggers")
    assert {key: value for key, value in loggers.items() if key in before["loggers"]} == before.pop("loggers")
    assert after == before


def said(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code in (0, 1, 3), result.output
    return result.output


def test_every_command_that_makes_or_reads_a_run_directory_has_its_namesake_in_python() -> None:
    names = ("run", "tune", "score", "report", "audit", "merge", "predict", "cost", "export", "import", "reproduce")
    for name in names:
        assert name in main.commands
        assert callable(getattr(bench, {"import": "import_"}.get(name, name)))
    with pytest.raises(AttributeError, match="no attribute 'meerge'"):
        bench.meerge  # noqa: B018


@pytest.mark.slow
def test_tune_report_audit_and_merge_are_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trials = bench.tune("sinusoid", ["maml[meta_batch=2]"], out="a", trials=2, **TRIAL)
    assert list(trials["outcome"]) == ["finished"] * 2
    again = said(
        *("tune", "--suite", "sinusoid", "--algos", "maml[meta_batch=2]", "--trials", "2", "--trial-iterations", "2"),
        *("--threads", "1", "--preset", "smoke", "--out", "a"),
    )
    assert len(list(Path("a/tuning").glob("*/sweep.json"))) == 1
    assert f"{trials['best'].iloc[-1]:.4g}"[:4] in again
    run("sinusoid", "maml[meta_batch=2]", out="a", tuned=True, threads=1, engine="eager", **SMALL)
    run("sinusoid", "fomaml[meta_batch=2]", out="b", threads=1, engine="eager", seeds=2, **SMALL)
    merged = bench.merge(["a", "b"])
    assert list(merged["what"]) == ["copied", "copied"]
    assert "2 already there" in said("merge", "a", "b")
    found = bench.audit("a")
    assert not found.sound
    output = " ".join(said("audit", "a").split())
    assert all(finding.what in output for finding in found.findings)
    page = bench.report("a", out=tmp_path / "page")
    before = page.read_bytes()
    said("report", "a", "--out", str(tmp_path / "other"))
    assert (tmp_path / "other" / "index.html").read_bytes() == before
    assert bench.report("a", compare="b", out=tmp_path / "both").exists()
    for call in (bench.report, bench.audit, bench.load, lambda path: bench.merge([path, "a"])):
        with pytest.raises(BenchError, match="is no run directory"):
            call("nowhere")


@pytest.mark.slow
def test_a_sweep_alone_has_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bench.tune("sinusoid", "maml[meta_batch=2],scratch", out="a", trials=3, **TRIAL)
    output = said("report", "a")
    assert "chosen" in output and "written to a/report/index.html" in output
    text = Path("a/report/index.html").read_text()
    for fact in (
        "6 trials of 2 sweeps",
        "What the sweeps chose",
        "All trials",
        "every comparison stands",
        "torch_build",
    ):
        assert fact in text
    assert len(pd.read_csv("a/report/data/trials.csv")) == 6
    assert {path.name for path in Path("a/report/figures").glob("*.png")} == {"budget.png", "tuning.png"}
    commands = re.findall(r"bench tune .*$", html.unescape(text), re.MULTILINE)
    assert len(commands) == 2
    before = len(list(Path("a/tuning/cells").iterdir()))
    said(*shlex.split(commands[0])[1:], "--threads", "1")
    assert len(list(Path("a/tuning/cells").iterdir())) == before
    bench.tune("sinusoid", "fomaml[meta_batch=2]", out="a", trials=1, **TRIAL)
    bench.report("a")
    assert "tuning budgets differ" in Path("a/report/index.html").read_text()
    with pytest.raises(BenchError, match="nothing to report on"):
        bench.report(Store.create(Path("empty")).root)
