"""Our engine: tasks of a meta-batch at once by vmap, as it comes (eager) or compiled.

Compiling traces the function to a graph of plain tensor operations first, so that whatever Python an algorithm is made
of, the compiler never sees it. Compiled chunks of tasks run side by side, each on one core, where large nets find what
they just wrote in that core's cache. Letters: T tasks.
"""

import contextlib
import ctypes
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch._functorch.compile_utils import fx_graph_cse
from torch._subclasses import FakeTensorMode
from torch.func import vmap
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from bench.core import modules
from bench.core.call import Statistics, recording
from bench.core.trees import tree_flatten, tree_leaves, tree_map, tree_unflatten
from bench.core.types import Episode, Interactive, Learner, Meta, Suite
from bench.learning.engines.convolutions import FUNCTIONAL, ConvolutionsAsProducts, channels_last
from bench.learning.engines.products import FEW_COLUMNS
from bench.learning.engines.sums import STAGED
from bench.learning.objective import objective

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
LARGE = (
    2**16
)  # bytes of Meta, or of a task's episodes; of less, a call for each task would take longer than what is computed in it
SAME = (torch.ops.aten.alias.default, torch.ops.aten.detach.default)  # but for autograd, which is past, their input
Leaves = list[Tensor]
Specs = tuple[Any, Any]  # the structures of Meta and Episode
MetaGradient = Callable[[Meta, Episode], tuple[Tensor, Meta]]


def meta_gradient(
    suite: Suite,
    algorithm: Learner,
    *,
    compiled: bool = False,
    chunk: int | None = None,
    by_task: bool = False,
    halved: Callable[[int], None] = lambda _: None,
    seen: Callable[[dict[str, Statistics]], None] = lambda _: None,
) -> MetaGradient:
    """(meta, episodes [T, ...]) -> mean loss and its gradient, of meta's structure.

    Args:
        suite: whose loss is taken.
        algorithm: whose meta_loss is differentiated.
        compiled: through the compiler, once per shape of the input; otherwise eager.
        chunk: how many tasks are computed at once, by each thread if compiled. By default all; compiled, one of each
            thread's where nets are large.
        by_task: one task after the other without vmap, for modules that it cannot take.
        halved: told the new number when memory ran out and half as many are tried, from then on.
        seen: told the mean over tasks of the statistics of batch-normalised layers, where there are any.
    """
    task_loss = objective(suite, algorithm)
    normalised = modules.batch_norms(suite.skeleton)
    acted_in = isinstance(suite, Interactive)
    recorded: list[str] = []  # the layers whose statistics the last call gave

    # Flat from here on: small nets are trained in less time than it takes to walk through a tree of tensors.
    def total(meta: Leaves, batch: Leaves, specs: Specs) -> Leaves:
        live = [channels_last(leaf.detach()) for leaf in meta]
        moving = [leaf.requires_grad_() for leaf in live if leaf.is_floating_point()]
        episodes = tree_unflatten(batch, specs[1])
        with torch.enable_grad(), ConvolutionsAsProducts():

            def loss(episode: Episode) -> Tensor:
                return task_loss(tree_unflatten(live, specs[0]), episode)

            def recorded_loss(episode: Episode) -> tuple[Tensor, dict[str, Statistics]]:
                with recording() as statistics:
                    return loss(episode), statistics

            # One task compiled needs no task axis, which would make an ordinary convolution a grouped one.
            alone = by_task or (compiled and len(batch[0]) == 1)
            if normalised:
                losses, statistics = over_tasks(recorded_loss, by_task=alone)(episodes)
            else:
                losses, statistics = over_tasks(loss, by_task=alone)(episodes), {}
            if losses.dim() != 1:
                raise ValueError(f"meta_loss must return a scalar, not a tensor of shape {tuple(losses.shape[1:])}")
            value = losses.sum()
            recorded[:] = statistics
            summed = [x.sum(0) for x in tree_leaves(statistics)]
        # Plain autograd outermost: torch.func.grad would keep every graph and lose what `mixed` saves.
        found = iter(torch.autograd.grad(value, moving, materialize_grads=True))
        gradients = [next(found) if x.requires_grad else torch.zeros_like(x) for x in live]
        return [value.detach(), *gradients, *summed]

    run = Compiled(total, thorough=acted_in) if compiled else total

    def sums(meta: Leaves, batch: Leaves, specs: Specs, size: int) -> list[Leaves]:
        if size >= len(batch[0]):
            return [run(meta, batch, specs)]
        parts = list(zip(*(x.split(size) for x in batch), strict=True))
        if isinstance(run, Compiled):
            return run.side_by_side(meta, [list(part) for part in parts], specs)
        return [run(meta, list(part), specs) for part in parts]

    def mean(meta: Meta, episodes: Episode) -> tuple[Tensor, Meta]:
        nonlocal chunk
        (values, spec), (batch, its_spec) = tree_flatten(meta), tree_flatten(episodes)
        tasks = len(batch[0])
        while True:
            size = min(chunk or (at_once(values, tasks, acted_in and batch) if compiled else tasks), tasks)
            try:
                parts = sums(values, batch, (spec, its_spec), size)
                break
            except (RuntimeError, MemoryError) as error:
                if size == 1 or not _out_of_memory(error):
                    raise
            chunk = size // 2  # outside the handler, whose traceback would keep alive what filled the memory
            halved(chunk)
        summed, *others = parts
        if others:  # two leaves may have one and the same gradient
            summed = [x.clone() for x in summed]
        for part in others:  # in their order, whichever thread was first
            torch._foreach_add_(summed, part)
        value, *gradients = torch._foreach_div([x.contiguous() for x in summed], tasks)
        statistics, gradients = gradients[len(values) :], gradients[: len(values)]
        if statistics:
            pairs = zip(statistics[::2], statistics[1::2], strict=True)
            seen({name: Statistics(*pair) for name, pair in zip(recorded, pairs, strict=True)})
        return value, tree_unflatten(gradients, spec)

    return mean


def over_tasks(function: Callable[..., Any], *, by_task: bool = False) -> Callable[..., Any]:
    """A function of one task's data as one of many tasks', leaves [T, ...]: by vmap, or one after the other."""
    if not by_task:
        return vmap(function)

    def one_by_one(*batches: Any) -> Any:
        count = len(tree_leaves(batches)[0])
        each = [function(*tree_map(lambda x, t=t: x[t], batches)) for t in range(count)]
        return tree_map(lambda *x: torch.stack(x), *each)

    return one_by_one


def at_once(meta: Leaves, tasks: int, episodes: Leaves | Literal[False] = False) -> int:
    """How many tasks a compiled call takes: one where the net is large, or what they recorded of their episodes."""
    large = sum(leaf.nbytes for leaf in meta) > LARGE
    if episodes:
        large |= sum(leaf.nbytes for leaf in episodes) > tasks * LARGE
    return 1 if large and not meta[0].is_cuda and tasks >= torch.get_num_threads() else tasks


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def keep_memory() -> None:
    """Lets the process keep freed memory, where glibc would hand every large tensor's back and fetch it anew.

    It cannot be undone: for the command and a cell's own process, never for somebody else's.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 1 << 30)
        mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    # Kept, since what a thread allocates is its own: a new one would fetch all of its memory anew.
    return ThreadPoolExecutor(threads, "bench-tasks")


class Compiled:
    """A function (meta, batch, specs) -> tensors, traced and compiled once per shape of the leaves."""

    def __init__(self, function: Callable[[Leaves, Leaves, Specs], Leaves], *, thorough: bool = False) -> None:
        """Nothing is compiled before the first call; `thorough` as of `traced`."""
        self.function, self.thorough = function, thorough
        self.compiled: dict[Any, tuple[Specs, Callable[..., Any]]] = {}

    def __call__(self, meta: Leaves, batch: Leaves, specs: Specs) -> Leaves:
        """The function's value."""
        compiled = self._ready(meta, batch, specs, torch.get_num_threads())
        with torch.no_grad():
            return list(compiled(*meta, *batch))

    def side_by_side(self, meta: Leaves, parts: list[Leaves], specs: Specs) -> list[Leaves]:
        """The function's value for each part of a batch, on as many threads as torch may use."""
        if meta[0].is_cuda:
            return [self(meta, part, specs) for part in parts]
        # All but the last are of one shape; now, since the compiler is no place for two.
        usual, last = (self._ready(meta, part, specs, 1) for part in (parts[0], parts[-1]))
        compiled = [usual] * (len(parts) - 1) + [last]
        return side_by_side([partial(call, *meta, *part) for call, part in zip(compiled, parts, strict=True)])

    def _ready(self, meta: Leaves, batch: Leaves, specs: Specs, threads: int) -> Callable[..., Any]:
        signature = signature_of((*meta, *batch), threads)
        known, compiled = self.compiled.get(signature, (None, None))
        if compiled is None or known != specs:
            compiled = self._compile(meta, batch, specs, threads)
            self.compiled[signature] = specs, compiled
        return compiled

    def _compile(self, meta: Leaves, batch: Leaves, specs: Specs, threads: int) -> Callable[..., Any]:
        cut = len(meta)

        def flat(*x: Tensor) -> Leaves:
            return self.function(list(x[:cut]), list(x[cut:]), specs)

        return built(*traced(flat, (*meta, *batch), thorough=self.thorough), threads)


def signature_of(leaves: Sequence[Tensor], threads: int) -> Hashable:
    """What compiled code is made for."""
    return (threads, *((x.shape, x.dtype, x.device) for x in leaves))


def traced(
    function: Callable[..., Leaves], leaves: Sequence[Tensor], *, thorough: bool = False
) -> tuple[GraphModule, list[Any]]:
    """A function of tensors as a graph of plain operators, and its inputs' shapes, of which it is made.

    On shapes alone, so that the compiler's cache serves the next process; of tensors it keeps nothing. `thorough`:
    nothing is computed twice, and products with few columns are transposed.
    """
    mode = FakeTensorMode(shape_env=ShapeEnv())
    shapes: list[Any] = [mode.from_tensor(x, static_shapes=True) for x in leaves]
    instead: dict[Any, Callable[..., Any]] = {**FUNCTIONAL, **STAGED, **(FEW_COLUMNS if thorough else {})}
    with mode:
        graph = make_fx(function, instead)(*shapes)
    graph.graph.eliminate_dead_code()
    if thorough:
        for node in list(graph.graph.nodes):
            if node.target in SAME:
                node.replace_all_uses_with(node.args[0])
                graph.graph.erase_node(node)
        graph = GraphModule(graph, fx_graph_cse(graph.graph))
    graph.recompile()
    return graph, shapes


def built(graph: GraphModule, shapes: list[Any], threads: int) -> Callable[..., Any]:
    """A graph compiled for inputs of these shapes."""
    # Called from C++, without Python between its kernels, which is much of a small net's time, nor Python's lock.
    options: dict[str, Any] = {"cpp_wrapper": not shapes[0].is_cuda, "cpp.threads": threads}
    compiled: Callable[..., Any] = torch._inductor.compile(graph, shapes, options=options)
    return compiled


def side_by_side(calls: Sequence[Callable[[], Sequence[Tensor]]]) -> list[Leaves]:
    """What each call of compiled code gives, on as many threads as torch may use, in the calls' order."""
    threads = torch.get_num_threads()
    waiting = iter(list(enumerate(calls)))
    results: list[Leaves] = [[]] * len(calls)

    def work() -> None:
        torch.set_num_threads(1)  # this thread's own; a matrix product would take all cores in each of them
        with torch.no_grad():
            for i, call in waiting:  # whoever is free takes the next; compiled code runs without Python's lock
                results[i] = list(call())

    others = [_pool(threads).submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        torch.set_num_threads(threads)
        others = [other for other in others if not other.cancel()]  # who has not begun finds nothing left to do
        wait(others)
    for other in others:
        other.result()
    return results
