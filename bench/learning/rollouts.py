"""Learners that act: collecting by the present policies alternates with one inner step of all tasks at once.

The environments are real and stay outside vmap. Letters: T tasks, K inner steps.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Generator
from torch.func import vmap

from bench.core.task import SuiteTask
from bench.core.trees import tree_leaves, tree_map
from bench.core.types import Data, Episode, Interactive, Learner, Meta, Params, Role, Tasks


class Stage(NamedTuple):
    """What the tasks showed after some inner steps."""

    step: int  # inner steps taken
    params: Params  # that acted, leaves [T, ...]
    data: Data  # leaves [T, ...]


def adapted(
    suite: Interactive,
    algorithm: Learner,
    meta: Meta,
    tasks: Tasks,
    noise: Data,
    steps: int,
    generator: Generator,
    device: str = "cpu",
) -> Iterator[Stage]:
    """What is collected after 0..`steps` inner steps, each taken on what the one before it showed; no graph is kept."""
    task = SuiteTask(suite)
    with torch.no_grad():
        count = len(tree_leaves(tasks)[0])
        state = vmap(lambda t, n: algorithm.start(meta, n), randomness="error")(torch.zeros(count), noise)
    for k in range(steps + 1):
        with torch.no_grad():
            params = vmap(lambda s: algorithm.params(meta, s))(state)
            role: Role = "support" if k < steps else "query"
            here = {name: p.cpu() for name, p in params.items()}  # where the environments are
            data = tree_map(lambda x: x.to(device), suite.collect(tasks, here, role, k, generator))
        yield Stage(k, params, data)
        if k < steps:
            with torch.no_grad():
                state = vmap(lambda s, d, k=k: algorithm.step(meta, s, task, d, k))(state, data)


def episode(
    suite: Interactive, algorithm: Learner, meta: Meta, tasks: Tasks, noise: Data, generator: Generator, device: str
) -> Episode:
    """All that a meta-iteration learns from, leaves [T, ...]: support of every inner step, then the query."""
    stages = adapted(suite, algorithm, meta, tasks, noise, algorithm.steps, generator, device)
    *support, query = (stage.data for stage in stages)
    return Episode(tuple(support), query, noise)
