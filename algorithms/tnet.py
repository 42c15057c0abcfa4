"""T-net: MAML in a learned metric, by one square matrix after each layer that the inner loop leaves alone.

Lee, Choi 2018 (arXiv:1801.05558; its abstract alone was at hand), by the authors' code (yoonholee/MT-net): each layer
has a T, the last too, on W x + b, before normalisation and ReLU; a 1x1 convolution after a convolution.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Generator, Tensor

from algorithms.maml import MAML
from bench.core.gradients import descend, gradient
from bench.core.types import Data, Family, Params, Task

MATRIX = "T of "  # begins the name of a layer's T among the parameters


class Warped(NamedTuple):
    """A task by the suite's network with every T in its place; T is no constant, but it does not adapt."""

    task: Task

    def loss(self, params: Params, data: Data) -> Tensor:
        """The mean loss, a scalar."""
        return self.task.loss(warped(params), data)

    def adaptable(self, name: str) -> bool:
        """All that the suite adapts."""
        return not name.startswith(MATRIX) and self.task.adaptable(name)


def warped(params: Params) -> Params:
    """The suite's parameters: T W and T b, along the outputs' axis, of a layer that has a T."""
    of = {name: params.get(MATRIX + name.rpartition(".")[0]) for name in params if not name.startswith(MATRIX)}
    return {n: params[n] if t is None else torch.tensordot(t, params[n], 1) for n, t in of.items()}


@dataclass(frozen=True, kw_only=True)
class TNet(MAML):
    """(W, T) ← (W, T) − β ∇ L_query(T W_K), with W_{k+1} = W_k − α ∇_W L_support(T W_k) and T = 1 at first."""

    family: ClassVar[Family] = "gradient-based"
    learn2learn: ClassVar[str] = ""

    def init(self, task: Task, generator: Generator) -> Params:
        """W, and T of each `weight` that adapts and whose first axis of several is its outputs', as torch's layers'."""
        params = task.new_params(generator)
        parts = {name.rpartition("."): p for name, p in params.items() if task.adaptable(name)}
        layers = {layer: p for (layer, _, part), p in parts.items() if part == "weight" and p.dim() > 1}
        return params | {MATRIX + n: torch.eye(len(p), dtype=p.dtype, device=p.device) for n, p in layers.items()}

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        """W_{k+1} = W_k − α ∇_W L(T W_k)."""
        return descend(state, gradient(self.gradient, Warped(task))(state, data), self.inner_lr, self.inner_clip)

    def params(self, meta: Params, state: Params) -> Params:
        """T W."""
        return warped(state)
