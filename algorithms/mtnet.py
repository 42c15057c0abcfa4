"""MT-net: a T-net that learns which units a task may change, by a random mask per task.

Lee, Choi 2018 (arXiv:1801.05558), by the authors' code (yoonholee/MT-net) with `share_M`, as in all of its scripts: one
mask for a layer's weight and shift, a hard sample of a Gumbel-softmax of temperature 1, drawn once per task, at test
too, and kept for all of its inner steps. What the code logs as "change probs" is σ(−ζ), the share that does not change.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator

from algorithms.tnet import MATRIX, TNet, Warped, warped
from bench.core.gradients import descend, gradient
from bench.core.types import Data, Family, Meta, Params, State, Task


@dataclass(frozen=True, kw_only=True)
class MTNet(TNet):
    """W_{k+1} = W_k − α M ∘ ∇_W L(T W_k), M ~ Bernoulli(σ(ζ)) per output unit; W, T and ζ are meta-learned, ζ = 0."""

    family: ClassVar[Family] = "gradient-based"

    @property
    def second_order(self) -> bool:
        """No: the gradient of ζ is that of a soft mask (straight-through); those of W and T are exact."""
        return False

    def init(self, task: Task, generator: Generator) -> Meta:
        """The T-net, and ζ of every layer that has a T."""
        net = super().init(task, generator)
        zeta = {name.removeprefix(MATRIX): torch.zeros_like(t[0]) for name, t in net.items() if name.startswith(MATRIX)}
        return {"net": net, "zeta": zeta}

    def noise(self, shapes: Meta, count: int, generator: Generator) -> Data:
        """Logistic draws, the difference of two Gumbel draws, for each unit and task."""
        return {n: torch.logit(torch.rand(count, *z.shape, generator=generator)) for n, z in shapes["zeta"].items()}

    def start(self, meta: Meta, noise: Data) -> tuple[Params, Params]:
        """The T-net and the masks of one task: 0 or 1, with the gradient of σ(ζ + noise)."""
        soft = {name: torch.sigmoid(zeta + noise[name]) for name, zeta in meta["zeta"].items()}
        return meta["net"], {name: (s > 0.5).to(s.dtype) + (s - s.detach()) for name, s in soft.items()}

    def step(self, meta: Meta, state: State, task: Task, data: Data, k: int) -> State:
        """W_{k+1} = W_k − α M ∘ ∇_W L(T W_k)."""
        net, masks = state
        slopes = gradient(self.gradient, Warped(task))(net, data)
        of = {name: masks.get(name.rpartition(".")[0]) for name in slopes}
        masked = {n: g if of[n] is None else torch.einsum("i,i...->i...", of[n], g) for n, g in slopes.items()}
        return descend(net, masked, self.inner_lr, self.inner_clip), masks

    def params(self, meta: Meta, state: State) -> Params:
        """T W."""
        return warped(state[0])
