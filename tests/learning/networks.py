"""Networks of torch's layers, one for each row of docs/modules.md, and a suite that wears them."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrizations

from bench.certificate.beds import Bed, Halves, Pairs
from bench.core.types import Role, Split

WORKS, BY_TASK = "works", "task by task"


class Network(NamedTuple):
    """What is built, and what is expected of it: WORKS, BY_TASK or the reason of the refusal."""

    build: Callable[[], nn.Module]
    expected: str = WORKS
    note: str = ""


class Over(nn.Module):
    """A layer between two linear ones."""

    def __init__(self, layer: nn.Module, shape: tuple[int, ...] = (8,)) -> None:
        super().__init__()
        self.before, self.layer, self.after, self.shape = nn.Linear(3, 8), layer, nn.LazyLinear(1), shape
        with torch.no_grad():
            self(torch.zeros(6, 3))  # so that the last layer knows what comes

    def forward(self, x: Tensor) -> Tensor:
        return self.after(torch.tanh(self.layer(self.before(x).view(-1, *self.shape))).flatten(1))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """The three inputs as a sequence."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.after = layer, nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.layer(x.unsqueeze(-1))[0][:, -1])  # type: ignore[no-any-return]


class Attentive(nn.Module):
    """Examples that look at one another."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.before, self.layer, self.after = nn.Linear(3, 8), layer, nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.before(x)
        if isinstance(self.layer, nn.TransformerDecoderLayer):
            h = self.layer(h, h)
        elif isinstance(self.layer, nn.MultiheadAttention):
            h = h + self.layer(h, h, h)[0]
        else:
            h = self.layer(h)
        return self.after(h)  # type: ignore[no-any-return]


class Product(nn.Module):
    """scaled_dot_product_attention called by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)


class Words(nn.Module):
    """Signs as words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.after = nn.Embedding(2, 4), nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.words((x > 0).long()).flatten(1))  # type: ignore[no-any-return]


class Fourier(nn.Module):
    """Random features: a buffer of numbers and one of places."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(3, 16))
        self.register_buffer("order", torch.randperm(16))
        self.after = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(torch.sin(x @ self.frequencies)[:, self.order])  # type: ignore[no-any-return, operator, index]


def tied() -> nn.Module:
    """One linear layer twice."""
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(3, 1))


def frozen() -> nn.Module:
    """A first layer that wants no gradient."""
    return nn.Sequential(nn.Linear(3, 8).requires_grad_(False), nn.Tanh(), nn.Linear(8, 1))


def older(layer: nn.Module) -> nn.Module:
    """torch.nn.utils.weight_norm, which is deprecated and much used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)  # type: ignore[no-any-return]


class Own(nn.GRU):
    """Somebody's subclass."""

    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        return super().forward(2 * x)


class Depends(nn.Module):
    """Python that asks for a number."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x) if x.sum().item() > 0 else torch.sin(x)


class Noisy(nn.Module):
    """Draws of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x)


class Counts(nn.Module):
    """A state of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return slope * (ctx.saved_tensors[0] > 0)  # type: ignore[no-any-return]


class Once(nn.Module):
    """A function whose derivative has none."""

    def forward(self, x: Tensor) -> Tensor:
        return _Once.apply(x)  # type: ignore[no-any-return, no-untyped-call]


CHANNELS = (2, 4)
IMAGE = (2, 2, 2)
NETWORKS: dict[str, Network] = {
    "Linear, Bilinear, activations": Network(lambda: Over(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.PReLU(8)))),
    "Conv1d, pooling": Network(lambda: Over(nn.Sequential(nn.Conv1d(2, 4, 3), nn.AvgPool1d(2)), CHANNELS)),
    "Conv2d, ConvTranspose2d": Network(
        lambda: Over(nn.Sequential(nn.Conv2d(2, 3, 2, padding=1), nn.ConvTranspose2d(3, 2, 2)), IMAGE)
    ),
    "ReLU(inplace=True)": Network(lambda: Over(nn.ReLU(inplace=True))),
    "BatchNorm1d": Network(lambda: Over(nn.BatchNorm1d(8)), note="running statistics kept for `norm = 'inductive'`"),
    "BatchNorm1d, no running statistics": Network(lambda: Over(nn.BatchNorm1d(8, track_running_stats=False))),
    "BatchNorm2d": Network(lambda: Over(nn.BatchNorm2d(2), IMAGE)),
    "BatchNorm3d": Network(lambda: Over(nn.BatchNorm3d(2), (2, 2, 2, 1))),
    "InstanceNorm1d": Network(lambda: Over(nn.InstanceNorm1d(2, affine=True), CHANNELS)),
    "InstanceNorm1d, running statistics": Network(
        lambda: Over(nn.InstanceNorm1d(2, track_running_stats=True), CHANNELS), "changes 'layer.running_mean'"
    ),
    "GroupNorm": Network(lambda: Over(nn.GroupNorm(2, 8))),
    "LayerNorm": Network(lambda: Over(nn.LayerNorm(8))),
    "RMSNorm": Network(lambda: Over(nn.RMSNorm(8))),
    "LocalResponseNorm": Network(lambda: Over(nn.LocalResponseNorm(2), IMAGE)),
    "Dropout": Network(
        lambda: Over(nn.Dropout(0.3)), note="masks from the cell's generators; nothing is dropped at test"
    ),
    "Dropout1d, Dropout2d": Network(
        lambda: Over(nn.Sequential(nn.Dropout1d(0.3), nn.Unflatten(2, (2, 2)), nn.Dropout2d(0.3)), CHANNELS)
    ),
    "AlphaDropout, FeatureAlphaDropout": Network(
        lambda: Over(nn.Sequential(nn.AlphaDropout(0.3), nn.FeatureAlphaDropout(0.3)), CHANNELS)
    ),
    "RNN": Network(lambda: Recurrent(nn.RNN(1, 4, 2, nonlinearity="relu", batch_first=True), 4)),
    "LSTM": Network(lambda: Recurrent(nn.LSTM(1, 6, batch_first=True, bidirectional=True, proj_size=3), 6)),
    "GRU": Network(lambda: Recurrent(nn.GRU(1, 4, batch_first=True), 4)),
    "a subclass of GRU": Network(lambda: Recurrent(Own(1, 4, batch_first=True), 4)),
    "RNNCell": Network(lambda: Over(nn.RNNCell(8, 4))),
    "GRUCell": Network(lambda: Over(nn.GRUCell(8, 4))),
    "MultiheadAttention": Network(lambda: Attentive(nn.MultiheadAttention(8, 2, dropout=0.1, add_bias_kv=True))),
    "TransformerEncoderLayer": Network(lambda: Attentive(nn.TransformerEncoderLayer(8, 2, 8, dropout=0.1))),
    "TransformerDecoderLayer": Network(lambda: Attentive(nn.TransformerDecoderLayer(8, 2, 8, dropout=0.0))),
    "scaled_dot_product_attention": Network(lambda: Over(Product())),
    "Embedding": Network(Words),
    "buffers": Network(Fourier, note="drawn by the cell's generator, part of Meta, never learned"),
    "tied weights": Network(tied),
    "frozen parameters": Network(frozen, note="`requires_grad_(False)`: part of Meta, never learned"),
    "weight_norm": Network(lambda: Over(parametrizations.weight_norm(nn.Linear(8, 8)))),
    "weight_norm, the older": Network(lambda: Over(older(nn.Linear(8, 8)))),
    "orthogonal": Network(lambda: Over(parametrizations.orthogonal(nn.Linear(8, 8)))),
    "spectral_norm": Network(lambda: Over(parametrizations.spectral_norm(nn.Linear(8, 8))), "has spectral_norm"),
    "a number asked for: `.item()`": Network(lambda: Over(Depends()), BY_TASK, "not compiled"),
    "draws of its own: `torch.randn`": Network(lambda: Over(Noisy()), "draws from torch's global generator"),
    "a state of its own: `self.calls += 1`": Network(lambda: Over(Counts()), "cannot be trained"),
    "a function differentiable once": Network(lambda: Over(Once()), "cannot be trained"),
}


@dataclass(frozen=True, kw_only=True)
class Worn(Bed):
    """Regression of a sum of sines by the network of a name, float64."""

    net: str

    def module(self) -> nn.Module:
        return NETWORKS[self.net].build()

    def sample(self, count: int, split: Split, generator: Generator) -> Halves:
        x = torch.randn(2, count, 6, 3, generator=generator, dtype=torch.float64)
        scale = torch.rand(count, 1, 1, generator=generator, dtype=torch.float64)
        halves = [Pairs(part, scale * part.sin().sum(-1, keepdim=True)) for part in x]
        return Halves(*halves)

    def losses(self, prediction: Tensor, data: Pairs) -> Tensor:
        return (prediction - data.y).square().squeeze(-1)

    def look_up(self, tasks: Halves, role: Role) -> Pairs:
        return tasks.support if role == "support" else tasks.query
