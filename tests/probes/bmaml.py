"""Probe: Bayesian MAML with two particles (Yoon et al. 2018, arXiv:1806.03836, algorithms 1 and 3), without its priors.

It shows that ensembles and the chaser loss fit the types.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.func import vmap

from bench.core.gradients import descend, gradient
from bench.core.trees import tree_map
from bench.core.types import Data, Episode, Kind, Learner, Meta, Params, Prediction, Task


@dataclass(frozen=True, kw_only=True)
class BMAML(Learner):
    """Θ ← Θ − β ∇ Σ_m ‖Θ_K^m − stop(Θ_{K+1}^m)‖²: particles chase where one more step, with the query, leads."""

    inner_lr: float
    particles: int = 2
    suits = frozenset[Kind]({"regression", "classification"})
    second_order = False  # the leader is a constant

    def init(self, task: Task, generator: Generator) -> Meta:
        members = [task.new_params(generator) for _ in range(self.particles)]
        return {name: torch.stack([member[name] for member in members]) for name in members[0]}

    def step(self, meta: Meta, state: Params, task: Task, data: Data, k: int) -> Params:
        # Θ_m + α/M Σ_j [κ(Θ_j, Θ_m) ∇ log p(Θ_j) + ∇_{Θ_j} κ(Θ_j, Θ_m)] (equation 3)
        slopes = vmap(gradient("reverse", task), in_dims=(0, None))(state, data)
        points = torch.cat([state[name].flatten(1) for name in slopes], 1)
        gaps = points.unsqueeze(1) - points.unsqueeze(0)  # [M, M, D]
        squares = gaps.square().sum(-1)
        width = squares.detach().mean() + 1e-6
        kernel = torch.exp(-squares / width)
        push = (2 / width * kernel.unsqueeze(-1) * gaps).sum(1) / self.particles
        pushes = push.split([state[name][0].numel() for name in slopes], 1)
        drifts = {
            name: torch.tensordot(kernel, g, 1) / self.particles - pushed.view_as(g)
            for (name, g), pushed in zip(slopes.items(), pushes, strict=True)
        }
        return descend(state, drifts, self.inner_lr)

    def predict(self, meta: Meta, state: Params, task: Task, data: Data) -> Prediction:
        return task.average(vmap(lambda params: task.predict(params, data))(state))

    def meta_loss(self, meta: Meta, task: Task, episode: Episode) -> Tensor:
        chaser = self.start(meta, episode.noise)
        for k, data in enumerate(episode.support):
            chaser = self.step(meta, chaser, task, data, k)
        both = tree_map(lambda *halves: torch.cat(halves), episode.support[0], episode.query)
        leader = self.step(meta, chaser, task, both, len(episode.support))
        return torch.stack([(chaser[n] - leader[n].detach()).square().sum() for n in chaser]).sum()
