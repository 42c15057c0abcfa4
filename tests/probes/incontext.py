"""An in-context learner: a small transformer reads the support and answers (Müller et al. 2022, arXiv:2112.10510)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from bench.core.network import Build, new_params, run
from bench.core.types import Data, Kind, Learner, Meta, Params, Prediction, State, Task


class Reader(nn.Module):
    """Tokens of the support [N, x + y], which of them count [N], and of the query [Q, x] -> answers [Q, y]."""

    def __init__(self, x: int, y: int, width: int, layers: int) -> None:
        super().__init__()
        self.shown, self.asked, self.answer = nn.Linear(x + y, width), nn.Linear(x, width), nn.Linear(width, y)
        self.look = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(layers))
        self.think = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
                                   for _ in range(layers))  # fmt: skip

    def forward(self, support: Tensor, there: Tensor, query: Tensor) -> Tensor:
        tokens, count = torch.cat([self.shown(support), self.asked(query)]), len(support)
        for look, think in zip(self.look, self.think, strict=True):
            q, k, v = look(tokens).chunk(3, -1)
            scores = q @ k[:count].mT / q.shape[-1] ** 0.5
            tokens = tokens + torch.softmax(scores.masked_fill(~there, -torch.inf), -1) @ v[:count]
            tokens = tokens + think(tokens)
        answers: Tensor = self.answer(tokens[count:])
        return answers


@dataclass(frozen=True, kw_only=True)
class InContext(Learner):
    """ŷ = transformer(support, x): nothing is adapted but what is read."""

    steps: ClassVar[int] = 1  # type: ignore[misc]  # reads the support once
    suits: ClassVar[frozenset[Kind]] = frozenset({"regression"})
    width: Annotated[int, Field(ge=1, description="of a token")] = 64
    layers: Annotated[int, Field(ge=1, description="attention blocks")] = 2

    def net(self, x: int, y: int) -> Build:
        return Reader, x, y, self.width, self.layers

    def init(self, task: Task, generator: Generator) -> Meta:
        return new_params(self.net(task.inputs(task.example("support")).shape[-1], task.outputs), generator)

    def start(self, meta: Params, noise: Data) -> State:
        return ()

    def step(self, meta: Params, state: State, task: Task, data: Data, k: int) -> State:
        x, y, mask = task.inputs(data), task.targets(data), task.mask(data)
        return torch.cat([x, y], -1), torch.ones_like(y[:, 0], dtype=torch.bool) if mask is None else mask

    def predict(self, meta: Params, state: State, task: Task, data: Data) -> Prediction:
        x = task.inputs(data)
        nothing = x.new_zeros(1, x.shape[-1] + task.outputs), x.new_ones(1, dtype=torch.bool)
        return run(self.net(x.shape[-1], task.outputs), meta, *(state or nothing), x)
