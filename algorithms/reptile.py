"""Reptile: move the initialisation towards where Adam on a task leads.

Nichol, Achiam, Schulman 2018 (arXiv:1803.02999), algorithm 2, as in the code (openai/supervised-reptile): Adam without
a first moment, ε falling linearly to 0. The code keeps second moments from task to task; here they start anew, with the
bias corrected, so that a task depends on its own data alone. The code's inner batches are 5 to 25 of a training task's
50 to 240 images; here each is the whole support, of as many shots as at test. What the suite does not let adapt stays.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from bench.core.gradients import gradient
from bench.core.outer import SGD
from bench.core.types import Data, Episode, Family, Kind, Learner, Params, Search, Task

DECAY, TINY = 0.999, 1e-8  # β₂ and ε̂
State = tuple[Params, Params]  # θ_k, and v_k of what adapts: nothing before the first step


@dataclass(frozen=True, kw_only=True)
class Reptile(Learner):
    """φ ← φ + ε (θ_K − φ), the mean over tasks: ε times minus the gradient of ½ ‖φ − stop(θ_K)‖²."""

    steps: Annotated[int, Field(ge=1, description="inner steps in meta-training"), Search(1, 20)] = 5
    inner_lr: Annotated[float, Field(gt=0, description="α, Adam's"), Search(0.0001, 0.1, log=True)] = 0.001
    outer_lr: Annotated[float, Field(gt=0, le=1, description="ε at first"), Search(0.1, 1, log=True)] = 1.0

    family: ClassVar[Family] = "gradient-based"
    suits: ClassVar[frozenset[Kind]] = frozenset({"regression", "classification"})
    second_order: ClassVar[bool] = False  # θ_K is a constant

    @property
    def outer(self) -> SGD:
        """Gradient descent, whose rate falls linearly."""
        return SGD(self.outer_lr, schedule="linear")

    def start(self, meta: Params, noise: Data) -> State:
        """θ_0 = φ."""
        return meta, {}

    def step(self, meta: Params, state: State, task: Task, data: Data, k: int) -> State:
        """v_{k+1} = β₂ v_k + (1 − β₂) g², θ_{k+1} = θ_k − α √(1 − β₂^{k+1}) g / (√v_{k+1} + ε̂)."""
        theta, v = state
        slopes = gradient("first_order", task)(theta, data)
        v = {n: (1 - DECAY) * g.square() + (DECAY * v[n] if n in v else 0) for n, g in slopes.items()}
        rate = self.inner_lr * (1 - DECAY ** (k + 1)) ** 0.5
        return {**theta, **{n: theta[n] - rate * g / (v[n].sqrt() + TINY) for n, g in slopes.items()}}, v

    def params(self, meta: Params, state: State) -> Params:
        """θ_k."""
        return state[0]

    def meta_loss(self, meta: Params, task: Task, episode: Episode) -> Tensor:
        """½ ‖φ − stop(θ_K)‖²."""
        theta, _ = self.adapted(meta, task, episode)
        return torch.stack([(meta[name] - theta[name].detach()).square().sum() for name in meta]).sum() / 2
