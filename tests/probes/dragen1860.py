"""What dragen1860/MAML-Pytorch computes, written anew from a description of its meta.py (98a00d4), not from its text.

The inner gradient is taken without a graph; the scales and shifts of normalisation adapt too; the loss is the query's
after the last step, and the losses after no step and after one are computed where no graph is kept. Its rate, for the
mean cross-entropy, and its steps are the defaults; meta-batch and outer rate are the suite's.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from bench.core.gradients import OPERATORS, descend
from bench.core.types import Data, Episode, Family, Kind, Learner, Meta, Params, Search, State, Task


@dataclass(frozen=True, kw_only=True)
class Dragen1860(Learner):
    """θ ← θ − β ∇L_query(θ_K) with ∂θ_K/∂θ the identity for K > 1, and no gradient at all for K = 1."""

    inner_lr: Annotated[float, Field(gt=0, description="α"), Search(0.1, 10, log=True)] = 0.4
    steps: Annotated[int, Field(ge=1, description="inner steps in meta-training; of 1 nothing is learned")] = 5

    family: ClassVar[Family] = "gradient-based"
    suits: ClassVar[frozenset[Kind]] = frozenset({"classification"})

    @property
    def second_order(self) -> bool:
        """It never is."""
        return False

    def adapts(self, task: Task, name: str) -> bool:
        """Every parameter."""
        return True

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> State:
        """θ_{k+1} = θ_k − α g, g a constant."""
        slopes = OPERATORS["first_order"](task.loss, lambda _: True)(state, data)
        return descend(state, slopes, self.inner_lr)

    def meta_loss(self, meta: Meta, task: Task, episode: Episode) -> Tensor:
        """The query's loss, which leads back to θ only after a second step."""
        loss = super().meta_loss(meta, task, episode)
        return loss if self.steps > 1 else loss.detach()
