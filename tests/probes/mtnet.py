"""Probe: MT-net with per-task masks (Lee and Choi 2018, arXiv:1801.05558, algorithm 2) on linear layers.

It shows that noise drawn per task, and a Meta beyond parameters, fit the types.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from bench.core.gradients import descend, gradient
from bench.core.types import Data, Learner, Meta, Params, Task


class Transformed(NamedTuple):
    task: Task
    transforms: Params  # T, one square matrix per layer

    def loss(self, params: Params, data: Data) -> Tensor:
        return self.task.loss(transformed(params, self.transforms), data)

    def adaptable(self, name: str) -> bool:
        return self.task.adaptable(name)


def transformed(params: Params, transforms: Params) -> Params:
    layers = {name: name.rpartition(".")[0] for name in params}
    return {n: transforms[layers[n]] @ p if layers[n] in transforms else p for n, p in params.items()}


@dataclass(frozen=True, kw_only=True)
class MTNet(Learner):
    """(θ, T, ζ) ← −β ∇ L(T(θ − α M ∘ ∇_θ L(Tθ))), M ~ Bernoulli(σ(ζ)) per output unit and task."""

    inner_lr: float
    second_order = False  # the masks' gradient is that of their soft version

    def init(self, task: Task, generator: Generator) -> Meta:
        params = task.new_params(generator)
        weights = {n.removesuffix(".weight"): p for n, p in params.items() if n.endswith(".weight") and p.dim() == 2}
        transforms = {layer: torch.eye(len(w), dtype=w.dtype) for layer, w in weights.items()}
        return {"params": params, "T": transforms, "logits": {n: torch.zeros_like(t[0]) for n, t in transforms.items()}}

    def noise(self, shapes: Meta, count: int, generator: Generator) -> Data:
        return {n: torch.logit(torch.rand(count, *z.shape, generator=generator)) for n, z in shapes["logits"].items()}

    def start(self, meta: Meta, noise: Data) -> tuple[Params, Params]:
        soft = {layer: torch.sigmoid(z + noise[layer]) for layer, z in meta["logits"].items()}
        return meta["params"], {n: (s > 0.5).to(s.dtype) + s - s.detach() for n, s in soft.items()}

    def step(self, meta: Meta, state: tuple[Params, Params], task: Task, data: Data, k: int) -> tuple[Params, Params]:
        params, masks = state
        slopes = gradient("reverse", Transformed(task, meta["T"]))(params, data)
        layers = {name: name.rpartition(".")[0] for name in slopes}
        masked = {n: torch.einsum("i,i...->i...", masks[layers[n]], g) for n, g in slopes.items() if layers[n] in masks}
        return descend(params, {**slopes, **masked}, self.inner_lr), masks

    def params(self, meta: Meta, state: tuple[Params, Params]) -> Params:
        return transformed(state[0], meta["T"])
