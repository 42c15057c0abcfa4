"""ProMP: MAML for policies, with the right curvature inside and several clipped steps on one batch outside.

Rothfuss, Lee, Clavera, Asfour, Abbeel 2019 (arXiv:1810.06784), equations 11 to 13; constants of the authors' code.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor

from algorithms.parts.acting import clipped, ratio
from bench.core.gradients import GradientName, InnerClip, descend, gradient
from bench.core.outer import Outer, Proximal
from bench.core.types import Data, Episode, Family, Kind, Learner, Params, Search, Task


@dataclass(frozen=True)
class _LowVariance:
    """A task whose loss is −J^LR = −mean π / π_old · A: at θ_old, its derivatives are those of J^LVC."""

    task: Task

    def loss(self, params: Params, data: Data) -> Tensor:
        seen = self.task.acted(data)
        weight = ratio(self.task, cast(Tensor, self.task.predict(params, data)), data)
        return -(weight * seen.advantages * seen.mask).sum() / seen.mask.sum()

    def adaptable(self, name: str) -> bool:
        return self.task.adaptable(name)


@dataclass(frozen=True, kw_only=True)
class ProMP(Learner):
    """Per epoch θ ← Adam(∇[mean min(r A, clip(r) A) − η mean_k KL(π_old, π_θk)]), θ_{k+1} = θ_k + α ∇J^LR(θ_k).

    r = π_θK / π_old. Whatever the suite's `estimator`, which is of its own losses, and its `outer`.
    """

    inner_lr: Annotated[float, Field(gt=0, description="α"), Search(0.1, 10, log=True, times_protocol=True)]
    gradient: Annotated[GradientName, Field(description="how an inner step is differentiated")] = "reverse"
    inner_clip: InnerClip = None
    clip: Annotated[float, Field(gt=0, lt=1, description="ε of the outer ratio"), Search(0.1, 0.5)] = 0.3
    epochs: Annotated[int, Field(ge=1, description="outer steps on one batch"), Search(1, 10)] = 5
    penalty: Annotated[
        float, Field(ge=0, description="η, of the inner steps' KL; fixed, as in the code"), Search(1e-5, 1e-2, log=True)
    ] = 5e-4

    family: ClassVar[Family] = "gradient-based"
    suits: ClassVar[frozenset[Kind]] = frozenset({"control"})
    own_outer: ClassVar[bool] = True

    @property
    def second_order(self) -> bool:
        """Exact unless the inner gradient is taken for a constant."""
        return self.gradient != "first_order"

    @property
    def outer(self) -> Outer:
        """Adam, several times on one batch."""
        return Proximal(self.outer_lr, epochs=self.epochs)

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        """θ_{k+1} = θ_k + α ∇J^LR(θ_k)."""
        return descend(state, gradient(self.gradient, _LowVariance(task))(state, data), self.inner_lr, self.inner_clip)

    def meta_loss(self, meta: Params, task: Task, episode: Episode) -> Tensor:
        """−J^CLIP(θ_K) + η mean_k KL, a scalar."""
        state, strayed = self.start(meta, episode.noise), []
        for k, data in enumerate(episode.support):
            strayed.append(task.divergence(cast(Tensor, task.predict(state, data)), data))
            state = self.step(meta, state, task, data, k)
        seen = task.acted(episode.query)
        weight = ratio(task, cast(Tensor, task.predict(state, episode.query)), episode.query)
        gain = (clipped(weight, seen.advantages, self.clip) * seen.mask).sum() / seen.mask.sum()
        return self.penalty * torch.stack(strayed).mean() - gain
