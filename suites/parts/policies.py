"""Policies: plain modules from observations to the parameters of a distribution over actions, and what it can do.

Apart from nets.py, so that nobody's stored runs of other suites are touched. Randomness is data: a module says what
noise a draw takes, and turns noise into actions. Letters: T tasks, B trajectories, H time-steps, O observation,
A action, D parameters of the distribution.
"""

import math
from collections.abc import Callable
from copy import copy
from itertools import pairwise
from typing import ClassVar, Self, cast

import torch
from torch import Generator, Tensor, nn

from suites.parts.perceptron import PATHS, Weights, perceptron

ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh}


class Policy(nn.Module):
    """A network from observations [..., O] to a distribution's parameters [..., D].

    Called with parameters [T, ...], which rollouts do, it takes observations [T, B, O]. With `body` False it takes what
    comes before the last layer in their place.
    """

    layers: nn.ModuleList
    activation: Callable[[Tensor], Tensor]
    by_paths: bool = False

    def differentiated(self) -> Self:
        """The same policy, computed such that many products with its first two derivatives are cheap."""
        other, layers = copy(self), cast(list[nn.Linear], list(self.layers))
        small = (layers[0].in_features + 1) * layers[-1].out_features <= PATHS
        other.by_paths = len(layers) == 3 and self.activation is torch.relu and small
        return other

    def run(self, x: Tensor, body: bool) -> Tensor:
        """The last layer's output."""
        *hidden, last = cast(list[nn.Linear], list(self.layers))
        if body and self.by_paths and last.weight.dim() == 2:
            return perceptron(x, cast(Weights, tuple(p for layer in (*hidden, last) for p in layer.parameters())))
        for layer in hidden if body else ():
            x = self.activation(layer(x))
        output: Tensor = last(x)
        return output

    def noise(self, horizon: int, tasks: int, trajectories: int, *, generator: Generator) -> Tensor:
        """All that drawing the actions of an episode takes, [H, T, B, ...]."""
        raise NotImplementedError

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Actions, [..., A], or whole numbers [...]."""
        raise NotImplementedError

    def shown(self, actions: Tensor) -> Tensor:
        """Actions as numbers that a network can read, [..., A], float."""
        return actions

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """The log-likelihood of actions, [...], nats."""
        raise NotImplementedError

    def divergence(self, old: Tensor, new: Tensor) -> Tensor:
        """KL(old ‖ new), [...], nats."""
        raise NotImplementedError


class Linear(nn.Linear):
    """x Wᵀ + b, also of weights [T, outputs, inputs] and x [T, B, inputs]: all tasks' policies in one product."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., outputs]."""
        if self.weight.dim() == 2:
            return super().forward(x)
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.mT)


class Gaussian(Policy):
    """Independent normals around a network's output, whose log-deviations depend on nothing but themselves.

    Duan et al. 2016, code: Xavier weights, biases 0, deviations 1 at first and never under 1e-6. D = 2 A.
    """

    least: ClassVar[float] = math.log(1e-6)

    def __init__(self, observations: int, hidden: tuple[int, ...], actions: int, activation: str = "relu") -> None:
        """Layers of the given widths."""
        super().__init__()
        self.layers = _layers(observations, hidden, actions)
        self.log_std = nn.Parameter(torch.zeros(actions))
        self.activation = ACTIVATIONS[activation]

    def forward(self, observation: Tensor, body: bool = True) -> Tensor:
        """Means and log-deviations, [..., 2 A]."""
        mean = self.run(observation, body)
        log_std = self.log_std.clamp(min=self.least)
        if log_std.dim() > 1:  # one for each task
            log_std = log_std.unsqueeze(-2)
        return torch.cat([mean, log_std.expand_as(mean)], -1)

    def noise(self, horizon: int, tasks: int, trajectories: int, *, generator: Generator) -> Tensor:
        """Standard normals, [H, T, B, A]."""
        return torch.randn(horizon, tasks, trajectories, len(self.log_std), generator=generator)

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """μ + σ ε."""
        mean, log_std = parameters.chunk(2, -1)
        return mean + log_std.exp() * noise

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Σ −½ ((a − μ) / σ)² − log σ − ½ log 2π."""
        mean, log_std = parameters.chunk(2, -1)
        return -(((actions - mean) * (-log_std).exp()).square() / 2 + log_std + math.log(2 * math.pi) / 2).sum(-1)

    def divergence(self, old: Tensor, new: Tensor) -> Tensor:
        """Σ log(σ' / σ) + (σ² + (μ − μ')²) / (2 σ'²) − ½."""
        (m, s), (m_, s_) = old.chunk(2, -1), new.chunk(2, -1)
        return (s_ - s + ((2 * s).exp() + (m - m_).square()) / (2 * (2 * s_).exp()) - 0.5).sum(-1)


class Categorical(Policy):
    """One of A actions, by logits. D = A."""

    def __init__(self, observations: int, hidden: tuple[int, ...], actions: int, activation: str = "relu") -> None:
        """Layers of the given widths."""
        super().__init__()
        self.layers = _layers(observations, hidden, actions)
        self.activation = ACTIVATIONS[activation]
        self.actions = actions

    def forward(self, observation: Tensor, body: bool = True) -> Tensor:
        """Logits, [..., A]."""
        return self.run(observation, body)

    def noise(self, horizon: int, tasks: int, trajectories: int, *, generator: Generator) -> Tensor:
        """Standard Gumbel draws, [H, T, B, A]: the largest of logits and noise is a draw from their softmax."""
        return -torch.empty(horizon, tasks, trajectories, self.actions).exponential_(generator=generator).log()

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """The actions' numbers, [...]."""
        return (parameters + noise).argmax(-1)

    def shown(self, actions: Tensor) -> Tensor:
        """One-hot."""
        return (actions.unsqueeze(-1) == torch.arange(self.actions, device=actions.device)).float()

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """The action's log-softmax."""
        return parameters.log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def divergence(self, old: Tensor, new: Tensor) -> Tensor:
        """Σ p (log p − log q)."""
        p, q = old.log_softmax(-1), new.log_softmax(-1)
        return (p.exp() * (p - q)).sum(-1)


def _layers(inputs: int, hidden: tuple[int, ...], outputs: int) -> nn.ModuleList:
    layers = [Linear(a, b) for a, b in pairwise((inputs, *hidden, outputs))]
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.ModuleList(layers)
