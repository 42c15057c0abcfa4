"""Suites whose tasks come one after the other, each with points that come in an order: the online protocol's.

Finn, Rajeswaran, Kakade, Levine 2019 (arXiv:1902.08438), section 5. Letters: T tasks, N points of a task.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from bench.core.errors import BenchError
from bench.core.metric import Metric
from bench.core.trees import tree_leaves
from bench.core.types import Data, Role, Supervised, Tasks

LOOKS = tuple(digit * 10**power for power in range(7) for digit in (1, 2, 5))[2:]  # 5, 10, 20, 50, 100, ...


@dataclass(frozen=True, kw_only=True)
class Stream(Supervised):
    """Tasks in an order, each of which gives its points in an order and, after the last of them, as many again unseen.

    A learner of a stream is scored on the next `unseen` points of the present task, which it then gets. What a stream
    has depends on nothing but its fields and a seed: `manifest` draws its `length` tasks, a seed puts them in order.
    """

    points: Annotated[int, Field(ge=2, description="N, what a task gives in its round, one after the other")] = 50
    unseen: Annotated[int, Field(ge=1, description="next points on which the learner is scored before it gets them")]
    shots: Annotated[int, Field(ge=1, description="points to adapt to in meta-training, and as many to be judged on")]
    known: Annotated[int, Field(ge=1, description="tasks that are there with all their points before the first round")]
    proficiency: Annotated[
        float,
        Field(gt=0, lt=1, description="share of what can be reached that counts as learned: an accuracy of 90 %, or an "
              "error of a tenth of that of knowing nothing"),
    ] = 0.9  # fmt: skip
    inner_loss: Annotated[
        Literal["mean", "sum"],
        Field(description="what an inner step follows; sum: that of all points over `shots`, as the authors' code has "
              "it, so that a step on n points is n / shots times as long"),
    ] = "mean"  # fmt: skip

    length: ClassVar[int] = 200  # tasks of the stream, of which a run meets the first

    def __post_init__(self) -> None:
        """Refuses tasks that give fewer points than a meta-iteration takes.

        Raises:
            BenchError: they do.
        """
        if self.points < 2 * self.shots:
            raise BenchError(
                f"points={self.points} are fewer than the {2 * self.shots} that a meta-iteration takes of a task, half "
                f"to adapt to: give shots={self.points // 2} or less, or more points."
            )

    @abstractmethod
    def show(self, tasks: Tasks, places: Tensor) -> Data:
        """The points at `places` [T, n] of the tasks' orders, each from 0 to N + unseen - 1: leaves [T, n, ...]."""

    def look_up(self, tasks: Tasks, role: Role) -> Data:
        """The first points, or those that follow."""
        count = len(tree_leaves(tasks)[0])
        first = 0 if role == "support" else self.shots
        return self.show(tasks, torch.arange(first, first + self.shots).expand(count, -1))

    def mean(self, losses: Tensor, data: Data) -> Tensor:
        """Over all points, or their sum over `shots`."""
        return losses.mean() if self.inner_loss == "mean" else losses.sum() / self.shots

    @property
    def amounts(self) -> tuple[int, ...]:
        """The numbers of points after which a round's learner is scored, from none to all."""
        return (0, *(amount for amount in LOOKS if amount < self.points), self.points)

    @property
    def report_steps(self) -> tuple[int, ...]:
        """The numbers of points that the table quotes."""
        return (*(amount for amount in (10, 100, 1_000) if amount < self.points), self.points)

    @property
    def proficient(self) -> float:
        """The headline score that counts as learned."""
        headline = self.metrics[0]
        return (1 - self.proficiency) * self.floor if headline.better == "lower" else self.proficiency * headline.high

    @property
    def lost(self) -> str:
        """The metric that regret is measured in."""
        return next((metric.name for metric in self.metrics if metric.name == "loss"), self.metrics[0].name)

    @property
    def of_rounds(self) -> tuple[Metric, ...]:
        """What a round as a whole is scored by."""
        headline = self.metrics[0]
        unit = next(metric.unit for metric in self.metrics if metric.name == self.lost)
        return (
            Metric("needed", "points", "lower", low=0, high=self.points),
            Metric("reached", "%", "higher", low=0, high=100),
            Metric("regret", unit, "lower"),
            Metric("forgetting", headline.unit, "lower"),
        )
