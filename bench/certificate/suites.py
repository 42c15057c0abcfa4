"""The certificate of a suite: frozen tasks, shapes, splits, normalisation."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.functional import one_hot

from algorithms.maml import MAML
from bench.certificate import process
from bench.certificate.checks import ORDER, Check, NotApplicable, checked, different, gap
from bench.certificate.tasks import task_checks
from bench.core import seeds
from bench.core.discovery import build
from bench.core.errors import BenchError, PluginError
from bench.core.stream import Stream
from bench.core.task import SuiteTask
from bench.core.trees import double, tree_flatten, tree_leaves, tree_map, tree_unflatten
from bench.core.types import Data, Interactive, Params, Role, Suite, Task
from bench.learning.batches import episodes
from bench.learning.engines.vectorised import meta_gradient
from bench.learning.evaluate import manifest
from bench.planning import networks

JUDGED = 500  # tasks on which who knows nothing is scored
MOST_OFF = 5.0  # standard errors
SAME = 1e-4  # to which numbers agree that only another number of threads has rounded otherwise


def suite_checks(suite: Suite, name: str) -> Iterator[Check]:
    """Frozen tasks, splits and normalisation of a suite."""
    trained = checked("its network, trained by MAML: vmap = one task after the other", ORDER, lambda: _network(suite))
    yield trained
    if trained.figure in (BenchError.__name__, PluginError.__name__):  # a layer that cannot be run at all
        return
    yield checked("its network built in another process: ‖a − b‖ / ‖b‖", SAME, lambda: _elsewhere(suite, name))
    yield checked("frozen tasks drawn twice: change", 0, lambda: _manifest(suite, name))
    yield from task_checks(suite, name)
    yield checked("shapes: one loss per example, a score per metric", 0, lambda: _shapes(suite))
    yield checked("padding filled with noise: change of losses, gradients and scores", 0, lambda: _padding(suite))
    yield checked("classes in two splits", 0, lambda: _overlap(suite))
    yield checked("floor = the score of who knows nothing, in standard errors", MOST_OFF, lambda: _floor(suite))
    yield checked("better: what is right scores better than the floor", 0, lambda: _better(suite), above=True)
    yield checked("oracle_view: tasks that differ in more than further inputs", 0, lambda: _oracle(suite))
    for norm, variant in {v.normalisation: v for v in suite.evaluations}.items():
        seen = norm == "transductive"
        yield checked(
            f"{norm}: other predictions when one query changes",
            1e-6 if seen else 0,
            partial(_normalisation, variant),
            above=seen,
        )


def _network(suite: Suite) -> float:
    """How far the meta-gradients of two tasks are apart, float64."""
    protocol = {key: setting.value for key, setting in suite.protocol.items()}
    algorithm: MAML = build(MAML, "maml", {"steps": 1, "meta_batch": 2}, protocol)
    if suite.kind == "control":
        networks.refuse(suite)
        raise NotApplicable("what is collected decides what is computed")
    if why := networks.why_by_task(suite, algorithm):
        raise NotApplicable(f"one task goes after the other, since {why}")
    meta = double(algorithm.init(SuiteTask(suite), seeds.generator("certify", "init")))
    batch = double(next(episodes(suite, algorithm, lambda: meta, 0, 0)))
    one, other = (meta_gradient(suite, algorithm, by_task=by_task)(meta, batch) for by_task in (False, True))
    return gap(tree_leaves(one), tree_leaves(other))


def _elsewhere(suite: Suite, name: str) -> float:
    """How far the network's first values and its prediction are from those that another process has."""
    if suite.kind == "control":
        raise NotApplicable("its data depend on what is done")
    made = process.network(suite), process.network_there(suite, name)
    return gap(*([torch.from_numpy(leaf) for leaf in leaves] for leaves in made))


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


def _padding(suite: Suite) -> float:
    """How many losses, gradients and scores are other bits when what is masked is noise."""
    if suite.kind == "control":
        raise NotApplicable("its losses are of the steps taken")
    task, wrong, masked = SuiteTask(suite), 0.0, False
    tasks = suite.sample(5, "train", seeds.generator("certify"))
    params = {
        name: p.requires_grad_(p.is_floating_point())
        for name, p in suite.new_params(seeds.generator("certify", "init")).items()
    }
    for role in get_args(Role):
        data = suite.collect(tasks, {}, role, 0, seeds.generator("certify"))
        for t in range(5):
            one = tree_map(lambda x, t=t: x[t], data)
            mask = suite.mask(one)
            if mask is None:
                continue
            masked = True
            filled = tree_map(partial(_filled, mask), one)
            wrong += different(*(_judgement(task, params, some) for some in (one, filled)))
    if not masked:
        raise NotApplicable("its tasks do not differ in size")
    return wrong


def _filled(mask: Tensor, leaf: Tensor) -> Tensor:
    """A part of the data with noise in place of padding."""
    if not leaf.is_floating_point() or leaf.shape[:1] != mask.shape:
        return leaf
    noise = torch.randn(leaf.shape, generator=seeds.generator("certify", "noise"), dtype=leaf.dtype)
    return torch.where(mask.view(-1, *(1,) * (leaf.dim() - 1)), leaf, noise)


def _judgement(task: SuiteTask, params: Params, data: Data) -> tuple[Any, ...]:
    loss = task.loss(params, data)
    slopes = torch.autograd.grad(
        loss, [p for name, p in params.items() if task.adaptable(name)], materialize_grads=True
    )
    return loss.detach(), slopes, task.score(task.predict(params, data), data)


def _judged(suite: Suite, name: str, answer: Callable[[Task, Data], Tensor]) -> Tensor:
    """The headline scores of an answer to the query of many test tasks, [T]."""
    if suite.kind == "control":
        raise NotApplicable(f"{name} depends on what is done, which no answer stands for")
    shown = suite.evaluations[0]
    tasks = shown.sample(JUDGED, "test", seeds.generator("certify", "floor"))
    query = shown.collect(tasks, {}, "query", 0, seeds.generator("certify", "floor"))
    score, task = shown.metrics[0].name, SuiteTask(shown)
    return vmap(lambda data: shown.score(answer(task, data), data)[score])(query).double()


def _floor(suite: Suite) -> float:
    """By how many standard errors the floor is off the score of a constant: zeros, all targets' mean, chance."""
    if math.isnan(suite.floor):
        raise NotApplicable("it states none")

    def chance(task: Task, data: Data) -> Tensor:
        return torch.log_softmax(torch.zeros(len(task.targets(data)), task.outputs), -1)

    def constant(value: Tensor | float) -> Callable[[Task, Data], Tensor]:
        return lambda task, data: torch.zeros_like(task.targets(data)) + value

    guesses: list[Callable[[Task, Data], Tensor]] = [chance] if suite.kind == "classification" else [constant(0.0)]
    if suite.kind == "regression":
        tasks = suite.sample(JUDGED, "test", seeds.generator("certify", "mean"))
        seen = suite.collect(tasks, {}, "query", 0, seeds.generator("certify", "mean"))
        guesses.append(constant(_numbers(suite.targets(seen).flatten(0, 1)).mean(0)))
    sign = 1 if suite.metrics[0].better == "lower" else -1
    off: list[float] = []
    for guess in guesses:
        scores = _judged(suite, "the floor", guess)
        easier = sign * (suite.evaluations[0].floor - scores.mean().item())
        error = scores.std().item() / len(scores) ** 0.5
        off.append(easier / error if error > 1e-6 else 1e9 * easier if abs(easier) > 1e-4 else 0.0)
    nearest = min(off, key=abs)
    if nearest < -MOST_OFF and max(off) < 0:
        raise NotApplicable("it is harder than any constant, and who reaches it cannot be known here")
    return abs(nearest)


def _numbers(targets: Tensor) -> Tensor:
    """Targets as a network predicts them: those of several labels for an example are whole numbers."""
    return targets if targets.is_floating_point() else targets.float()


def _better(suite: Suite) -> float:
    """By how much the targets themselves score better than the floor, in the direction that the suite declares."""

    def right(task: Task, data: Data) -> Tensor:
        targets = task.targets(data)
        if task.kind == "classification":
            return torch.log_softmax(50.0 * one_hot(targets, task.outputs), -1)
        return _numbers(targets)

    gained = _judged(suite, "what is right", right).mean().item() - suite.evaluations[0].floor
    return gained if suite.metrics[0].better == "higher" else -gained


def _oracle(suite: Suite) -> float:
    """How many of the support and the query of the same tasks are not the same with further inputs."""
    if not hasattr(suite, "oracle_view"):
        raise NotApplicable("it has none")
    told = suite.oracle_view()
    if suite.kind == "control":  # what is observed depends on the learner, so that the tasks alone can be compared
        return different(*(view.sample(5, "test", seeds.generator("certify")) for view in (suite, told)))
    wrong = 0
    for role in get_args(Role):
        plain, more = (
            view.collect(view.sample(5, "test", seeds.generator("certify")), {}, role, 0, seeds.generator("certify"))
            for view in (suite, told)
        )
        x, further = suite.inputs(plain), told.inputs(more)
        wrong += not torch.equal(suite.targets(plain), told.targets(more))
        wrong += further.shape[-1] <= x.shape[-1] or not torch.equal(further[..., : x.shape[-1]], x)
    return float(wrong)


def _overlap(suite: Suite) -> float:
    classes_of = getattr(suite, "classes_of", None)
    if isinstance(suite, Stream):
        raise NotApplicable("its tasks come one after the other, and are scored before they are learned from")
    if classes_of is None:
        raise NotApplicable("its tasks are drawn from a continuum")
    if getattr(suite, "split", "") == "within":
        raise NotApplicable("it tests on other images of the same classes")
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
    whole = [i for i, leaf in enumerate(leaves) if leaf.dim()]
    first = next((i for i in whole if leaves[i].is_floating_point()), whole[0])
    changed = leaves[first].clone()
    if changed.is_floating_point():
        changed[-1] = torch.rand(changed[-1].shape, generator=seeds.generator("certify", "noise"))
    else:
        changed[-1] = changed[0]  # noise may be no word
    with torch.no_grad():
        before = suite.predict(params, data)
        after = suite.predict(params, tree_unflatten([*leaves[:first], changed, *leaves[first + 1 :]], spec))
    return (before - after)[:-1].abs().max().item()
