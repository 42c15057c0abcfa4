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
from typing import Any, NamedTuple, cast, get_args

import torch
from torch import Tensor
from torch.distributions import Categorical as Logits
from torch.distributions import Normal, kl_divergence
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_map_with_path, tree_unflatten

from bench.beds import Bed, Curved, Labels, Linear, Quadratic
from bench.core import seeds
from bench.core.discovery import Catalogue, Named, parse
from bench.core.errors import DataError, MissingExtraError
from bench.core.types import Episode, Interactive, Learner, Meta, Suite, SuiteLoss, Tasks
from bench.engines import learn2learn
from bench.engines.vectorised import meta_gradient
from bench.evaluate import manifest, score, trace
from bench.outer import Rule, backtracking, conjugate_gradient, fisher, objective, prediction, surrogate
from bench.plan import algorithm_of, suite_of
from bench.rollouts import episode
from bench.train import Training, episodes, train
from suites.bandit import Bandit
from suites.control import Estimator
from suites.policies import Categorical, Gaussian

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
    if algos is None:
        yield "trust region", list(trust_region_checks())
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
    yield _check("bandit: surrogate = central differences, stop-gradients frozen", DIFFERENCES, lambda: _acting(make))
    yield _check("bandit: recorded episodes evaluated again: change of the loss", 1e-6, lambda: _recorded(make))


def trust_region_checks() -> Iterator[Check]:
    """What TRPO is made of, on cases with known answers."""
    yield _check("KL of Gaussians and categoricals = torch.distributions", EXACT, _divergences)
    yield _check("Fisher product, no inner step = (diag p − p pᵀ) v", EXACT, _fisher_of_logits)
    yield _check("Fisher product through adaptation = differences of ∇KL", DIFFERENCES, _fisher_adapted)
    yield _check("conjugate gradient = the solution of a linear system", 1e-10, _conjugate)
    yield _check("line search: the largest size that improves within the bound", 0, _line_search)
    yield _check("line search: nothing moves where nothing improves", 0, _no_move)


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
    bed: Suite
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
    loss = objective(case.bed, case.algorithm)
    return torch.stack([loss(meta, _task(case.episodes, t)) for t in range(TASKS)]).mean()


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
        functorch = torch._C._functorch
        if func not in (torch.Tensor.detach, torch.detach) or functorch.is_batchedtensor(args[0]):
            return func(*args, **(kwargs or {}))
        if self.next is None:
            result = plain = func(*args, **(kwargs or {}))
            while functorch.is_functorch_wrapped_tensor(plain):  # such as π / stop(π) in an inner loss
                plain = functorch.get_unwrapped(plain)
            self.kept.append(plain)
            return result
        self.next += 1
        return self.kept[self.next - 1]


def _frozen(make: Make) -> float:
    return _off_frozen(_trained_case(make, Curved()))


def _off_frozen(case: _Case) -> float:
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


def _acting_case(make: Make, **parameters: Any) -> _Case:
    """A case on a small bandit, whose episodes are recorded in float32 and evaluated in float64."""
    suite = Bandit(arms=3, pulls=4, trajectories=5, **parameters)
    algorithm = make(suite)
    if algorithm.ensemble:
        raise NotApplicable("an ensemble does not act")
    if not algorithm.trains:
        raise NotApplicable("it does not meta-train")
    meta = algorithm.init(suite.new_params, seeds.generator("certify", "init"))
    tasks = suite.sample(TASKS, "train", seeds.generator("certify", "tasks"))
    noise = algorithm.noise(meta, TASKS, seeds.generator("certify", "noise"))
    recorded = episode(suite, algorithm, meta, tasks, noise, seeds.generator("certify", "collect"), "cpu")
    return _Case(suite, algorithm, _double(meta), _double(recorded), tasks)


def _acting(make: Make) -> float:
    return max(_off_frozen(_acting_case(make, estimator=name)) for name in get_args(Estimator))


def _recorded(make: Make) -> float:
    """The policies that acted have weight 1, so that the loss is minus the mean advantage."""
    case = _acting_case(make)
    if type(case.algorithm).meta_loss is not Learner.meta_loss and case.algorithm.steps:
        raise NotApplicable("its meta-loss is its own")
    query = case.episodes.query
    expected = -((query.advantages * query.mask).flatten(1).sum(1) / query.mask.flatten(1).sum(1)).mean()
    size = (query.advantages.abs() * query.mask).sum() / query.mask.sum()
    return float((_total(case, case.meta) - expected).abs() / size)


def _divergences() -> float:
    generator = seeds.generator("certify", "kl")
    old, new = torch.randn(2, 7, 4, generator=generator, dtype=torch.float64)
    ours = [Gaussian(1, (), 2).divergence(old, new), Categorical(1, (), 4).divergence(old, new)]
    normals = [Normal(mean, log_std.exp()) for mean, log_std in (x.chunk(2, -1) for x in (old, new))]
    theirs = [kl_divergence(*normals).sum(-1), kl_divergence(Logits(logits=old), Logits(logits=new))]
    return _gap(ours, theirs)


def _named(name: str) -> Make:
    return partial(algorithm_of, Catalogue(), Named(name, {}))


def _fisher_of_logits() -> float:
    case = _acting_case(_named("finetune"))
    last = "layers.1.bias"  # the observation is always 1, and the logits move as this does
    v = {name: torch.zeros_like(p) for name, p in case.meta.items()}
    v[last] = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    products = fisher(cast(Interactive, case.bed), case.algorithm, case.meta, case.episodes)(list(v.values()))
    p = case.bed.call(case.meta, torch.ones(1, 1, dtype=torch.float64)).softmax(-1)[0]
    expected = p * v[last] - p * (p @ v[last]) + Rule().damping * v[last]
    return _gap([dict(zip(v, products, strict=True))[last]], [expected])


def _fisher_adapted() -> float:
    case = _acting_case(_named("maml"))
    suite, predict = cast(Interactive, case.bed), prediction(cast(Interactive, case.bed), case.algorithm)
    with torch.no_grad():  # as if it had acted in float64, so that no KL is smaller than at `meta`
        acted = torch.stack([predict(case.meta, _task(case.episodes, t)) for t in range(TASKS)])
    recorded = case.episodes._replace(query=case.episodes.query._replace(behaviour=acted))
    leaves, spec = tree_flatten(case.meta)
    generator = seeds.generator("certify", "directions")
    v = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in leaves]

    def slope(size: float) -> list[Tensor]:
        moved = [(x + size * d).requires_grad_() for x, d in zip(leaves, v, strict=True)]
        kl = surrogate(suite, case.algorithm, tree_unflatten(moved, spec), recorded)[1]
        return list(torch.autograd.grad(kl, moved, materialize_grads=True))

    h, damping = 1e-5, Rule().damping
    differences = [(a - b) / (2 * h) + damping * d for a, b, d in zip(slope(h), slope(-h), v, strict=True)]
    return _gap(fisher(suite, case.algorithm, case.meta, recorded)(v), differences)


def _conjugate() -> float:
    generator = seeds.generator("certify", "system")
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    matrix = root @ root.T + torch.eye(6, dtype=torch.float64)
    b = torch.randn(6, generator=generator, dtype=torch.float64)
    rule = Rule(iterations=12, tolerance=1e-24)
    found, _ = conjugate_gradient(lambda v: [matrix @ v[0]], [b], rule)
    return _gap(found, [torch.linalg.solve(matrix, b)])


def _line_search() -> float:
    """Loss (x − 1)², divergence x²: of 4, 2, 1, ½, ... the loss admits 1 and what is less, a bound of 0.3 admits ½."""
    rule = Rule(shrinks=0.5)
    found = [backtracking(lambda x: ((x - 1) ** 2, x**2), 4.0, bound, rule) for bound in (0.3, 100.0)]
    return float(found != [(0.5, 0.25, 4), (1.0, 1.0, 3)])


def _no_move() -> float:
    return backtracking(lambda x: (x, x), 1.0, 1.0, Rule())[0]


def _manifest(suite: Suite, name: str) -> float:
    return _different(*(manifest(suite, name, "test") for _ in range(2)))


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
