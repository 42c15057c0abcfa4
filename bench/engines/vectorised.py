"""Our engine: tasks of a meta-batch at once by vmap, as it comes (eager) or compiled.

Compiling traces the function to a graph of plain tensor operations first, so that whatever Python an algorithm is made
of, the compiler never sees it. Compiled chunks of tasks run side by side, each on one core, where large nets find what
they just wrote in that core's cache. Letters: T tasks.
"""

import contextlib
import ctypes
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from bench.core.types import Episode, Learner, Meta, Suite
from bench.engines.convolutions import FUNCTIONAL, ConvolutionsAsProducts, channels_last
from bench.outer import objective

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
LARGE = 2**16  # bytes of Meta; of a smaller net, a call for each task would take longer than what is computed in it
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
        chunk: how many tasks are computed at once, by each thread if compiled. By default all; compiled, one of each
            thread's where nets are large.
        halved: told the new number when memory ran out and half as many are tried, from then on.
    """
    task_loss = objective(suite, algorithm)

    def total(meta: Meta, episodes: Episode) -> tuple[Tensor, ...]:
        leaves, spec = tree_flatten(meta)
        live = [channels_last(leaf.detach()).requires_grad_() for leaf in leaves]
        with torch.enable_grad(), ConvolutionsAsProducts():

            def loss(episode: Episode) -> Tensor:
                return task_loss(tree_unflatten(live, spec), episode)

            # One task compiled needs no task axis, which would make an ordinary convolution a grouped one.
            alone = compiled and len(tree_leaves(episodes)[0]) == 1
            losses = loss(tree_map(lambda x: x[0], episodes))[None] if alone else vmap(loss)(episodes)
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
        leaves, spec = tree_flatten(episodes)
        parts = [
            (meta, tree_unflatten(list(part), spec)) for part in zip(*(x.split(size) for x in leaves), strict=True)
        ]
        return run.side_by_side(parts) if isinstance(run, Compiled) else [run(*part) for part in parts]

    def mean(meta: Meta, episodes: Episode) -> tuple[Tensor, Meta]:
        nonlocal chunk
        tasks = len(tree_leaves(episodes)[0])
        while True:
            size = min(chunk or (_at_once(meta, tasks) if compiled else tasks), tasks)
            try:
                parts = sums(meta, episodes, tasks, size)
                break
            except (RuntimeError, MemoryError) as error:
                if size == 1 or not _out_of_memory(error):
                    raise
            chunk = size // 2  # outside the handler, whose traceback would keep alive what filled the memory
            halved(chunk)
        first, *others = (list(part) for part in parts)
        for part in others:  # in their order, whichever thread was first
            torch._foreach_add_(first, part)
        value, *gradients = (total.contiguous() / tasks for total in first)
        return value, tree_unflatten(gradients, tree_flatten(meta)[1])

    return mean


def _at_once(meta: Meta, tasks: int) -> int:
    leaves = tree_leaves(meta)
    large = sum(leaf.nbytes for leaf in leaves) > LARGE
    return 1 if large and not leaves[0].is_cuda and tasks >= torch.get_num_threads() else tasks


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def keep_memory() -> None:
    """Lets the process keep freed memory, where glibc would hand every large tensor's back and fetch it anew."""
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 1 << 30)
        mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    # Kept, since what a thread allocates is its own: a new one would fetch all of its memory anew.
    return ThreadPoolExecutor(threads, "bench-tasks")


class Compiled:
    """A function of pytrees of tensors, traced and compiled once per signature of its inputs."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        """Nothing is compiled before the first call."""
        self.function = function
        self.compiled: dict[Any, Callable[[list[Tensor]], tuple[Tensor, ...]]] = {}

    def __call__(self, *inputs: Any) -> tuple[Tensor, ...]:
        """The function's value."""
        leaves, spec = tree_flatten(inputs)
        return self._ready(leaves, spec, torch.get_num_threads())(leaves)

    def side_by_side(self, calls: list[tuple[Any, ...]]) -> list[tuple[Tensor, ...]]:
        """The function's value for each of the inputs, of one structure, on as many threads as torch may use."""
        threads = torch.get_num_threads()
        if tree_leaves(calls[0])[0].is_cuda:
            return [self(*inputs) for inputs in calls]
        spec = tree_flatten(calls[0])[1]
        waiting = deque(enumerate(map(tree_leaves, calls)))
        # Of the same shapes, but for the last; now, since the compiler is no place for two.
        first, last = (self._ready(leaves, spec, 1) for _, leaves in (waiting[0], waiting[-1]))
        results: list[Any] = [None] * len(calls)

        def work() -> None:
            torch.set_num_threads(1)  # this thread's own; a matrix product would take all cores in each of them
            with contextlib.suppress(IndexError):
                while True:  # whoever is free takes the next; compiled code runs without Python's lock
                    i, leaves = waiting.popleft()
                    results[i] = (last if i == len(calls) - 1 else first)(leaves)

        others = [_pool(threads).submit(work) for _ in range(threads - 1)]
        try:
            work()
        finally:
            torch.set_num_threads(threads)
            wait(others)
        for other in others:
            other.result()
        return results

    def _ready(self, leaves: list[Tensor], spec: Any, threads: int) -> Callable[[list[Tensor]], tuple[Tensor, ...]]:
        signature = (threads, spec, tuple((x.shape, x.dtype, x.device) for x in leaves))
        if signature not in self.compiled:
            self.compiled[signature] = self._compile(leaves, spec, threads)
        return self.compiled[signature]

    def _compile(self, leaves: list[Tensor], spec: Any, threads: int) -> Callable[[list[Tensor]], tuple[Tensor, ...]]:
        # On shapes alone, so that the compiler's cache serves the next process; of tensors it keeps nothing.
        mode = FakeTensorMode(shape_env=ShapeEnv())
        shapes: list[Any] = [mode.from_tensor(x, static_shapes=True) for x in leaves]
        with mode:
            graph = make_fx(lambda *x: self.function(*tree_unflatten(list(x), spec)), FUNCTIONAL)(*shapes)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        # Called from C++, without Python between its kernels, which is much of a small net's time, nor Python's lock.
        options: dict[str, Any] = {"cpp_wrapper": not leaves[0].is_cuda, "cpp.threads": threads}
        compiled: Callable[..., Any] = torch._inductor.compile(graph, shapes, options=options)

        def run(leaves: list[Tensor]) -> tuple[Tensor, ...]:
            with torch.no_grad():
                return tuple(compiled(*leaves))

        return run
