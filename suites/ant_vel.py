"""Ant at a speed: run at an unknown speed of 0 to 3 m/s (extra: mujoco).

The goal-velocity experiment of Finn, Abbeel, Levine 2017 (arXiv:1703.03400), section 5.3, with its code's reward.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from suites import published
from suites.parts.locomotion import Quadruped
from suites.parts.physics import Floats


@dataclass(frozen=True, kw_only=True)
class AntVel(Quadruped):
    """Reward 1 − |v − g| + 0.05 − 0.005 ‖a‖² − 0.0005 ‖contacts‖², g ~ U[0, 3] m/s.

    The 1 is the code's, to make staying alive worth it.
    """

    manifests: ClassVar[dict[str, str]] = published()["ant_vel"]

    @property
    def floor(self) -> float:
        """Standing still: 1.05 minus the mean goal, 1.5, for 200 steps."""
        return -90.0

    def aim(self, draws: Tensor) -> Tensor:
        """Speeds."""
        return 3 * draws

    def gain(self, goal: Floats, speed: Floats) -> Floats:
        """How far from the speed, and 1."""
        return 1.0 - np.abs(speed - goal)
