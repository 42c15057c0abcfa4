"""Which layer it is: each of a network's is tried on its own, with the inputs that it has in the whole."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from bench.core import seeds
from bench.core.layers import Written
from bench.core.trees import tree_flatten, tree_leaves, tree_map, tree_unflatten
from bench.core.types import Suite

Trial = Callable[[nn.Module, tuple[Any, ...]], object]


def culprit(suite: Suite, trial: Trial) -> str:
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
    return torch.stack([x.sum() for x in tree_leaves(outputs) if _is_number(x)]).sum()


def _split(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a layer's gradient is taken of, and its buffers, in the precision of its inputs."""
    dtype = next((x.dtype for x in tree_leaves(inputs) if _is_number(x)), None)

    def copy(x: Tensor) -> Tensor:
        return x.detach().to(dtype=dtype if x.is_floating_point() else None, copy=True)

    return (
        {name: copy(p) for name, p in layer.named_parameters()},
        {name: copy(b) for name, b in layer.named_buffers()},
    )


def differentiated(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Raises where a layer cannot be differentiated twice."""
    params, buffers = _split(layer, inputs)
    leaves, spec = tree_flatten(inputs)
    moving = [i for i, x in enumerate(leaves) if _is_number(x)]

    def value(own: dict[str, Tensor], given: list[Tensor]) -> Tensor:
        whole = list(leaves)
        for i, x in zip(moving, given, strict=True):
            whole[i] = x
        return _run(layer, {**own, **buffers}, tree_unflatten(whole, spec)).sin()

    def steepness(*both: Any) -> Tensor:
        return torch.stack([slope.square().sum() for slope in tree_leaves(grad(value, (0, 1))(*both))]).sum()

    grad(steepness, (0, 1))(params, [leaves[i] for i in moving])


def vectorised(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Raises where vmap cannot take a layer, or gives it another second derivative."""
    params, buffers = _split(layer, inputs)
    live = {name: p.requires_grad_() for name, p in params.items()}
    leaves, spec = tree_flatten(inputs)
    moving = [i for i, x in enumerate(leaves) if _is_number(x)]
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
    if not alike(*map(list, found)):
        raise RuntimeError("another derivative under vmap")


def without_drawing(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Raises where a layer draws from torch's global generator."""
    before = torch.get_rng_state()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        params, buffers = _split(layer, inputs)
        _run(layer, {**params, **buffers}, inputs)
        if not torch.equal(before, torch.get_rng_state()):
            raise RuntimeError("it draws")


def _is_number(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def alike(one: list[Tensor], other: list[Tensor]) -> bool:
    """Whether two gradients are the same but for rounding."""
    distance = sum((a - b).abs().square().sum().item() for a, b in zip(one, other, strict=True)) ** 0.5
    size = sum(b.abs().square().sum().item() for b in other) ** 0.5
    return not distance > size * (1e-8 if one[0].dtype == torch.float64 else 1e-3)  # what is not a number is no news
