"""The certificate of what TRPO is made of, on cases with known answers."""

import math
from collections.abc import Iterator
from functools import partial
from typing import cast

import torch
from torch import Tensor
from torch.distributions import Categorical as Logits
from torch.distributions import Normal, kl_divergence

from bench.certificate.checks import DIFFERENCES, EXACT, TASKS, Check, Make, acting_case, checked, gap, task_of
from bench.core import seeds
from bench.core.discovery import Catalogue, Named
from bench.core.trees import tree_flatten, tree_leaves, tree_unflatten
from bench.core.types import Interactive
from bench.learning.objective import prediction
from bench.learning.outer.trpo import TRPO, backtracking, conjugate_gradient, fisher, surrogate
from bench.planning.plan import algorithm_of
from suites.navigation2d import Navigation2D
from suites.parts.policies import Categorical, Gaussian


def trust_region_checks() -> Iterator[Check]:
    """What TRPO is made of, on cases with known answers."""
    yield checked("KL of Gaussians and categoricals = torch.distributions", EXACT, _divergences)
    yield checked("Fisher product, no inner step = (diag p − p pᵀ) v", EXACT, _fisher_of_logits)
    yield checked("Fisher product through adaptation = differences of ∇KL", DIFFERENCES, _fisher_adapted)
    yield checked("Fisher product of a network of ReLU, by its paths = by its layers", EXACT, _fisher_by_paths)
    yield checked("conjugate gradient = the solution of a linear system", 1e-10, _conjugate)
    yield checked("line search: the largest size that improves within the bound", 0, _line_search)
    yield checked("line search: nothing moves where nothing improves", 0, _no_move)


def _divergences() -> float:
    generator = seeds.generator("certify", "kl")
    old, new = torch.randn(2, 7, 4, generator=generator, dtype=torch.float64)
    ours = [Gaussian(1, (), 2).divergence(old, new), Categorical(1, (), 4).divergence(old, new)]
    normals = [Normal(mean, log_std.exp()) for mean, log_std in (x.chunk(2, -1) for x in (old, new))]
    theirs = [kl_divergence(*normals).sum(-1), kl_divergence(Logits(logits=old), Logits(logits=new))]
    return gap(ours, theirs)


def _named(name: str) -> Make:
    return partial(algorithm_of, Catalogue(), Named(name, {}))


def _fisher_of_logits() -> float:
    case = acting_case(_named("finetune"))
    last = "layers.1.bias"  # the observation is always 1, and the logits move as this does
    v = {name: torch.zeros_like(p) for name, p in case.meta.items()}
    v[last] = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    products = fisher(cast(Interactive, case.bed), case.algorithm, case.meta, case.episodes)(list(v.values()))
    p = case.bed.call(case.meta, torch.ones(1, 1, dtype=torch.float64)).softmax(-1)[0]
    expected = p * v[last] - p * (p @ v[last]) + TRPO().damping * v[last]
    return gap([dict(zip(v, products, strict=True))[last]], [expected])


def _fisher_adapted() -> float:
    case = acting_case(_named("maml"))
    suite, predict = cast(Interactive, case.bed), prediction(cast(Interactive, case.bed), case.algorithm)
    with torch.no_grad():  # as if it had acted in float64, so that no KL is smaller than at `meta`
        acted = torch.stack([predict(case.meta, task_of(case.episodes, t)) for t in range(TASKS)])
    recorded = case.episodes._replace(query=case.episodes.query._replace(behaviour=acted))
    leaves, spec = tree_flatten(case.meta)
    generator = seeds.generator("certify", "directions")
    v = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in leaves]

    def slope(size: float) -> list[Tensor]:
        moved = [(x + size * d).requires_grad_() for x, d in zip(leaves, v, strict=True)]
        kl = surrogate(suite, case.algorithm, tree_unflatten(moved, spec), recorded)[1]
        return list(torch.autograd.grad(kl, moved, materialize_grads=True))

    h, damping = 1e-5, TRPO().damping
    differences = [(a - b) / (2 * h) + damping * d for a, b, d in zip(slope(h), slope(-h), v, strict=True)]
    return gap(fisher(suite, case.algorithm, case.meta, recorded)(v), differences)


def _fisher_by_paths() -> float:
    suite = Navigation2D(trajectories=2, hidden=(9, 8))
    case = acting_case(_named("maml"), suite)
    v = [torch.ones_like(x) for x in tree_leaves(case.meta)]
    seen = suite.differentiated()
    layers, paths = (fisher(s, case.algorithm, case.meta, case.episodes)(v) for s in (suite, seen))
    return gap(paths, layers) if seen.policy.by_paths else math.inf


def _conjugate() -> float:
    generator = seeds.generator("certify", "system")
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    matrix = root @ root.T + torch.eye(6, dtype=torch.float64)
    b = torch.randn(6, generator=generator, dtype=torch.float64)
    rule = TRPO(iterations=12, tolerance=1e-24)
    found, _ = conjugate_gradient(lambda v: [matrix @ v[0]], [b], rule)
    return gap(found, [torch.linalg.solve(matrix, b)])


def _line_search() -> float:
    """Loss (x − 1)², divergence x²: of 4, 2, 1, ½, ... the loss admits 1 and what is less, a bound of 0.3 admits ½."""
    rule = TRPO(shrinks=0.5)
    found = [backtracking(lambda x: ((x - 1) ** 2, x**2), 4.0, bound, rule) for bound in (0.3, 100.0)]
    return float(found != [(0.5, 0.25, 4), (1.0, 1.0, 3)])


def _no_move() -> float:
    return backtracking(lambda x: (x, x), 1.0, 1.0, TRPO())[0]
