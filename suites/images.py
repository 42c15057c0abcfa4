"""Images of your own: class folders, split folders, a CSV or a zip of them, as few-shot tasks.

`images[folder=my_photos,ways=5,shots=1,size=84]`. Protocol and network are those of miniImagenet in Finn et al. 2017
(arXiv:1703.03400); every image is made upright and resized to a square.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Generator, Tensor

from bench.core.data import data_dir
from bench.core.errors import DataError
from bench.core.images import decode
from bench.core.sheet import Sheet
from bench.core.types import Budget, Split
from suites.parts.fewshot import Classes, Queries
from suites.parts.folders import SHOWN, Collection, collected
from suites.parts.photographs import ColourImages
from suites.parts.queries import Unbalanced

SPLITS: tuple[Split, ...] = get_args(Split)
STAND_IN = {"train": 64, "validation": 16, "test": 20}  # classes, where there is no data to be timed with


class Pool(NamedTuple):
    """The classes of a split, and which images they have there."""

    classes: Tensor  # [C], numbers of classes
    images: Tensor  # [C, most], numbers of images, filled up with 0
    counts: Tensor  # [C]


@dataclass(frozen=True, kw_only=True)
class OwnImages(ColourImages):
    """N-way K-shot classification of the images in a folder."""

    folder: Annotated[
        str,
        Field(description="class folders, train/ validation/ test/ of class folders, a .zip of either, or a .csv of "
              "path,class; where --data-dir is given, also below that"),
    ] = ""  # fmt: skip
    size: Annotated[int, Field(ge=16, le=512, description="pixels on a side, to which images are resized")] = 84
    queries: Annotated[
        Queries,
        Field(description="query images per class; None: as many as shots; dirichlet: of each class another number "
              "(Veilleux et al. 2021, arXiv:2204.11181)"),
    ] = 15  # fmt: skip
    split: Annotated[
        Literal["classes", "within"],
        Field(description="test on other classes, or on other images of the same ones (within), for few classes"),
    ] = "classes"
    validation: Annotated[float, Field(gt=0, lt=0.5, description="share of the classes (within: images)")] = 0.16
    test: Annotated[float, Field(gt=0, lt=0.5, description="share of the classes (within: images)")] = 0.2

    presets: ClassVar[dict[str, Budget]] = ColourImages.presets
    manifests: ClassVar[dict[str, str]] = {}

    def __post_init__(self) -> None:
        """Nothing is known of what there is before it is read."""

    @property
    def image_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Colour, whatever the files are."""
        return 3, self.size, self.size

    @property
    def setting(self) -> str:
        """As of any image suite, with what was read: its name and the first digits of its content's SHA-256."""
        known = f", {Path(self.folder).name} {self.found[0].content[:12]}" if self.folder else ""
        within = ", same classes" if self.split == "within" else ""
        return f"{super().setting}{within}{known}"

    @property
    def caveat(self) -> str:
        """What was left out, and that nothing new is told apart where classes are the same."""
        if not self.folder:
            return ""
        few = f"{len(self.few)} of {len(self.found[0].names)} classes left out, with too few images ({_some(self.few)})"
        files = self.found[0].dropped
        notes = [few] if self.few else []
        notes += [f"{len(files)} files left out ({_some(_whys(files))})"] if files else []
        notes += ["tested on other images of the classes that were trained on"] if self.split == "within" else []
        return "; ".join(notes)

    @cached_property
    def found(self) -> tuple[Collection, NDArray[np.uint8]]:
        """What lies in the folder, and its pixels, uint8 [N, 3, S, S].

        Raises:
            DataError: no folder was given, or it can't be read.
        """
        if not self.folder:
            raise DataError(
                'no folder was given. Write "images[folder=my_photos]"; `bench show images` says what in it.'
            )
        path, root = Path(self.folder).expanduser(), data_dir()
        below = root / path if root else path
        return collected(below if not path.exists() and below.exists() else path, self.size)

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """All images."""
        return self.found[1]

    @property
    def kinds(self) -> list[str]:
        """The classes' names."""
        return self.found[0].names

    @property
    def drawings_per_class(self) -> int:  # type: ignore[override]
        """Images of the middle class of the split that has the fewest, by which unbalanced queries go."""
        if not self.folder:
            return super().drawings_per_class
        sizes = [sorted(map(len, own.values())) for own in self.parted.values() if own]
        return min((each[len(each) // 2] for each in sizes), default=0)

    @property
    def needed(self) -> int:
        """Images of a class in a task; where classes are not equally frequent, one more than on average."""
        return self.shots + self.per_class_queries + (self.queries == "dirichlet")

    @property
    def few(self) -> list[str]:
        """The classes that have too few images for a task."""
        kept = {int(number) for pool in self.pools.values() for number in pool.classes}
        return [name for number, name in enumerate(self.found[0].names) if number not in kept]

    @property
    def said(self) -> set[Split]:
        """The splits that folders or a list name."""
        return {split for split in self.found[0].splits if split}

    @property
    def shares(self) -> dict[Split, float]:
        """Of which share of the others each split is that nobody names."""
        shares: dict[Split, float] = {"test": self.test, "validation": self.validation}
        return {split: share for split, share in shares.items() if split not in self.said}

    @cached_property
    def parted(self) -> dict[Split, dict[int, list[int]]]:
        """The images of each class in each split, before classes are divided and left out."""
        about, shares = self.found[0], self.shares
        by: dict[Split, dict[int, list[int]]] = {split: {} for split in SPLITS}
        for image, (label, split) in enumerate(zip(about.labels, about.splits, strict=True)):
            by[split or "train"].setdefault(label, []).append(image)
        for label, images in list(by["train"].items()) if self.split == "within" else ():
            for split, some in _divided(images, shares, lambda image: about.files[image]).items():
                by[split][label] = sorted(some)
            by["train"][label] = sorted(set(images) - {i for split in shares for i in by[split][label]})
        return by

    @cached_property
    def pools(self) -> dict[Split, Pool]:
        """What each split has.

        Raises:
            DataError: a split has fewer classes than a task.
        """
        about, by = self.found[0], self.parted
        if self.split == "classes":
            by = {split: {k: v for k, v in own.items() if len(v) >= self.needed} for split, own in by.items()}
            own = by["train"]
            for split, labels in _divided(list(own), self.shares, lambda label: about.names[label]).items():
                by[split] |= {label: own.pop(label) for label in labels}
        if self.split == "classes" and (twice := (by["train"].keys() & (by["test"].keys() | by["validation"].keys()))):
            names = [about.names[label] for label in sorted(twice)]
            raise DataError(
                f"{len(names)} classes stand in more than one split ({_some(names)}), and are to be other ones at "
                "test. Give split=within, or separate the classes."
            )
        pools = {split: _pool(found, self.needed) for split, found in by.items()}
        if any(len(pool.classes) < self.ways for pool in pools.values()):
            raise DataError(self._too_few(pools))
        return pools

    def _too_few(self, pools: dict[Split, Pool]) -> str:
        about = self.found[0]
        where = "that are left for each split" if self.split == "within" else ""
        counts = ", ".join(f"{len(pools[split].classes)} {split}" for split in SPLITS)
        ways = (
            "Give fewer ways, or lower queries or shots, so that more classes have enough images"
            + (
                "; or larger shares validation and test"
                if self.split == "within"
                else "; or split=within, which tests other images of the same classes"
            )
            + ("" if self.said else "; or folders train/, validation/ and test/ of your own choice")
        )
        lost = f" {len(about.dropped)} files were left out ({_some(_whys(about.dropped))})." if about.dropped else ""
        return (
            f"{self.folder} has {len(about.names)} classes, and with at least {self.needed} images each ({self.shots} "
            f"shots, {self.per_class_queries} queries) {where} {counts}. A {self.ways}-way task needs {self.ways} in "
            f"every split. {ways}.{lost}"
        ).replace("  ", " ")

    def classes_of(self, split: Split) -> Tensor:
        """The numbers of a split's classes."""
        return self.pools[split].classes

    def drawn(self, count: int, split: Split, generator: Generator) -> Classes | Unbalanced:
        """As of any image suite, of classes that differ in how many images they have."""
        pool = self.pools[split]
        chosen = torch.rand(count, len(pool.classes), generator=generator).argsort(1)[:, : self.ways]
        draws = torch.rand(*chosen.shape, pool.images.shape[1], generator=generator)
        there = torch.arange(pool.images.shape[1]) < pool.counts[chosen].unsqueeze(-1)
        order = pool.images[chosen].gather(-1, draws.masked_fill(~there, 2.0).argsort(-1))
        turns = torch.zeros_like(chosen)
        return self.dealt(split, pool.classes[chosen], turns, order, pool.counts[chosen], generator)

    def images(self, tasks: Classes | Unbalanced, drawings: Tensor) -> Tensor:
        """[T, W, S] numbers of images -> [T, W S, 3, H, W], from 0 to 1."""
        return self._tensor[drawings].flatten(1, 2).float() / 255

    def picture(self, path: Path) -> Tensor:
        """An image file as the network sees those of the folder, [3, H, W], from 0 to 1.

        Raises:
            DataError: it is no image.
        """
        seen = decode(path, (self.size, self.size), "RGB", upright=True)
        return torch.from_numpy(seen.copy()).movedim(-1, 0).float() / 255

    def stand_in(self) -> Self:
        """Random pixels in place of images; of a hundred classes where no folder was given."""
        other = replace(self)
        noise = torch.randint(256, self.image_shape, generator=Generator().manual_seed(0), dtype=torch.uint8)
        if self.folder:
            vars(other)["found"], vars(other)["pools"] = self.found, self.pools
            vars(other)["_tensor"] = noise.expand(len(self.pixels), *self.image_shape)
            return other
        numbers = torch.arange(sum(STAND_IN.values())).split(list(STAND_IN.values()))
        images = torch.arange(self.needed)
        vars(other)["pools"] = {
            split: Pool(own, images.expand(len(own), -1), torch.full_like(own, self.needed))
            for split, own in zip(STAND_IN, numbers, strict=True)
        }
        vars(other)["_tensor"] = noise.expand(self.needed, *self.image_shape)
        return other

    def sheet(self) -> Sheet:
        """Up to twelve test classes, up to twenty images of each."""
        pool = self.pools["test"]
        rows = torch.linspace(0, len(pool.classes) - 1, min(12, len(pool.classes))).long()
        columns = min(20, int(pool.counts[rows].min()))
        return Sheet("images", self.pixels[pool.images[rows, :columns].numpy()].transpose(0, 1, 3, 4, 2) / 255.0)

    def use(self) -> tuple[list[dict[str, object]], dict[str, str]]:
        """What would be used, a row for each split, and what is left out: path or class -> why."""
        rows: list[dict[str, object]] = [
            {
                "split": split,
                "classes": len(pool.classes),
                "images": int(pool.counts.sum()),
                "fewest of a class": int(pool.counts.min()),
                "most of a class": int(pool.counts.max()),
            }
            for split, pool in self.pools.items()
        ]
        few = {f"class {name}": f"fewer than {self.needed} images" for name in self.few}
        return rows, few | self.found[0].dropped


def _divided(members: list[int], shares: dict[Split, float], name: Callable[[int], str]) -> dict[Split, list[int]]:
    """A share of the members for each split, by the hash of their names alone."""
    ranked, found = sorted(members, key=lambda member: _hash(name(member))), {}
    for split, share in shares.items():
        count = round(share * len(members))
        found[split], ranked = ranked[:count], ranked[count:]
    return found


def _pool(found: dict[int, list[int]], needed: int) -> Pool:
    kept = {label: images for label, images in sorted(found.items()) if len(images) >= needed}
    most = max(map(len, kept.values()), default=0)
    filled = [[*images, *[0] * (most - len(images))] for images in kept.values()]
    return Pool(
        torch.tensor(list(kept), dtype=torch.int64),
        torch.tensor(filled, dtype=torch.int64).view(len(kept), most),
        torch.tensor([len(images) for images in kept.values()], dtype=torch.int64),
    )


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()


def _whys(dropped: dict[str, str]) -> list[str]:
    return [f"{name}: {why}" for name, why in dropped.items()]


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
