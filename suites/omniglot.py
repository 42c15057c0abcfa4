"""Omniglot: 1623 characters of 50 alphabets, each drawn once by 20 people, as 28x28 images.

The classic few-shot benchmark, because it has many classes with few examples each.
Lake, Salakhutdinov, Tenenbaum, "Human-level concept learning through probabilistic program
induction", Science 2015.
"""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Generator, Tensor

from bench.core.data import Archive, Dataset
from bench.core.errors import DataError, unknown
from bench.core.types import Split
from suites import published
from suites.parts.fewshot import Images, permutations

SOURCE = "https://github.com/brendenlake/omniglot"
BACKGROUND = Archive(
    name="images_background",
    url=f"{SOURCE}/raw/master/python/images_background.zip",
    sha256="07356096b8076fcf915341f8715e94822249e2a4d5b999fd2d0f6cf9ebffebd5",
)
EVALUATION = Archive(
    name="images_evaluation",
    url=f"{SOURCE}/raw/master/python/images_evaluation.zip",
    sha256="f5165eb5f20d18e13c6515650b69a42a2c0507506969d410ba5e4a1c572bd542",
)
DATA = Dataset("omniglot", (BACKGROUND, EVALUATION), f"MIT, (c) 2015 Brenden Lake, {SOURCE}")
CHARACTERS = Path(__file__).parent / "assets" / "omniglot_characters.txt"
VINYALS = CHARACTERS.with_name("omniglot_vinyals.txt")
SETTINGS = {"character": "", "alphabet": ", split by alphabet", "vinyals": ", split of Vinyals"}
DRAWINGS, SIDE = 20, 28  # per character; in pixels
VALIDATION_ALPHABETS = 5


@dataclass(frozen=True, kw_only=True)
class Omniglot(Images):
    """N-way K-shot classification of handwritten characters, 28x28, ink 1 on paper 0."""

    split: Annotated[
        Literal["character", "alphabet", "vinyals"],
        Field(
            description="1100/100/423 characters at random; Lake's background and evaluation alphabets; or the "
            "1028/172/423 characters of Vinyals et al. 2016, where each quarter turn of one is a class (vinyals)"
        ),
    ] = "character"

    data: ClassVar[Dataset] = DATA
    manifests: ClassVar[dict[str, str]] = published()["omniglot"]

    @property
    def setting(self) -> str:
        """As papers name it."""
        return super().setting + SETTINGS[self.split]

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """All drawings."""
        return drawings()

    @property
    def kinds(self) -> list[str]:
        """The alphabet of each character."""
        return [name.split("/")[1].replace("_", " ") for name in names()]

    def classes_of(self, split: Split) -> Tensor:
        """The characters of a split."""
        return torch.from_numpy(split_indices(split, self.split))

    def chosen(self, count: int, split: Split, generator: Generator) -> tuple[Tensor, Tensor]:
        """As of any image suite; in Vinyals' split a task may hold a character and its quarter turn, as classes."""
        if self.split != "vinyals":
            return super().chosen(count, split, generator)
        classes = self.classes_of(split)
        self.check_ways(4 * len(classes), split)
        places = permutations(count, 4 * len(classes), generator)[:, : self.ways]
        return classes[places // 4], places % 4


@cache
def drawings() -> NDArray[np.uint8]:
    """uint8 [1623, 20, 28, 28], memory-mapped, in order of `names`; ink is dark: not inverted."""
    return DATA.array(f"drawings-{SIDE}", _read_drawings)


def names() -> tuple[str, ...]:
    """The 1623 characters, sorted, `images_background/Alphabet_of_the_Magi/character01` first."""
    return tuple(_listed(CHARACTERS))


@cache
def split_indices(split: str, by: str) -> NDArray[np.int64]:
    """Ascending indices into `names` of the characters in a split; no two splits share any.

    Args:
        split: "train", "validation" or "test".
        by: "character" for 1100, 100 and 423 characters at random, as CHARACTERS lists them;
            "alphabet" for splits that share no alphabet: Lake's evaluation set is test; of the
            background set, the 5 alphabets whose names come first by SHA-256 are validation; or
            "vinyals" for the 1028, 172 and 423 characters that VINYALS lists, with its source.
    """
    ways: dict[str, Callable[[], dict[str, str]]] = {
        "character": partial(_listed, CHARACTERS),
        "alphabet": _splits_by_alphabet,
        "vinyals": partial(_listed, VINYALS),
    }
    if by not in ways:
        raise unknown("way to split Omniglot", by, ways)
    if split not in (allowed := ("train", "validation", "test")):
        raise unknown("split", split, allowed)
    return np.flatnonzero([assigned == split for assigned in ways[by]().values()])


def _listed(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = (line.split() for line in lines if not line.startswith("#"))
    return {name: split for split, name in pairs}


def _splits_by_alphabet() -> dict[str, str]:
    background = {name.split("/")[1] for name in names() if name.startswith(BACKGROUND.name)}
    shuffled = sorted(background, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    splits = dict.fromkeys(shuffled, "train")
    splits.update(dict.fromkeys(shuffled[:VALIDATION_ALPHABETS], "validation"))
    return {name: splits.get(name.split("/")[1], "test") for name in names()}


def _read_drawings() -> NDArray[np.uint8]:
    from PIL import Image

    found: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in names()}
    for archive in DATA.archives:
        for path, content in DATA.files(archive):
            with Image.open(io.BytesIO(content)) as image:
                small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            found.setdefault(path.rpartition("/")[0], []).append(np.asarray(small))
    if len(found) > len(names()) or {len(images) for images in found.values()} != {DRAWINGS}:
        raise DataError(
            f"the archives of {DATA.name} do not hold {DRAWINGS} drawings of each character in "
            f"{CHARACTERS}. Run `bench data verify {DATA.name}`, or reinstall bench."
        )
    return np.array(list(found.values()))
