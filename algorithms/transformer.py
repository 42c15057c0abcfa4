"""An in-context learner: a transformer reads the support as a set of tokens and answers the query in one pass.

The shape is that of Müller et al. 2022 (PFN, arXiv:2112.10510) by its code (automl/TransformersCanDoBayesianInference,
transformer.py): a token is the sum of what input and target are embedded to, without a position; support tokens attend
to the support, a query to the support and itself; blocks normalise after each branch. It differs in size (512 wide, 6
layers there), in initial values (there branches begin at 0, here queries' weights as those of keys), in that numbers
are answered by a normal instead of a histogram, and in that images come through the suite's own network, not as pixels.
Garg et al. 2022 (arXiv:2208.01066) and Kirsch et al. 2022 (GPICL, arXiv:2212.04458) read the support as a causal
sequence, whose order matters.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional

from algorithms.parts import sets
from algorithms.parts.attention import Reader
from bench.core.network import Build, new_params, run
from bench.core.types import Data, Family, Kind, Learner, Meta, Prediction, Search, Task


@dataclass(frozen=True, kw_only=True)
class Transformer(Learner):
    """(μ, σ)(x), or ln p(class | x), = transformer(support, x); θ ← θ − β ∇L_query: nothing but what is read adapts."""

    steps: ClassVar[int] = 1  # type: ignore[misc]  # reads the support once
    width: Annotated[int, Field(ge=4, multiple_of=4, description="of a token; 4 heads")] = 64
    layers: Annotated[int, Field(ge=1, description="blocks"), Search(2, 6)] = 4
    least: Annotated[float, Field(ge=0, lt=1, description="σ = least + (1 − least) softplus")] = 0.01

    family: ClassVar[Family] = "amortised"
    suits: ClassVar[frozenset[Kind]] = frozenset({"regression", "classification"})

    def inputs(self, meta: Meta, task: Task, data: Data) -> Tensor:
        """What a token holds of an example, [N, X]: numbers as they are, images as features of the suite's network."""
        return task.features(meta["net"], data) if "net" in meta else task.inputs(data).flatten(1)

    def reader(self, x: int, task: Task) -> Build:
        """The network that reads inputs of this size."""
        outputs = task.outputs * (2 if task.kind == "regression" else 1)
        return Reader, x, task.outputs, self.width, self.layers, outputs

    def init(self, task: Task, generator: Generator) -> Meta:
        """The reader, and the network through which images come."""
        meta = {"net": task.new_params(generator)} if task.kind == "classification" else {}
        with torch.no_grad():
            x = self.inputs(meta, task, task.example("support")).shape[-1]
        return {**meta, "reader": new_params(self.reader(x, task), generator)}

    def start(self, meta: Meta, noise: Data) -> sets.Points:
        """An empty support."""
        point, label = meta["reader"]["point.weight"], meta["reader"]["label.weight"]
        return sets.nothing(point.shape[-1], label.shape[-1], point)

    def step(self, meta: Meta, state: sets.Points, task: Task, data: Data, k: int) -> sets.Points:
        """The support; a class is its indicator."""
        x, y = self.inputs(meta, task, data), task.targets(data)
        if task.kind == "classification":
            y = functional.one_hot(y, task.outputs).to(x.dtype)
        return sets.Points(x, y, sets.there(task, data, x))

    def predict(self, meta: Meta, state: sets.Points, task: Task, data: Data) -> Prediction:
        """A normal for each example, or log-probabilities."""
        x = self.inputs(meta, task, data)
        output = run(self.reader(x.shape[-1], task), meta["reader"], *state, x)
        return sets.normal(output, self.least) if task.kind == "regression" else torch.log_softmax(output, -1)
