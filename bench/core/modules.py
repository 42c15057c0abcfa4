"""Any module: what of torch's own layers can't be vectorised or differentiated again is written out in plain ones.

`prepared` changes a module's layers in place so that they compute the same under vmap, in any order of derivative and
compiled: batch statistics without running averages, recurrences as loops, attention as products, dropout from a key
that travels with the data. Parameters keep their names. Letters: N examples, C channels, L length, E embedding,
H heads.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from bench.core.errors import BenchError

MASK = 2**32 - 1
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
DROPOUTS = {  # how many of the axes after the first two are dropped together
    functional.dropout: None,
    functional.alpha_dropout: None,
    functional.dropout1d: 1,
    functional.dropout2d: 2,
    functional.dropout3d: 3,
    functional.feature_alpha_dropout: -1,
}


class Keyed(NamedTuple):
    """Data with the key of what is random while a module is run on them."""

    data: Any
    key: Tensor  # int64, []


class Statistics(NamedTuple):
    """Of a layer's batch."""

    mean: Tensor  # [C]
    variance: Tensor  # [C], unbiased


@dataclass
class _Call:
    """What a module is run with besides its parameters and its input."""

    key: Tensor | None = None  # None: nothing is dropped
    running: dict[str, Tensor] = field(default_factory=dict)  # statistics that take the batch's place
    dropped: int = 0  # draws so far


_NO_CALL = _Call()
_call: ContextVar[_Call | None] = ContextVar("_call", default=None)
_seen: ContextVar[tuple[dict[str, Statistics], int | None] | None] = ContextVar("_seen", default=None)


@contextmanager
def calling(key: Tensor | None = None, running: dict[str, Tensor] | None = None) -> Iterator[_Call]:
    """Inside, prepared modules draw from `key`, and normalise by `running` (`layer.running_mean`, ...) where it is."""
    call = _Call(key, running or {})
    token = _call.set(call)
    try:
        yield call
    finally:
        _call.reset(token)


@contextmanager
def recording() -> Iterator[dict[str, Statistics]]:
    """Inside, the statistics of each batch-normalised layer's last pass, but for passes whose gradient is taken."""
    found: dict[str, Statistics] = {}
    token = _seen.set((found, _level()))
    try:
        yield found
    finally:
        _seen.reset(token)


def prepared(module: nn.Module, *, tracks: bool = True) -> nn.Module:
    """The module itself, whose layers are changed where they must be.

    Args:
        module: newly built.
        tracks: whether running statistics are kept of it: of a suite's network, not of a learner's own.

    Raises:
        BenchError: a layer keeps a state that no learner can hold.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, _SpectralNorm):
            raise BenchError(
                f"the layer {name.partition('.parametrizations')[0]!r} has spectral_norm, which changes a state of its "
                "own whenever it is run. Use weight_norm or orthogonal of torch.nn.utils.parametrizations instead."
            )
        if getattr(layer, "inplace", None) is True:
            layer.inplace = False  # what it is given may be the learner's data
        for kind, written in _WRITTEN.items():
            if isinstance(layer, kind):
                # Somebody's subclass keeps its own methods, whose super() finds what is written out.
                own = type(layer)
                layer.__class__ = written if own is kind else type(own.__name__, (own, written), {})
                layer.place = name
        if isinstance(layer, NORMS):
            layer.tracks = tracks and layer.track_running_stats  # type: ignore[assignment]
            for statistic in STATISTICS:
                if statistic in layer._buffers:
                    layer._buffers.pop(statistic)
                    setattr(layer, statistic, None)
    return module


def values(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a module as it was built, by name; without what batch normalisation keeps.

    Raises:
        BenchError: a lazy layer's sizes are not known.
    """
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            raise BenchError(
                f"{name!r} has no shape yet: a lazy layer learns it when it is first run. Give the layer its sizes, or "
                "run the module once in module()."
            )
    kept = {f"{name}.{s}".lstrip(".") for name, m in module.named_modules() if isinstance(m, NORMS) for s in STATISTICS}
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tensor.detach().clone() for name, tensor in tensors.items() if name not in kept}


def fixed(module: nn.Module) -> frozenset[str]:
    """The names of what nothing learns: buffers, and parameters that want no gradient."""
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
    return frozenset(frozen | {name for name, _ in module.named_buffers()})


def batch_norms(module: nn.Module) -> dict[str, bool]:
    """The batch-normalised layers of a prepared module, and whether each tracks running statistics."""
    return {layer.place: layer.tracks for layer in module.modules() if isinstance(layer, NORMS)}  # type: ignore[misc]


def statistics(module: nn.Module) -> dict[str, Tensor]:
    """The running statistics of a prepared module before its first batch, as torch begins: mean 0, variance 1."""
    found = {}
    for layer in module.modules():
        if isinstance(layer, NORMS) and layer.tracks:
            found[_statistic(layer.place, "mean")] = torch.zeros(layer.num_features)
            found[_statistic(layer.place, "var")] = torch.ones(layer.num_features)
    return found


def _statistic(place: Any, which: str) -> str:
    return f"{place}.running_{which}".lstrip(".")


def plain(module: nn.Module) -> bool:
    """Whether a module is made of layers alone that call none of the functions which have to be written out."""
    return all(type(m).__module__ in _PLAIN or type(m).__module__.startswith("suites.parts.") for m in module.modules())


def move(kept: dict[str, Tensor], seen: dict[str, Statistics], module: nn.Module, iteration: int) -> dict[str, Tensor]:
    """Running statistics after one more batch, by each layer's momentum (None: the mean of all batches)."""
    moved = dict(kept)
    for name, batch in seen.items():
        momentum = module.get_submodule(name).momentum
        share = 1 / (iteration + 1) if momentum is None else float(momentum)  # type: ignore[arg-type]
        for which, new in zip(("mean", "var"), batch, strict=True):
            key = _statistic(name, which)
            moved[key] = (1 - share) * kept[key] + share * new
    return moved


def _level() -> int | None:
    level: int | None = torch._C._functorch.maybe_current_level()
    return level


def _normalised(x: Tensor, layer: Any, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """[N, C, ...] by the batch's statistics per channel, or by running ones where the call brings them."""
    running = (_call.get() or _NO_CALL).running
    tracked = layer is not None and layer.tracks
    if tracked and _statistic(layer.place, "mean") in running:
        mean, variance = (running[_statistic(layer.place, which)].to(x) for which in ("mean", "var"))
        normal = (x - _by_channel(mean, x)) * torch.rsqrt(_by_channel(variance, x) + eps)
    else:
        normal, mean, variance = _standardised(x, [0, *range(2, x.dim())], eps)
        recorder = _seen.get()
        if tracked and recorder is not None and recorder[1] == _level():
            count = x.numel() // x.shape[1]
            unbiased = variance.flatten() * (count / max(1, count - 1))
            recorder[0][layer.place] = Statistics(mean.flatten().detach(), unbiased.detach())
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
        return _normalised(x, self, self.weight, self.bias, self.eps)


class _BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    """Batch statistics, written out."""


class _BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    """Batch statistics, written out."""


class _BatchNorm3d(_BatchNorm, nn.BatchNorm3d):
    """Batch statistics, written out."""


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


def _dropped(x: Tensor, p: float, together: int | None = None, alpha: bool = False) -> Tensor:
    """Dropout of x: the mask is drawn from the call's key, whatever differentiates or repeats it."""
    call = _call.get() or _NO_CALL
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


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q kᵀ scale + mask) v, as torch.nn.functional.scaled_dot_product_attention has it."""
    weights = _attention_weights(query, key, attn_mask, is_causal, scale, enable_gqa)
    groups = query.shape[-3] // value.shape[-3] if enable_gqa else 1
    return _dropped(weights, dropout_p) @ (value.repeat_interleave(groups, -3) if groups > 1 else value)


def _attention_weights(
    query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, scale: float | None, grouped: bool = False
) -> Tensor:
    if grouped and query.shape[-3] != key.shape[-3]:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        ahead = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(ahead, -math.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return torch.softmax(scores, -1)


class _MultiheadAttention(nn.MultiheadAttention):
    """Heads, written out."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        lonely = query.dim() == 2
        if lonely:
            query, key, value = (x.unsqueeze(0 if self.batch_first else 1) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))  # [N, L, E]
        if self._qkv_same_embed_dim:
            parts = self.in_proj_weight.chunk(3)
        else:
            parts = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (functional.linear(x, w, b) for x, w, b in zip((query, key, value), parts, biases, strict=True))
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(len(k), 1, -1)], 1)
            v = torch.cat([v, self.bias_v.expand(len(v), 1, -1)], 1)
        if self.add_zero_attn:
            k, v = (torch.cat([x, x.new_zeros(len(x), 1, x.shape[-1])], 1) for x in (k, v))
        heads, added = self.num_heads, k.shape[1] - key.shape[1]
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # [N, H, L, E / H]
        mask = _joined(attn_mask, key_padding_mask, heads, added, q)
        weights = _dropped(_attention_weights(q, k, mask, is_causal and mask is None, None), self.dropout)
        output = functional.linear((weights @ v).transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)
        shown = (weights.mean(1) if average_attn_weights else weights) if need_weights else None
        if not self.batch_first:
            output = output.transpose(0, 1)
        if lonely:
            output = output.squeeze(0 if self.batch_first else 1)
            shown = None if shown is None else shown.squeeze(0)
        return output, shown


def _joined(mask: Tensor | None, padding: Tensor | None, heads: int, added: int, like: Tensor) -> Tensor | None:
    """What is added to the scores [N, H, L, S]; nn.MultiheadAttention's True means: not seen."""

    def as_sum(part: Tensor) -> Tensor:
        hidden = torch.zeros((), dtype=like.dtype, device=like.device)
        part = torch.where(part, -math.inf, hidden) if part.dtype == torch.bool else part
        return functional.pad(part, (0, added))

    total = None
    if mask is not None:
        total = as_sum(mask)
        total = total.unflatten(0, (-1, heads)) if total.dim() == 3 else total
    if padding is not None:
        shown = as_sum(padding)[:, None, None, :]
        total = shown if total is None else total + shown
    return total


class _Recurrent:
    """The loop over time that nn.RNN, nn.LSTM and nn.GRU do in one call."""

    def forward(self: Any, x: Any, hx: Any = None) -> Any:
        if isinstance(x, PackedSequence):
            raise BenchError(
                f"the layer {self.place!r} is given a PackedSequence, which cannot be cut into tasks. Pad the "
                "sequences and mask the loss instead."
            )
        lonely = x.dim() == 2
        if lonely:
            x = x.unsqueeze(1)
        elif self.batch_first:
            x = x.transpose(0, 1)  # [L, N, F]
        ways = 2 if self.bidirectional else 1
        size = self.proj_size or self.hidden_size
        given = hx if isinstance(hx, tuple) else (hx,) if hx is not None else None
        if given is not None and lonely:
            given = tuple(h.unsqueeze(1) for h in given)
        last: list[list[Tensor]] = []
        for layer in range(self.num_layers):
            outputs = []
            for way in range(ways):
                suffix = f"_l{layer}{'_reverse' if way else ''}"
                place = layer * ways + way
                if given is not None:
                    state = [h[place] for h in given]
                else:
                    widths = (size, self.hidden_size) if self.mode == "LSTM" else (size,)
                    state = [x.new_zeros(x.shape[1], width) for width in widths]
                steps = []
                for t in range(len(x)) if not way else reversed(range(len(x))):
                    state = self._cell(x[t], state, suffix)
                    steps.append(state[0])
                outputs.append(torch.stack(steps[::-1] if way else steps))
                last.append(state)
            x = torch.cat(outputs, -1)
            if layer < self.num_layers - 1:
                x = _dropped(x, self.dropout)
        if lonely:
            x = x.squeeze(1)
        elif self.batch_first:
            x = x.transpose(0, 1)
        ends = tuple(torch.stack(parts) for parts in zip(*last, strict=True))
        ends = tuple(h.squeeze(1) for h in ends) if lonely else ends
        return x, ends if self.mode == "LSTM" else ends[0]


class _Moment:
    """One moment of it, as nn.RNNCell, nn.LSTMCell and nn.GRUCell do."""

    def forward(self: Any, x: Tensor, hx: Any = None) -> Any:
        pair = isinstance(self, nn.LSTMCell)
        if hx is None:
            hx = (x.new_zeros(*x.shape[:-1], self.hidden_size),) * (2 if pair else 1)
        state = self._cell(x, list(hx) if isinstance(hx, tuple) else [hx], "")
        return tuple(state) if pair else state[0]


class _Gated:
    def _gates(self: Any, x: Tensor, h: Tensor, suffix: str) -> tuple[Tensor, Tensor]:
        biases = (getattr(self, f"bias_{part}{suffix}") if self.bias else None for part in ("ih", "hh"))
        weights = (getattr(self, f"weight_{part}{suffix}") for part in ("ih", "hh"))
        one, other = (functional.linear(v, w, b) for v, w, b in zip((x, h), weights, biases, strict=True))
        return one, other


class _Simple(_Gated):
    """h ← tanh or ReLU of the sum of both."""

    def _cell(self: Any, x: Tensor, state: list[Tensor], suffix: str) -> list[Tensor]:
        total = sum(self._gates(x, state[0], suffix))
        return [torch.tanh(total) if self.nonlinearity == "tanh" else torch.relu(total)]


class _LongShort(_Gated):
    """Input, forget, cell and output gates."""

    def _cell(self: Any, x: Tensor, state: list[Tensor], suffix: str) -> list[Tensor]:
        one, other = self._gates(x, state[0], suffix)
        i, f, g, o = (one + other).chunk(4, -1)
        c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return [h @ getattr(self, f"weight_hr{suffix}").mT if getattr(self, "proj_size", 0) else h, c]


class _Reset(_Gated):
    """Reset and update gates, and what is new."""

    def _cell(self: Any, x: Tensor, state: list[Tensor], suffix: str) -> list[Tensor]:
        one, other = (part.chunk(3, -1) for part in self._gates(x, state[0], suffix))
        reset, update = torch.sigmoid(one[0] + other[0]), torch.sigmoid(one[1] + other[1])
        return [(1 - update) * torch.tanh(one[2] + reset * other[2]) + update * state[0]]


class _RNN(_Simple, _Recurrent, nn.RNN):
    """Written out."""


class _LSTM(_LongShort, _Recurrent, nn.LSTM):
    """Written out."""


class _GRU(_Reset, _Recurrent, nn.GRU):
    """Written out."""


class _RNNCell(_Simple, _Moment, nn.RNNCell):
    """Written out."""


class _LSTMCell(_LongShort, _Moment, nn.LSTMCell):
    """Written out."""


class _GRUCell(_Reset, _Moment, nn.GRUCell):
    """Written out."""


class _Weight(_WeightNorm):
    """g v / ‖v‖ (Salimans, Kingma 2016, arXiv:1602.07868, equation 2).

    The second derivative of torch 2.13's own is wrong, without a word.
    """

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        return _weight_norm(weight_v, weight_g, self.dim)


def _weight_norm(v: Tensor, g: Tensor, dim: int | None = 0) -> Tensor:
    axes = [i for i in range(v.dim()) if dim in (-1, None) or i != dim % v.dim()]
    return v * (g * torch.rsqrt(v.square().sum(axes, keepdim=True)))


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
            return _dropped(x, p, 1 if legacy else DROPOUTS[func], alpha) if training else x
        if func in _FUNCTIONS:
            return _FUNCTIONS[func](*args, **kwargs)
        return func(*args, **kwargs)


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training and running_mean is None:
        return _normalised(x, None, weight, bias, eps)
    return functional.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)


# torch 2.13's own layer and instance normalisation have a wrong second derivative under vmap, without a word.
def _layer_norm(
    x: Tensor, shape: list[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    normal = _standardised(x, list(range(-len(shape), 0)), eps)[0]
    normal = normal if weight is None else normal * weight
    return normal if bias is None else normal + bias


def _instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if running_mean is not None:
        return functional.instance_norm(x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    return _scaled(_standardised(x, list(range(2, x.dim())), eps)[0], weight, bias)


_FUNCTIONS: dict[Any, Any] = {
    functional.batch_norm: _batch_norm,
    functional.layer_norm: _layer_norm,
    functional.instance_norm: _instance_norm,
    torch._weight_norm: _weight_norm,  # which the older torch.nn.utils.weight_norm calls
}


_PLAIN = {f"torch.nn.modules.{kind}" for kind in ("linear", "conv", "activation", "container", "flatten", "pooling")}
_WRITTEN: dict[type[nn.Module], type[Any]] = {
    nn.BatchNorm1d: _BatchNorm1d,
    nn.BatchNorm2d: _BatchNorm2d,
    nn.BatchNorm3d: _BatchNorm3d,
    nn.MultiheadAttention: _MultiheadAttention,
    nn.RNN: _RNN,
    nn.LSTM: _LSTM,
    nn.GRU: _GRU,
    nn.RNNCell: _RNNCell,
    nn.LSTMCell: _LSTMCell,
    nn.GRUCell: _GRUCell,
    _WeightNorm: _Weight,
}
