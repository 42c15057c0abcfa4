"""TRPO improves what it is told to, within its bound, and leaves alone what it cannot improve."""

from typing import Any

import pytest
import torch

from algorithms.finetune import Finetune
from algorithms.maml import MAML
from algorithms.metasgd import MetaSGD
from bench.core import seeds
from bench.core.task import SuiteTask
from bench.core.trees import tree_map
from bench.core.types import Learner
from bench.learning.engines.vectorised import meta_gradient
from bench.learning.outer.trpo import surrogate, trpo
from bench.learning.rollouts import episode
from suites.bandit import Bandit
from suites.navigation2d import Navigation2D

COMMON: dict[str, Any] = {"outer_lr": 0.01, "meta_batch": 4}
LEARNERS = {
    "maml": MAML(inner_lr=1.0, steps=1, **COMMON),
    "two steps": MAML(inner_lr=1.0, steps=2, **COMMON),
    "mixed": MAML(inner_lr=1.0, steps=1, gradient="mixed", **COMMON),
    "first order": MAML(inner_lr=1.0, steps=1, gradient="first_order", **COMMON),
    "metasgd": MetaSGD(**COMMON),
    "finetune": Finetune(**COMMON),
}


def situation(suite: Any, learner: Learner) -> tuple[Any, Any]:
    meta = learner.init(SuiteTask(suite), seeds.generator(0))
    tasks = suite.sample(4, "train", seeds.generator(1))
    return meta, episode(suite, learner, meta, tasks, (), seeds.generator(2), "cpu")


@pytest.mark.parametrize("name", LEARNERS)
def test_a_step_lowers_the_loss_within_the_bound(name: str) -> None:
    suite, learner = Bandit(trajectories=5), LEARNERS[name]
    meta, recorded = situation(suite, learner)
    _, gradient = meta_gradient(suite, learner)(meta, recorded)
    move = trpo(suite, learner, meta, gradient, recorded)
    (before, none), (after, kl) = (surrogate(suite, learner, m, recorded) for m in (meta, move.meta))
    assert after < before
    assert none.abs() < 1e-6
    assert 0.001 < kl <= suite.kl
    assert move.kl == pytest.approx(kl.item(), abs=1e-6)


def test_nothing_moves_without_a_gradient() -> None:
    suite, learner = Bandit(trajectories=2), LEARNERS["maml"]
    meta, recorded = situation(suite, learner)
    still = trpo(suite, learner, meta, tree_map(torch.zeros_like, meta), recorded)
    broken = trpo(suite, learner, meta, tree_map(lambda x: x * torch.nan, meta), recorded)
    assert still.meta is broken.meta is meta


def test_mixed_and_reverse_take_the_same_step() -> None:
    suite = Navigation2D(trajectories=2)
    meta, recorded = situation(suite, LEARNERS["maml"])
    moves = []
    for name in ("maml", "mixed"):
        _, gradient = meta_gradient(suite, LEARNERS[name])(meta, recorded)
        moves.append(trpo(suite, LEARNERS[name], meta, gradient, recorded))
    for p, q in zip(moves[0].meta.values(), moves[1].meta.values(), strict=True):
        assert torch.allclose(p, q, atol=1e-4)
