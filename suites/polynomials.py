"""Polynomials: regress a random polynomial of order 0, 1 or 2 from ten points.

The polynomials of Lee, Choi 2018 (arXiv:1801.05558), by the authors' code (yoonholee/MT-net), which looks at 20 test
tasks by eye: its numbers were never published. Here are 600, each with 100 query points in place of 3,990.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from bench.core import seeds
from bench.core.sheet import Sheet
from bench.core.types import Budget, Kind, Metric, Role, Setting, Split
from suites import published
from suites.parts.curves import Regression
from suites.parts.hidden import Hidden
from suites.parts.nets import MLP
from suites.sinusoid import Points, uniform

LEE = "Lee, Choi 2018, code"


class Curves(NamedTuple):
    """Tasks y = Σ c_i x^i with the inputs of their support and query."""

    coefficients: Tensor  # [T, 1, order + 1]
    support: Tensor  # [T, K, 1]
    query: Tensor  # [T, Q, 1]


@dataclass(frozen=True, kw_only=True)
class Polynomials(Regression):
    """y = Σ c_i x^i, c_i ~ U[−1, 1] / 2^i, x ~ U[−2, 2]; mean squared error; an MLP 1-40-40-1."""

    order: Annotated[int, Field(ge=0, le=2, description="of the polynomials")] = 2
    shots: Annotated[int, Field(ge=1, description="support points")] = 10
    hidden: Hidden = (40, 40)
    view: Annotated[Literal["plain", "oracle"], Field(description="oracle: the input is [x, c_0, ...]")] = "plain"

    kind: ClassVar[Kind] = "regression"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("mse", "", "lower", low=0),)
    presets: ClassVar[dict[str, Budget]] = {
        "smoke": Budget(100, 20, 10),
        "quick": Budget(10_000),
        "standard": Budget(60_000),
        "paper": Budget(60_000),
    }
    validate_every: ClassVar[int] = 5_000
    manifests: ClassVar[dict[str, str]] = published()["polynomials"]

    @property
    def setting(self) -> str:
        """The order and the size of the support set."""
        return f"order {self.order} K={self.shots}"

    @property
    def report_steps(self) -> tuple[int, ...]:
        """The one of meta-training and, as the code draws them, two and ten."""
        return (1, 2, 10)

    @property
    def protocol(self) -> dict[str, Setting]:
        """The code's script for polynomials, and its defaults."""
        return {
            "inner_lr": Setting(0.001, f"{LEE}: the default, which its script for polynomials leaves"),
            "steps": Setting(1, LEE),
            "outer_lr": Setting(0.001, LEE),
            "meta_batch": Setting(4, LEE),
        }

    @property
    def floor(self) -> float:
        """The error of predicting 0: Σ E[c_i²] E[x^2i], with E[c_i²] = 4^−i / 3 and E[x^2i] = 4^i / (2i + 1)."""
        return sum(1 / (3 * (2 * i + 1)) for i in range(self.order + 1))

    def oracle_view(self) -> Self:
        """The same tasks with the coefficients in the input."""
        return replace(self, view="oracle")

    def module(self) -> nn.Module:
        """The code's network, unless other layers are asked for."""
        return MLP(1 + (self.order + 1) * (self.view == "oracle"), self.hidden, 1)

    def sample(self, count: int, split: Split, generator: Generator) -> Curves:
        """`count` tasks, with 10 query points in meta-training and 100 else."""
        halves = 0.5 ** torch.arange(self.order + 1)
        coefficients = uniform(-1.0, 1.0, count, 1, self.order + 1, generator=generator) * halves
        sizes = self.shots, 10 if split == "train" else 100
        return Curves(coefficients, *(uniform(-2.0, 2.0, count, size, 1, generator=generator) for size in sizes))

    def grid(self, tasks: Curves) -> Curves:
        """The tasks with a query of 200 points over the inputs' whole range, to draw what is predicted."""
        return tasks._replace(query=torch.linspace(-2, 2, 200)[None, :, None].expand(len(tasks.query), -1, -1))

    def look_up(self, tasks: Curves, role: Role) -> Points:
        """Inputs and targets."""
        x = tasks.support if role == "support" else tasks.query
        y = (tasks.coefficients * x ** torch.arange(self.order + 1)).sum(-1, keepdim=True)
        told = [tasks.coefficients.expand(-1, x.shape[1], -1)] if self.view == "oracle" else []
        return Points(torch.cat([x, *told], -1), y)

    def sheet(self) -> Sheet:
        """Twelve test curves."""
        x, y, _ = replace(self, view="plain").look_up(
            self.grid(self.sample(12, "test", seeds.generator("sheet"))), "query"
        )
        return Sheet("curves", y.squeeze(-1).numpy(), x[0, :, 0].numpy())
