"""Pretrain, then fine-tune: one model for all tasks, adapted by plain gradient descent.

The "pretrained" baseline of Finn, Abbeel, Levine 2017 (arXiv:1703.03400), section 5.1, whose rate was tuned as well.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Self

from pydantic import Field
from torch import Tensor

from bench.core.gradients import InnerClip, descend, gradient
from bench.core.types import Data, Episode, Family, Learner, Params, Search, Task

GRID = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


@dataclass(frozen=True, kw_only=True)
class Finetune(Learner):
    """θ ← θ − β ∇L(θ) on all training tasks alike; at test θ_{k+1} = θ_k − α ∇L_support(θ_k)."""

    steps: ClassVar[int] = 0  # type: ignore[misc]  # pretraining takes no inner step
    inner_lr: Annotated[
        float | None,
        Field(gt=0, description="α; unless given, chosen from a grid on the validation tasks"),
        Search(0.01, 10, log=True, times_protocol=True),
    ] = None
    inner_clip: InnerClip = None

    family: ClassVar[Family] = "baselines"
    train_view: ClassVar[str] = "pretraining"

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        """θ_{k+1} = θ_k − α ∇L(θ_k)."""
        if self.inner_lr is None:
            raise ValueError("the rate is open: adapt with one of candidates()")
        return descend(state, gradient("first_order", task)(state, data), self.inner_lr, self.inner_clip)

    def meta_loss(self, meta: Params, task: Task, episode: Episode) -> Tensor:
        """L(θ), not adapted."""
        return task.loss(meta, episode.query)

    def candidates(self) -> tuple[Self, ...]:
        """One learner per rate of the grid, or itself where the rate was given."""
        return (self,) if self.inner_lr else tuple(replace(self, inner_lr=rate) for rate in GRID)
