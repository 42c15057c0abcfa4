"""Functions drawn from Gaussian processes, where Bayes' prediction is exact, and sawteeth, where it is not known.

The synthetic tasks of Bruinsma et al. 2023 (arXiv:2303.14468) by their code, wesselb/neuralprocesses,
neuralprocesses/data/predefined.py: kernels, noise, sizes, batch; there all tasks of a batch share one number of support
points, here each has its own. Letters: T tasks, K = 30 support points at most, Q query points.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from bench.core import seeds
from bench.core.metric import GAP, NLL
from bench.core.sheet import Sheet
from bench.core.types import Budget, Data, Kind, Metric, Normal, Role, Setting, Split
from suites import published
from suites.parts.curves import Regression
from suites.parts.hidden import Hidden
from suites.parts.nets import MLP
from suites.sinusoid import uniform

CODE = "wesselb/neuralprocesses, code"
FINN = "Finn et al. 2017, for sinusoids: nobody has published a gradient-based learner on these tasks"
SUPPORT, NOISE = 30, 0.05  # points at most; variance of what is added to a Gaussian process's values
Where = Literal["interpolation", "shifted", "extrapolation"]
RANGES: dict[Where, tuple[tuple[float, float], tuple[float, float]]] = {  # of the support, of the query
    "interpolation": ((-2.0, 2.0), (-2.0, 2.0)),
    "shifted": ((2.0, 6.0), (2.0, 6.0)),
    "extrapolation": ((-2.0, 2.0), (2.0, 6.0)),
}


class Functions(NamedTuple):
    """Tasks: inputs, and what decides the values there."""

    support: Tensor  # [T, K, 1]
    query: Tensor  # [T, Q, 1]
    draws: Tensor  # [T, K + Q, 1], standard normal; of sawteeth [T, 3, 1]: frequency, direction, offset in periods
    noise: Tensor  # [T, 1, 1], variance of what is added to the query's values
    mask: Tensor  # [T, K], bool: which support points there are, maybe none


class Points(NamedTuple):
    """Inputs and targets of one task."""

    x: Tensor  # [N, inputs]
    y: Tensor  # [N, 1]
    mask: Tensor | tuple[()] = ()  # [N], bool: the point is there; elsewhere x and y are 0
    bayes: Tensor | tuple[()] = ()  # [N], of a query: minus the log-density of each target by itself, given the support


def covariance(kernel: str, one: Tensor, other: Tensor) -> Tensor:
    """k(x, x') of inputs [T, N, 1] and [T, M, 1], [T, N, M]; 1 where they are equal."""
    apart = one - other.mT
    if kernel == "matern52":
        far = math.sqrt(5) * apart.abs() / 0.25
        return (1 + far + far.square() / 3) * torch.exp(-far)
    if kernel == "periodic":  # weakly so: EQ of length 1/2 times EQ of sine and cosine of period 1/4
        return torch.exp(-(apart / 0.5).square() / 2 - 2 * torch.sin(math.pi * apart / 0.25).square())
    return torch.exp(-(apart / 0.25).square() / 2)


@dataclass(frozen=True, kw_only=True)
class GP(Regression):
    """y ~ GP(0, k) with noise of variance 0.05, or a sawtooth without; 0 to 30 support points; an MLP 1-40-40-1."""

    kernel: Annotated[
        Literal["eq", "matern52", "periodic", "sawtooth"],
        Field(description="lengths of 1/4; periodic: weakly, of period 1/4; sawtooth: no Gaussian process"),
    ] = "eq"
    where: Annotated[
        Where, Field(description="the setting that comes first; training is on [−2, 2], and all three are scored")
    ] = "interpolation"
    hidden: Hidden = (40, 40)
    view: Annotated[
        Literal["plain", "oracle"],
        Field(description="oracle: the input is [x, exact mean and deviation], of a sawtooth [x, its three numbers]"),
    ] = "plain"

    kind: ClassVar[Kind] = "regression"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("mse", "", "lower", low=0),)
    presets: ClassVar[dict[str, Budget]] = {
        "smoke": Budget(100, 20, 10),
        "quick": Budget(10_000),
        "standard": Budget(20_480),  # a fifth of the paper's
        "paper": Budget(102_400),  # 100 epochs of 2^14 tasks
    }
    validate_every: ClassVar[int] = 5_000
    manifests: ClassVar[dict[str, str]] = published()["gp"]

    @property
    def setting(self) -> str:
        """The kernel, and where its tasks are, unless where the training's are."""
        return self.kernel if self.where == "interpolation" else f"{self.kernel} {self.where}"

    @property
    def caveat(self) -> str:
        """What there is no measure of."""
        return "nobody knows Bayes' prediction of a sawtooth: no gap" if self.kernel == "sawtooth" else ""

    @property
    def of_distributions(self) -> tuple[Metric, ...]:
        """The gap as well, where Bayes' prediction is known."""
        return (NLL,) if self.kernel == "sawtooth" else (NLL, GAP)

    @property
    def report_steps(self) -> tuple[int, ...]:
        """As of sinusoids."""
        return (1, 5, 10)

    @property
    def protocol(self) -> dict[str, Setting]:
        """The code's, and MAML's for sinusoids where that has none."""
        return {
            "inner_lr": Setting(0.01, FINN),
            "steps": Setting(1, FINN),
            "outer_lr": Setting(0.0003, CODE),
            "meta_batch": Setting(16, CODE),
        }

    @property
    def floor(self) -> float:
        """The variance of the targets: of a process 1 and the noise, of a sawtooth that of U[0, 1]."""
        return 1 / 12 if self.kernel == "sawtooth" else 1 + NOISE

    @property
    def evaluations(self) -> tuple[Self, ...]:
        """Interpolation, shifted and extrapolation, the one asked for first."""
        return (self, *(replace(self, where=where) for where in RANGES if where != self.where))

    def oracle_view(self) -> Self:
        """The same tasks with the exact posterior in the input; of a sawtooth with what decides it."""
        return replace(self, view="oracle")

    def example(self, role: Role) -> Data:
        """Inputs and targets alone, as somebody has them who brings a query of their own."""
        return super().example(role)._replace(bayes=())

    def module(self) -> nn.Module:
        """The network of Finn et al. 2017, which the neural processes do not use."""
        told = (3 if self.kernel == "sawtooth" else 2) if self.view == "oracle" else 0
        return MLP(1 + told, self.hidden, 1)

    def sample(self, count: int, split: Split, generator: Generator) -> Functions:
        """`count` tasks, in training from [−2, 2]."""
        queries = 100 if self.kernel == "sawtooth" else 50
        ranges = RANGES["interpolation" if split == "train" else self.where]
        support, query = (
            uniform(*bounds, count, size, 1, generator=generator)
            for bounds, size in zip(ranges, (SUPPORT, queries), strict=True)
        )
        if self.kernel == "sawtooth":
            frequency, offset = (uniform(*b, count, 1, 1, generator=generator) for b in ((2.0, 4.0), (0.0, 1.0)))
            direction = 2.0 * torch.randint(2, (count, 1, 1), generator=generator) - 1
            draws = torch.cat([frequency, direction, offset], 1)
        else:
            draws = torch.randn(count, SUPPORT + queries, 1, generator=generator)
        mask = torch.arange(SUPPORT) < torch.randint(SUPPORT + 1, (count, 1), generator=generator)
        return Functions(support, query, draws, torch.full((count, 1, 1), NOISE), mask)

    def grid(self, tasks: Functions) -> Functions:
        """The tasks with a query of 200 points over the inputs' whole range, without noise: one function of those."""
        low, high = (f(end for bounds in RANGES[self.where] for end in bounds) for f in (min, max))
        x, draws = torch.linspace(low, high, 200)[None, :, None].expand(len(tasks.query), -1, -1), tasks.draws
        if self.kernel != "sawtooth":
            own = torch.randn(len(x), 200, 1, generator=seeds.generator("grid"))
            draws = torch.cat([draws[:, :SUPPORT], own], 1)
        return tasks._replace(query=x, draws=draws, noise=torch.full_like(tasks.noise, 1e-6))

    def look_up(self, tasks: Functions, role: Role) -> Points:
        """Inputs and targets, and of a query what Bayes' prediction scores."""
        double = Functions(*(leaf.double() if leaf.is_floating_point() else leaf for leaf in tasks))
        x, y = double.support if role == "support" else double.query, self._values(double, role)
        sawtooth, oracle = self.kernel == "sawtooth", self.view == "oracle"
        if sawtooth:
            told = double.draws.mT.expand(-1, x.shape[1], -1)
        elif oracle or role == "query":
            told = self._posterior(double, x)
        seen = torch.cat([x, told], -1) if oracle else x
        if role == "support":
            there = tasks.mask.unsqueeze(-1)
            return Points((seen * there).float(), (y * there).float(), tasks.mask)
        bayes = () if sawtooth else -Normal(*told.chunk(2, -1)).log_density(y).float()
        return Points(seen.float(), y.float(), bayes=bayes)

    def _values(self, tasks: Functions, role: Role) -> Tensor:
        """The targets, float64."""
        if self.kernel == "sawtooth":
            x = tasks.support if role == "support" else tasks.query
            frequency, direction, offset = tasks.draws.split(1, 1)
            return torch.remainder(frequency * direction * x - offset, 1)
        own = torch.full_like(tasks.support, NOISE)
        if role == "support":
            root = _root(self.kernel, tasks.support, own)
            return root @ tasks.draws[:, :SUPPORT]
        x = torch.cat([tasks.support, tasks.query], 1)
        root = _root(self.kernel, x, torch.cat([own, tasks.noise.expand_as(tasks.query)], 1))
        return root[:, SUPPORT:] @ tasks.draws

    def _posterior(self, tasks: Functions, x: Tensor) -> Tensor:
        """Mean and deviation of a target at x [T, N, 1] given the support that is there, [T, N, 2], float64."""
        there = tasks.mask.unsqueeze(-1).double()
        # A point that is not there is one of which nothing depends.
        known = covariance(self.kernel, tasks.support, tasks.support) * there * there.mT
        known = known + torch.diag_embed((NOISE * there + 1 - there).squeeze(-1))
        across = covariance(self.kernel, tasks.support, x) * there  # [T, K, N]
        solved = torch.cholesky_solve(across, torch.linalg.cholesky(known))
        mean = solved.mT @ (self._values(tasks, "support") * there)
        variance = 1 + tasks.noise - (across * solved).sum(1).unsqueeze(-1)
        return torch.cat([mean, variance.sqrt()], -1)

    def sheet(self) -> Sheet:
        """Twelve test curves."""
        tasks = self.grid(self.sample(12, "test", seeds.generator("sheet")))
        y = self._values(Functions(*(leaf.double() if leaf.is_floating_point() else leaf for leaf in tasks)), "query")
        return Sheet("curves", y.squeeze(-1).numpy(), tasks.query[0, :, 0].numpy())

    def bayes(self, data: Points) -> Tensor | None:
        """By the exact posterior's marginals, not their joint: methods here predict each point by itself."""
        return None if isinstance(data.bayes, tuple) else data.bayes


def _root(kernel: str, x: Tensor, noise: Tensor) -> Tensor:
    """The Cholesky factor of the targets' covariance, [T, N, N]."""
    root: Tensor = torch.linalg.cholesky(covariance(kernel, x, x) + torch.diag_embed(noise.squeeze(-1)))
    return root
