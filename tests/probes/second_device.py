"""One meta-iteration and one scoring of every method on tensors without values, on a device that is not the CPU.

No GPU is needed: torch's fake tensors know shapes and devices and refuse to mix two of these. `python second_device.py
SUITE,SUITE [PLUGIN ...]` prints a line for each method: its name, the suite, and `ok` or what went wrong. In a process
of its own, since a device that has been made up stays.
"""

import contextlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from bench.core import modules
from bench.core.discovery import Catalogue
from bench.core.errors import BenchError, told
from bench.core.task import SuiteTask
from bench.core.trees import to, tree_leaves, tree_map
from bench.core.types import Data, Interactive, Meta, Role, Suite, Tasks
from bench.learning import evaluate
from bench.learning.batches import episodes
from bench.learning.engines.vectorised import meta_gradient
from bench.learning.outer.descent import Descent
from bench.learning.outer.trpo import TRPO, outer_of, surrogate
from bench.learning.views import Views
from bench.planning.plan import Cell, Request, plan

DEVICE = "gpu"


def check(cell: Cell) -> None:
    """Raises whatever torch says of tensors on two devices."""
    algorithm, views = cell.algorithm, Views.of(cell.suite, cell.algorithm)
    suite = views.training
    meta = algorithm.init(SuiteTask(suite), torch.Generator().manual_seed(0))
    batch = next(episodes(suite, algorithm, lambda: meta, 0, 0))
    kept = modules.statistics(suite.skeleton)
    tasks = views.tested.sample(2, "validation", torch.Generator().manual_seed(0))
    SuiteTask(views.tested)  # builds its network, while numbers are numbers
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    meta, batch, kept = tree_map(mode.from_tensor, (meta, batch, kept))
    with mode:
        meta, batch, kept = to((meta, batch, kept), DEVICE)
        if algorithm.trains:
            loss, gradient = meta_gradient(suite, algorithm)(meta, batch)
            outer = outer_of(suite, algorithm, 10)
            if isinstance(outer, TRPO) and isinstance(suite, Interactive):
                surrogate(suite, algorithm, meta, batch)
            elif not isinstance(outer, TRPO):
                Descent(outer, meta, []).update(gradient, batch, 0, lambda: (loss, gradient))
            astray = {str(x.device) for x in tree_leaves((loss, gradient, meta))} - {f"{DEVICE}:0"}
            assert not astray, f"results on {astray}"
        if not isinstance(suite, Interactive):
            with data_as_they_are(views.tested, tasks, mode):
                chosen = next(iter(algorithm.candidates()), algorithm)
                evaluate.trace(views.tested, chosen, views.fit(meta, 0, DEVICE), tasks, 2, DEVICE, kept)


@contextlib.contextmanager
def data_as_they_are(suite: Suite, tasks: Tasks, mode: FakeTensorMode) -> Iterator[None]:
    """What these tasks show, whatever is asked for: looking up by value is not for tensors without values."""
    collect = suite.collect

    def real(_: Tasks, meta: Meta, role: Role, *others: Any) -> Data:
        with unset_fake_temporarily():
            data = collect(tasks, meta, role, *others)
        return tree_map(mode.from_tensor, data)

    collected = mock.patch.object(type(suite), "collect", lambda _, *arguments: real(*arguments))
    with collected, mock.patch.object(evaluate, "chunk", lambda _: evaluate.CHUNK):
        yield


def main(suites: str, *plugins: str) -> None:
    """Prints a line for each method and the first suite that it meets; for MAML and all that it meets."""
    _setup_privateuseone_for_python_backend(DEVICE)
    paths = tuple(map(Path, plugins))
    tried = set()
    for suite, name in itertools.product(suites.split(","), Catalogue(paths).classes("algorithm")):
        if name in tried - {"maml"}:
            continue
        request = Request(suites=suite, algos=name, preset="smoke", engine="eager", threads=1, plugins=paths)
        try:
            cell, *_ = plan(request)
        except BenchError:
            continue  # not made for each other
        tried.add(name)
        try:
            check(cell)
            said = "ok"
        except Exception as error:
            said = told(error)
        sys.stdout.write(f"{name} {suite} {said}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
