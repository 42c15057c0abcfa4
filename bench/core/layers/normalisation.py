"""Batch, layer, instance and weight normalisation in plain operations. Letters: N examples, C channels."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import _WeightNorm

from bench.core.call import Statistics, present, record, statistic


def normalised(x: Tensor, layer: Any, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """[N, C, ...] by the batch's statistics per channel, or by running ones where the call brings them."""
    running = present().running
    tracked = layer is not None and layer.tracks
    if tracked and statistic(layer.place, "mean") in running:
        mean, variance = (running[statistic(layer.place, which)].to(x) for which in ("mean", "var"))
        normal = (x - _by_channel(mean, x)) * torch.rsqrt(_by_channel(variance, x) + eps)
    else:
        normal, mean, variance = _standardised(x, [0, *range(2, x.dim())], eps)
        if tracked:
            count = x.numel() // x.shape[1]
            unbiased = variance.flatten() * (count / max(1, count - 1))
            record(layer.place, Statistics(mean.flatten().detach(), unbiased.detach()))
    return _scaled(normal, weight, bias)


def _standardised(x: Tensor, axes: list[int], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(x − mean) / √(variance + eps), mean and variance."""
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    variance = centred.square().mean(axes, keepdim=True)
    return centred * torch.rsqrt(variance + eps), mean, variance


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """By channel, [N, C, ...]."""
    x = x if weight is None else x * _by_channel(weight, x)
    return x if bias is None else x + _by_channel(bias, x)


def _by_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (x.dim() - 2))


class _BatchNorm:
    def forward(self: Any, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        return normalised(x, self, self.weight, self.bias, self.eps)


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    """Batch statistics, written out."""


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    """Batch statistics, written out."""


class BatchNorm3d(_BatchNorm, nn.BatchNorm3d):
    """Batch statistics, written out."""


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """torch.nn.functional.batch_norm of the batch; torch's own where the statistics are given."""
    if training and running_mean is None:
        return normalised(x, None, weight, bias, eps)
    return functional.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)


def layer_norm(
    x: Tensor, shape: list[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """torch.nn.functional.layer_norm.

    The second derivative of torch 2.13's own is wrong under vmap, without a word; of instance normalisation likewise.
    """
    normal = _standardised(x, list(range(-len(shape), 0)), eps)[0]
    normal = normal if weight is None else normal * weight
    return normal if bias is None else normal + bias


def instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """torch.nn.functional.instance_norm; torch's own where statistics run along."""
    if running_mean is not None:
        return functional.instance_norm(x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    return _scaled(_standardised(x, list(range(2, x.dim())), eps)[0], weight, bias)


class Weight(_WeightNorm):
    """g v / ‖v‖ (Salimans, Kingma 2016, arXiv:1602.07868, equation 2).

    The second derivative of torch 2.13's own is wrong, without a word.
    """

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        """The weight."""
        return weight_norm(weight_v, weight_g, self.dim)


def weight_norm(v: Tensor, g: Tensor, dim: int | None = 0) -> Tensor:
    """G v / ‖v‖, the norm over all axes but `dim`."""
    axes = [i for i in range(v.dim()) if dim in (-1, None) or i != dim % v.dim()]
    return v * (g * torch.rsqrt(v.square().sum(axes, keepdim=True)))
