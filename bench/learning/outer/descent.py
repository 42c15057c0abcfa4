"""Gradient descent on Meta, by the optimiser and the schedule that a learner declares."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from bench.core.outer import Outer
from bench.core.trees import tree_leaves
from bench.core.types import Episode, Meta

Memory = list[dict[str, Tensor]]  # what an optimiser keeps, for each leaf of Meta that it moves
Again = Callable[[], tuple[Tensor, Meta]]


class Rule(Protocol):
    """How Meta moves: in place, so that whoever holds it sees it move."""

    memory: Memory

    def update(self, gradient: Meta, batch: Episode, iteration: int, again: Again) -> dict[str, float]:
        """Moves Meta by what is learned from a batch, after `iteration` others; what to note of it.

        `again` gives the batch's loss and gradient where Meta is by then.
        """
        ...


class Descent:
    """θ ← θ − rate(iteration) · g, as torch's optimiser makes it of the meta-gradient."""

    def __init__(self, outer: Outer, meta: Meta, memory: Memory, clip: float | None = None) -> None:
        """Goes on with `memory` where a run was cut, else with none; `clip` holds where `outer` has none."""
        self.outer, self.clip = outer, clip if outer.clip is None else outer.clip
        every = tree_leaves(meta)
        self.places = [i for i, leaf in enumerate(every) if leaf.is_floating_point()]  # the others are buffers
        self.leaves = [every[i] for i in self.places]
        self.optimiser = outer.optimiser(self.leaves)
        for leaf, kept in zip(self.leaves, memory, strict=False):
            self.optimiser.state[leaf] = kept
        self.memory: Memory = [self.optimiser.state[leaf] for leaf in self.leaves]

    def update(self, gradient: Meta, batch: Episode, iteration: int, again: Again) -> dict[str, float]:
        """One step of the optimiser for each of the rule's epochs."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.outer.rate_at(iteration)
        self._step(gradient)
        for _ in range(self.outer.epochs - 1):
            self._step(again()[1])
        return {}

    def _step(self, gradient: Meta) -> None:
        slopes = tree_leaves(gradient)
        for leaf, place in zip(self.leaves, self.places, strict=True):
            g = slopes[place]
            leaf.grad = g if self.clip is None else g.clamp(-self.clip, self.clip)
        self.optimiser.step()
