"""Half-cheetah at a speed: run at an unknown speed of 0 to 2 m/s (extra: mujoco).

The goal-velocity experiment of Finn, Abbeel, Levine 2017 (arXiv:1703.03400), section 5.3, with its code's reward.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from suites import published
from suites.parts.locomotion import Cheetah
from suites.parts.physics import Floats


@dataclass(frozen=True, kw_only=True)
class HalfCheetahVel(Cheetah):
    """Reward −|v − g| − 0.05 ‖a‖² with g ~ U[0, 2] m/s and v the speed of the centre of mass."""

    manifests: ClassVar[dict[str, str]] = published()["halfcheetah_vel"]

    @property
    def floor(self) -> float:
        """Standing still: the mean goal for 200 steps."""
        return -200.0

    def aim(self, draws: Tensor) -> Tensor:
        """Speeds."""
        return 2 * draws

    def gain(self, goal: Floats, speed: Floats) -> Floats:
        """How far from the speed."""
        return -np.abs(speed - goal)
