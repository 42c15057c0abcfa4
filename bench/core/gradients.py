"""∇loss, by operators that differ only in how the result is differentiated again.

How an inner step is differentiated is what separates MAML from FOMAML and a cheap second order from a dear one, so it
is an object that algorithms name, not code that each of them writes. Letters: T tasks.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor
from torch.func import grad, jvp, vmap

from bench.core.trees import tree_flatten, tree_unflatten
from bench.core.types import Data, Params

Loss = Callable[[Params, Data], Tensor]
Gradient = Callable[[Params, Data], Params]


class Operator(Protocol):
    """One way to differentiate what an inner step differentiates."""

    name: str
    exact: bool  # whether what it gives is differentiated again as it is

    def __call__(self, loss: Loss, adaptable: Callable[[str], bool]) -> Gradient:
        """The gradient of a loss that closes over no tensor in the parameters that are adaptable, by name."""
        ...


class Reverse:
    """Differentiated again by a second reverse pass."""

    name, exact = "reverse", True

    def __call__(self, loss: Loss, adaptable: Callable[[str], bool]) -> Gradient:
        """As of `Operator`."""

        def evaluate(params: Params, data: Data) -> Params:
            moving = {name: value for name, value in params.items() if adaptable(name)}
            result: Params = grad(lambda m: loss({**params, **m}, data))(moving)
            return result

        return evaluate


class FirstOrder(Reverse):
    """A constant to whatever differentiates it next (Finn et al. 2017, section 5.2)."""

    name, exact = "first_order", False

    def __call__(self, loss: Loss, adaptable: Callable[[str], bool]) -> Gradient:
        """As of `Operator`."""
        evaluate = super().__call__(loss, adaptable)
        return lambda params, data: {name: g.detach() for name, g in evaluate(params, data).items()}


class Mixed:
    """Differentiated again by a forward-over-reverse Hessian-vector product (Kemaev et al. 2025, arXiv:2505.00793).

    It keeps nothing of the pass but its inputs, and evaluates the loss anew.
    """

    name, exact = "mixed", True

    def __call__(self, loss: Loss, adaptable: Callable[[str], bool]) -> Gradient:
        """As of `Operator`."""

        def evaluate(params: Params, data: Data) -> Params:
            # Buffers of whole numbers have no gradient.
            whole = {name: p for name, p in params.items() if not p.is_floating_point()}
            leaves, spec = tree_flatten((data, whole))
            params = {name: p for name, p in params.items() if name not in whole}
            names = list(params)
            moving = [i for i, name in enumerate(names) if adaptable(name)]

            def full(values: tuple[Tensor, ...], *rest: Tensor) -> tuple[Tensor, ...]:
                inputs, fixed = tree_unflatten(list(rest), spec)
                result = grad(lambda v: loss({**dict(zip(names, v, strict=True)), **fixed}, inputs))(values)
                return tuple(result)

            results = _differentiable(full, moving, len(names), *params.values(), *leaves)
            return {names[i]: g for i, g in zip(moving, results, strict=True)}

        return evaluate


GradientName = Literal["first_order", "reverse", "mixed"]  # what a field `gradient` takes
OPERATORS: dict[str, Operator] = {operator.name: operator for operator in (FirstOrder(), Reverse(), Mixed())}


class Adapts(Protocol):
    """What an inner step descends on: a task, or a view of one."""

    def loss(self, params: Params, data: Data) -> Tensor:
        """A scalar; closes over no tensor, for the operator `mixed`."""
        ...

    def adaptable(self, name: str) -> bool:
        """Whether the parameter of this name is among those that the gradient is taken of."""
        ...


def gradient(operator: GradientName | Operator, task: Adapts) -> Gradient:
    """∇ of the task's loss with respect to the parameters that adapt, as a function (params, data) -> {name: tensor}.

    Args:
        operator: the name of one of OPERATORS, or any other object that keeps the protocol `Operator`.
        task: whose loss is differentiated, or anything else that has `loss` and `adaptable`.
    """
    chosen = OPERATORS[operator] if isinstance(operator, str) else operator
    return chosen(task.loss, task.adaptable)


# What a field `inner_clip` takes. By value, as the fast gradient of Finn et al. 2017 (arXiv:1709.04905), code, is cut.
InnerClip = Annotated[
    float | None,
    Field(gt=0, description="each entry of an inner step's gradient is cut to ± this (Finn et al. 2017b, code: 10)"),
]


def descend(params: Params, gradients: Params, rate: float | Tensor | Params, clip: float | None = None) -> Params:
    """θ − rate · g for the parameters that have a gradient; the others stay.

    Args:
        params: θ.
        gradients: g, of those that move.
        rate: one for all, or one tensor per name.
        clip: each entry of g is cut to ± this first, so that none that is cut moves with θ; None: none is.
    """
    rates = rate if isinstance(rate, dict) else dict.fromkeys(gradients, rate)
    if clip is not None:
        gradients = {name: g.clamp(-clip, clip) for name, g in gradients.items()}
    return {**params, **{name: params[name] - rates[name] * g for name, g in gradients.items()}}


class _ForwardOverReverse(torch.autograd.Function):
    """The `moving` components of full(values, *data), whose pullback is one jvp of `full`.

    A pullback v ↦ vᵀ ∂g/∂values needs no graph of g: the Hessian is symmetric, so it is ∂(∇loss)/∂values applied to v
    (zero where a parameter does not adapt), and the components for parameters that do not adapt come along.
    """

    @staticmethod
    def forward(full: Callable[..., Any], moving: list[int], count: int, *leaves: Tensor) -> tuple[Tensor, ...]:
        result = full(tuple(leaves[:count]), *leaves[count:])
        return tuple(result[i] for i in moving)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.full, ctx.moving, ctx.count, *leaves = inputs
        ctx.save_for_backward(*leaves)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        values, data = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        tangents = [torch.zeros_like(v) for v in values]
        for i, v in zip(ctx.moving, cotangents, strict=True):
            tangents[i] = v
        products = jvp(lambda *v: ctx.full(v, *data), tuple(values), tuple(tangents))[1]
        return None, None, None, *products, *(None for _ in data)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], full: Any, moving: Any, count: int, *leaves: Tensor) -> Any:
        # Written out, since jvp(vmap(grad)) compiles where vmap(jvp(grad)) does not, and only on contiguous stacks.
        dims = in_dims[3:]
        if all(d is None for d in dims):
            result = _differentiable(full, moving, count, *leaves)
            return result, (None,) * len(result)
        stacks = tuple(
            x.expand(info.batch_size, *x.shape).contiguous() if d is None else x.movedim(d, 0).contiguous()
            for x, d in zip(leaves, dims, strict=True)
        )
        in_dims_ = ((0,) * count, *(0 for _ in leaves[count:]))
        result = _differentiable(vmap(full, in_dims=in_dims_), moving, count, *stacks)
        return result, (0,) * len(result)


def _differentiable(*arguments: Any) -> tuple[Tensor, ...]:
    result: tuple[Tensor, ...] = _ForwardOverReverse.apply(*arguments)  # type: ignore[no-untyped-call]
    return result
