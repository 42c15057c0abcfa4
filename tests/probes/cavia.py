"""CAVIA: a context at the input adapts (Zintgraf et al. 2019, arXiv:1810.03642, equations 3 and 4)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from bench.core.gradients import GradientName, descend, gradient
from bench.core.network import new_params, run
from bench.core.types import Data, Kind, Learner, Params, Prediction, Search, Task


def mlp(inputs: int, outputs: int) -> nn.Module:
    """The paper's: two hidden layers of 40."""
    return nn.Sequential(nn.Linear(inputs, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, outputs))


class InContextOf(NamedTuple):
    """The task under the learner's own network, of whose values the context alone adapts."""

    task: Task

    def predict(self, params: Params, data: Data) -> Tensor:
        x, context = self.task.inputs(data), params["context"]
        net = {name: value for name, value in params.items() if name != "context"}
        seen = torch.cat([x, context.expand(len(x), -1)], -1)
        return run((mlp, seen.shape[-1], self.task.outputs), net, seen)

    def loss(self, params: Params, data: Data) -> Tensor:
        return self.task.mean(self.task.losses(self.predict(params, data), data), data)

    def adaptable(self, name: str) -> bool:
        return name == "context"


@dataclass(frozen=True, kw_only=True)
class CAVIA(Learner):
    """φ_{k+1} = φ_k − α ∇_φ L(f([x, φ]; θ)) from φ_0 = 0; θ ← θ − β ∇_θ L_query."""

    suits: ClassVar[frozenset[Kind]] = frozenset({"regression"})
    inner_lr: Annotated[float, Field(gt=0, description="α"), Search(0.1, 10, log=True)] = 1.0
    contexts: Annotated[int, Field(ge=1, description="size of φ"), Search(2, 5)] = 5
    gradient: Annotated[GradientName, Field(description="how an inner step is differentiated")] = "reverse"

    def init(self, task: Task, generator: Generator) -> Params:
        inputs = task.inputs(task.example("support")).shape[-1]
        return new_params((mlp, inputs + self.contexts, task.outputs), generator)

    def start(self, meta: Params, noise: Data) -> Params:
        return {**meta, "context": next(iter(meta.values())).new_zeros(self.contexts)}

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        return descend(state, gradient(self.gradient, InContextOf(task))(state, data), self.inner_lr)

    def predict(self, meta: Params, state: Params, task: Task, data: Data) -> Prediction:
        return InContextOf(task).predict(state, data)
