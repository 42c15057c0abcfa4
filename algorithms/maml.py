"""MAML: an initialisation from which a few gradient steps solve a task.

Finn, Abbeel, Levine 2017 (arXiv:1703.03400), algorithm 1.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from bench.core.gradients import GradientName, InnerClip, descend, gradient
from bench.core.types import Data, Family, Learner, Params, Search, Task


@dataclass(frozen=True, kw_only=True)
class MAML(Learner):
    """θ ← θ − β ∇_θ L_query(θ_K), with θ_{k+1} = θ_k − α ∇L_support(θ_k) (equations 1 and 2, the mean over tasks)."""

    inner_lr: Annotated[
        float,
        Field(gt=0, description="α, times the gradient of the mean loss"),
        Search(0.1, 10, log=True, times_protocol=True),
    ]
    gradient: Annotated[
        GradientName, Field(description="how an inner step is differentiated: first_order is FOMAML")
    ] = "reverse"
    inner_clip: InnerClip = None

    family: ClassVar[Family] = "gradient-based"
    learn2learn: ClassVar[str] = "MAML"

    @property
    def second_order(self) -> bool:
        """Exact unless the inner gradient is taken for a constant."""
        return self.gradient != "first_order"

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        """θ_{k+1} = θ_k − α ∇L(θ_k)."""
        return descend(state, gradient(self.gradient, task)(state, data), self.inner_lr, self.inner_clip)
