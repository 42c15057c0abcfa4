"""Baseline++: pretrained by a classifier of cosines; at test the support trains a new one on features that stay.

Chen, Liu, Kira, Wang, Huang 2019 (arXiv:1904.04232), section 3.2, and their code: the scale is 10 above 200 classes and
2 up to there, the rows' lengths are learned; SGD at 0.01 with momentum and dampening 0.9, weight decay 0.001, 100
epochs (iterations, says the paper) in batches of 4. Here as many updates go, each on the whole support. The code's
rows are weight-normalised, which at first moves them alike. The new head is random, one for all tasks of a cell;
the code draws one for each task.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.func import grad
from torch.nn import functional

from algorithms.parts.classes import undecided
from bench.core.types import Data, Episode, Family, Kind, Learner, Params, Prediction, Search, State, Task

BATCH, MOMENTUM, DECAY = 4, 0.9, 0.001


@dataclass(frozen=True, kw_only=True)
class BaselinePP(Learner):
    """θ ← θ − β ∇L(θ) with logits s w_c·f / ‖f‖; at test v ← 0.9 v + 0.1 (∇L_support(w) + 0.001 w), w ← w − α v."""

    steps: ClassVar[int] = 0  # type: ignore[misc]  # pretraining takes no inner step
    inner_lr: Annotated[float, Field(gt=0, description="α, of the new head"), Search(0.001, 1, log=True)] = 0.01
    epochs: Annotated[int, Field(ge=1, description="of the new head's training, in the first inner step")] = 100

    family: ClassVar[Family] = "baselines"
    suits: ClassVar[frozenset[Kind]] = frozenset({"classification"})
    train_view: ClassVar[str] = "pretraining"

    def start(self, meta: Params, noise: Data) -> State:
        """No head for this task yet."""
        return ()

    def step(self, meta: Params, state: State, task: Task, data: Data, k: int) -> State:
        """The new head, [W, F]; steps after the first change nothing."""
        if k:
            return state
        features = task.features(meta, data)

        def slope(w: Tensor) -> Tensor:
            gradient: Tensor = grad(lambda w: task.mean(task.losses(_cosines(features, w), data), data))(w)
            return gradient + DECAY * w

        # As long as nn.Linear draws rows, from U(±1 / sqrt(F)), whatever the suite's own head is like.
        head = functional.normalize(_weights(meta, task), dim=-1) / 3**0.5
        velocity = slope(head)
        for _ in range(self.epochs * -(-len(features) // BATCH)):
            head = head - self.inner_lr * velocity
            velocity = MOMENTUM * velocity + (1 - MOMENTUM) * slope(head)
        return head

    def predict(self, meta: Params, state: State, task: Task, data: Data) -> Prediction:
        """Log-probabilities [N, W]; all alike before the support is seen."""
        features = task.features(meta, data)
        return _cosines(features, state) if isinstance(state, Tensor) else undecided(features, task)

    def meta_loss(self, meta: Params, task: Task, episode: Episode) -> Tensor:
        """L(θ), not adapted."""
        prediction = _cosines(task.features(meta, episode.query), _weights(meta, task))
        return task.mean(task.losses(prediction, episode.query), episode.query)


def _cosines(features: Tensor, head: Tensor) -> Tensor:
    scale = 2 if len(head) <= 200 else 10
    return torch.log_softmax(scale * functional.normalize(features, dim=-1) @ head.mT, -1)


def _weights(params: Params, task: Task) -> Tensor:
    return next(params[name] for name in sorted(task.head) if params[name].dim() == 2)
