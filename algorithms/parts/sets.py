"""What reads a support as a set: points and which are there, their mean, predictions with a deviation.

Letters: N points, X inputs, Y targets, F features.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.core.types import Data, Normal, Task


class Points(NamedTuple):
    """Points of one task, of which those count that are there."""

    x: Tensor  # [N, X]
    y: Tensor  # [N, Y]
    there: Tensor  # [N], bool


def points(task: Task, data: Data) -> Points:
    """The data of a regression task."""
    x, y = task.inputs(data).flatten(1), task.targets(data)
    return Points(x, y, there(task, data, x))


def there(task: Task, data: Data, x: Tensor) -> Tensor:
    """Which of the examples x [N, ...] are there, [N]: all where the task has no mask."""
    mask = task.mask(data)
    return torch.ones_like(x[:, 0], dtype=torch.bool) if mask is None else mask


def nothing(x: int, y: int, like: Tensor) -> Points:
    """One point that is not there, of the tensor's type."""
    return Points(like.new_zeros(1, x), like.new_zeros(1, y), like.new_zeros(1, dtype=torch.bool))


def mean(encoded: Tensor, there: Tensor) -> Tensor:
    """The mean of encoded points [N, F] over those that are there, [F]; 0 where none is."""
    return (encoded * there.unsqueeze(-1)).sum(0) / there.sum().clamp(min=1)


def mlp(*widths: int) -> nn.Module:
    """Linear layers from width to width, with ReLU between them."""
    first, *others = (nn.Linear(a, b) for a, b in pairwise(widths))
    return nn.Sequential(first, *(part for layer in others for part in (nn.ReLU(), layer)))


def normal(output: Tensor, least: float) -> Normal:
    """Means and deviations from a network's output [N, 2 Y]; σ = least + (1 − least) softplus."""
    means, raw = output.chunk(2, -1)
    return Normal(means, least + (1 - least) * functional.softplus(raw))


def divergence(q: Normal, p: Normal) -> Tensor:
    """KL(q ‖ p) of independent normals, summed."""
    ratio, far = (q.std / p.std).square(), ((q.mean - p.mean) / p.std).square()
    return (ratio + far - 1 - ratio.log()).sum() / 2
