"""Learners that act: collecting by the present policies alternates with one inner step of all tasks at once.

The environments stay outside vmap, and on the CPU where they are not made of tensors. Letters: T tasks, K inner steps.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.func import vmap

from bench.core.task import SuiteTask
from bench.core.trees import of_tensors, tree_leaves, tree_map
from bench.core.types import Data, Episode, Interactive, Learner, Meta, Moment, Params, Role, State, Tasks


class Stage(NamedTuple):
    """What the tasks showed after some inner steps."""

    step: int  # inner steps taken
    state: State  # that acted, leaves [T, ...]
    data: Data  # leaves [T, ...]


class Actor:
    """The tasks' policies with what they remember: called once a time-step, from the first of an episode on."""

    def __init__(self, algorithm: Learner, meta: Meta, state: State, task: SuiteTask) -> None:
        """`state`, leaves [T, ...], is left as it is: what an episode leaves behind is for the inner step to say."""
        self.algorithm, self.meta, self.state, self.task = algorithm, meta, state, task

    def __call__(self, moment: Moment) -> Tensor:
        """The distributions' parameters, [T, B, D]."""

        def one(state: State, moment: Moment) -> tuple[Tensor, State]:
            return self.algorithm.act(self.meta, state, self.task, moment)

        with torch.no_grad():
            prediction, self.state = vmap(one)(self.state, moment)
        return prediction


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
    """What is collected after 0..`steps` inner steps, each taken on what the one before it showed; no graph is kept.

    Raises:
        PluginError: a state has other leaves than tensors, which tasks that act at once can't each have their own of.
    """
    whose = f"the state that {type(algorithm).__name__} gives from"
    task, where = SuiteTask(suite), device if suite.of_tensors else "cpu"
    tasks = _moved(tasks, where)
    with torch.no_grad():
        count = len(tree_leaves(tasks)[0])
        state = vmap(lambda t, n: of_tensors(algorithm.start(meta, n), f"{whose} start"), randomness="error")(
            torch.zeros(count), noise
        )
    for k in range(steps + 1):
        with torch.no_grad():
            role: Role = "support" if k < steps else "query"
            acts: Params | Actor
            if algorithm.remembers:
                acts = Actor(algorithm, _moved(meta, where), _moved(state, where), task)
            else:
                acts = _moved(vmap(lambda s: algorithm.params(meta, s))(state), where)
            data = _moved(suite.collect(tasks, acts, role, k, generator), device)
        yield Stage(k, state, data)
        if k < steps:
            with torch.no_grad():
                state = vmap(lambda s, d, k=k: of_tensors(algorithm.step(meta, s, task, d, k), f"{whose} step"))(
                    state, data
                )


def _moved(tree: Any, device: str) -> Any:
    return tree_map(lambda x: x.to(device), tree)  # back from a GPU too


def episode(
    suite: Interactive, algorithm: Learner, meta: Meta, tasks: Tasks, noise: Data, generator: Generator, device: str
) -> Episode:
    """All that a meta-iteration learns from, leaves [T, ...]: support of every inner step, then the query."""
    stages = adapted(suite, algorithm, meta, tasks, noise, algorithm.steps, generator, device)
    *support, query = (stage.data for stage in stages)
    return Episode(tuple(support), query, noise)
