"""CIFAR-FS: the 100 classes of CIFAR-100, 600 photographs each, 32x32, split for few-shot learning.

The split is that of Bertinetto, Henriques, Torr, Vedaldi 2019 (arXiv:1805.08136): 64, 16 and 20 classes. The images
are those of Krizhevsky, "Learning multiple layers of features from tiny images", 2009. Protocol and network are those
of miniImagenet in Finn et al. 2017 (arXiv:1703.03400).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bench.core.data import zip_images
from bench.core.errors import DataError
from bench.core.images import image_files
from suites import published
from suites.parts import photographs
from suites.parts.fewshot import Queries
from suites.parts.photographs import SPLITS, By, ColourImages

SHAPE = (3, 32, 32)
CLASSES = Path(__file__).parent / "assets" / "cifar_fs_classes.txt"


@dataclass(frozen=True, kw_only=True)
class CifarFS(ColourImages):
    """N-way K-shot classification of photographs, 32x32, values from 0 to 1."""

    queries: Annotated[
        Queries,
        Field(description="query photographs per class; the paper's code tests with as many as shots; dirichlet: of "
              "each class another number (Veilleux et al. 2021, arXiv:2204.11181)"),
    ] = 15  # fmt: skip
    image_shape: ClassVar[tuple[int, ...]] = SHAPE
    manifests: ClassVar[dict[str, str]] = published()["cifar_fs"]

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """All photographs."""
        return pixels()

    @property
    def kinds(self) -> list[str]:
        """The classes' own names."""
        return [name.replace("_", " ") for name in names()]


@cache
def pixels() -> NDArray[np.uint8]:
    """uint8 [100, 600, 3, 32, 32], classes sorted within train, validation and test, which follow each other."""
    return photographs.array("cifar_fs", SHAPE, {
        "cifar-100-python/ with the files train, test and meta, from https://www.cs.toronto.edu/~kriz/cifar.html":
            _from_python,
        "one folder of images for each class, at any depth, or a zip of that": _from_folders,
    })  # fmt: skip


def split_of() -> dict[str, str]:
    """Class -> "train", "validation" or "test"."""
    lines = CLASSES.read_text(encoding="utf-8").splitlines()
    return {name: split for split, name in (line.split() for line in lines if not line.startswith("#"))}


@cache
def names() -> list[str]:
    """The classes in the order of `pixels`."""
    return [name for split in SPLITS for name, own in sorted(split_of().items()) if own == split]


def _from_python(folder: Path) -> Iterator[By]:
    source = folder / "cifar-100-python"
    if not (source / "train").exists():
        return
    labels = photographs.unpickle(source / "meta").get("fine_label_names", [])
    found: dict[str, list[tuple[str, NDArray[np.uint8]]]] = {}
    for part in ("train", "test"):
        content = photographs.unpickle(source / part)
        try:
            images = np.asarray(content["data"], np.uint8).reshape(-1, *SHAPE).transpose(0, 2, 3, 1)
            files = [str(file) for file in content["filenames"]]
            for file, image, label in zip(files, images, content["fine_labels"], strict=True):
                found.setdefault(labels[label], []).append((file, image))
        except (KeyError, TypeError, ValueError, IndexError):
            raise DataError(
                f"{source / part} does not hold data, filenames and fine_labels. Get an intact copy."
            ) from None
    yield from _by_split(found)


def _from_folders(folder: Path) -> Iterator[By]:
    found: dict[str, list[tuple[str, NDArray[np.uint8]]]] = {}
    for path in image_files(folder):
        if path.parent.name in split_of():
            found.setdefault(path.parent.name, []).append((path.name, photographs.decode(path, SHAPE)))
    for archive in sorted(folder.glob("*.zip")):
        for entry, content in zip_images(archive):
            if entry.parent.name in split_of():
                image = photographs.decoded(content, SHAPE, f"{entry} in {archive}")
                found.setdefault(entry.parent.name, []).append((entry.name, image))
    if found:
        yield from _by_split(found)


def _by_split(found: dict[str, list[tuple[str, NDArray[np.uint8]]]]) -> Iterator[By]:
    """By the names of the files, so that every layout gives the same order."""
    splits = split_of()
    for split in SPLITS:
        for name in sorted(name for name in found if splits.get(name) == split):
            yield {name: [image for _, image in sorted(found.pop(name), key=lambda pair: pair[0])]}
