"""Recurrences as loops over time. Letters: N examples, L length, F features."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from bench.core.errors import BenchError
from bench.core.layers.dropout import dropped


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
                x = dropped(x, self.dropout)
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


class RNN(_Simple, _Recurrent, nn.RNN):
    """Written out."""


class LSTM(_LongShort, _Recurrent, nn.LSTM):
    """Written out."""


class GRU(_Reset, _Recurrent, nn.GRU):
    """Written out."""


class RNNCell(_Simple, _Moment, nn.RNNCell):
    """Written out."""


class LSTMCell(_LongShort, _Moment, nn.LSTMCell):
    """Written out."""


class GRUCell(_Reset, _Moment, nn.GRUCell):
    """Written out."""
