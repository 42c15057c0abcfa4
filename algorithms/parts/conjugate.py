"""Conjugate gradient, for vmap: a fixed number of iterations, and none that divides by zero."""

from collections.abc import Callable

import torch
from torch import Tensor

from bench.core.types import Params


def conjugate_gradient(product: Callable[[Params], Params], b: Params, iterations: int) -> Params:
    """The x with product(x) ≈ b, for a symmetric positive product; exact after as many iterations as x has entries."""
    x, residual, direction = {name: torch.zeros_like(g) for name, g in b.items()}, b, b
    square = _dot(residual, residual)
    for _ in range(iterations):
        image = product(direction)
        size = _ratio(square, _dot(direction, image))
        x = {name: a + size * direction[name] for name, a in x.items()}
        residual = {name: r - size * image[name] for name, r in residual.items()}
        before, square = square, _dot(residual, residual)
        direction = {name: r + _ratio(square, before) * direction[name] for name, r in residual.items()}
    return x


def _dot(a: Params, b: Params) -> Tensor:
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """A / b; 0 where nothing is left to divide."""
    some = b != 0
    return torch.where(some, a / torch.where(some, b, torch.ones_like(b)), torch.zeros_like(a))
