"""A suite as a learner sees it: the one implementation of `Task`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from torch import Generator, Tensor

from bench.core.call import Keyed, calling
from bench.core.errors import PluginError
from bench.core.metric import GAP, NLL
from bench.core.types import Acted, Data, Interactive, Kind, Normal, Params, Prediction, Role, Suite


@dataclass(frozen=True)
class SuiteTask:
    """What a suite's tasks are to a learner."""

    suite: Suite
    running: Params = field(default_factory=dict)  # statistics that normalise in place of a batch's

    @classmethod
    def tested(cls, suite: Suite, running: Params) -> "SuiteTask":
        """What its tasks are at test: normalised by running statistics where the query must not be seen."""
        return cls(suite, running if suite.norm == "inductive" else {})

    def __post_init__(self) -> None:
        """Finds out now what takes random draws, which vmap forbids: the module and what it looks like."""
        tried = ("_tried",) if type(self.suite).answer is Suite.answer else ()
        for found in ("skeleton", "kind", "head", "outputs", "answers", "draws", *tried):
            getattr(self.suite, found)

    @property
    def kind(self) -> Kind:
        """What is predicted."""
        return self.suite.kind

    @property
    def outputs(self) -> int:
        """The prediction's last axis."""
        return self.suite.outputs

    @property
    def head(self) -> frozenset[str]:
        """The names of the parameters of the last layer."""
        return self.suite.head

    def new_params(self, generator: Generator) -> Params:
        """As the suite draws them."""
        return self.suite.new_params(generator)

    def example(self, role: Role) -> Data:
        """Data of a training task."""
        return self.suite.example(role)

    def inputs(self, data: Data) -> Tensor:
        """As the suite has them."""
        return self.suite.inputs(_plain(data)[0])

    def targets(self, data: Data) -> Tensor:
        """As the suite has them."""
        return self.suite.targets(_plain(data)[0])

    def mask(self, data: Data) -> Tensor | None:
        """As the suite has it."""
        return self.suite.mask(_plain(data)[0])

    def predict(self, params: Params, data: Data) -> Prediction:
        """As the suite does, with what is dropped drawn from the data's key; nothing is where there is none."""
        data, key = _plain(data)
        if key is None and not self.running:
            return self.suite.predict(params, data)
        with calling(key, self.running):
            return self.suite.predict(params, data)

    def features(self, params: Params, data: Data) -> Tensor:
        """As the suite's network computes them."""
        data, key = _plain(data)
        with calling(key, self.running):
            return self.suite.features(params, data)

    def answer(self, params: Params, features: Tensor) -> Tensor:
        """As the suite's network's end does."""
        return self.suite.answer(params, features)

    def losses(self, prediction: Prediction, data: Data) -> Tensor:
        """As the suite does; minus the log-density of a distribution's targets.

        Raises:
            PluginError: the prediction is not one of the suite's shape.
        """
        self._check(prediction, data)
        if isinstance(prediction, Normal):
            return -prediction.log_density(self.targets(data))
        return self.suite.losses(prediction, _plain(data)[0])

    def mean(self, losses: Tensor, data: Data) -> Tensor:
        """Over what is not masked."""
        return self.suite.mean(losses, _plain(data)[0])

    def loss(self, params: Params, data: Data) -> Tensor:
        """mean(losses(predict(params, data)))."""
        return self.mean(self.losses(self.predict(params, data), data), data)

    def average(self, predictions: Prediction) -> Prediction:
        """As the suite does; of numbers the mean and the deviation of the members' mixture, if there are several."""
        if isinstance(predictions, Normal):
            mean = predictions.mean.mean(0)
            variance = (predictions.std.square() + (predictions.mean - mean).square()).mean(0)
            return Normal(mean, variance.sqrt())
        mean = self.suite.average(predictions)
        if self.kind != "regression" or len(predictions) < 2:
            return mean
        return Normal(mean, (predictions - mean).square().mean(0).sqrt())

    def adaptable(self, name: str) -> bool:
        """As the suite declares, but for what nothing learns."""
        return name not in self.suite.fixed and self.suite.adaptable(name)

    def acted(self, data: Data) -> Acted:
        """As the suite recorded it."""
        return cast(Interactive, self.suite).acted(data)

    def log_prob(self, prediction: Tensor, data: Data) -> Tensor:
        """As the suite has it."""
        return cast(Interactive, self.suite).log_prob(prediction, data)

    def divergence(self, prediction: Tensor, data: Data) -> Tensor:
        """As the suite has it."""
        return cast(Interactive, self.suite).divergence(prediction, data)

    def score(self, prediction: Prediction, data: Data) -> dict[str, Tensor]:
        """One scalar per metric; of a distribution the mean's, `nll`, minus the targets' mean log-density, and `gap`.

        The gap is nll minus that of Bayes' predictor, where the suite knows it.
        """
        self._check(prediction, data)
        data, _ = _plain(data)
        if not isinstance(prediction, Normal):
            return self.suite.score(prediction, data)
        nll, bayes = self.mean(self.losses(prediction, data), data), self.suite.bayes(data)
        gap = {} if bayes is None else {GAP.name: nll - self.mean(bayes, data)}
        return {**self.suite.score(prediction.mean, data), NLL.name: nll, **gap}

    def _check(self, prediction: Prediction, data: Data) -> None:
        """Refuses what torch would take for a prediction by broadcasting it, which scores something else."""
        if self.kind == "control":
            return
        if isinstance(prediction, Normal) and self.kind == "classification":
            raise PluginError(
                f"a Normal is a prediction of numbers, and tasks of {type(self.suite).__name__} are of classes: give "
                "log-probabilities, or declare suits = frozenset({'regression'})."
            )
        if isinstance(prediction, Normal):
            found, wanted = tuple(prediction.mean.shape), tuple(self.targets(data).shape)
            if tuple(prediction.std.shape) != found:
                raise PluginError(
                    f"a Normal has a mean of the shape {list(found)} and a std of {list(prediction.std.shape)}: give "
                    "std.expand_as(mean)."
                )
        elif isinstance(prediction, Tensor):
            found, wanted = tuple(prediction.shape[1:]), self.suite.answers
        else:
            given = f"{type(prediction).__name__} of {type(prediction).__module__}"
            raise PluginError(f"a prediction is a tensor or a Normal(mean, std) of bench.core.types, not a {given}.")
        if found != wanted:
            raise PluginError(
                f"a prediction has the shape {_shape(found, prediction)}, where {type(self.suite).__name__} wants "
                f"{_shape(wanted, prediction)}, N examples: torch would broadcast it against the targets."
            )


def _shape(sizes: Sequence[int], prediction: Prediction) -> str:
    return str(list(sizes)) if isinstance(prediction, Normal) else f"[{', '.join(['N', *map(str, sizes)])}]"


def _plain(data: Data) -> tuple[Data, Tensor | None]:
    return (data.data, data.key) if isinstance(data, Keyed) else (data, None)
