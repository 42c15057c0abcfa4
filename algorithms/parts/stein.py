"""Stein's variational gradient (Liu, Wang 2016, arXiv:1608.04471) as Bayesian MAML's code takes it; M particles."""

import math

import torch
from torch import Tensor

from bench.core.types import Params


def stein(particles: Params, slopes: Params) -> Params:
    """1/M Σ_j κ_mj [g_j + (Θ_m − Θ_j)/h], leaves [M, ...]: where each particle goes, and away from the others.

    κ_mj = exp(−‖Θ_m − Θ_j‖²/h) with h = median ‖Θ_i − Θ_j‖² / ln M, a constant to whatever differentiates this. The
    slope of κ is twice what is taken for it here, as in that code.

    Args:
        particles: Θ, leaves [M, ...].
        slopes: g, the slopes of the logarithm of the density there.
    """
    count = len(next(iter(particles.values())))
    gaps = [(p.unsqueeze(1) - p).reshape(count, count, -1) for p in particles.values()]
    kernel, width = _kernel(torch.stack([gap.square().sum(-1) for gap in gaps]).sum(0))
    pull = kernel / width
    # Times Θ it is Σ_j κ_mj (Θ_m − Θ_j)/h, and times Θ less its mean the same without the cancellation.
    away = torch.diag(pull.sum(1)) - pull
    return {
        name: (torch.tensordot(kernel, slopes[name], 1) + torch.tensordot(away, p - p.mean(0), 1)) / count
        for name, p in particles.items()
    }


def _kernel(squares: Tensor) -> tuple[Tensor, Tensor]:
    """κ, [M, M], and h; of squared distances, with each particle's from itself, as that code has them."""
    count = len(squares)
    ordered = squares.detach().flatten().sort().values
    median = (ordered[(count**2 - 1) // 2] + ordered[count**2 // 2]) / 2
    # Of one particle alone, or of equal ones, nothing depends on it.
    width = torch.where(median > 0, median, 1) / math.log(max(count, 2))
    return torch.exp(-squares / width), width
