"""Dropout whose masks are a function of a key, the number of the draw and the place alone."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from bench.core.call import present

MASK = 2**32 - 1
DROPOUTS = {  # how many of the axes after the first two are dropped together
    functional.dropout: None,
    functional.alpha_dropout: None,
    functional.dropout1d: 1,
    functional.dropout2d: 2,
    functional.dropout3d: 3,
    functional.feature_alpha_dropout: -1,
}


def _times(x: Tensor, factor: int) -> Tensor:
    # A product of 32 bits, in two halves that do not overflow 63.
    return (x * (factor & 0xFFFF) + (((x * (factor >> 16)) & 0xFFFF) << 16)) & MASK


def _mixed(x: Tensor) -> Tensor:
    """The finaliser of MurmurHash3 (Appleby 2011, public domain), a bijection of 32 bits."""
    x = _times(x ^ (x >> 16), 0x85EBCA6B)
    x = _times(x ^ (x >> 13), 0xC2B2AE35)
    return x ^ (x >> 16)


def uniform(key: Tensor, draw: int, shape: tuple[int, ...]) -> Tensor:
    """Numbers in [0, 1) of a shape: a function of the key, the number of the draw and the place alone."""
    place = torch.arange(math.prod(shape), device=key.device)
    bits = _mixed(_mixed(_mixed(place ^ (key & MASK)) + (key >> 32) & MASK) + draw * 0x9E3779B9 & MASK)
    return (bits.to(torch.float64) / 2**32).view(shape)


def dropped(x: Tensor, p: float, together: int | None = None, alpha: bool = False) -> Tensor:
    """Dropout of x: the mask is drawn from the call's key, whatever differentiates or repeats it."""
    call = present()
    if call.key is None or p == 0:
        return x
    shape = tuple(x.shape)
    if together is not None:
        apart = x.dim() - 2 if together < 0 else together
        shape = (*shape[: x.dim() - apart], *(1,) * apart)
    call.dropped += 1
    kept = (uniform(call.key, call.dropped, shape) >= p).to(x.dtype)
    if not alpha:
        return x * kept / (1 - p) if p < 1 else x * 0
    low = -1.7580993408473766  # of SELU (Klambauer et al. 2017, arXiv:1706.02515)
    scale = ((1 - p) * (1 + p * low**2)) ** -0.5
    dropped: Tensor = (x * kept + low * (1 - kept)) * scale - scale * low * p
    return dropped
