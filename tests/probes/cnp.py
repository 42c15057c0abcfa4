"""Conditional neural processes: the mean of what each support point is encoded to decides what is predicted.

Garnelo et al. 2018 (arXiv:1807.01613), equations 1 to 3.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional

from bench.core.network import Build, new_params, run
from bench.core.types import Data, Kind, Learner, Meta, Normal, Prediction, State, Task


def mlp(inputs: int, width: int, outputs: int) -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
    )


@dataclass(frozen=True, kw_only=True)
class CNP(Learner):
    """r = mean of h(x_i, y_i) over the support; (μ, σ)(x) = g(x, r); trained on the query's log-likelihood."""

    steps: ClassVar[int] = 1  # type: ignore[misc]  # looks at the support once
    suits: ClassVar[frozenset[Kind]] = frozenset({"regression"})
    width: Annotated[int, Field(ge=1, description="of the hidden layers and of r")] = 128

    def nets(self, x: int, y: int) -> tuple[Build, Build]:
        """Encoder and decoder."""
        return (mlp, x + y, self.width, self.width), (mlp, x + self.width, self.width, 2 * y)

    def init(self, task: Task, generator: Generator) -> Meta:
        """The values of both, and where r is before anything is seen."""
        data = task.example("support")
        encoder, decoder = self.nets(task.inputs(data).shape[-1], task.targets(data).shape[-1])
        values = {"encoder": new_params(encoder, generator), "decoder": new_params(decoder, generator)}
        return {**values, "nothing": torch.zeros(self.width)}

    def start(self, meta: Meta, noise: Data) -> State:
        """What is predicted from before the support is seen."""
        return meta["nothing"]

    def step(self, meta: Meta, state: State, task: Task, data: Data, k: int) -> State:
        """r, [width]."""
        x, y, mask = task.inputs(data), task.targets(data), task.mask(data)
        encoder, _ = self.nets(x.shape[-1], y.shape[-1])
        encoded = run(encoder, meta["encoder"], torch.cat([x, y], -1))
        return encoded.mean(0) if mask is None else (encoded * mask.unsqueeze(-1)).sum(0) / mask.sum()

    def predict(self, meta: Meta, state: Tensor, task: Task, data: Data) -> Prediction:
        """A normal for each input, σ > 0.01."""
        x = task.inputs(data)
        _, decoder = self.nets(x.shape[-1], task.outputs)
        mean, std = run(decoder, meta["decoder"], torch.cat([x, state.expand(len(x), -1)], -1)).chunk(2, -1)
        return Normal(mean, 0.01 + functional.softplus(std))
