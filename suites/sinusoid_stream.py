"""Sinusoids that come one after the other, each with a point at a time: online meta-learning without a download.

The protocol of Finn, Rajeswaran, Kakade, Levine 2019 (arXiv:1902.08438) on the tasks of Finn, Abbeel, Levine 2017
(arXiv:1703.03400), which is a combination of this suite's.
"""

from dataclasses import dataclass
from typing import ClassVar

from bench.core.types import Budget, Setting
from suites import published
from suites.parts.streams import StreamOf

OWN = "a choice of this suite"


@dataclass(frozen=True, kw_only=True)
class SinusoidStream(StreamOf):
    """y = A sin(x − phase), A ~ U[0.1, 5], phase ~ U[0, π]: another one in each round."""

    of: ClassVar[str] = "sinusoid"  # type: ignore[misc]  # a fact of this suite
    points: int = 50
    unseen: int = 50
    shots: int = 10
    known: int = 1

    presets: ClassVar[dict[str, Budget]] = {
        "smoke": Budget(30, 4, 3),
        "quick": Budget(5_000, 50, 20),
        "standard": Budget(16_600, 100, 50),
        "paper": Budget(50_000, 100, 50),
    }
    manifests: ClassVar[dict[str, str]] = published()["sinusoid_stream"]

    @property
    def protocol(self) -> dict[str, Setting]:
        """The sinusoids', with more inner steps, since a task has more points to be learned from."""
        return self.base.protocol | {"steps": Setting(5, OWN), "inner_lr": Setting(0.01, OWN)}
