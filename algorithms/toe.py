"""TOE: train on everything, one model of all that has come.

The baseline of Finn, Rajeswaran, Kakade, Levine 2019 (arXiv:1902.08438), section 5: it has been trained on the present
task's points too, and is tested as it is.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bench.core.types import Data, Episode, Family, Follows, Kind, Learner, Params, Task


@dataclass(frozen=True, kw_only=True)
class TOE(Learner):
    """θ ← θ − β ∇L(θ) on points of all tasks so far, the present one included; no inner steps."""

    steps: ClassVar[int] = 0  # type: ignore[misc]  # it adapts to nothing

    family: ClassVar[Family] = "online"
    suits: ClassVar[frozenset[Kind]] = frozenset({"regression", "classification"})
    follows: ClassVar[Follows] = "all"

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        """The same parameters."""
        return state

    def meta_loss(self, meta: Params, task: Task, episode: Episode) -> Tensor:
        """L(θ), not adapted."""
        return task.loss(meta, episode.query)
