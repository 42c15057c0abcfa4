"""A perceptron with two hidden layers of ReLU whose derivatives are cheap to take often at the same weights.

Where no unit crosses its kink, outputs are sums over paths, y_o = Σ W3_ok m_k (Σ_j W2_kj m_j (W1_jc x_c + ...) + ...),
with masks m of 0 and 1. What a product with a derivative needs of the examples is then known before the vector is: the
outputs' derivatives in the hidden units, and sums over examples for each triple of input, unit and unit. Of six
products of the second layer's size in a Hessian-vector product two are left.
Letters: N examples, C inputs, J and K hidden units, O outputs.
"""

from typing import Any

import torch
from torch import Tensor

PATHS = 16  # inputs, the constant included, times outputs: how many sums over examples still pay
Weights = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]  # [J, C], [J], [K, J], [K], [O, K], [O]


def perceptron(x: Tensor, weights: Weights) -> Tensor:
    """Outputs [..., O] of inputs [..., C], of which nothing is a function; differentiable twice in the weights."""
    output: Tensor = _Value.apply(x.flatten(0, -2), *weights)  # type: ignore[no-untyped-call]
    return output.view(*x.shape[:-1], -1)


def _hidden(x: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    w1, b1, w2, b2, *_ = weights
    first = torch.relu(x @ w1.t() + b1)
    return first, torch.relu(first @ w2.t() + b2)


def _masks(x: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    first, second = _hidden(x, weights)
    return (first > 0).to(x.dtype), (second > 0).to(x.dtype)


def _slopes(second: Tensor, first: Tensor, weights: Weights) -> list[Tensor]:
    """Of each output in the first layer before its kink, O times [N, J]."""
    return [first * ((second * row) @ weights[2]) for row in weights[4]]


class _Value(torch.autograd.Function):
    """The outputs, [N, O]."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *weights: Tensor) -> Tensor:
        return _hidden(x, weights)[1] @ weights[4].t() + weights[5]  # type: ignore[arg-type]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, w: Tensor) -> tuple[Any, ...]:
        x, *weights = ctx.saved_tensors
        return None, *_Pulled.apply(x, w, *weights)  # type: ignore[no-untyped-call]


class _Pulled(torch.autograd.Function):
    """Jᵀ w: of the weights' structure, w [N, O]."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, w: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        first, second = _hidden(x, weights)  # type: ignore[arg-type]
        on, upper = _masks(x, weights)  # type: ignore[arg-type]
        slopes = _slopes(upper, on, weights)  # type: ignore[arg-type]
        low = sum(w[:, o : o + 1] * slope for o, slope in enumerate(slopes))
        high = upper * (w @ weights[4])
        return low.t() @ x, low.sum(0), high.t() @ first, high.sum(0), w.t() @ second, w.sum(0)  # type: ignore[union-attr]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *v: Tensor) -> tuple[Any, ...]:
        x, w, *weights = ctx.saved_tensors
        return None, _Pushed.apply(x, *v, *weights), *_Curved.apply(x, w, *v, *weights)  # type: ignore[no-untyped-call]


class _Pushed(torch.autograd.Function):
    """J v, [N, O], v of the weights' structure."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *both: Tensor) -> Tensor:
        (v1, c1, v2, c2, v3, c3), weights = both[:6], both[6:]
        first, second = _hidden(x, weights)  # type: ignore[arg-type]
        on, upper = _masks(x, weights)  # type: ignore[arg-type]
        low = x @ v1.t() + c1
        below = [(slope * low).sum(1) for slope in _slopes(upper, on, weights)]  # type: ignore[arg-type]
        return torch.stack(below, 1) + (upper * (first @ v2.t() + c2)) @ weights[4].t() + second @ v3.t() + c3

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, w: Tensor) -> tuple[Any, ...]:
        x, *both = ctx.saved_tensors
        v, weights = both[:6], both[6:]
        return None, *_Pulled.apply(x, w, *weights), *_Curved.apply(x, w, *v, *weights)  # type: ignore[no-untyped-call]


class _Curved(torch.autograd.Function):
    """∂⟨w, J v⟩ / ∂weights, symmetric in v; w [N, O]."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, w: Tensor, *both: Tensor) -> tuple[Tensor, ...]:
        (v1, c1, v2, c2, v3, c3), weights = both[:6], both[6:]
        w1, b1, w2, _, w3, _ = weights
        on, upper = _masks(x, weights)  # type: ignore[arg-type]
        inputs = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        pairs = (w.unsqueeze(2) * inputs.unsqueeze(1)).flatten(1)  # [N, O (C + 1)]
        paths = (pairs.unsqueeze(2) * upper.unsqueeze(1)).flatten(1).t() @ on
        paths = paths.view(w.shape[1], inputs.shape[1], upper.shape[1], on.shape[1])  # [O, C + 1, K, J]
        constant = w.t() @ upper  # [O, K]
        here = (paths * torch.cat([w1, b1.unsqueeze(1)], 1).t().unsqueeze(1)).sum(1)  # [O, K, J]
        there = (paths * torch.cat([v1, c1.unsqueeze(1)], 1).t().unsqueeze(1)).sum(1)
        top = (v2 * here + w2 * there).sum(2) + c2 * constant
        middle = (v3.unsqueeze(2) * here + w3.unsqueeze(2) * there).sum(0)
        bottom = (paths * (v3.unsqueeze(2) * w2 + w3.unsqueeze(2) * v2).unsqueeze(1)).sum((0, 2)).t()  # [J, C + 1]
        return bottom[:, :-1], bottom[:, -1], middle, (v3 * constant).sum(0), top, torch.zeros_like(c3)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *v: Tensor) -> tuple[Any, ...]:
        x, w, *both = ctx.saved_tensors
        weights = both[6:]
        # A third derivative is not taken; should anybody take one, it shows.
        unknown = [torch.full_like(a, torch.nan) for a in (w, *weights)]
        return None, unknown[0], *_Curved.apply(x, w, *v, *weights), *unknown[1:]  # type: ignore[no-untyped-call]
