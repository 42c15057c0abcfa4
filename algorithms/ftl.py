"""FTL: follow the leader, one model of all earlier tasks, fine-tuned on the present one.

The baseline of Finn, Rajeswaran, Kakade, Levine 2019 (arXiv:1902.08438), section 5.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from algorithms.toe import TOE
from bench.core.gradients import InnerClip, descend, gradient
from bench.core.types import Data, Follows, Params, Search, Task


@dataclass(frozen=True, kw_only=True)
class FTL(TOE):
    """θ ← θ − β ∇L(θ) on points of the earlier tasks; in its round a task is met by θ_{k+1} = θ_k − α ∇L(θ_k)."""

    inner_lr: Annotated[float, Field(gt=0, description="α"), Search(0.1, 10, log=True, times_protocol=True)]
    inner_clip: InnerClip = None

    follows: ClassVar[Follows] = "earlier"

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        """θ_{k+1} = θ_k − α ∇L(θ_k)."""
        return descend(state, gradient("first_order", task)(state, data), self.inner_lr, self.inner_clip)
