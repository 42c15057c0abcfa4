"""A meta-iteration as tristandeleu/pytorch-maml-rl takes it (commit 21d4ba1, 2020), written anew in one process.

Its workers die on today's Python and `torch.lstsq` is gone, so that it can't be run. What is kept of it: an object for
every environment, stepped one after the other; one policy call for the episodes of a task at each time-step; tasks one
after the other; distributions of torch; a double backward through one retained graph for each Fisher product, on all
of the query. Letters: H time-steps, B episodes of a task.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from bench.learning.outer.trpo import TRPO
from suites.navigation2d import HORIZON
from tests.benchmarks.one_by_one import Point

GAMMA, RATE, EPISODES, MAX_KL = 0.99, 0.5, 20, 0.01
RULE = TRPO()
Weights = list[Tensor]


class Batch(NamedTuple):
    observations: Tensor  # [H, B, 2]
    actions: Tensor  # [H, B, 2]
    advantages: Tensor  # [H, B]
    mask: Tensor  # [H, B]


def policy(weights: Weights, x: Tensor) -> Any:
    *layers, sigma = weights
    *hidden, mean = zip(layers[::2], layers[1::2], strict=True)
    for weight, bias in hidden:
        x = functional.relu(functional.linear(x, weight, bias))
    return Independent(Normal(functional.linear(x, *mean), sigma.clamp(min=np.log(1e-6)).exp()), 1)


def sampled(weights: Weights, goal: Any) -> Batch:
    points = [Point(goal) for _ in range(EPISODES)]
    seen = np.stack([point.reset() for point in points])
    shape = HORIZON, EPISODES
    observations, actions = (np.zeros((*shape, 2), np.float32) for _ in range(2))
    rewards, mask = (np.zeros(shape, np.float32) for _ in range(2))
    alive = list(range(EPISODES))
    with torch.no_grad():
        for t in range(HORIZON):
            drawn = policy(weights, torch.from_numpy(seen[alive])).sample().numpy()
            over = set()
            for i, action in zip(alive, drawn, strict=True):
                observations[t, i], actions[t, i], mask[t, i] = seen[i], action, 1
                seen[i], rewards[t, i], done = points[i].step(action)
                over |= {i} if done else set()
            alive = [i for i in alive if i not in over]
            if not alive:
                break
    o, m, r = (torch.from_numpy(x) for x in (observations, mask, rewards))
    time = (torch.arange(HORIZON) / 100).view(-1, 1, 1).expand(*shape, 1)
    features = torch.cat([o, o**2, time, time**2, time**3, torch.ones(*shape, 1)], 2) * m.unsqueeze(2)
    x, y = features.flatten(0, 1), summed(r, GAMMA).flatten()
    values = features @ torch.linalg.lstsq(x.T @ x + 1e-5 * torch.eye(x.shape[1]), x.T @ y.unsqueeze(1)).solution
    values = functional.pad(values.squeeze(2), (0, 0, 0, 1))
    advantages = summed((r + GAMMA * values[1:] - values[:-1]) * m, GAMMA)
    advantages = (advantages - mean(advantages, m)) * m
    return Batch(o, torch.from_numpy(actions), advantages / (mean(advantages**2, m).sqrt() + 1e-8), m)


def summed(x: Tensor, discount: float) -> Tensor:
    found, so_far = torch.zeros_like(x), torch.zeros(x.shape[1])
    for t in reversed(range(len(x))):
        so_far = x[t] + discount * so_far
        found[t] = so_far
    return found


def mean(x: Tensor, mask: Tensor) -> Tensor:
    return ((x * mask).sum(0) / mask.sum(0)).mean()


def adapted(weights: Weights, batch: Batch, first_order: bool) -> Weights:
    loss = -mean(policy(weights, batch.observations).log_prob(batch.actions) * batch.advantages, batch.mask)
    slopes = torch.autograd.grad(loss, weights, create_graph=not first_order)
    return [w - RATE * g for w, g in zip(weights, slopes, strict=True)]


def judged(weights: Weights, support: Batch, query: Batch, old: Any = None) -> tuple[Tensor, Tensor, Any]:
    after = adapted(weights, support, old is not None)
    with torch.set_grad_enabled(old is None):
        now = policy(after, query.observations)
        if old is None:
            old = Independent(Normal(now.base_dist.loc.detach(), now.base_dist.scale.detach()), 1)
        ratio = (now.log_prob(query.actions) - old.log_prob(query.actions)).exp()
        loss = -mean(ratio * query.advantages, query.mask)
        return loss, mean(kl_divergence(now, old), query.mask), old


def meta_iteration(weights: Weights, goals: Any) -> int:
    """Episodes before and after an inner step of every task, and TRPO's step; how many sizes were tried."""
    pairs = []
    for goal in goals:
        support = sampled(weights, goal)
        pairs.append((support, sampled(adapted(weights, support, True), goal)))
    losses, kls, old = zip(*(judged(weights, *pair) for pair in pairs), strict=True)
    loss, kl = torch.stack(losses).mean(), torch.stack(kls).mean()
    gradient = parameters_to_vector(torch.autograd.grad(loss, weights, retain_graph=True))
    slope = torch.cat([g.flatten() for g in torch.autograd.grad(kl, weights, create_graph=True)])

    def product(v: Tensor) -> Tensor:
        found = torch.autograd.grad(slope @ v, weights, retain_graph=True)
        return torch.cat([g.flatten() for g in found]) + RULE.damping * v

    x, residual, direction = torch.zeros_like(gradient), gradient.clone(), gradient.clone()
    for _ in range(RULE.iterations):
        image, square = product(direction), residual @ residual
        size = square / (direction @ image)
        x, residual = x + size * direction, residual - size * image
        direction = residual + residual @ residual / square * direction
        if residual @ residual < RULE.tolerance:
            break
    step = x * (2 * MAX_KL / (x @ product(x))).sqrt()
    here = parameters_to_vector(weights).detach()
    for tried in range(RULE.backtracks):
        vector_to_parameters(here - RULE.shrinks**tried * step, weights)
        found = [judged(weights, *pair, pi)[:2] for pair, pi in zip(pairs, old, strict=True)]
        after, strayed = (torch.stack(values).mean() for values in zip(*found, strict=True))
        if after < loss and strayed < MAX_KL:
            return tried + 1
    vector_to_parameters(here, weights)
    return RULE.backtracks
