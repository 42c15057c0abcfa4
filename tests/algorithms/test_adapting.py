"""Methods of gradients whose inner steps change a part alone, or elsewhere: their mathematics, and faults planted."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from algorithms.anil import ANIL, FEATURES
from algorithms.boil import BOIL
from algorithms.cavia import CAVIA
from algorithms.maml import MAML
from algorithms.metacurvature import MetaCurvature, preconditioned
from algorithms.reptile import Reptile
from bench.certificate.algorithms import algorithm_checks
from bench.certificate.beds import Curved, Labels
from bench.core import seeds
from bench.core.gradients import descend, gradient
from bench.core.task import SuiteTask
from bench.core.trees import part, tree_leaves
from bench.core.types import Data, Episode, Meta, Params, Task
from suites.bandit import Bandit

GIVEN: dict[str, Any] = {"inner_lr": 0.3, "steps": 3, "outer_lr": 0.01, "meta_batch": 4}


def case(suite: Curved | Labels, steps: int = 3) -> tuple[SuiteTask, Params, Episode]:
    """A task, parameters and one episode."""
    tasks = suite.sample(1, "train", seeds.generator("parts"))
    support, query = (part(suite.look_up(tasks, role), 0) for role in ("support", "query"))
    task = SuiteTask(suite)
    return task, task.new_params(seeds.generator("parts", "init")), Episode((support,) * steps, query)


def plain(task: SuiteTask, params: Params, episode: Episode, moves: Any) -> list[Tensor]:
    """MAML by autograd alone, which moves some of the names: the loss and the meta-gradient."""
    meta = {name: p.clone().requires_grad_() for name, p in params.items()}
    theta = dict(meta)
    for data in episode.support:
        moving = [name for name in theta if moves(name)]
        slopes = torch.autograd.grad(task.loss(theta, data), [theta[n] for n in moving], create_graph=True)
        theta |= {name: theta[name] - GIVEN["inner_lr"] * g for name, g in zip(moving, slopes, strict=True)}
    loss = task.loss(theta, episode.query)
    return [loss, *torch.autograd.grad(loss, list(meta.values()))]


@pytest.mark.parametrize("suite", [Curved(), Labels()], ids=["regression", "classification"])
@pytest.mark.parametrize("operator", ["reverse", "mixed"])
@pytest.mark.parametrize("method", [ANIL, BOIL])
def test_only_the_part_that_adapts_moves_and_all_is_meta_learned(method: Any, operator: Any, suite: Any) -> None:
    task, params, episode = case(suite)
    learner = method(**GIVEN, gradient=operator)
    meta_gradient, loss = torch.func.grad_and_value(lambda meta: learner.meta_loss(meta, task, episode))(params)

    def moves(name: str) -> bool:
        return ((name in task.head) == (method is ANIL)) and not name.startswith("norms")

    torch.testing.assert_close([loss, *meta_gradient.values()], plain(task, params, episode, moves))
    adapted = learner.params(params, learner.adapted(params, task, episode))
    changed = {name for name in params if not torch.equal(adapted[name], params[name])}
    assert changed  # not all that moves: a bias before a normalisation has no gradient
    assert all(map(moves, changed))


def runs_of_the_body(learner: MAML, suite: Any) -> int:
    task, params, episode = case(suite, steps=5)
    first = next(layer for layer in suite.skeleton.modules() if isinstance(layer, nn.Linear))
    seen: list[object] = []
    handle = first.register_forward_hook(lambda *_: seen.append(1))
    learner.predict(params, learner.adapted(params, task, episode), task, episode.query)
    handle.remove()
    return len(seen)


def test_anil_runs_the_body_once_on_the_support_and_once_on_the_query() -> None:
    assert (runs_of_the_body(ANIL(**GIVEN), Labels()), runs_of_the_body(MAML(**GIVEN), Labels())) == (2, 6)


def test_anil_sees_what_its_policy_meets_in_each_step() -> None:
    suite = Bandit(arms=3, pulls=4, trajectories=5)
    task, generator = SuiteTask(suite), seeds.generator("parts")
    params, learner, data = task.new_params(generator), ANIL(**GIVEN), task.example("support")
    other = data._replace(observations=2 * data.observations)
    state = learner.step(params, learner.step(params, params, task, data, 0), task, other, 1)
    torch.testing.assert_close(state[FEATURES], task.features(params, other))


def test_a_context_is_appended_to_the_input_and_starts_at_zero() -> None:
    task, _, episode = case(Curved())
    learner = CAVIA(outer_lr=0.001, meta_batch=4, steps=2, contexts=3)
    net = {name: p.double() for name, p in learner.init(task, seeds.generator("parts")).items()}
    module = nn.Sequential(nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1)).double()
    module.load_state_dict(net)

    def error(context: Tensor, data: Data) -> Tensor:
        seen = torch.cat([data.x, context.expand(len(data.x), 3)], 1)
        loss: Tensor = (module(seen) - data.y).square().mean()
        return loss

    context = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for data in episode.support[:2]:
        [slope] = torch.autograd.grad(error(context, data), context, create_graph=True)
        context = context - slope  # at a rate of 1
    expected = torch.autograd.grad(error(context, episode.query), list(module.parameters()))
    short = episode._replace(support=episode.support[:2])
    found = torch.func.grad(lambda meta: learner.meta_loss(meta, task, short))(net)
    torch.testing.assert_close(list(found.values()), list(expected))


def test_reptile_moves_by_what_adam_without_a_first_moment_moves() -> None:
    task, params, episode = case(Curved(), steps=4)
    learner = Reptile(meta_batch=4, steps=4, inner_lr=0.01)
    theta = {name: p.clone().requires_grad_() for name, p in params.items()}
    adam = torch.optim.Adam(theta.values(), 0.01, betas=(0.0, 0.999))
    for data in episode.support:
        adam.zero_grad()
        task.loss(theta, data).backward()
        adam.step()
    adapted = learner.params(params, learner.adapted(params, task, episode))
    torch.testing.assert_close(adapted, {n: p.detach() for n, p in theta.items()}, rtol=1e-5, atol=1e-6)
    moved = torch.func.grad(lambda meta: learner.meta_loss(meta, task, episode))(params)
    torch.testing.assert_close(moved, {n: params[n] - adapted[n] for n in params})
    assert (learner.outer.rate, learner.outer.over(10).rate_at(5)) == (1.0, 0.5)


def test_meta_curvature_begins_as_maml_and_multiplies_each_mode() -> None:
    task, params, episode = case(Labels())
    learner, maml = MetaCurvature(**GIVEN), MAML(**GIVEN)
    meta = learner.init(task, seeds.generator("parts", "init"))
    assert torch.equal(learner.meta_loss(meta, task, episode), maml.meta_loss(params, task, episode))
    assert set(meta["modes"]) == {name for name in params if task.adaptable(name)}
    o, i, f = (torch.randn(n, n, dtype=torch.float64) for n in (5, 3, 4))
    g = torch.randn(5, 3, 2, 2, dtype=torch.float64)
    expected = torch.einsum("ab,cd,ef,bdf->ace", o, i, f, g.flatten(2)).view_as(g)
    torch.testing.assert_close(preconditioned(g, (o, i, f)), expected)
    torch.testing.assert_close(preconditioned(g[..., 0, 0], (o, i)), o @ g[..., 0, 0] @ i.mT)
    torch.testing.assert_close(preconditioned(g[0, 0, 0], (f[0, :2],)), f[0, :2] * g[0, 0, 0])


def test_the_meta_gradient_reaches_every_mode_of_a_convolution() -> None:
    g = torch.randn(5, 3, 2, 2)
    modes = tuple(torch.eye(n) for n in (5, 3, 4))
    slopes = torch.func.grad(lambda m: preconditioned(g, m).square().sum())(modes)
    assert all(slope.abs().sum() > 0 for slope in tree_leaves(slopes))


@dataclass(frozen=True, kw_only=True)
class AdaptsTheBody(ANIL):
    """MAML that says it is ANIL."""

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        return descend(state, gradient(self.gradient, task)(state, data), self.inner_lr)


@dataclass(frozen=True, kw_only=True)
class AdaptsTheHead(BOIL):
    """MAML that says it is BOIL."""

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        return descend(state, gradient(self.gradient, task)(state, data), self.inner_lr)


@dataclass(frozen=True, kw_only=True)
class AdaptsShifts(MAML):
    """Adapts what the suite says stays put."""

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        slopes = torch.func.grad(lambda params: task.loss(params, data))(state)
        return descend(state, slopes, self.inner_lr)


@dataclass(frozen=True, kw_only=True)
class FixedFeatures(ANIL):
    """No meta-gradient goes through the support's features to the body."""

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        return super().step(meta, {**state, FEATURES: task.features(meta, data).detach()}, task, data, k)


@dataclass(frozen=True, kw_only=True)
class Carried(CAVIA):
    """A context that begins where the last task's ended."""

    last: ClassVar[list[Tensor]] = []

    def start(self, meta: Params, noise: Data) -> Params:
        state = super().start(meta, noise)
        return {**state, "context": self.last[-1]} if self.last else state

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        adapted = super().step(meta, state, task, data, k)
        if not torch._C._functorch.is_functorch_wrapped_tensor(adapted["context"]):
            self.last.append(adapted["context"].detach())
        return adapted


@dataclass(frozen=True, kw_only=True)
class Unlearned(MetaCurvature):
    """Its matrices are constants to the meta-gradient."""

    def step(self, meta: Meta, state: Params, task: Task, data: Data, k: int) -> Params:
        modes = {name: tuple(m.detach() for m in matrices) for name, matrices in meta["modes"].items()}
        return super().step({**meta, "modes": modes}, state, task, data, k)


CHANGED, CLAIM = "parameters changed that do not adapt", "claims second order: plain central differences"


@pytest.mark.parametrize(
    ("learner", "fault"),
    [
        (AdaptsTheBody, CHANGED),
        (AdaptsTheHead, CHANGED),
        (AdaptsShifts, CHANGED),
        (FixedFeatures, CLAIM),
        pytest.param(Carried, "what a task leaves to the next", marks=pytest.mark.slow),
        (Unlearned, CLAIM),
    ],
)
def test_a_fault_planted_in_the_family_is_found(learner: Any, fault: str) -> None:
    Carried.last.clear()
    check = next(check for check in algorithm_checks(lambda bed: learner(**GIVEN)) if check.name == fault)
    Carried.last.clear()
    assert check.verdict == "FAULT"
