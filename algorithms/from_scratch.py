"""From scratch: a new model for each task of a stream, trained on nothing but the points that the task has given.

The baseline of Finn, Rajeswaran, Kakade, Levine 2019 (arXiv:1902.08438), section 5.
"""

from dataclasses import dataclass
from typing import ClassVar

from algorithms.toe import TOE
from bench.core.types import Follows


@dataclass(frozen=True, kw_only=True)
class FromScratch(TOE):
    """θ ← θ − β ∇L(θ) on points of the present task alone, from a fresh θ in each round."""

    follows: ClassVar[Follows] = "present"
