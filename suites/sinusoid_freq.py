"""Sinusoids whose frequency varies as well: the regression tasks of Meta-SGD and of Bayesian MAML.

Li, Zhou, Chen, Li 2017 (arXiv:1707.09835) and Yoon et al. 2018 (arXiv:1806.03836), the latter by its code
(jsikyoon/bmaml): a training task is a finite set of points with their noise; weights start as Glorot and Bengio have
them, and Adam's rate falls by 2 % whenever 1 % of the training is done. Here a batch may hold a task twice.
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Generator, nn

from bench.core import seeds
from bench.core.trees import tree_map
from bench.core.types import Budget, Setting, Split
from suites import published
from suites.parts.hidden import Hidden
from suites.sinusoid import Ranges, Sinusoid, Waves

FAMILIES = {
    "metasgd": Ranges(frequency=(0.8, 1.2)),
    "bmaml": Ranges(phase=(0.0, 2 * math.pi), frequency=(0.5, 2.0), noise=0.01, pool=1000),
}
HIDDEN = {"metasgd": (40, 40), "bmaml": (40, 40, 40)}
UNVERIFIED = "the ranges of family=metasgd are unverified: no primary source states them"


@dataclass(frozen=True, kw_only=True)
class SinusoidFreq(Sinusoid):
    """y = A sin(ωx − phase), ω ~ U[0.8, 1.2] (family=metasgd) or U[0.5, 2] with noisy labels (family=bmaml)."""

    family: Annotated[Literal["metasgd", "bmaml"], Field(description=f"whose ranges and network; {UNVERIFIED}")] = (
        "metasgd"
    )
    hidden: Annotated[Hidden, Field(description="widths of the hidden layers; the family's unless given")] = ()
    train_tasks: Annotated[
        int | None,
        Field(
            ge=0,
            description="training tasks that exist, each with its points and their noise; 0: without end; the "
            "family's unless given (bmaml: 100 or 1,000 in the paper)",
        ),
    ] = None

    presets: ClassVar[dict[str, Budget]] = {
        "smoke": Budget(100, 20, 10),
        "quick": Budget(10_000),
        "standard": Budget(60_000),
        "paper": Budget(60_000),
    }
    manifests: ClassVar[dict[str, str]] = published()["sinusoid_freq"]

    def __post_init__(self) -> None:
        """Fills in the family's layers and number of tasks."""
        super().__post_init__()
        object.__setattr__(self, "hidden", self.hidden or HIDDEN[self.family])
        if self.train_tasks is None:
            object.__setattr__(self, "train_tasks", self.ranges.pool or 0)

    @property
    def caveat(self) -> str:
        """What the sources leave open."""
        return UNVERIFIED if self.family == "metasgd" else ""

    @property
    def ranges(self) -> Ranges:
        """The family's."""
        return FAMILIES[self.family]

    @property
    def setting(self) -> str:
        """The family and the size of the support set."""
        return f"{self.family} K={self.shots}"

    @property
    def decay(self) -> float | None:
        """0.98 to the number of percents."""
        return 0.98**100 if self.family == "bmaml" else None

    @property
    def protocol(self) -> dict[str, Setting]:
        """The papers', and MAML's where they are silent."""
        if self.family == "metasgd":
            return {**super().protocol, "inner_lr": Setting(0.01, "Li et al. 2017, MAML's rate")}
        return {
            **super().protocol,
            "inner_lr": Setting(0.001, "Yoon et al. 2018, code: the rate of its one inner step"),
            "meta_batch": Setting(10, "Yoon et al. 2018, code"),
            "steps": Setting(1, "Yoon et al. 2018, code"),
            "outer_lr": Setting(0.001, "Yoon et al. 2018, code, where it falls by 2 % in each percent of a run"),
        }

    def queries(self, split: Split) -> int:
        """Meta-SGD trains on 10 query points and tests on 100; Bayesian MAML uses as many as support points."""
        if self.family == "bmaml":
            return super().queries(split)
        return 10 if split == "train" else 100

    def module(self) -> nn.Module:
        """The family's network with its first values."""
        network = super().module()
        return network.apply(_glorot) if self.family == "bmaml" else network

    def sample(self, count: int, split: Split, generator: Generator) -> Waves:
        """`count` tasks; labels that a learner sees are noisy, those it is tested on are not."""
        if split == "train" and self.train_tasks:
            pool = self._noisy(self.train_tasks, split, seeds.generator("pool", self.family))
            picked = torch.randint(self.train_tasks, (count,), generator=generator)
            return cast(Waves, tree_map(lambda leaf: leaf[picked], pool))
        return self._noisy(count, split, generator)

    def _noisy(self, count: int, split: Split, generator: Generator) -> Waves:
        tasks = super().sample(count, split, generator)
        if self.ranges.noise:
            support, query = (
                self.ranges.noise * torch.randn(x.shape, generator=generator) for x in (tasks.support, tasks.query)
            )
            tasks = tasks._replace(support_noise=support, query_noise=query if split == "train" else tasks.query_noise)
        return tasks


def _glorot(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.normal_(module.bias, std=0.01)
