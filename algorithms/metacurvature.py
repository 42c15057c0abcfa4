"""Meta-curvature: MAML whose inner gradient is multiplied by a meta-learned matrix for each mode of a weight.

Park, Oliva 2019 (arXiv:1902.03356), section 3, MC2: full matrices of outputs, inputs and a filter's places, from
identities; vectors get a diagonal, as in the code (silverbottlep/maml).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from algorithms.maml import MAML
from bench.core.gradients import descend, gradient
from bench.core.types import Data, Meta, Params, Task


@dataclass(frozen=True, kw_only=True)
class MetaCurvature(MAML):
    """θ_{k+1} = θ_k − α ∇L(θ_k) ×₁ M_o ×₂ M_i ×₃ M_f; (θ, M) ← (θ, M) − β ∇ L_query(θ_K)."""

    learn2learn: ClassVar[str] = ""

    def init(self, task: Task, generator: Generator) -> Meta:
        """θ and the identity of each mode: [O, O], [I, I] and, of a convolution's F places, [F, F]."""
        params = task.new_params(generator)
        return {"params": params, "modes": {n: identities(p) for n, p in params.items() if task.adaptable(n)}}

    def start(self, meta: Meta, noise: Data) -> Params:
        """θ_0 = θ."""
        params: Params = meta["params"]
        return params

    def step(self, meta: Meta, state: Params, task: Task, data: Data, k: int) -> Params:
        """One along the preconditioned gradient."""
        slopes = gradient(self.gradient, task)(state, data)
        turned = {name: preconditioned(g, meta["modes"][name]) for name, g in slopes.items()}
        return descend(state, turned, self.inner_lr, self.inner_clip)


def identities(p: Tensor) -> tuple[Tensor, ...]:
    """What leaves the gradient of a parameter as it is: a matrix for each mode, of a vector its diagonal."""
    sizes = (*p.shape[:2], *([p.shape[2:].numel()] if p.dim() > 2 else []))
    return (torch.ones_like(p),) if p.dim() < 2 else tuple(torch.eye(size, dtype=p.dtype) for size in sizes)


def preconditioned(g: Tensor, modes: tuple[Tensor, ...]) -> Tensor:
    """G ×₁ M_1 ×₂ M_2 …, the places of a filter being one mode."""
    if g.dim() < 2:
        return modes[0] * g
    turned = g.flatten(2) if g.dim() > 2 else g
    for mode, matrix in enumerate(modes):
        turned = torch.tensordot(matrix, turned, ([1], [mode])).movedim(0, mode)
    return turned.reshape(g.shape)
