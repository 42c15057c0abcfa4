"""Convolutions as matrix products, for nets in which every task has its own kernel.

Under vmap such a convolution would become a grouped one, which CPU libraries compute slowly and differentiate slower,
and the weight gradient of their ordinary one loses two to three digits in float32. A product of patches does neither.
Letters: N images, C channels, H height, W width, R and Q the output's height and width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Geometry = tuple[int, int, int, int, int, int]  # H, W, then the kernel's height and width, then the strides
MOST_COPIES = 4  # of every input value; beyond, as for a 3x3 kernel of stride 1, the copies cost more than they save


class ConvolutionsAsProducts(TorchFunctionMode):
    """Inside, an ungrouped 2D convolution is a matrix product of patches, and its images lie channels last."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The product where it computes the same and pays, else the function itself."""
        kwargs = kwargs or {}
        if func is functional.conv2d and _replaceable(*args, **kwargs):
            return _conv2d(*args, **kwargs)
        if func is functional.pad and len(args) == 2 and not kwargs and args[0].dim() == len(args[1]) == 4:
            return _pad(*args)
        return func(*args, **kwargs)


def channels_last(x: Tensor) -> Tensor:
    """The same values; a kernel [O, C, H, W] in its patches' order in memory, which makes it a matrix as it is."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


class _Patches(torch.autograd.Function):
    """[N, H, W, C] -> [N, R, Q, kernel * C], or its adjoint: the sum of patches back into images.

    Both are linear and each is the other's derivative, so that any order of derivative stays within the two.
    """

    @staticmethod
    def forward(x: Tensor, geometry: Geometry, adjoint: bool) -> Tensor:
        result: Tensor = (_fold if adjoint else _unfold)(x, *geometry)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.geometry, ctx.adjoint = inputs

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
        return _Patches.apply(cotangent, ctx.geometry, not ctx.adjoint), None, None  # type: ignore[no-untyped-call]

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Any:
        return _Patches.apply(tangent, ctx.geometry, ctx.adjoint)  # type: ignore[no-untyped-call]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, geometry: Geometry, adjoint: bool) -> Any:
        tasks = x.movedim(in_dims[0], 0).flatten(0, 1)
        result = _Patches.apply(tasks, geometry, adjoint)  # type: ignore[no-untyped-call]
        return result.unflatten(0, (info.batch_size, -1)), 0


def _functional_unfold(x: Tensor, height: int, width: int, kh: int, kw: int, down: int, across: int) -> Tensor:
    x = x.contiguous()
    rows, columns, channels = (height - kh) // down + 1, (width - kw) // across + 1, x.shape[-1]
    image, row, column, _ = x.stride()
    # A patch's row is contiguous: the copy moves kw * C values at a time.
    windows = x.as_strided(
        (len(x), rows, columns, kh, kw * channels), (image, down * row, across * column, row, 1), x.storage_offset()
    )
    return windows.clone(memory_format=torch.contiguous_format).flatten(3)


# Two operators, so that the compiler can be given FUNCTIONAL in place of what is done in place here.
_unfold = torch.library.custom_op("bench::unfold", _functional_unfold, mutates_args=())


@torch.library.custom_op("bench::fold", mutates_args=())
def _fold(patches: Tensor, height: int, width: int, kh: int, kw: int, down: int, across: int) -> Tensor:
    images, rows, columns, size = patches.shape
    channels = size // (kh * kw)
    x = patches.new_zeros(images, height, width, channels)
    image, row, column, _ = x.stride()
    patches = patches.unflatten(3, (kh, kw * channels))
    # Parts of patches no larger than the strides do not overlap, so that all of them can be added at once.
    for i in range(0, kh, down):
        for j in range(0, kw, across):
            h, w = min(down, kh - i), min(across, kw - j) * channels
            part = x.as_strided(
                (images, rows, columns, h, w), (image, down * row, across * column, row, 1), i * row + j * column
            )
            part.add_(patches[:, :, :, i : i + h, j * channels : j * channels + w])
    return x


@_unfold.register_fake
def _(x: Tensor, height: int, width: int, kh: int, kw: int, down: int, across: int) -> Tensor:
    return x.new_empty(x.shape[0], (height - kh) // down + 1, (width - kw) // across + 1, kh * kw * x.shape[3])


@_fold.register_fake
def _(patches: Tensor, height: int, width: int, kh: int, kw: int, down: int, across: int) -> Tensor:
    return patches.new_empty(patches.shape[0], height, width, patches.shape[3] // (kh * kw))


def _functional_fold(patches: Tensor, height: int, width: int, kh: int, kw: int, down: int, across: int) -> Tensor:
    images, rows, columns, size = patches.shape
    patches = patches.unflatten(3, (kh, kw, size // (kh * kw)))
    lower, wider = -(-kh // down) - 1, -(-kw // across) - 1
    total = torch.zeros((), dtype=patches.dtype, device=patches.device)
    # Every part of a patch that is no larger than the strides has its place in a grid of blocks of that size.
    for i in range(lower + 1):
        for j in range(wider + 1):
            part = patches[:, :, :, i * down : (i + 1) * down, j * across : (j + 1) * across]
            h, w = part.shape[3:5]
            total = total + functional.pad(part, (0, 0, 0, across - w, 0, down - h, j, wider - j, i, lower - i))
    x = total.permute(0, 1, 3, 2, 4, 5).reshape(images, (rows + lower) * down, (columns + wider) * across, -1)
    return functional.pad(x, (0, 0, 0, width - x.shape[2], 0, height - x.shape[1])).contiguous()


# What the compiler makes kernels of, fused with what stands before and after.
FUNCTIONAL = {
    torch.ops.bench.unfold.default: _functional_unfold,
    torch.ops.bench.fold.default: _functional_fold,
}


def _replaceable(
    input: Tensor,
    weight: Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> bool:
    (down, across), (kh, kw) = _pair(stride), weight.shape[-2:]
    plain: bool = input.dim() == 4 and groups == 1 and dilation in (1, (1, 1)) and not isinstance(padding, str)
    return plain and bool(kh * kw <= MOST_COPIES * down * across)


def _conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, *_: Any, **__: Any
) -> Tensor:
    (down, across), (vertical, horizontal) = _pair(stride), _pair(padding)
    x = input.permute(0, 2, 3, 1)
    if vertical or horizontal:
        x = functional.pad(x, (0, 0, horizontal, horizontal, vertical, vertical))
    outputs, _channels, kh, kw = weight.shape
    images, height, width = x.shape[:3]
    patches = _Patches.apply(x, (height, width, kh, kw, down, across), False)  # type: ignore[no-untyped-call]
    rows, columns = patches.shape[1:3]
    product = patches.reshape(images * rows * columns, -1) @ weight.permute(0, 2, 3, 1).reshape(outputs, -1).mT
    product = product.view(images, rows, columns, outputs)
    if bias is not None:  # here, where the compiler adds it in the next kernel, not by a copy before the product
        product = product + bias
    result: Tensor = product.permute(0, 3, 1, 2)
    return result


def _pad(x: Tensor, sizes: Any) -> Tensor:
    # As it comes, padding would bring the images back to channels first.
    return functional.pad(x.permute(0, 2, 3, 1), (0, 0, *sizes)).permute(0, 3, 1, 2)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
