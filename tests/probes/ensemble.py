"""EMAML: independent MAMLs under one roof, whose spread says how sure they are.

The ensemble that Yoon et al. 2018 (arXiv:1806.03836), section 5, compare with.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.func import vmap

from algorithms.maml import MAML
from bench.core.types import Data, Episode, Kind, Params, Prediction, Task


@dataclass(frozen=True, kw_only=True)
class Ensemble(MAML):
    """Members θ_m, each adapted by MAML's inner steps; predictions are averaged, of numbers moment-matched."""

    members: Annotated[int, Field(ge=1, description="networks")] = 3
    suits: ClassVar[frozenset[Kind]] = frozenset({"regression", "classification"})
    learn2learn: ClassVar[str] = ""

    def init(self, task: Task, generator: Generator) -> Params:
        drawn = [task.new_params(generator) for _ in range(self.members)]
        return {name: torch.stack([params[name] for params in drawn]) for name in drawn[0]}

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        def one(member: Params) -> Params:
            return MAML.step(self, member, member, task, data, k)

        return vmap(one)(state)

    def predict(self, meta: Params, state: Params, task: Task, data: Data) -> Prediction:
        return task.average(vmap(lambda member: task.predict(member, data))(state))

    def meta_loss(self, meta: Params, task: Task, episode: Episode) -> Tensor:
        adapted = self.adapted(meta, task, episode)
        return vmap(lambda member: task.loss(member, episode.query))(adapted).sum()
