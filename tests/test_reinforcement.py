"""`bench run` on suites that are acted in: resumed runs, counted steps, learning, pictures."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import bench
from bench.cells.execute import run_cells
from bench.cells.watch import Silent
from bench.core.errors import BenchError
from bench.core.records import Record
from bench.planning.plan import Request, plan
from bench.reporting.filming import film
from bench.reporting.paths import walks
from bench.storage.store import Store

TINY = "bandit[arms=3,pulls=4,trajectories=4]"
SMALL: dict[str, Any] = {"preset": "smoke", "threads": 1}
ALGORITHMS = "maml,fomaml,metasgd,finetune,scratch,oracle"


def run(out: Path, suite: str, algos: str, **options: Any) -> list[Record]:
    store = Store.create(out)
    cells = plan(Request(suites=suite, algos=algos, **{**SMALL, **options}), store.specs())
    return run_cells(cells, store, Silent(), None, options.get("plugins", ()))


@pytest.mark.slow
def test_more_iterations_go_on_from_the_shorter_run(tmp_path: Path) -> None:
    for outer in ("trpo", "adam"):
        suite = f"bandit[arms=3,pulls=4,trajectories=4,outer={outer}]"
        run(tmp_path / outer / "a", suite, "maml[meta_batch=3]", iterations=2)
        [longer] = run(tmp_path / outer / "a", suite, "maml[meta_batch=3]", iterations=4)
        [whole] = run(tmp_path / outer / "b", suite, "maml[meta_batch=3]", iterations=4)
        assert (longer.pieces, longer.digest) == (2, whole.digest)
        assert longer.environment_steps == whole.environment_steps == 4 * 3 * 2 * 4 * 4  # 3 tasks, 2 roles, 4 episodes


def test_curve_and_scores_count_environment_steps(tmp_path: Path) -> None:
    maml, finetune = run(tmp_path, TINY, "maml[meta_batch=3],finetune[meta_batch=3,inner_lr=1.0]", iterations=2)
    assert maml.environment_steps == finetune.environment_steps  # adaptation episodes count
    store = Store.open(tmp_path)
    curve = store.read_table(maml.cell, "curve.parquet")
    assert curve["environment_steps"].tolist() == [96, 192]
    assert {"return_before", "return_after", "kl", "unstable"} <= set(curve.columns)
    scores = store.read_table(maml.cell, "scores.parquet")
    assert set(scores["metric"]) == {"return", "time-steps"}
    assert set(scores["step"]) == {0, 1, 3} | {2}
    assert set(scores.loc[scores["metric"] == "time-steps", "value"]) == {16}


def test_a_learner_that_watches_step_by_step_is_not_compiled_and_says_why(tmp_path: Path) -> None:
    cells = plan(Request(suites=TINY, algos="maml,rl2", engine="compiled", **SMALL))
    assert [cell.spec.engine for cell in cells] == ["compiled", "eager"]
    with pytest.raises(BenchError, match="learn2learn has no suites whose tasks are acted in"):
        plan(Request(suites=TINY, algos="maml", engine="learn2learn", **SMALL))
    [record] = run(tmp_path, TINY, "rl2[meta_batch=3]", iterations=1, engine="compiled")
    assert record.spec.engine == "eager"
    assert "step by step" in record.why_engine


@pytest.mark.slow
def test_every_algorithm_learns_the_bandit(tmp_path: Path) -> None:
    frame = bench.run("bandit", ALGORITHMS, out=tmp_path, iterations=12, **SMALL)
    mean = frame[frame["metric"] == "return"].groupby(["algorithm", "step"])["value"].mean().unstack()
    optimum, floor = 9.0, 2.6
    assert mean.loc["oracle", 0] > 0.7 * optimum
    for name in ("maml", "fomaml", "metasgd"):
        assert mean.loc[name, 0] < floor + 1.5  # one arm for all tasks
        assert mean.loc[name, 1] > 0.6 * optimum
    assert mean.loc["finetune", 3] > 0.9 * optimum
    assert mean.loc["scratch", 3] > 0.9 * optimum


@pytest.mark.slow
def test_navigation_runs_adapts_and_is_drawn(tmp_path: Path) -> None:
    suite = "navigation2d[trajectories=10]"
    [record] = run(tmp_path, suite, "maml[meta_batch=5]", iterations=3)
    assert record.outcome == "finished"
    scores = Store.open(tmp_path).read_table(record.cell, "scores.parquet")
    means = scores[scores["metric"] == "return"].groupby("step")["value"].mean()
    assert means[3] > means[0]
    _, found = walks(tmp_path, None, None, count=2)
    assert [(walk.task, walk.step) for walk in found] == [(t, k) for k in range(4) for t in range(2)]
    assert all(len(path) <= 100 for walk in found for path in walk.paths)


@pytest.mark.slow
def test_killed_and_resumed_equals_left_alone(tmp_path: Path) -> None:
    def command(out: str) -> list[str]:
        asked = ["--suite", TINY, "--algos", "maml[meta_batch=3]", "--iterations", "40", "--preset", "smoke"]
        return [str(Path(sys.executable).parent / "bench"), "run", *asked, "--threads", "1", "--out", out]

    subprocess.run(command(str(tmp_path / "whole")), check=True, capture_output=True)
    running = subprocess.Popen(
        command(str(tmp_path / "killed")), env={**os.environ, "BENCH_SAVE_EVERY": "0"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not list(tmp_path.glob("killed/cells/*/checkpoint.safetensors")):  # the test's own time limit ends this
        time.sleep(0.01)
    time.sleep(random.Random(os.getpid()).uniform(0, 0.2))
    running.send_signal(signal.SIGKILL)
    running.wait()
    subprocess.run(command(str(tmp_path / "killed")), check=True, capture_output=True)
    [whole], [resumed] = (list(Store.open(tmp_path / name).records()) for name in ("whole", "killed"))
    assert (resumed.digest, resumed.pieces) == (whole.digest, 2)


def test_a_plug_ins_suite_is_drawn_too(tmp_path: Path) -> None:
    source = """from dataclasses import dataclass
from suites.bandit import Bandit

@dataclass(frozen=True, kw_only=True)
class Mine(Bandit):
    def paths(self, tasks, seen):
        return seen.mask[..., 0, :2].float(), seen.mask.unsqueeze(-1).expand(*seen.mask.shape, 2)

    def film(self, episodes, path):
        path.write_text(str(len(episodes)))
"""
    plugin = tmp_path / "mine.py"
    plugin.write_text(source)
    run(tmp_path / "mine", TINY.replace("bandit", "mine"), "maml[meta_batch=3]", iterations=1, plugins=(plugin,))
    run(tmp_path / "bandit", TINY, "maml[meta_batch=3]", iterations=1)
    _, found = walks(tmp_path / "mine", None, None, (plugin,), count=2)
    assert {walk.task for walk in found} == {0, 1}
    film(tmp_path / "mine", None, None, 0, tmp_path / "film.mp4", (plugin,))
    assert (tmp_path / "film.mp4").exists()
    with pytest.raises(BenchError, match=r"has no paths to draw. Suites that have: mine, navigation2d\."):
        walks(tmp_path / "bandit", None, None, (plugin,))
    with pytest.raises(BenchError, match=r"bandit cannot be filmed. Suites that can be: ant_dir, .*, mine\."):
        film(tmp_path / "bandit", None, None, 0, tmp_path / "film.mp4", (plugin,))
