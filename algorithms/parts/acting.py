"""What learners share that follow a clipped policy gradient. Letters: B episodes, H time-steps, D parameters."""

from typing import cast

import torch
from torch import Tensor

from bench.core.types import Acted, Data, Prediction, Task


def ratio(task: Task, prediction: Prediction, data: Data) -> Tensor:
    """π / π_old of the recorded actions, [B, H], where π_old is what they were drawn from."""
    old = task.log_prob(task.acted(data).behaviour, data)
    return (task.log_prob(cast(Tensor, prediction), data) - old).exp()


def clipped(ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """min(r A, clip(r, 1 − ε, 1 + ε) A) (Schulman et al. 2017, arXiv:1707.06347, equation 7)."""
    return (ratio * advantages).minimum(ratio.clamp(1 - clip, 1 + clip) * advantages)


def of_trials(episodes: list[Acted], discount: float) -> list[Tensor]:
    """Advantages [B, H] of each of the episodes that follow each other in B trials.

    What is still to come in the trial, over the episode's end, minus the mean of that over the trials at that
    time-step; with deviation 1 over all steps taken. Time does not pass where none was taken.
    """
    rewards, mask = torch.cat([e.rewards for e in episodes], 1), torch.cat([e.mask for e in episodes], 1)
    coming, sums = torch.zeros_like(rewards[:, 0]), []
    for reward, taken in zip(reversed(rewards.unbind(1)), reversed(mask.unbind(1)), strict=True):
        coming = torch.where(taken, reward + discount * coming, coming)
        sums.append(coming)
    returns = torch.stack(sums[::-1], 1)
    centred = (returns - (returns * mask).sum(0) / mask.sum(0).clamp(min=1)) * mask
    scaled = centred / ((centred.square().sum() / mask.sum()).sqrt() + 1e-8)
    return list(scaled.split([e.mask.shape[1] for e in episodes], 1))
