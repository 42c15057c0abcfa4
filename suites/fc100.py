"""FC100: CIFAR-100 split by superclass, so that what is tested looks less like what was trained on.

The split is that of Oreshkin, Rodriguez, Lacoste 2018 (arXiv:1805.10123), supplement: 12 superclasses of five classes
to train on, 4 to validate, 4 to test. Images, protocol and network are those of `cifar_fs`, whose data it reads.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from bench.core.types import Split
from suites import published
from suites.cifar_fs import CifarFS, names

CLASSES = Path(__file__).parent / "assets" / "fc100_classes.txt"


@dataclass(frozen=True, kw_only=True)
class FC100(CifarFS):
    """N-way K-shot classification of photographs, 32x32, values from 0 to 1, split by superclass."""

    split_sizes: ClassVar[dict[Split, int]] = {"train": 60, "validation": 20, "test": 20}
    manifests: ClassVar[dict[str, str]] = published()["fc100"]

    def classes_of(self, split: Split) -> Tensor:
        """The classes of a split, by their numbers among all of CIFAR-100's."""
        lines = CLASSES.read_text(encoding="utf-8").splitlines()
        own = {
            name for line in lines if not line.startswith("#") for place, _, name in [line.split()] if place == split
        }
        return torch.tensor([number for number, name in enumerate(names()) if name in own])
