"""Bayesian MAML: particles that move together by Stein's variational gradient, and chase where more data lead them.

Yoon, Kim, Dia, Kim, Bengio, Ahn 2018 (arXiv:1806.03836), algorithms 1 to 3, by the code of its sinusoids
(jsikyoon/bmaml). That of its classification is not published: what stands here for classes is ours.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.func import grad, vmap

from algorithms.parts.posterior import PRIORS, log_posterior, precisions, predicted
from algorithms.parts.stein import stein
from bench.core.types import Data, Episode, Family, Kind, Learner, Params, Prediction, Search, Task


@dataclass(frozen=True, kw_only=True)
class BMAML(Learner):
    """Θ ← Θ − β ∇ Σ_m ‖Θ_K^m − stop(Θ_{K+L}^m)‖², where the last L steps see the query as well as the support.

    A step is Θ_m + α/M Σ_j κ_mj [∇ ln p(Θ_j | data) + (Θ_m − Θ_j)/h] (`stein`); Θ are the weights and, of numbers, the
    precisions of targets and weights (`log_posterior`); the distance is that of the weights.
    """

    inner_lr: Annotated[
        float, Field(gt=0, description="α, times the gradient of a sum over examples"), Search(0.0001, 0.1, log=True)
    ] = 0.001
    particles: Annotated[int, Field(ge=1, description="M"), Search(2, 10)] = 10
    leader_steps: Annotated[int, Field(ge=1, description="L"), Search(1, 3)] = 1

    family: ClassVar[Family] = "Bayesian"
    suits: ClassVar[frozenset[Kind]] = frozenset({"regression", "classification"})
    chases: ClassVar[bool] = True
    second_order: ClassVar[bool] = False

    def init(self, task: Task, generator: Generator) -> Params:
        """Θ, {name: [M, ...]}, without ln γ and ln λ, [M, 1], where classes are predicted."""
        drawn = [task.new_params(generator) for _ in range(self.particles)]
        meta = {name: torch.stack([params[name] for params in drawn]) for name in drawn[0]}
        return meta if task.kind == "classification" else {**meta, **precisions(self.particles, generator)}

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        """Θ_{k+1}, on the support."""
        return self._moved(state, task, data)

    def predict(self, meta: Params, state: Params, task: Task, data: Data) -> Prediction:
        """What the particles say together, [N, ...]: numbers with the deviation of their mixture, noise included."""
        return task.average(vmap(lambda particle: predicted(particle, task, data))(state))

    def meta_loss(self, meta: Params, task: Task, episode: Episode) -> Tensor:
        """How far the chaser is behind."""
        chaser = leader = self.adapted(meta, task, episode)
        for _ in range(self.leader_steps):
            leader = self._moved(leader, task, episode.support[-1], episode.query)
        weights = [name for name in chaser if name not in PRIORS and task.adaptable(name)]
        return torch.stack([(chaser[name] - leader[name].detach()).square().sum() for name in weights]).sum()

    def _moved(self, state: Params, task: Task, *data: Data) -> Params:
        moving = {name: p for name, p in state.items() if name in PRIORS or task.adaptable(name)}
        fixed = {name: p for name, p in state.items() if name not in moving}
        slopes = vmap(grad(lambda some, rest: log_posterior(some, rest, task, data)))(moving, fixed)
        drifts = stein(moving, slopes)
        return {**state, **{name: moving[name] + self.inner_lr * drift for name, drift in drifts.items()}}
