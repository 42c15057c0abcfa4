"""R2-D2: the last layer is a ridge regression on the support, solved in closed form and differentiated through.

Bertinetto, Henriques, Torr, Vedaldi 2019 (arXiv:1805.08136), equations 4 to 6, and their code: targets are one-hot, the
features have a 1 appended for the bias, and λ multiplies the mean of squares.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from algorithms.parts.classes import belongs, undecided
from bench.core.outer import Adam, Steps
from bench.core.types import Data, Family, Kind, Learner, Meta, Prediction, Search, State, Task


@dataclass(frozen=True, kw_only=True)
class R2D2(Learner):
    """W = Xᵀ (X Xᵀ + N λ I)⁻¹ Y (Woodbury: N x N); p(y | x) = softmax(α xᵀ W)."""

    steps: ClassVar[int] = 1  # type: ignore[misc]  # solves once
    ridge: Annotated[float, Field(gt=0, description="λ at first"), Search(0.01, 100, log=True)] = 50.0
    scale: Annotated[float, Field(gt=0, description="α at first"), Search(1, 100, log=True)] = 10.0
    learn_ridge: Annotated[bool, Field(description="whether λ is meta-learned"), Search()] = True
    halved: Annotated[
        int, Field(ge=1, description="meta-iterations after which the outer rate is halved, again and again")
    ] = 2000

    family: ClassVar[Family] = "metric"
    suits: ClassVar[frozenset[Kind]] = frozenset({"classification"})

    @property
    def outer(self) -> Adam:
        """Adam, halved again and again."""
        return Adam(self.outer_lr, schedule=Steps(self.halved, 0.5))

    def init(self, task: Task, generator: Generator) -> Meta:
        """The suite's network, α and ln λ."""
        scale, ridge = torch.tensor([self.scale, self.ridge]).unbind()
        return {"params": task.new_params(generator), "scale": scale, "ridge": ridge.log()}

    def start(self, meta: Meta, noise: Data) -> State:
        """Nothing is solved yet."""
        return ()

    def step(self, meta: Meta, state: State, task: Task, data: Data, k: int) -> State:
        """W, [F + 1, W]."""
        y = belongs(task, data).to(meta["scale"].dtype)
        there = y.sum(-1, keepdim=True)
        x = there * _with_ones(task.features(meta["params"], data))  # absent examples are rows of zeros in both
        ridge = meta["ridge"] if self.learn_ridge else meta["ridge"].detach()
        gram = x @ x.mT + ridge.exp() * there.sum() * torch.eye(len(x), dtype=x.dtype, device=x.device)
        return x.mT @ torch.linalg.solve(gram, y)

    def predict(self, meta: Meta, state: State, task: Task, data: Data) -> Prediction:
        """Log-probabilities [N, W]; all alike before the support is seen."""
        features = task.features(meta["params"], data)
        if not isinstance(state, Tensor):
            return undecided(features, task)
        return torch.log_softmax(meta["scale"] * (_with_ones(features) @ state), -1)


def _with_ones(features: Tensor) -> Tensor:
    return torch.cat([features, torch.ones_like(features[:, :1])], -1)
