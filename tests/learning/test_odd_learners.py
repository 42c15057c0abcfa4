"""Learners that hold, draw and predict what a stranger's may, and what is said of those that cannot be met."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from algorithms.maml import MAML
from bench.certificate.beds import Curved
from bench.core import seeds
from bench.core.errors import PluginError
from bench.core.gradients import descend, gradient
from bench.core.task import SuiteTask
from bench.core.trees import raw, tree_leaves
from bench.core.types import Data, Episode, Learner, Meta, Normal, Prediction, State, Task
from bench.learning import batches
from bench.learning.batches import episodes
from bench.learning.engines.vectorised import meta_gradient
from bench.learning.evaluate import trace
from bench.learning.outer.descent import Descent
from bench.learning.rollouts import episode
from bench.learning.training import begun
from bench.planning.networks import why_by_task
from suites.bandit import Bandit

FIELDS: dict[str, Any] = {"steps": 2, "inner_lr": 0.1, "outer_lr": 0.01, "meta_batch": 3}


@dataclass(frozen=True, kw_only=True)
class Holds(MAML):
    """MAML that holds something beside its parameters."""

    more: Callable[[Meta], Any]

    def init(self, task: Task, generator: Generator) -> Meta:
        """The network's, and more."""
        net = task.new_params(generator)
        return {"net": net, "more": self.more(net)}

    def start(self, meta: Meta, noise: Data) -> State:
        """The network's."""
        return meta["net"]

    def step(self, meta: Meta, state: State, task: Task, data: Data, k: int) -> State:
        """MAML's, at a rate that depends on the rest."""
        rest = sum(x.abs().sum() for x in tree_leaves(meta["more"]))
        return descend(state, gradient("reverse", task)(state, data), 0.1 + 0.01 * torch.tanh(rest))


@pytest.mark.parametrize(
    "more",
    [
        lambda net: dict(net),
        lambda net: next(iter(net.values())).mT,
        lambda net: torch.ones((), dtype=torch.float64).expand(3),
        lambda net: 2 * torch.ones(3, dtype=torch.float64, requires_grad=True),
        lambda net: nn.Parameter(torch.ones((), dtype=torch.float64)),
    ],
    ids=["the same tensors", "a view", "one number, expanded", "part of a graph", "a parameter"],
)
def test_what_is_held_moves_each_by_its_own_gradient(more: Callable[[Meta], Any]) -> None:
    suite, learner = Curved(), Holds(**FIELDS, more=more)
    meta = begun(learner, suite, seeds.generator(0))
    before = [x.clone() for x in tree_leaves(meta)]
    found = meta_gradient(suite, learner)(meta, next(episodes(suite, learner, lambda: meta, 0, 0)))[1]
    rule = Descent(learner.outer, meta, [])
    rule.update(found, Episode((), ()), 0, lambda: (torch.zeros(()), found))
    for old, new, slope in zip(before, tree_leaves(meta), tree_leaves(found), strict=True):
        # Adam's first step is its rate, against the gradient.
        torch.testing.assert_close(new, old - 0.01 * slope / (slope.abs() + 1e-8))


@pytest.mark.parametrize("more", [0.1, None, "adam"])
def test_what_is_held_and_no_tensor_is_refused_by_its_place(more: Any) -> None:
    learner = Holds(**FIELDS, more=lambda _: {"rate": more})
    with pytest.raises(PluginError, match=rf"init of Holds gives has at /more/rate a {type(more).__name__} .*torch"):
        why_by_task(Curved(), learner)


def test_a_complex_number_that_would_not_be_learned_is_refused() -> None:
    z = torch.tensor([0.6 + 0.8j])
    with pytest.raises(PluginError, match=r"'more' is a complex number.*view_as_real"):
        why_by_task(Curved(), Holds(**FIELDS, more=lambda _: z))
    assert why_by_task(Curved(), Holds(**FIELDS, more=lambda _: torch.view_as_real(z))) == ""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.complex64, torch.int64, torch.bool])
def test_every_type_has_its_bytes(dtype: torch.dtype) -> None:
    x = torch.tensor([[1, 0, 2], [3, 4, 5]]).to(dtype)
    assert len(raw(x)) == 6 * x.element_size()
    assert raw(x.mT) != raw(x) == raw(x.mT.contiguous().mT)
    assert len(raw(x[0, 0])) == x.element_size()


@dataclass(frozen=True, kw_only=True)
class Noisy(MAML):
    """MAML that begins beside its parameters."""

    def noise(self, shapes: Meta, count: int, generator: Generator) -> Data:
        """A shift for each parameter."""
        return {n: torch.randn(count, *p.shape, generator=generator, dtype=p.dtype) for n, p in shapes.items()}

    def start(self, meta: Meta, noise: Data) -> State:
        """Shifted."""
        return {name: p + 0.1 * noise[name] for name, p in meta.items()}


@pytest.fixture
def drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """For how many tasks noise is drawn at once, where it may not be for many."""
    counts: list[int] = []
    draw = Noisy.noise

    def counted(self: Noisy, shapes: Meta, count: int, generator: Generator) -> Data:
        counts.append(count)
        return draw(self, shapes, count, generator)

    monkeypatch.setattr(Noisy, "noise", counted)
    monkeypatch.setattr(batches, "NOISE", 2**13)
    return counts


def test_large_noise_is_drawn_for_one_iteration_at_a_time_wherever_a_run_was_cut(drawn_at_once: list[int]) -> None:
    suite, learner = Curved(), Noisy(**FIELDS)
    meta = begun(learner, suite, seeds.generator(0))
    whole = list(islice(episodes(suite, learner, lambda: meta, 0, 0), 70))
    assert max(drawn_at_once) == learner.meta_batch
    cut = next(episodes(suite, learner, lambda: meta, 0, 66))
    assert all(map(torch.equal, tree_leaves(cut), tree_leaves(whole[66])))
    assert not torch.equal(whole[0].noise["0.weight"], whole[1].noise["0.weight"])
    maml = MAML(**FIELDS)
    plain = next(episodes(suite, maml, lambda: meta, 0, 0))
    assert all(map(torch.equal, tree_leaves(plain.query), tree_leaves(whole[0].query)))


def test_large_noise_is_drawn_for_the_tasks_that_are_scored_together(drawn_at_once: list[int]) -> None:
    suite, learner = Curved(), Noisy(**FIELDS)
    meta = begun(learner, suite, seeds.generator(0))
    scores = trace(suite, learner, meta, suite.sample(120, "test", seeds.generator(1)), 1)["loss"]
    assert scores.shape == (120, 2)
    assert max(drawn_at_once) == 50


@dataclass(frozen=True, kw_only=True)
class Says(MAML):
    """MAML that predicts something else."""

    what: Callable[[Tensor], Any]

    def predict(self, meta: Meta, state: State, task: Task, data: Data) -> Prediction:
        """What is made of MAML's prediction."""
        said: Prediction = self.what(task.predict(state, data))
        return said


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (lambda y: y.squeeze(-1), r"shape \[N\], where Curved wants \[N, 1\]"),
        (lambda y: Normal(y.squeeze(-1), y.squeeze(-1).exp()), r"shape \[5\], where Curved wants \[5, 1\]"),
        (lambda y: Normal(y, y.new_tensor(0.5)), r"a mean of the shape \[5, 1\] and a std of \[\]: give std.expand_as"),
        (lambda y: torch.cat([y, y], -1), r"shape \[N, 2\], where Curved wants \[N, 1\]"),
        (lambda y: (y, torch.ones_like(y)), "not a tuple of builtins"),
        (lambda y: torch.distributions.Normal(y, torch.ones_like(y)), "not a Normal of torch.distributions.normal"),
    ],
)
def test_a_prediction_that_would_be_broadcast_is_refused(what: Callable[[Tensor], Any], said: str) -> None:
    suite = Curved()
    learner: Learner = Says(**FIELDS, what=what)
    with pytest.raises(PluginError, match=said):
        why_by_task(suite, learner)
    task = SuiteTask(suite)
    data, params = task.example("query"), task.new_params(seeds.generator(0))
    with pytest.raises(PluginError, match=said):
        task.score(what(task.predict(params, data)), data)


@dataclass(frozen=True, kw_only=True)
class Counts(MAML):
    """MAML that counts its steps, in a number of Python's."""

    def start(self, meta: Meta, noise: Data) -> State:
        """None yet."""
        return {"net": meta, "count": 0}

    def step(self, meta: Meta, state: State, task: Task, data: Data, k: int) -> State:
        """One more."""
        return {"net": super().step(meta, state["net"], task, data, k), "count": state["count"] + 1}

    def params(self, meta: Meta, state: State) -> Any:
        """The network's."""
        return state["net"]


def test_a_state_that_acts_is_of_tensors_alone() -> None:
    suite = Bandit(trajectories=2)
    meta, tasks = suite.new_params(seeds.generator(0)), suite.sample(2, "train", seeds.generator(1))
    with pytest.raises(PluginError, match=r"state that Counts gives from start has at /count a int \(0\)"):
        episode(suite, Counts(**FIELDS), meta, tasks, (), seeds.generator(2), "cpu")
