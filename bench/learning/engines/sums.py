"""Sums of many numbers in stages of few, for the compiler.

Its C++ adds up to 4096 float32 numbers one after the other, each sum rounded, where torch's own kernels sum in
cascades. A batch's mean and variance then are off by some 1e-6, of which second derivatives make 1e-5 and more, and
units that lie within it of their kink fall on the other side of it. Each stage here is short, so that the error grows
with the logarithm of how many there are.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

FEW = 16  # numbers added one after the other
LANES = 16  # of a vector register, which the compiler fills with neighbours in memory


def _sum(x: Tensor, dims: Sequence[int] | None = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    dims = _of(x, dims)
    many = [d for d in dims if x.shape[d] > 1]
    # A GPU's sums are trees already, and those of half precision are not rounded to it before their end.
    if x.is_cuda or dtype not in (None, x.dtype) or x.dtype not in (torch.float32, torch.float64) or not many:
        return NotImplemented
    inner = min(many, key=x.stride)
    if math.prod(x.shape[d] for d in many) <= FEW:
        return NotImplemented
    if len(many) > 1:
        x = x.sum(inner, keepdim=True)
    else:
        count, few = x.shape[inner], FEW * (LANES if x.stride(inner) == 1 else 1)
        if count <= few:
            return NotImplemented
        width = next((k for k in range(few, few // 2, -1) if count % k == 0), few)
        padding = (0, 0) * (x.dim() - 1 - inner) + (0, -count % width)
        x = (functional.pad(x, padding) if count % width else x).unflatten(inner, (-1, width)).sum(inner + 1)
    return x.sum(dims, keepdim)


def _mean(x: Tensor, dims: Sequence[int] | None = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    total = _sum(x, dims, keepdim, dtype=dtype)
    return total if total is NotImplemented else total / math.prod(x.shape[d] for d in _of(x, dims))


def _of(x: Tensor, dims: Sequence[int] | None) -> list[int]:
    """Which dimensions are meant: all where none is named."""
    return sorted(d % x.dim() for d in dims or range(x.dim()))


# Operators by what the compiler is given in their place; NotImplemented leaves one as it is.
STAGED = {
    torch.ops.aten.sum.dim_IntList: _sum,
    torch.ops.aten.sum.default: _sum,
    torch.ops.aten.mean.dim: _mean,
    torch.ops.aten.mean.default: _mean,
}
