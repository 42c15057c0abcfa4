"""Bayesian MAML and its ensemble compute what their paper's code does, and faults planted in them are found."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

import pytest
import torch
from torch import Tensor
from torch.distributions import Gamma
from torch.distributions import Normal as Density

import bench
from algorithms.bmaml import BMAML
from algorithms.ensemble import Ensemble
from algorithms.maml import MAML
from algorithms.parts.posterior import PRIORS, log_posterior
from algorithms.parts.stein import stein
from bench.certificate.algorithms import algorithm_checks
from bench.core import seeds
from bench.core.task import SuiteTask
from bench.core.trees import tree_map
from bench.core.types import Data, Episode, Learner, Normal, Params, Prediction, Suite, Task
from bench.learning.batches import episodes
from bench.learning.engines.vectorised import meta_gradient
from bench.learning.outer.descent import Descent
from suites.glyphs import Glyphs
from suites.sinusoid import Points, Sinusoid
from suites.sinusoid_freq import SinusoidFreq

FIXED: dict[str, Any] = {"steps": 1, "outer_lr": 0.001, "meta_batch": 4}
SUITE = SinusoidFreq(family="bmaml", shots=5)
TASK = SuiteTask(SUITE)


def double(params: Params) -> Params:
    return {name: p.double() for name, p in params.items()}


def episode() -> Episode:
    tasks = SUITE.sample(1, "train", seeds.generator(1))
    support, query = tree_map(lambda x: x[0].double(), (SUITE.look_up(tasks, "support"), SUITE.look_up(tasks, "query")))
    return Episode((support,), query)


def plain_stein(theta: Tensor, slopes: Tensor, width: float) -> Tensor:
    moves = []
    for m in range(len(theta)):
        terms = []
        for j in range(len(theta)):
            kernel = torch.exp(-(theta[m] - theta[j]).square().sum() / width)
            terms.append(kernel * slopes[j] + kernel * (theta[m] - theta[j]) / width)
        moves.append(torch.stack(terms).mean(0))
    return torch.stack(moves)


@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_particles_and_what_differentiates_them_move_as_loops_over_pairs_say_with_a_constant_width(count: int) -> None:
    theta = torch.randn(count, 7, generator=seeds.generator(count), dtype=torch.float64, requires_grad=True)
    distances = sorted((a - b).square().sum().item() for a in theta for b in theta)
    middle = len(distances) // 2
    median = distances[middle] if count % 2 else (distances[middle - 1] + distances[middle]) / 2
    width = median / math.log(count) if count > 1 else 1.0
    expected = plain_stein(theta, theta.sin(), width)
    a, b = theta.unflatten(1, (7, 1)).split([4, 3], 1)
    moved = stein({"a": a, "b": b}, {"a": a.sin(), "b": b.sin()})
    found = torch.cat([moved["a"], moved["b"]], 1).squeeze(-1)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(count, 7, generator=seeds.generator(0), dtype=torch.float64)
    slopes = [torch.autograd.grad((weights * moves).sum(), theta)[0] for moves in (found, expected)]
    torch.testing.assert_close(*slopes)


def test_equal_particles_stay_equal_and_finite() -> None:
    p = torch.full((3, 2), 0.1)
    torch.testing.assert_close(stein({"a": p}, {"a": p})["a"], p)


def particle_of(seed: int) -> Params:
    learner = BMAML(**FIXED, particles=1)
    drawn = double(learner.init(TASK, seeds.generator(seed)))
    return {name: p[0] + (0.3 * seed if name in PRIORS else 0.0) for name, p in drawn.items()}


def plain_posterior(particle: Params, x: Tensor, y: Tensor) -> Tensor:
    gamma, lambda_ = particle["log_gamma"].exp(), particle["log_lambda"].exp()
    weights = [p for name, p in particle.items() if name not in PRIORS]
    *hidden, last = zip(weights[::2], weights[1::2], strict=True)
    for weight, bias in hidden:
        x = torch.relu(x @ weight.T + bias)
    likelihood = Density(x @ last[0].T + last[1], gamma**-0.5).log_prob(y).sum()
    of_weights = torch.stack([Density(0.0, lambda_**-0.5).log_prob(p).sum() for p in weights]).sum()
    two, fifth = torch.tensor([2.0, 0.2], dtype=torch.float64)
    of_precisions = Gamma(two, fifth).log_prob(gamma) + Gamma(two, two).log_prob(lambda_)
    total: Tensor = (likelihood + of_weights + of_precisions + gamma.log() + lambda_.log()).sum()
    return total


def test_the_posterior_is_that_of_normals_and_gammas_over_the_sum_of_what_is_there() -> None:
    support = episode().support[0]
    x, y = (torch.cat([part, 9 * torch.ones_like(part)]) for part in support[:2])
    padded = Points(x, y, torch.arange(10) < 5)
    one, other = particle_of(1), particle_of(2)
    expected = plain_posterior(one, support.x, support.y) - plain_posterior(other, support.x, support.y)
    for data in (support, padded):
        found = log_posterior(one, {}, TASK, (data,)) - log_posterior(other, {}, TASK, (data,))
        torch.testing.assert_close(found, expected)


def test_the_chaser_is_behind_a_leader_that_sees_support_and_query_at_once() -> None:
    learner = BMAML(**FIXED, particles=3, leader_steps=2)
    meta, shown = double(learner.init(TASK, seeds.generator(0))), episode()
    chaser = learner.step(meta, meta, TASK, shown.support[0], 0)
    both = Points(*(torch.cat(parts) for parts in zip(shown.support[0][:2], shown.query[:2], strict=True)))
    leader = learner.step(meta, learner.step(meta, chaser, TASK, both, 1), TASK, both, 2)
    expected = sum((chaser[n] - leader[n]).square().sum() for n in meta if n not in PRIORS)
    torch.testing.assert_close(learner.meta_loss(meta, TASK, shown), expected)


def test_one_particle_climbs_the_log_posterior() -> None:
    learner, shown = BMAML(**FIXED, particles=1), episode()
    meta = double(learner.init(TASK, seeds.generator(0)))
    live = {name: p[0].clone().requires_grad_() for name, p in meta.items()}
    slopes = torch.autograd.grad(plain_posterior(live, shown.support[0].x, shown.support[0].y), list(live.values()))
    moved = learner.step(meta, meta, TASK, shown.support[0], 0)
    for (name, p), slope in zip(live.items(), slopes, strict=True):
        torch.testing.assert_close(moved[name][0], p.detach() + 0.001 * slope)


@pytest.mark.slow
def test_classes_are_climbed_by_their_summed_likelihood_without_a_prior() -> None:
    task = SuiteTask(Glyphs())
    learner = BMAML(**FIXED, particles=1)
    meta = double(learner.init(task, seeds.generator(0)))
    assert not set(meta) & set(PRIORS)
    data = tree_map(lambda x: x.double() if x.is_floating_point() else x, task.example("support"))
    live = {name: p[0].clone().requires_grad_() for name, p in meta.items()}
    names = [name for name in live if task.adaptable(name)]
    slopes = torch.autograd.grad(task.losses(task.predict(live, data), data).sum(), [live[name] for name in names])
    moved = learner.step(meta, meta, task, data, 0)
    for name, slope in zip(names, slopes, strict=True):
        torch.testing.assert_close(moved[name][0], live[name].detach() - 0.001 * 100 * slope)


def test_numbers_are_told_with_the_deviation_of_the_particles_mixture() -> None:
    learner, query = BMAML(**FIXED, particles=4), episode().query
    meta = double(learner.init(TASK, seeds.generator(0)))
    meta["log_gamma"] = torch.tensor([[0.0], [1.0], [2.0], [3.0]], dtype=torch.float64)
    weights = [{name: p[m] for name, p in meta.items() if name not in PRIORS} for m in range(4)]
    means = torch.stack([SUITE.predict(some, query) for some in weights])
    told = learner.predict(meta, meta, TASK, query)
    assert isinstance(told, Normal)
    torch.testing.assert_close(told.mean, means.mean(0))
    noise = sum(math.exp(-k) for k in range(4)) / 4
    torch.testing.assert_close(told.std, (noise + means.var(0, correction=0)).sqrt())


def losses_of(learner: Learner) -> list[float]:
    suite = Sinusoid()
    meta = learner.init(SuiteTask(suite), seeds.generator(0))
    gradient, rule = meta_gradient(suite, learner), Descent(learner.outer, meta, [])
    found = []
    for iteration, batch in zip(range(20), episodes(suite, learner, lambda: meta, 0, 0), strict=False):
        loss, slopes = gradient(meta, batch)
        rule.update(slopes, batch, iteration, partial(gradient, meta, batch))
        found.append(loss.item())
    return found


def test_an_ensemble_of_one_is_maml_to_the_bit_of_the_loss() -> None:
    assert losses_of(Ensemble(**FIXED, inner_lr=0.01, members=1)) == losses_of(MAML(**FIXED, inner_lr=0.01))


def test_members_of_an_ensemble_move_as_if_they_were_alone() -> None:
    ensemble, maml = Ensemble(**FIXED, inner_lr=0.01, members=3), MAML(**FIXED, inner_lr=0.01)
    meta, shown = double(ensemble.init(TASK, seeds.generator(0))), episode()
    together = torch.func.grad(lambda m: ensemble.meta_loss(m, TASK, shown))(meta)
    for k in range(3):
        alone = torch.func.grad(lambda m: maml.meta_loss(m, TASK, shown))({n: p[k] for n, p in meta.items()})
        for name, slope in alone.items():
            torch.testing.assert_close(together[name][k], slope)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algo", "suite"),
    [
        ("ensemble[members=2]", "sinusoid[shots=2-5]"),
        ("ensemble[members=2]", "glyphs"),
        ("bmaml[particles=1]", "sinusoid[shots=2-5]"),
        ("bmaml[particles=10]", "sinusoid_freq[family=bmaml]"),
        ("bmaml[particles=2]", "glyphs"),
    ],
)
def test_they_train_on_numbers_and_classes(algo: str, suite: str, tmp_path: Any) -> None:
    asked: dict[str, Any] = {"preset": "smoke", "iterations": 3, "engine": "eager", "threads": 1}
    scores = bench.run(suite, algo.replace("]", ",meta_batch=2]"), out=tmp_path, **asked)
    assert scores["value"].map(math.isfinite).all()
    assert ("nll" in set(scores["metric"])) == ("sinusoid" in suite)


@dataclass(frozen=True, kw_only=True)
class Running(BMAML):
    """Its leader is no constant, so that it can wait for its chaser."""

    def meta_loss(self, meta: Params, task: Task, episode: Episode) -> Tensor:
        chaser = self.adapted(meta, task, episode)
        leader = self._moved(chaser, task, episode.support[-1], episode.query)
        return torch.stack([(chaser[n] - leader[n]).square().sum() for n in chaser if n not in PRIORS]).sum()


@dataclass(frozen=True, kw_only=True)
class Remembering(BMAML):
    """What its particles keep from each other is what the last task's kept, and not this one's."""

    last: ClassVar[list[Tensor]] = []

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        moved = super().step(meta, state, task, data, k)
        apart = sum(p.detach().std(0).sum() for p in moved.values())
        scale = 1 + 0.01 * self.last[-1] if self.last else 1.0
        if isinstance(apart, Tensor) and not torch._C._functorch.is_functorch_wrapped_tensor(apart):
            self.last.append(apart)
        return {name: state[name] + scale * (p - state[name]) for name, p in moved.items()}


@dataclass(frozen=True, kw_only=True)
class Answering(BMAML):
    """Its leader answers, who has seen the query's targets."""

    def predict(self, meta: Params, state: Params, task: Task, data: Data) -> Prediction:
        return super().predict(meta, self._moved(state, task, data), task, data)


@dataclass(frozen=True, kw_only=True)
class Crowding(Ensemble):
    """How sure it is of a query depends on its other queries."""

    def predict(self, meta: Params, state: Params, task: Task, data: Data) -> Prediction:
        values = torch.stack([cast(Tensor, task.predict({n: p[m] for n, p in state.items()}, data)) for m in (0, 1)])
        return Normal(values.mean(0), values.std(0).mean().expand_as(values[0]))


@pytest.mark.parametrize(
    ("learner", "fault"),
    [
        (Running, "claims that its target is constant: gradient through the query"),
        pytest.param(Remembering, "what a task leaves to the next", marks=pytest.mark.slow),
        pytest.param(Answering, "query targets changed: predictions that change", marks=pytest.mark.slow),
        (Crowding, "a query input changed: change of the other predictions"),
    ],
)
def test_faults_of_the_family_are_found(learner: Any, fault: str) -> None:
    def make(bed: Suite) -> Learner:
        count = {"members": 2, "inner_lr": 0.1} if issubclass(learner, Ensemble) else {"particles": 2}
        made: Learner = learner(**FIXED | {"steps": 2}, **count)
        return made

    found = next(check for check in algorithm_checks(make) if check.name == fault)
    Remembering.last.clear()
    assert found.verdict == "FAULT"
