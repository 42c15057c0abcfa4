"""FTML: follow the meta-leader, a driver that leads any meta-learner of drawn tasks along a stream.

Finn, Rajeswaran, Kakade, Levine 2019 (arXiv:1902.08438), algorithm 1, with its practical form of the leader: meta-steps
on tasks drawn among all that have come, the present one included, on points drawn among all that each has given. What
the learner sets itself, such as reptile's rates, stays as it is unless it is given: in the learner's brackets,
learner=reptile[steps=3], or in these.
"""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Annotated, Any, ClassVar

from pydantic import Field

from algorithms.parts.led import Led, led_by_name
from bench.core.discovery import parse
from bench.core.types import Family, Follows, Kind, Learner, Search

PASSED = ("steps", "inner_lr", "outer_lr", "meta_batch")  # to the learner
SHARED = ("chases", "order_matters", "own_outer")  # what it says of itself is what its learner says


@dataclass(frozen=True, kw_only=True)
class FTML(Led):
    """θ_t follows argmin_θ Σ_{i ≤ t} f_i(θ), f_i the learner's meta-loss on task i, with U its inner steps."""

    learner: Annotated[str, Field(description="whose meta-loss is followed: anil, maml[steps=3], ...")] = "maml"
    inner_lr: Annotated[
        float | None,
        Field(gt=0, description="α, the learner's, if it has one"),
        Search(0.1, 10, log=True, times_protocol=True),
    ]

    family: ClassVar[Family] = "online"
    suits: ClassVar[frozenset[Kind]] = frozenset({"regression", "classification"})
    follows: ClassVar[Follows] = "all"

    def __post_init__(self) -> None:
        """Takes over what its learner says of itself."""
        cls = type(self.led)
        object.__setattr__(self, "suits", self.suits & cls.suits)
        for name in SHARED:
            object.__setattr__(self, name, getattr(cls, name))

    @classmethod
    def opened(cls, given: dict[str, Any], protocol: dict[str, Any]) -> dict[str, Any]:
        """The suite's protocol, but for what the learner sets itself."""
        led = led_by_name(given.get("learner", cls.learner), {}, protocol)
        return protocol | {name: getattr(led, name, None) for name in PASSED}

    @property
    def idle(self) -> frozenset[str]:
        """What its learner does not have, and what is said in its learner's brackets."""
        has = {field.name for field in fields(self.led)}
        return self.led.idle | {name for name in PASSED if name not in has or name in parse(self.learner)[0].given}

    @cached_property
    def led(self) -> Learner:
        """The learner."""
        return led_by_name(self.learner, {name: getattr(self, name) for name in PASSED}, {})
