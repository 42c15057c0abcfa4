"""The certificate of a stranger's training step: is its meta-gradient that of the loss after adaptation?

Whoever wrote a MAML of their own finds out whether it is second order, first order, or neither. Everything is measured
in float64 on one regression task with a smooth network, so that a Hessian is there to be seen.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.certificate.algorithms import StopGradients
from bench.certificate.beds import Curved
from bench.certificate.checks import DIFFERENCES, Check
from bench.core import seeds
from bench.core.discovery import module_of
from bench.core.errors import BenchError, unknown
from bench.core.trees import part, tree_leaves
from bench.core.types import Params

FORM = (
    "It is called as step(parameters, support, query): parameters, those of nn.Sequential(nn.Linear(1, 6), nn.Tanh(), "
    "nn.Linear(6, 1)) by name, float64, requiring gradients; support and query, pairs (x, y), [5, 1] each. It adapts "
    "to the support and returns the query's loss, a scalar with its graph."
)
Step = Callable[[Params, tuple[Tensor, Tensor], tuple[Tensor, Tensor]], Tensor]


def step_checks(place: str) -> Iterator[Check]:
    """What the function at FILE:FUNCTION computes, held to central differences.

    Raises:
        BenchError: there is no such function, or it is not of the form that FORM describes.
    """
    step = _found(place)
    bed = Curved()
    params = bed.new_params(seeds.generator("certify", "step"))
    tasks = bed.sample(1, "train", seeds.generator("certify", "task"))
    support, query = (tuple(part(bed.look_up(tasks, role), 0)) for role in ("support", "query"))

    def loss(live: Params) -> Tensor:
        return _called(step, dict(live), support, query, place)

    live = _live(params)
    try:
        gradient = _gradient(loss(live), live)
    except RuntimeError as error:  # such as parameters that were changed in place
        yield Check("a gradient reaches the parameters", str(error).splitlines()[0][:100], "", "FAULT")
        return
    if not any(g is not None and bool(g.any()) for g in gradient.values()):
        lost = all(g is None for g in gradient.values())
        reason = "the loss has no graph back to them" if lost else "all of it is zero"
        yield Check("a gradient reaches the parameters", reason, "", "FAULT")
        return
    yield Check("a gradient reaches the parameters", "", "", "pass")
    whole = {name: torch.zeros_like(params[name]) if g is None else g for name, g in gradient.items()}
    exact = _off(whole, params, lambda values: loss(_live(values)).item())
    verdict = "pass" if exact <= DIFFERENCES else "FAULT"
    yield Check("second order: central differences", f"{exact:.1e}", f"≤ {DIFFERENCES:.0e}", verdict)
    if verdict == "pass":
        return
    constants = _Constants()
    with constants:
        loss(live)

    def as_before(values: Params) -> float:
        moved = _live(values)
        with constants.replay():
            return loss(moved).item()

    first = _off(whole, params, as_before)
    if first <= DIFFERENCES:
        name = "it is FIRST ORDER: the inner gradient is a constant (create_graph=True is missing, or it was detached)"
    else:
        name = "it is of neither order: something else than the inner gradient is cut off, or changed in place"
    yield Check(name, f"{first:.1e}", f"≤ {DIFFERENCES:.0e}", "FAULT")


def _found(place: str) -> Step:
    file, colon, name = place.rpartition(":")
    if not colon or not file or not name:
        raise BenchError(f"--step {place} is not FILE:FUNCTION. Write --step my_maml.py:step. {FORM}")
    if not Path(file).is_file():
        raise BenchError(f"--step {place}: {file} is not a file. Write --step my_maml.py:step.")
    module = module_of(Path(file).absolute())
    step = getattr(module, name, None)
    if not callable(step):
        own = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        raise unknown(f"function in {file}", name, own, FORM)
    found: Step = step
    return found


def _live(values: Params) -> Params:
    return {name: value.detach().clone().requires_grad_() for name, value in values.items()}


def _called(step: Step, live: Params, support: Any, query: Any, place: str) -> Tensor:
    try:
        with torch.enable_grad():
            loss = step(live, support, query)
    except Exception as error:
        raise BenchError(f"{place} failed: {type(error).__name__}: {str(error).splitlines()[0]}. {FORM}") from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shape = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise BenchError(f"{place} returned {shape}, not a scalar loss. {FORM}")
    return loss.reshape(())


def _gradient(loss: Tensor, live: Params) -> dict[str, Tensor | None]:
    if not loss.requires_grad:
        return dict.fromkeys(live)
    found = torch.autograd.grad(loss, list(live.values()), allow_unused=True)
    return dict(zip(live, found, strict=True))


def _off(gradient: Params, params: Params, value: Callable[[Params], float]) -> float:
    """The largest gap between ⟨gradient, d⟩ and a central difference along d, over the gradient's norm."""
    generator, worst = seeds.generator("certify", "directions"), 0.0
    size = float(sum(g.square().sum().item() for g in gradient.values()) ** 0.5)
    for _ in range(8):
        direction = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in params.items()}
        length = sum(d.square().sum().item() for d in direction.values()) ** 0.5
        up, down = (value({n: p + h / length * direction[n] for n, p in params.items()}) for h in (1e-5, -1e-5))
        along = sum((gradient[n] * d).sum().item() for n, d in direction.items()) / length
        worst = max(worst, abs((up - down) / 2e-5 - along))
    return worst / max(size, 1e-12)


class _Constants(StopGradients):
    """Likewise of inner gradients: what torch.autograd.grad gave is given again, whatever it is asked for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        wrapped = torch._C._functorch.is_functorch_wrapped_tensor
        if func is not torch.autograd.grad or any(map(wrapped, tree_leaves(args[0]))):  # torch.func.grad's own
            return super().__torch_function__(func, types, args, kwargs)
        if self.next is None:
            found = func(*args, **(kwargs or {}))
            self.kept.append(tuple(None if g is None else g.data for g in found))
            return found
        self.next += 1
        return self.kept[self.next - 1]
