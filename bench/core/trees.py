"""Trees of tensors: the one door to torch's pytrees, which have no public place."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import (
    tree_flatten,
    tree_flatten_with_path,
    tree_leaves,
    tree_map,
    tree_map_with_path,
    tree_unflatten,
)

from bench.core.errors import PluginError

__all__ = [
    "cut",
    "double",
    "named_leaves",
    "of_tensors",
    "part",
    "raw",
    "shapes_of",
    "to",
    "tree_flatten",
    "tree_leaves",
    "tree_map",
    "tree_map_with_path",
    "tree_unflatten",
]


def named_leaves(tree: Any) -> list[tuple[str, Tensor]]:
    """Path -> tensor of a tree, in its order."""
    return [("/" + "/".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path), leaf)
            for path, leaf in tree_flatten_with_path(tree)[0]]  # fmt: skip


def to(tree: Any, device: str) -> Any:
    """The tree on a device."""
    there = device == "cpu" and not any(leaf.device.type != "cpu" for leaf in tree_leaves(tree))
    return tree if there else tree_map(lambda x: x.to(device), tree)


def double(tree: Any) -> Any:
    """The tree with its numbers in double precision; whole numbers as they are."""
    wide = {True: torch.complex128, False: torch.float64}
    return tree_map(lambda x: x.to(wide[x.is_complex()]) if x.is_floating_point() or x.is_complex() else x, tree)


def raw(leaf: Tensor) -> bytes:
    """A tensor's values as they lie in memory, row by row: of every type, also of those that NumPy lacks."""
    return leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def of_tensors(tree: Any, what: str) -> Any:
    """The tree itself, if all of its leaves are tensors.

    Raises:
        PluginError: one is not; `what` begins the message.
    """
    for name, leaf in named_leaves(tree):
        if not isinstance(leaf, Tensor):
            found = f"{type(leaf).__name__} ({repr(leaf)[:40]})"
            raise PluginError(
                f"{what} has at {name} a {found}, which is no tensor. Give torch.tensor(...), or make it a field of "
                "the class if it is always the same."
            )
    return tree


def shapes_of(tree: Any) -> Any:
    """The tree's shapes and types without its values: tensors on the device "meta"."""
    return tree_map(lambda x: torch.empty_like(x, device="meta"), tree)


def part(tree: Any, some: Any) -> Any:
    """The tree with `some` of every leaf's first axis: a slice, or a number, which takes the axis away."""
    return tree_map(lambda leaf: leaf[some], tree)


def cut(tree: Any, size: int) -> Iterator[Any]:
    """The tree cut along its leaves' first axis into pieces of `size`."""
    leaves, spec = tree_flatten(tree)
    for piece in zip(*(leaf.split(size) for leaf in leaves), strict=True):
        yield tree_unflatten(list(piece), spec)
