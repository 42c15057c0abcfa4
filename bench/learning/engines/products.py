"""Products with matrices of few columns, for the compiler: the transposed product, of a matrix with few rows.

BLAS takes several times as long for [2000, 100] @ [100, 2] as for [2, 100] @ [100, 2000].
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

FEW = 8


def _mm(a: Tensor, b: Tensor) -> Any:
    if a.is_cuda or b.shape[1] >= FEW or a.shape[0] < FEW:
        return NotImplemented
    return torch.mm(b.t().contiguous(), a.t()).t()


def _addmm(bias: Tensor, a: Tensor, b: Tensor) -> Any:
    product = _mm(a, b)
    return product if product is NotImplemented else product + bias


# As STAGED of sums.py.
FEW_COLUMNS: dict[Any, Callable[..., Any]] = {torch.ops.aten.mm.default: _mm, torch.ops.aten.addmm.default: _addmm}
