"""What acting costs: 2D navigation in batches against a step at a time, and TRPO against what it is made of."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from algorithms.maml import MAML
from bench.core import seeds
from bench.core.task import SuiteTask
from bench.learning.engines.vectorised import keep_memory, meta_gradient
from bench.learning.outer.trpo import trpo
from bench.learning.rollouts import episode
from bench.reporting import costing
from suites.navigation2d import Navigation2D
from tests.benchmarks.test_speed import report

SUITE = Navigation2D()
LEARNER = MAML(inner_lr=0.5, steps=1, outer_lr=0.001, meta_batch=20)
TASKS = SUITE.sample(20, "train", seeds.generator(0))
ROUNDS = 4
WORK = "navigation2d, 20 tasks x 20 episodes x 100 steps"


@pytest.fixture(scope="module")
def one_by_one() -> Iterator[Callable[[], None]]:
    """Collects the episodes of all tasks in two processes, an environment and a step at a time."""
    with ExitStack() as stack:
        script = [sys.executable, str(Path(__file__).with_name("one_by_one.py"))]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        workers = [
            stack.enter_context(subprocess.Popen([*script, *half], **pipes)) for half in (("0", "10"), ("10", "20"))
        ]

        def loop() -> None:
            for worker in workers:
                worker.stdin.write("go\n")
            assert sum(int(worker.stdout.readline()) for worker in workers) > 30_000

        loop()
        yield loop
        for worker in workers:
            worker.stdin.close()


def meta_iteration() -> Callable[[], None]:
    """Episodes before and after an inner step, the meta-gradient and TRPO's step."""
    meta = LEARNER.init(SuiteTask(SUITE), seeds.generator(1))
    gradient = meta_gradient(SUITE, LEARNER)

    def whole() -> None:
        batch = episode(SUITE, LEARNER, meta, TASKS, (), seeds.generator(2), "cpu")
        trpo(SUITE, LEARNER, meta, gradient(meta, batch)[1], batch)

    return whole


def test_collecting_against_one_environment_at_a_time(benchmark: Any, one_by_one: Callable[[], None]) -> None:
    torch.set_num_threads(2)
    keep_memory()
    meta = LEARNER.init(SuiteTask(SUITE), seeds.generator(1))
    stacked = {name: p.expand(20, *p.shape) for name, p in meta.items()}
    ratios = []

    def round_() -> None:
        ours = costing.timed(lambda: SUITE.collect(TASKS, stacked, "query", 0, seeds.generator(2)))
        ratios.append(costing.timed(one_by_one) / ours)

    benchmark.pedantic(round_, rounds=ROUNDS)
    report(benchmark, f"collection of {WORK}", "an environment at a time, two processes", "≥ 20x", ratios)


def test_a_meta_iteration_against_collecting_one_by_one(benchmark: Any, one_by_one: Callable[[], None]) -> None:
    torch.set_num_threads(2)
    keep_memory()
    whole = meta_iteration()
    ratios = []

    def round_() -> None:
        ours = costing.timed(whole)
        ratios.append((costing.timed(one_by_one) + costing.timed(one_by_one)) / ours)

    benchmark.pedantic(round_, rounds=ROUNDS)
    against = "its two collections alone, an environment at a time, two processes"
    report(benchmark, f"TRPO's meta-iteration, {WORK}", against, "≥ 20x", ratios)


def test_a_meta_iteration_against_its_rollouts_and_one_meta_gradient(benchmark: Any) -> None:
    torch.set_num_threads(2)
    keep_memory()
    meta = LEARNER.init(SuiteTask(SUITE), seeds.generator(1))
    stacked = {name: p.expand(20, *p.shape) for name, p in meta.items()}
    gradient = meta_gradient(SUITE, LEARNER)
    whole = meta_iteration()
    recorded = episode(SUITE, LEARNER, meta, TASKS, (), seeds.generator(2), "cpu")

    def bare() -> None:
        with torch.no_grad():
            for _ in range(2):
                SUITE.rollout(TASKS, stacked, seeds.generator(2))
        gradient(meta, recorded)

    ratios = []
    benchmark.pedantic(lambda: ratios.append(costing.timed(whole) / costing.timed(bare)), rounds=ROUNDS)
    report(benchmark, f"TRPO's meta-iteration, {WORK}", "its rollouts and one meta-gradient", "≤ 10x", ratios)
