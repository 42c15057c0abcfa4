"""The certificate: does an algorithm compute the gradient that it claims, purely, for one task at a time?

Everything is measured in float64 on small suites with known answers (`bench.certificate.beds`). A check that does not
apply says n/a and why, and never passes. Letters: T tasks, K inner steps.
"""

import copy
import dataclasses
import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bench.certificate import process
from bench.certificate.acting import acting_checks
from bench.certificate.beds import Bed, Clusters, Curved, Labels, Linear, Pairs, Quadratic, Ragged
from bench.certificate.checks import (
    DIFFERENCES,
    EXACT,
    ORDER,
    TASKS,
    UNSUITED,
    Case,
    Check,
    Make,
    NotApplicable,
    acting_case,
    broken,
    case_of,
    checked,
    different,
    gap,
    task_of,
)
from bench.certificate.precision import CLOSE, network_check, off_double
from bench.certificate.suites import suite_checks
from bench.certificate.trpo import trust_region_checks
from bench.core import seeds
from bench.core.discovery import Catalogue, Named, parse
from bench.core.errors import DataError, MissingExtraError, PluginError, foreign, unknown
from bench.core.gradients import OPERATORS
from bench.core.task import SuiteTask
from bench.core.trees import (
    double,
    named_leaves,
    part,
    shapes_of,
    tree_flatten,
    tree_leaves,
    tree_map,
    tree_map_with_path,
    tree_unflatten,
)
from bench.core.types import Episode, Learner, Meta, Prediction, Suite
from bench.learning.batches import episodes
from bench.learning.engines import learn2learn
from bench.learning.engines.vectorised import meta_gradient
from bench.learning.evaluate import trace
from bench.learning.objective import objective
from bench.learning.outer.descent import Descent
from bench.learning.train import Gradients, Validation, train
from bench.learning.training import Training
from bench.planning.engines import compiler
from bench.planning.plan import algorithm_of, suite_of
from suites.glyphs import Glyphs
from suites.parts.control import Estimator
from suites.sinusoid import Sinusoid

LATE = 10**9  # a meta-iteration after which a learner changes no more
DRAWS = 64  # tasks, of which fair coins give all the same once in 2^63 times
RENAMED = torch.tensor([1, 2, 0])  # class c becomes class RENAMED[c]


def certificate(
    algos: str | None, plugins: tuple[Path, ...] = (), compiled: bool = False
) -> Iterator[tuple[str, list[Check]]]:
    """Name -> checks, of the algorithms and suites that are named; of all by default.

    Args:
        algos: as for `bench run`; suites likewise.
        plugins: files of algorithms and suites.
        compiled: whether the algorithms' compiled gradients are checked too, which takes seconds for each operator.
    """
    catalogue = Catalogue(plugins)
    algorithms, suites = catalogue.names("algorithm"), catalogue.names("suite")
    asked = parse(algos) if algos is not None else [Named(name, {}) for name in (*algorithms, *suites)]
    if strangers := [named.name for named in asked if named.name not in algorithms | suites]:
        raise unknown("algorithm or suite", strangers[0], algorithms | suites)
    for named in (named for named in asked if named.name in algorithms):
        try:
            with foreign(f"{named} can't be certified"):
                found = [
                    (f"{named.name}{stage}", [*algorithm_checks(make), *(compiled_checks(make) if compiled else [])])
                    for stage, make in stages(partial(algorithm_of, catalogue, named))
                ]
        except PluginError as error:
            found = [(named.name, [broken(error)])]
        yield from found
    if algos is None:
        yield "trust region", list(trust_region_checks())
    try:
        for named in (named for named in asked if named.name in suites):
            yield f"{named} (suite)", _of_suite(catalogue, named, compiled)
    finally:
        process.end()


def _of_suite(catalogue: Catalogue, named: Named, compiled: bool) -> list[Check]:
    try:
        with foreign(f"{named} can't be certified"):
            suite = suite_of(catalogue, named)
            suite.check()
            return [*suite_checks(suite, named.name), *([network_check(suite)] if compiled else [])]
    except (MissingExtraError, DataError) as error:
        return [Check(str(error), "–", "–", "n/a")]
    except PluginError as error:
        return [broken(error)]


def stages(make: Make) -> Iterator[tuple[str, Make]]:
    """A learner as it is at first and in the end, with words that tell them apart where they differ."""
    learner = make(Curved())
    if learner.at(0) == learner.at(LATE):
        yield "", lambda bed: make(bed).at(LATE)
    else:
        yield ", at first", lambda bed: make(bed).at(0)
        yield ", in the end", lambda bed: make(bed).at(LATE)


def algorithm_checks(make: Make) -> Iterator[Check]:
    """Invariants 1 to 3 for an algorithm, which `make` builds with a bed's protocol.

    A check runs on a bed of a kind that the learner suits; n/a where there is none.
    """
    yield checked("meta-gradient = central differences, stop-gradients frozen", DIFFERENCES, lambda: _frozen(make))
    yield _claim(make)
    yield checked("parameters changed that do not adapt", 0, lambda: _changed(make))
    yield checked("quadratic task: (I − αA)ᴷ ∇L(θ_K)", EXACT, lambda: _closed_form(make))
    yield checked("mixed = reverse", EXACT, lambda: _operators(make, "mixed", "reverse", Labels(), Curved()))
    yield checked(
        "no curvature: first_order = reverse", EXACT, lambda: _operators(make, "first_order", "reverse", Linear())
    )
    yield checked("engines agree: loss and meta-gradient", 1e-10, lambda: _engines_gradient(make))
    yield checked("engines agree: scores while adapting", 1e-10, lambda: _engines_trace(make))
    yield checked("vmap = loop over tasks", ORDER, lambda: _loop(make))
    yield checked("chunks of tasks = all at once", ORDER, lambda: _chunks(make))
    yield checked("inputs modified", 0, lambda: _modified(make))
    yield checked("what a task leaves to the next", 0, lambda: _leak(make))
    yield checked("same seed, other bits after 20 iterations", 0, lambda: _repeat(make))
    yield checked("noise: the same for every task", 0, lambda: _shared(make))
    yield checked("a task adapted alone = among others", ORDER, lambda: _alone(make))
    yield checked("trace at step 0 = unadapted score", EXACT, lambda: _step_zero(make))
    yield checked("support in another order: change of the prediction", ORDER, lambda: _reordered(make))
    yield checked("padding taken away: change of the prediction", ORDER, lambda: _padded(make))
    yield checked("query targets changed: predictions that change", 0, lambda: _told(make))
    yield checked("a query input changed: change of the other predictions", EXACT, lambda: _overheard(make))
    yield checked("labels and head permuted together: change", EXACT, lambda: _labels(make, together=True))
    yield checked("labels permuted alone: change", 1e-3, lambda: _labels(make, together=False), above=True)
    yield checked("bandit: surrogate = central differences, stop-gradients frozen", DIFFERENCES, lambda: _acting(make))
    yield checked("bandit: recorded episodes evaluated again: change of the loss", 1e-6, lambda: _recorded(make))
    yield from acting_checks(make)


def compiled_checks(make: Make) -> Iterator[Check]:
    """Whether the compiler leaves every operator's gradient as it was, and exact; apart, since it takes seconds."""
    yield checked("compiled in float32, on a suite's network: off float64", CLOSE, lambda: _single(make))
    yield checked("compiled = eager: loss and meta-gradient, every operator", 1e-10, lambda: _compiled(make))


def _claim(make: Make) -> Check:
    algorithm = make(Curved())
    if not algorithm.trains or not algorithm.suits & {"regression", "classification"}:
        reason = UNSUITED.format("regression or classification") if algorithm.trains else "it does not meta-train"
        return Check("order as claimed: plain central differences", "", "", f"n/a: {reason}")
    if algorithm.chases:
        return checked("claims that its target is constant: gradient through the query", 0, lambda: _chased(make))
    if algorithm.second_order:
        return checked("claims second order: plain central differences", DIFFERENCES, lambda: _plain(make))
    return checked("claims first order: off plain central differences", 1e-3, lambda: _plain(make), above=True)


def _trained_case(make: Make, *beds: Bed, **changes: Any) -> Case:
    case = case_of(make, *beds, **changes)
    if not case.algorithm.trains:
        raise NotApplicable("it does not meta-train")
    return case


def _gradient(case: Case, **options: Any) -> list[Tensor]:
    loss, gradient = meta_gradient(case.bed, case.algorithm, **options)(case.meta, case.episodes)
    return [loss, *tree_leaves(gradient)]


def _total(case: Case, meta: Meta) -> Tensor:
    loss = objective(case.bed, case.algorithm)
    return torch.stack([loss(meta, task_of(case.episodes, t)) for t in range(TASKS)]).mean()


class StopGradients(TorchFunctionMode):
    """Records what detach returns, and then returns the same again whatever it is given."""

    def __init__(self) -> None:
        """Records."""
        super().__init__()
        self.kept: list[Any] = []
        self.next: int | None = None

    def replay(self) -> "StopGradients":
        """The same, giving what was recorded from its beginning."""
        self.next = 0
        return self

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function's value, or that of an earlier detach."""
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
    return _off_frozen(_trained_case(make, Curved(), Labels()))


def _off_frozen(case: Case) -> float:
    stops = StopGradients()
    with stops:
        _total(case, case.meta)

    def value(meta: Meta) -> Tensor:
        with stops.replay():
            return _total(case, meta)

    return _off_differences(case, value)


def _plain(make: Make) -> float:
    case = _trained_case(make, Curved(), Labels())
    return _off_differences(case, lambda meta: _total(case, meta))


def _chased(make: Make) -> float:
    """The norm of the meta-loss's gradient in the query's numbers, over that of the meta-gradient."""
    case = _trained_case(make, Curved(), Labels())
    query, meta = tree_map(lambda x: x.clone().requires_grad_(x.is_floating_point()), (case.episodes.query, case.meta))
    total = _total(case._replace(episodes=case.episodes._replace(query=query)), meta)
    norms: list[float] = []
    for part_ in (query, meta):
        live = [leaf for leaf in tree_leaves(part_) if leaf.requires_grad]
        slopes = torch.autograd.grad(total, live, retain_graph=True, materialize_grads=True)
        norms.append(torch.cat([slope.flatten() for slope in slopes]).norm().item())
    return norms[0] / max(norms[1], 1e-300)


def _off_differences(case: Case, value: Callable[[Meta], Tensor]) -> float:
    """The largest gap between ⟨meta-gradient, d⟩ and a central difference along d, over the gradient's norm."""
    _, *slopes = _gradient(case)
    leaves, spec = tree_flatten(case.meta)
    moving = [i for i, leaf in enumerate(leaves) if leaf.is_floating_point()]
    gradient, generator = [slopes[i] for i in moving], seeds.generator("certify", "directions")

    def along_by(h: float, direction: list[Tensor]) -> float:
        moved = list(leaves)
        for i, d in zip(moving, direction, strict=True):
            moved[i] = leaves[i] + h * d
        return value(tree_unflatten(moved, spec)).item()

    worst, size = 0.0, torch.stack([g.square().sum() for g in gradient]).sum().sqrt().item()
    for _ in range(12):
        direction = [torch.randn(leaves[i].shape, generator=generator, dtype=leaves[i].dtype) for i in moving]
        length = torch.stack([d.square().sum() for d in direction]).sum().sqrt()
        direction = [d / length for d in direction]
        up, down = (along_by(h, direction) for h in (1e-5, -1e-5))
        along = sum((g * d).sum().item() for g, d in zip(gradient, direction, strict=True))
        worst = max(worst, abs((up - down) / 2e-5 - along))
    return worst / max(size, 1e-12)


def _closed_form(make: Make) -> float:
    case = _trained_case(make, Quadratic())
    rate = getattr(case.algorithm, "inner_lr", None)
    plain = isinstance(case.meta, dict) and {n: getattr(p, "shape", ()) for n, p in case.meta.items()} == {
        "theta": (4,)
    }
    if not case.algorithm.steps or not isinstance(rate, float) or not plain:
        raise NotApplicable("it has no inner step with one rate on the suite's own parameters")
    if not case.algorithm.second_order:
        raise NotApplicable("it claims first order")
    if tree_leaves(case.episodes.noise):
        raise NotApplicable("its tasks draw noise")
    task, begun = SuiteTask(case.bed), case.algorithm.start(case.meta, ())
    if not isinstance(begun, dict) or begun.keys() != {"theta"}:
        raise NotApplicable("its state is not θ")
    expected = torch.zeros(4, dtype=torch.float64)
    for t in range(TASKS):
        episode = task_of(case.episodes, t)
        x, y = episode.support[0]
        curvature = x.T @ x / len(y)
        theta = case.meta["theta"]
        for k, data in enumerate(episode.support):
            stepped = case.algorithm.step(case.meta, {"theta": theta}, task, data, k)
            theta = theta - rate * (curvature @ theta - x.T @ y / len(y))
            if not isinstance(stepped, dict) or not torch.allclose(stepped["theta"], theta, atol=1e-12):
                raise NotApplicable("its inner step is not θ − α ∇L(θ)")
        xq, yq = episode.query
        said = case.algorithm.predict(case.meta, {"theta": theta}, task, episode.query)
        if not isinstance(said, Tensor) or not torch.allclose(said, xq @ theta):
            raise NotApplicable("it does not predict by θ alone")
        pulled = xq.T @ (xq @ theta - yq) / len(yq)
        factor = torch.eye(4, dtype=torch.float64) - rate * curvature
        expected += torch.linalg.matrix_power(factor, len(episode.support)) @ pulled / TASKS
    return gap(_gradient(case)[1:], [expected])


def _operators(make: Make, one: str, other: str, *beds: Bed) -> float:
    if "gradient" not in {f.name for f in dataclasses.fields(make(beds[0]))}:
        raise NotApplicable("it has no field `gradient`")
    cases = [_trained_case(make, *beds, gradient=name) for name in (one, other)]
    if isinstance(cases[0].bed, Linear) and not any(name.endswith("/theta") for name, _ in named_leaves(cases[0].meta)):
        raise NotApplicable("its network is not the suite's")
    return gap(*map(_gradient, cases))


def _learn2learn_case(make: Make, bed: Bed) -> Case:
    case = _trained_case(make, bed)
    if not learn2learn.wrapper(case.algorithm):
        raise NotApplicable("learn2learn does not have it")
    if importlib.util.find_spec("learn2learn") is None:
        raise NotApplicable("learn2learn is not installed: pip install --no-deps -r requirements/learn2learn.txt")
    return case


def _single(make: Make) -> float:
    suites: tuple[Suite, ...] = Glyphs(), Sinusoid()
    suite = next((suite for suite in suites if suite.kind in make(suite).suits), None)
    if suite is None:
        raise NotApplicable(UNSUITED.format("regression or classification"))
    algorithm = make(suite)
    if not algorithm.trains:
        raise NotApplicable("it does not meta-train")
    return off_double(suite, algorithm)


def _compiled(make: Make) -> float:
    if compiler() is None:
        raise NotApplicable("there is no C++ compiler")
    has = "gradient" in {f.name for f in dataclasses.fields(make(Labels()))}
    beds = Labels(), Curved()
    cases = [_trained_case(make, *beds, **({"gradient": name} if has else {})) for name in OPERATORS]
    return max(gap(_gradient(case, compiled=True), _gradient(case)) for case in (cases if has else cases[:1]))


def _engines_gradient(make: Make) -> float:
    case = _learn2learn_case(make, Labels())
    loss, gradient = learn2learn.meta_gradient(case.bed, case.algorithm)(case.meta, case.episodes)
    return gap(_gradient(case), [loss, *tree_leaves(gradient)])


def _engines_trace(make: Make) -> float:
    case = _learn2learn_case(make, Labels())
    ours, theirs = (
        module(case.bed, case.algorithm, case.meta, case.tasks, 3)["loss"] for module in (trace, learn2learn.trace)
    )
    return gap([ours], [theirs])


def _loop(make: Make) -> float:
    case = _trained_case(make, Labels(), Curved())
    leaves, spec = tree_flatten(case.meta)
    live = [leaf.clone().requires_grad_(leaf.is_floating_point()) for leaf in leaves]
    moving = [leaf for leaf in live if leaf.requires_grad]
    value = _total(case, tree_unflatten(live, spec))
    loss, *slopes = _gradient(case)
    ours = [slope for slope, leaf in zip(slopes, live, strict=True) if leaf.requires_grad]
    return gap([loss, *ours], [value, *torch.autograd.grad(value, moving, materialize_grads=True)])


def _chunks(make: Make) -> float:
    case = _trained_case(make, Labels(), Curved())
    return gap(_gradient(case), _gradient(case, chunk=3))


def _modified(make: Make) -> float:
    case = case_of(make, Curved(), Labels())
    before = copy.deepcopy((case.meta, case.episodes, case.tasks))
    if case.algorithm.trains:
        _gradient(case)
    trace(case.bed, case.algorithm.candidates()[0], case.meta, case.tasks, 2)
    return different(before, (case.meta, case.episodes, case.tasks))


def _leak(make: Make) -> float:
    case = _trained_case(make, Curved(), Labels())
    task = SuiteTask(case.bed)

    def second() -> Tensor:
        return make(case.bed).meta_loss(case.meta, task, task_of(case.episodes, 1))

    alone = second()
    case.algorithm.meta_loss(case.meta, task, task_of(case.episodes, 0))
    return different(alone, second())


def _shared(make: Make) -> float:
    """1 where so many tasks get the same noise that chance does not explain it."""
    case = case_of(make, Curved(), Labels())
    shapes = shapes_of(case.meta)
    drawn = tree_leaves(case.algorithm.noise(shapes, DRAWS, seeds.generator("certify", "noise")))
    if not drawn:
        raise NotApplicable("its tasks draw no noise")
    return float(all(torch.equal(leaf, leaf[:1].expand_as(leaf)) for leaf in drawn))


def _alone(make: Make) -> float:
    case = case_of(make, Curved(), Labels())
    algorithm = case.algorithm.candidates()[0]
    if tree_leaves(algorithm.noise(shapes_of(case.meta), 1, seeds.generator("certify"))):
        raise NotApplicable("its tasks draw noise")
    among, alone = (
        trace(case.bed, algorithm, case.meta, tree_map(lambda x, s=some: x[s], case.tasks), 3)["loss"]
        for some in (slice(0, 2), slice(1, 2))
    )
    return gap([among[1:]], [alone])


def _changed(make: Make) -> float:
    """How many of the parameters that the learner says it does not adapt are others after its inner steps."""
    case = case_of(make, Labels(), Curved())
    algorithm, task, episode = case.algorithm.candidates()[0], SuiteTask(case.bed), _of_one(case)
    with torch.no_grad():
        state = algorithm.start(case.meta, episode.noise)
        before = algorithm.params(case.meta, state)
        after = algorithm.params(case.meta, algorithm.adapted(case.meta, task, episode))
    if not (isinstance(before, dict) and isinstance(after, dict)):
        raise NotApplicable("its state has no parameters by name")
    still = [name for name in before if name in after and not algorithm.adapts(task, name)]
    if not still:
        raise NotApplicable("all that it has adapts")
    return different([before[name] for name in still], [after[name] for name in still])


def _repeat(make: Make) -> float:
    bed = _trained_case(make, Curved(), Labels()).bed

    def result() -> Meta:
        algorithm = make(bed)
        state = Training(double(algorithm.init(SuiteTask(bed), seeds.generator(0, "init"))))
        gradients = Gradients(algorithm, partial(meta_gradient, bed))
        rule = Descent(algorithm.outer.over(20), state.meta, state.memory)
        for _ in train(
            state, episodes(bed, algorithm, lambda: state.meta, 0, 0), gradients, rule, 20, Validation(None, 1000)
        ):
            pass
        return state.meta, state.losses

    (one, losses), (other, again) = result(), result()
    return different(one, other) + float(losses != again)


def _step_zero(make: Make) -> float:
    case = case_of(make, Labels(), Curved())
    algorithm = case.algorithm.candidates()[0]
    found = trace(case.bed, algorithm, case.meta, case.tasks, 2)["loss"][:, 0]
    noise = algorithm.noise(shapes_of(case.meta), TASKS, seeds.generator("evaluate", case.bed.setting))
    task = SuiteTask(case.bed)
    with torch.no_grad():
        starts = [algorithm.start(case.meta, part(noise, t)) for t in range(TASKS)]
        queries = [task_of(case.episodes, t).query for t in range(TASKS)]
        seen = [algorithm.predict(case.meta, start, task, query) for start, query in zip(starts, queries, strict=True)]
        expected = [task.score(p, query)["loss"] for p, query in zip(seen, queries, strict=True)]
    return gap([found], [torch.stack(expected)])


def _predictor(case: Case) -> Callable[[Episode], Prediction]:
    """What the learner predicts for a task's query after K inner steps, whatever it trains on."""
    algorithm, task = case.algorithm.candidates()[0], SuiteTask(case.bed)

    def predicted(episode: Episode) -> Prediction:
        with torch.no_grad():
            return algorithm.predict(case.meta, algorithm.adapted(case.meta, task, episode), task, episode.query)

    return predicted


def _of_one(case: Case) -> Episode:
    """A task's episode with at least one inner step, as at test."""
    episode = task_of(case.episodes, 0)
    if episode.support:
        return episode
    support = case.bed.collect(case.tasks, {}, "support", 0, seeds.generator("certify"))
    return episode._replace(support=(part(support, 0),))


def _reordered(make: Make) -> float:
    case = case_of(make, Curved(), Clusters())
    if case.algorithm.order_matters:
        raise NotApplicable("it says that the order matters")
    episode, predicted = _of_one(case), _predictor(case)
    turned = episode._replace(support=tuple(tree_map(lambda x: x.flip(0), data) for data in episode.support))
    return gap(tree_leaves(predicted(turned)), tree_leaves(predicted(episode)))


def _padded(make: Make) -> float:
    case = case_of(make, Ragged())
    episode, predicted = _of_one(case), _predictor(case)
    bare = episode._replace(support=tuple(Pairs(data.x[data.mask], data.y[data.mask]) for data in episode.support))
    return gap(tree_leaves(predicted(episode)), tree_leaves(predicted(bare)))


def _told(make: Make) -> float:
    case = case_of(make, Curved(), Clusters())
    episode, predicted = _of_one(case), _predictor(case)
    y = episode.query.y
    other = (y + 1) % case.bed.ways if isinstance(case.bed, Labels) else y + 1
    return different(predicted(episode), predicted(episode._replace(query=episode.query._replace(y=other))))


def _overheard(make: Make) -> float:
    case = case_of(make, Curved(), Clusters())
    episode, predicted = _of_one(case), _predictor(case)
    x = episode.query.x.clone()
    x[-1] += 1
    before, after = (predicted(e) for e in (episode, episode._replace(query=episode.query._replace(x=x))))
    return gap([a[:-1] for a in tree_leaves(after)], [b[:-1] for b in tree_leaves(before)])


def _relabelled(pairs: Pairs) -> Pairs:
    return pairs._replace(y=RENAMED[pairs.y])


def _equivariant(case: Case) -> bool:
    """Whether classes under other names in the support get the same probabilities under those names."""
    episode, predicted = _of_one(case), _predictor(case)
    renamed = episode._replace(support=tuple(map(_relabelled, episode.support)))
    before, after = predicted(episode), predicted(renamed)
    return gap([after[:, RENAMED]], [before]) <= EXACT  # type: ignore[call-overload,list-item]  # log-probabilities


def _labels(make: Make, together: bool) -> float:
    case = _trained_case(make, Labels())
    if together and tree_leaves(case.episodes.noise):
        raise NotApplicable("its tasks draw noise, which would have to be permuted too")
    if not together and _equivariant(case):
        raise NotApplicable("it does not care what a class is called")
    moved = case.episodes._replace(
        support=tuple(map(_relabelled, case.episodes.support)), query=_relabelled(case.episodes.query)
    )

    shapes = {name: p.shape for name, p in case.bed.new_params(seeds.generator("certify")).items() if "head." in name}

    def reorder(path: Any, leaf: Tensor) -> Tensor:
        shape = next((shapes[k.key] for k in path if getattr(k, "key", None) in shapes), None)
        if shape is None or leaf.shape[-len(shape) :] != shape:  # such as a matrix that a gradient is multiplied by
            return leaf
        return leaf.index_select(leaf.dim() - len(shape), RENAMED.argsort())  # an ensemble's members come before

    meta = tree_map_with_path(reorder, case.meta) if together else case.meta
    changed = case._replace(meta=meta, episodes=moved)
    found = gap([_total(case, case.meta)], [_total(changed, changed.meta)])
    if together and found > EXACT and not _heads_slope(case):
        raise NotApplicable("it does not answer by the suite's head")
    return found


def _heads_slope(case: Case) -> float:
    """The largest slope of the loss with respect to what is called after the suite's head."""
    names = [name for name, _ in named_leaves(case.meta)]
    slopes = [
        g for name, g in zip(names, _gradient(case)[1:], strict=True) if "head" in name.replace(".", "/").split("/")
    ]
    return max((g.abs().max().item() for g in slopes), default=0.0)


def _acting(make: Make) -> float:
    return max(_off_frozen(acting_case(make, estimator=name)) for name in get_args(Estimator))


def _recorded(make: Make) -> float:
    """The policies that acted have weight 1, so that the loss is minus the mean advantage."""
    case = acting_case(make)
    if type(case.algorithm).meta_loss is not Learner.meta_loss and case.algorithm.steps:
        raise NotApplicable("its meta-loss is its own")
    query = case.episodes.query
    expected = -((query.advantages * query.mask).flatten(1).sum(1) / query.mask.flatten(1).sum(1)).mean()
    size = (query.advantages.abs() * query.mask).sum() / query.mask.sum()
    return float((_total(case, case.meta) - expected).abs() / size)
