"""Rollouts, advantages and surrogates, held against plain loops and against what can be enumerated."""

from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any, get_args

import pytest
import torch
from torch import Generator, Tensor
from torch.func import functional_call, hessian, vmap
from torch.nn.utils import parameters_to_vector

from algorithms.maml import MAML
from bench.core import seeds
from bench.core.task import SuiteTask
from bench.core.trees import shapes_of, tree_leaves
from bench.core.types import Episode, Params
from bench.learning.objective import objective
from suites.bandit import Bandit
from suites.navigation2d import Navigation2D, Places, Plane
from suites.parts.control import Estimator, Trajectories, baseline, discounted, standardised
from suites.parts.policies import Categorical, Gaussian, Policy

PAYS = torch.tensor([0.9, 0.2, 0.4], dtype=torch.float64)


def params_of(suite: Any) -> Params:
    return {name: p.double() for name, p in suite.new_params(seeds.generator("test")).items()}


def chances(suite: Bandit, params: Params) -> Tensor:
    return suite.call(params, torch.ones(1, 1, dtype=torch.float64)).softmax(-1)[0]


def enumerated(suite: Bandit, params: Params) -> Trajectories:
    """Every sequence of actions once, its advantages weighted by its probability: means become expectations."""
    actions = torch.tensor(list(product(range(3), repeat=suite.pulls)))
    probability = chances(suite, params)[actions].prod(-1, keepdim=True).detach()
    to_come = discounted(PAYS[actions], 1.0)
    mask = torch.ones_like(actions, dtype=torch.bool)
    return Trajectories(
        observations=torch.ones(*actions.shape, 1, dtype=torch.float64),
        actions=actions,
        rewards=PAYS[actions] * probability * len(actions),
        mask=mask,
        advantages=to_come * probability * actions.numel(),
        scale=torch.ones((), dtype=torch.float64),
        unstable=mask[:, 0],
        behaviour=(),
    )


def expected_return(suite: Bandit, params: Params) -> Tensor:
    return suite.pulls * (chances(suite, params) * PAYS).sum()


def derivatives(function: Any, params: Params) -> tuple[Tensor, Tensor, Tensor]:
    """Value, gradient and Hessian of a function of params, as vectors of all of them."""
    sizes = [p.numel() for p in params.values()]

    def flat(x: Tensor) -> Tensor:
        pieces = zip(params.items(), x.split(sizes), strict=True)
        result: Tensor = function({name: piece.view_as(p) for (name, p), piece in pieces})
        return result

    point = parameters_to_vector(params.values())
    return flat(point), torch.func.grad(flat)(point), hessian(flat)(point)


def test_estimators_agree_in_the_first_gradient_and_lvc_and_dice_alone_in_the_enumerated_curvature() -> None:
    plain = Bandit(arms=3, pulls=2)
    params = params_of(plain)
    data = enumerated(plain, params)
    _, slope, curvature = derivatives(lambda p: -expected_return(plain, p), params)
    found = {
        estimator: derivatives(partial(SuiteTask(replace(plain, estimator=estimator)).loss, data=data), params)
        for estimator in get_args(Estimator)
    }
    for _, gradient, _ in found.values():
        assert torch.allclose(gradient, slope, atol=1e-12)
    for exact in ("lvc", "dice"):
        assert torch.allclose(found[exact][2], curvature, atol=1e-12)
    for biased in ("maml", "emaml"):
        assert (found[biased][2] - curvature).norm() > 0.1 * curvature.norm()
    assert found["maml"][0] == found["emaml"][0]


def test_judged_episodes_have_the_value_and_curvature_of_the_expected_return_whatever_the_estimator() -> None:
    suite = Bandit(arms=3, pulls=1)
    params = params_of(suite)
    data = enumerated(suite, params)
    data = data._replace(behaviour=suite.predict(params, data).detach())
    found = derivatives(lambda p: SuiteTask(suite).loss(p, data), params)
    for ours, exact in zip(found, derivatives(lambda p: -expected_return(suite, p), params), strict=True):
        assert torch.allclose(ours, exact, atol=1e-12)


@pytest.mark.parametrize(("estimator", "exact"), [("emaml", True), ("maml", False)])
def test_emaml_alone_is_the_gradient_of_what_adaptation_is_expected_to_reach(estimator: Any, exact: bool) -> None:
    suite = Bandit(arms=3, pulls=1, estimator=estimator)
    params = params_of(suite)
    learner = MAML(inner_lr=1.0, steps=1, outer_lr=0.1, meta_batch=1)
    task = SuiteTask(suite)

    def pulled(arm: int) -> Trajectories:
        one = Trajectories(*(x[:1] if isinstance(x, Tensor) and x.dim() else x for x in enumerated(suite, params)))
        return one._replace(actions=torch.tensor([[arm]]), advantages=(PAYS[arm] - 0.5).view(1, 1))

    def reached(p: Params) -> Tensor:
        after = (expected_return(suite, learner.step(p, p, task, pulled(arm), 0)) for arm in range(3))
        return -sum(chance * value for chance, value in zip(chances(suite, p), after, strict=True))

    def estimated(p: Params) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for arm, chance in enumerate(chances(suite, params).detach()):
            adapted = learner.step(params, params, task, pulled(arm), 0)
            query = enumerated(suite, adapted)
            query = query._replace(behaviour=suite.predict(adapted, query).detach())
            total = total + chance * objective(suite, learner)(p, Episode((pulled(arm),), query))
        return total

    gap = derivatives(estimated, params)[1] - derivatives(reached, params)[1]
    assert (gap.norm() < 1e-12) == exact


@pytest.mark.parametrize("policy", [Gaussian(3, (5,), 2), Categorical(3, (5,), 2)])
def test_stacked_parameters_act_as_each_task_alone(policy: Policy) -> None:
    stacked = {name: torch.randn(4, *p.shape) for name, p in policy.named_parameters()}
    x = torch.randn(4, 7, 3)
    alone = vmap(lambda p, o: functional_call(policy, p, (o,)))(stacked, x)
    assert torch.allclose(functional_call(policy, stacked, (x,)), alone, atol=1e-6)


def test_policies_draw_from_the_distribution_whose_likelihood_they_give() -> None:
    generator = Generator().manual_seed(0)
    logits = torch.tensor([0.0, 1.0, -1.0])
    categorical = Categorical(1, (), 3)
    drawn = categorical.sample(logits, categorical.noise(20_000, 1, 1, generator=generator))
    counted = torch.bincount(drawn.flatten(), minlength=3) / drawn.numel()
    assert torch.allclose(counted, categorical.log_prob(logits.expand(3, 3), torch.arange(3)).exp(), atol=0.01)
    gaussian, parameters = Gaussian(1, (), 2), torch.tensor([1.0, -2.0, 0.5, -0.5])
    actions = gaussian.sample(parameters, gaussian.noise(20_000, 1, 1, generator=generator)).flatten(0, 2)
    assert torch.allclose(actions.mean(0), parameters[:2], atol=0.05)
    assert torch.allclose(actions.std(0).log(), parameters[2:], atol=0.02)
    normal = torch.distributions.Normal(parameters[:2], parameters[2:].exp())
    assert torch.allclose(gaussian.log_prob(parameters, actions), normal.log_prob(actions).sum(-1), atol=1e-4)


def test_returns_and_baseline_equal_a_loop() -> None:
    generator = Generator().manual_seed(0)
    rewards = torch.randn(2, 3, 6, generator=generator)
    by_hand = rewards.clone()
    for t in reversed(range(5)):
        by_hand[..., t] += 0.9 * by_hand[..., t + 1]
    assert torch.allclose(discounted(rewards, 0.9), by_hand, atol=1e-5)
    observations, mask = 20 * torch.randn(2, 3, 6, 2, generator=generator), torch.ones(2, 3, 6, dtype=torch.bool)
    mask[:, 1, 4:] = False
    values = baseline(observations, by_hand, mask)
    for task in range(2):
        rows, targets = [], []
        for b, t in mask[task].nonzero().tolist():
            o = observations[task, b, t].double().clamp(-10, 10).tolist()
            rows.append([*o, *(v * v for v in o), t / 100, (t / 100) ** 2, (t / 100) ** 3, 1.0])
            targets.append(float(by_hand[task, b, t]))
        x, y = torch.tensor(rows, dtype=torch.float64), torch.tensor(targets, dtype=torch.float64)
        weights = torch.linalg.solve(x.T @ x + 1e-5 * torch.eye(8, dtype=torch.float64), x.T @ y)
        assert torch.allclose(values[task][mask[task]].double(), x @ weights, atol=1e-4)
    assert not values[~mask].any()


def test_advantages_are_standardised_over_the_steps_that_were_taken() -> None:
    mask = torch.rand(3, 4, 5, generator=Generator().manual_seed(0)) < 0.7
    advantages, scale = standardised(torch.randn(3, 4, 5, generator=Generator().manual_seed(1)) + 5, mask)
    for task in range(3):
        assert advantages[task][mask[task]].mean().abs() < 1e-6
        assert advantages[task][mask[task]].std(correction=0) == pytest.approx(1, abs=1e-5)
    assert not advantages[~mask].any()
    assert scale.shape == (3,)


class Breaking:
    """Pays 1 a step; trajectory 0 runs to the horizon, 1 ends after its second step, 2 blows up in its third."""

    horizon = 5

    def reset(self, tasks: Tensor, trajectories: int, generator: Generator) -> Tensor:
        self.time = 0
        return torch.zeros(len(tasks), trajectories, 2)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.time += 1
        observation = torch.full((*action.shape[:2], 2), float(self.time))
        if self.time >= 3:
            observation[:, 2] = torch.nan
        done = torch.zeros(action.shape[:2], dtype=torch.bool)
        done[:, 1] = self.time >= 2
        return observation, torch.ones(action.shape[:2]), done


@dataclass(frozen=True, kw_only=True)
class Fragile(Navigation2D):
    def environment(self) -> Any:
        return Breaking()


def test_an_episode_ends_with_its_last_step_and_one_that_blows_up_is_counted() -> None:
    suite = Fragile(trajectories=3)
    params = {name: p.expand(2, *p.shape) for name, p in suite.new_params(seeds.generator(0)).items()}
    data = suite.collect(torch.zeros(2, 1), params, "query", 0, seeds.generator(1))
    assert data.mask[0].sum(-1).tolist() == [5, 2, 3]
    assert data.rewards[0].sum(-1).tolist() == [5, 2, 2]  # what the broken step paid is not trusted
    assert data.unstable.tolist() == [[False, False, True]] * 2
    assert all(leaf.isfinite().all() for leaf in data if isinstance(leaf, Tensor))
    assert suite.tally(data) == {"environment_steps": 20.0, "return": 3.0, "unstable": 2.0}


@pytest.mark.parametrize("view", ["plain", "oracle"])
@pytest.mark.parametrize("kind", [Bandit, Navigation2D])
def test_environments_of_tensors_run_where_the_tasks_are(kind: Any, view: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # The device "meta" stands in for a GPU: it computes nothing, and what mixes it with the CPU fails.
    suite = kind(view=view, trajectories=2)
    params = {n: torch.empty(3, *p.shape, device="meta") for n, p in suite.new_params(seeds.generator(0)).items()}
    tasks = shapes_of(suite.sample(3, "train", seeds.generator(0)))
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda _: True)
    data = suite.collect(tasks, params, "query", 0, seeds.generator(0))
    assert {x.device.type for x in tree_leaves(data)} == {"meta"}


def test_the_point_moves_at_most_a_tenth_and_stops_in_the_box_around_its_goal() -> None:
    plane = Plane(squared=False, told=True)
    start = plane.reset(Places(torch.zeros(1, 2), torch.tensor([[0.105, 0.0]])), 2, seeds.generator(0))
    assert start[0, 0].tolist() == pytest.approx([0, 0, 0.105, 0])
    seen, reward, done = plane.step(torch.tensor([[[7.0, 0.0], [0.5, -0.5]]]))
    assert seen[0, :, :2].flatten().tolist() == pytest.approx([0.1, 0.0, 0.05, -0.05])
    assert reward[0].tolist() == pytest.approx([-0.005, -((0.055**2 + 0.05**2) ** 0.5)], abs=1e-6)
    assert done[0].tolist() == [True, False]


def test_the_test_goals_are_numpys_first_forty_with_seed_1() -> None:
    goals = Navigation2D().sample(600, "test", seeds.generator("any")).goal
    assert goals[:2].flatten().tolist() == pytest.approx([-0.082978, 0.220324, -0.499886, -0.197667], abs=1e-6)
    assert torch.equal(goals[:40], Navigation2D().sample(40, "test", seeds.generator("other")).goal)
    other = Navigation2D(family="varying_start").sample(1000, "test", seeds.generator(0))
    assert other.start.abs().max() <= 0.5
    assert not torch.equal(other.start, other.goal)


def test_a_second_step_at_test_goes_half_as_far() -> None:
    suite = Navigation2D(trajectories=3)
    params = {name: p.expand(1, *p.shape) for name, p in suite.new_params(seeds.generator(0)).items()}
    tasks = suite.sample(1, "train", seeds.generator(1))
    first, second = (suite.collect(tasks, params, "support", k, seeds.generator(2)) for k in (0, 1))
    assert torch.equal(first.advantages, 2 * second.advantages)


@pytest.mark.parametrize("family", ["checkpoint", "paper", "fixed_start", "varying_start"])
def test_the_floor_is_the_return_of_standing_still(family: Any) -> None:
    suite = Navigation2D(family=family)
    start, goal = suite.sample(200_000, "train", seeds.generator(0))
    far = (goal - start).norm(dim=-1)
    still = -100 * float(far.square().mean() if family == "paper" else far.mean())
    assert suite.floor == pytest.approx(still, rel=0.01)
