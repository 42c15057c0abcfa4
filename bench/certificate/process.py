"""A suite's frozen tasks and network as another Python process makes them, whose strings have other hashes."""

import atexit
import importlib
import importlib.util
import inspect
import os
import pickle
import subprocess
import sys
from functools import cache
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import torch

from bench.certificate.checks import NotApplicable
from bench.core import seeds
from bench.core.discovery import Catalogue, build, module_of, parameters
from bench.core.errors import BenchError
from bench.core.trees import tree_leaves
from bench.core.types import Split, Suite
from bench.learning.evaluate import manifest

SERVE = "from bench.certificate.process import serve; serve()"
SEED = "4242"  # of the hashes of strings there


def hash_there(suite: Suite, name: str, split: Split) -> str:
    """The SHA-256 of the frozen tasks as they are drawn there.

    Raises:
        NotApplicable: the suite's class can't be made there.
        BenchError: it breaks there.
    """
    return str(_there(suite, name, split))


def network_there(suite: Suite, name: str) -> list[Any]:
    """As `network`, of the suite as it is made there.

    Raises:
        NotApplicable: the suite's class can't be made there.
        BenchError: it breaks there.
    """
    return list(_there(suite, name, None))


def network(suite: Suite) -> list[Any]:
    """The network's first values by a certain seed, and what it predicts of an example with them, as arrays."""
    params = suite.new_params(seeds.generator("certify", "init"))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        predicted = tree_leaves(suite.predict(params, suite.example("query")))
    return [leaf.to(torch.complex128).numpy() for leaf in (*params.values(), *predicted)]


def _there(suite: Suite, name: str, split: Split | None) -> Any:
    cls = type(suite)
    if "<locals>" in cls.__qualname__:
        raise NotApplicable("its class stands within a function, where no other process finds it")
    read = Catalogue.within().plugins  # which the suite may name in its parameters
    asked = (read, cls.__module__, inspect.getfile(cls), cls.__qualname__, name, parameters(suite), split)
    there = _process()
    if there.stdin is None or there.stdout is None:
        raise BenchError("the other process can't be asked")
    try:
        pickle.dump(asked, there.stdin)
        there.stdin.flush()
        found, error, unfound = pickle.load(there.stdout)
    except (OSError, EOFError):
        raise BenchError("the other process ended before it had answered") from None
    if unfound:
        raise NotApplicable(f"another process can't import its class ({error})")
    if error:
        raise BenchError(f"in another process: {error}")
    return found


def end() -> None:
    """Ends the other process, if there is one."""
    if _process.cache_info().currsize:
        _process().kill()
        _process().communicate()
        _process.cache_clear()


@cache
def _process() -> "subprocess.Popen[bytes]":
    """One for all suites: it takes seconds to import what they need."""
    environment = os.environ | {"PYTHONHASHSEED": SEED, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    atexit.register(end)
    return subprocess.Popen(
        [sys.executable, "-c", SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=environment,
    )  # fmt: skip


def serve() -> None:
    """Answers until nobody asks any more; what a suite prints is nobody's answer."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while (asked := _next(sys.stdin.buffer)) is not None:
        try:
            answer = _drawn(*asked), "", False
        except BaseException as error:  # whatever a stranger's code does
            answer = "", f"{type(error).__name__}: {error}", isinstance(error, ImportError)
        pickle.dump(answer, answers)
        answers.flush()


def _next(stream: BinaryIO) -> Any:
    try:
        return pickle.load(stream)
    except EOFError:
        return None


def _drawn(
    read: tuple[Path, ...], module: str, file: str, qualname: str, name: str, given: dict[str, Any], split: Split | None
) -> Any:
    for path in read:
        module_of(path)
    suite = build(attrgetter(qualname)(_module(module, file)), name, given)
    return manifest(suite, name, split)[1] if split else network(suite)


def _module(name: str, file: str) -> ModuleType:
    if name != "__main__":
        try:
            return importlib.import_module(name)
        except ImportError:
            pass
    spec = importlib.util.spec_from_file_location(f"certified_{name.strip('_')}", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
