"""What acting costs: 2D navigation in batches against a step at a time, and TRPO against what it is made of."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from algorithms.maml import MAML
from bench.core import seeds
from bench.core.task import SuiteTask
from bench.learning.engines.trust_region import CompiledParts
from bench.learning.engines.vectorised import keep_memory, meta_gradient
from bench.learning.outer.trpo import trpo
from bench.learning.rollouts import episode
from bench.reporting import costing
from suites.bandit import Bandit
from suites.mdp import TabularMDP
from suites.navigation2d import Navigation2D
from tests.benchmarks import maml_rl
from tests.benchmarks.test_speed import in_alternation, report

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


def meta_iteration(compiled: bool = False) -> Callable[[], None]:
    """Episodes before and after an inner step, the meta-gradient and TRPO's step."""
    meta = LEARNER.init(SuiteTask(SUITE), seeds.generator(1))
    gradient = meta_gradient(SUITE, LEARNER, compiled=compiled)
    parts = CompiledParts(SUITE, LEARNER) if compiled else None

    def whole() -> None:
        batch = episode(SUITE, LEARNER, meta, TASKS, (), seeds.generator(2), "cpu")
        trpo(SUITE, LEARNER, meta, gradient(meta, batch)[1], batch, parts)

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
    whole = meta_iteration(compiled=True)
    whole()
    ratios = []

    def round_() -> None:
        ours = costing.timed(whole)
        ratios.append((costing.timed(one_by_one) + costing.timed(one_by_one)) / ours)

    benchmark.pedantic(round_, rounds=ROUNDS)
    against = "its two collections alone, an environment at a time, two processes"
    report(benchmark, f"TRPO's meta-iteration, {WORK} (compiled)", against, "≥ 20x", ratios)


def test_a_meta_iteration_against_pytorch_maml_rl(benchmark: Any) -> None:
    torch.set_num_threads(1)
    keep_memory()
    whole = meta_iteration(compiled=True)
    params = SUITE.new_params(seeds.generator(1))
    layers = [p.requires_grad_() for name, p in params.items() if name != "log_std"]
    weights, goals = [*layers, params["log_std"].requires_grad_()], TASKS.goal.numpy()

    def theirs() -> None:
        start = [w.detach().clone().requires_grad_() for w in weights]
        assert maml_rl.meta_iteration(start, goals) == 1  # as ours, it takes the first size tried

    mine, other = in_alternation(benchmark, whole, theirs, ROUNDS)
    ratios = [b / a for a, b in zip(mine, other, strict=True)]
    work = f"TRPO's meta-iteration, {WORK}, one thread (compiled)"
    report(benchmark, work, "pytorch-maml-rl's, written anew in one process", "≥ 6x", ratios)


@pytest.mark.parametrize("name", ["collection", "meta-gradient", "ten Fisher products"])
def test_where_a_meta_iteration_goes(benchmark: Any, name: str) -> None:
    torch.set_num_threads(1)
    keep_memory()
    meta = LEARNER.init(SuiteTask(SUITE), seeds.generator(1))
    batch = episode(SUITE, LEARNER, meta, TASKS, (), seeds.generator(2), "cpu")
    v = [torch.randn_like(p) for p in meta.values()]
    gradient, product = meta_gradient(SUITE, LEARNER, compiled=True), products(meta, batch)
    part = {
        "collection": lambda: episode(SUITE, LEARNER, meta, TASKS, (), seeds.generator(2), "cpu"),
        "meta-gradient": lambda: gradient(meta, batch),
        "ten Fisher products": lambda: [product(v) for _ in range(10)],
    }[name]
    mine, other = in_alternation(benchmark, part, meta_iteration(compiled=True), ROUNDS)
    shares = [100 * a / b for a, b in zip(mine, other, strict=True)]
    against = f"TRPO's meta-iteration, {WORK}, one thread (compiled)"
    report(benchmark, name, against, "(for comparison)", shares, "%")


def products(meta: Any, batch: Any) -> Callable[[Any], Any]:
    return CompiledParts(SUITE, LEARNER).fisher(meta, batch._replace(query=SUITE.excerpt(batch.query)))


def test_a_fisher_product_against_its_matrix_products(benchmark: Any) -> None:
    torch.set_num_threads(1)
    keep_memory()
    meta = LEARNER.init(SuiteTask(SUITE), seeds.generator(1))
    batch = episode(SUITE, LEARNER, meta, TASKS, (), seeds.generator(2), "cpu")
    product = products(meta, batch)
    v = [torch.randn_like(p) for p in meta.values()]
    support, query, square = torch.randn(2000, 100), torch.randn(500, 100), torch.randn(100, 100)

    def bare() -> None:
        with torch.no_grad():
            for _ in TASKS.goal:
                for _ in range(12):  # two Hessian-vector products, as layer by layer
                    torch.mm(support, square)
                for _ in range(5):
                    torch.mm(query, square)

    mine, other = in_alternation(benchmark, lambda: product(v), bare, 2 * ROUNDS)
    ratios = [a / b for a, b in zip(mine, other, strict=True)]
    against = "the matrix products of two Hessian-vector products, alone"
    report(benchmark, f"Fisher product, {WORK}, one thread (compiled)", against, "≤ 2x", ratios)


@pytest.mark.parametrize("suite", [Navigation2D(), Bandit(), TabularMDP()])
def test_the_environment_alone(benchmark: Any, suite: Any) -> None:
    torch.set_num_threads(1)
    tasks, environment = suite.sample(20, "train", seeds.generator(0)), suite.environment()
    first = environment.reset(tasks, 20, seeds.generator(1))
    noise = suite.policy.noise(1, 20, 20, generator=seeds.generator(1))[0]
    action = suite.policy.sample(torch.zeros(20, 20, suite.outputs), noise)
    rates = []

    def episodes() -> float:
        began = time.process_time()  # of this core alone: others may be at work on the machine
        environment.reset(tasks, 20, seeds.generator(1))
        for _ in range(environment.horizon):
            environment.step(action)
        return time.process_time() - began

    steps = first.shape[0] * first.shape[1] * environment.horizon
    benchmark.pedantic(lambda: rates.append(steps / episodes() / 1e6), rounds=4 * ROUNDS, warmup_rounds=1)
    name = type(suite).__name__.lower()
    work = f"{name}'s environments alone, 20 tasks x 20 episodes"
    report(benchmark, work, "steps in a second of one core", "≥ 5 million", rates[1:], "million")
