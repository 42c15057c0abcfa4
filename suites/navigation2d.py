"""2D navigation: a point finds a goal in the plane that only its reward tells of.

The first reinforcement-learning experiment of Finn, Abbeel, Levine 2017 (arXiv:1703.03400), section 5.3, with the
details of its code, and the two variants of Li, Zhou, Chen, Li 2017 (arXiv:1707.09835), section 4.3.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field
from torch import Generator, Tensor

from bench.core import seeds
from bench.core.sheet import Sheet
from bench.core.types import Budget, Setting, Split
from suites import published
from suites.parts.control import Environment, Reinforcement, Trajectories
from suites.parts.hidden import Hidden
from suites.parts.policies import Gaussian

HORIZON = 100
REACH = 0.1  # of one move along each axis
NEAR = 0.01  # of the goal, where an episode ends
FINN = "Finn et al. 2017, code: the evaluated checkpoint"
PAPER = "Finn et al. 2017, section 5.3 and appendix A.2"
LI = "Li et al. 2017, section 4.3"
Family = Literal["checkpoint", "paper", "fixed_start", "varying_start"]


class Places(NamedTuple):
    """Where tasks start and end."""

    start: Tensor  # [T, 2]
    goal: Tensor  # [T, 2]


class Plane:
    """Points in the plane, moved by what is asked for, at most 0.1 along each axis."""

    def __init__(self, squared: bool, told: bool) -> None:
        """`squared`: distances are, and the end is a disc, not a box; `told`: the observation holds the goal."""
        self.squared, self.told = squared, told
        self.horizon = HORIZON

    def reset(self, tasks: Places, trajectories: int, generator: Generator) -> Tensor:
        """All at the start; nothing is random."""
        self.goal = tasks.goal.unsqueeze(1)
        self.position = tasks.start.unsqueeze(1).expand(-1, trajectories, -1)
        return self._observation()

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Minus the distance to the goal after the move, and whether it was reached."""
        self.position = self.position + (REACH * action).clamp(-REACH, REACH)
        gap = self.position - self.goal
        square = gap.square().sum(-1)
        if self.squared:
            return self._observation(), -square, square < NEAR**2
        return self._observation(), -square.sqrt(), (gap.abs() < NEAR).all(-1)

    def _observation(self) -> Tensor:
        if not self.told:
            return self.position
        return torch.cat([self.position, self.goal.expand_as(self.position)], -1)


@dataclass(frozen=True, kw_only=True)
class Navigation2D(Reinforcement):
    """Goals from U[−0.5, 0.5]²; a Gaussian policy 2-100-100-2; episodes of at most 100 moves."""

    family: Annotated[
        Family,
        Field(
            description="checkpoint: what Finn et al. published returns of; paper: what their text says, never held "
            "against those; fixed_start, varying_start: of Li et al."
        ),
    ] = "checkpoint"
    hidden: Hidden = (100, 100)
    view: Annotated[Literal["plain", "oracle"], Field(description="oracle: the goal is in the observation")] = "plain"

    presets: ClassVar[dict[str, Budget]] = {
        "smoke": Budget(2, 8, 4),
        "quick": Budget(100, 40, 40),
        "standard": Budget(100, 40, 40),
        "paper": Budget(500, 40, 40),
    }
    validate_every: ClassVar[int] = 10
    of_tensors: ClassVar[bool] = True
    manifests: ClassVar[dict[str, str]] = published()["navigation2d"]

    @property
    def setting(self) -> str:
        """The family."""
        return self.family

    @property
    def finn(self) -> bool:
        """Whether the family is Finn et al.'s."""
        return self.family in ("checkpoint", "paper")

    @property
    def report_steps(self) -> tuple[int, ...]:
        """Those of the papers."""
        return (0, 1, 2, 3) if self.finn else (0, 1)

    @property
    def test_trajectories(self) -> int:
        """4,000 time-steps, if none ends early; 20 episodes with Li et al."""
        return 40 if self.finn else 20

    @property
    def protocol(self) -> dict[str, Setting]:
        """The paper's, or its code's."""
        source = {"checkpoint": FINN, "paper": PAPER}.get(self.family, LI)
        return {
            "inner_lr": Setting(0.5 if self.family == "checkpoint" else 0.1, f"{source}; at test halved after a step"),
            "steps": Setting(1, source),
            "outer_lr": Setting(0.001, "for outer=adam; a choice of this suite"),
            "meta_batch": Setting(20, source),
        }

    @property
    def floor(self) -> float:
        """The return of standing still: the mean distance to the goal, in closed form, times the horizon."""
        far = {"paper": 1 / 6, "varying_start": 0.5214054}.get(self.family, 0.3825979)
        return -HORIZON * far

    @property
    def caveat(self) -> str:
        """What was not published."""
        if self.family == "checkpoint":
            return "tested on 40 complete episodes per step; published returns are of 4,000 time-steps per step"
        return "" if self.family == "paper" else "what Li et al. leave open is as in Finn et al.'s code"

    def pace(self, step: int) -> float:
        """Half the rate after the first step, as Finn et al. tested."""
        return 0.5 if self.finn and step else 1.0

    def oracle_view(self) -> Self:
        """The same tasks with the goal in the observation; as many environment steps as pretraining."""
        return replace(self.pretraining(), view="oracle")

    def module(self) -> Gaussian:
        """The paper's network, unless other layers are asked for."""
        return Gaussian(4 if self.view == "oracle" else 2, self.hidden, 2)

    def environment(self) -> Environment:
        """The plane."""
        return Plane(self.family == "paper", self.view == "oracle")

    def sample(self, count: int, split: Split, generator: Generator) -> Places:
        """Goals, and starts at 0 unless they vary; Finn et al.'s test goals are NumPy's first with seed 1."""
        goal = _square(count, generator)
        if split == "test" and self.finn:
            goal = torch.from_numpy(np.random.RandomState(1).uniform(-0.5, 0.5, (count, 2))).float()
        return Places(_square(count, generator) if self.family == "varying_start" else torch.zeros(count, 2), goal)

    def paths(self, tasks: Places, seen: Trajectories) -> tuple[Tensor, Tensor]:
        """What a picture of paths shows: the goals, [T, 2], and where each move began, [T, J, H, 2]."""
        return tasks.goal, seen.observations[..., :2]

    def sheet(self) -> Sheet:
        """The goals of forty test tasks: x and y by task."""
        goals = self.sample(40, "test", seeds.generator("sheet")).goal
        return Sheet("curves", goals.T.numpy(), np.arange(40))


def _square(count: int, generator: Generator) -> Tensor:
    return (torch.rand(count, 2, generator=generator, dtype=torch.float64) - 0.5).float()
