"""Prototypical networks: a class is the mean of its examples' features, the nearest is the answer.

Snell, Swersky, Zemel 2017 (arXiv:1703.05175), equations 1 and 2, algorithm 1, and their code: squared Euclidean
distances without a scale, Adam whose rate is halved every 2,000 episodes, of which a meta-iteration is one there and
`meta_batch` here. They train with more ways than they test with (60 on Omniglot, 20 or 30 on miniImagenet), which is
left out: a suite's tasks have one number of ways. Features are those of the suite's network below its last layer;
whether the query normalises them is the suite's `norm` (theirs have running statistics, and so are inductive).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from algorithms.parts.classes import belongs, means, nearest, undecided
from bench.core.outer import Adam, Steps
from bench.core.types import Data, Family, Kind, Learner, Params, Prediction, State, Task


@dataclass(frozen=True, kw_only=True)
class ProtoNet(Learner):
    """p(y = c | x) = softmax over c of −‖f(x) − p_c‖², with p_c the mean of f over class c's support."""

    steps: ClassVar[int] = 1  # type: ignore[misc]  # looks at the support once
    halved: Annotated[
        int, Field(ge=1, description="meta-iterations after which the outer rate is halved, again and again")
    ] = 2000

    family: ClassVar[Family] = "metric"
    suits: ClassVar[frozenset[Kind]] = frozenset({"classification"})

    @property
    def outer(self) -> Adam:
        """Adam, halved again and again."""
        return Adam(self.outer_lr, schedule=Steps(self.halved, 0.5))

    def start(self, meta: Params, noise: Data) -> State:
        """No prototypes yet."""
        return ()

    def step(self, meta: Params, state: State, task: Task, data: Data, k: int) -> State:
        """The prototypes, [W, F]."""
        return means(task.features(meta, data), belongs(task, data))

    def predict(self, meta: Params, state: State, task: Task, data: Data) -> Prediction:
        """Log-probabilities [N, W]; all alike before the support is seen."""
        features = task.features(meta, data)
        return nearest(features, state) if isinstance(state, Tensor) else undecided(features, task)
