"""Half-cheetah in a direction: run forward or backward, as fast as possible (extra: mujoco).

The forward-backward experiment of Finn, Abbeel, Levine 2017 (arXiv:1703.03400), section 5.3, with its code's reward.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from suites import published
from suites.parts.locomotion import Cheetah
from suites.parts.physics import Floats


@dataclass(frozen=True, kw_only=True)
class HalfCheetahDir(Cheetah):
    """Reward g v − 0.05 ‖a‖² with g = −1 or 1 and v the speed of the centre of mass, m/s."""

    manifests: ClassVar[dict[str, str]] = published()["halfcheetah_dir"]

    @property
    def floor(self) -> float:
        """Standing still."""
        return 0.0

    def aim(self, draws: Tensor) -> Tensor:
        """Directions: backward in half of the draws."""
        return torch.where(draws < 0.5, -1.0, 1.0)

    def gain(self, goal: Floats, speed: Floats) -> Floats:
        """How fast in the direction."""
        return goal * speed
