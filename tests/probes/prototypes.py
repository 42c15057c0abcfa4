"""Prototypical networks: a class is the mean of its examples' features.

Snell, Swersky, Zemel 2017 (arXiv:1703.05175), equations 1 and 2, on the features of the suite's own network.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from bench.core.types import Data, Kind, Learner, Params, Prediction, State, Task


@dataclass(frozen=True, kw_only=True)
class Prototypes(Learner):
    """p(y = c | x) = softmax over c of −‖f(x) − p_c‖², where p_c is the mean of f over class c's support."""

    steps: ClassVar[int] = 1  # type: ignore[misc]  # looks at the support once
    suits: ClassVar[frozenset[Kind]] = frozenset({"classification"})

    def start(self, meta: Params, noise: Data) -> State:
        """No prototypes yet."""
        return ()

    def step(self, meta: Params, state: State, task: Task, data: Data, k: int) -> State:
        """The prototypes, [ways, F]."""
        features = task.features(meta, data)
        belongs = functional.one_hot(task.targets(data), task.outputs).to(features.dtype)  # [N, ways]
        return belongs.mT @ features / belongs.sum(0).unsqueeze(1)

    def predict(self, meta: Params, state: State, task: Task, data: Data) -> Prediction:
        """Log-probabilities [N, ways]; all alike before the support is seen."""
        features = task.features(meta, data)
        if not isinstance(state, Tensor):
            return torch.log_softmax(features.new_zeros(len(features), task.outputs), -1)
        distances = (features.unsqueeze(1) - state).square().sum(-1)
        return torch.log_softmax(-distances, -1)
