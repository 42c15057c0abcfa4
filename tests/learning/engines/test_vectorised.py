"""Our engine: products in place of convolutions, and the compiler, change nothing but the speed."""

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from algorithms.maml import MAML
from algorithms.metasgd import MetaSGD
from bench.certificate.precision import CLOSE, off_double
from bench.core import seeds
from bench.core.task import SuiteTask
from bench.core.trees import tree_leaves, tree_map
from bench.core.types import Episode, Learner, Suite
from bench.learning.engines import convolutions, vectorised
from bench.learning.engines.convolutions import ConvolutionsAsProducts
from bench.learning.engines.sums import STAGED
from bench.learning.engines.vectorised import Compiled, meta_gradient
from suites.glyphs import Glyphs
from suites.omniglot import Omniglot
from suites.sinusoid import Sinusoid


@pytest.mark.parametrize(
    ("stride", "padding", "size"), list(itertools.product([1, 2, (2, 1)], [0, 1, (1, 0)], [(7, 7), (6, 9)]))
)
def test_products_equal_convolutions_in_value_and_gradient(
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    size: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(convolutions, "MOST_COPIES", 99)  # all of them, whether it pays or not
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


@pytest.mark.parametrize("adjoint", [False, True])
def test_patches_and_their_adjoint_are_derivatives_of_each_other(adjoint: bool) -> None:
    geometry = (5, 4, 3, 2, 2, 1)  # height, width, kernel, strides
    shape = (2, 2, 3, 12) if adjoint else (2, 5, 4, 2)
    x = torch.randn(shape, generator=seeds.generator("x"), dtype=torch.float64, requires_grad=True)

    def patches(x: Tensor) -> Any:
        return convolutions._Patches.apply(x, geometry, adjoint)  # type: ignore[no-untyped-call]

    if adjoint:
        torch.testing.assert_close(convolutions._functional_fold(x, *geometry), patches(x), rtol=0, atol=1e-15)
    assert torch.autograd.gradcheck(patches, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(patches, x)


def test_a_convolution_whose_copies_would_not_pay_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "_conv2d", lambda *_, **__: pytest.fail("replaced"))
    with ConvolutionsAsProducts():
        nn.Conv2d(2, 2, 3, padding=1)(torch.ones(1, 2, 8, 8))


def test_grouped_and_dilated_convolutions_are_left_alone() -> None:
    x = torch.randn(2, 4, 8, 8, generator=seeds.generator("x"))
    for module in (
        nn.Conv2d(4, 4, 3, 2, groups=2),
        nn.Conv2d(4, 4, 3, 2, dilation=2),
        nn.Conv2d(4, 4, 3, padding="same"),
    ):
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
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chunked_equals_unchunked(algorithm: Learner, dtype: torch.dtype) -> None:
    suite = Glyphs(ways=3)
    _, episodes = case(suite, 2)
    meta, episodes = cast((algorithm.init(SuiteTask(suite), seeds.generator(1)), episodes), dtype)
    whole, parts = (meta_gradient(suite, algorithm, chunk=c)(meta, episodes) for c in (None, 3))
    # In float32 the processor's library adds up in an order that depends on the batch: on one 5e-7 was seen, on another
    # 2.5e-6. Rounding as such costs 2e-6 to 6e-6 here; more than that no chunk may.
    exact = meta_gradient(suite, algorithm)(*cast((meta, episodes), torch.float64))
    assert relative(parts, whole) < (1e-12 if dtype == torch.float64 else max(1e-6, relative(whole, exact)))


def test_chunks_add_up_where_two_leaves_share_their_gradient() -> None:
    class Halves(MAML):
        def start(self, meta: Any, noise: object) -> Any:
            return {name: value + meta["shift"][name] for name, value in meta["params"].items()}

        def meta_loss(self, meta: Any, loss: Any, episode: Episode) -> Tensor:
            return super().meta_loss(meta, loss, episode) + meta["unused"].sum()  # whose gradient is expanded

    suite, algorithm = Sinusoid(), Halves(inner_lr=0.01, steps=1, outer_lr=0.001, meta_batch=4)
    params, episodes = case(suite, 1)
    shift = {name: torch.zeros_like(value) for name, value in params.items()}
    meta, episodes = cast(({"params": params, "shift": shift, "unused": torch.ones(3)}, episodes), torch.float64)
    whole, parts = (meta_gradient(suite, algorithm, chunk=c)(meta, episodes) for c in (None, 1))
    assert relative(parts, whole) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_chunks_side_by_side_equal_the_whole(dtype: torch.dtype) -> None:
    suite, algorithm = Sinusoid(), MAML(inner_lr=0.01, steps=1, outer_lr=0.001, meta_batch=4)
    meta, episodes = cast(case(suite, 1), dtype)
    whole = meta_gradient(suite, algorithm)(meta, episodes)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            parts = meta_gradient(suite, algorithm, compiled=True, chunk=3)  # the last chunk is one task
            found.append(parts(meta, episodes))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert relative(found[0], whole) < (1e-12 if dtype == torch.float64 else 1e-6)
    assert all(map(torch.equal, *(tree_leaves(f) for f in found)))  # who computes a chunk does not count


def test_a_mistake_in_a_compiled_chunk_reaches_the_caller() -> None:
    def fails(*_: object) -> Any:
        raise RuntimeError("planted")

    specs = (None, None)
    compiled = Compiled(lambda meta, batch, _: [meta[0] * batch[0]])
    arguments = [torch.ones(2)], [[torch.full((2,), float(i))] for i in range(4)], specs
    for i, (product,) in enumerate(compiled.side_by_side(*arguments)):
        torch.testing.assert_close(product, torch.full((2,), float(i)))
    compiled.compiled = dict.fromkeys(compiled.compiled, (specs, fails))
    with pytest.raises(RuntimeError, match="planted"):
        compiled.side_by_side(*arguments)


def test_only_large_nets_go_task_by_task_and_only_where_tasks_keep_all_threads_busy() -> None:
    sizes = [([torch.zeros(n)], tasks) for n, tasks in ((10, 8), (2**15, 8), (2**15, 0))]
    assert [vectorised.at_once(*size) for size in sizes] == [8, 1, 0]


@pytest.mark.parametrize("message", ["DefaultCPUAllocator: can't allocate memory", "something else"])
def test_out_of_memory_halves_the_chunk_and_nothing_else_does(message: str) -> None:
    class Greedy(MAML):
        def meta_loss(self, meta: Any, loss: Any, episode: Episode) -> Tensor:
            value = super().meta_loss(meta, loss, episode)
            if torch._C._functorch.maybe_current_level() is not None and asked[-1] > 1:
                raise RuntimeError(message)
            return value

    suite, asked = Sinusoid(), [8]
    algorithm = Greedy(inner_lr=0.01, steps=1, outer_lr=0.001, meta_batch=8)
    meta, episodes = case(suite, 1, tasks=8)
    gradient = meta_gradient(suite, algorithm, halved=asked.append)
    if message == "something else":
        with pytest.raises(RuntimeError, match="something else"):
            gradient(meta, episodes)
        assert asked == [8]
        return
    found = gradient(meta, episodes)
    assert asked == [8, 4, 2, 1]
    plain = MAML(inner_lr=0.01, steps=1, outer_lr=0.001, meta_batch=8)
    assert relative(found, meta_gradient(suite, plain)(meta, episodes)) < 1e-6


def cast(tree: Any, dtype: torch.dtype) -> Any:
    return tree_map(lambda x: x.to(dtype) if x.is_floating_point() else x, tree)


@pytest.mark.parametrize("operator", ["first_order", "reverse", "mixed"])
def test_float32_gradients_stay_close_to_float64(operator: Any) -> None:
    off_float64(operator, compiled=False)


@pytest.mark.forms(0)  # tests/certificate compiles this network in float32 too, to the same bound, by `reverse`
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("operator", ["first_order", "reverse", "mixed"])
def test_compiled_float32_gradients_stay_close_to_float64(operator: Any) -> None:
    off_float64(operator, compiled=True)


def off_float64(operator: Any, compiled: bool) -> None:
    # oneDNN's convolutions miss this by two digits: their weight gradients alone are off by up to 9e-5.
    suite = Glyphs(ways=3)
    algorithm = MAML(inner_lr=1.2, steps=1, outer_lr=0.001, meta_batch=4, gradient=operator)
    meta, episodes = case(suite, 1)
    exact = meta_gradient(suite, algorithm)(*cast((meta, episodes), torch.float64))
    assert relative(meta_gradient(suite, algorithm, compiled=compiled)(meta, episodes), exact) < 1e-5


@pytest.mark.parametrize("shape", [(1000, 8), (1009, 3), (3, 64, 5, 7), (20000,), (37,), (2, 3), (16, 1, 2)])
@pytest.mark.parametrize("name", ["sum", "mean"])
def test_sums_in_stages_are_those_of_any_dimensions(name: str, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=seeds.generator("x"), dtype=torch.float64)
    some = [d for n in range(1, len(shape) + 1) for d in itertools.combinations(range(-len(shape), 0), n)]
    ways: list[dict[str, Any]] = [{}, *({"dim": d, "keepdim": k} for d in some for k in (False, True))]
    for way in ways:
        for given in (x, x.mT if x.dim() > 1 else x):
            staged = make_fx(partial(getattr(torch, name), **way), STAGED)(given)
            torch.testing.assert_close(staged(given), getattr(torch, name)(given, **way))


def test_equal_numbers_are_not_added_up_one_after_the_other() -> None:
    # As the paper around a character: each sum is rounded the same way, so that errors add up too.
    x = torch.full((4096, 16), 0.1)
    (total,) = Compiled(lambda _, batch, __: [batch[0].sum(0)])([x], [x], (None, None))
    torch.testing.assert_close(total.double(), x.double().sum(0), rtol=3e-7, atol=0)


@pytest.mark.forms(0)
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_compiled_network_is_as_exact_as_float32_allows(
    omniglot_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_DATA_DIR", str(omniglot_dir))
    algorithm = MAML(inner_lr=2.0, steps=1, outer_lr=0.001, meta_batch=4)
    assert off_double(Omniglot(), algorithm) < CLOSE
    monkeypatch.setattr(vectorised, "STAGED", {})  # a compiler that adds plainly is found out
    assert off_double(Omniglot(), algorithm) > CLOSE


def test_a_meta_loss_that_is_no_scalar_is_refused() -> None:
    class Vector(MAML):
        def meta_loss(self, meta: object, loss: object, episode: Episode) -> Tensor:
            return torch.ones(3) * meta["layers.0.bias"].sum()  # type: ignore[index]

    algorithm = Vector(inner_lr=0.1, steps=1, outer_lr=0.001, meta_batch=4)
    with pytest.raises(ValueError, match=r"scalar.*\(3,\)"):
        meta_gradient(Sinusoid(), algorithm)(*case(Sinusoid(), 1))


def test_compilation_happens_once_per_shape() -> None:
    compiled = Compiled(lambda _, batch, __: [2 * batch[0]])
    for size in (3, 3, 4):
        (result,) = compiled([torch.ones(1)], [torch.ones(size)], (None, None))
        torch.testing.assert_close(result, 2 * torch.ones(size))
    assert len(compiled.compiled) == 2
