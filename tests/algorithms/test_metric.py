"""Methods that compare features: against plain computations, with absent examples, and with planted faults."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad
from torch.nn import functional

from algorithms.baselinepp import BaselinePP
from algorithms.matching import Matching
from algorithms.protonet import ProtoNet
from algorithms.r2d2 import R2D2
from algorithms.simpleshot import CENTRE, SimpleShot
from bench.certificate.algorithms import algorithm_checks
from bench.certificate.beds import Clusters, Curved, Pairs
from bench.core import seeds
from bench.core.outer import Adam, Steps
from bench.core.task import SuiteTask
from bench.core.trees import tree_leaves, tree_map
from bench.core.types import Data, Episode, Learner, Meta, Params, Prediction, State, Task
from suites.glyphs import Glyphs

GIVEN: dict[str, Any] = {"outer_lr": 0.01, "meta_batch": 4}
METHODS = [ProtoNet, Matching, R2D2, SimpleShot, BaselinePP]
WAYS, SHOTS = 3, 4


class Masked(NamedTuple):
    x: Tensor
    y: Tensor
    mask: Tensor


class Scene(NamedTuple):
    """A learner after its support, on clusters of three classes."""

    task: SuiteTask
    meta: Meta
    support: Data
    query: Data
    learner: Learner

    def after(self, support: Data) -> Prediction:
        state = self.learner.step(self.meta, self.learner.start(self.meta, ()), self.task, support, 0)
        return self.learner.predict(self.meta, state, self.task, self.query)


def scene(method: type[Learner], shots: int = SHOTS, **fields: Any) -> Scene:
    bed, learner = Clusters(), method(**GIVEN | fields)
    task, generator = SuiteTask(bed), seeds.generator("metric")
    meta = tree_map(Tensor.double, learner.init(task, generator))
    centres = torch.randn(WAYS, 1, 5, generator=generator, dtype=torch.float64)

    def drawn(count: int) -> Pairs:
        x = centres + torch.randn(WAYS, count, 5, generator=generator, dtype=torch.float64)
        mixed = torch.randperm(WAYS * count, generator=generator)
        return Pairs(x.flatten(0, 1)[mixed], torch.arange(WAYS).repeat_interleave(count)[mixed])

    return Scene(task, meta, drawn(shots), drawn(5), learner)


def net(meta: Meta) -> Params:
    return meta.get("params", {name: value for name, value in meta.items() if name != CENTRE})


def features_of(scene: Scene, data: Data) -> Tensor:
    params = net(scene.meta)
    return torch.tanh(data.x @ params["0.weight"].T + params["0.bias"])


def by_class(scene: Scene, features: Tensor) -> Tensor:
    return torch.stack([features[scene.support.y == c].mean(0) for c in range(WAYS)])


def test_prototypes_are_means_and_the_nearest_is_the_answer() -> None:
    one = scene(ProtoNet)
    means, asked = by_class(one, features_of(one, one.support)), features_of(one, one.query)
    distances = torch.tensor([[sum((q - p) ** 2) for p in means] for q in asked])
    torch.testing.assert_close(one.after(one.support), torch.log_softmax(-distances, -1))


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_matching_weighs_the_support_s_labels_by_a_softmax_of_cosines(scale: float) -> None:
    one = scene(Matching, scale=scale)
    keys, asked = features_of(one, one.support), features_of(one, one.query)
    weights = torch.softmax(scale * functional.cosine_similarity(asked.unsqueeze(1), keys, dim=-1), -1)
    expected = torch.stack([weights[:, one.support.y == c].sum(1) for c in range(WAYS)], 1)
    torch.testing.assert_close(one.after(one.support).exp(), expected)


@pytest.mark.parametrize("shots", [1, 6])  # fewer examples than features, and more
def test_the_closed_form_is_the_minimum_of_the_ridge_regression(shots: int) -> None:
    one = scene(R2D2, shots=shots, ridge=0.3, scale=7.0)
    x, asked = (functional.pad(features_of(one, d), (0, 1), value=1.0) for d in (one.support, one.query))
    y = functional.one_hot(one.support.y, WAYS).double()
    head = torch.linalg.inv(x.T @ x / len(x) + 0.3 * torch.eye(9, dtype=torch.float64)) @ x.T @ y / len(x)

    def objective(w: Tensor) -> Tensor:
        return (x @ w - y).square().sum(-1).mean() + 0.3 * w.square().sum()

    assert grad(objective)(head).abs().max() < 1e-12
    expected = torch.log_softmax(7.0 * asked @ head, -1)
    torch.testing.assert_close(one.after(one.support), expected, atol=1e-6, rtol=1e-6)  # 0.3 is drawn in float32


def test_the_closed_form_regresses_numbers_and_leaves_absent_ones_out() -> None:
    learner, task = R2D2(**GIVEN, ridge=0.3), SuiteTask(Curved())
    meta = tree_map(Tensor.double, learner.init(task, seeds.generator(1)))
    support, there = task.example("support"), torch.tensor([True, False, True, True, True])
    state = learner.step(meta, (), task, Masked(support.x, torch.where(there.unsqueeze(1), support.y, 99.0), there), 0)
    p = meta["params"]
    x = functional.pad(torch.tanh(support.x[there] @ p["0.weight"].T + p["0.bias"]), (0, 1), value=1.0)
    head = torch.linalg.solve(x.T @ x + 4 * 0.3 * torch.eye(7, dtype=torch.float64), x.T @ support.y[there])
    predicted = learner.predict(meta, state, task, Pairs(support.x[there], support.y[there]))
    torch.testing.assert_close(predicted, x @ head, atol=1e-6, rtol=1e-6)
    assert not learner.predict(meta, (), task, support).any()


@pytest.mark.parametrize("learned", [True, False])
def test_the_ridge_is_learned_if_it_is_to_be(learned: bool) -> None:
    one = scene(R2D2, learn_ridge=learned)
    episode = Episode((one.support,), one.query)
    slope = grad(lambda meta: one.learner.meta_loss(meta, one.task, episode))(one.meta)
    assert bool(slope["ridge"] != 0) == learned and slope["scale"] != 0


@pytest.mark.parametrize("transform", ["UN", "L2N", "CL2N"])
def test_simpleshot_compares_centred_features_of_length_one(transform: str) -> None:
    one = scene(SimpleShot, transform=transform)

    def changed(features: Tensor) -> Tensor:
        features = features - one.meta[CENTRE] if transform == "CL2N" else features
        return features if transform == "UN" else features / features.square().sum(1, keepdim=True).sqrt()

    means, asked = by_class(one, changed(features_of(one, one.support))), changed(features_of(one, one.query))
    torch.testing.assert_close(one.after(one.support), torch.log_softmax(-(torch.cdist(asked, means) ** 2), -1))


def test_simpleshot_s_centre_moves_to_the_mean_of_features_which_do_not_feel_it() -> None:
    one = scene(SimpleShot)
    slope = grad(lambda meta: one.learner.meta_loss(meta, one.task, Episode((), one.query)))(one.meta)
    torch.testing.assert_close(slope.pop(CENTRE), one.meta[CENTRE] - features_of(one, one.query).mean(0))
    torch.testing.assert_close(slope, grad(lambda params: one.task.loss(params, one.query))(net(one.meta)))


@pytest.mark.parametrize("shots", [1, 3])
def test_baselinepp_s_head_is_torch_s_sgd_on_cosines(shots: int) -> None:
    one = scene(BaselinePP, shots=shots, epochs=20)
    keys, asked = (features_of(one, data) for data in (one.support, one.query))
    keys, asked = (f / f.norm(dim=1, keepdim=True) for f in (keys, asked))
    old = one.meta["2.weight"]
    head = nn.Parameter(old / old.norm(dim=1, keepdim=True) / 3**0.5)  # as long as U(±1 / sqrt(F)) makes them
    rule = torch.optim.SGD([head], 0.01, momentum=0.9, dampening=0.9, weight_decay=0.001)
    for _ in range(20 * -(-WAYS * shots // 4)):  # as many updates as there would be batches of 4
        rule.zero_grad()
        functional.cross_entropy(2 * keys @ head.T, one.support.y).backward()
        rule.step()
    torch.testing.assert_close(one.after(one.support), torch.log_softmax(2 * asked @ head.detach().T, -1))


def test_baselinepp_trains_once_and_pretrains_on_cosines() -> None:
    one = scene(BaselinePP)
    state = one.learner.step(one.meta, (), one.task, one.support, 0)
    assert one.learner.step(one.meta, state, one.task, one.support, 1) is state
    asked = functional.normalize(features_of(one, one.query), dim=1)
    expected = functional.cross_entropy(2 * asked @ one.meta["2.weight"].T, one.query.y)
    torch.testing.assert_close(one.learner.meta_loss(one.meta, one.task, Episode((), one.query)), expected)


@pytest.mark.parametrize("method", METHODS)
def test_absent_examples_have_no_say(method: type[Learner]) -> None:
    one = scene(method, **({"epochs": 4} if method is BaselinePP else {}))
    there = torch.ones(len(one.support.y), dtype=torch.bool)
    there[[0, 5, 7]] = False
    padded = Masked(torch.where(there.unsqueeze(1), one.support.x, 1e3), one.support.y, there)
    expected = one.after(tree_map(lambda x: x[there], one.support))
    torch.testing.assert_close(one.after(padded), expected)  # 12 and 9 examples: three batches of 4 either way


@pytest.mark.parametrize("method", METHODS)
def test_a_class_without_an_example_is_possible_and_has_a_gradient(method: type[Learner]) -> None:
    one = scene(method)
    some = tree_map(lambda leaf: leaf[one.support.y > 0], one.support)

    def loss(meta: Meta) -> Tensor:
        return one.task.losses(one._replace(meta=meta).after(some), one.query).mean()

    assert loss(one.meta) < 100
    assert all(leaf.isfinite().all() for leaf in tree_leaves(grad(loss)(one.meta)))


@pytest.mark.parametrize("method", METHODS)
def test_before_the_support_is_seen_all_classes_are_alike(method: type[Learner]) -> None:
    one = scene(method)
    before = one.learner.predict(one.meta, one.learner.start(one.meta, ()), one.task, one.query)
    torch.testing.assert_close(before.exp(), torch.full_like(before, 1 / WAYS))


@pytest.mark.parametrize("norm", ["inductive", "transductive"])
@pytest.mark.parametrize("method", METHODS)
def test_a_query_is_judged_by_the_others_where_they_normalise_it(method: type[Learner], norm: Any) -> None:
    suite = Glyphs(norm=norm, ways=2, queries=2)
    learner = method(**GIVEN | ({"epochs": 2} if method is BaselinePP else {}))
    task = SuiteTask(suite)
    meta = learner.init(task, seeds.generator(0))
    support, query = task.example("support"), task.example("query")
    state = learner.step(meta, (), task, support, 0)
    images = query.images.clone()
    images[-1] = 1 - images[-1]
    one, other = (learner.predict(meta, state, task, q)[:-1] for q in (query, query._replace(images=images)))
    assert torch.allclose(one, other, atol=1e-5) == (norm == "inductive")


def test_a_rate_falls_by_steps() -> None:
    outer = replace(ProtoNet(**GIVEN).outer, rate=0.001)
    assert [outer.rate_at(i) for i in (0, 1999, 2000, 4000)] == [0.001, 0.001, 0.0005, 0.00025]
    assert outer.over(10_000) == outer  # nothing is left open for the run's length to fill
    floored = Adam(1.0, schedule=Steps(1, 0.1), least=0.05)
    assert [floored.rate_at(i) for i in (1, 2)] == [0.1, 0.05]


@dataclass(frozen=True, kw_only=True)
class Refining(ProtoNet):
    """Its prototypes move to where the query's images lie."""

    def predict(self, meta: Meta, state: State, task: Task, data: Data) -> Prediction:
        before = super().predict(meta, state, task, data)
        if not isinstance(state, Tensor):
            return before
        asked, mine = task.features(meta, data), before.exp()
        return super().predict(meta, (state + mine.mT @ asked) / (1 + mine.sum(0).unsqueeze(1)), task, data)


@dataclass(frozen=True, kw_only=True)
class Rescaling(ProtoNet):
    """Its distances are in units of the query's mean distance."""

    def predict(self, meta: Meta, state: State, task: Task, data: Data) -> Prediction:
        if not isinstance(state, Tensor):
            return super().predict(meta, state, task, data)
        gaps = (task.features(meta, data).unsqueeze(1) - state).square().sum(-1)
        return torch.log_softmax(-gaps / gaps.mean(), -1)


@dataclass(frozen=True, kw_only=True)
class Forgetting(ProtoNet):
    """Its prototypes are running means, in which the last example of a class weighs most."""

    def step(self, meta: Meta, state: State, task: Task, data: Data, k: int) -> State:
        features, rows = task.features(meta, data), functional.one_hot(task.targets(data), task.outputs)
        prototypes = torch.zeros_like(features[: task.outputs])
        for feature, row in zip(features, rows.unsqueeze(-1), strict=True):
            prototypes = torch.where(row.bool(), 0.5 * prototypes + 0.5 * feature, prototypes)
        return prototypes


@dataclass(frozen=True, kw_only=True)
class Lasting(ProtoNet):
    """The prototypes of one task are a part of the next's."""

    last: ClassVar[list[Tensor]] = []

    def step(self, meta: Meta, state: State, task: Task, data: Data, k: int) -> State:
        prototypes = super().step(meta, state, task, data, k)
        prototypes = prototypes + 0.1 * self.last[-1] if self.last else prototypes
        if not torch._C._functorch.is_functorch_wrapped_tensor(prototypes):
            self.last.append(prototypes.detach())
        return prototypes


def faults_of(method: type[Learner]) -> set[str]:
    return {check.name for check in algorithm_checks(lambda bed: method(**GIVEN)) if check.verdict == "FAULT"}


@pytest.mark.parametrize(
    ("method", "fault"),
    [
        (Refining, "a query input changed: change of the other predictions"),
        (Rescaling, "a query input changed: change of the other predictions"),
        (Forgetting, "support in another order: change of the prediction"),
    ],
)
def test_a_prototype_that_sees_what_it_must_not_is_found(method: type[ProtoNet], fault: str) -> None:
    assert faults_of(method) == {fault}


def test_a_prototype_that_lasts_into_the_next_task_is_found() -> None:
    found = faults_of(Lasting)
    Lasting.last.clear()
    assert "what a task leaves to the next" in found
