"""T-net and MT-net compute what they say, and faults of their kind are found."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional

from algorithms.maml import MAML
from algorithms.mtnet import MTNet
from algorithms.tnet import MATRIX, TNet, warped
from bench.certificate.algorithms import algorithm_checks
from bench.certificate.beds import Bed, Curved, Labels
from bench.certificate.checks import double
from bench.core import seeds
from bench.core.gradients import descend, gradient
from bench.core.task import SuiteTask
from bench.core.trees import part, shapes_of
from bench.core.types import Data, Meta, Params, State, Task
from suites.bandit import Bandit
from suites.glyphs import Glyphs
from suites.polynomials import Polynomials

GIVEN: dict[str, Any] = {"inner_lr": 0.1, "steps": 2, "outer_lr": 0.01, "meta_batch": 4}


def turned(net: Params) -> Params:
    """With every T another random matrix."""
    generator = seeds.generator("turned")
    return {n: torch.randn(p.shape, generator=generator).to(p) if n.startswith(MATRIX) else p for n, p in net.items()}


def test_of_a_convolutional_network_t_is_a_1x1_convolution_after_each_convolution_and_a_matrix_after_the_head() -> None:
    suite = Glyphs()
    task = SuiteTask(suite)
    net = turned(double(TNet(**GIVEN).init(task, seeds.generator(0))))
    assert {n.removeprefix(MATRIX) for n in net if n.startswith(MATRIX)} == {*(f"convs.{i}" for i in range(4)), "head"}
    module = suite.module().double()
    module.load_state_dict({n: p for n, p in net.items() if not n.startswith(MATRIX)})
    for i, conv in enumerate(module.convs):  # type: ignore[arg-type]
        kernel = net[f"{MATRIX}convs.{i}"][:, :, None, None]
        conv.register_forward_hook(lambda _, __, out, t=kernel: functional.conv2d(out, t))
    module.head.register_forward_hook(lambda _, __, out: out @ net[f"{MATRIX}head"].T)  # type: ignore[union-attr]
    data = double(task.example("query"))
    expected = torch.log_softmax(module(task.inputs(data)), -1)[-len(task.targets(data)) :]
    torch.testing.assert_close(task.predict(warped(net), data), expected, rtol=1e-9, atol=1e-9)


def test_the_shifts_of_a_normalisation_have_no_t_and_stay() -> None:
    task = SuiteTask(Glyphs())
    tnet = TNet(**GIVEN)
    net = turned(tnet.init(task, seeds.generator(0)))
    after = tnet.step(net, net, task, task.example("support"), 0)
    moved = {name for name in net if not torch.equal(net[name], after[name])}
    assert moved == {f"{layer}.{p}" for layer in ("convs.0", "convs.1", "convs.2", "convs.3", "head") for p in PAIR}


PAIR = ("weight", "bias")


@pytest.mark.parametrize("bed", [Curved(), Labels()])
def test_a_t_net_begins_as_maml(bed: Bed) -> None:
    task, data = SuiteTask(bed), bed.look_up(bed.sample(1, "train", seeds.generator(1)), "support")
    data = part(data, 0)
    params = task.new_params(seeds.generator(0))
    net = TNet(**GIVEN).init(task, seeds.generator(0))
    found, expected = TNet(**GIVEN).step(net, net, task, data, 0), MAML(**GIVEN).step(params, params, task, data, 0)
    for name, value in warped(found).items():
        torch.testing.assert_close(value, expected[name])


def test_an_inner_step_is_masked_gradient_descent_in_w_by_the_network_of_t_w() -> None:
    suite = Polynomials()
    task, mtnet = SuiteTask(suite), MTNet(**GIVEN)
    data = double(task.example("support"))
    meta = double(mtnet.init(task, seeds.generator(0)))
    meta["net"] = turned(meta["net"])
    noise = part(double(mtnet.noise(shapes_of(meta), 1, seeds.generator(2))), 0)
    net, masks = mtnet.step(meta, mtnet.start(meta, noise), task, data, 0)

    w = {n: p.clone().requires_grad_() for n, p in meta["net"].items()}
    x = data.x
    for i in range(3):
        x = (x @ w[f"layers.{i}.weight"].T + w[f"layers.{i}.bias"]) @ w[f"{MATRIX}layers.{i}"].T
        x = torch.relu(x) if i < 2 else x
    (x - data.y).square().mean().backward()
    for i in range(3):
        mask = (noise[f"layers.{i}"] > 0).double()  # at ζ = 0
        assert torch.equal(masks[f"layers.{i}"], mask)
        for name, its in ((f"layers.{i}.weight", mask[:, None]), (f"layers.{i}.bias", mask)):
            torch.testing.assert_close(net[name], w[name].detach() - 0.1 * its * w[name].grad, rtol=1e-9, atol=1e-12)
        assert torch.equal(net[f"{MATRIX}layers.{i}"], meta["net"][f"{MATRIX}layers.{i}"])


def test_a_unit_is_free_in_as_many_tasks_as_the_sigmoid_of_its_logit_says_and_its_gradient_is_the_soft_masks() -> None:
    mtnet, task = MTNet(**GIVEN), SuiteTask(Polynomials())
    meta = mtnet.init(task, seeds.generator(0))
    meta["zeta"] = {n: torch.full_like(z, -1.0) for n, z in meta["zeta"].items()}
    noise = mtnet.noise(shapes_of(meta), 4000, seeds.generator(3))
    zeta = meta["zeta"]["layers.0"].requires_grad_()
    masks = mtnet.start(meta, {**noise, "layers.0": noise["layers.0"]})[1]["layers.0"]
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(masks.mean(0), torch.sigmoid(zeta), atol=0.03, rtol=0)
    (slope,) = torch.autograd.grad(masks.sum(), zeta)
    soft = torch.sigmoid(zeta.detach() + noise["layers.0"])
    torch.testing.assert_close(slope, (soft * (1 - soft)).sum(0))


def test_policies_have_t_on_their_layers() -> None:
    net = TNet(**GIVEN).init(SuiteTask(Bandit()), seeds.generator(0))
    assert sum(name.startswith(MATRIX) for name in net) == sum(name.endswith("weight") for name in net) > 0


@dataclass(frozen=True, kw_only=True)
class OneMask(MTNet):
    """Draws its masks once for a batch."""

    def noise(self, shapes: Meta, count: int, generator: Generator) -> Data:
        return {n: z.expand(count, -1) for n, z in super().noise(shapes, 1, generator).items()}


@dataclass(frozen=True, kw_only=True)
class Anywhere(MTNet):
    """Draws its masks from the global generator."""

    def noise(self, shapes: Meta, count: int, generator: Generator) -> Data:
        return {n: torch.randn(count, *z.shape) for n, z in shapes["zeta"].items()}


@dataclass(frozen=True, kw_only=True)
class Redrawn(MTNet):
    """Draws its masks anew in each step."""

    def step(self, meta: Meta, state: State, task: Task, data: Data, k: int) -> State:
        net, masks = state
        return super().step(meta, (net, {n: torch.bernoulli(m / 2) for n, m in masks.items()}), task, data, k)


@dataclass(frozen=True, kw_only=True)
class Valued(MTNet):
    """Draws its masks by the present values of Meta."""

    def noise(self, shapes: Meta, count: int, generator: Generator) -> Data:
        return {n: torch.sigmoid(z).expand(count, -1) for n, z in shapes["zeta"].items()}


class Still:
    """A task by the network with every T a constant."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def loss(self, params: Params, data: Data) -> Tensor:
        return self.task.loss(warped({n: p.detach() if n.startswith(MATRIX) else p for n, p in params.items()}), data)

    def adaptable(self, name: str) -> bool:
        return not name.startswith(MATRIX) and self.task.adaptable(name)


@dataclass(frozen=True, kw_only=True)
class Blind(TNet):
    """What T does to the inner step is not learned."""

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        return descend(state, gradient("reverse", Still(task))(state, data), self.inner_lr)


@pytest.mark.parametrize(
    ("learner", "name"),
    [
        (OneMask, "noise: the same for every task"),
        (Anywhere, "same seed, other bits after 20 iterations"),
        (Redrawn, "meta-gradient = central differences, stop-gradients frozen"),
        (Valued, "meta-gradient = central differences, stop-gradients frozen"),
        (Blind, "claims second order: plain central differences"),
    ],
)
def test_a_planted_fault_is_found(learner: type[TNet], name: str) -> None:
    check = next(check for check in algorithm_checks(lambda bed: learner(**GIVEN)) if check.name == name)
    assert check.verdict == "FAULT"
