"""Whether a network can be trained here, and how: tried on two tasks before anything is planned with it.

What vmap cannot take goes task by task; what cannot be differentiated, draws behind our back or keeps a state of its
own is refused, with the layer's name.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from bench.core import modules, seeds
from bench.core.errors import BenchError, PluginError
from bench.core.layers import Written
from bench.core.task import SuiteTask
from bench.core.trees import named_leaves, tree_flatten, tree_leaves, tree_map, tree_unflatten
from bench.core.types import Interactive, Learner, Suite
from bench.learning.batches import episodes
from bench.learning.engines.vectorised import meta_gradient
from bench.learning.evaluate import trace

OURS = ("algorithms", "suites")  # packages whose networks are tried by their tests
Trial = Callable[[nn.Module, tuple[Any, ...]], object]


def why_by_task(suite: Suite, algorithm: Learner) -> str:
    """Why tasks must be computed one after the other, "" where they need not.

    Args:
        suite: as the algorithm is trained on it.
        algorithm: that is to meet it.

    Raises:
        PluginError: a layer cannot be trained at all.
    """
    refuse(suite)
    if all(type(one).__module__.partition(".")[0] in OURS for one in (suite, algorithm)) or not algorithm.trains:
        return ""
    if isinstance(suite, Interactive) and suite.plain:  # acting takes its time, and there is nothing to be found
        return ""
    try:
        trial = _Trial(suite, algorithm)
    except BenchError:
        raise
    except (Exception, SystemExit):  # of a stranger's code: the cell tells of it, and the others go on
        return ""
    try:
        trial.run(by_task=False)
    except BenchError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(suite, Interactive):
            return _refused(suite, error)
        reason = f"vmap cannot take {_culprit(suite, _vectorised) or 'what is computed'}: {_first_line(error)}"
    else:
        if isinstance(suite, Interactive) or not trial.differs():
            return ""
        reason = f"vmap computes another meta-gradient than one task after the other, in {_culprit(suite, _vectorised)}"
    try:
        trial.run(by_task=True)
    except BenchError:
        raise
    except (Exception, SystemExit) as error:
        return _refused(suite, error)
    return reason


def refuse(suite: Suite) -> None:
    """Refuses a network that the suite's tasks cannot be learned with.

    Raises:
        PluginError: running statistics are wanted of layers that keep none, or actions depend on what is drawn or on a
            batch.
    """
    layers = modules.batch_norms(suite.skeleton)
    if isinstance(suite, Interactive) and layers:
        raise PluginError(
            f"the layer {next(iter(layers))!r} normalises by the batch, of which a policy has another when it "
            "acts than when it learns. Use LayerNorm or GroupNorm."
        )
    if isinstance(suite, Interactive) and suite.draws:
        raise PluginError(
            "the network drops at random, so that what acts is not what learns. Take dropout out of the policy."
        )
    untracked = [name for name, tracks in layers.items() if not tracks]
    if suite.norm == "inductive" and untracked:
        raise PluginError(
            f"norm = 'inductive' wants running statistics, and the layer {untracked[0]!r} keeps none. Build it with "
            "track_running_stats=True, or declare norm = 'transductive'."
        )


class _Trial:
    """A meta-gradient and scores of two tasks."""

    def __init__(self, suite: Suite, algorithm: Learner) -> None:
        self.suite, self.algorithm = suite, replace(algorithm, meta_batch=2)
        self.meta = algorithm.init(SuiteTask(suite), seeds.generator("trial"))

    def run(self, *, by_task: bool) -> None:
        """Computes them.

        Raises:
            PluginError: the network has drawn random numbers, or changed its own values.
            Exception: whatever cannot be computed.
        """
        before, drawn = tree_map(torch.clone, self.meta), torch.get_rng_state()
        with torch.random.fork_rng(devices=[]):
            self._gradient(lambda x: x, by_task=by_task)
            if not isinstance(self.suite, Interactive):
                tasks = self.suite.sample(2, "validation", seeds.generator("trial"))
                kept = modules.statistics(self.suite.skeleton)
                trace(self.suite, self.algorithm, self.meta, tasks, 1, kept=kept, by_task=by_task)
            moved = not torch.equal(drawn, torch.get_rng_state())
        if moved:
            raise PluginError(
                f"{_culprit(self.suite, _without_drawing) or 'the learner'} draws from torch's global generator, so "
                "that no run could be repeated or resumed. Use nn.Dropout, whose draws are the cell's, or noise of a "
                "learner."
            )
        pairs = zip(named_leaves(before), tree_leaves(self.meta), strict=True)
        changed = [name for (name, old), new in pairs if not torch.equal(old, new)]
        if changed:
            raise PluginError(
                f"the network changes {changed[0].strip('/')!r} whenever it is run: a state of its own, which no "
                "learner can hold. Take it out, or compute it from the input."
            )

    def differs(self) -> bool:
        """Whether vmap gives another meta-gradient than one task after the other, in float64 where that can be."""
        for cast in (_double, lambda x: x):
            with contextlib.suppress(Exception), torch.random.fork_rng(devices=[]):
                one, other = (self._gradient(cast, by_task=by_task) for by_task in (False, True))
                return not _alike(one, other)
        return False

    def _gradient(self, cast: Callable[[Any], Any], *, by_task: bool) -> list[Tensor]:
        meta = tree_map(cast, self.meta)
        batch = tree_map(cast, next(episodes(self.suite, self.algorithm, lambda: self.meta, 0, 0)))
        return tree_leaves(meta_gradient(self.suite, self.algorithm, by_task=by_task)(meta, batch))


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def _alike(one: list[Tensor], other: list[Tensor]) -> bool:
    distance = sum((a - b).square().sum().item() for a, b in zip(one, other, strict=True)) ** 0.5
    size = sum(b.square().sum().item() for b in other) ** 0.5
    return not distance > size * (1e-8 if one[0].dtype == torch.float64 else 1e-3)  # what is not a number is no news


def _refused(suite: Suite, error: Exception | SystemExit) -> str:
    """Refuses a network that can't be trained; "" where the fault is not the network's, of which the cell will tell.

    Raises:
        PluginError: a layer fails on its own.
    """
    layer = _culprit(suite, _differentiated)
    if not layer:
        return ""
    raise PluginError(
        f"{layer} cannot be trained: {_first_line(error)}. A meta-gradient takes it twice differentiated, and its "
        "values from outside. Replace it with layers of torch.nn, or write it with operations that have both."
    ) from error


def _culprit(suite: Suite, trial: Trial) -> str:
    """The first layer, in the order of the network, that fails a trial on its own; "" if none does."""
    for name, layer, inputs in _calls(suite):
        try:
            trial(layer, inputs)
        except Exception:
            return f"the layer {name!r} ({type(layer).__name__})" if name else f"the network ({type(layer).__name__})"
    return ""


def _calls(suite: Suite) -> list[tuple[str, nn.Module, tuple[Any, ...]]]:
    """The network's innermost layers as they are called for an example, with their inputs; then the network."""
    net, found = suite.skeleton, []

    def note(name: str) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            found.append((name, layer, tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, inputs)))

        return hook

    named = [(name, layer) for name, layer in net.named_modules() if name]
    handles = [layer.register_forward_pre_hook(note(name)) for name, layer in named]
    handles.append(net.register_forward_pre_hook(note("")))
    try:
        with contextlib.suppress(Exception), torch.random.fork_rng(devices=[]):
            suite.predict(suite.new_params(seeds.generator("trial")), suite.example("query"))
    finally:
        for handle in handles:
            handle.remove()
    inside = [call for call in found if not any(True for _ in call[1].children())]
    return [*inside, *(call for call in reversed(found) if call not in inside)]


def _run(layer: nn.Module, values: dict[str, Tensor], inputs: tuple[Any, ...]) -> Tensor:
    with Written():
        outputs = functional_call(layer, values, inputs)
    return torch.stack([x.sum() for x in tree_leaves(outputs) if isinstance(x, Tensor) and x.is_floating_point()]).sum()


def _split(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a layer's gradient is taken of, and its buffers, in the precision of its inputs."""
    dtype = next((x.dtype for x in tree_leaves(inputs) if isinstance(x, Tensor) and x.is_floating_point()), None)

    def copy(x: Tensor) -> Tensor:
        return x.detach().to(dtype=dtype if x.is_floating_point() else None, copy=True)

    return (
        {name: copy(p) for name, p in layer.named_parameters()},
        {name: copy(b) for name, b in layer.named_buffers()},
    )


def _differentiated(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    params, buffers = _split(layer, inputs)
    leaves, spec = tree_flatten(inputs)
    moving = [i for i, x in enumerate(leaves) if isinstance(x, Tensor) and x.is_floating_point()]

    def value(own: dict[str, Tensor], given: list[Tensor]) -> Tensor:
        whole = list(leaves)
        for i, x in zip(moving, given, strict=True):
            whole[i] = x
        return _run(layer, {**own, **buffers}, tree_unflatten(whole, spec)).sin()

    def steepness(*both: Any) -> Tensor:
        return torch.stack([slope.square().sum() for slope in tree_leaves(grad(value, (0, 1))(*both))]).sum()

    grad(steepness, (0, 1))(params, [leaves[i] for i in moving])


def _vectorised(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    params, buffers = _split(layer, inputs)
    live = {name: p.requires_grad_() for name, p in params.items()}
    leaves, spec = tree_flatten(inputs)
    moving = [i for i, x in enumerate(leaves) if isinstance(x, Tensor) and x.is_floating_point()]
    scale = torch.ones((), dtype=leaves[moving[0]].dtype if moving else None, requires_grad=True)
    stacks = [torch.stack([leaves[i], leaves[i].flip(0)]) for i in moving]

    def steepness(given: list[Tensor]) -> Tensor:
        whole = list(leaves)
        for i, x in zip(moving, given, strict=True):
            whole[i] = x

        def value(own: dict[str, Tensor], factor: Tensor) -> Tensor:
            scaled = [factor * x if i in moving else x for i, x in enumerate(whole)]
            return _run(layer, {**own, **buffers}, tree_unflatten(scaled, spec)).sin()

        return torch.stack([slope.square().sum() for slope in tree_leaves(grad(value, (0, 1))(live, scale))]).sum()

    # As the engine does it: plain autograd of what vmap and grad have made.
    ways = (vmap(steepness)(stacks).sum(), steepness([x[0] for x in stacks]) + steepness([x[1] for x in stacks]))
    found = [torch.autograd.grad(way, [*live.values(), scale], materialize_grads=True) for way in ways]
    if not _alike(*map(list, found)):
        raise RuntimeError("another derivative under vmap")


def _without_drawing(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    before = torch.get_rng_state()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        params, buffers = _split(layer, inputs)
        _run(layer, {**params, **buffers}, inputs)
        if not torch.equal(before, torch.get_rng_state()):
            raise RuntimeError("it draws")


def _first_line(error: Exception | SystemExit) -> str:
    line = str(error).strip().partition("\n")[0] or "no message"
    return shorten(f"{type(error).__name__}: {line}", 200, placeholder=" ...").rstrip(".")
