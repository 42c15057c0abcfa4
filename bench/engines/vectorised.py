"""Our engine: all tasks of a meta-batch at once by vmap, as it comes (eager) or compiled.

Compiling traces the function to a graph of plain tensor operations first, so that whatever Python an algorithm is made
of, the compiler never sees it. Letters: T tasks.
"""

import contextlib
import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from bench.core.types import Episode, Learner, Meta, Suite
from bench.engines.convolutions import ConvolutionsAsProducts, channels_last
from bench.outer import objective

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
MetaGradient = Callable[[Meta, Episode], tuple[Tensor, Meta]]


def meta_gradient(
    suite: Suite,
    algorithm: Learner,
    *,
    compiled: bool = False,
    chunk: int | None = None,
    halved: Callable[[int], None] = lambda _: None,
) -> MetaGradient:
    """(meta, episodes [T, ...]) -> mean loss and its gradient, of meta's structure.

    Args:
        suite: whose loss is taken.
        algorithm: whose meta_loss is differentiated.
        compiled: through the compiler, once per shape of the input; otherwise eager.
        chunk: how many tasks are in memory at once; all by default.
        halved: told the new number when memory ran out and half as many are tried, from then on.
    """
    task_loss = objective(suite, algorithm)

    def total(meta: Meta, episodes: Episode) -> tuple[Tensor, ...]:
        leaves, spec = tree_flatten(meta)
        live = [channels_last(leaf.detach()).requires_grad_() for leaf in leaves]
        with torch.enable_grad(), ConvolutionsAsProducts():
            losses = vmap(lambda episode: task_loss(tree_unflatten(live, spec), episode))(episodes)
            if losses.dim() != 1:
                raise ValueError(f"meta_loss must return a scalar, not a tensor of shape {tuple(losses.shape[1:])}")
            value = losses.sum()
        # Plain autograd outermost: torch.func.grad would keep every graph and lose what `mixed` saves.
        gradients = torch.autograd.grad(value, live, materialize_grads=True)
        return value.detach(), *gradients

    run = Compiled(total) if compiled else total

    def sums(meta: Meta, episodes: Episode, tasks: int, size: int) -> list[tuple[Tensor, ...]]:
        if size >= tasks:
            return [run(meta, episodes)]
        return [run(meta, tree_map(lambda x, i=i: x[i : i + size], episodes)) for i in range(0, tasks, size)]

    def mean(meta: Meta, episodes: Episode) -> tuple[Tensor, Meta]:
        nonlocal chunk
        tasks = len(tree_leaves(episodes)[0])
        while True:
            size = min(chunk or tasks, tasks)
            try:
                parts = sums(meta, episodes, tasks, size)
                break
            except (RuntimeError, MemoryError) as error:
                if size == 1 or not _out_of_memory(error):
                    raise
            chunk = size // 2  # outside the handler, whose traceback would keep alive what filled the memory
            halved(chunk)
        value, *gradients = (torch.stack(part).sum(0).contiguous() / tasks for part in zip(*parts, strict=True))
        return value, tree_unflatten(gradients, tree_flatten(meta)[1])

    return mean


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def keep_memory() -> None:
    """Lets the process keep freed memory, where glibc would hand every large tensor's back and fetch it anew."""
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 1 << 30)
        mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)


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
        # On shapes alone, so that the compiler's cache serves the next process; of tensors it keeps nothing.
        mode = FakeTensorMode(shape_env=ShapeEnv())
        compiled: Callable[..., Any] = torch._inductor.compile(
            graph, [mode.from_tensor(x, static_shapes=True) for x in leaves]
        )
        return compiled
