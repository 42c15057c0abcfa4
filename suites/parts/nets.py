"""The networks of the suites: plain modules for one task, whose values come from torch's global generator.

Nothing here knows of tasks, inner steps or vmap. Shapes: N examples, C channels, H height, W width.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class MLP(nn.Module):
    """[N, inputs] -> [N, outputs] through ReLU layers.

    Finn et al. 2017, code: weights from a normal of standard deviation 0.01 cut at two of them, biases 0.
    """

    def __init__(self, inputs: int, hidden: tuple[int, ...], outputs: int) -> None:
        """Layers of the given widths."""
        super().__init__()
        widths = (inputs, *hidden, outputs)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.apply(_truncated_normal)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs] -> [N, outputs]."""
        *hidden, last = self.layers
        for layer in hidden:
            x = torch.relu(layer(x))
        output: Tensor = last(x)
        return output


class CentredNorm(nn.Module):
    """(x − mean) / sqrt(variance + 1e-3) + shift per channel, over the batch at hand; no running averages, no scale.

    As tf.contrib.layers.batch_norm in training mode, the form of Finn et al. 2017. The statistics are those of the
    first `reference` examples where it is given, else of all.
    """

    def __init__(self, channels: int) -> None:
        """One shift per channel, 0 at first."""
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        """[N, C, ...] -> [N, C, ...]."""
        return _standardised(x, reference, 1e-3) + _by_channel(self.shift, x)


class BatchNorm(CentredNorm):
    """CentredNorm with a scale, scale (x − mean) / sqrt(variance + 1e-5) + shift: torch's own in training mode."""

    def __init__(self, channels: int) -> None:
        """One scale per channel, 1 at first, and one shift, 0."""
        super().__init__(channels)
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        """[N, C, ...] -> [N, C, ...]."""
        return _standardised(x, reference, 1e-5) * _by_channel(self.scale, x) + _by_channel(self.shift, x)


class Conv4(nn.Module):
    """[N, 1, H, W] -> [N, ways]: four 3x3 convolutions of stride 2, their mean over H and W, one linear layer.

    Finn et al. 2017, code: convolution, bias, normalisation, ReLU; Xavier weights; the head from N(0, 1).
    """

    def __init__(self, ways: int, filters: int = 64) -> None:
        """A head for `ways` classes."""
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(filters if i else 1, filters, 3, 2) for i in range(4))
        self.norms = nn.ModuleList(CentredNorm(filters) for _ in range(4))
        self.head = nn.Linear(filters, ways)
        self.convs.apply(_xavier)
        nn.init.normal_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        """[N, 1, H, W] -> [N, ways]; see CentredNorm for `reference`."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = torch.relu(norm(conv(_pad_same(x)), reference))
        output: Tensor = self.head(x.mean((2, 3)))
        return output


class Conv6(nn.Module):
    """[N, 3, H, W] -> [N, ways]: six normalised 3x3 convolutions, their mean over H and W, one linear layer.

    Finn et al. 2019 (arXiv:1902.08438), code: the second and the fifth keep the size and have no activation, the others
    have stride 2 and ReLU; Xavier weights; the head from N(0, 1).
    """

    strides = (2, 1, 2, 2, 1, 2)

    def __init__(self, ways: int, filters: int = 32) -> None:
        """A head for `ways` classes."""
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(filters if i else 3, filters, 3, stride, padding=0 if stride == 2 else 1)
            for i, stride in enumerate(self.strides)
        )
        self.norms = nn.ModuleList(CentredNorm(filters) for _ in self.strides)
        self.head = nn.Linear(filters, ways)
        self.convs.apply(_xavier)
        nn.init.normal_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, ways]."""
        for conv, norm, stride in zip(self.convs, self.norms, self.strides, strict=True):
            x = torch.relu(norm(conv(_pad_same(x)))) if stride == 2 else norm(conv(x))
        output: Tensor = self.head(x.mean((2, 3)))
        return output


class Pool4(nn.Module):
    """[N, C, H, W] -> [N, ways]: four 3x3 convolutions, each normalised and max-pooled by two, one linear layer.

    Finn et al. 2017, code, for miniImagenet: convolution, bias, normalisation, ReLU, pooling; Xavier weights. With 64
    filters and BatchNorm it is the network of Snell et al. 2017 (arXiv:1703.05175), section 3.1, under a linear head.
    """

    def __init__(
        self, ways: int, filters: int, places: int, channels: int = 3, norm: type[CentredNorm] = CentredNorm
    ) -> None:
        """A head for `ways` classes on `places` = floor(H / 16) floor(W / 16) places."""
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(filters if i else channels, filters, 3, padding=1) for i in range(4))
        self.norms = nn.ModuleList(norm(filters) for _ in range(4))
        self.head = nn.Linear(filters * places, ways)
        self.convs.apply(_xavier)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        """[N, C, H, W] -> [N, ways]; see CentredNorm for `reference`."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = functional.max_pool2d(torch.relu(norm(conv(x), reference)), 2)
        output: Tensor = self.head(x.flatten(1))
        return output


class Residual(nn.Module):
    """[N, C, H, W] -> [N, D, H / 2, W / 2]: three normalised 3x3 convolutions beside a 1x1 one, then pooled by two."""

    def __init__(self, channels: int, filters: int) -> None:
        """From C channels to D filters."""
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(filters if i else channels, filters, 3, padding=1, bias=False) for i in range(3)
        )
        self.shortcut = nn.Conv2d(channels, filters, 1, bias=False)
        self.norms = nn.ModuleList(BatchNorm(filters) for _ in range(4))  # the last is the shortcut's

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        """[N, C, H, W] -> [N, D, H / 2, W / 2]; see CentredNorm for `reference`."""
        *norms, last = self.norms
        beside: Tensor = last(self.shortcut(x), reference)
        for i, (conv, norm) in enumerate(zip(self.convs, norms, strict=True)):
            x = norm(conv(x if i == 0 else functional.leaky_relu(x, 0.1)), reference)
        return functional.max_pool2d(functional.leaky_relu(x + beside, 0.1), 2)


class ResNet12(nn.Module):
    """[N, C, H, W] -> [N, ways]: residual blocks of 64, 160, 320, 640 filters, their mean over H and W, a linear layer.

    Lee, Maji, Ravichandran, Soatto 2019 (arXiv:1904.03758), code, without DropBlock: leaky ReLU of slope 0.1, He's
    normal weights (fan-out). The mean over places instead of all of them is that of Tian et al. 2020
    (arXiv:2003.11539). The head is as torch makes it.
    """

    filters = (64, 160, 320, 640)

    def __init__(self, ways: int, channels: int) -> None:
        """A head for `ways` classes."""
        super().__init__()
        self.blocks = nn.ModuleList(Residual(a, b) for a, b in pairwise((channels, *self.filters)))
        self.head = nn.Linear(self.filters[-1], ways)
        for module in self.blocks.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="leaky_relu")

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        """[N, C, H, W] -> [N, ways]; see CentredNorm for `reference`."""
        for block in self.blocks:
            x = block(x, reference)
        output: Tensor = self.head(x.mean((2, 3)))
        return output


class FullyConnected(nn.Module):
    """[N, 1, 28, 28] -> [N, ways] through 256-128-64-64 units, each normalised, then ReLU (Finn et al. 2017, A.1)."""

    def __init__(self, ways: int) -> None:
        """A head for `ways` classes."""
        super().__init__()
        widths = (784, 256, 128, 64, 64)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(CentredNorm(b) for b in widths[1:])
        self.head = nn.Linear(64, ways)
        self.apply(_truncated_normal)

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        """[N, 1, 28, 28] -> [N, ways]; see CentredNorm for `reference`."""
        x = x.flatten(1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = torch.relu(norm(layer(x), reference))
        output: Tensor = self.head(x)
        return output


def _standardised(x: Tensor, reference: int | None, epsilon: float) -> Tensor:
    dims = [0, *range(2, x.dim())]
    # Written out: torch.var_mean is several times slower on a CPU, and so is its derivative.
    # So is slicing: the derivative of x[:None] fills a tensor with zeros and copies into it.
    centred = x - _first(x, reference).mean(dims, keepdim=True)
    variance = _first(centred, reference).square().mean(dims, keepdim=True)
    return centred * torch.rsqrt(variance + epsilon)


def _by_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (x.dim() - 2))


def _first(x: Tensor, count: int | None) -> Tensor:
    return x if count is None else x[:count]


def _truncated_normal(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.01, a=-0.02, b=0.02)
        nn.init.zeros_(module.bias)


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d) and module.bias is not None:
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def _pad_same(x: Tensor) -> Tensor:
    # TensorFlow's SAME for a 3x3 kernel of stride 2: where the size is even, the padding is all on the far side.
    height, width = 1 - x.shape[-2] % 2, 1 - x.shape[-1] % 2
    return functional.pad(x, (1 - width, 1, 1 - height, 1))
