"""What a meta-iteration and what adapting at test cost: `bench cost`, seconds, memory and FLOPs.

Variants are timed in alternation, round by round, so that a machine which slows down slows all of them and a ratio
stays what it is.
"""

import contextlib
import ctypes
import gc
import itertools
import statistics
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self, get_args, get_type_hints

import numpy as np
import pandas as pd
import torch
from torch.func import vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from bench.cells.outcome import PeakMemory
from bench.core import seeds
from bench.core.discovery import Catalogue, parse
from bench.core.errors import BenchError, DataError, PluginError, foreign, unknown
from bench.core.gradients import GradientName
from bench.core.records import EngineName
from bench.core.task import SuiteTask
from bench.core.threads import threads as so_many_threads
from bench.core.trees import part, shapes_of, to, tree_leaves, tree_map
from bench.core.types import Data, Episode, Interactive, Learner, Meta, Prediction, Role, Suite
from bench.learning.batches import episodes
from bench.learning.engines import learn2learn, vectorised
from bench.learning.evaluate import quoted_step
from bench.planning.engines import timed
from bench.planning.plan import algorithm_of, check_device, check_kind, suite_of, view

ROUNDS = (3, 15)  # fewest and most timings of a variant ...
LONG_ENOUGH = 10.0  # ... and the seconds after which the fewest will do
REPLICATES = 1_000
ADAPTING = ("test_steps", "test_seconds", "test_low", "test_high", "test_gflop")  # columns
SIDE = 2_048  # of the square float32 matrices whose product is the machine's peak

Call = Callable[[], object]


@dataclass(frozen=True)
class Variant:
    """One way to compute one meta-gradient."""

    name: str  # of the algorithm, as typed
    algorithm: Learner
    engine: EngineName

    @property
    def gradient(self) -> str:
        """The operator; "-" where the algorithm has none."""
        return getattr(self.algorithm, "gradient", "-")


def cost(
    suite: str,
    algos: str | Sequence[str],
    *,
    steps: Sequence[int] = (1, 5, 10),
    tasks: Sequence[int] = (4, 16, 32),
    engines: Sequence[EngineName] = ("eager",),
    threads: int | None = None,
    device: str = "cpu",
    plugins: Sequence[str | Path] = (),
    watch: Callable[[str], None] = lambda _: None,
) -> pd.DataFrame:
    """Seconds, memory and FLOPs of meta-iterations, one row per suite, algorithm, operator, engine, steps and tasks.

    Args:
        suite: as on the command line; several, such as "omniglot,omniglot[ways=20]", give several ways or widths.
        algos: names, with parameters in brackets. Each is measured with every gradient operator that it can take.
        steps: inner steps.
        tasks: tasks in a meta-batch.
        engines: of eager, compiled and learn2learn; compiling takes up to a minute for each row.
        threads: of the CPU.
        device: cpu, cuda or cuda:N.
        plugins: plug-in files.
        watch: told what is measured next.

    Returns:
        Columns: suite, algorithm, gradient, engine, steps, tasks; seconds (median) with low and high (95 %, bootstrap);
        over_first, over_first_low, over_first_high (as the median of the rounds' ratios to the same algorithm, engine,
        steps and tasks in first order; NaN where there is none); peak_bytes (resident) and live_bytes (tensors), both
        above what was there before; gflop (counted on the plain algorithm, one task at a time) and share (of the rate
        of a float32 matrix product, measured in the same rounds). And of adapting at test, the same in every row of an
        algorithm with so many tasks side by side: test_steps (the suite's last report step, or as many as a learner
        looks once in), test_seconds (a task's share, median) with test_low and test_high, test_gflop of one task; NaN
        where a suite is acted in. What somebody's own code does not let be measured has no rows; `attrs["broken"]` says
        what and why.

    Raises:
        BenchError: a name, number, engine or device that does not exist, or nothing that can be measured.
    """
    for name, numbers in (("steps", steps), ("tasks", tasks)):
        if not numbers or min(numbers) < 1:
            raise BenchError(f"{name}={list(numbers)}: give whole numbers from 1, such as 1,5,10.")
    for engine in engines:
        if engine not in get_args(EngineName):
            raise unknown("engine", engine, get_args(EngineName))
    check_device(device)
    catalogue = Catalogue(tuple(map(Path, plugins)))
    text = algos if isinstance(algos, str) else ",".join(algos)
    rows: list[dict[str, Any]] = []
    broken: dict[str, PluginError] = {}

    @contextlib.contextmanager
    def alone(what: str) -> Iterator[None]:
        """What breaks meanwhile is left out, and the others go on."""
        try:
            with foreign(f"{what} can't be measured"):
                yield
        except PluginError as error:
            broken[str(error)] = error

    with so_many_threads(threads):
        for named in parse(suite):
            asked: Suite | None = None
            with alone(str(named)):
                asked = suite_of(catalogue, named)
            for one in parse(text) if asked else ():
                with alone(f"{one} on {named}"):
                    check_kind(catalogue, named, asked, one)  # before anything takes time
            for count, size in itertools.product(steps, tasks) if asked else ():
                watch(f"{named}: {count} inner steps, {size} tasks")
                variants: list[tuple[Variant, Suite]] = []
                for one in parse(text):
                    with alone(f"{one} on {named}"):
                        some = _variants(str(one), algorithm_of(catalogue, one, asked), count, size, engines)
                        variants += [(v, _seen(asked, v.algorithm.train_view, v.name, catalogue)) for v in some]
                rows += [{"suite": str(named), **row} for row in _measure(variants, device, alone)]
            learners: dict[str, Learner] = {}
            for one in parse(text) if asked else ():
                with alone(f"{one} on {named}"):
                    learners[str(one)] = algorithm_of(catalogue, one, asked)
            for size in tasks if asked else ():
                watch(f"{named}: adapting to {size} test tasks")
                found = _measure_adapting(asked, learners, size, device, catalogue, alone)
                here = (row for row in rows if (row["suite"], row["tasks"]) == (str(named), size))
                for row in here:
                    row |= found.get(row["algorithm"], dict.fromkeys(ADAPTING, np.nan))
    if broken and not rows:
        raise next(iter(broken.values()))
    frame = pd.DataFrame(rows)
    frame.attrs["broken"] = list(broken)
    return frame


def measure(calls: dict[Any, Call]) -> pd.DataFrame:
    """Seconds of several calls in alternation: one row per round, one column per call; each was called once before."""
    rounds: list[list[float]] = []
    began = time.perf_counter()
    fewest, most = ROUNDS
    while len(rounds) < fewest or (len(rounds) < most and time.perf_counter() - began < LONG_ENOUGH):
        # Every other round the other way about, so that no call always follows the same one.
        order = list(calls) if len(rounds) % 2 else list(reversed(calls))
        seconds = {key: timed(calls[key]) for key in order}
        rounds.append([seconds[key] for key in calls])
    return pd.DataFrame(rounds, columns=pd.Index(list(calls)))


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median and its 95 % interval over resampled rounds."""
    sample = np.asarray(values)
    draws = np.random.default_rng(0).choice(sample, (REPLICATES, len(sample)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return float(np.median(sample)), float(low), float(high)


def reference_flops(suite: Suite, algorithm: Learner, meta: Meta, episodes: Episode) -> int:
    """FLOPs of a meta-gradient as the plain algorithm needs them: task by task, nothing recomputed or replaced.

    Counted on one task with ordinary convolutions and products, a multiplication and an addition being two.
    """
    if getattr(algorithm, "gradient", None) == "mixed":
        algorithm = replace(algorithm, gradient="reverse")  # type: ignore[call-arg]
    tasks = len(tree_leaves(episodes)[0])
    live = tree_map(lambda x: x.detach().requires_grad_(), meta)
    with FlopCounterMode(display=False) as counter:
        loss = algorithm.meta_loss(live, SuiteTask(suite), tree_map(lambda x: x[0], episodes))
        torch.autograd.grad(loss, tree_leaves(live), allow_unused=True)
    return int(counter.get_total_flops()) * tasks


class Adapting(NamedTuple):
    """Test tasks to adapt to: inner steps on the support and one prediction for the query, without a meta-gradient."""

    algorithm: Learner
    suite: Suite
    steps: int
    meta: Meta
    tasks: tuple[Data, Data, Data]  # support, query, noise; leaves [T, ...]

    @classmethod
    def of(cls, suite: Suite, algorithm: Learner, count: int, device: str = "cpu") -> Self:
        """Of a freshly initialised learner, as it is tested on so many of a suite's tasks."""
        algorithm, generator = algorithm.candidates()[0], seeds.generator("cost")
        meta = algorithm.init(SuiteTask(suite), generator)
        tasks = suite.sample(count, "test", generator)
        steps = quoted_step(suite, algorithm)
        roles: tuple[tuple[Role, int], ...] = (("support", 0), ("query", steps))
        both = [suite.collect(tasks, meta, role, k, generator) for role, k in roles]
        shown = (*both, algorithm.noise(shapes_of(meta), count, generator))
        return cls(algorithm, suite, steps, *to((meta, shown), device))

    def __call__(self) -> Prediction:
        """The predictions, [T, ...], of all tasks side by side."""
        with torch.no_grad():
            found: Prediction = vmap(self._one)(*self.tasks)
        return found

    def flops(self) -> int:
        """Those of one task, a multiplication and an addition being two: matrix products and convolutions alone."""
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            self._one(*part(self.tasks, 0))
        return int(counter.get_total_flops())

    def _one(self, support: Data, query: Data, noise: Data) -> Prediction:
        task = SuiteTask(self.suite)
        state = self.algorithm.start(self.meta, noise)
        for k in range(self.steps):
            state = self.algorithm.step(self.meta, state, task, support, k)
        return self.algorithm.predict(self.meta, state, task, query)


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside and still alive: `.peak` is the most at any moment."""

    def __init__(self) -> None:
        """Nothing is counted before it is entered."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation, whose new storages are counted."""
        old = {storage.data_ptr() for storage in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if storage.data_ptr() not in old | self.known:
                self._count(storage)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if not address:
            return
        self.known.add(address)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, address, size)

    def _forget(self, address: int, size: int) -> None:
        self.known.discard(address)
        self.now -= size


def _storages(tree: Any) -> Iterator[torch.UntypedStorage]:
    """Those of the tree's tensors, but for the zeros of forward mode, which have none."""
    tensors = (x for x in tree_leaves(tree) if isinstance(x, torch.Tensor))
    return (x.untyped_storage() for x in tensors if not x._is_zerotensor())


def resident_growth(call: Call) -> int | None:
    """By how many bytes the call raised the process's resident memory at its highest, or None if unknown."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # else freed memory that glibc kept would be used again, unseen
        ctypes.CDLL(None).malloc_trim(0)
    mark = PeakMemory()
    before = mark.bytes()
    call()
    after = mark.bytes()
    return None if before is None or after is None else after - before


def _variants(
    name: str, algorithm: Learner, steps: int, tasks: int, engines: Sequence[EngineName]
) -> Iterator[Variant]:
    if not algorithm.trains:
        raise BenchError(f"{name} does not train, so that it has no meta-iteration. Leave it out.")
    own = {f.name for f in fields(algorithm) if f.init} - algorithm.idle  # pretraining has no inner steps
    algorithm = replace(algorithm, **{k: v for k, v in (("steps", steps), ("meta_batch", tasks)) if k in own})
    operators: list[GradientName | None] = [None]
    if "gradient" in get_type_hints(type(algorithm)):
        operators = list(get_args(GradientName)) if algorithm.second_order else ["first_order"]
    for operator, engine in itertools.product(operators, engines):
        if engine == "learn2learn" and (operator == "mixed" or not learn2learn.wrapper(algorithm)):
            continue  # it has no such operator
        kept = algorithm if operator is None else replace(algorithm, gradient=operator)  # type: ignore[call-arg]
        yield Variant(name, kept, engine)


def _seen(suite: Suite, view_name: str, name: str, catalogue: Catalogue) -> Suite:
    seen = view(suite, view_name, name, catalogue)
    try:
        seen.check()
    except DataError:
        return view(suite.stand_in(), view_name, name, catalogue)
    return seen


def _measure(
    variants: list[tuple[Variant, Suite]], device: str, alone: Callable[[str], AbstractContextManager[None]]
) -> Iterator[dict[str, Any]]:
    square = torch.ones(SIDE, SIDE, device=device)
    calls: dict[Any, Call] = {None: lambda: square @ square}
    calls[None]()
    memory, flops = {}, {}
    for variant, suite in variants:
        with alone(f"{variant.name} with {variant.gradient}, {variant.engine}"):
            meta, batch = _inputs(suite, variant.algorithm, device)
            call = partial(_meta_gradient(suite, variant), meta, batch)
            flops[variant] = reference_flops(suite, variant.algorithm, *to((meta, batch), "cpu"))
            call()  # compiles, where that is what the engine does
            memory[variant] = _memory(call, device)
            calls[variant] = call
    seconds = measure(calls)
    whole = [variant for variant, _ in variants if variant in calls]
    for variant in whole:
        own = seconds[variant]
        median, low, high = median_interval(own.tolist())
        first = next((v for v in whole if _is_first_order_of(v, variant)), None)
        ratio = median_interval((own / seconds[first]).tolist()) if first else (np.nan, np.nan, np.nan)
        rate = statistics.median(seconds[None] / own) / (2 * SIDE**3)
        yield {
            "algorithm": variant.name,
            "gradient": variant.gradient,
            "engine": variant.engine,
            "steps": variant.algorithm.steps,
            "tasks": variant.algorithm.meta_batch,
            "seconds": median,
            "low": low,
            "high": high,
            "rounds": len(seconds),
            **dict(zip(("over_first", "over_first_low", "over_first_high"), ratio, strict=True)),
            "peak_bytes": memory[variant][0],
            "live_bytes": memory[variant][1],
            "gflop": flops[variant] / 1e9,
            "share": flops[variant] * rate,
        }


def _measure_adapting(
    suite: Suite,
    learners: dict[str, Learner],
    count: int,
    device: str,
    catalogue: Catalogue,
    alone: Callable[[str], AbstractContextManager[None]],
) -> dict[str, dict[str, float]]:
    """Name -> ADAPTING, of all learners in alternation; none of suites that are acted in."""
    if isinstance(suite, Interactive):
        return {}
    calls: dict[Any, Call] = {}
    about: dict[str, tuple[int, float]] = {}
    for name, algorithm in learners.items():
        with alone(f"{name}, adapting"):
            adapting = Adapting.of(_seen(suite, algorithm.test_view, name, catalogue), algorithm, count, device)
            adapting()
            calls[name] = adapting.__call__
            about[name] = adapting.steps, adapting.flops() / 1e9
    seconds = measure(calls)
    figures = {
        name: (about[name][0], *median_interval((seconds[name] / count).tolist()), about[name][1]) for name in about
    }
    return {name: dict(zip(ADAPTING, found, strict=True)) for name, found in figures.items()}


def _is_first_order_of(one: Variant, other: Variant) -> bool:
    """Whether `one` is `other` but for its operator, which is first order."""
    if one is other or one.engine != other.engine or one.gradient != "first_order" or other.gradient == "-":
        return False
    return replace(other.algorithm, gradient="first_order") == one.algorithm  # type: ignore[call-arg]


def _inputs(suite: Suite, algorithm: Learner, device: str) -> tuple[Meta, Episode]:
    meta = to(algorithm.init(SuiteTask(suite), seeds.generator("cost")), device)
    return meta, next(episodes(suite, algorithm, lambda: meta, 0, 0, device))


def _meta_gradient(suite: Suite, variant: Variant) -> vectorised.MetaGradient:
    if variant.engine == "learn2learn":
        return learn2learn.meta_gradient(suite, variant.algorithm)
    return vectorised.meta_gradient(suite, variant.algorithm, compiled=variant.engine == "compiled")


def _memory(call: Call, device: str) -> tuple[int | None, int]:
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        grown = torch.cuda.max_memory_allocated(device) - before
        return grown, grown
    resident = resident_growth(call)
    with LiveTensors() as live:
        call()
    return resident, live.peak
