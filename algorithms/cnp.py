"""CNP: the mean of what each support point is encoded to decides what is predicted.

Garnelo et al. 2018 (arXiv:1807.01613), equations 1 to 3; widths, layers and σ as in the authors' code
(google-deepmind/neural-processes, conditional_neural_process.ipynb). There the rate is 1e-4 over 200,000 iterations and
the targets hold the support as well; here rate and query are the suite's, as every method's. An empty support, which
the code never draws, is encoded as 0.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator

from algorithms.parts import sets
from bench.core.network import Build, new_params, run
from bench.core.types import Data, Family, Kind, Learner, Meta, Prediction, Search, State, Task


@dataclass(frozen=True, kw_only=True)
class CNP(Learner):
    """r = mean of h(x_i, y_i) over the support; (μ, σ)(x) = g(x, r); θ ← θ − β ∇ of −mean ln N(y; μ, σ²)."""

    steps: ClassVar[int] = 1  # type: ignore[misc]  # looks at the support once
    width: Annotated[int, Field(ge=1, description="of the hidden layers and of r")] = 128
    least: Annotated[
        float, Field(ge=0, lt=1, description="σ = least + (1 − least) softplus"), Search(0.001, 0.1, log=True)
    ] = 0.1

    family: ClassVar[Family] = "amortised"
    suits: ClassVar[frozenset[Kind]] = frozenset({"regression"})

    def nets(self, x: int, y: int) -> tuple[Build, Build]:
        """Encoder h and decoder g."""
        w = self.width
        return (sets.mlp, x + y, w, w, w, w), (sets.mlp, w + x, w, w, 2 * y)

    def init(self, task: Task, generator: Generator) -> Meta:
        """The values of both."""
        seen = sets.points(task, task.example("support"))
        encoder, decoder = self.nets(seen.x.shape[-1], seen.y.shape[-1])
        return {"encoder": new_params(encoder, generator), "decoder": new_params(decoder, generator)}

    def start(self, meta: Meta, noise: Data) -> State:
        """That of an empty support."""
        return next(iter(meta["encoder"].values())).new_zeros(self.width)

    def step(self, meta: Meta, state: State, task: Task, data: Data, k: int) -> State:
        """r, [width]."""
        x, y, there = sets.points(task, data)
        encoder, _ = self.nets(x.shape[-1], y.shape[-1])
        return sets.mean(run(encoder, meta["encoder"], torch.cat([x, y], -1)), there)

    def predict(self, meta: Meta, state: State, task: Task, data: Data) -> Prediction:
        """A normal for each input."""
        x = task.inputs(data).flatten(1)
        _, decoder = self.nets(x.shape[-1], task.outputs)
        return sets.normal(run(decoder, meta["decoder"], torch.cat([state.expand(len(x), -1), x], -1)), self.least)
