"""What suites of classes share: log-probabilities judged by the class that is right. Letters: N examples, W ways."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from bench.core.types import Kind, Metric, Supervised


class Classification(Supervised):
    """Classification of examples, whose labels [N] are the data's part `labels`."""

    kind: ClassVar[Kind] = "classification"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", "%", "higher", low=0, high=100),
        Metric("loss", "nats", "lower", low=0),
        Metric("ece", "%", "lower", low=0, high=100),
    )

    def losses(self, prediction: Tensor, data: Any) -> Tensor:
        """Cross-entropy per example, [N]."""
        return cross_entropy(prediction, data.labels)

    def score(self, prediction: Tensor, data: Any) -> dict[str, Tensor]:
        """Accuracy in percent, the mean cross-entropy, and the expected calibration error in percent."""
        confidence, answer = prediction.exp().max(-1)
        right = (answer == data.labels).to(prediction.dtype)
        return {
            "accuracy": 100 * right.mean(),
            "loss": cross_entropy(prediction, data.labels).mean(),
            "ece": 100 * calibration_error(confidence, right),
        }

    def average(self, predictions: Tensor) -> Tensor:
        """The logarithm of the members' mean probability."""
        return torch.logsumexp(predictions, 0) - torch.log(torch.tensor(float(len(predictions))))


def cross_entropy(prediction: Tensor, labels: Tensor) -> Tensor:
    """Minus the log-probability [N, W] of the label, [N]."""
    return -prediction.gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def calibration_error(confidence: Tensor, right: Tensor, bins: int = 15) -> Tensor:
    """Σ_b |Σ_{i in b} (right_i − confidence_i)| / N over equal bins of confidence [N], a share.

    Guo, Pleiss, Sun, Weinberger 2017 (arXiv:1706.04599), equation 3. Of few images it is more than the model's own.
    """
    place = (confidence * bins).long().clamp(0, bins - 1)
    inside = functional.one_hot(place, bins).to(confidence.dtype)  # [N, bins]
    return (inside * (right - confidence).unsqueeze(-1)).sum(0).abs().sum() / len(confidence)
