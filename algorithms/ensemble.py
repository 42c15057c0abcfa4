"""EMAML: independent MAMLs under one roof, whose spread says how sure they are.

Yoon, Kim, Dia, Kim, Bengio, Ahn 2018 (arXiv:1806.03836), section 5, and its code: the baseline of Bayesian MAML. Its
code scores EMAML by the mean of the members' errors and Bayesian MAML by the error of their mean; here both are scored
by the error of the mean, which is never larger.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.func import vmap

from algorithms.maml import MAML
from bench.core.types import Data, Episode, Family, Kind, Params, Prediction, Search, Task


@dataclass(frozen=True, kw_only=True)
class Ensemble(MAML):
    """θ^m ← θ^m − β ∇_{θ^m} Σ_j L_query(θ_K^j): each of M members moves as MAML does, since no other has a say in it.

    They answer together: by the mean and the deviation of numbers, by the mean probability of classes.
    """

    members: Annotated[int, Field(ge=1, description="M, networks; 1 is maml"), Search(2, 10)] = 10

    family: ClassVar[Family] = "Bayesian"
    suits: ClassVar[frozenset[Kind]] = frozenset({"regression", "classification"})
    learn2learn: ClassVar[str] = ""

    def init(self, task: Task, generator: Generator) -> Params:
        """{name: [M, ...]}, drawn one after the other."""
        drawn = [task.new_params(generator) for _ in range(self.members)]
        return {name: torch.stack([params[name] for params in drawn]) for name in drawn[0]}

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        """MAML's step of each."""

        def one(member: Params) -> Params:
            return MAML.step(self, member, member, task, data, k)

        return vmap(one)(state)

    def predict(self, meta: Params, state: Params, task: Task, data: Data) -> Prediction:
        """What they say together, [N, ...]; of one member alone what that says."""
        return task.average(vmap(lambda member: task.predict(member, data))(state))

    def meta_loss(self, meta: Params, task: Task, episode: Episode) -> Tensor:
        """Σ_m L_query(θ_K^m)."""
        adapted = self.adapted(meta, task, episode)
        return vmap(lambda member: task.loss(member, episode.query))(adapted).sum()
