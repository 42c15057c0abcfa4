"""Our engine against learn2learn's, second order, in alternation: `tox -e benchmark`."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from algorithms.maml import MAML
from bench.core import seeds
from bench.core.types import Episode, Suite
from bench.engines import learn2learn, vectorised
from suites.glyphs import Glyphs
from suites.sinusoid import Sinusoid

WORK = {
    "sinusoid, 25 tasks, K=10, 1 step": (Sinusoid(), 25, 0.01, True, 40),
    "Omniglot's shape, 5-way 1-shot, 32 tasks, 1 step": (Glyphs(), 32, 2.0, False, 6),
}


def case(suite: Suite, tasks: int) -> tuple[Any, Episode]:
    some = suite.sample(tasks, "train", seeds.generator(0))
    support, query = (suite.collect(some, None, role, 0, seeds.generator(0)) for role in ("support", "query"))
    return suite.new_params(seeds.generator(1)), Episode((support,), query)


@pytest.mark.parametrize("gradient", ["reverse", "first_order"])
@pytest.mark.parametrize("work", WORK)
def test_ours_against_learn2learn(benchmark: Any, work: str, gradient: Any) -> None:
    suite, tasks, rate, compiled, rounds = WORK[work]
    torch.set_num_threads(2)
    algorithm = MAML(inner_lr=rate, steps=1, outer_lr=0.001, meta_batch=tasks, gradient=gradient)
    inputs = case(suite, tasks)
    ours = vectorised.meta_gradient(suite, algorithm, compiled=compiled)
    theirs = learn2learn.meta_gradient(suite, algorithm)
    ratios: list[float] = []

    def pair() -> None:
        mine, reference = seconds(ours, inputs), seconds(theirs, inputs)
        ratios.append(reference / mine)

    benchmark.pedantic(pair, rounds=rounds, warmup_rounds=2)
    ratios = ratios[2:]
    benchmark.extra_info |= {"work": work, "order": gradient, "learn2learn / ours, median": statistics.median(ratios)}
    quartiles = statistics.quantiles(ratios, n=4)
    benchmark.extra_info |= {"learn2learn / ours, quartiles": [quartiles[0], quartiles[2]]}


def seconds(function: Callable[..., Any], inputs: tuple[Any, ...]) -> float:
    began = time.perf_counter()
    function(*inputs)
    return time.perf_counter() - began
