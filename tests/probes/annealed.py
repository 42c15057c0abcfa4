"""MAML whose meta-gradient is of first order up to a meta-iteration, and exact from there.

The derivative-order annealing of Antoniou, Edwards, Storkey 2019 (arXiv:1810.09502), section 4.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Self

from pydantic import Field

from algorithms.maml import MAML


@dataclass(frozen=True, kw_only=True)
class Annealed(MAML):
    """FOMAML before `second_from`, MAML after."""

    second_from: Annotated[int, Field(ge=0, description="meta-iteration from which it is exact")] = 50
    learn2learn: ClassVar[str] = ""

    def at(self, iteration: int) -> Self:
        """The learner in that iteration."""
        return replace(self, gradient="first_order") if iteration < self.second_from else self
