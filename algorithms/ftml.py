"""FTML: follow the meta-leader, a driver that leads any meta-learner of drawn tasks along a stream.

Finn, Rajeswaran, Kakade, Levine 2019 (arXiv:1902.08438), algorithm 1, with its practical form of the leader: meta-steps
on tasks drawn among all that have come, the present one included, on points drawn among all that each has given. What
the learner itself sets, such as reptile's rates, is given in its own brackets: learner=reptile[steps=3].
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

from pydantic import Field

from algorithms.parts.led import Led
from bench.core.discovery import Catalogue, build, parse
from bench.core.errors import BenchError
from bench.core.types import Family, Follows, Kind, Learner, Search

SHARED = ("chases", "order_matters", "own_outer")  # what it says of itself is what its learner says


@dataclass(frozen=True, kw_only=True)
class FTML(Led):
    """θ_t follows argmin_θ Σ_{i ≤ t} f_i(θ), f_i the learner's meta-loss on task i, with U its inner steps."""

    learner: Annotated[str, Field(description="whose meta-loss is followed: anil, maml[steps=3], ...")] = "maml"
    inner_lr: Annotated[
        float, Field(gt=0, description="α, the learner's"), Search(0.1, 10, log=True, times_protocol=True)
    ]

    family: ClassVar[Family] = "online"
    suits: ClassVar[frozenset[Kind]] = frozenset({"regression", "classification"})
    follows: ClassVar[Follows] = "all"

    def __post_init__(self) -> None:
        """Takes over what its learner says of itself.

        Raises:
            BenchError: it is none that can be led.
        """
        cls = type(self.led)
        if cls.follows or not cls.trains or cls.train_view or cls.remembers:
            raise BenchError(
                f"{self.learner} can't be led along a stream. Give one that is meta-trained on support and query, as maml."
            )
        object.__setattr__(self, "suits", self.suits & cls.suits)
        for name in SHARED:
            object.__setattr__(self, name, getattr(cls, name))
        for name in ("steps", "outer_lr", "meta_batch"):
            object.__setattr__(self, name, getattr(self.led, name))

    @cached_property
    def led(self) -> Learner:
        """The learner."""
        named, *others = parse(self.learner)
        if others:
            raise BenchError(f"learner={self.learner} is more than one. Give one, such as {named.name}.")
        mine = {name: getattr(self, name) for name in ("steps", "inner_lr", "outer_lr", "meta_batch")}
        led: Learner = build(Catalogue().load("algorithm", named.name), named.name, named.given, mine)
        return led
