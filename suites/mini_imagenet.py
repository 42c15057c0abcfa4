"""miniImagenet: 100 classes of ImageNet, 600 photographs each, 84x84.

The split is that of Ravi and Larochelle, "Optimization as a model for few-shot learning", ICLR 2017: 64, 16 and 20
classes. ImageNet may not be passed on; bench reads the layouts that people have. The data set is Vinyals et al. 2016
(arXiv:1606.04080); protocol and network are those of Finn et al. 2017 (arXiv:1703.03400), A.1.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bench.core.errors import DataError
from suites import published
from suites.parts import photographs
from suites.parts.fewshot import Queries
from suites.parts.photographs import By, ColourImages

SHAPE = (3, 84, 84)
SPLIT_NAMES = (("train",), ("val", "validation"), ("test",))


@dataclass(frozen=True, kw_only=True)
class MiniImagenet(ColourImages):
    """N-way K-shot classification of photographs, 84x84, values from 0 to 1."""

    queries: Annotated[
        Queries,
        Field(description="query photographs per class; the paper's code tests with as many as shots; dirichlet: of "
              "each class another number (Veilleux et al. 2021, arXiv:2204.11181)"),
    ] = 15  # fmt: skip
    image_shape: ClassVar[tuple[int, ...]] = SHAPE
    manifests: ClassVar[dict[str, str]] = published()["mini_imagenet"]

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """All photographs."""
        return pixels()


@cache
def pixels() -> NDArray[np.uint8]:
    """uint8 [100, 600, 3, 84, 84], classes sorted within train, validation and test, which follow each other."""
    return photographs.array("mini_imagenet", SHAPE, {
        "a folder images/ beside train.csv, val.csv and test.csv (filename,label) of Ravi and Larochelle": _from_csv,
        "mini-imagenet-cache-train.pkl, -validation.pkl (or -val.pkl) and -test.pkl": _from_pickles,
    })  # fmt: skip


def _from_csv(folder: Path) -> Iterator[By]:
    for names in SPLIT_NAMES:
        path = _first(folder, [f"{name}.csv" for name in names])
        if path is None:
            return
        files: dict[str, list[Path]] = {}
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if not {"filename", "label"} <= set(row):
                    raise DataError(f"{path} has no columns filename and label. Get the split of Ravi and Larochelle.")
                files.setdefault(row["label"], []).append(folder / "images" / Path(row["filename"]).name)
        for label in sorted(files):
            yield {label: [photographs.decode(image, SHAPE) for image in files[label]]}


def _from_pickles(folder: Path) -> Iterator[By]:
    for names in SPLIT_NAMES:
        path = _first(folder, [f"mini-imagenet-cache-{name}.pkl" for name in names])
        if path is None:
            return
        content = photographs.unpickle(path)
        try:
            for label in sorted(content["class_dict"]):
                yield {str(label): list(content["image_data"][content["class_dict"][label]])}
        except (KeyError, TypeError, IndexError, AttributeError):
            raise DataError(f"{path} does not hold image_data and class_dict. Get an intact copy.") from None


def _first(folder: Path, names: list[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).exists()), None)
