"""How Meta follows the meta-gradient: optimisers and schedules, as values that a learner declares.

What a rate is in an iteration depends on the iteration's number and on what is declared here alone.
"""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor
from torch.optim import Optimizer

from bench.core.errors import BenchError


class Steps(NamedTuple):
    """A schedule: every so many meta-iterations the rate is multiplied by a factor."""

    every: int
    factor: float


@dataclass(frozen=True)
class Outer:
    """What every outer optimiser has; a subclass says which of torch's it is."""

    rate: float
    _: KW_ONLY
    schedule: Literal["constant", "linear", "cosine", "exponential"] | Steps = "constant"  # how the rate falls
    until: int | None = None  # the meta-iteration at which it has fallen; None: the run's last
    least: float = 0.0  # what is left of the rate then, as a share
    weight_decay: float = 0.0  # times the value, added to its gradient
    clip: float | None = None  # each entry of the meta-gradient is cut to ± this; None: where the suite's protocol says

    def __post_init__(self) -> None:
        """Refuses an exponential that would leave nothing."""
        if self.schedule == "exponential" and not 0 < self.least <= 1:
            raise BenchError(
                f"an outer rate that falls exponentially leaves a share of it: least={self.least} is none."
            )

    @property
    def epochs(self) -> int:
        """Steps taken on one batch, each along the gradient where Meta is by then."""
        return 1

    def optimiser(self, leaves: Sequence[Tensor]) -> Optimizer:
        """Torch's optimiser of these tensors, which it changes in place."""
        raise NotImplementedError

    def over(self, iterations: int) -> Self:
        """The same for a run of so many meta-iterations, at the end of which a schedule ends that is left open."""
        open_end = self.schedule in ("linear", "cosine", "exponential") and self.until is None
        return replace(self, until=iterations) if open_end else self

    def rate_at(self, iteration: int) -> float:
        """The rate in the meta-iteration after `iteration` others."""
        if self.schedule == "constant":
            return self.rate
        if isinstance(self.schedule, Steps):
            return self.rate * max(self.least, self.schedule.factor ** (iteration // self.schedule.every))
        done = min(1.0, iteration / max(1, self.until or 1))
        if self.schedule == "exponential":
            return self.rate * math.pow(self.least, done)
        left = 1 - done if self.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.rate * (self.least + (1 - self.least) * left)


@dataclass(frozen=True)
class Adam(Outer):
    """Adam (Kingma, Ba 2015, arXiv:1412.6980)."""

    betas: tuple[float, float] = (0.9, 0.999)

    def optimiser(self, leaves: Sequence[Tensor]) -> Optimizer:
        """Torch's, fused."""
        return torch.optim.Adam(leaves, self.rate, self.betas, weight_decay=self.weight_decay, fused=True)


@dataclass(frozen=True)
class Proximal(Adam):
    """Adam several times on one batch, as a clipped surrogate allows (Schulman et al. 2017, arXiv:1707.06347)."""

    epochs: int = 5


@dataclass(frozen=True)
class SGD(Outer):
    """Gradient descent, with momentum if that is given."""

    momentum: float = 0.0

    def optimiser(self, leaves: Sequence[Tensor]) -> Optimizer:
        """Torch's."""
        return torch.optim.SGD(leaves, self.rate, self.momentum, weight_decay=self.weight_decay)
