"""Loss -> gradient, in three ways that differ only in how the result is differentiated again.

How an inner step is differentiated is what separates MAML from FOMAML and a cheap second order from a dear one, so it
is an operator that algorithms name, not code that each of them writes. Letters: T tasks.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from bench.core.types import Data, GradientName, Loss, Params

Gradient = Callable[[Params, Data], Params]


def gradient(name: GradientName, loss: Loss) -> Gradient:
    """∇loss with respect to the parameters that adapt, as a function (params, data) -> {name: tensor}.

    Args:
        name: `first_order` is a constant to whatever differentiates it next (Finn et al. 2017, section 5.2); `reverse`
            is differentiated by a second reverse pass; `mixed` by a forward-over-reverse Hessian-vector product that
            keeps nothing of the pass but its inputs (Kemaev et al. 2025, arXiv:2505.00793).
        loss: the loss of one task; `mixed` needs one that closes over no tensor, since it is evaluated anew.
    """
    return {"first_order": _first_order, "reverse": _reverse, "mixed": _mixed}[name](loss)


def descend(params: Params, gradients: Params, rate: float | Tensor | Params) -> Params:
    """θ − rate · g for the parameters that have a gradient; the others stay. `rate` may hold one tensor per name."""
    rates = rate if isinstance(rate, dict) else dict.fromkeys(gradients, rate)
    return {**params, **{name: params[name] - rates[name] * g for name, g in gradients.items()}}


def _split(loss: Loss, params: Params) -> tuple[Params, Params]:
    moving = {name: value for name, value in params.items() if loss.adaptable(name)}
    return moving, {name: value for name, value in params.items() if name not in moving}


def _reverse(loss: Loss) -> Gradient:
    def evaluate(params: Params, data: Data) -> Params:
        moving, fixed = _split(loss, params)
        result: Params = grad(lambda m: loss({**fixed, **m}, data))(moving)
        return result

    return evaluate


def _first_order(loss: Loss) -> Gradient:
    evaluate = _reverse(loss)
    return lambda params, data: {name: g.detach() for name, g in evaluate(params, data).items()}


def _mixed(loss: Loss) -> Gradient:
    def evaluate(params: Params, data: Data) -> Params:
        leaves, spec = torch.utils._pytree.tree_flatten(data)
        names = list(params)
        moving = [i for i, name in enumerate(names) if loss.adaptable(name)]

        def full(values: tuple[Tensor, ...], *rest: Tensor) -> tuple[Tensor, ...]:
            inputs = torch.utils._pytree.tree_unflatten(list(rest), spec)
            result = grad(lambda v: loss(dict(zip(names, v, strict=True)), inputs))(values)
            return tuple(result)

        results = _differentiable(full, moving, len(names), *params.values(), *leaves)
        return {names[i]: g for i, g in zip(moving, results, strict=True)}

    return evaluate


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
