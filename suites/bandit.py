"""Bernoulli bandits: find the arm that pays. The smallest suite of reinforcement learning, with a known optimum."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Generator, Tensor

from bench.core import seeds
from bench.core.sheet import Sheet
from bench.core.types import Budget, Split
from suites import published
from suites.parts.control import Environment
from suites.parts.discrete import Discrete
from suites.parts.hidden import Hidden
from suites.parts.policies import Categorical

GOOD, BAD = 0.9, 0.1  # how often an arm pays


class Arms:
    """Pulls of the arms; every observation is 1, or what the arms pay."""

    def __init__(self, horizon: int, told: bool) -> None:
        """`told`: the observation is each arm's probability."""
        self.horizon, self.told = horizon, told

    def reset(self, tasks: Tensor, trajectories: int, generator: Generator) -> Tensor:
        """The same observation for all, [T, B, O]."""
        self.chances = tasks.unsqueeze(1).expand(-1, trajectories, -1)  # [T, B, A]
        self.luck = torch.rand(self.horizon, *self.chances.shape[:2], generator=generator).to(tasks.device)
        self.time = 0
        self.observation = self.chances if self.told else torch.ones_like(self.chances[..., :1])
        return self.observation

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """1 where the arm paid; nothing ends before the horizon."""
        chance = self.chances.gather(-1, action.unsqueeze(-1)).squeeze(-1)
        reward = (self.luck[self.time] < chance).float()
        self.time += 1
        return self.observation, reward, torch.zeros_like(reward, dtype=torch.bool)


@dataclass(frozen=True, kw_only=True)
class Bandit(Discrete):
    """One of the arms pays with probability 0.9, the others with 0.1: the best return is 0.9 per pull."""

    arms: Annotated[int, Field(ge=2)] = 5
    pulls: Annotated[int, Field(ge=1, description="of one episode")] = 10
    hidden: Hidden = (16,)
    view: Annotated[Literal["plain", "oracle"], Field(description="oracle: told what every arm pays")] = "plain"

    presets: ClassVar[dict[str, Budget]] = {
        "smoke": Budget(5, 20, 10),
        "quick": Budget(50, 200, 40),
        "standard": Budget(200),
        "paper": Budget(200),
    }
    manifests: ClassVar[dict[str, str]] = published()["bandit"]

    @property
    def setting(self) -> str:
        """How many arms and pulls."""
        return f"{self.arms} arms, {self.pulls} pulls"

    @property
    def floor(self) -> float:
        """The return of any arm, while nothing is known."""
        return self.pulls * (GOOD + (self.arms - 1) * BAD) / self.arms

    @property
    def optimum(self) -> float:
        """The expected return of the good arm."""
        return self.pulls * GOOD

    def oracle_view(self) -> Self:
        """The same tasks with their probabilities in the observation; as many environment steps as pretraining."""
        return replace(self.pretraining(), view="oracle")

    def module(self) -> Categorical:
        """O-16-arms with tanh, unless other layers are asked for."""
        return Categorical(self.arms if self.view == "oracle" else 1, self.hidden, self.arms, "tanh")

    def environment(self) -> Environment:
        """The arms."""
        return Arms(self.pulls, self.view == "oracle")

    def sample(self, count: int, split: Split, generator: Generator) -> Tensor:
        """Probabilities, [T, A], with the good arm drawn uniformly."""
        good = torch.randint(self.arms, (count,), generator=generator)
        return torch.where(torch.arange(self.arms) == good.unsqueeze(1), GOOD, BAD).float()

    def sheet(self) -> Sheet:
        """What the arms of twelve test tasks pay."""
        tasks = self.sample(12, "test", seeds.generator("sheet"))
        return Sheet("curves", tasks.numpy(), torch.arange(self.arms).numpy())
