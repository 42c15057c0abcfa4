"""R2-D2: the last layer is a ridge regression on the support, solved in closed form and differentiated through.

Bertinetto, Henriques, Torr, Vedaldi 2019 (arXiv:1805.08136), by their code: one-hot targets, a 1 appended to the
features for the bias, λ times the number of examples, α = 10 at first (Omniglot, CIFAR-FS), Adam halved every 2,000
episodes. Their λ = 50, which the scripts keep as it is, is for 3,584 features or more; the suites' networks have as few
as 64, so that it is 1 at first here, and learned. β, added to all logits alike, changes no softmax and is left out; so
are more ways in training. Regressions, which they do not have, are solved for the targets themselves, without α.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional

from bench.core.outer import Adam, Steps
from bench.core.types import Data, Family, Kind, Learner, Meta, Prediction, Search, State, Task


@dataclass(frozen=True, kw_only=True)
class R2D2(Learner):
    """W = Xᵀ (X Xᵀ + N λ I)⁻¹ Y (Woodbury's identity: N x N); p(y | x) = softmax(α xᵀ W), or y = xᵀ W."""

    steps: ClassVar[int] = 1  # type: ignore[misc]  # solves once
    ridge: Annotated[float, Field(gt=0, description="λ at first"), Search(0.01, 100, log=True)] = 1.0
    scale: Annotated[float, Field(gt=0, description="α at first"), Search(1, 100, log=True)] = 10.0
    learn_ridge: Annotated[bool, Field(description="whether λ is meta-learned"), Search()] = True
    halved: Annotated[
        int, Field(ge=1, description="meta-iterations after which the outer rate is halved, again and again")
    ] = 2000

    family: ClassVar[Family] = "metric"
    suits: ClassVar[frozenset[Kind]] = frozenset({"regression", "classification"})

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
        """W, [F + 1, D], of the targets [N, D], or one-hot."""
        x, y, mask = _with_ones(task.features(meta["params"], data)), task.targets(data), task.mask(data)
        y = (functional.one_hot(y, task.outputs) if task.kind == "classification" else y).to(x.dtype)
        there = torch.ones_like(x[:, :1]) if mask is None else mask.to(x.dtype).unsqueeze(-1)
        x, y = there * x, there * y  # who is absent has a row of zeros in both
        ridge = meta["ridge"] if self.learn_ridge else meta["ridge"].detach()
        gram = x @ x.mT + ridge.exp() * there.sum() * torch.eye(len(x), dtype=x.dtype, device=x.device)
        return x.mT @ torch.linalg.solve_ex(gram, y).result  # never singular, so nothing to check

    def predict(self, meta: Meta, state: State, task: Task, data: Data) -> Prediction:
        """Log-probabilities or numbers [N, D]; all alike, or 0, before the support is seen."""
        x = _with_ones(task.features(meta["params"], data))
        values = x @ (state if isinstance(state, Tensor) else x.new_zeros(x.shape[-1], task.outputs))
        return torch.log_softmax(meta["scale"] * values, -1) if task.kind == "classification" else values


def _with_ones(features: Tensor) -> Tensor:
    return torch.cat([features, torch.ones_like(features[:, :1])], -1)
