"""What is known of a network's weights from data: Bayesian MAML's model (Yoon et al. 2018, code of the sinusoids).

Numbers: y ~ N(f_w(x), 1/γ), w ~ N(0, 1/λ), γ ~ Gamma(2, 0.2), λ ~ Gamma(2, 2), where γ starts at 100 and λ at 1. A
particle is w by name, with ln γ and ln λ, [1]. Classes: it is w alone, without a prior, and the likelihood counts to
the power of γ's first value, so that steps of one rate suit both.
"""

import math
from typing import cast

import torch
from torch import Generator, Tensor

from bench.core.types import Data, Normal, Params, Prediction, Task

PRIORS = {"log_gamma": (2.0, 0.2, 100.0), "log_lambda": (2.0, 2.0, 1.0)}


def precisions(count: int, generator: Generator) -> Params:
    """First ln γ and ln λ, [M, 1], of so many particles."""
    return {
        name: math.log(first) + 0.001 * torch.randn(count, 1, generator=generator)
        for name, (_, _, first) in PRIORS.items()
    }


def predicted(particle: Params, task: Task, data: Data) -> Prediction:
    """N(f_w(x), 1/γ), or the log-probabilities of classes."""
    values = cast(Tensor, task.predict({name: p for name, p in particle.items() if name not in PRIORS}, data))
    if "log_gamma" not in particle:
        return values
    return Normal(values, torch.exp(-particle["log_gamma"] / 2).expand_as(values))


def log_posterior(moving: Params, fixed: Params, task: Task, data: tuple[Data, ...]) -> Tensor:
    """Ln p(w, ln γ, ln λ | data) but for a constant, summed over the examples that are there; a scalar.

    Args:
        moving: what of a particle adapts.
        fixed: the rest, which has no prior.
        task: whose data they are.
        data: all that was seen.
    """
    losses = [task.losses(predicted({**fixed, **moving}, task, part), part) for part in data]
    masks = [task.mask(part) for part in data]
    power = 1.0 if task.kind == "regression" else PRIORS["log_gamma"][2]
    terms = [-power * (some if mask is None else some * mask).sum() for some, mask in zip(losses, masks, strict=True)]
    # Densities of the logarithms, hence a and not a − 1.
    terms += [(a * moving[name] - b * moving[name].exp()).sum() for name, (a, b, _) in PRIORS.items() if name in moving]
    if "log_lambda" in moving:
        weights = torch.cat([p.flatten() for name, p in moving.items() if name not in PRIORS])
        precision = moving["log_lambda"]
        terms.append((len(weights) * precision - precision.exp() * weights.square().sum()).sum() / 2)
    return torch.stack(terms).sum()
