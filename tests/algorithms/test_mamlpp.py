"""MAML++: with all of its parts off it is MAML; each part does what its formula says."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from algorithms.maml import MAML
from algorithms.mamlpp import MAMLPlusPlus
from bench.certificate.beds import Curved, Labels
from bench.certificate.checks import Case, case_of, double, task_of
from bench.core import seeds
from bench.core.outer import Adam
from bench.core.task import SuiteTask
from bench.core.trees import tree_leaves
from bench.learning.batches import episodes
from bench.learning.engines.vectorised import meta_gradient
from suites.sinusoid import Sinusoid

COMMON: dict[str, Any] = {"inner_lr": 0.1, "steps": 3, "outer_lr": 0.01, "meta_batch": 4}
OFF: dict[str, Any] = {"multi_step_until": 0, "learned_rates": False, "norm_per_step": False}


def case(**changes: Any) -> Case:
    return case_of(lambda bed: MAMLPlusPlus(**COMMON | changes), Labels())


def test_with_every_part_off_it_is_maml_to_the_bit() -> None:
    suite = Sinusoid()
    ours, theirs = MAMLPlusPlus(**COMMON, **OFF), MAML(**COMMON)
    metas = [learner.init(SuiteTask(suite), seeds.generator(0)) for learner in (ours, theirs)]
    batch = next(episodes(suite, ours, lambda: metas[0], 0, 0))
    (loss, gradient), (same, alike) = (
        meta_gradient(suite, learner)(meta, batch) for learner, meta in zip((ours, theirs), metas, strict=True)
    )
    assert torch.equal(loss, same)
    assert all(torch.equal(a, b) for a, b in zip(tree_leaves(gradient), tree_leaves(alike), strict=True))


@pytest.mark.parametrize("iteration", [0, 3, 9, 10])
def test_the_steps_losses_are_weighed_by_the_authors_formula(iteration: int) -> None:
    bed, learner, meta, batch, _ = case(multi_step_until=10)
    task, episode = SuiteTask(bed), task_of(batch, 0)._replace(iteration=torch.tensor(iteration))
    state, losses = learner.start(meta, ()), list[Tensor]()
    for k, data in enumerate(episode.support):
        state = learner.step(meta, state, task, data, k)
        losses.append(task.loss(state, episode.query))
    share = iteration / 10
    other = max(1 / 3 - share / 3, 0.03 / 3)
    last = min(1 / 3 + share * 2 / 3, 1 - 2 * 0.03 / 3)
    expected = other * (losses[0] + losses[1]) + last * losses[2]
    torch.testing.assert_close(learner.meta_loss(meta, task, episode), expected, rtol=1e-6, atol=0)
    only = learner.at(10).meta_loss(meta, task, episode)
    torch.testing.assert_close(only, losses[2])


def test_each_step_has_rates_and_shifts_of_its_own_and_the_last_go_on() -> None:
    bed, learner, meta, batch, _ = case()
    assert {tuple(rate.shape) for rate in meta["rates"].values()} == {(3,)}
    assert set(meta["shifts"]) == {"norms.0.shift"}
    meta = double(meta)
    for k in range(3):
        meta["shifts"]["norms.0.shift"][k] = k
        for rate in meta["rates"].values():
            rate[k] = 0.1 * (k + 1)
    task, data = SuiteTask(bed), task_of(batch, 0).support[0]
    begun = learner.start(meta, ())
    for k, index in ((0, 0), (1, 1), (2, 2), (7, 2)):
        shifted = {**begun, "norms.0.shift": torch.full((8,), float(index), dtype=torch.float64)}
        slopes = torch.func.grad(lambda p: task.loss(p, data))(shifted)
        expected = {n: p - 0.1 * (index + 1) * slopes[n] * (n != "norms.0.shift") for n, p in shifted.items()}
        found = learner.step(meta, begun, task, data, k)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value)


def test_the_order_and_the_losses_change_once_each() -> None:
    learner = MAMLPlusPlus(**COMMON, second_from=5, multi_step_until=10)
    seen = [(learner.at(i).gradient, learner.at(i).multi_step_until) for i in range(12)]
    assert seen == [("first_order", 10)] * 5 + [("reverse", 10)] * 5 + [("reverse", 0)] * 2


def test_its_outer_rate_may_fall_along_a_cosine() -> None:
    learner = MAMLPlusPlus(**COMMON)
    assert learner.outer == Adam(0.01)
    falling = replace(learner, cosine=0.1).outer.over(100)
    assert [falling.rate_at(i) for i in (0, 50, 100)] == pytest.approx([0.01, 0.0055, 0.001])


def test_one_step_has_one_loss() -> None:
    bed, learner, meta, batch, _ = case_of(lambda bed: MAMLPlusPlus(**COMMON | {"steps": 1}), Curved())
    episode = task_of(batch, 0)._replace(iteration=torch.tensor(3))
    task = SuiteTask(bed)
    once = learner.step(meta, learner.start(meta, ()), task, episode.support[0], 0)
    torch.testing.assert_close(learner.meta_loss(meta, task, episode), task.loss(once, episode.query))
