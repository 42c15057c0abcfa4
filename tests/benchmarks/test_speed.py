"""The table of speeds in docs/cost.md: every row is measured here, in alternation with what it is compared to.

`tox -e benchmark` runs this and writes that table from it (table.py).
"""

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from algorithms.maml import MAML
from bench.cells.cell import Deadline, _Life
from bench.core import seeds
from bench.core.task import SuiteTask
from bench.core.trees import tree_flatten, tree_unflatten
from bench.core.types import Episode, Learner, Meta, Suite
from bench.learning.batches import BLOCK, episodes
from bench.learning.engines import learn2learn, vectorised
from bench.learning.views import Views
from bench.planning.plan import Request, plan
from bench.reporting import costing
from bench.storage.hold import Hold
from bench.storage.store import Store
from suites.mini_imagenet import MiniImagenet
from suites.omniglot import Omniglot
from suites.sinusoid import Sinusoid

ROUNDS = 7
Rows = dict[str, Any]


@pytest.fixture(autouse=True)
def two_threads() -> None:
    torch.set_num_threads(2)
    vectorised.keep_memory()


def maml(suite: Suite, gradient: Any, steps: int, tasks: int) -> MAML:
    return MAML(
        inner_lr=suite.protocol["inner_lr"].value, steps=steps, outer_lr=0.001, meta_batch=tasks, gradient=gradient
    )


def inputs(suite: Suite, algorithm: Learner) -> tuple[Meta, Episode]:
    meta = algorithm.init(SuiteTask(suite), seeds.generator(1))
    return meta, next(episodes(suite, algorithm, lambda: meta, 0, 0))


def in_alternation(
    benchmark: Any, ours: Callable[[], object], theirs: Callable[[], object], rounds: int = ROUNDS, of: int = 1
) -> tuple[list[float], list[float]]:
    """Seconds of ours and of theirs, round by round; each timing is of `of` calls."""
    mine, other = [], []

    def round_() -> None:
        mine.append(costing.timed(lambda: [ours() for _ in range(of)]))
        other.append(costing.timed(lambda: [theirs() for _ in range(of)]))

    benchmark.pedantic(round_, rounds=rounds, warmup_rounds=1)
    return mine[1:], other[1:]


def report(benchmark: Any, work: str, against: str, goal: str, values: list[float], unit: str = "x") -> None:
    median, low, high = costing.median_interval(values)
    benchmark.extra_info |= {
        "work": work, "against": against, "goal": goal, "median": median, "low": low, "high": high, "unit": unit,
    }  # fmt: skip


WORK = {
    "sinusoid, 25 tasks, K=10, 1 step, 2nd order": (Sinusoid(), 25, 1, "reverse", True, "≥ 25x"),
    "sinusoid, 25 tasks, K=10, 1 step, 1st order": (Sinusoid(), 25, 1, "first_order", True, "≥ 60x"),
    "sinusoid, 25 tasks, K=10, 5 steps, 2nd order": (Sinusoid(), 25, 5, "reverse", True, "≥ 25x"),
    "sinusoid, 25 tasks, K=10, 5 steps, 1st order": (Sinusoid(), 25, 5, "first_order", True, "≥ 60x"),
    "Omniglot 5-way 1-shot, 32 tasks, 1 step, 2nd order": (Omniglot(), 32, 1, "reverse", True, "≥ 4x"),
    "Omniglot 5-way 1-shot, 32 tasks, 1 step, 1st order": (Omniglot(), 32, 1, "first_order", True, "≥ 2.5x"),
    "Omniglot 20-way 1-shot, 16 tasks, 5 steps, 2nd order": (Omniglot(ways=20), 16, 5, "reverse", True, "≥ 4x"),
    "miniImagenet's shape 5-way 1-shot, 4 tasks, 5 steps, 2nd order": (MiniImagenet(), 4, 5, "reverse", True, "≥ 2x"),
}


@pytest.mark.parametrize("work", WORK)
def test_against_learn2learn(benchmark: Any, work: str) -> None:
    suite, tasks, steps, gradient, compiled, goal = WORK[work]
    suite = suite.stand_in()
    algorithm = maml(suite, gradient, steps, tasks)
    meta, batch = inputs(suite, algorithm)
    ours = vectorised.meta_gradient(suite, algorithm, compiled=compiled)
    theirs = learn2learn.meta_gradient(suite, algorithm)
    quick = isinstance(suite, Sinusoid)
    mine, other = in_alternation(
        benchmark, lambda: ours(meta, batch), lambda: theirs(meta, batch), 15 if quick else ROUNDS, 20 if quick else 1
    )
    engine = "compiled" if compiled else "eager"
    ratios = [b / a for a, b in zip(mine, other, strict=True)]
    report(benchmark, f"{work} ({engine})", "learn2learn engine", goal, ratios)


def test_second_order_over_first(benchmark: Any) -> None:
    suite = Omniglot().stand_in()
    second, first = (maml(suite, gradient, 1, 32) for gradient in ("reverse", "first_order"))
    arguments = inputs(suite, second)
    both = [vectorised.meta_gradient(suite, algorithm, compiled=True) for algorithm in (second, first)]
    mine, other = in_alternation(benchmark, *(lambda f=f: f(*arguments) for f in both), rounds=2 * ROUNDS)
    ratios = [a / b for a, b in zip(mine, other, strict=True)]
    report(benchmark, "Omniglot, 1 step, 2nd over 1st order (compiled)", "the paper's 1.33", "≤ 1.8x", ratios)


def test_share_of_the_matrix_product_peak(benchmark: Any) -> None:
    suite = Omniglot().stand_in()
    algorithm = maml(suite, "first_order", 1, 32)
    arguments = inputs(suite, algorithm)
    gradient = vectorised.meta_gradient(suite, algorithm, compiled=True)
    square = torch.ones(costing.SIDE, costing.SIDE)
    mine, other = in_alternation(benchmark, lambda: gradient(*arguments), lambda: square @ square, 2 * ROUNDS)
    flops = costing.reference_flops(suite, algorithm, *arguments)
    shares = [100 * (flops / a) / (2 * costing.SIDE**3 / b) for a, b in zip(mine, other, strict=True)]
    work = f"Omniglot, 1st order, {flops / 1e9:.1f} GFLOP counted on the plain reference (compiled)"
    report(benchmark, work, "float32 matrix product's rate", "≥ 60 %", shares, "%")


@pytest.mark.parametrize("gradient", ["mixed", "reverse"])
def test_memory_of_an_inner_step(benchmark: Any, gradient: str) -> None:
    suite, few, many = Omniglot().stand_in(), 1, 9
    peaks = {}
    for steps in (few, many):
        algorithm = maml(suite, gradient, steps, 32)
        arguments = inputs(suite, algorithm)
        call = vectorised.meta_gradient(suite, algorithm)
        with costing.LiveTensors() as live:
            call(*arguments)
        resident = costing.resident_growth(lambda call=call, arguments=arguments: call(*arguments))
        peaks[steps] = (live.peak, resident or 0)
    benchmark.pedantic(lambda: None)
    copies = 32 * sum(p.numel() * p.element_size() for p in arguments[0].values())
    tensors, resident = ((peaks[many][i] - peaks[few][i]) / (many - few) / copies for i in (0, 1))
    work = f"bytes per inner step, Omniglot, 32 tasks, {gradient}"
    goal = "≤ 2 copies" if gradient == "mixed" else "(for comparison)"
    report(benchmark, work, "one copy of the tasks' parameters", goal, [tensors], f"copies (resident: {resident:.1f})")


@pytest.mark.parametrize(
    "work",
    [
        "sinusoid, 25 tasks, K=10, 1 step, 2nd order",
        "sinusoid, 25 tasks, K=10, 1 step, 1st order",
        "Omniglot 5-way 1-shot, 32 tasks, 1 step, 1st order",
    ],
)
def test_samplers_starve_nothing(benchmark: Any, work: str) -> None:
    suite, tasks, steps, order, *_ = WORK[work]
    seen, algorithm = suite.stand_in(), maml(suite, order, steps, tasks)
    arguments = inputs(seen, algorithm)
    gradient = vectorised.meta_gradient(seen, algorithm, compiled=True)
    gradient(*arguments)
    batches = episodes(seen, algorithm, lambda: arguments[0], 0, 0)
    drawn, computed = in_alternation(benchmark, lambda: next(batches), lambda: gradient(*arguments), of=BLOCK)
    shares = [100 * a / (a + b) for a, b in zip(drawn, computed, strict=True)]
    report(benchmark, f"sampling: {work}", "sampling and meta-gradient (compiled)", "≤ 5 %", shares, "%")


@pytest.mark.parametrize(("suite", "goal", "iterations"), [("omniglot", "≤ 1.03x", 60), ("sinusoid", "≤ 1.15x", 3_000)])
def test_run_against_the_bare_loop(benchmark: Any, suite: str, goal: str, iterations: int, tmp_path: Any) -> None:
    (cell,) = plan(Request(suites=suite, algos="maml", iterations=iterations, engine="compiled", threads=2))
    seen = cell.suite.stand_in()
    store, algorithm = Store.create(tmp_path / "runs"), replace(cell.algorithm)
    arguments = inputs(seen, algorithm)
    bare = vectorised.meta_gradient(seen, algorithm, compiled=True)
    bare(*arguments)
    leaves, spec = tree_flatten(arguments[0])
    adam = torch.optim.Adam(leaves, 0.001, fused=True)

    def loop() -> None:
        for _ in range(iterations):
            _, gradients = bare(tree_unflatten(leaves, spec), arguments[1])
            for leaf, g in zip(leaves, tree_flatten(gradients)[0], strict=True):
                leaf.grad = g
            adam.step()

    class Watch:
        def __getattr__(self, _: str) -> Callable[..., None]:
            return lambda *_: None

    store.folder(cell.id).mkdir(parents=True, exist_ok=True)
    hold = Hold(store.folder(cell.id), "the cell")
    assert hold.take()
    run = _Life(cell, store, hold, Watch(), Deadline())  # type: ignore[arg-type]
    run.protocol.views = Views(seen, seen)
    run.protocol._meta_gradient = lambda *_: bare  # type: ignore[method-assign]

    def train() -> None:
        state = run._state()
        assert run._train(state)
        (store.folder(cell.id) / "checkpoint.safetensors").unlink()

    mine, other = in_alternation(benchmark, train, loop, 3)
    ratios = [a / b for a, b in zip(mine, other, strict=True)]
    assert statistics.median(ratios) > 0.5
    report(benchmark, f"bench run per iteration, {suite}", "bare compiled loop", goal, ratios)
