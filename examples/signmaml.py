"""Sign-MAML: inner steps follow the gradient's sign alone (an example of a plug-in algorithm).

Fan, Ram, Liu 2021 (arXiv:2109.07497), from the paper alone. A sign does not change with the parameters, so that the
first-order meta-gradient is exact. The outer rate falls along a cosine, which is a choice of this example.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from bench.core.gradients import descend, gradient
from bench.core.outer import Adam
from bench.core.types import Data, Learner, Params, Search, Task


@dataclass(frozen=True, kw_only=True)
class SignMAML(Learner):
    """θ ← θ − β ∇ L_query(θ_K), with θ_{k+1} = θ_k − α sign ∇L_support(θ_k)."""

    inner_lr: Annotated[float, Field(gt=0, description="α"), Search(0.0001, 0.1, log=True)] = 0.01

    @property
    def outer(self) -> Adam:
        """Adam, whose rate falls along a cosine."""
        return Adam(self.outer_lr, schedule="cosine")

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        """θ_{k+1} = θ_k − α sign ∇L(θ_k)."""
        slopes = gradient("first_order", task)(state, data)
        return descend(state, {name: g.sign() for name, g in slopes.items()}, self.inner_lr)
