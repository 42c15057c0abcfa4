"""Query sets in which classes are not equally frequent.

Proportions ~ Dirichlet(2, ..., 2) with the number of queries fixed: Veilleux, Boudiaf, Piantanida, Ben Ayed 2021
(arXiv:2204.11181), section 3. Letters: T tasks, W ways, S shots, Q queries of a task.
"""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

CONCENTRATION = 2  # of the Dirichlet distribution; a whole number


class Unbalanced(NamedTuple):
    """Tasks as indices: query q of task t is drawing `shown[t, q]` of the class with label `labels[t, q]`."""

    classes: Tensor  # [T, W]
    turns: Tensor  # [T, W], quarter turns
    drawings: Tensor  # [T, W, S], the support
    labels: Tensor  # [T, Q], ascending
    shown: Tensor  # [T, Q]


def frequencies(room: Tensor, total: int, generator: Generator) -> Tensor:
    """[T, W] queries of each class, `total` in a task: the proportions drawn, rounded, and no more than there are.

    Args:
        room: how many there are of each class, [T, W], `total` or more in a task.
        total: queries of a task.
        generator: of the proportions.
    """
    draws = torch.rand(*room.shape, CONCENTRATION, generator=generator, dtype=torch.float64)
    gammas = -(1 - draws).log().sum(-1)  # a sum of exponential draws
    wanted = total * gammas / gammas.sum(-1, keepdim=True)
    counts = torch.zeros_like(room)
    for _ in range(total):  # each to the class that lacks most
        lacking = (wanted - counts).masked_fill(counts >= room, -torch.inf)
        counts.scatter_add_(1, lacking.argmax(1, keepdim=True), torch.ones_like(counts[:, :1]))
    return counts


def unbalanced(
    classes: Tensor, turns: Tensor, order: Tensor, room: Tensor, shots: int, total: int, generator: Generator
) -> Unbalanced:
    """The tasks with as many queries of each class as `frequencies` says.

    Args:
        classes: [T, W].
        turns: [T, W].
        order: [T, W, most]: the numbers of each class's drawings, shuffled, those that there are first.
        room: how many of them are left for queries, [T, W].
        shots: of the support, which comes first in the order.
        total: queries of a task.
        generator: of the proportions.
    """
    ends = frequencies(room, total, generator).cumsum(1)
    place = torch.arange(total).expand(len(ends), -1)
    labels = torch.searchsorted(ends, place.contiguous(), right=True)
    before = torch.cat([torch.zeros_like(ends[:, :1]), ends], 1).gather(1, labels)
    rows = torch.arange(len(ends)).unsqueeze(1)
    return Unbalanced(classes, turns, order[:, :, :shots], labels, order[rows, labels, shots + place - before])
