"""What classifiers that compare examples share: who is of which class, and what is said before any was seen.

Letters: N examples, W classes, F features.
"""

import torch
from torch import Tensor
from torch.nn import functional

from bench.core.types import Data, Task


def belongs(task: Task, data: Data) -> Tensor:
    """Whether an example is there and of the class, a bool [N, W]."""
    one_hot = functional.one_hot(task.targets(data), task.outputs).bool()
    mask = task.mask(data)
    return one_hot if mask is None else one_hot & mask.bool().unsqueeze(-1)


def means(features: Tensor, of: Tensor) -> Tensor:
    """The mean features of each class, [W, F], of features [N, F] and `belongs`.

    A class without an example, as in a stream that has not shown it yet, is taken to be like the average of the others.
    """
    weights = of.to(features.dtype)
    counts = weights.sum(0).unsqueeze(-1)
    own = weights.mT @ features / counts.clamp(min=1)
    return torch.where(counts > 0, own, own.sum(0) / (counts > 0).sum().clamp(min=1))


def nearest(features: Tensor, prototypes: Tensor) -> Tensor:
    """Log-probabilities [N, W], a softmax of −‖f − p_c‖², of features [N, F] and prototypes [W, F]."""
    return torch.log_softmax(-(features.unsqueeze(-2) - prototypes).square().sum(-1), -1)


def undecided(features: Tensor, task: Task) -> Tensor:
    """The same log-probability for each class, [N, W]."""
    return torch.log_softmax(features.new_zeros(len(features), task.outputs), -1)
