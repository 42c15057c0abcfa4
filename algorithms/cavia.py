"""CAVIA: a context at the input adapts, the network does not.

Zintgraf et al. 2019 (arXiv:1810.03642), equations 3 and 4, as in the code (lmzintgraf/cavia, regression), which cuts
each task's meta-gradient to ±10, where nothing is cut here. `sinusoid` has its sines up to the query: a grid there.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from algorithms.maml import MAML
from bench.core.gradients import OPERATORS, descend
from bench.core.network import new_params, run
from bench.core.types import Data, Kind, Meta, Params, Prediction, Search, Task


def _mlp(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, outputs))


@dataclass(frozen=True, kw_only=True)
class CAVIA(MAML):
    """φ_{k+1} = φ_k − α ∇_φ L_support(f([x, φ_k]; θ)) from φ_0 = 0; θ ← θ − β ∇_θ L_query(f([x, φ_K]; θ))."""

    suits: ClassVar[frozenset[Kind]] = frozenset({"regression"})
    learn2learn: ClassVar[str] = ""
    steps: Annotated[int, Field(ge=1, description="inner steps in meta-training"), Search(1, 5)] = 1
    inner_lr: Annotated[float, Field(gt=0, description="α"), Search(0.1, 10, log=True)] = 1.0
    contexts: Annotated[int, Field(ge=1, description="size of φ"), Search(2, 5)] = 5

    def adapts(self, task: Task, name: str) -> bool:
        """The context."""
        return name == "context"

    def init(self, task: Task, generator: Generator) -> Params:
        """θ."""
        inputs = task.inputs(task.example("support")).shape[-1] + self.contexts
        return new_params((_mlp, inputs, task.outputs), generator)

    def start(self, meta: Params, noise: Data) -> Params:
        """θ and φ_0."""
        return {**meta, "context": next(iter(meta.values())).new_zeros(self.contexts)}

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        """One of φ."""
        slopes = OPERATORS[self.gradient](partial(self._loss, task), partial(self.adapts, task))(state, data)
        return descend(state, slopes, self.inner_lr, self.inner_clip)

    def _loss(self, task: Task, params: Params, data: Data) -> Tensor:
        return task.mean(task.losses(self.predict((), params, task, data), data), data)

    def predict(self, meta: Meta, state: Params, task: Task, data: Data) -> Prediction:
        """f([x, φ]; θ), [N, D]."""
        x, net = task.inputs(data), {name: p for name, p in state.items() if name != "context"}
        seen = torch.cat([x, state["context"].expand(len(x), -1)], -1)
        return run((_mlp, seen.shape[-1], task.outputs), net, seen)
