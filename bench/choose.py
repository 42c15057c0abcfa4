"""Eager or compiled: whichever ends a cell sooner on this machine, found by a short measurement that is kept.

Compiling costs from seconds to a minute and saves some of every iteration after, how much depends on net, algorithm,
shapes and machine; so it is measured, once for each, before cells are planned.
"""

import contextlib
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock

from bench.core import seeds
from bench.core.data import cache_dir
from bench.core.errors import BenchError
from bench.core.records import EngineName, Spec
from bench.core.types import Episode, Learner, Meta, Suite
from bench.engines.vectorised import meta_gradient
from bench.evaluate import to
from bench.train import episodes

SHORT = 20.0  # seconds of eager training; below, compiling can't pay and is not even tried
ROUNDS = 6  # in which both are timed, after one to warm up and to compile
log = logging.getLogger("bench")
_eager: dict[str, float] = {}  # seconds of one meta-iteration, of work that this process has timed


class Finding(NamedTuple):
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


def remembered(spec: Spec, _suite: Suite, _algorithm: Learner) -> tuple[EngineName, str]:
    """The choice for a cell and its reason, by what was measured before; eager where nothing was."""
    finding = _findings().get(_key(spec))
    return finding.choice(spec.iterations) if finding else ("eager", "not measured yet")


def measured(spec: Spec, suite: Suite, algorithm: Learner) -> tuple[EngineName, str]:
    """The choice for a cell and its reason, by measuring what was not measured before.

    Args:
        spec: the cell's, with any engine.
        suite: as the algorithm sees it in training.
        algorithm: whose meta-gradient is timed.
    """
    finding = _findings().get(_key(spec))
    if finding is None:
        if compiler() is None:
            log.warning("there is no C++ compiler (g++ or clang++), so %s runs eagerly", spec.algorithm.name)
            return "eager", "there is no C++ compiler"
        try:
            pace = _eager.get(_key(spec)) or _pace(spec, suite, algorithm)
            _eager[_key(spec)] = pace  # other seeds do the same work
            if spec.iterations * pace < SHORT:
                return "eager", f"too short to compile: about {spec.iterations * pace:.2g} s"
            log.info("timing %s on %s, eager and compiled, once on this machine", spec.algorithm.name, spec.suite.name)
            finding = _compare(spec, suite, algorithm)
        except BenchError:
            raise  # such as missing data, which says what to do
        except Exception as error:  # the cell itself will tell of a plug-in's mistake, and the others go on
            return "eager", f"the measurement failed: {type(error).__name__}: {error}"
        _keep(_key(spec), finding)
    return finding.choice(spec.iterations)


def inputs(spec: Spec, suite: Suite, algorithm: Learner) -> Iterator[tuple[Meta, Episode]]:
    """Arguments of the meta-gradient, as the cell's training would give."""
    meta = to(algorithm.init(suite.new_params, seeds.generator("timing")), spec.device)
    for batch in episodes(suite, algorithm, lambda: meta, spec.seed, 0, spec.device):
        yield meta, batch


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _pace(spec: Spec, suite: Suite, algorithm: Learner) -> float:
    torch.set_num_threads(spec.threads)
    gradient = meta_gradient(suite, algorithm)
    return min(timed(partial(gradient, *case)) for case in islice(inputs(spec, suite, algorithm), 3))


def _compare(spec: Spec, suite: Suite, algorithm: Learner) -> Finding:
    torch.set_num_threads(spec.threads)
    engines = [meta_gradient(suite, algorithm, compiled=compiled) for compiled in (False, True)]
    cases = islice(inputs(spec, suite, algorithm), 1 + ROUNDS)
    # In alternation, so that a machine which slows down meanwhile slows both; the least is what noise spares.
    rounds = [[timed(partial(gradient, *case)) for gradient in engines] for case in cases]
    eager, compiled = (min(seconds) for seconds in zip(*rounds[1:], strict=True))
    return Finding(eager, compiled, rounds[0][1] - compiled)


def _key(spec: Spec) -> str:
    return f"{spec.work} · {platform.node()} · {platform.machine()} · torch {torch.__version__}"


def _path() -> Path:
    return cache_dir() / "engines.json"


def _findings() -> dict[str, Finding]:
    # A lost or broken file costs a measurement, nothing else.
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        found: dict[str, Any] = json.loads(_path().read_bytes())
        return {key: Finding(*map(float, times)) for key, times in found.items()}
    return {}


def _keep(key: str, finding: Finding) -> None:
    with contextlib.suppress(OSError):
        _path().parent.mkdir(parents=True, exist_ok=True)
        with FileLock(_path().with_suffix(".lock")):
            content = json.dumps({**_findings(), key: finding}, indent=1)
            part = _path().with_suffix(".part")
            part.write_text(content)
            part.replace(_path())
