"""The certificate of a suite: frozen tasks, shapes, splits, normalisation."""

from collections.abc import Iterator
from functools import partial

import torch

from bench.certificate.checks import Check, NotApplicable, checked, different
from bench.core import seeds
from bench.core.trees import tree_flatten, tree_leaves, tree_map, tree_unflatten
from bench.core.types import Interactive, Suite
from bench.learning.evaluate import manifest


def suite_checks(suite: Suite, name: str) -> Iterator[Check]:
    """Frozen tasks, splits and normalisation of a suite."""
    yield checked("frozen tasks drawn twice: change", 0, lambda: _manifest(suite, name))
    yield checked("shapes: one loss per example, a score per metric", 0, lambda: _shapes(suite))
    yield checked("classes in two splits", 0, lambda: _overlap(suite))
    for variant in {v.norm: v for v in suite.evaluations}.values():
        seen = variant.norm == "transductive"
        yield checked(
            f"{variant.norm}: other predictions when one query changes",
            1e-6 if seen else 0,
            partial(_normalisation, variant),
            above=seen,
        )


def _manifest(suite: Suite, name: str) -> float:
    return different(*(manifest(suite, name, "test") for _ in range(2)))


def _shapes(suite: Suite) -> float:
    """How many of a suite's answers have another shape than the types say."""
    tasks = suite.sample(3, "train", seeds.generator("certify"))
    wrong = sum(len(leaf) != 3 for leaf in tree_leaves(tasks))
    params = suite.new_params(seeds.generator("certify", "init"))
    acting = {name: p.expand(3, *p.shape) for name, p in params.items()}
    for role in ("support", "query"):
        data = suite.collect(tasks, acting, role, 0, seeds.generator("certify"))
        wrong += sum(len(leaf) != 3 for leaf in tree_leaves(data))
        one = tree_map(lambda x: x[0], data)
        prediction = suite.predict(params, one)
        examples = one.mask.numel() if isinstance(suite, Interactive) else len(prediction)
        wrong += suite.losses(prediction, one).shape != (examples,)
        scores = suite.score(prediction, one)
        wrong += set(scores) != {metric.name for metric in suite.metrics}
        wrong += sum(score.dim() for score in scores.values())
    return float(wrong)


def _overlap(suite: Suite) -> float:
    classes_of = getattr(suite, "classes_of", None)
    if classes_of is None:
        raise NotApplicable("its tasks are drawn from a continuum")
    train_, validation, test = (set(classes_of(split).tolist()) for split in ("train", "validation", "test"))
    return float(len(train_ & validation) + len(train_ & test) + len(validation & test))


def _normalisation(suite: Suite) -> float:
    """How much the other predictions move when the last query example is replaced by noise."""
    if isinstance(suite, Interactive):
        raise NotApplicable("its data depend on the learner")
    tasks = suite.sample(1, "test", seeds.generator("certify"))
    data = tree_map(lambda x: x[0], suite.collect(tasks, {}, "query", 0, seeds.generator("certify")))
    params = suite.new_params(seeds.generator("certify", "init"))
    leaves, spec = tree_flatten(data)
    first = next(i for i, leaf in enumerate(leaves) if leaf.is_floating_point() and leaf.dim())
    changed = leaves[first].clone()
    changed[-1] = torch.rand(changed[-1].shape, generator=seeds.generator("certify", "noise"))
    with torch.no_grad():
        before = suite.predict(params, data)
        after = suite.predict(params, tree_unflatten([*leaves[:first], changed, *leaves[first + 1 :]], spec))
    return (before - after)[:-1].abs().max().item()
