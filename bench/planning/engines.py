"""Eager or compiled: whichever ends a cell sooner on this machine, found by a short measurement that is kept.

Compiling costs from seconds to a minute and saves some of every iteration after, how much depends on net, algorithm,
shapes and machine; so it is measured, once for each, before cells are planned. What takes long to compile is compiled
ahead, one process a core, since the compiler is one thread of Python and the next process finds its cache.
"""

import base64
import contextlib
import json
import logging
import os
import pickle
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import torch
from filelock import FileLock

from bench.core import seeds
from bench.core.data import cache_dir
from bench.core.errors import DataError, told
from bench.core.records import EngineName, Spec
from bench.core.task import SuiteTask
from bench.core.threads import threads
from bench.core.trees import to
from bench.core.types import Episode, Interactive, Learner, Meta, Suite
from bench.learning.batches import episodes
from bench.learning.engines.trust_region import CompiledParts
from bench.learning.engines.vectorised import meta_gradient
from bench.learning.outer.trpo import TRPO, EagerParts, Parts, outer_of, trpo
from bench.places.jobs import Emit, Ending, Job, Local, Messages

SHORT = 20.0  # seconds of eager training; below, compiling can't pay and is not even tried
TIMINGS = 6  # at most, in which both are timed, after one to warm up and to compile
log = logging.getLogger("bench")
Paces = dict[str, float]  # seconds of one eager meta-iteration, of work that was timed


class OpenEngine(NamedTuple):
    """A cell whose engine is open: its specification with any engine, and what trains."""

    spec: Spec
    suite: Suite  # as the algorithm sees it in training
    algorithm: Learner


class Timing(NamedTuple):
    """Seconds of one meta-iteration by either engine, and of compiling."""

    eager: float
    compiled: float
    compiling: float

    def choice(self, iterations: int) -> tuple[EngineName, str]:
        """The engine that ends sooner, and why."""
        slow, fast = iterations * self.eager, iterations * self.compiled + self.compiling
        reason = (
            f"measured here: {1e3 * self.eager:.3g} ms eager, {1e3 * self.compiled:.3g} ms compiled "
            f"after {self.compiling:.3g} s, for {iterations:,} iterations"
        )
        return ("compiled" if fast < slow else "eager"), reason


def compiler() -> str | None:
    """The C++ compiler that torch would call, or None."""
    return shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")


def remembered(cases: list[OpenEngine]) -> list[tuple[EngineName, str]]:
    """The choice for each cell and its reason, by what was measured before; eager where nothing was."""
    found = [(case, _timings().get(_key(case.spec))) for case in cases]
    return [f.choice(case.spec.iterations) if f else ("eager", "not measured yet") for case, f in found]


def measured(cases: list[OpenEngine]) -> list[tuple[EngineName, str]]:
    """The choice for each cell and its reason, by measuring what was not measured before."""
    paces: Paces = {}
    long = {_key(case.spec): case for case in cases if _earns_measuring(case, paces)}  # other seeds do the same work
    if len(long) > 1:
        log.info("compiling for %s, once on this machine", ", ".join(c.spec.algorithm.name for c in long.values()))
        _compile_ahead(list(long.values()))
    return [_measured(case, paces) for case in cases]


def _measured(case: OpenEngine, paces: Paces) -> tuple[EngineName, str]:
    spec = case.spec
    timing = _timings().get(_key(spec))
    if timing is None:
        if compiler() is None:
            log.warning("there is no C++ compiler (g++ or clang++), so %s runs eagerly", spec.algorithm.name)
            return "eager", "there is no C++ compiler"
        try:
            if (seconds := spec.iterations * _pace(case, paces)) < SHORT:
                return "eager", f"too short to compile: about {seconds:.2g} s"
            log.info("timing %s on %s, eager and compiled, once on this machine", spec.algorithm.name, spec.suite.name)
            timing = _compare(case)
        except (DataError, KeyboardInterrupt):
            raise  # missing data say what to do
        except BaseException as error:  # the cell itself will tell of a plug-in's mistake
            return "eager", f"the measurement failed: {told(error)}"
        _keep(_key(spec), timing)
    return timing.choice(spec.iterations)


def _earns_measuring(case: OpenEngine, paces: Paces) -> bool:
    if compiler() is None or _key(case.spec) in _timings():
        return False
    try:
        return case.spec.iterations * _pace(case, paces) >= SHORT
    except KeyboardInterrupt:
        raise
    except BaseException:  # whatever it is, `_measured` will meet it and say so
        return False


def _compile_ahead(cases: list[OpenEngine]) -> None:
    """Fills the compiler's cache; what fails here is compiled later, or fails, where it is wanted."""
    messages: Messages = SimpleQueue()
    with Local(cases[0].spec.threads, messages) as processes:  # as many as we may use cores
        running = 0
        for case in cases:
            with contextlib.suppress(Exception):  # a plug-in's classes have no place to be imported from
                content = pickle.dumps(OpenEngine(case.spec, replace(case.suite), case.algorithm))  # type: ignore[type-var]
                arguments = {"case": base64.b64encode(content).decode()}
                processes.start(Job(_key(case.spec), "bench.planning.engines:compile_ahead", arguments))
                running += 1
        while running:
            running -= isinstance(messages.get()[1], Ending)


def compile_ahead(arguments: dict[str, Any], _emit: Emit, _stop: Any) -> bool:
    """Compiles a case's meta-gradient, in its job's process."""
    case: OpenEngine = pickle.loads(base64.b64decode(arguments["case"]))
    with threads(case.spec.threads):
        iteration(case, compiled=True)(*next(inputs(case)))
    return True


def iteration(case: OpenEngine, *, compiled: bool) -> Callable[[Meta, Episode], object]:
    """What a meta-iteration computes of its batch by an engine: the meta-gradient, and TRPO's step if that follows."""
    spec, suite, algorithm = case
    gradient = meta_gradient(suite, algorithm, compiled=compiled)
    if not isinstance(suite, Interactive) or not isinstance(outer_of(suite, algorithm, spec.iterations), TRPO):
        return gradient
    parts: Parts = (CompiledParts if compiled else EagerParts)(suite, algorithm)
    return lambda meta, batch: trpo(suite, algorithm, meta, gradient(meta, batch)[1], batch, parts)


def why_eager(suite: Suite, algorithm: Learner) -> str:
    """Why a learner can't be compiled on a suite; "" where it can."""
    if isinstance(suite, Interactive) and algorithm.remembers:
        return "it watches an episode step by step, which takes longer to compile than to train"
    return ""


def inputs(case: OpenEngine) -> Iterator[tuple[Meta, Episode]]:
    """Arguments of the meta-gradient, as the cell's training would give."""
    spec, suite, algorithm = case
    meta = to(algorithm.init(SuiteTask(suite), seeds.generator("timing")), spec.device)
    for batch in episodes(suite, algorithm, lambda: meta, spec.seed, 0, spec.device):
        yield meta, batch


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _pace(case: OpenEngine, paces: Paces) -> float:
    """Seconds of one meta-iteration, eagerly; timed once."""
    if (key := _key(case.spec)) not in paces:
        with threads(case.spec.threads):
            whole = iteration(case, compiled=False)
            paces[key] = min(_while_short(timed(partial(whole, *some)) for some in islice(inputs(case), 3)))
    return paces[key]


def _compare(case: OpenEngine) -> Timing:
    with threads(case.spec.threads):
        engines = [iteration(case, compiled=compiled) for compiled in (False, True)]
        batches = islice(inputs(case), 1 + TIMINGS)
        # In alternation, so that a machine which slows down meanwhile slows both; the least is what noise spares.
        first = [timed(partial(engine, *next(batches))) for engine in engines]
        rounds = _while_short([timed(partial(engine, *batch)) for engine in engines] for batch in batches)
    eager, compiled = (min(seconds) for seconds in zip(*rounds, strict=True))
    return Timing(eager, compiled, first[1] - compiled)


def _while_short(measurements: Iterable[Any]) -> list[Any]:
    """One measurement, and more of them while they have taken less time than what is not worth measuring."""
    began, found = time.perf_counter(), []
    for measurement in measurements:
        found.append(measurement)
        if time.perf_counter() - began > SHORT / 2:
            break
    return found


def _key(spec: Spec) -> str:
    return f"{spec.work} · {platform.node()} · {platform.machine()} · torch {torch.__version__}"


def _path() -> Path:
    return cache_dir() / "engines.json"


def _timings() -> dict[str, Timing]:
    # A lost or broken file costs a measurement, nothing else.
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        found: dict[str, Any] = json.loads(_path().read_bytes())
        return {key: Timing(*map(float, times)) for key, times in found.items()}
    return {}


def _keep(key: str, timing: Timing) -> None:
    with contextlib.suppress(OSError):
        _path().parent.mkdir(parents=True, exist_ok=True)
        with FileLock(_path().with_suffix(".lock")):
            content = json.dumps({**_timings(), key: timing}, indent=1)
            part = _path().with_suffix(".part")
            part.write_text(content)
            part.replace(_path())
