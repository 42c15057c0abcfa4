"""What suites of photographs share: colour, no turns, the max-pooling network, and folders that people already have.

Such data may not be passed on, so nothing is downloaded: what lies in `--data-dir` is read once and cached as arrays.
Letters: C classes, H height, W width.
"""

import io
import pickle
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Generator, Tensor, nn

from bench.core import images
from bench.core.data import cached_array, data_dir
from bench.core.errors import DataError
from bench.core.sheet import Sheet
from bench.core.types import Setting, Split
from suites.parts.fewshot import FINN, Classes, Images
from suites.parts.nets import Pool4
from suites.parts.queries import Unbalanced

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
By = dict[str, list[NDArray[np.uint8]]]  # class -> images [H, W, 3]


@dataclass(frozen=True, kw_only=True)
class ColourImages(Images):
    """N-way K-shot classification of colour photographs; subclasses say where they lie and how they are split."""

    net: Annotated[
        Literal["conv", "conv4-64", "resnet12"],
        Field(
            description="the paper's 4x32 convolutions with max-pooling (conv); 4x64 with batch norm (conv4-64); "
            "residual blocks of 64-160-320-640 (resnet12)"
        ),
    ] = "conv"

    presets: ClassVar = {**Images.presets, "quick": Images.presets["quick"]._replace(iterations=300)}
    drawings_per_class: ClassVar[int] = 600
    split_sizes: ClassVar[dict[Split, int]] = {"train": 64, "validation": 16, "test": 20}
    clip: ClassVar[float | None] = 10.0  # Finn et al. 2017, code

    @property
    def report_steps(self) -> tuple[int, ...]:
        """One step, and the ten that the paper took at test."""
        return (1, 10)

    @property
    def protocol(self) -> dict[str, Setting]:
        """The paper's; its rate is in its own loss's units."""
        return {
            "inner_lr": self.rate(0.01),
            "steps": Setting(5, FINN),
            "outer_lr": Setting(0.001, "Finn et al. 2017, code"),
            "meta_batch": Setting(4, f"{FINN} for one shot, and the code's command for five"),
        }

    def network(self, outputs: int) -> nn.Module:
        """The paper's four 3x3 convolutions of 32 filters, normalised and max-pooled, or what `net` names instead."""
        if self.net != "conv":
            return super().network(outputs)
        side = self.image_shape[1] // 16
        return Pool4(outputs, 32, side * side)

    def drawn(self, count: int, split: Split, generator: Generator) -> Classes | Unbalanced:
        """Tasks as of any image suite, but photographs have an upside."""
        tasks = super().drawn(count, split, generator)
        return tasks._replace(turns=torch.zeros_like(tasks.turns))

    def images(self, tasks: Classes | Unbalanced, drawings: Tensor) -> Tensor:
        """[T, W, S] -> [T, W S, 3, H, W], from 0 to 1."""
        return self._tensor[tasks.classes.unsqueeze(-1), drawings].flatten(1, 2).float() / 255

    def picture(self, path: Path) -> Tensor:
        """An image file as the network sees it, [3, H, W], from 0 to 1.

        Raises:
            DataError: it is no image.
        """
        return torch.from_numpy(decode(path, self.image_shape).copy()).movedim(-1, 0).float() / 255

    def sheet(self) -> Sheet:
        """Twelve test classes, twenty photographs of each."""
        classes = self.classes_of("test")
        rows = classes[torch.linspace(0, len(classes) - 1, 12).long()]
        return Sheet("images", self.pixels[rows.numpy(), :20].transpose(0, 1, 3, 4, 2) / 255.0)

    def classes_of(self, split: Split) -> Tensor:
        """The classes of a split, which lie one split after the other."""
        sizes = [self.split_sizes[s] for s in SPLITS]
        first = sum(sizes[: SPLITS.index(split)])
        return torch.arange(first, first + self.split_sizes[split])


def array(
    name: str,
    shape: tuple[int, ...],
    layouts: dict[str, Callable[[Path], Iterable[By]]],
    suite: type[ColourImages] = ColourImages,
) -> NDArray[np.uint8]:
    """uint8 [C, drawings, 3, H, W] of a data set in `--data-dir`, its splits one after the other, cached.

    Args:
        name: of the data set and of its folder.
        shape: of one image, [3, H, W].
        layouts: what may lie in that folder, in words, and how each is read: its classes in order, some at a time.
        suite: whose numbers of classes and of images of each are expected.

    Raises:
        DataError: there is no such folder, nothing in it is one of the layouts, or images are missing.
    """
    root = data_dir()
    ways = "; or ".join(layouts)
    if root is None or not (folder := root / name).is_dir():
        raise DataError(
            f"{name} may not be passed on, so bench can't download it. Put it into a folder {name}/ as {ways}; "
            f"and give the folder above it as --data-dir (BENCH_DATA_DIR){f', which is {root}' if root else ''}."
        )

    count, each = sum(suite.split_sizes.values()), suite.drawings_per_class

    def build() -> NDArray[np.uint8]:
        for read in layouts.values():
            every, found = np.empty((count, each, *shape), np.uint8), dict[str, int]()
            for classes in read(folder):
                for label in sorted(classes):
                    some = classes.pop(label)  # lest an image be kept twice
                    if len(some) == each and len(found) < count:
                        every[len(found)] = np.stack(some).transpose(0, 3, 1, 2)
                    found[label] = len(some)
            if not found:
                continue
            few = [label for label, number in found.items() if number != each]
            if len(found) != count or few:
                raise DataError(
                    f"{folder} has {len(found)} classes, of {count}, and {len(few)} of them do not have {each} images "
                    f"({', '.join(few[:3])}). Get an intact copy."
                )
            return every
        raise DataError(f"nothing in {folder} is {name} as bench reads it: {ways}.")

    files = sorted((path.relative_to(folder).as_posix(), path.stat().st_size) for path in folder.rglob("*"))
    state = zlib.crc32(repr((str(folder), files)).encode())
    return cached_array(name, f"{'x'.join(map(str, shape))}-{state:08x}", build)


def decode(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An image file as [H, W, 3], resized as the paper's code does where it is not of the shape [3, H, W]."""
    return images.decode(path, (shape[1], shape[2]), "RGB")


def decoded(content: bytes, shape: tuple[int, ...], what: str) -> NDArray[np.uint8]:
    """Likewise of what a file holds.

    Raises:
        DataError: it is no image, or damaged.
    """
    return images.decode(io.BytesIO(content), (shape[1], shape[2]), "RGB", what)


def unpickle(path: Path) -> Any:
    """The arrays, lists, dictionaries and strings in a pickle file, which runs no code of its own.

    Raises:
        DataError: the file is damaged, or names anything that is no array.
    """
    try:
        return _Arrays(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except Exception as error:  # a damaged pickle breaks in every way
        raise DataError(f"cannot read {path} safely ({error}). Get an intact copy.") from None


class _Arrays(pickle.Unpickler):
    _ALLOWED = (
        *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
        *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),  # of protocol 5: bytes as an array
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
        *((module, n) for module in ("builtins", "__builtin__") for n in ("bytes", "bytearray")),  # of protocols 0 to 4
        ("collections", "OrderedDict"),
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it would call {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)
