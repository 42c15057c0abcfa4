"""What reads a support as a set computes what its paper says, and faults planted in it are found."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal as Gaussian
from torch.distributions import kl_divergence

import bench
from algorithms.anp import ANP, Context
from algorithms.cnp import CNP
from algorithms.parts import sets
from algorithms.transformer import Transformer
from bench.certificate.algorithms import algorithm_checks
from bench.certificate.beds import Clusters, Curved, Pairs
from bench.certificate.checks import Check, double
from bench.core import seeds
from bench.core.errors import BenchError
from bench.core.task import SuiteTask
from bench.core.trees import shapes_of, tree_leaves, tree_map
from bench.core.types import Data, Episode, Learner, Meta, Normal, State, Task
from bench.learning.engines.vectorised import meta_gradient
from suites.gp import GP

COMMON: dict[str, Any] = {"outer_lr": 0.001, "meta_batch": 4}
CNP_, ANP_, READER = CNP(width=16, **COMMON), ANP(width=16, **COMMON), Transformer(width=8, layers=2, **COMMON)
ALL = pytest.mark.parametrize("learner", [CNP_, ANP_, READER], ids=["cnp", "anp", "transformer"])
BED = Curved()
TASK = SuiteTask(BED)


def begun(learner: Learner) -> tuple[Meta, Data]:
    """Meta and one task's noise, float64."""
    meta = double(learner.init(TASK, seeds.generator(1)))
    noise = double(learner.noise(shapes_of(meta), 3, seeds.generator(2)))
    return meta, tree_map(lambda x: x[0], noise)


def halves() -> tuple[Pairs, Pairs]:
    tasks = BED.sample(1, "train", seeds.generator(3))
    support, query = (tree_map(lambda x: x[0], BED.look_up(tasks, role)) for role in ("support", "query"))
    return support, query


def layers(meta: Meta, prefix: str, x: Tensor) -> Tensor:
    """Linear layers with ReLU between them, by their values."""
    names = sorted({int(name.removeprefix(prefix).split(".")[0]) for name in meta if name.startswith(prefix)})
    for i in names:
        x = x @ meta[f"{prefix}{i}.weight"].T + meta[f"{prefix}{i}.bias"]
        x = x if i == names[-1] else x.clamp(min=0)
    return x


def decoded(output: Tensor, least: float = 0.1) -> Gaussian:
    mean, raw = output[:, :1], output[:, 1:]
    return Gaussian(mean, least + (1 - least) * (1 + raw.exp()).log())


def test_a_cnp_decodes_the_mean_of_what_it_encodes() -> None:
    (meta, _), (support, query) = begun(CNP_), halves()
    r = torch.stack([layers(meta["encoder"], "", torch.cat([x, y])) for x, y in zip(*support, strict=True)]).mean(0)
    expected = decoded(layers(meta["decoder"], "", torch.stack([torch.cat([r, x]) for x in query.x])))
    found = CNP_.predict(meta, CNP_.step(meta, CNP_.start(meta, ()), TASK, support, 0), TASK, query)
    assert isinstance(found, Normal)
    torch.testing.assert_close(found, Normal(expected.mean, expected.stddev))
    assert [len(p) for p in begun(CNP(**COMMON))[0]["encoder"].values()] == [128] * 8
    assert [len(p) for p in begun(CNP(**COMMON))[0]["decoder"].values()] == [128, 128, 128, 128, 2, 2]


def attended(net: Meta, support: Pairs, query: Tensor) -> Tensor:
    """Heads one after the other, without torch's own."""
    width = net["attention.out_proj.weight"].shape[0]
    asked, keys = layers(net, "embed.", query), layers(net, "embed.", support.x)
    encoded = layers(net, "encoder.", torch.cat([support.x, support.y], -1))
    q, k, v = (x @ w.T for x, w in zip((asked, keys, encoded), net["attention.in_proj_weight"].chunk(3), strict=True))
    size = width // 8
    heads = []
    for h in range(8):
        own = slice(h * size, (h + 1) * size)
        heads.append(torch.softmax(q[:, own] @ k[:, own].T / size**0.5, -1) @ v[:, own])
    return torch.cat(heads, -1) @ net["attention.out_proj.weight"].T


def code(meta: Meta, pairs: Pairs) -> Gaussian:
    s = layers(meta["latent"], "encoder.", torch.cat([pairs.x, pairs.y], -1)).mean(0, keepdim=True)
    mean, raw = layers(meta["latent"], "code.", s)[0].chunk(2)
    return Gaussian(mean, 0.1 + 0.9 / (1 + (-raw).exp()))


def answered(meta: Meta, support: Pairs, z: Tensor, x: Tensor) -> Gaussian:
    found = attended(meta["net"], support, x)
    return decoded(layers(meta["net"], "decoder.", torch.cat([found, z.expand(len(x), -1), x], -1)))


def test_an_anp_predicts_from_one_draw_of_z_given_the_support() -> None:
    (meta, noise), (support, query) = begun(ANP_), halves()
    prior = code(meta, support)
    expected = answered(meta, support, prior.mean + prior.stddev * noise, query.x)
    found = ANP_.predict(meta, ANP_.step(meta, ANP_.start(meta, noise), TASK, support, 0), TASK, query)
    torch.testing.assert_close(found, Normal(expected.mean, expected.stddev))


def test_an_anp_learns_by_the_bound_on_the_density_of_support_and_query() -> None:
    (meta, noise), (support, query) = begun(ANP_), halves()
    both = Pairs(torch.cat([support.x, query.x]), torch.cat([support.y, query.y]))
    q, prior = code(meta, both), code(meta, support)
    density = answered(meta, support, q.mean + q.stddev * noise, both.x).log_prob(both.y).sum()
    expected = (kl_divergence(q, prior).sum() - density) / 10
    torch.testing.assert_close(ANP_.meta_loss(meta, TASK, Episode((support,), query, noise)), expected)


def test_a_transformer_is_torchs_encoder_in_which_no_query_sees_another() -> None:
    (meta, _), (support, query) = begun(READER), halves()
    net = meta["reader"]
    block = torch.nn.TransformerEncoderLayer(8, 4, 16, 0.0, torch.nn.functional.gelu, batch_first=True).double()
    outputs = []
    for x in query.x:  # each query alone, after the support
        tokens = support.x @ net["point.weight"].T + net["point.bias"] + support.y @ net["label.weight"].T
        asked = x @ net["point.weight"].T + net["point.bias"]
        tokens = torch.cat([tokens + net["label.bias"], asked.unsqueeze(0)])
        hidden = torch.zeros(6, 6, dtype=torch.bool)
        hidden[:5, 5] = True
        for i in range(2):
            names = {n.removeprefix(f"blocks.{i}."): p for n, p in net.items() if n.startswith(f"blocks.{i}.")}
            block.load_state_dict(names)
            tokens = block(tokens, hidden)
        hidden_units = torch.nn.functional.gelu(tokens[-1] @ net["answer.0.weight"].T + net["answer.0.bias"])
        outputs.append(hidden_units @ net["answer.2.weight"].T + net["answer.2.bias"])
    expected = decoded(torch.stack(outputs).detach(), 0.01)
    found = READER.predict(meta, READER.step(meta, READER.start(meta, ()), TASK, support, 0), TASK, query)
    torch.testing.assert_close(found, Normal(expected.mean, expected.stddev))


@ALL
def test_an_empty_support_is_as_none_and_gives_finite_gradients(learner: Learner) -> None:
    suite = GP()
    tasks = suite.sample(4, "train", seeds.generator(4))
    tasks = tasks._replace(mask=torch.zeros_like(tasks.mask))
    support, query = (suite.look_up(tasks, role) for role in ("support", "query"))
    task = SuiteTask(suite)
    meta = learner.init(task, seeds.generator(1))
    noise = learner.noise(shapes_of(meta), 4, seeds.generator(2))
    loss, gradient = meta_gradient(suite, learner)(meta, Episode((support,), query, noise))
    assert torch.stack([leaf.isfinite().all() for leaf in (loss, *tree_leaves(gradient))]).all()
    shown, asked, own = (tree_map(lambda x: x[0], data) for data in (support, query, noise))
    start = learner.start(meta, own)
    before, after = (
        learner.predict(meta, state, task, asked) for state in (start, learner.step(meta, start, task, shown, 0))
    )
    torch.testing.assert_close(before, after)


def test_an_image_comes_through_the_suites_network_and_classes_are_named_by_the_support() -> None:
    bed = Clusters()
    task = SuiteTask(bed)
    tasks = bed.sample(1, "train", seeds.generator(3))
    support, query = (tree_map(lambda x: x[0], bed.look_up(tasks, role)) for role in ("support", "query"))
    meta = double(READER.init(task, seeds.generator(1)))
    state = READER.step(meta, READER.start(meta, ()), task, support, 0)
    torch.testing.assert_close(state.x, task.features(meta["net"], support))
    assert torch.equal(state.y.argmax(-1), support.y)
    found = READER.predict(meta, state, task, query)
    torch.testing.assert_close(torch.as_tensor(found).exp().sum(-1), torch.ones(6, dtype=torch.float64))


@dataclass(frozen=True, kw_only=True)
class Positioned(Transformer):
    """Its tokens know their position in the support."""

    def step(self, meta: Meta, state: sets.Points, task: Task, data: Data, k: int) -> sets.Points:
        seen = super().step(meta, state, task, data, k)
        return seen._replace(x=seen.x + 0.1 * torch.arange(len(seen.x)).unsqueeze(-1))


@dataclass(frozen=True, kw_only=True)
class Foreseeing(ANP):
    """Its z is that of the query's targets at test as well."""

    def predict(self, meta: Meta, state: Context, task: Task, data: Data) -> Normal:
        z = self.latent(meta, sets.points(task, data))
        return self.answer(meta, state.points, z, state.draw, task.inputs(data))


@dataclass(frozen=True, kw_only=True)
class Counting(CNP):
    """Its mean is over padding as well."""

    def step(self, meta: Meta, state: State, task: Task, data: Data, k: int) -> State:
        return super().step(meta, state, task, Pairs(data.x, data.y), k)


@dataclass(frozen=True, kw_only=True)
class Diluting(CNP):
    """Leaves padding out of the sum, and not of the count."""

    def step(self, meta: Meta, state: State, task: Task, data: Data, k: int) -> State:
        r = super().step(meta, state, task, data, k)
        mask = task.mask(data)
        return r if mask is None else r * mask.sum() / len(mask)


def faults(learner: Callable[..., Learner]) -> list[Check]:
    checks = algorithm_checks(lambda bed: learner(width=8, **COMMON))
    return [check for check in checks if check.verdict == "FAULT"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("learner", "name"),
    [
        (Positioned, "support in another order: change of the prediction"),
        (Foreseeing, "query targets changed: predictions that change"),
        (Counting, "padding taken away: change of the prediction"),
        (Diluting, "padding taken away: change of the prediction"),
    ],
)
def test_a_fault_of_the_family_is_found_by_its_check(learner: Callable[..., Learner], name: str) -> None:
    assert name in [check.name for check in faults(learner)]


@pytest.mark.parametrize("asked", ["anp[width=30]", "transformer[width=30]"])
def test_a_width_that_heads_do_not_divide_is_refused_with_what_they_do(asked: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="a multiple of"):
        bench.run("sinusoid", asked, preset="smoke", out=tmp_path)


def test_all_are_of_the_family_and_read_the_support_once() -> None:
    for learner in (CNP_, ANP_, READER):
        assert (learner.family, learner.steps) == ("amortised", 1)
        assert "steps" not in {field.name for field in dataclasses.fields(learner)}
