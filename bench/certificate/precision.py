"""Is what the compiler makes of a suite's network as exact in float32 as float32 allows?

The error of a meta-gradient is taken from float64's, relative to its norm, at perturbed parameters, where nothing is
small by construction. A unit that lies within rounding of its kink may fall on the other side of it in any float32
computation, eager ones too, and then changes the gradient by itself: hence the median of several draws.
"""

import statistics
from functools import partial

import torch
from torch import Generator, Tensor

from algorithms.maml import MAML
from bench.certificate.checks import Check, NotApplicable, checked, gap
from bench.core import seeds
from bench.core.discovery import build
from bench.core.task import SuiteTask
from bench.core.trees import double, tree_leaves, tree_map
from bench.core.types import Learner, Meta, Suite
from bench.learning.batches import episodes
from bench.learning.engines.vectorised import meta_gradient
from bench.planning import networks
from bench.planning.engines import compiler

DRAWS = 9  # of parameters, each with tasks of its own
PERTURBED = 0.1  # standard deviation
CLOSE = 1e-5  # relative, float32: through second derivatives


def network_check(suite: Suite) -> Check:
    """Whether it is, of MAML; it takes seconds."""
    return checked(
        "its network, compiled in float32, parameters perturbed: off float64", CLOSE, lambda: network_off_double(suite)
    )


def network_off_double(suite: Suite) -> float:
    """The compiled float32 meta-gradient of MAML with one step on a suite's own network: see `off_double`."""
    if suite.kind == "control":
        raise NotApplicable("what is collected decides what is computed")
    protocol = {key: setting.value for key, setting in suite.protocol.items()}
    algorithm: MAML = build(MAML, "maml", {"steps": 1, "meta_batch": 4}, protocol)
    if why := networks.why_by_task(suite, algorithm):
        raise NotApplicable(f"one task goes after the other, since {why}")
    return off_double(suite.stand_in(), algorithm)


def off_double(suite: Suite, algorithm: Learner) -> float:
    """How far the compiled float32 meta-gradient is from float64's: the median over draws of parameters.

    Raises:
        NotApplicable: there is no compiler, or plain float32 misses the bound itself.
    """
    if compiler() is None:
        raise NotApplicable("there is no C++ compiler")
    eager, compiled = (meta_gradient(suite, algorithm, compiled=c) for c in (False, True))
    plain: list[float] = []
    found: list[float] = []
    for draw in range(DRAWS):
        generator = seeds.generator("certify", "precision", draw)
        meta = _perturbed(algorithm.init(SuiteTask(suite), generator), generator)
        batch = next(episodes(suite, algorithm, partial(_same, meta), draw, 0))
        exact = tree_leaves(eager(double(meta), double(batch)))
        for errors, gradient in ((plain, eager), (found, compiled)):
            errors.append(gap(double(tree_leaves(gradient(meta, batch))), exact))
    if statistics.median(plain) > CLOSE:
        raise NotApplicable(f"plain float32 is off by {statistics.median(plain):.1e} itself")
    return statistics.median(found)


def _perturbed(meta: Meta, generator: Generator) -> Meta:
    def moved(x: Tensor) -> Tensor:
        return x + PERTURBED * torch.randn(x.shape, generator=generator) if x.is_floating_point() else x

    return tree_map(moved, meta)


def _same(meta: Meta) -> Meta:
    return meta
