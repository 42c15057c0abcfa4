"""ANIL: only the head adapts.

Raghu, Raghu, Bengio, Vinyals 2019 (arXiv:1909.09157), section 4. They published no code; as in learn2learn's, the body
runs once on the support of a task, and neither it nor a Gaussian policy's deviations, which are of no layer, adapt.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from algorithms.maml import MAML
from bench.core.gradients import OPERATORS, descend
from bench.core.types import Data, Params, Task

FEATURES = "features of the support"  # beside the parameters, so that the meta-gradient goes through them to the body


def loss(task: Task, params: Params, data: Data) -> Tensor:
    """The mean loss of what the head answers."""
    return task.mean(task.losses(task.answer(params, params[FEATURES]), data), data)


@dataclass(frozen=True, kw_only=True)
class ANIL(MAML):
    """θ = (body, head): head_{k+1} = head_k − α ∇_head L_support(body, head_k); θ ← θ − β ∇_θ L_query(body, head_K)."""

    learn2learn: ClassVar[str] = ""

    def adapts(self, task: Task, name: str) -> bool:
        """The head's parameters."""
        return name in task.head and task.adaptable(name)

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        """One of the head on the support's features, which stay those of the first step unless there are new data."""
        known = FEATURES in state and task.kind != "control"
        state = state if known else {**state, FEATURES: task.features(meta, data)}
        slopes = OPERATORS[self.gradient](partial(loss, task), partial(self.adapts, task))(state, data)
        return descend(state, slopes, self.inner_lr, self.inner_clip)

    def params(self, meta: Params, state: Params) -> Params:
        """θ with the adapted head."""
        return {name: p for name, p in state.items() if name != FEATURES}
