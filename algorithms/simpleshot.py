"""SimpleShot: nearest centroid on the features of a network that was trained to tell all training classes apart.

Wang, Chao, Weinberger, van der Maaten 2019 (arXiv:1911.04623), section 3, and their code: features are centred by the
mean over training images and cut to length 1 (CL2N), then averaged by class. Pretraining is that of `finetune` (Adam;
theirs is SGD with a falling rate), so that the two differ in how they adapt alone. They average over all images when
training is over; here the mean is learned beside the network, as what minimises its squared distance to the mean of
every batch. They name classes alone; the probabilities are a softmax of −distance².
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional

from algorithms.parts.classes import belongs, means, nearest, undecided
from bench.core.types import Data, Episode, Family, Kind, Learner, Params, Prediction, Search, State, Task

CENTRE = "simpleshot.centre"  # beside the network's parameters, which the suite gives a fresh head


@dataclass(frozen=True, kw_only=True)
class SimpleShot(Learner):
    """The nearest mean of z = (f − m) / ‖f − m‖ by class; θ ← θ − β ∇L(θ), m ← m − β ∇ ½ ‖m − mean of f‖²."""

    steps: ClassVar[int] = 0  # type: ignore[misc]  # pretraining takes no inner step
    transform: Annotated[
        Literal["CL2N", "L2N", "UN"], Field(description="centred and of length 1, of length 1, as they are"), Search()
    ] = "CL2N"

    family: ClassVar[Family] = "baselines"
    suits: ClassVar[frozenset[Kind]] = frozenset({"classification"})
    train_view: ClassVar[str] = "pretraining"

    @property
    def second_order(self) -> bool:
        """No: the mean follows the features, and they do not feel it."""
        return False

    def init(self, task: Task, generator: Generator) -> Params:
        """The suite's network, and the mean of its features over some images."""
        params = task.new_params(generator)
        return {**params, CENTRE: task.features(params, task.example("query")).mean(0)}

    def start(self, meta: Params, noise: Data) -> State:
        """No centroids yet."""
        return ()

    def step(self, meta: Params, state: State, task: Task, data: Data, k: int) -> State:
        """The centroids, [W, F]."""
        return means(self.transformed(meta, _features(meta, task, data)), belongs(task, data))

    def predict(self, meta: Params, state: State, task: Task, data: Data) -> Prediction:
        """Log-probabilities [N, W]; all alike before the support is seen."""
        features = self.transformed(meta, _features(meta, task, data))
        return nearest(features, state) if isinstance(state, Tensor) else undecided(features, task)

    def transformed(self, meta: Params, features: Tensor) -> Tensor:
        """Features [N, F] as they are compared."""
        centred = features - meta[CENTRE] if self.transform == "CL2N" else features
        return features if self.transform == "UN" else functional.normalize(centred, dim=-1)

    def meta_loss(self, meta: Params, task: Task, episode: Episode) -> Tensor:
        """L(θ), not adapted, + ½ ‖m − stop(mean of f)‖²."""
        query, features = episode.query, _features(meta, task, episode.query)
        away = (meta[CENTRE] - features.detach()).square().sum(-1) / 2
        return task.mean(task.losses(task.answer(meta, features), query) + away - away.detach(), query)


def _features(meta: Params, task: Task, data: Data) -> Tensor:
    return task.features({name: value for name, value in meta.items() if name != CENTRE}, data)
