"""The library: what is called leaves the process that calls it as it was."""

import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from click.testing import CliRunner

from bench.api import load, run
from bench.cells.watch import Silent
from bench.cli import main
from bench.core.errors import BenchError
from bench.planning.forecast import predict
from bench.planning.plan import Request, plan
from bench.reporting.costing import cost
from bench.reporting.filming import film
from bench.tuning.sweep import Settings, sweeps, tune

SMALL: dict[str, Any] = {"preset": "smoke", "iterations": 3}
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
    "forecast": lambda out: list(predict(plan(ASKED), out / "none")),
    "tune": lambda out: tune(sweeps(ASKED, Settings(trials=1)), out / "tuned", Silent()),
    "film": refused_film,
    "the command": lambda out: CliRunner().invoke(main, ["data", "fetch", "sinusoid", "--data-dir", str(out)]),
}


LONG = ("run in processes", "cost", "tune")


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
