"""Sinusoids whose frequency varies as well: the regression tasks of Meta-SGD and of Bayesian MAML.

Li, Zhou, Chen, Li 2017 (arXiv:1707.09835) and Yoon et al. 2018 (arXiv:1806.03836), the latter by its code.
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator

from bench.core import seeds
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

    presets: ClassVar[dict[str, Budget]] = {
        "smoke": Budget(100, 20, 10),
        "quick": Budget(10_000),
        "paper": Budget(60_000),
    }
    manifests: ClassVar[dict[str, str]] = published()["sinusoid_freq"]

    def __post_init__(self) -> None:
        """Fills in the family's layers."""
        super().__post_init__()
        object.__setattr__(self, "hidden", self.hidden or HIDDEN[self.family])

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
    def protocol(self) -> dict[str, Setting]:
        """The papers', and MAML's where they are silent."""
        if self.family == "metasgd":
            return {**super().protocol, "inner_lr": Setting(0.01, "Li et al. 2017, MAML's rate")}
        return {
            **super().protocol,
            "inner_lr": Setting(0.001, "Yoon et al. 2018, code: the rate of its one inner step"),
            "meta_batch": Setting(10, "Yoon et al. 2018, code"),
        }

    def queries(self, split: Split) -> int:
        """Meta-SGD trains on 10 query points and tests on 100; Bayesian MAML uses as many as support points."""
        if self.family == "bmaml":
            return super().queries(split)
        return 10 if split == "train" else 100

    def sample(self, count: int, split: Split, generator: Generator) -> Waves:
        """`count` tasks; labels that a learner sees are noisy, those it is tested on are not."""
        tasks = super().sample(count, split, generator)
        if self.ranges.pool and split == "train":
            picked = torch.randint(self.ranges.pool, (count,), generator=generator)
            pool = super().sample(self.ranges.pool, split, seeds.generator("pool", self.family))
            amplitude, phase, frequency = (leaf[picked] for leaf in pool[:3])
            tasks = tasks._replace(amplitude=amplitude, phase=phase, frequency=frequency)
        if self.ranges.noise:
            support, query = (
                self.ranges.noise * torch.randn(x.shape, generator=generator) for x in (tasks.support, tasks.query)
            )
            tasks = tasks._replace(support_noise=support, query_noise=query if split == "train" else tasks.query_noise)
        return tasks
