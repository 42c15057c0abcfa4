"""The certificate: does an algorithm compute the gradient that it claims, purely, for one task at a time?

Everything is measured in float64 on small suites with known answers (bench.beds). A check that does not apply says n/a
and why, and never passes. Letters: T tasks, K inner steps.
"""

import copy
import dataclasses
import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_map_with_path, tree_unflatten

from bench.beds import Bed, Curved, Labels, Linear, Quadratic
from bench.core import seeds
from bench.core.discovery import Catalogue, Named, parse
from bench.core.errors import DataError, MissingExtraError
from bench.core.types import Episode, Learner, Meta, Suite, SuiteLoss, Tasks
from bench.engines import learn2learn
from bench.engines.vectorised import meta_gradient
from bench.evaluate import manifest, score, trace
from bench.plan import algorithm_of, suite_of
from bench.train import Training, episodes, train

TASKS = 4
EXACT = 1e-12  # relative, float64: the same sums in another order
DIFFERENCES = 1e-6  # relative, float64: central differences at a step of 1e-5


class Check(NamedTuple):
    """One line of a certificate."""

    name: str
    figure: str
    bound: str
    verdict: str  # pass | FAULT | n/a


class NotApplicable(Exception):
    """Why a check says nothing about this algorithm."""


def certificate(algos: str | None, plugins: tuple[Path, ...] = ()) -> Iterator[tuple[str, list[Check]]]:
    """Name -> checks, of the algorithms named (all by default) and, where none is named, of the suites."""
    catalogue = Catalogue(plugins)
    asked = parse(algos) if algos is not None else [Named(name, {}) for name in catalogue.names("algorithm")]
    for named in asked:
        yield named.name, list(algorithm_checks(partial(algorithm_of, catalogue, named)))
    for name in catalogue.names("suite") if algos is None else ():
        try:
            suite = suite_of(catalogue, Named(name, {}))
        except MissingExtraError as error:
            yield f"{name} (suite)", [Check(str(error), "–", "–", "n/a")]
            continue
        yield f"{name} (suite)", list(suite_checks(suite, name))


Make = Callable[[Suite], Learner]


def algorithm_checks(make: Make) -> Iterator[Check]:
    """Invariants 1 to 3 for an algorithm, which `make` builds with a bed's protocol."""
    yield _check("meta-gradient = central differences, stop-gradients frozen", DIFFERENCES, lambda: _frozen(make))
    yield _claim(make)
    yield _check("quadratic task: (I − αA)ᴷ ∇L(θ_K)", EXACT, lambda: _closed_form(make))
    yield _check("mixed = reverse", EXACT, lambda: _operators(make, Labels(), "mixed", "reverse"))
    yield _check(
        "no curvature: first_order = reverse", EXACT, lambda: _operators(make, Linear(), "first_order", "reverse")
    )
    yield _check("engines agree: loss and meta-gradient", 1e-10, lambda: _engines_gradient(make))
    yield _check("engines agree: scores while adapting", 1e-10, lambda: _engines_trace(make))
    yield _check("vmap = loop over tasks", EXACT, lambda: _loop(make))
    yield _check("chunks of tasks = all at once", EXACT, lambda: _chunks(make))
    yield _check("inputs modified", 0, lambda: _modified(make))
    yield _check("what a task leaves to the next", 0, lambda: _leak(make))
    yield _check("same seed, other bits after 20 iterations", 0, lambda: _repeat(make))
    yield _check("a task adapted alone = among others", EXACT, lambda: _alone(make))
    yield _check("trace at step 0 = unadapted score", EXACT, lambda: _step_zero(make))
    yield _check("labels and head permuted together: change", EXACT, lambda: _labels(make, together=True))
    yield _check("labels permuted alone: change", 1e-3, lambda: _labels(make, together=False), above=True)


def suite_checks(suite: Suite, name: str) -> Iterator[Check]:
    """Frozen tasks, splits and normalisation of a suite."""
    yield _check("frozen tasks drawn twice: change", 0, lambda: _manifest(suite, name))
    yield _check("shapes: one loss per example, a score per metric", 0, lambda: _shapes(suite))
    yield _check("classes in two splits", 0, lambda: _overlap(suite))
    for variant in {v.norm: v for v in suite.evaluations}.values():
        seen = variant.norm == "transductive"
        yield _check(
            f"{variant.norm}: other predictions when one query changes",
            1e-6 if seen else 0,
            partial(_normalisation, variant),
            above=seen,
        )


def _check(name: str, bound: float, measure: Callable[[], float], above: bool = False) -> Check:
    sign = ">" if above else "≤"
    try:
        figure = measure()
    except NotApplicable as reason:
        return Check(name, "", "", f"n/a: {reason}")
    except DataError as missing:
        return Check(name, "", "", f"n/a: {missing}")
    except Exception as error:  # whatever a stranger's code does, the certificate goes on
        return Check(name, type(error).__name__, str(error).splitlines()[0][:100] if str(error) else "", "FAULT")
    right = figure > bound if above else figure <= bound
    return Check(name, f"{figure:.1e}", f"{sign} {bound:.0e}", "pass" if right else "FAULT")


def _claim(make: Make) -> Check:
    algorithm = make(Curved())
    if not algorithm.trains:
        return Check("order as claimed: plain central differences", "", "", "n/a: it does not meta-train")
    if algorithm.second_order:
        return _check("claims second order: plain central differences", DIFFERENCES, lambda: _plain(make))
    return _check("claims first order: off plain central differences", 1e-3, lambda: _plain(make), above=True)


class _Case(NamedTuple):
    bed: Bed
    algorithm: Learner
    meta: Meta
    episodes: Episode  # leaves [T, ...]
    tasks: Tasks


def _case(make: Make, bed: Bed, **changes: Any) -> _Case:
    algorithm = dataclasses.replace(make(bed), **changes)
    meta = _double(algorithm.init(bed.new_params, seeds.generator("certify", "init")))
    tasks = bed.sample(TASKS, "train", seeds.generator("certify", "tasks"))
    noise = _double(algorithm.noise(meta, TASKS, seeds.generator("certify", "noise")))
    support, query = bed.look_up(tasks, "support"), bed.look_up(tasks, "query")
    return _Case(bed, algorithm, meta, Episode((support,) * algorithm.steps, query, noise), tasks)


def _trained_case(make: Make, bed: Bed, **changes: Any) -> _Case:
    case = _case(make, bed, **changes)
    if not case.algorithm.trains:
        raise NotApplicable("it does not meta-train")
    return case


def _gradient(case: _Case, **options: Any) -> list[Tensor]:
    loss, gradient = meta_gradient(case.bed, case.algorithm, **options)(case.meta, case.episodes)
    return [loss, *tree_leaves(gradient)]


def _task(episodes_: Episode, t: int) -> Episode:
    one: Episode = tree_map(lambda x: x[t], episodes_)
    return one


def _total(case: _Case, meta: Meta) -> Tensor:
    loss = SuiteLoss(case.bed)
    return torch.stack([case.algorithm.meta_loss(meta, loss, _task(case.episodes, t)) for t in range(TASKS)]).mean()


class _StopGradients(TorchFunctionMode):
    """Records what detach returns, and then returns the same again whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []
        self.next: int | None = None

    def replay(self) -> "_StopGradients":
        self.next = 0
        return self

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (torch.Tensor.detach, torch.detach) or torch._C._functorch.is_functorch_wrapped_tensor(args[0]):
            return func(*args, **(kwargs or {}))
        if self.next is None:
            self.kept.append(func(*args, **(kwargs or {})))
            return self.kept[-1]
        self.next += 1
        return self.kept[self.next - 1]


def _frozen(make: Make) -> float:
    case = _trained_case(make, Curved())
    stops = _StopGradients()
    with stops:
        _total(case, case.meta)

    def value(meta: Meta) -> Tensor:
        with stops.replay():
            return _total(case, meta)

    return _off_differences(case, value)


def _plain(make: Make) -> float:
    case = _trained_case(make, Curved())
    return _off_differences(case, lambda meta: _total(case, meta))


def _off_differences(case: _Case, value: Callable[[Meta], Tensor]) -> float:
    """The largest gap between ⟨meta-gradient, d⟩ and a central difference along d, over the gradient's norm."""
    _, *gradient = _gradient(case)
    leaves, spec = tree_flatten(case.meta)
    generator = seeds.generator("certify", "directions")
    worst, size = 0.0, torch.stack([g.square().sum() for g in gradient]).sum().sqrt().item()
    for _ in range(12):
        direction = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in leaves]
        length = torch.stack([d.square().sum() for d in direction]).sum().sqrt()
        direction = [d / length for d in direction]
        up, down = (
            value(tree_unflatten([x + h * d for x, d in zip(leaves, direction, strict=True)], spec)).item()
            for h in (1e-5, -1e-5)
        )
        along = sum((g * d).sum().item() for g, d in zip(gradient, direction, strict=True))
        worst = max(worst, abs((up - down) / 2e-5 - along))
    return worst / max(size, 1e-12)


def _closed_form(make: Make) -> float:
    case = _trained_case(make, Quadratic())
    rate = getattr(case.algorithm, "inner_lr", None)
    if not case.algorithm.steps or not isinstance(rate, float) or set(case.meta) != {"theta"}:
        raise NotApplicable("it has no inner step with one rate")
    if not case.algorithm.second_order:
        raise NotApplicable("it claims first order")
    loss = SuiteLoss(case.bed)
    expected = torch.zeros(4, dtype=torch.float64)
    for t in range(TASKS):
        episode = _task(case.episodes, t)
        x, y = episode.support[0]
        curvature = x.T @ x / len(y)
        theta = case.meta["theta"]
        stepped = case.algorithm.step(case.meta, case.meta, loss, episode.support[0], 0)["theta"]
        if not torch.allclose(stepped, theta - rate * (curvature @ theta - x.T @ y / len(y)), atol=1e-12):
            raise NotApplicable("its inner step is not θ − α ∇L(θ)")
        for _ in episode.support:
            theta = theta - rate * (curvature @ theta - x.T @ y / len(y))
        xq, yq = episode.query
        pulled = xq.T @ (xq @ theta - yq) / len(yq)
        factor = torch.eye(4, dtype=torch.float64) - rate * curvature
        expected += torch.linalg.matrix_power(factor, len(episode.support)) @ pulled / TASKS
    return _gap(_gradient(case)[1:], [expected])


def _operators(make: Make, bed: Bed, one: str, other: str) -> float:
    if "gradient" not in {f.name for f in dataclasses.fields(make(bed))}:
        raise NotApplicable("it has no field `gradient`")
    return _gap(*(_gradient(_trained_case(make, bed, gradient=name)) for name in (one, other)))


def _learn2learn_case(make: Make, bed: Bed) -> _Case:
    case = _trained_case(make, bed)
    if not case.algorithm.learn2learn:
        raise NotApplicable("learn2learn does not have it")
    if importlib.util.find_spec("learn2learn") is None:
        raise NotApplicable("learn2learn is not installed: pip install --no-deps -r requirements/learn2learn.txt")
    return case


def _engines_gradient(make: Make) -> float:
    case = _learn2learn_case(make, Labels())
    loss, gradient = learn2learn.meta_gradient(case.bed, case.algorithm)(case.meta, case.episodes)
    return _gap(_gradient(case), [loss, *tree_leaves(gradient)])


def _engines_trace(make: Make) -> float:
    case = _learn2learn_case(make, Labels())
    ours, theirs = (
        module(case.bed, case.algorithm, case.meta, case.tasks, 3)["loss"] for module in (trace, learn2learn.trace)
    )
    return _gap([ours], [theirs])


def _loop(make: Make) -> float:
    case = _trained_case(make, Labels())
    leaves, spec = tree_flatten(case.meta)
    live = [leaf.clone().requires_grad_() for leaf in leaves]
    value = _total(case, tree_unflatten(live, spec))
    return _gap(_gradient(case), [value, *torch.autograd.grad(value, live, materialize_grads=True)])


def _chunks(make: Make) -> float:
    case = _trained_case(make, Labels())
    return _gap(_gradient(case), _gradient(case, chunk=3))


def _modified(make: Make) -> float:
    case = _case(make, Curved())
    before = copy.deepcopy((case.meta, case.episodes, case.tasks))
    if case.algorithm.trains:
        _gradient(case)
    trace(case.bed, case.algorithm.candidates()[0], case.meta, case.tasks, 2)
    return _different(before, (case.meta, case.episodes, case.tasks))


def _leak(make: Make) -> float:
    case = _trained_case(make, Curved())
    loss = SuiteLoss(case.bed)

    def second() -> Tensor:
        return make(case.bed).meta_loss(case.meta, loss, _task(case.episodes, 1))

    alone = second()
    case.algorithm.meta_loss(case.meta, loss, _task(case.episodes, 0))
    return _different(alone, second())


def _alone(make: Make) -> float:
    case = _case(make, Curved())
    algorithm = case.algorithm.candidates()[0]
    if tree_leaves(algorithm.noise(case.meta, 1, seeds.generator("certify"))):
        raise NotApplicable("its tasks draw noise")
    among, alone = (
        trace(case.bed, algorithm, case.meta, tree_map(lambda x, s=some: x[s], case.tasks), 3)["loss"]
        for some in (slice(0, 2), slice(1, 2))
    )
    return _gap([among[1:]], [alone])


def _repeat(make: Make) -> float:
    bed = Curved()
    if not make(bed).trains:
        raise NotApplicable("it does not meta-train")

    def result() -> Meta:
        algorithm = make(bed)
        state = Training.begin(_double(algorithm.init(bed.new_params, seeds.generator(0, "init"))))
        gradient = meta_gradient(bed, algorithm)
        batches = episodes(bed, algorithm, lambda: state.meta, 0, 0)
        for _ in train(state, batches, gradient, algorithm.outer_lr, 20, None, 1000, lambda a, b: a < b):
            pass
        return state.meta, state.losses

    (one, losses), (other, again) = result(), result()
    return _different(one, other) + float(losses != again)


def _step_zero(make: Make) -> float:
    case = _case(make, Labels())
    algorithm = case.algorithm.candidates()[0]
    found = trace(case.bed, algorithm, case.meta, case.tasks, 2)["loss"][:, 0]
    noise = algorithm.noise(case.meta, TASKS, seeds.generator("evaluate", case.bed.setting))
    with torch.no_grad():
        expected = [
            score(case.bed, algorithm, case.meta, algorithm.start(case.meta, tree_map(lambda x, t=t: x[t], noise)), q)[
                "loss"
            ]
            for t in range(TASKS)
            for q in [_task(case.episodes, t).query]
        ]
    return _gap([found], [torch.stack(expected)])


def _labels(make: Make, together: bool) -> float:
    case = _trained_case(make, Labels())
    if together and tree_leaves(case.episodes.noise):
        raise NotApplicable("its tasks draw noise, which would have to be permuted too")
    order = torch.tensor([1, 2, 0])  # class c becomes class order[c]

    def relabel(pairs: Any) -> Any:
        return pairs._replace(y=order[pairs.y])

    moved = case.episodes._replace(
        support=tuple(map(relabel, case.episodes.support)), query=relabel(case.episodes.query)
    )

    def reorder(path: Any, leaf: Tensor) -> Tensor:
        if not any(str(getattr(k, "key", "")).startswith("head.") for k in path):
            return leaf
        axis = list(leaf.shape).index(Labels.ways)  # an ensemble's members come before
        return leaf.index_select(axis, order.argsort())

    meta = tree_map_with_path(reorder, case.meta) if together else case.meta
    changed = case._replace(meta=meta, episodes=moved)
    return _gap([_total(case, case.meta)], [_total(changed, changed.meta)])


def _manifest(suite: Suite, name: str) -> float:
    return _different(*(manifest(suite, name, "test") for _ in range(2)))


def _shapes(suite: Suite) -> float:
    """How many of a suite's answers have another shape than the types say."""
    tasks = suite.sample(3, "train", seeds.generator("certify"))
    wrong = sum(len(leaf) != 3 for leaf in tree_leaves(tasks))
    params = suite.new_params(seeds.generator("certify", "init"))
    for role in ("support", "query"):
        data = suite.collect(tasks, params, role, 0, seeds.generator("certify"))
        wrong += sum(len(leaf) != 3 for leaf in tree_leaves(data))
        one = tree_map(lambda x: x[0], data)
        prediction = suite.predict(params, one)
        wrong += suite.losses(prediction, one).shape != (len(prediction),)
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
    tasks = suite.sample(1, "test", seeds.generator("certify"))
    data = tree_map(lambda x: x[0], suite.collect(tasks, None, "query", 0, seeds.generator("certify")))
    params = suite.new_params(seeds.generator("certify", "init"))
    leaves, spec = tree_flatten(data)
    first = next(i for i, leaf in enumerate(leaves) if leaf.is_floating_point() and leaf.dim())
    changed = leaves[first].clone()
    changed[-1] = torch.rand(changed[-1].shape, generator=seeds.generator("certify", "noise"))
    with torch.no_grad():
        before = suite.predict(params, data)
        after = suite.predict(params, tree_unflatten([*leaves[:first], changed, *leaves[first + 1 :]], spec))
    return (before - after)[:-1].abs().max().item()


def _gap(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """‖a − b‖ / ‖b‖ over all tensors together."""
    distance = sum((a - b).square().sum().item() for a, b in zip(ours, theirs, strict=True)) ** 0.5
    return float(distance / max(sum(b.square().sum().item() for b in theirs) ** 0.5, 1e-300))


def _different(one: Any, other: Any) -> float:
    """How many leaves are not the same bits."""
    pairs = zip(tree_leaves(one), tree_leaves(other), strict=True)
    return float(sum(not (torch.equal(a, b) if isinstance(a, Tensor) else a == b) for a, b in pairs))


def _double(tree: Any) -> Any:
    return tree_map(lambda x: x.double() if x.is_floating_point() else x, tree)
