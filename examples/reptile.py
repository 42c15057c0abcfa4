"""Reptile: move the initialisation towards where gradient descent on a task leads (an example of a plug-in algorithm).

Nichol, Achiam, Schulman 2018 (arXiv:1803.02999), algorithm 1.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bench.core.gradients import descend, gradient
from bench.core.types import Data, Episode, Learner, Params, Search, Task


@dataclass(frozen=True, kw_only=True)
class Reptile(Learner):
    """φ ← φ + β (θ_K − φ): the gradient of ½ ‖φ − stop(θ_K)‖², which is what meta_loss returns."""

    inner_lr: Annotated[
        float, Field(gt=0, description="rate of the inner steps"), Search(0.1, 10, log=True, times_protocol=True)
    ]
    steps: Annotated[int, Field(ge=1, description="inner steps in meta-training"), Search(1, 10)] = 5

    @property
    def second_order(self) -> bool:
        """No: θ_K is a constant."""
        return False

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        """θ_{k+1} = θ_k − α ∇L(θ_k)."""
        return descend(state, gradient("first_order", task)(state, data), self.inner_lr)

    def meta_loss(self, meta: Params, task: Task, episode: Episode) -> Tensor:
        """½ ‖φ − stop(θ_K)‖²."""
        theta = meta
        for k, data in enumerate(episode.support):
            theta = self.step(meta, theta, task, data, k)
        return torch.stack([(meta[name] - theta[name].detach()).square().sum() for name in meta]).sum() / 2
