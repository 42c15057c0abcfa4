"""Learners that act: ProMP's surrogates, RL²'s memory, and the faults that the certificate finds in such."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from algorithms.maml import MAML
from algorithms.parts.acting import clipped, of_trials
from algorithms.promp import ProMP
from algorithms.rl2 import RL2
from bench.certificate.acting import acting_checks
from bench.certificate.checks import Case, acting_case, gap, task_of
from bench.core import seeds
from bench.core.outer import Adam, Proximal
from bench.core.task import SuiteTask
from bench.core.trees import tree_leaves
from bench.core.types import Acted, Data, Episode, Meta, State, Task
from bench.learning.batches import episodes
from bench.learning.engines.vectorised import meta_gradient
from bench.learning.evaluate import trace
from bench.learning.objective import objective
from bench.learning.outer.descent import Descent
from bench.learning.outer.trpo import TRPO, outer_of
from bench.learning.train import Gradients, Validation, train
from bench.learning.training import Training
from suites.bandit import Bandit
from suites.navigation2d import Navigation2D

COMMON: dict[str, Any] = {"steps": 2, "outer_lr": 0.01, "meta_batch": 4}
LITTLE = COMMON | {"steps": 1}


def promp(_: Any = None, **changes: Any) -> ProMP:
    return ProMP(**COMMON | {"inner_lr": 1.0} | changes)


def rl2(_: Any = None, **changes: Any) -> RL2:
    return RL2(**COMMON | {"width": 8} | changes)


def gradient_of(case: Case) -> list[Tensor]:
    return tree_leaves(meta_gradient(case.bed, case.algorithm)(case.meta, case.episodes)[1])


def test_where_the_batch_was_acted_promp_has_the_gradient_of_maml_with_the_lvc_estimator() -> None:
    kinds = (
        acting_case(lambda _: promp(penalty=0.0)),
        acting_case(lambda _: MAML(**COMMON, inner_lr=1.0), estimator="lvc"),
    )
    assert gap(*map(gradient_of, kinds)) < 1e-6  # acted in float32


def test_the_estimator_of_the_suite_is_nothing_to_promp() -> None:
    assert gap(*(gradient_of(acting_case(promp, estimator=name)) for name in ("maml", "dice"))) == 0


def test_promp_pays_for_how_far_the_unadapted_policies_have_strayed_from_those_that_acted() -> None:
    case, dear = acting_case(lambda _: promp(penalty=0.0, steps=1)), promp(penalty=2.0, steps=1)
    moved = {name: p + 0.3 * torch.ones_like(p).cumsum(0) for name, p in case.meta.items()}
    recorded, task = task_of(case.episodes, 0), SuiteTask(case.bed)
    free, paid = (objective(case.bed, a)(moved, recorded) for a in (case.algorithm, dear))
    data = recorded.support[0]
    old, new = (x.log_softmax(-1) for x in (data.explored, case.bed.predict(moved, data)))
    kl = (old.exp() * (old - new)).sum(-1).mean()
    assert kl > 0.001
    torch.testing.assert_close(paid - free, 2 * kl)
    assert task.divergence(data.explored, data) == 0


def test_a_ratio_beyond_the_bound_gains_nothing_more() -> None:
    r = torch.tensor([0.5, 0.5, 1.1, 1.5, 1.5], requires_grad=True)
    gains = clipped(r, torch.tensor([1.0, -1.0, 2.0, 1.0, -1.0]), 0.2)
    torch.testing.assert_close(gains, torch.tensor([0.5, -0.8, 2.2, 1.2, -1.5]))
    (slope,) = torch.autograd.grad(gains.sum(), r)
    assert slope.tolist() == [1, 0, 2, 0, -1]


def test_epochs_are_steps_along_the_gradient_where_meta_is_by_then() -> None:
    def descended(times: int, outer: Any) -> Tensor:
        x = {"x": torch.tensor([3.0])}
        rule = Descent(outer, x, [])
        for i in range(times):
            rule.update({"x": 2 * x["x"]}, Episode((), ()), i, lambda: (torch.zeros(()), {"x": 2 * x["x"]}))
        return x["x"]

    assert torch.equal(descended(2, Proximal(0.1, epochs=3)), descended(6, Adam(0.1)))


def test_a_learner_whose_outer_rule_is_its_own_keeps_it_where_the_suite_has_trpo() -> None:
    assert outer_of(Bandit(), promp(), 10) == Proximal(0.01, epochs=5)
    assert isinstance(outer_of(Bandit(), MAML(**COMMON, inner_lr=1.0), 10), TRPO)


def test_a_trials_advantages_are_what_is_to_come_beyond_an_episodes_end() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards = torch.rand(2, 5, 4, generator=generator, dtype=torch.float64)
    mask = torch.ones(2, 5, 4, dtype=torch.bool)
    mask[0, 1, 2:] = False
    rewards = rewards * mask
    nothing = torch.zeros(5, 4, 1)
    found = of_trials([Acted(nothing, nothing, r, m, r, nothing) for r, m in zip(rewards, mask, strict=True)], 0.9)
    expected = torch.zeros(5, 8, dtype=torch.float64)
    flat, there = torch.cat(list(rewards), -1), torch.cat(list(mask), -1)
    for b in range(5):
        taken = [t for t in range(8) if there[b, t]]
        for i, t in enumerate(taken):
            expected[b, t] = sum(0.9**j * flat[b, s] for j, s in enumerate(taken[i:]))
    for t in range(8):
        expected[:, t] -= expected[there[:, t], t].mean()
    expected = expected * there
    torch.testing.assert_close(torch.cat(found, -1), expected / (expected.square().sum() / there.sum()).sqrt())


def test_rl2s_memory_goes_on_from_episode_to_episode_of_a_trial_and_is_torchs_gru() -> None:
    case = acting_case(rl2)
    recorded, task = task_of(case.episodes, 1), SuiteTask(case.bed)
    gru = torch.nn.GRU(1 + 3 + 2, 8, batch_first=True, dtype=torch.float64)
    gru.load_state_dict({f"{name}_l0": value for name, value in case.meta["cell"].items()})
    trial = [task.acted(data) for data in (*recorded.support, recorded.query)]
    actions, rewards = (torch.cat([getattr(e, name) for e in trial], 1) for name in ("actions", "rewards"))
    first = torch.zeros(5, 12, 1, dtype=torch.float64)
    first[:, ::4] = 1
    last = torch.cat([actions, rewards.unsqueeze(-1)], -1).roll(1, 1)
    last[:, 0] = 0
    outputs, _ = gru(torch.cat([torch.cat([e.observations for e in trial], 1), last, first], -1))
    logits = outputs @ case.meta["head"]["weight"].T + case.meta["head"]["bias"]
    behaviour = torch.cat([e.behaviour for e in trial], 1)
    torch.testing.assert_close(logits, behaviour, atol=1e-6, rtol=0)
    predicted = case.algorithm.predict(
        case.meta, case.algorithm.adapted(case.meta, task, recorded), task, recorded.query
    )
    torch.testing.assert_close(logits[:, 8:], cast(Tensor, predicted), atol=1e-12, rtol=0)


def test_an_episode_that_is_over_leaves_nothing_more_to_remember() -> None:
    suite = Navigation2D(trajectories=2)
    learner, task = rl2(), SuiteTask(suite)
    meta = learner.init(task, seeds.generator("init"))
    data = suite.example("support")
    mask = data.mask.clone()
    mask[0, 3:] = False
    _, ended = learner.watched(meta, learner.start(meta, ()), task, data._replace(mask=mask))
    noisy = data._replace(mask=mask, rewards=torch.where(mask, data.rewards, 7.0))
    _, again = learner.watched(meta, learner.start(meta, ()), task, noisy)
    assert all(torch.equal(a, b) for a, b in zip(tree_leaves(ended), tree_leaves(again), strict=True))
    assert torch.equal(ended["action"][0], data.actions[0, 2])


@pytest.mark.slow
def test_rl2_learns_to_explore_a_bandit_and_then_to_pull_its_good_arm() -> None:
    suite = Bandit(arms=2, pulls=4, trajectories=10)
    learner = RL2(steps=1, outer_lr=0.01, meta_batch=10, width=16, epochs=3)
    state = Training(learner.init(SuiteTask(suite), seeds.generator(0, "init")))
    gradients = Gradients(learner, lambda now: meta_gradient(suite, now))
    batches = episodes(suite, learner, lambda: state.meta, 0, 0)
    rule = Descent(learner.outer, state.meta, state.memory)
    for _ in train(state, batches, gradients, rule, 20, Validation(None, 100), suite):
        pass
    first, second = trace(suite, learner, state.meta, suite.sample(50, "test", torch.Generator()), 1)["return"].mean(0)
    assert second > first + 0.1 > 2.2  # knowing nothing: 2.0
    assert state.counts["environment_steps"] == 20 * 10 * 2 * 10 * 4


# What must be found.
class NotReset(RL2):
    """A trial goes on with what another left."""

    def start(self, meta: Meta, noise: Data) -> State:
        trials = self.__dict__.setdefault("trials", [])
        trials.append(0)
        state = super().start(meta, noise)
        return {**state, "memory": state["memory"] + 0.1 * len(trials)}


class Shared(RL2):
    """What one trial shows is remembered in all of the task's."""

    def watched(self, meta: Meta, state: State, task: Task, data: Data) -> tuple[Tensor, State]:
        prediction, after = super().watched(meta, state, task, data)
        return prediction, {**after, "memory": after["memory"].mean(0, keepdim=True).expand_as(after["memory"])}


class Forgetful(RL2):
    """Nothing is left of an episode when the next begins."""

    def step(self, meta: Meta, state: State, task: Task, data: Data, k: int) -> State:
        return self.start(meta, ())


class Foreseeing(RL2):
    """What is learned from has seen the reward that is yet to come."""

    def watched(self, meta: Meta, state: State, task: Task, data: Data) -> tuple[Tensor, State]:
        return super().watched(meta, state, task, data._replace(rewards=data.rewards.roll(-1, -1)))


class Uncredited(RL2):
    """Exploration earns nothing of what it leads to."""

    def meta_loss(self, meta: Meta, task: Task, episode: Episode) -> Tensor:
        state = self.adapted(meta, task, episode)
        return task.mean(task.losses(self.predict(meta, state, task, episode.query), episode.query), episode.query)


class Unweighed(ProMP):
    """The ratio is to the policy itself, which several epochs leave behind."""

    def meta_loss(self, meta: Meta, task: Task, episode: Episode) -> Tensor:
        prediction = cast(Tensor, self.predict(meta, self.adapted(meta, task, episode), task, episode.query))
        now = task.log_prob(prediction, episode.query)
        return -((now - now.detach()).exp() * task.acted(episode.query).advantages).mean()


class Unadapted(ProMP):
    """What is judged is the policy before it adapts."""

    def adapted(self, meta: Meta, task: Task, episode: Episode) -> State:
        return meta


FAULTY: list[tuple[Any, str]] = [
    (lambda: NotReset(**LITTLE, width=8), "bandit: the same tasks met again: other bits"),
    (lambda: Shared(**LITTLE, width=8), "bandit: a trial changed: change of the others' predictions"),
    (lambda: Forgetful(**LITTLE, width=8), "bandit: another task's support: change of the prediction"),
    (lambda: Foreseeing(**LITTLE, width=8), "bandit: predicted of recorded episodes = what acted"),
    (lambda: Uncredited(**LITTLE, width=8), "bandit: what a last episode earned: change of the first's credit"),
    (lambda: Unweighed(**LITTLE, inner_lr=1.0), "bandit: acted by another policy: change of the loss"),
    (lambda: Unadapted(**LITTLE, inner_lr=1.0), "bandit: another task's support: change of the prediction"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("make", "name"), FAULTY, ids=[make().__class__.__name__ for make, _ in FAULTY])
def test_a_planted_fault_is_found(make: Any, name: str) -> None:
    assert next(check.verdict for check in acting_checks(lambda _: make()) if check.name == name) == "FAULT"
