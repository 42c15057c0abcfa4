"""Our engine: all tasks of a meta-batch at once by vmap, as it comes (eager) or compiled.

Compiling traces the function to a graph of plain tensor operations first, so that whatever Python an algorithm is made
of, the compiler never sees it. Letters: T tasks.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from bench.core.types import Episode, Learner, Meta, Suite, SuiteLoss

MetaGradient = Callable[[Meta, Episode], tuple[Tensor, Meta]]


def meta_gradient(
    suite: Suite, algorithm: Learner, *, compiled: bool = False, chunk: int | None = None
) -> MetaGradient:
    """(meta, episodes [T, ...]) -> mean loss and its gradient, of meta's structure.

    Args:
        suite: whose loss is taken.
        algorithm: whose meta_loss is differentiated.
        compiled: through the compiler, once per shape of the input; otherwise eager.
        chunk: how many tasks are in memory at once; all by default.
    """
    loss = SuiteLoss(suite)

    def total(meta: Meta, episodes: Episode) -> tuple[Tensor, ...]:
        leaves, spec = tree_flatten(meta)
        live = [leaf.detach().requires_grad_() for leaf in leaves]
        # Eagerly, the copies that products need cost more than a grouped convolution does.
        with torch.enable_grad(), ConvolutionsAsProducts() if compiled else contextlib.nullcontext():
            losses = vmap(lambda episode: algorithm.meta_loss(tree_unflatten(live, spec), loss, episode))(episodes)
            if losses.dim() != 1:
                raise ValueError(f"meta_loss must return a scalar, not a tensor of shape {tuple(losses.shape[1:])}")
            value = losses.sum()
        # Plain autograd outermost: torch.func.grad would keep every graph and lose what `mixed` saves.
        gradients = torch.autograd.grad(value, live, materialize_grads=True)
        return value.detach(), *gradients

    run = Compiled(total) if compiled else total

    def mean(meta: Meta, episodes: Episode) -> tuple[Tensor, Meta]:
        tasks = len(tree_leaves(episodes)[0])
        size = chunk or tasks
        sums = [
            run(meta, tree_map(lambda x, i=i: x[i : i + size], episodes)) if size < tasks else run(meta, episodes)
            for i in range(0, tasks, size)
        ]
        value, *gradients = (torch.stack(parts).sum(0) / tasks for parts in zip(*sums, strict=True))
        return value, tree_unflatten(gradients, tree_flatten(meta)[1])

    return mean


class Compiled:
    """A function of pytrees of tensors, traced and compiled once per signature of its inputs."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        """Nothing is compiled before the first call."""
        self.function = function
        self.compiled: dict[Any, Callable[..., Any]] = {}

    def __call__(self, *inputs: Any) -> tuple[Tensor, ...]:
        """The function's value."""
        leaves, spec = tree_flatten(inputs)
        signature = (spec, tuple((x.shape, x.dtype, x.device) for x in leaves))
        if signature not in self.compiled:
            self.compiled[signature] = self._compile(leaves, spec)
        with torch.no_grad():
            return tuple(self.compiled[signature](*leaves))

    def _compile(self, leaves: list[Tensor], spec: Any) -> Callable[..., Any]:
        graph = make_fx(lambda *x: self.function(*tree_unflatten(list(x), spec)))(*leaves)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        compiled: Callable[..., Any] = torch._inductor.compile(graph, list(leaves))
        return compiled


class ConvolutionsAsProducts(TorchFunctionMode):
    """Inside, an ungrouped 2D convolution is a matrix product of shifted slices.

    Under vmap every task has its own kernel; what would be a grouped convolution becomes one batched matrix product.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The product where it computes the same, else the convolution."""
        if func is functional.conv2d and _replaceable(*args, **(kwargs or {})):
            return _conv2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _replaceable(
    input: Tensor,
    weight: Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> bool:
    return input.dim() == 4 and groups == 1 and dilation in (1, (1, 1)) and not isinstance(padding, str)


def _conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, *_: Any, **__: Any
) -> Tensor:
    (down, across), (vertical, horizontal) = _pair(stride), _pair(padding)
    x = functional.pad(input.permute(0, 2, 3, 1), (0, 0, horizontal, horizontal, vertical, vertical))
    outputs, channels, height, width = weight.shape
    rows, columns = (x.shape[1] - height) // down + 1, (x.shape[2] - width) // across + 1
    slices = [
        x[:, i : i + down * (rows - 1) + 1 : down, j : j + across * (columns - 1) + 1 : across]
        for i in range(height)
        for j in range(width)
    ]
    patches = torch.cat(slices, -1).reshape(-1, height * width * channels)
    product = patches @ weight.permute(2, 3, 1, 0).reshape(-1, outputs)
    if bias is not None:
        product = product + bias
    return product.view(x.shape[0], rows, columns, outputs).permute(0, 3, 1, 2)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
