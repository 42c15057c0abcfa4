"""What certificates are made of: a check with its figure, cases on test beds, distances.

Letters: T tasks.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.certificate.beds import Bed
from bench.core import seeds
from bench.core.errors import BenchError
from bench.core.task import SuiteTask
from bench.core.trees import double, shapes_of, tree_leaves, tree_map
from bench.core.types import Episode, Interactive, Learner, Meta, Suite, Tasks
from bench.learning.rollouts import episode
from suites.bandit import Bandit

TASKS = 4
EXACT = 1e-12  # relative, float64: the same sums in another order
DIFFERENCES = 1e-6  # relative, float64: central differences at a step of 1e-5
ORDER = 1e-10  # relative, float64: other sums, through inner steps, whose rates a learner may divide by tiny gradients

Make = Callable[[Suite], Learner]
UNSUITED = "it does not suit {}"  # a kind


class Check(NamedTuple):
    """One line of a certificate."""

    name: str
    figure: str
    bound: str
    verdict: str  # pass | FAULT | n/a


class NotApplicable(Exception):
    """Why a check says nothing about this algorithm."""


def checked(name: str, bound: float, measure: Callable[[], float], above: bool = False) -> Check:
    """The check of a figure against its upper bound, or its lower one; what is raised is part of the verdict."""
    sign = ">" if above else "≤"
    try:
        figure = measure()
    except NotApplicable as reason:
        return Check(name, "", "", f"n/a: {reason}")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a stranger's code does, the certificate goes on
        return Check(name, type(error).__name__, str(error).splitlines()[0][:100] if str(error) else "", "FAULT")
    right = figure > bound if above else figure <= bound
    return Check(name, f"{figure:.1e}", f"{sign} {bound:.0e}", "pass" if right else "FAULT")


def broken(error: BenchError) -> Check:
    """What is said of a suite or an algorithm that breaks before any figure is to be had."""
    return Check(str(error), "", "", "FAULT")


class Case(NamedTuple):
    """A learner, what it has meta-learned, and what it is held to."""

    bed: Suite
    algorithm: Learner
    meta: Meta
    episodes: Episode  # leaves [T, ...]
    tasks: Tasks


def case_of(make: Make, *beds: Bed, **changes: Any) -> Case:
    """A learner with these changes on the first of the beds that it suits, TASKS tasks, float64.

    Raises:
        NotApplicable: it suits none.
    """
    bed = next((bed for bed in beds if bed.kind in make(bed).suits), None)
    if bed is None:
        raise NotApplicable(UNSUITED.format(" or ".join(dict.fromkeys(bed.kind for bed in beds))))
    algorithm = dataclasses.replace(make(bed), **changes)
    meta = double(algorithm.init(SuiteTask(bed), seeds.generator("certify", "init")))
    tasks = bed.sample(TASKS, "train", seeds.generator("certify", "tasks"))
    noise = double(algorithm.noise(shapes_of(meta), TASKS, seeds.generator("certify", "noise")))
    support, query = bed.look_up(tasks, "support"), bed.look_up(tasks, "query")
    return Case(
        bed,
        algorithm,
        meta,
        Episode((support,) * algorithm.steps, query, noise, torch.zeros(TASKS, dtype=torch.int64)),
        tasks,
    )


def acting_case(make: Make, bed: Interactive | None = None, **parameters: Any) -> Case:
    """A case on a small bandit, or another bed, whose episodes are recorded in float32 and evaluated in float64."""
    suite = bed or Bandit(arms=3, pulls=4, trajectories=5, **parameters)
    algorithm = make(suite)
    if "control" not in algorithm.suits:
        raise NotApplicable(UNSUITED.format("control"))
    if not algorithm.trains:
        raise NotApplicable("it does not meta-train")
    meta = algorithm.init(SuiteTask(suite), seeds.generator("certify", "init"))
    tasks = suite.sample(TASKS, "train", seeds.generator("certify", "tasks"))
    noise = algorithm.noise(shapes_of(meta), TASKS, seeds.generator("certify", "noise"))
    recorded = episode(suite, algorithm, meta, tasks, noise, seeds.generator("certify", "collect"), "cpu")
    return Case(suite, algorithm, double(meta), double(recorded), tasks)


def task_of(episodes_: Episode, t: int) -> Episode:
    """One task's episode of many, [T, ...]."""
    one: Episode = tree_map(lambda x: x[t], episodes_)
    return one


def gap(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """‖a − b‖ / ‖b‖ over all tensors together."""
    distance = sum((a - b).abs().square().sum().item() for a, b in zip(ours, theirs, strict=True)) ** 0.5
    return float(distance / max(sum(b.abs().square().sum().item() for b in theirs) ** 0.5, 1e-300))


def different(one: Any, other: Any) -> float:
    """How many leaves are not the same bits."""
    pairs = zip(tree_leaves(one), tree_leaves(other), strict=True)
    return float(sum(not (torch.equal(a, b) if isinstance(a, Tensor) else a == b) for a, b in pairs))
