"""Small suites with known answers, on which certificates are made; float64 throughout, never in a comparison.

Letters: T tasks, N examples, D dimensions.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Generator, Tensor, nn

from bench.core.types import Budget, Kind, Metric, Params, Role, Setting, Split, Supervised
from suites.parts.nets import CentredNorm


class Pairs(NamedTuple):
    """Inputs and targets of one task."""

    x: Tensor  # [N, D]
    y: Tensor  # [N, ...]


class Halves(NamedTuple):
    """A task: its support and its query."""

    support: Pairs
    query: Pairs


class Bed(Supervised):
    """What the beds share: a protocol of moderate values, double precision, a look-up."""

    kind: ClassVar[Kind] = "regression"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("loss", "", "lower"),)
    presets: ClassVar[dict[str, Budget]] = {"smoke": Budget(10, 8, 8)}

    @property
    def report_steps(self) -> tuple[int, ...]:
        """The last."""
        return (3,)

    @property
    def protocol(self) -> dict[str, Setting]:
        """Large enough steps that curvature shows."""
        values = {"inner_lr": 0.1, "steps": 2, "outer_lr": 0.01, "meta_batch": 4}
        return {name: Setting(value, "test bed") for name, value in values.items()}

    @property
    def floor(self) -> float:
        """None is known."""
        return float("nan")

    def look_up(self, tasks: Halves, role: Role) -> Pairs:
        """One of the halves."""
        return tasks.support if role == "support" else tasks.query

    def predict(self, params: Params, data: Pairs) -> Tensor:
        """The module's output."""
        return self.call(params, data.x)

    def score(self, prediction: Tensor, data: Pairs) -> dict[str, Tensor]:
        """The mean loss."""
        return {"loss": self.mean(self.losses(prediction, data), data)}

    def new_params(self, generator: Generator) -> Params:
        """In float64."""
        made = super().new_params(generator)
        return {name: value.double() if value.is_floating_point() else value for name, value in made.items()}


@dataclass(frozen=True, kw_only=True)
class Curved(Bed):
    """Regression of a sine by a smooth network: a loss with curvature and no kinks."""

    def module(self) -> nn.Module:
        """1-6-1 with tanh."""
        return nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1))

    def sample(self, count: int, split: Split, generator: Generator) -> Halves:
        """Amplitudes and phases."""
        amplitude, phase = torch.rand(2, count, 1, 1, generator=generator, dtype=torch.float64)
        x = 4 * torch.rand(count, 10, 1, generator=generator, dtype=torch.float64) - 2
        y = (0.5 + amplitude) * torch.sin(2 * x - 3 * phase)
        return Halves(Pairs(x[:, :5], y[:, :5]), Pairs(x[:, 5:], y[:, 5:]))

    def losses(self, prediction: Tensor, data: Pairs) -> Tensor:
        """Squared errors."""
        return (prediction - data.y).square().squeeze(-1)


class Padded(NamedTuple):
    """Inputs and targets of one task, of which the last are padding."""

    x: Tensor  # [N, D]
    y: Tensor  # [N, ...]
    mask: Tensor  # [N], bool


@dataclass(frozen=True, kw_only=True)
class Ragged(Curved):
    """The same with three points in a support of five; the others are noise."""

    def look_up(self, tasks: Halves, role: Role) -> Pairs | Padded:  # type: ignore[override]  # a part more
        """The support with its mask."""
        pairs = super().look_up(tasks, role)
        return pairs if role == "query" else Padded(*pairs, (torch.arange(5) < 3).expand(pairs.x.shape[:-1]))


class _Vector(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.randn(size))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.theta


@dataclass(frozen=True, kw_only=True)
class Quadratic(Bed):
    """Mean of ½ (x·θ − y)²: the Hessian of a task is A = mean x xᵀ, whatever θ."""

    def module(self) -> nn.Module:
        """θ alone."""
        return _Vector(4)

    def sample(self, count: int, split: Split, generator: Generator) -> Halves:
        """Linear regressions."""
        x = torch.randn(count, 12, 4, generator=generator, dtype=torch.float64)
        y = torch.randn(count, 12, generator=generator, dtype=torch.float64)
        return Halves(Pairs(x[:, :6], y[:, :6]), Pairs(x[:, 6:], y[:, 6:]))

    def losses(self, prediction: Tensor, data: Pairs) -> Tensor:
        """Half squared errors."""
        return (prediction - data.y).square() / 2


@dataclass(frozen=True, kw_only=True)
class Linear(Quadratic):
    """Mean of y · (x·θ): a Hessian of zero, where first order is exact."""

    def losses(self, prediction: Tensor, data: Pairs) -> Tensor:
        """Targets times predictions."""
        return prediction * data.y


class _Classifier(nn.Module):
    def __init__(self, ways: int) -> None:
        super().__init__()
        self.body = nn.Linear(5, 8)
        self.norms = nn.ModuleList([CentredNorm(8)])
        self.head = nn.Linear(8, ways)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(torch.tanh(self.norms[0](self.body(x))))
        return output


@dataclass(frozen=True, kw_only=True)
class Labels(Bed):
    """Three-way classification with a normalisation whose shift is meta-learned but not adapted."""

    kind: ClassVar[Kind] = "classification"
    ways: ClassVar[int] = 3
    norm: ClassVar[str] = "transductive"  # type: ignore[misc]  # a fact of this bed, not a parameter

    def module(self) -> nn.Module:
        """5-8-ways, normalised."""
        return _Classifier(self.ways)

    def adaptable(self, name: str) -> bool:
        """All but the shift."""
        return not name.startswith("norms.")

    def sample(self, count: int, split: Split, generator: Generator) -> Halves:
        """Clusters around a centre per class."""
        centres = torch.randn(count, self.ways, 1, 5, generator=generator, dtype=torch.float64)
        x = centres + 0.5 * torch.randn(count, self.ways, 4, 5, generator=generator, dtype=torch.float64)
        y = torch.arange(self.ways).repeat_interleave(2).expand(count, -1)
        return Halves(*(Pairs(x[:, :, half].flatten(1, 2), y) for half in (slice(2), slice(2, 4))))

    def losses(self, prediction: Tensor, data: Pairs) -> Tensor:
        """Cross-entropy."""
        return nn.functional.cross_entropy(prediction, data.y, reduction="none")


@dataclass(frozen=True, kw_only=True)
class Clusters(Labels):
    """The same without normalisation, so that no example has a say in another's prediction."""

    norm: ClassVar[str] = "none"  # type: ignore[misc]  # a fact of this bed, not a parameter

    def module(self) -> nn.Module:
        """5-8-ways."""
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, self.ways))

    def adaptable(self, name: str) -> bool:
        """All."""
        return True
