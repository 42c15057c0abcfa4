"""Matching networks: a query's class is that of the support's examples, weighed by how alike their features are.

Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra 2016 (arXiv:1606.04080), equation 1 and section 2.1.1, without the
full-context embeddings of section 2.1.2: f = g, the suite's network below its last layer. The paper's code was never
released; attention is the softmax of cosines as the paper has it. Since they lie within ±1 (0 to 1 after a ReLU), no
probability comes near 1 and the loss stays high, which the accuracy does not see. Chen et al. 2019 (arXiv:1904.04232),
code, multiply them by 100: `scale`.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn import functional

from algorithms.parts.classes import belongs, undecided
from bench.core.types import Data, Family, Kind, Learner, Params, Prediction, Search, State, Task

LEAST = -1e9  # in place of -inf, of which a sum over nothing has no gradient


@dataclass(frozen=True, kw_only=True)
class Matching(Learner):
    """p(y = c | x) = Σ_i a_i [y_i = c], with a = softmax over the support of scale · cos(f(x), f(x_i))."""

    steps: ClassVar[int] = 1  # type: ignore[misc]  # looks at the support once
    scale: Annotated[float, Field(gt=0, description="of the cosines"), Search(1, 100, log=True)] = 1.0

    family: ClassVar[Family] = "metric"
    suits: ClassVar[frozenset[Kind]] = frozenset({"classification"})

    def start(self, meta: Params, noise: Data) -> State:
        """Nothing to attend to yet."""
        return ()

    def step(self, meta: Params, state: State, task: Task, data: Data, k: int) -> State:
        """The support's features of length 1, [N, F], and who is of which class, [N, W]."""
        return functional.normalize(task.features(meta, data), dim=-1), belongs(task, data)

    def predict(self, meta: Params, state: State, task: Task, data: Data) -> Prediction:
        """Log-probabilities [Q, W]; all alike before the support is seen."""
        features = task.features(meta, data)
        if not state:
            return undecided(features, task)
        keys, of = state
        alike = self.scale * functional.normalize(features, dim=-1) @ keys.mT  # [Q, N]
        # By class, and normalised after: whoever is absent belongs to none.
        by_class = alike.unsqueeze(-1).masked_fill(~of, LEAST).logsumexp(-2)
        # A class without an example is attended to as the average example is, lest its loss be infinite.
        there = of.any(-1).to(alike.dtype)
        average = (alike @ there / there.sum().clamp(min=1)).unsqueeze(-1)
        by_class = torch.where(of.any(-2), by_class, average)
        return torch.log_softmax(by_class, -1)
