"""Oracle: one model that is told the task's parameters, so that there is nothing to adapt to.

The "oracle" of Finn, Abbeel, Levine 2017 (arXiv:1703.03400), section 5.1: an upper bound for every meta-learner.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bench.core.types import Data, Episode, Family, Learner, Params, Task


@dataclass(frozen=True, kw_only=True)
class Oracle(Learner):
    """θ ← θ − β ∇L(θ) on inputs that hold the task's parameters; no inner steps."""

    steps: ClassVar[int] = 0  # type: ignore[misc]  # it is told what others adapt to

    family: ClassVar[Family] = "baselines"
    train_view: ClassVar[str] = "oracle_view"
    test_view: ClassVar[str] = "oracle_view"

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        """The same parameters."""
        return state

    def meta_loss(self, meta: Params, task: Task, episode: Episode) -> Tensor:
        """L(θ), not adapted."""
        return task.loss(meta, episode.query)
