"""TRPO's parts compiled are those of the eager engine, whatever differentiates the inner step."""

from typing import Any

import pytest
import torch

from algorithms.anil import ANIL
from algorithms.boil import BOIL
from algorithms.maml import MAML
from algorithms.metasgd import MetaSGD
from bench.core import seeds
from bench.core.task import SuiteTask
from bench.core.trees import tree_leaves, tree_map
from bench.core.types import Episode, Learner, Meta
from bench.learning.engines.stages import InStages
from bench.learning.engines.trust_region import CompiledParts
from bench.learning.engines.vectorised import meta_gradient
from bench.learning.outer.trpo import fisher, surrogate, trpo
from bench.learning.rollouts import episode
from suites.bandit import Bandit
from suites.navigation2d import Navigation2D
from suites.parts.policies import Gaussian

COMMON: dict[str, Any] = {"outer_lr": 0.01, "meta_batch": 2}


def recorded(suite: Any, learner: Learner) -> tuple[Meta, Episode]:
    """In float64."""
    meta = learner.init(SuiteTask(suite), seeds.generator(0))
    tasks = suite.sample(2, "train", seeds.generator(1))
    acted = episode(suite, learner, meta, tasks, (), seeds.generator(2), "cpu")
    return tree_map(lambda x: x.double() if x.is_floating_point() else x, (meta, acted))  # type: ignore[no-any-return]


def relative(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    pairs = zip(found, expected, strict=True)
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1e-300)).item() for a, b in pairs)


def test_what_again_has_no_part_in_is_computed_once() -> None:
    def function(again: Any, fixed: Any, _: Any) -> Any:
        x = fixed[0].sin() @ fixed[0].t()
        return [(x @ again[0]).t(), x.sum() + again[0].sum(), x]

    stages = InStages(function)
    again, fixed = [torch.ones(3, 2)], [torch.arange(12.0).view(3, 4)]
    first, rest = stages.stages(again, fixed, (None, None), 1)
    with torch.no_grad():
        kept = list(first(*fixed))
        for scale in (1.0, -2.0):
            values = [scale * again[0]]
            for found, expected in zip(rest(*values, *kept), function(values, fixed, None), strict=True):
                torch.testing.assert_close(found, expected)
    assert [x.shape for x in kept] == [(3, 3), ()] or [x.shape for x in kept] == [(3, 3)]


@pytest.mark.parametrize("by_task", [False, True])
@pytest.mark.parametrize(
    ("suite", "learner"),
    [
        (Navigation2D(trajectories=4, view="oracle"), MAML(inner_lr=0.5, steps=2, **COMMON)),
        (Navigation2D(trajectories=4, estimator="dice"), MAML(inner_lr=0.5, steps=1, gradient="first_order", **COMMON)),
        (Navigation2D(trajectories=4), MetaSGD(**COMMON)),
        (Navigation2D(trajectories=4), ANIL(inner_lr=0.5, steps=1, **COMMON)),
        (Navigation2D(trajectories=4), BOIL(inner_lr=0.5, steps=1, **COMMON)),
    ],
)
def test_products_by_paths_are_those_by_layers(suite: Navigation2D, learner: Learner, by_task: bool) -> None:
    meta, batch = recorded(suite, learner)
    meta = tree_map(lambda x: x + 0.05 * torch.randn_like(x), meta)  # biases that are not 0
    v, seen = [torch.randn_like(x) for x in tree_leaves(meta)], suite.differentiated()
    assert seen.policy.by_paths
    assert not suite.policy.by_paths
    found = fisher(seen, learner, meta, batch, by_task=by_task)(v)
    assert relative(found, fisher(suite, learner, meta, batch)(v)) < 1e-12


@pytest.mark.parametrize("policy", [Gaussian(2, (9, 9), 2, "tanh"), Gaussian(2, (9,), 2), Gaussian(20, (9, 9), 6)])
def test_what_has_no_such_paths_goes_by_layers(policy: Gaussian) -> None:
    assert not policy.differentiated().by_paths


@pytest.mark.forms(1)
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("suite", "learner"),
    [
        (Bandit(trajectories=3, estimator="emaml"), MetaSGD(**COMMON)),
        (Bandit(trajectories=3), MAML(inner_lr=1.0, steps=1, gradient="mixed", **COMMON)),
        (Bandit(trajectories=3, estimator="dice"), MAML(inner_lr=1.0, steps=2, gradient="first_order", **COMMON)),
    ],
)
def test_compiled_parts_are_the_eager_ones(suite: Bandit, learner: Learner) -> None:
    meta, batch = recorded(suite, learner)
    meta = tree_map(lambda x: x + 0.1 * torch.randn_like(x), meta)  # where neither loss nor KL is 0
    parts, v = CompiledParts(suite, learner), [torch.randn_like(x) for x in tree_leaves(meta)]
    assert relative(parts.fisher(meta, batch)(v), fisher(suite, learner, meta, batch)(v)) < 1e-12
    assert relative([*parts.surrogate(meta, batch)], [*surrogate(suite, learner, meta, batch)]) < 1e-12


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_compiled_step_is_the_eager_one_task_by_task() -> None:
    suite, learner = Navigation2D(trajectories=10), MAML(inner_lr=0.5, steps=1, **COMMON)
    meta, batch = recorded(suite, learner)
    _, gradient = meta_gradient(suite, learner)(meta, batch)
    eager, compiled = (trpo(suite, learner, meta, gradient, batch, p) for p in (None, CompiledParts(suite, learner)))
    assert eager.tries == compiled.tries
    assert compiled.kl == pytest.approx(eager.kl, rel=1e-5)
    assert relative(tree_leaves(compiled.meta), tree_leaves(eager.meta)) < 1e-5
    assert relative(tree_leaves(compiled.meta), tree_leaves(meta)) > 0
