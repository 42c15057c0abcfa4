"""BOIL: only the body adapts.

Oh, Yoo, Kim, Yun 2021 (arXiv:2008.08882), section 3: MAML with a rate of 0 for the head. The code (HJ-Yoo/BOIL) takes
one step of rate 0.5, on the scales and shifts of batch normalisation too; here rate, steps and what else stays put are
the suite's.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from algorithms.maml import MAML
from bench.core.gradients import OPERATORS, descend
from bench.core.types import Data, Params, Task


@dataclass(frozen=True, kw_only=True)
class BOIL(MAML):
    """θ = (body, head): body_{k+1} = body_k − α ∇_body L_support(body_k, head); θ ← θ − β ∇_θ L_query(body_K, head)."""

    learn2learn: ClassVar[str] = ""

    def adapts(self, task: Task, name: str) -> bool:
        """The parameters before the head."""
        return name not in task.head and task.adaptable(name)

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        """One of the body."""
        slopes = OPERATORS[self.gradient](task.loss, partial(self.adapts, task))(state, data)
        return descend(state, slopes, self.inner_lr, self.inner_clip)
