"""`bench cost` finds what was planted: a slow-down, memory, FLOPs."""

import json
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import bench
from algorithms.maml import MAML
from bench.cli import main
from bench.core import seeds
from bench.core.errors import BenchError
from bench.core.task import SuiteTask
from bench.core.trees import tree_map
from bench.learning.batches import episodes
from bench.reporting import costing
from reports import cost as report
from suites.omniglot import Omniglot

SMALL = {"steps": (1,), "tasks": (2, 4)}


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costing, "LONG_ENOUGH", 0.0)
    monkeypatch.setattr(costing, "SIDE", 256)


def test_a_planted_slow_down_is_found() -> None:
    def plain() -> None:
        time.sleep(0.01)

    def slow() -> None:
        time.sleep(0.02)  # asleep, since a busy machine takes the time of computing from either at will

    seconds = costing.measure({"plain": plain, "slow": slow})
    median, low, high = costing.median_interval((seconds["slow"] / seconds["plain"]).tolist())
    assert low <= median <= high
    assert 1.3 < median < 3.1


def test_resident_growth_sees_what_a_call_allocates() -> None:
    size = 200 * 2**20
    grown = costing.resident_growth(lambda: torch.ones(size // 4))
    assert grown is not None
    assert 0.9 * size < grown < 1.3 * size


def test_live_tensors_counts_what_is_alive_at_once() -> None:
    mebi = 2**20 // 4
    with costing.LiveTensors() as live:
        for _ in range(5):  # freed each time
            torch.ones(mebi)
        kept = [torch.ones(mebi) for _ in range(3)]
        kept[0].view(2, -1).add_(1)  # a view is no new memory
    assert live.peak == pytest.approx(3 * 2**20, rel=0.01)
    kept.clear()
    assert live.now == pytest.approx(0, abs=1024)


def test_flops_are_those_of_the_plain_algorithm() -> None:
    suite = Omniglot().stand_in()
    algorithm = MAML(inner_lr=2.0, steps=1, outer_lr=0.001, meta_batch=32, gradient="first_order")
    meta = algorithm.init(SuiteTask(suite), seeds.generator(0))
    batch = next(episodes(suite, algorithm, lambda: meta, 0, 0))
    found = costing.reference_flops(suite, algorithm, meta, batch)
    # By hand: four convolutions of output side 14, 7, 4, 2, forward and twice backward, support and query; the first
    # layer's images need no gradient, and the linear head is small.
    images, taps = 32 * 5 * 2, 9 * 64 * 2
    forward = [images * side**2 * channels * taps for side, channels in ((14, 1), (7, 64), (4, 64), (2, 64))]
    assert found == pytest.approx(3 * sum(forward) - forward[0], rel=0.01)


def test_flops_of_adapting_are_those_of_one_task_without_a_meta_gradient() -> None:
    suite = Omniglot().stand_in()
    algorithm = MAML(inner_lr=2.0, steps=1, outer_lr=0.001, meta_batch=32)
    found = costing.Adapting.of(suite, algorithm, 3)
    # By hand, as above: three steps forward and twice backward on five images, then forward on all that the query is
    # normalised with.
    taps = 9 * 64 * 2
    forward = [side**2 * channels * taps for side, channels in ((14, 1), (7, 64), (4, 64), (2, 64))]
    steps = 3 * 5 * (3 * sum(forward) - forward[0])
    assert found.steps == 3
    assert found.flops() == pytest.approx(steps + 5 * sum(forward), rel=0.01)


def test_adapting_predicts_for_all_tasks_what_each_alone_gets() -> None:
    suite = Omniglot().stand_in()
    found = costing.Adapting.of(suite, MAML(inner_lr=2.0, steps=1, outer_lr=0.001, meta_batch=32), 3)
    one = found._replace(tasks=tree_map(lambda x: x[2:], found.tasks))
    assert torch.allclose(found()[2], one()[0], atol=1e-4)


@pytest.mark.slow
def test_every_operator_is_measured_and_held_to_first_order() -> None:
    frame = bench.cost("sinusoid", "maml,fomaml", **SMALL)
    assert len(frame) == 2 * (3 + 1)
    assert (frame["low"] <= frame["seconds"]).all()
    second = frame[frame["gradient"] != "first_order"]
    assert second["over_first"].notna().all()
    assert frame[frame["gradient"] == "first_order"]["over_first"].isna().all()
    assert (frame["gflop"] > 0).all()
    assert (frame["live_bytes"] > 0).all()
    flops = frame.set_index(["algorithm", "gradient", "steps", "tasks"])["gflop"]
    assert flops["maml", "reverse", 1, 2] == flops["maml", "mixed", 1, 2] > flops["fomaml", "first_order", 1, 2]
    assert flops["maml", "reverse", 1, 4] == pytest.approx(2 * flops["maml", "reverse", 1, 2])
    assert (frame["test_steps"] == 10).all()
    assert (frame["test_low"] <= frame["test_seconds"]).all()
    assert (frame["test_gflop"] == frame["test_gflop"].iloc[0]).all()  # one task, whatever the operator
    assert list(report.adapting(frame)["tasks"]) == ["2", "2", "4", "4"]


@pytest.mark.slow
def test_where_is_acted_only_the_meta_iteration_is_measured() -> None:
    frame = bench.cost("bandit", "fomaml[meta_batch=2]", steps=(1,), tasks=(2,))
    assert frame["test_seconds"].isna().all()
    assert not len(report.adapting(frame))


def test_the_growth_of_a_known_law_is_recovered() -> None:
    rows = [
        {"suite": "s", "algorithm": "a", "gradient": "reverse", "engine": "eager", "steps": k, "tasks": t,
         "seconds": 0.002 + 0.004 * k + 0.001 * t + 0.003 * t * k}
        for k in (1, 5, 10) for t in (4, 16)
    ]  # fmt: skip
    (row,) = report.growth(pd.DataFrame(rows)).to_dict("records")
    assert [row[name] for name in report.GROWTH] == ["2", "4", "1", "3"]
    assert row["worst error"] == "0 %"


@pytest.mark.slow
def test_the_command_prints_draws_and_writes(tmp_path: Path) -> None:
    arguments = ["cost", "--suite", "sinusoid", "--algos", "maml", "--out", str(tmp_path)]
    result = CliRunner().invoke(main, [*arguments, "--steps", "1,2", "--tasks", "2"])
    assert result.exit_code == 0, result.output
    assert "x first order" in result.output
    assert "MFLOP/task" in result.output
    assert (tmp_path / "steps.png").stat().st_size > 10_000
    result = CliRunner().invoke(main, [*arguments, "--steps", "1,2", "--tasks", "2,4", "--json"])
    assert len(json.loads(result.stdout)["tables"][0]["rows"]) == 2 * 2 * 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--suite sinusoid --algos maml --steps 0", "'0'"),
        ("--suite sinusoid --algos maml --tasks many", "1,5,10"),
        ("--suite sinusoid --algos scratch", "does not train"),
        ("--suite sinusoid --algos maml --engines egaer", "eager"),
        ("--suite sinusoid --algos maml --runs nowhere", "no run directory"),
    ],
)
def test_bad_input_is_told(arguments: str, said: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["cost", *arguments.split(), "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert said in result.output


def test_from_python_an_empty_list_is_refused() -> None:
    with pytest.raises(BenchError, match="steps="):
        bench.cost("sinusoid", "maml", steps=())
