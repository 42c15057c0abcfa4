"""Lines that come one after the other: a stream of somebody's own."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Generator, Tensor, nn

from bench.core.stream import Stream
from bench.core.types import Budget, Metric, Params, Setting, Split


class Points(NamedTuple):
    x: Tensor  # [N, 1]
    y: Tensor  # [N, 1]


@dataclass(frozen=True, kw_only=True)
class Lines(Stream):
    """y = s x, s ~ N(0, 1): another slope in each round."""

    points: int = 10
    unseen: int = 5
    shots: int = 2
    known: int = 1

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("mse", "", "lower", low=0),)
    presets: ClassVar[dict[str, Budget]] = {"smoke": Budget(8, 3, 2)}
    floor: ClassVar[float] = 1.0

    @property
    def protocol(self) -> dict[str, Setting]:
        values = {"inner_lr": 0.1, "steps": 2, "outer_lr": 0.01, "meta_batch": 4}
        return {name: Setting(value, "a guess") for name, value in values.items()}

    def module(self) -> nn.Module:
        return nn.Linear(1, 1)

    def sample(self, count: int, split: Split, generator: Generator) -> Points:
        x = torch.randn(count, self.points + self.unseen, 1, generator=generator)
        return Points(x, x * torch.randn(count, 1, 1, generator=generator))

    def show(self, tasks: Points, places: Tensor) -> Points:
        return Points(*(leaf.gather(1, places.unsqueeze(-1)) for leaf in tasks))

    def predict(self, params: Params, data: Points) -> Tensor:
        return self.call(params, data.x)

    def losses(self, prediction: Tensor, data: Points) -> Tensor:
        return (prediction - data.y).square().squeeze(-1)

    def score(self, prediction: Tensor, data: Points) -> dict[str, Tensor]:
        return {"mse": self.losses(prediction, data).mean()}
