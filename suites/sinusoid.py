"""Sinusoids: regress y = A sin(x − phase) from a few points.

The regression experiment of Finn, Abbeel, Levine 2017 (arXiv:1703.03400), section 5.1, with its code's details.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from bench.core import seeds
from bench.core.errors import BenchError
from bench.core.sheet import Sheet
from bench.core.types import Budget, Kind, Metric, Role, Setting, Split
from suites import published
from suites.parts.curves import Regression
from suites.parts.hidden import Hidden
from suites.parts.nets import MLP

FINN = "Finn et al. 2017, section 5.1"


class Waves(NamedTuple):
    """Tasks y = amplitude · sin(frequency · x − phase) with the inputs of their support and query."""

    amplitude: Tensor  # [T, 1, 1]
    phase: Tensor  # [T, 1, 1], rad
    frequency: Tensor  # [T, 1, 1], rad per unit of x
    support: Tensor  # [T, K, 1], of which not all count where there is a mask
    query: Tensor  # [T, Q, 1]
    support_noise: Tensor  # [T, K, 1], in amplitudes
    query_noise: Tensor  # [T, Q, 1], in amplitudes
    mask: Tensor | tuple[()] = ()  # [T, K], bool: which support points there are, where tasks differ in that


class Points(NamedTuple):
    """Inputs and targets of one task."""

    x: Tensor  # [N, inputs]
    y: Tensor  # [N, 1]
    mask: Tensor | tuple[()] = ()  # [N], bool: the point is there; elsewhere x and y are 0


class Ranges(NamedTuple):
    """Ranges of uniform draws, and the label noise."""

    amplitude: tuple[float, float] = (0.1, 5.0)
    phase: tuple[float, float] = (0.0, math.pi)
    frequency: tuple[float, float] = (1.0, 1.0)
    noise: float = 0.0  # standard deviation of the labels that a learner sees, in amplitudes
    pool: int | None = None  # how many training tasks exist; None: without end


def uniform(low: float, high: float, *shape: int, generator: Generator) -> Tensor:
    """Float32 draws from U[low, high], rounded once from float64 so that machines agree on them."""
    return (low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)).float()


@dataclass(frozen=True, kw_only=True)
class Sinusoid(Regression):
    """y = A sin(x − phase), A ~ U[0.1, 5], phase ~ U[0, π], x ~ U[−5, 5]; mean squared error; an MLP 1-40-40-1."""

    shots: Annotated[
        Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=r"^[1-9]\d*-[1-9]\d*$", examples=["1-20"])],
        Field(
            description="support points in meta-training; a task's own number, uniform in a range such as 1-20; tested "
            "with 5, 10 and 20, and with the range if there is one"
        ),
    ] = 10
    hidden: Hidden = (40, 40)
    view: Annotated[Literal["plain", "oracle"], Field(description="oracle: the input is [x, A, phase]")] = "plain"

    kind: ClassVar[Kind] = "regression"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("mse", "", "lower", low=0),)
    presets: ClassVar[dict[str, Budget]] = {
        "smoke": Budget(100, 20, 10),
        "quick": Budget(10_000),
        "standard": Budget(70_000),
        "paper": Budget(70_000),
    }
    validate_every: ClassVar[int] = 5_000
    manifests: ClassVar[dict[str, str]] = published()["sinusoid"]

    def __post_init__(self) -> None:
        """Refuses a range of numbers of support points that is none."""
        fewest, most = self.sizes
        if isinstance(self.shots, str) and fewest >= most:
            raise BenchError(f"shots={self.shots} is no range. Give the fewest first, such as 1-20, or one number.")

    @property
    def sizes(self) -> tuple[int, int]:
        """The fewest and the most support points of a task."""
        fewest, _, most = str(self.shots).partition("-")
        return int(fewest), int(most or fewest)

    @property
    def ranges(self) -> Ranges:
        """The ranges of section 5.1."""
        return Ranges()

    @property
    def setting(self) -> str:
        """The size of the support set, or its range."""
        return f"K={self.shots}"

    @property
    def report_steps(self) -> tuple[int, ...]:
        """Those of the paper's table 2."""
        return (1, 5, 10)

    @property
    def protocol(self) -> dict[str, Setting]:
        """The paper's."""
        return {
            "inner_lr": Setting(0.01, f"{FINN} (the code's default, 0.001, is not what the paper ran)"),
            "steps": Setting(1, FINN),
            "outer_lr": Setting(0.001, "Finn et al. 2017, code"),
            "meta_batch": Setting(25, "Finn et al. 2017, code"),
        }

    @property
    def floor(self) -> float:
        """The error of predicting 0: E[A²] / 2, since the phases cover half turns over which sin² averages to 1/2."""
        low, high = self.ranges.amplitude
        return (low**2 + low * high + high**2) / 6

    @property
    def evaluations(self) -> tuple[Self, ...]:
        """K = 5, 10 and 20, whatever the meta-training's; before them its range, if it has one."""
        fixed = tuple(replace(self, shots=shots) for shots in (5, 10, 20))
        return (self, *fixed) if isinstance(self.shots, str) else fixed

    def oracle_view(self) -> Self:
        """The same tasks with the task's parameters in the input."""
        return replace(self, view="oracle")

    def module(self) -> nn.Module:
        """The paper's network, unless other layers are asked for."""
        varying = sum(low < high for low, high in self.ranges[:3])
        return MLP(1 + varying if self.view == "oracle" else 1, self.hidden, 1)

    def queries(self, split: Split) -> int:
        """As many query points as support points at most, in training and at test."""
        return self.sizes[1]

    def sample(self, count: int, split: Split, generator: Generator) -> Waves:
        """`count` tasks; a family with a pool draws its training tasks from it."""

        def draw(low: float, high: float, *shape: int) -> Tensor:
            return uniform(low, high, count, *shape, generator=generator)

        amplitude, phase, frequency = (draw(*bounds, 1, 1) for bounds in self.ranges[:3])
        fewest, most = self.sizes
        support, query = draw(-5.0, 5.0, most, 1), draw(-5.0, 5.0, self.queries(split), 1)
        tasks = Waves(amplitude, phase, frequency, support, query, torch.zeros_like(support), torch.zeros_like(query))
        if fewest == most:
            return tasks
        mask = torch.arange(most) < torch.randint(fewest, most + 1, (count, 1), generator=generator)
        return tasks._replace(mask=mask)

    def grid(self, tasks: Waves) -> Waves:
        """The tasks with a query of 200 points over the inputs' whole range, to draw what is predicted."""
        x = torch.linspace(-5, 5, 200)[None, :, None].expand(len(tasks.amplitude), -1, -1)
        return tasks._replace(query=x, query_noise=torch.zeros_like(x))

    def look_up(self, tasks: Waves, role: Role) -> Points:
        """Inputs and labels."""
        x = tasks.support if role == "support" else tasks.query
        noise = tasks.support_noise if role == "support" else tasks.query_noise
        y = tasks.amplitude * (torch.sin(tasks.frequency * x - tasks.phase) + noise)
        if self.view == "oracle":
            bounds = self.ranges[:3]
            varying = [v for v, (low, high) in zip(tasks[:3], bounds, strict=True) if low < high]
            x = torch.cat([x, *(v.expand_as(x) for v in varying)], -1)
        if role == "query" or isinstance(tasks.mask, tuple):
            return Points(x, y)
        there = tasks.mask.unsqueeze(-1)
        return Points(x * there, y * there, tasks.mask)

    def sheet(self) -> Sheet:
        """Twelve test curves."""
        x = torch.linspace(-5, 5, 200)
        tasks = self.sample(12, "test", seeds.generator("sheet"))
        y = tasks.amplitude * torch.sin(tasks.frequency * x - tasks.phase)
        return Sheet("curves", y.squeeze(1).numpy(), x.numpy())
