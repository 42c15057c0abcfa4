"""Polynomials: regress a random polynomial of degree 2 from ten points (an example of a plug-in suite).

Lee and Choi 2018 (arXiv:1801.05558), code: coefficients of order i from U[−1, 1] / 2^i, x from U[−2, 2].
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from bench.core.types import Budget, Kind, Metric, Params, Role, Setting, Split, Supervised


class Curves(NamedTuple):
    """Tasks: coefficients, and the inputs of support and query."""

    coefficients: Tensor  # [T, 1, degree + 1]
    support: Tensor  # [T, K, 1]
    query: Tensor  # [T, K, 1]


class Points(NamedTuple):
    """Inputs and targets."""

    x: Tensor  # [N, 1]
    y: Tensor  # [N, 1]


@dataclass(frozen=True, kw_only=True)
class Polynomial(Supervised):
    """y = Σ c_i x^i; mean squared error; an MLP 1-40-40-1."""

    degree: Annotated[int, Field(ge=0, le=4, description="of the polynomials")] = 2
    shots: Annotated[int, Field(ge=1, description="support points, and as many query points")] = 10

    kind: ClassVar[Kind] = "regression"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("mse", "", "lower", low=0),)
    presets: ClassVar[dict[str, Budget]] = {
        "smoke": Budget(100, 20, 10),
        "quick": Budget(5_000),
        "paper": Budget(60_000),
    }

    @property
    def report_steps(self) -> tuple[int, ...]:
        """One step and ten."""
        return (1, 10)

    @property
    def protocol(self) -> dict[str, Setting]:
        """The code's."""
        source = "Lee and Choi 2018, code"
        values = {"inner_lr": 0.001, "steps": 1, "outer_lr": 0.001, "meta_batch": 4}
        return {name: Setting(value, source) for name, value in values.items()}

    @property
    def floor(self) -> float:
        """The error of predicting 0: Σ E[c_i²] E[x^{2i}]."""
        return sum(4.0**-i / 3 * 4.0**i / (2 * i + 1) for i in range(self.degree + 1))

    def module(self) -> nn.Module:
        """An ordinary module."""
        return nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))

    def sample(self, count: int, split: Split, generator: Generator) -> Curves:
        """`count` fresh tasks."""
        scale = 0.5 ** torch.arange(self.degree + 1)
        coefficients = (2 * torch.rand(count, 1, self.degree + 1, generator=generator) - 1) * scale
        x = 4 * torch.rand(count, 2 * self.shots, 1, generator=generator) - 2
        return Curves(coefficients, x[:, : self.shots], x[:, self.shots :])

    def look_up(self, tasks: Curves, role: Role) -> Points:
        """Inputs and targets of the support or the query."""
        x = tasks.support if role == "support" else tasks.query
        powers = x ** torch.arange(self.degree + 1)
        return Points(x, (tasks.coefficients * powers).sum(-1, keepdim=True))

    def predict(self, params: Params, data: Points) -> Tensor:
        """ŷ, [N, 1]."""
        return self.call(params, data.x)

    def losses(self, prediction: Tensor, data: Points) -> Tensor:
        """Squared errors, [N]."""
        return (prediction - data.y).square().squeeze(-1)

    def score(self, prediction: Tensor, data: Points) -> dict[str, Tensor]:
        """The mean squared error."""
        return {"mse": self.losses(prediction, data).mean()}
