"""Reptile: move the initialisation towards where gradient descent on a task leads (an example of a plug-in algorithm).

Nichol, Achiam, Schulman 2018 (arXiv:1803.02999), algorithm 2: gradient descent in the outer loop, its rate falling
linearly to 0 over the run. Inner steps are plain gradient descent.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bench.core.gradients import InnerClip, descend, gradient
from bench.core.outer import SGD
from bench.core.types import Data, Episode, Learner, Params, Search, Task


@dataclass(frozen=True, kw_only=True)
class Reptile(Learner):
    """φ ← φ + ε (θ_K − φ), the mean over tasks: ε times minus the gradient of ½ ‖φ − stop(θ_K)‖²."""

    inner_lr: Annotated[
        float, Field(gt=0, description="rate of the inner steps"), Search(0.1, 10, log=True, times_protocol=True)
    ]
    steps: Annotated[int, Field(ge=1, description="inner steps in meta-training"), Search(1, 10)] = 5
    outer_lr: Annotated[float, Field(gt=0, le=1, description="ε at first"), Search(0.1, 1, log=True)] = 1.0
    inner_clip: InnerClip = None

    @property
    def second_order(self) -> bool:
        """No: θ_K is a constant."""
        return False

    @property
    def outer(self) -> SGD:
        """Gradient descent, whose rate falls linearly."""
        return SGD(self.outer_lr, schedule="linear")

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        """θ_{k+1} = θ_k − α ∇L(θ_k)."""
        return descend(state, gradient("first_order", task)(state, data), self.inner_lr, self.inner_clip)

    def meta_loss(self, meta: Params, task: Task, episode: Episode) -> Tensor:
        """½ ‖φ − stop(θ_K)‖²."""
        theta = self.adapted(meta, task, episode)
        return torch.stack([(meta[name] - theta[name].detach()).square().sum() for name in meta]).sum() / 2
