"""The certificate of a suite's tasks: which classes they hold, that they alone say what is looked up, and how much.

Letters: T tasks.
"""

import contextlib
import ctypes
import gc
from collections.abc import Iterator
from typing import Any, get_args

import torch
from torch import Tensor

from bench.cells.outcome import PeakMemory
from bench.certificate import process
from bench.certificate.checks import Check, NotApplicable, checked, different
from bench.core import seeds
from bench.core.trees import part, tree_leaves, tree_map
from bench.core.types import Data, Role, Split, Suite, Tasks
from bench.learning.evaluate import manifest

MANY = 300  # tasks of a split among which no class of another may be
SOME = 8  # that are looked up
MOST = 2.0  # GB to draw and look up so many tasks


def task_checks(suite: Suite, name: str) -> Iterator[Check]:
    """What holds of any suite's tasks, whatever is learned of them."""
    yield checked("frozen tasks drawn in another process: other hashes", 0, lambda: _elsewhere(suite, name))
    yield checked("classes of other splits among the tasks drawn", 0, lambda: _leaked(suite))
    yield checked("the same tasks looked up again, alone and after others: change", 0, lambda: _looked_up(suite))
    yield checked("data that are no numbers (NaN, infinite)", 0, lambda: _numbers(suite))
    yield checked("classes beyond the network's outputs, and splits of other shapes", 0, lambda: _outside(suite))
    yield checked(f"GB of memory to draw and look up {SOME} tasks of each split", MOST, lambda: _memory(suite))


def _elsewhere(suite: Suite, name: str) -> float:
    splits: tuple[Split, ...] = ("test", "validation")
    return float(sum(manifest(suite, name, split)[1] != process.hash_there(suite, name, split) for split in splits))


def _leaked(suite: Suite) -> float:
    """How many classes stand in tasks of a split to which they do not belong."""
    classes_of = getattr(suite, "classes_of", None)
    drawn = {split: _tasks(suite, split, MANY) for split in get_args(Split)}
    if classes_of is None or not hasattr(drawn["train"], "classes"):
        raise NotApplicable("its tasks are not of numbered classes")
    found = {split: set(tasks.classes.flatten().tolist()) for split, tasks in drawn.items()}
    return float(sum(len(seen - set(classes_of(split).tolist())) for split, seen in found.items()))


def _looked_up(suite: Suite) -> float:
    """How many leaves are other bits when the same tasks are looked up a second time, or one of them alone."""
    if suite.kind == "control":
        raise NotApplicable("its data depend on what is done")
    wrong = 0.0
    for split in get_args(Split):
        tasks = _tasks(suite, split, SOME)
        before = tree_map(Tensor.clone, tasks)
        for role in get_args(Role):
            first = _data(suite, tasks, role, "first")
            _data(suite, _tasks(suite, split, SOME, "others"), role, "others")
            wrong += different(first, _data(suite, tasks, role, "second"))
            wrong += different(part(first, slice(1, 2)), _data(suite, part(tasks, slice(1, 2)), role, "alone"))
        wrong += different(before, tasks)
    return wrong


def _numbers(suite: Suite) -> float:
    """How many entries of the data are NaN or infinite."""
    leaves = [leaf for split in get_args(Split) for role in get_args(Role) for leaf in _leaves(suite, split, role)]
    return float(sum((~leaf.isfinite()).sum().item() for leaf in leaves if leaf.is_floating_point()))


def _outside(suite: Suite) -> float:
    """How many targets are no class that the network knows, and how many leaves have another shape than in training."""
    if suite.kind == "control":
        raise NotApplicable("its tasks are acted in")
    wrong = 0.0
    for role in get_args(Role):
        shapes = [leaf.shape[2:] for leaf in _leaves(suite, "train", role)]
        for split in get_args(Split):
            data = _data(suite, _tasks(suite, split, SOME), role)
            wrong += [leaf.shape[2:] for leaf in tree_leaves(data)] != shapes
            if suite.kind == "classification":
                targets = torch.stack([suite.targets(part(data, t)) for t in range(SOME)])
                wrong += ((targets < 0) | (targets >= suite.outputs)).sum().item()
    return float(wrong)


def _memory(suite: Suite) -> float:
    """By how many gigabytes the process grows at most, after all has been read once."""
    for split in get_args(Split):
        _leaves(suite, split, "query")
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)  # what the process keeps of freed memory would be taken anew unseen
    peak = PeakMemory()
    before = peak.bytes()
    for split in get_args(Split):
        for role in get_args(Role):
            _leaves(suite, split, role)
    if before is None:
        raise NotApplicable("the system does not tell")
    return ((peak.bytes() or 0) - before) / 1e9


def _leaves(suite: Suite, split: Split, role: Role) -> list[Tensor]:
    leaves: list[Tensor] = tree_leaves(_data(suite, _tasks(suite, split, SOME), role))
    return leaves


def _tasks(suite: Suite, split: Split, count: int, which: str = "these") -> Tasks:
    return suite.sample(count, split, seeds.generator("certify", "tasks", split, which))


def _data(suite: Suite, tasks: Tasks, role: Role, which: str = "") -> Data:
    count = len(tree_leaves(tasks)[0])
    params = suite.new_params(seeds.generator("certify", "init")) if suite.kind == "control" else {}
    acting: Any = {name: p.expand(count, *p.shape) for name, p in params.items()}
    return suite.collect(tasks, acting, role, 0, seeds.generator("certify", "data", which))
