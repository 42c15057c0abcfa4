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
from bench.core.errors import BenchError
from bench.core.task import SuiteTask
from bench.core.trees import named_leaves, tree_flatten, tree_leaves, tree_map, tree_unflatten
from bench.core.types import Interactive, Learner, Meta, Suite
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
        BenchError: a layer cannot be trained at all.
    """
    refuse(suite)
    if all(type(one).__module__.partition(".")[0] in OURS for one in (suite, algorithm)) or not algorithm.trains:
        return ""
    if isinstance(suite, Interactive) and suite.plain:  # acting takes its time, and there is nothing to be found
        return ""
    meta = algorithm.init(SuiteTask(suite), seeds.generator("trial"))
    try:
        _tried(suite, algorithm, meta, by_task=False)
    except Exception as error:
        reason = _first_line(error)
        if isinstance(suite, Interactive):
            raise _refusal(suite, meta, error) from error
        try:
            _tried(suite, algorithm, meta, by_task=True)
        except BenchError:
            raise
        except Exception as its:
            raise _refusal(suite, meta, its) from its
        return f"vmap cannot take {_culprit(suite, _vectorised) or 'what is computed'}: {reason}"
    return ""


def refuse(suite: Suite) -> None:
    """Refuses a network that the suite's tasks cannot be learned with.

    Raises:
        BenchError: running statistics are wanted of layers that keep none, or actions depend on what is drawn or on a
            batch.
    """
    layers = modules.batch_norms(suite.skeleton)
    if isinstance(suite, Interactive) and layers:
        raise BenchError(
            f"the layer {next(iter(layers))!r} normalises by the batch, of which a policy has another when it "
            "acts than when it learns. Use LayerNorm or GroupNorm."
        )
    if isinstance(suite, Interactive) and suite.draws:
        raise BenchError(
            "the network drops at random, so that what acts is not what learns. Take dropout out of the policy."
        )
    untracked = [name for name, tracks in layers.items() if not tracks]
    if suite.norm == "inductive" and untracked:
        raise BenchError(
            f"norm = 'inductive' wants running statistics, and the layer {untracked[0]!r} keeps none. Build it with "
            "track_running_stats=True, or declare norm = 'transductive'."
        )


def _tried(suite: Suite, algorithm: Learner, meta: Meta, *, by_task: bool) -> None:
    """A meta-gradient and scores of two tasks.

    Raises:
        BenchError: the network has drawn random numbers, or changed its own values.
        Exception: whatever cannot be computed.
    """
    before, drawn = tree_map(torch.clone, meta), torch.get_rng_state()
    small = replace(algorithm, meta_batch=2)
    batch = next(episodes(suite, small, lambda: meta, 0, 0))
    with torch.random.fork_rng(devices=[]):
        meta_gradient(suite, small, by_task=by_task)(meta, batch)
        if not isinstance(suite, Interactive):
            tasks = suite.sample(2, "validation", seeds.generator("trial"))
            trace(suite, small, meta, tasks, 1, kept=modules.statistics(suite.skeleton), by_task=by_task)
        moved = not torch.equal(drawn, torch.get_rng_state())
    if moved:
        raise BenchError(
            f"{_culprit(suite, _without_drawing) or 'the learner'} draws from torch's global generator, so that no run "
            "could be repeated or resumed. Use "
            "nn.Dropout, whose draws are the cell's, or a learner's noise."
        )
    pairs = zip(named_leaves(before), tree_leaves(meta), strict=True)
    changed = [name for (name, old), new in pairs if not torch.equal(old, new)]
    if changed:
        raise BenchError(
            f"the network changes {changed[0].strip('/')!r} whenever it is run: a state of its own, which no "
            "learner can hold. Take it out, or compute it from the input."
        )


def _refusal(suite: Suite, meta: Meta, error: Exception) -> Exception:
    """What to tell of a network that can't be trained; the error itself where it is not the network's."""
    layer = _culprit(suite, _differentiated)
    if not layer:
        return error
    return BenchError(
        f"{layer} cannot be trained: {_first_line(error)}. A meta-gradient takes it twice differentiated, and "
        "its values from outside. Replace it with layers of torch.nn, or write it with operations that have both."
    )


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
    with modules.Written():
        outputs = functional_call(layer, values, inputs)
    return torch.stack([x.sum() for x in tree_leaves(outputs) if isinstance(x, Tensor) and x.is_floating_point()]).sum()


def _split(layer: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a layer's gradient is taken of, and its buffers."""
    params = {name: p.detach().clone() for name, p in layer.named_parameters()}
    return params, {name: b.clone() for name, b in layer.named_buffers()}


def _differentiated(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    params, buffers = _split(layer)
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
    params, buffers = _split(layer)
    stacks = tree_map(lambda x: torch.stack([x, x]) if isinstance(x, Tensor) else x, (params, inputs))
    axes = tree_map(lambda x: 0 if isinstance(x, Tensor) else None, stacks)
    vmap(lambda p, x: grad(lambda q: _run(layer, {**q, **buffers}, x))(p) if p else _run(layer, buffers, x), axes)(
        *stacks
    )


def _without_drawing(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    before = torch.get_rng_state()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        _run(layer, {}, inputs)
        if not torch.equal(before, torch.get_rng_state()):
            raise RuntimeError("it draws")


def _first_line(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0] or "no message"
    return shorten(f"{type(error).__name__}: {line}", 200, placeholder=" ...").rstrip(".")
