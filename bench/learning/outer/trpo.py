"""TRPO: as far along the natural gradient as the adapted policies may move.

Schulman et al. 2015 (arXiv:1502.05477), appendix C, with the meta-loss for its surrogate and the mean KL of the
post-update policies for its bound, as Finn et al. 2017 (arXiv:1703.03400), section 5.3. Letters: T tasks.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor
from torch.func import grad, jvp

from bench.core.outer import Outer
from bench.core.trees import tree_flatten, tree_leaves, tree_unflatten
from bench.core.types import Episode, Interactive, Learner, Meta, Suite
from bench.learning.engines.vectorised import over_tasks
from bench.learning.objective import objective, prediction
from bench.learning.outer.descent import Again, Memory

Vector = list[Tensor]  # of meta's leaves


class TRPO(NamedTuple):
    """The constants of Finn et al. 2017, code."""

    iterations: int = 10  # of conjugate gradient
    damping: float = 1e-5
    backtracks: int = 15
    shrinks: float = 0.8
    tolerance: float = 1e-10  # of the residual's square


def outer_of(suite: Suite, algorithm: Learner, iterations: int) -> Outer | TRPO:
    """How Meta moves in a run of so many meta-iterations: by the suite's own rule, else as the learner declares.

    A learner whose rule is part of the method (`own_outer`) goes before the suite; where the learner's rate would stay
    what it is, it falls as the suite's protocol says.
    """
    if isinstance(suite, Interactive) and suite.outer == "trpo" and not algorithm.own_outer:
        return TRPO()
    outer = algorithm.outer
    if suite.decay is not None and outer.schedule == "constant":
        outer = replace(outer, schedule="exponential", least=suite.decay)
    return outer.over(iterations)


class Move(NamedTuple):
    """What became of a step."""

    meta: Meta  # the very same where no step was taken
    kl: float  # nats; 0 where no step was taken
    tries: int  # how often the surrogate was evaluated; all of them and one where none was good


class Parts(Protocol):
    """What a step computes of recorded episodes, by either engine."""

    def fisher(self, meta: Meta, episode: Episode) -> Callable[[Vector], Vector]:
        """As the function of this name."""
        ...

    def surrogate(self, meta: Meta, episode: Episode) -> tuple[Tensor, Tensor]:
        """As the function of this name."""
        ...


class EagerParts:
    """The functions as they stand here."""

    def __init__(self, suite: Interactive, algorithm: Learner) -> None:
        """Of a suite and a learner."""
        self.fisher = partial(fisher, suite, algorithm)
        self.surrogate = partial(surrogate, suite, algorithm)


def trpo(
    suite: Interactive, algorithm: Learner, meta: Meta, gradient: Meta, episode: Episode, parts: Parts | None = None
) -> Move:
    """The meta-learned tensors after one step: θ − η F⁻¹ g, the largest tried that improves within the bound.

    F is the Fisher matrix of the adapted policies' distributions as a function of `meta`, which is the Hessian of their
    mean KL at no distance: one jvp and one vjp per product, no third derivative. It is taken on an excerpt of every
    task's query, as appendix C does: leaving out tasks instead would leave out directions. Loss and KL are of all.
    """
    rule, parts = TRPO(), parts or EagerParts(suite, algorithm)
    leaves, spec = tree_flatten(meta)
    here = [leaf.detach() for leaf in leaves]
    direction, *_ = tree_flatten(gradient)
    if not all(g.isfinite().all() for g in direction) or not any(g.any() for g in direction):
        return Move(meta, 0.0, 0)
    product = parts.fisher(meta, episode._replace(query=suite.excerpt(episode.query)))
    natural, residual = conjugate_gradient(product, direction, rule)
    curvature = dot(natural, direction) - dot(natural, residual)
    if not curvature > 0:
        return Move(meta, 0.0, 0)
    longest = (2 * suite.kl / curvature) ** 0.5

    def judged(size: float) -> tuple[float, float]:
        tried = tree_unflatten([x - size * d for x, d in zip(here, natural, strict=True)], spec)
        with torch.no_grad():
            loss, kl = parts.surrogate(tried, episode)
        return loss.item(), kl.item()

    size, kl, tries = backtracking(judged, longest, suite.kl, rule)
    moved = [x - size * d for x, d in zip(here, natural, strict=True)]
    return Move(tree_unflatten(moved, spec) if size else meta, kl, tries)


class TrustRegion:
    """TRPO as an outer rule; it remembers nothing."""

    def __init__(self, suite: Interactive, algorithm: Learner, meta: Meta, parts: Parts | None = None) -> None:
        """Moves `meta` in place; eagerly, where no parts are given."""
        self.suite, self.algorithm, self.meta, self.parts = suite, algorithm, meta, parts
        self.memory: Memory = []

    def update(self, gradient: Meta, batch: Episode, iteration: int, again: Again) -> dict[str, float]:
        """One step; its KL, how many sizes were tried, and whether none was good."""
        move = trpo(self.suite, self.algorithm, self.meta, gradient, batch, self.parts)
        for leaf, new in zip(tree_leaves(self.meta), tree_leaves(move.meta), strict=True):
            leaf.copy_(new)
        return {"kl": move.kl, "tries": float(move.tries), "rejected": float(move.meta is self.meta)}


def surrogate(
    suite: Interactive, algorithm: Learner, meta: Meta, episode: Episode, *, by_task: bool = False
) -> tuple[Tensor, Tensor]:
    """Mean meta-loss and mean divergence of the adapted learners on recorded episodes [T, ...]."""
    loss, predict = objective(suite, algorithm), prediction(suite, algorithm)

    def one(recorded: Episode) -> tuple[Tensor, Tensor]:
        return loss(meta, recorded), suite.divergence(predict(meta, recorded), recorded.query)

    losses, kls = over_tasks(one, by_task=by_task)(episode)
    return losses.mean(), kls.mean()


def fisher(
    suite: Interactive, algorithm: Learner, meta: Meta, episode: Episode, *, by_task: bool = False
) -> Callable[[Vector], Vector]:
    """The product (F + damping) v, F = Jᵀ H J: J of the predictions, H the Hessian of the divergence in them.

    J v is taken as the derivative of Jᵀ u in u, so that one graph serves all products and no inner step is run anew.
    """
    leaves, spec = tree_flatten(meta)
    predict = prediction(suite, algorithm)

    def predictions(*values: Tensor) -> Tensor:
        one = partial(predict, tree_unflatten(list(values), spec))
        return cast(Tensor, over_tasks(one, by_task=by_task)(episode))

    def distance(parameters: Tensor) -> Tensor:
        return cast(Tensor, over_tasks(suite.divergence, by_task=by_task)(parameters, episode.query).mean())

    live = [leaf.detach().requires_grad_() for leaf in leaves]
    with torch.enable_grad():
        now = predictions(*live)
        u = torch.zeros_like(now, requires_grad=True)
        pulled = torch.autograd.grad(now, live, u, create_graph=True, materialize_grads=True)
    depends = [i for i, p in enumerate(pulled) if p.requires_grad]

    def product(v: Vector) -> Vector:
        some = [v[i] for i in depends]
        (moved,) = torch.autograd.grad([pulled[i] for i in depends], [u], some, retain_graph=True)
        curved = jvp(grad(distance), (now.detach(),), (moved.detach(),))[1].detach()
        back = torch.autograd.grad(now, live, curved, retain_graph=True, materialize_grads=True)
        return [b + TRPO().damping * x for b, x in zip(back, v, strict=True)]

    return product


def conjugate_gradient(product: Callable[[Vector], Vector], b: Vector, rule: TRPO) -> tuple[Vector, Vector]:
    """The x with product(x) ≈ b, for a symmetric positive product, and the residual b − product(x)."""
    x, residual, direction = [torch.zeros_like(g) for g in b], list(b), list(b)
    square = dot(residual, residual)
    for _ in range(rule.iterations):
        if square < rule.tolerance:
            break
        image = product(direction)
        size = square / dot(direction, image)
        x = [a + size * d for a, d in zip(x, direction, strict=True)]
        residual = [r - size * i for r, i in zip(residual, image, strict=True)]
        before, square = square, dot(residual, residual)
        direction = [r + square / before * d for r, d in zip(residual, direction, strict=True)]
    return x, residual


def backtracking(
    judged: Callable[[float], tuple[float, float]], longest: float, bound: float, rule: TRPO
) -> tuple[float, float, int]:
    """The largest of longest · shrinks^i with a lower loss than at 0 and a divergence within the bound; 0 if none has.

    Args:
        judged: step size -> loss, divergence.
        longest: the first size that is tried.
        bound: of the divergence.
        rule: how often and how fast to shrink.

    Returns:
        Size, its divergence, how many sizes were tried.
    """
    before, _ = judged(0.0)
    for tried in range(rule.backtracks):
        size = longest * rule.shrinks**tried
        loss, kl = judged(size)
        if loss < before and kl <= bound:
            return size, kl, tried + 1
    return 0.0, 0.0, rule.backtracks + 1


def dot(a: Vector, b: Vector) -> float:
    """⟨a, b⟩ over all tensors."""
    return sum((x.double() * y.double()).sum().item() for x, y in zip(a, b, strict=True))
