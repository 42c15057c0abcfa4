"""Ant in a direction: run forward or backward, as fast as possible (extra: mujoco).

The forward-backward experiment of Finn, Abbeel, Levine 2017 (arXiv:1703.03400), section 5.3, with its code's reward.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from suites import published
from suites.parts.locomotion import Quadruped
from suites.parts.physics import Floats


@dataclass(frozen=True, kw_only=True)
class AntDir(Quadruped):
    """Reward g v + 0.05 − 0.005 ‖a‖² − 0.0005 ‖contacts‖² with g = −1 or 1; 40 trajectories a task."""

    trajectories: Annotated[int, Field(ge=1, description="of one task before and after each inner step")] = 40

    manifests: ClassVar[dict[str, str]] = published()["ant_dir"]
    published_seed: ClassVar[int] = 2
    later: ClassVar[float] = 0.01

    @property
    def test_trajectories(self) -> int:
        """8,000 time-steps, if none ends early."""
        return 40

    @property
    def floor(self) -> float:
        """Standing still: 0.05 for 200 steps."""
        return 10.0

    def aim(self, draws: Tensor) -> Tensor:
        """Directions: backward in half of the draws."""
        return torch.where(draws < 0.5, -1.0, 1.0)

    def gain(self, goal: Floats, speed: Floats) -> Floats:
        """How fast in the direction."""
        return goal * speed
