"""Tabular MDPs: a few states, a few actions, and rewards and transitions that are drawn anew for every task.

The second experiment of Duan, Schulman, Chen, Bartlett, Sutskever, Abbeel 2016 (RL², arXiv:1611.02779): mean rewards
from N(1, 1), rewards of unit variance, transitions from a flat Dirichlet distribution, ten steps from the first state.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional

from bench.core import seeds
from bench.core.sheet import Sheet
from bench.core.types import Budget, Split
from suites import published
from suites.parts.control import Environment
from suites.parts.discrete import Discrete
from suites.parts.hidden import Hidden
from suites.parts.policies import Categorical

MANY = 1_000  # tasks of which the best return is the mean


class Rules(NamedTuple):
    """What pays, and where it leads."""

    rewards: Tensor  # [T, S, A], their means
    transitions: Tensor  # [T, S, A, S], probabilities


class Tables:
    """Walks through the tables of all tasks, which begin in state 0."""

    def __init__(self, horizon: int, told: bool) -> None:
        """`told`: what each action is worth from here on, to whoever goes on best, is observed too."""
        self.horizon, self.told = horizon, told

    def reset(self, tasks: Rules, trajectories: int, generator: Generator) -> Tensor:
        """The first state for all, [T, B, O]."""
        device = tasks.rewards.device
        count, self.states, self.actions = tasks.rewards.shape
        self.means = tasks.rewards.flatten(1)  # [T, SA]
        self.reached = tasks.transitions.cumsum(-1).flatten(1, 2)  # [T, SA, S]
        self.worth = worths(tasks, self.horizon) if self.told else None
        shape = (self.horizon, count, trajectories)
        self.luck = torch.rand(shape, generator=generator).to(device)
        self.noise = torch.randn(shape, generator=generator).to(device)
        self.time = 0
        self.state = torch.zeros(count, trajectories, dtype=torch.int64, device=device)
        return self._observation()

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The next state, and what the action paid in the last; nothing ends before the horizon."""
        row = self.state * self.actions + action  # [T, B]
        reward = self.means.gather(1, row) + self.noise[self.time]
        reached = self.reached.gather(1, row.unsqueeze(-1).expand(-1, -1, self.states))
        self.state = (reached < self.luck[self.time].unsqueeze(-1)).sum(-1).clamp(max=self.states - 1)
        self.time += 1
        return self._observation(), reward, torch.zeros_like(reward, dtype=torch.bool)

    def _observation(self) -> Tensor:
        """The state, one-hot, and the worths where they are told."""
        where = functional.one_hot(self.state, self.states).float()
        if self.worth is None:
            return where
        now = self.worth[:, min(self.time, self.horizon - 1)]  # [T, S, A]
        return torch.cat([where, now.gather(1, self.state.unsqueeze(-1).expand(-1, -1, self.actions))], -1)


def worths(tasks: Rules, horizon: int) -> Tensor:
    """Expected return of each action from each time-step on where all that follow are the best, [T, H, S, A]."""
    rows = [tasks.rewards]
    for _ in range(horizon - 1):
        rows.append(tasks.rewards + (tasks.transitions @ rows[-1].amax(-1)[:, None, :, None]).squeeze(-1))
    return torch.stack(rows[::-1], 1)


@dataclass(frozen=True, kw_only=True)
class TabularMDP(Discrete):
    """Find out what pays and what leads there; where all is known, dynamic programming gives the best return."""

    states: Annotated[int, Field(ge=1)] = 10
    actions: Annotated[int, Field(ge=2)] = 5
    moves: Annotated[int, Field(ge=1, description="of one episode")] = 10
    hidden: Hidden = (32,)
    view: Annotated[
        Literal["plain", "oracle"], Field(description="oracle: told what each action is worth, by dynamic programming")
    ] = "plain"

    presets: ClassVar[dict[str, Budget]] = {
        "smoke": Budget(5, 20, 10),
        "quick": Budget(50, 200, 40),
        "standard": Budget(200),
        "paper": Budget(1_000),
    }
    manifests: ClassVar[dict[str, str]] = published()["mdp"]

    @property
    def setting(self) -> str:
        """How many states, actions and moves."""
        return f"{self.states} states, {self.actions} actions, {self.moves} moves"

    @property
    def floor(self) -> float:
        """The return of any policy, while nothing is known."""
        return float(self.moves)

    @cached_property
    def optimum(self) -> float:
        """The mean of the best expected returns of a thousand tasks."""
        tasks = self.sample(MANY, "test", seeds.generator("optimum"))
        return float(worths(tasks, self.moves)[:, 0, 0].amax(-1).mean())

    def oracle_view(self) -> Self:
        """The same tasks with the actions' worths in the observation; as many environment steps as pretraining."""
        return replace(self.pretraining(), view="oracle")

    def module(self) -> Categorical:
        """O-32-actions with tanh, unless other layers are asked for."""
        told = self.actions if self.view == "oracle" else 0
        return Categorical(self.states + told, self.hidden, self.actions, "tanh")

    def environment(self) -> Environment:
        """The tables."""
        return Tables(self.moves, self.view == "oracle")

    def sample(self, count: int, split: Split, generator: Generator) -> Rules:
        """Mean rewards from N(1, 1), transitions from a flat Dirichlet distribution."""
        shape = (count, self.states, self.actions)
        rewards = 1 + torch.randn(shape, generator=generator)
        # In double precision, and then rounded, a logarithm is the same on every processor.
        shares = -torch.rand(*shape, self.states, generator=generator, dtype=torch.float64).clamp_min(1e-300).log()
        return Rules(rewards, (shares / shares.sum(-1, keepdim=True)).float())

    def sheet(self) -> Sheet:
        """The mean reward of each action in each state, of twelve test tasks."""
        tasks = self.sample(12, "test", seeds.generator("sheet"))
        return Sheet("curves", tasks.rewards.flatten(1).numpy(), torch.arange(self.states * self.actions).numpy())
