"""torch's own layers and functions that cannot be vectorised, compiled or differentiated again, in plain operations."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import _WeightNorm
from torch.overrides import TorchFunctionMode

from bench.core.layers.attention import MultiheadAttention, attention
from bench.core.layers.dropout import DROPOUTS, dropped
from bench.core.layers.normalisation import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    Weight,
    batch_norm,
    instance_norm,
    layer_norm,
    weight_norm,
)
from bench.core.layers.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell

FUNCTIONS: dict[Any, Any] = {
    functional.batch_norm: batch_norm,
    functional.layer_norm: layer_norm,
    functional.instance_norm: instance_norm,
    torch._weight_norm: weight_norm,  # which the older torch.nn.utils.weight_norm calls
}


WRITTEN: dict[type[nn.Module], type[Any]] = {
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.BatchNorm3d: BatchNorm3d,
    nn.MultiheadAttention: MultiheadAttention,
    nn.RNN: RNN,
    nn.LSTM: LSTM,
    nn.GRU: GRU,
    nn.RNNCell: RNNCell,
    nn.LSTMCell: LSTMCell,
    nn.GRUCell: GRUCell,
    _WeightNorm: Weight,
}


class Written(TorchFunctionMode):
    """Inside, functions that a module calls by itself are written out: dropout, attention, batch statistics."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What was written out, or the function itself."""
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            return attention(*args, **kwargs)
        if func in DROPOUTS:
            x, p = args[0] if args else kwargs["input"], args[1] if len(args) > 1 else kwargs.get("p", 0.5)
            training = args[2] if len(args) > 2 else kwargs.get("training", True)
            alpha = func in (functional.alpha_dropout, functional.feature_alpha_dropout)
            legacy = func is functional.dropout2d and x.dim() == 3  # which torch takes for [N, C, L]
            return dropped(x, p, 1 if legacy else DROPOUTS[func], alpha) if training else x
        if func in FUNCTIONS:
            return FUNCTIONS[func](*args, **kwargs)
        return func(*args, **kwargs)
