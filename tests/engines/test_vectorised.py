"""Our engine: products in place of convolutions, and the compiler, change nothing but the speed."""

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map

from algorithms.maml import MAML
from algorithms.metasgd import MetaSGD
from bench.core import seeds
from bench.core.types import Episode, Learner, Suite
from bench.engines.convolutions import ConvolutionsAsProducts
from bench.engines.vectorised import Compiled, meta_gradient
from suites.glyphs import Glyphs
from suites.sinusoid import Sinusoid


@pytest.mark.parametrize(
    ("stride", "padding", "size"), list(itertools.product([1, 2, (2, 1)], [0, 1, (1, 0)], [(7, 7), (6, 9)]))
)
def test_products_equal_convolutions_in_value_and_gradient(
    stride: int | tuple[int, int], padding: int | tuple[int, int], size: tuple[int, int]
) -> None:
    generator = seeds.generator("conv")
    shapes = ((3, 2, *size), (4, 2, 3, 3), (4,))
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]

    def both(*x: Tensor) -> Tensor:
        return functional.conv2d(*x, stride=stride, padding=padding)

    expected = both(*inputs)
    with ConvolutionsAsProducts():
        found = both(*inputs)
    cotangent = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(found, expected)
    for a, b in zip(*(torch.autograd.grad(y, inputs, cotangent) for y in (found, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_grouped_and_dilated_convolutions_are_left_alone() -> None:
    x = torch.randn(2, 4, 8, 8, generator=seeds.generator("x"))
    for module in (nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, dilation=2), nn.Conv2d(4, 4, 3, padding="same")):
        expected = module(x)
        with ConvolutionsAsProducts():
            torch.testing.assert_close(module(x), expected)


def test_per_task_kernels_batch() -> None:
    x = torch.randn(3, 2, 1, 5, 5, generator=seeds.generator("x"))
    w = torch.randn(3, 4, 1, 3, 3, generator=seeds.generator("w"))
    expected = torch.stack([functional.conv2d(a, b) for a, b in zip(x, w, strict=True)])
    with ConvolutionsAsProducts():
        torch.testing.assert_close(vmap(functional.conv2d)(x, w), expected)


def case(suite: Suite, steps: int, tasks: int = 4) -> tuple[dict[str, Tensor], Episode]:
    some = suite.sample(tasks, "train", seeds.generator(0))
    support, query = (suite.collect(some, None, role, 0, seeds.generator(0)) for role in ("support", "query"))
    return suite.new_params(seeds.generator(1)), Episode((support,) * steps, query)


def relative(ours: object, theirs: object) -> float:
    pairs = list(zip(tree_leaves(ours), tree_leaves(theirs), strict=True))
    distance = sum((a.double() - b.double()).square().sum().item() for a, b in pairs) ** 0.5
    return float(distance / sum(b.double().square().sum().item() for _, b in pairs) ** 0.5)


@pytest.mark.parametrize("operator", [
    "first_order",
    pytest.param("reverse", marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    pytest.param("mixed", marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
])  # fmt: skip
def test_compiled_equals_eager(operator: str) -> None:
    algorithm = MAML(inner_lr=0.01, steps=1, outer_lr=0.001, meta_batch=4, gradient=operator)  # type: ignore[arg-type]
    suite = Sinusoid()
    meta, episodes = case(suite, 1)
    eager, compiled = (meta_gradient(suite, algorithm, compiled=c)(meta, episodes) for c in (False, True))
    assert relative(compiled, eager) < 1e-5


@pytest.mark.parametrize("algorithm", [
    MAML(inner_lr=0.5, steps=2, outer_lr=0.001, meta_batch=4),
    MetaSGD(steps=2, outer_lr=0.001, meta_batch=4),
])  # fmt: skip
def test_chunked_equals_unchunked_in_float32(algorithm: Learner) -> None:
    suite = Glyphs(ways=3)
    _, episodes = case(suite, 2)
    meta = algorithm.init(suite.new_params, seeds.generator(1))
    whole, parts = (meta_gradient(suite, algorithm, chunk=c)(meta, episodes) for c in (None, 3))
    assert relative(parts, whole) < 1e-5


def test_float32_gradients_stay_close_to_float64() -> None:
    suite = Glyphs(ways=3)
    algorithm = MAML(inner_lr=1.2, steps=1, outer_lr=0.001, meta_batch=4)
    meta, episodes = case(suite, 1)

    def double(tree: object) -> object:
        return tree_map(lambda x: x.double() if x.is_floating_point() else x, tree)

    gradient = meta_gradient(suite, algorithm)
    assert relative(gradient(meta, episodes), gradient(double(meta), double(episodes))) < 1e-3  # type: ignore[arg-type]


def test_a_meta_loss_that_is_no_scalar_is_refused() -> None:
    class Vector(MAML):
        def meta_loss(self, meta: object, loss: object, episode: Episode) -> Tensor:
            return torch.ones(3) * meta["layers.0.bias"].sum()  # type: ignore[index]

    algorithm = Vector(inner_lr=0.1, steps=1, outer_lr=0.001, meta_batch=4)
    with pytest.raises(ValueError, match=r"scalar.*\(3,\)"):
        meta_gradient(Sinusoid(), algorithm)(*case(Sinusoid(), 1))


def test_compilation_happens_once_per_shape() -> None:
    compiled = Compiled(lambda x: (2 * x,))
    for size in (3, 3, 4):
        torch.testing.assert_close(compiled(torch.ones(size))[0], 2 * torch.ones(size))
    assert len(compiled.compiled) == 2
