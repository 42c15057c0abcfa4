"""What TRPO computes of recorded episodes, compiled: the same functions as eagerly, chunk by chunk of tasks.

Each is a mean over tasks, so that it is the mean of what the chunks give. Letters: T tasks.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from bench.core.task import SuiteTask
from bench.core.trees import tree_flatten, tree_unflatten
from bench.core.types import Episode, Interactive, Learner, Meta
from bench.learning.engines.stages import InStages
from bench.learning.engines.vectorised import Compiled, Leaves, Specs, at_once, side_by_side
from bench.learning.outer.trpo import Vector, fisher, surrogate


class CompiledParts:
    """The Fisher product and the surrogate of a suite's and a learner's episodes, compiled once per shape."""

    def __init__(self, suite: Interactive, algorithm: Learner) -> None:
        """Nothing is compiled before it is called."""
        seen, learner = suite.differentiated(), algorithm
        SuiteTask(seen)  # finds out what it looks like by draws, which have no place in a trace
        if getattr(algorithm, "gradient", None) == "mixed":  # what it saves, compiled code never keeps
            learner = replace(algorithm, gradient="reverse")  # type: ignore[call-arg]

        def product(v: Leaves, fixed: Leaves, specs: Specs) -> Leaves:
            cut = len(v)
            meta, episode = tree_unflatten(fixed[:cut], specs[0]), tree_unflatten(fixed[cut:], specs[1])
            return fisher(seen, learner, meta, episode, by_task=len(fixed[cut]) == 1)(v)

        def judged(meta: Leaves, batch: Leaves, specs: Specs) -> Leaves:
            trees = tree_unflatten(meta, specs[0]), tree_unflatten(batch, specs[1])
            return list(surrogate(suite, algorithm, *trees, by_task=len(batch[0]) == 1))

        self._product, self._judged = InStages(product), Compiled(judged, thorough=True)

    def fisher(self, meta: Meta, episode: Episode) -> Callable[[Vector], Vector]:
        """As `outer.trpo.fisher`; what does not depend on the vector is computed here, once."""
        (values, spec), (batch, its_spec) = tree_flatten(meta), tree_flatten(episode)
        parts, threads = _chunks(values, batch)
        fixed = [[*values, *part] for part in parts]
        v = [torch.empty_like(x) for x in values]  # of their shapes, and none of them
        stages = [self._product.stages(v, some, (spec, its_spec), threads) for some in fixed]
        firsts = [partial(first, *some) for (first, _), some in zip(stages, fixed, strict=True)]
        kept = _each(firsts)
        del fixed, firsts

        def product(v: Vector) -> Vector:
            calls = [partial(rest, *v, *some) for (_, rest), some in zip(stages, kept, strict=True)]
            return _mean(_each(calls))

        return product

    def surrogate(self, meta: Meta, episode: Episode) -> tuple[Tensor, Tensor]:
        """As `outer.trpo.surrogate`."""
        (values, spec), (batch, its_spec) = tree_flatten(meta), tree_flatten(episode)
        parts, _ = _chunks(values, batch)
        specs = spec, its_spec
        if len(parts) == 1:
            found = [self._judged(values, parts[0], specs)]
        else:
            found = self._judged.side_by_side(values, parts, specs)
        loss, kl = _mean(found)
        return loss, kl


def _chunks(meta: Leaves, batch: Leaves) -> tuple[list[Leaves], int]:
    """The parts of a batch that are computed at once, of equally many tasks, and the threads that each takes."""
    tasks, threads = len(batch[0]), torch.get_num_threads()
    if at_once(meta, tasks, batch) >= tasks:
        return [batch], threads
    return [list(part) for part in zip(*(leaf.split(1) for leaf in batch), strict=True)], 1


def _each(calls: Sequence[Callable[[], Leaves]]) -> list[Leaves]:
    if len(calls) > 1:
        return side_by_side(calls)
    with torch.no_grad():
        return [list(call()) for call in calls]


def _mean(found: list[Leaves]) -> Leaves:
    return [torch.stack(leaves).mean(0) for leaves in zip(*found, strict=True)]
