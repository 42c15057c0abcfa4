"""The networks that an image suite may be given: their sizes by hand, their norm, and their gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import bench
from algorithms.fomaml import FOMAML
from algorithms.maml import MAML
from bench.core import seeds
from bench.core.task import SuiteTask
from bench.core.trees import tree_map
from bench.core.types import Episode
from bench.learning.engines.vectorised import meta_gradient
from suites.cifar_fs import CifarFS
from suites.glyphs import Glyphs
from suites.mini_imagenet import MiniImagenet
from suites.omniglot import Omniglot
from suites.parts.fewshot import Images
from suites.parts.nets import BatchNorm, Residual, ResNet12

# A block from a to b filters: 3x3 kernels a·b·9 + 2·b·b·9, the shortcut's a·b, scale and shift of four norms 8·b.
BODY = {  # without the head, of colour images
    "conv4-64": (3 * 64 * 9 + 64) + 3 * (64 * 64 * 9 + 64) + 4 * 2 * 64,
    "resnet12": (1_728 + 73_728 + 192 + 512)
    + (92_160 + 460_800 + 10_240 + 1_280)
    + (460_800 + 1_843_200 + 51_200 + 2_560)
    + (1_843_200 + 7_372_800 + 204_800 + 5_120),
}
GREY = {"conv4-64": -2 * 64 * 9, "resnet12": -2 * 64 * 9 - 2 * 64}  # what two channels less take off


def test_the_bodies_have_the_sizes_that_are_quoted_for_them() -> None:
    assert BODY == {"conv4-64": 113_088, "resnet12": 12_424_320}  # "0.113M" and "12.4M"


@pytest.mark.parametrize(
    ("suite", "net", "features"),
    [
        (Omniglot, "conv4-64", 64),
        (Glyphs, "conv4-64", 64),
        (CifarFS, "conv4-64", 64 * 2 * 2),
        (MiniImagenet, "conv4-64", 64 * 5 * 5),
        (Glyphs, "resnet12", 640),
        (CifarFS, "resnet12", 640),
        (MiniImagenet, "resnet12", 640),
    ],
)
def test_a_network_has_as_many_parameters_as_by_hand_and_answers_in_ways(suite: Any, net: str, features: int) -> None:
    made: Images = suite(net=net, ways=7)
    module = made.module()
    grey = GREY[net] if len(made.image_shape) == 2 else 0
    assert sum(p.numel() for p in module.parameters()) == BODY[net] + grey + features * 7 + 7
    shape = made.image_shape if len(made.image_shape) == 3 else (1, *made.image_shape)
    assert module(torch.rand(2, *shape)).shape == (2, 7)
    assert made.head == {"head.weight", "head.bias"}
    assert dict(module.named_parameters())["head.weight"].shape == (7, features)


def test_batch_norm_is_torchs_own_in_training_mode_and_goes_by_the_support_where_it_is_told_to() -> None:
    generator = seeds.generator("norm")
    x = torch.randn(6, 3, 4, 5, generator=generator, dtype=torch.float64)
    ours, theirs = BatchNorm(3).double(), nn.BatchNorm2d(3).double()
    for values, own in ((ours.scale, theirs.weight), (ours.shift, theirs.bias)):
        values.data = own.data = torch.randn(3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours(x, 4)[:4], theirs(x[:4]), rtol=1e-12, atol=1e-12)
    other = torch.cat([x[:5], x[5:] + 1])
    assert torch.equal(ours(x, 4)[:5], ours(other, 4)[:5])  # inductive: no query sees another


def test_a_residual_block_is_three_convolutions_beside_one() -> None:
    block = Residual(2, 3)
    x = torch.randn(4, 2, 6, 6, generator=seeds.generator("block"))
    norm = [nn.BatchNorm2d(3) for _ in range(4)]
    y = functional.leaky_relu(norm[0](block.convs[0](x)), 0.1)
    y = functional.leaky_relu(norm[1](block.convs[1](y)), 0.1)
    y = norm[2](block.convs[2](y)) + norm[3](block.shortcut(x))
    torch.testing.assert_close(block(x), functional.max_pool2d(functional.leaky_relu(y, 0.1), 2))


def test_residual_weights_start_as_he_proposed() -> None:
    weight = dict(ResNet12(5, 3).named_parameters())["blocks.2.convs.1.weight"]
    assert weight.std().item() == pytest.approx((2 / (320 * 9)) ** 0.5, rel=0.01)


@pytest.mark.parametrize("net", ["conv4-64", "resnet12"])
def test_scales_and_shifts_of_normalisation_are_not_adapted(net: Any) -> None:
    suite = Glyphs(net=net)
    still = [name for name in suite.new_params(seeds.generator(0)) if not suite.adaptable(name)]
    assert all(name.endswith((".scale", ".shift")) for name in still)
    assert len(still) == {"conv4-64": 8, "resnet12": 32}[net]


def double_backward(suite: Images, meta: dict[str, Tensor], episodes: Episode, rate: float) -> dict[str, Tensor]:
    """MAML's meta-gradient after one inner step, by autograd on a plain module, one task after the other."""
    live = {name: p.clone().requires_grad_() for name, p in meta.items()}
    module = suite.module().double()
    total = torch.zeros((), dtype=torch.float64)
    for images, labels, asked, answers in zip(*episodes.support[0], *episodes.query, strict=True):
        loss = functional.cross_entropy(torch.func.functional_call(module, live, (images,)), labels)
        names = [name for name in live if suite.adaptable(name)]
        slopes = dict(zip(names, torch.autograd.grad(loss, [live[n] for n in names], create_graph=True), strict=True))
        adapted = {name: p - rate * slopes[name] if name in slopes else p for name, p in live.items()}
        total = total + functional.cross_entropy(torch.func.functional_call(module, adapted, (asked,)), answers)
    return dict(zip(live, torch.autograd.grad(total / len(episodes.query[1]), list(live.values())), strict=True))


@pytest.mark.parametrize("net", ["conv4-64", "resnet12"])
@pytest.mark.parametrize("operator", ["reverse", "mixed"])
def test_the_meta_gradient_is_that_of_a_plain_loop(net: Any, operator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResNet12, "filters", (4, 5, 6, 7))  # the same blocks, narrower
    suite = Glyphs(net=net, ways=2, shots=2)
    tasks = suite.sample(2, "train", seeds.generator(0))
    shown = (suite.look_up(tasks, role) for role in ("support", "query"))  # type: ignore[arg-type]
    support, query = (data._replace(images=data.images.double()) for data in shown)
    meta = {name: p.double() for name, p in suite.new_params(seeds.generator(1)).items()}
    algorithm = MAML(inner_lr=0.3, steps=1, outer_lr=0.001, meta_batch=2, gradient=operator)
    _, ours = meta_gradient(suite, algorithm)(meta, Episode((support,), query))
    theirs = double_backward(suite, meta, Episode((support,), query), 0.3)
    for name, slope in theirs.items():
        torch.testing.assert_close(ours[name], slope, rtol=1e-7, atol=1e-10, msg=lambda said, n=name: f"{n}: {said}")


@pytest.mark.parametrize("suite", [Glyphs, CifarFS])
@pytest.mark.parametrize("net", ["conv4-64", "resnet12"])
def test_the_protocols_rate_is_the_networks_own(suite: Any, net: str) -> None:
    assert suite(net=net, ways=5).protocol["inner_lr"].value == pytest.approx({"conv4-64": 0.05, "resnet12": 0.01}[net])


@pytest.mark.parametrize("net", ["conv4-64", "resnet12"])
def test_three_steps_at_the_protocols_rate_lower_a_fresh_networks_loss(net: Any) -> None:
    suite = Glyphs(net=net)
    task, params = SuiteTask(suite), suite.new_params(seeds.generator(0))
    support = tree_map(lambda x: x[0], suite.look_up(suite.sample(1, "train", seeds.generator(1)), "support"))
    algorithm = FOMAML(inner_lr=suite.protocol["inner_lr"].value, steps=1, outer_lr=0.001, meta_batch=1)
    state = params
    for k in range(3):
        state = {n: p.detach() for n, p in algorithm.step(params, state, task, support, k).items()}
    assert task.loss(state, support) < 0.5 * task.loss(params, support)


@pytest.mark.forms(1)
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("net", ["conv4-64", "resnet12"])
def test_it_is_trained_and_scored_by_name(net: str, tmp_path: Path) -> None:
    scores = bench.run(
        f"glyphs[net={net},ways=2]", "maml[meta_batch=2]", preset="smoke", iterations=3, engine="eager", threads=1,
        out=tmp_path,
    )  # fmt: skip
    assert scores["value"].notna().all()
    assert set(scores["suite"]) == {f"glyphs[net={net},ways=2]"}
