"""Tiny ImageNet: 200 classes of ImageNet, 500 photographs each, 64x64.

The data set is that of Stanford's course CS231n (http://cs231n.stanford.edu/tiny-imagenet-200.zip), whose validation
and test images are left out: few-shot learning tests on other classes. No split of classes is published with it, so
this one goes by the SHA-256 of their names: 64 % train, 16 % validation, 20 % test, as miniImagenet has them. Protocol
and network are those of miniImagenet in Finn et al. 2017 (arXiv:1703.03400).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bench.core.types import Split
from suites import published
from suites.parts import photographs
from suites.parts.fewshot import Queries
from suites.parts.photographs import SPLITS, By, ColourImages

SHAPE = (3, 64, 64)


@dataclass(frozen=True, kw_only=True)
class TinyImagenet(ColourImages):
    """N-way K-shot classification of photographs, 64x64, values from 0 to 1."""

    queries: Annotated[
        Queries,
        Field(description="query photographs per class; dirichlet: of each class another number (Veilleux et al. 2021, "
              "arXiv:2204.11181)"),
    ] = 15  # fmt: skip
    image_shape: ClassVar[tuple[int, ...]] = SHAPE
    drawings_per_class: ClassVar[int] = 500
    split_sizes: ClassVar[dict[Split, int]] = {"train": 128, "validation": 32, "test": 40}
    manifests: ClassVar[dict[str, str]] = published()["tiny_imagenet"]

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """All photographs."""
        return pixels()


@cache
def pixels() -> NDArray[np.uint8]:
    """uint8 [200, 500, 3, 64, 64], classes sorted within train, validation and test, which follow each other."""
    layout = "tiny-imagenet-200/ or its train/, with a folder CLASS/images/ of .JPEG files for each class"
    return photographs.array("tiny_imagenet", SHAPE, {layout: _from_folders}, TinyImagenet)


def _from_folders(folder: Path) -> Iterator[By]:
    places = [path for path in sorted(folder.glob("**/train/*/images")) if path.is_dir()]
    ranked = sorted(places, key=lambda path: hashlib.sha256(path.parent.name.encode()).hexdigest())
    for split in SPLITS if places else ():
        size = TinyImagenet.split_sizes[split]
        own, ranked = (ranked[:size], ranked[size:]) if split != "test" else (ranked, [])
        for path in sorted(own, key=lambda path: path.parent.name):
            yield {path.parent.name: [photographs.decode(file, SHAPE) for file in sorted(path.glob("*.JPEG"))]}
