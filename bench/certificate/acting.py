"""The certificate of learners that act, on a small bandit: what acted is what learns, and nothing else is remembered.

Letters: T tasks, B episodes, H time-steps, A actions.
"""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from bench.certificate.checks import (
    ORDER,
    TASKS,
    Case,
    Check,
    Make,
    NotApplicable,
    acting_case,
    checked,
    different,
    gap,
    task_of,
)
from bench.core import seeds
from bench.core.task import SuiteTask
from bench.core.trees import tree_leaves, tree_map
from bench.core.types import Episode, Interactive
from bench.learning.engines.vectorised import meta_gradient
from bench.learning.objective import objective, prediction
from bench.learning.rollouts import episode
from suites.parts.control import Trajectories


def acting_checks(make: Make) -> Iterator[Check]:
    """Whether a learner that acts learns from what it did, in its own trials."""
    yield checked("bandit: vmap = loop over tasks", ORDER, lambda: _loop(make))
    yield checked("bandit: predicted of recorded episodes = what acted", 1e-4, lambda: _replayed(make))
    yield checked("bandit: the same tasks met again: other bits", 0, lambda: _again(make))
    yield checked("bandit: another task's support: change of the prediction", 1e-6, lambda: _adapts(make), above=True)
    yield checked("bandit: acted by another policy: change of the loss", 1e-3, lambda: _weighed(make), above=True)
    yield checked("bandit: a trial changed: change of the others' predictions", ORDER, lambda: _overheard(make))
    yield checked(
        "bandit: what a last episode earned: change of the first's credit", 1e-3, lambda: _credited(make), above=True
    )


def _loop(make: Make) -> float:
    case = acting_case(make)
    one, other = (
        meta_gradient(case.bed, case.algorithm, by_task=by_task)(case.meta, case.episodes) for by_task in (False, True)
    )
    return gap(tree_leaves(one), tree_leaves(other))


def _replayed(make: Make) -> float:
    """The largest gap between a recorded behaviour and what the learner, in its state then, predicts there."""
    case, worst = acting_case(make), 0.0
    task = SuiteTask(case.bed)
    for t in range(TASKS):
        recorded = task_of(case.episodes, t)
        state = case.algorithm.start(case.meta, recorded.noise)
        for k, data in enumerate((*recorded.support, recorded.query)):
            acted, predicted = task.acted(data), case.algorithm.predict(case.meta, state, task, data)
            gaps = (acted.behaviour - cast(Tensor, predicted)).abs().amax(-1) * acted.mask
            worst = max(worst, gaps.max().item())
            if k < len(recorded.support):
                state = case.algorithm.step(case.meta, state, task, data, k)
    return worst


def _again(make: Make) -> float:
    case = acting_case(make)
    meta, noise = (
        tree_map(lambda x: x.float() if x.is_floating_point() else x, tree) for tree in (case.meta, case.episodes.noise)
    )

    def met() -> Episode:
        suite, generator = cast(Interactive, case.bed), seeds.generator("certify", "collect")
        return episode(suite, case.algorithm, meta, case.tasks, noise, generator, "cpu")

    return different(met(), met())


def _support_case(make: Make) -> Case:
    case = acting_case(make)
    if not case.algorithm.steps:
        raise NotApplicable("it takes no inner step")
    return case


def _predictions(case: Case, episodes: Episode) -> Tensor:
    predict = prediction(cast(Interactive, case.bed), case.algorithm)
    with torch.no_grad():
        return torch.stack([predict(case.meta, task_of(episodes, t)) for t in range(TASKS)])


def _adapts(make: Make) -> float:
    case = _support_case(make)
    other = case.episodes._replace(support=tree_map(lambda x: x.roll(1, 0), case.episodes.support))
    return gap([_predictions(case, other)], [_predictions(case, case.episodes)])


def _loss(case: Case, episodes: Episode) -> Tensor:
    loss = objective(case.bed, case.algorithm)
    return torch.stack([loss(case.meta, task_of(episodes, t)) for t in range(TASKS)]).mean()


def _weighed(make: Make) -> float:
    case = acting_case(make)
    query = case.episodes.query
    blank = query._replace(advantages=torch.zeros_like(query.advantages), rewards=torch.zeros_like(query.rewards))
    with torch.no_grad():
        if torch.equal(_loss(case, case.episodes._replace(query=blank)), _loss(case, case.episodes)):
            raise NotApplicable("its meta-loss does not judge the query")
    behaviour = query.behaviour
    moved = torch.randn(behaviour.shape, generator=seeds.generator("certify", "behaviour"), dtype=behaviour.dtype)
    other = case.episodes._replace(query=query._replace(behaviour=behaviour + moved))
    with torch.no_grad():
        return (_loss(case, other) - _loss(case, case.episodes)).abs().item()


def _memory_case(make: Make) -> Case:
    case = acting_case(make)
    if not case.algorithm.remembers:
        raise NotApplicable("it has no memory of its own")
    return case


def _overheard(make: Make) -> float:
    case = _memory_case(make)

    def turned(data: Trajectories) -> Trajectories:
        actions, rewards = data.actions.clone(), data.rewards.clone()
        actions[:, 0], rewards[:, 0] = (actions[:, 0] + 1) % cast(Tensor, data.explored).shape[-1], 1 - rewards[:, 0]
        return data._replace(actions=actions, rewards=rewards)

    changed = case.episodes._replace(support=tuple(turned(data) for data in case.episodes.support))
    before, after = (_predictions(case, episodes)[:, 1:] for episodes in (case.episodes, changed))
    return gap([after], [before])


def _credited(make: Make) -> float:
    """By how much the first episode's share of the gradient changes with the rewards of the last."""
    case = _memory_case(make)
    first, *others = case.episodes.support
    query = case.episodes.query
    draw = torch.rand(query.rewards.shape, generator=seeds.generator("certify", "rewards"), dtype=query.rewards.dtype)
    turned = query._replace(rewards=draw)

    def share(last: Trajectories) -> Tensor:
        behaviour = first.explored.detach().requires_grad_()
        loss = _loss(case, case.episodes._replace(support=(first._replace(explored=behaviour), *others), query=last))
        (slope,) = torch.autograd.grad(loss, behaviour, allow_unused=True, materialize_grads=True)
        return cast(Tensor, slope)

    one, other = share(query), share(turned)
    return gap([other], [one]) if one.any() else 0.0
