"""Meta-SGD: MAML that also meta-learns one rate per weight, sign and size.

Li, Zhou, Chen, Li 2017 (arXiv:1707.09835), algorithm 1.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator

from bench.core.errors import BenchError
from bench.core.gradients import GradientName, InnerClip, descend, gradient
from bench.core.types import Data, Family, Learner, Meta, Params, Search, Task


@dataclass(frozen=True, kw_only=True)
class MetaSGD(Learner):
    """(θ, α) ← (θ, α) − β ∇ L_query(θ − α ∘ ∇L_support(θ)) (equations 3 and 4)."""

    steps: Annotated[int, Field(ge=1, description="inner steps in meta-training"), Search(1, 5)] = 1
    low: Annotated[
        float, Field(gt=0, description="lower end of the rates' first value"), Search(0.0005, 0.01, log=True)
    ] = 0.005
    high: Annotated[
        float, Field(gt=0, description="upper end of the rates' first value"), Search(0.01, 1, log=True)
    ] = 0.1
    gradient: Annotated[GradientName, Field(description="how an inner step is differentiated")] = "reverse"
    inner_clip: InnerClip = None

    def __post_init__(self) -> None:
        """Refuses an empty range."""
        if self.low > self.high:
            raise BenchError(f"metasgd draws its rates from [low, high], but low={self.low} > high={self.high}.")

    family: ClassVar[Family] = "gradient-based"
    learn2learn: ClassVar[str] = "MetaSGD"

    @property
    def second_order(self) -> bool:
        """Exact unless the inner gradient is taken for a constant."""
        return self.gradient != "first_order"

    def init(self, task: Task, generator: Generator) -> Meta:
        """θ and one rate per scalar weight, all at one value drawn from U[low, high]."""
        params = task.new_params(generator)
        rate = self.low + (self.high - self.low) * torch.rand((), generator=generator).item()
        return {"params": params, "rates": {n: torch.full_like(p, rate) for n, p in params.items()}}

    def start(self, meta: Meta, noise: Data) -> Params:
        """θ_0 = θ."""
        params: Params = meta["params"]
        return params

    def step(self, meta: Meta, state: Params, task: Task, data: Data, k: int) -> Params:
        """θ_{k+1} = θ_k − α ∘ ∇L(θ_k)."""
        return descend(state, gradient(self.gradient, task)(state, data), meta["rates"], self.inner_clip)
