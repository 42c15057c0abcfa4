"""Characters of many scripts, 20 drawings of each: Omniglot's shape with nothing to download.

Why: a first experiment should need no network, and our own tests none either. Some 1,260
characters, each in two to six typefaces that matplotlib ships, are turned, slanted and bent into
drawings that differ as those of 20 people do. No two characters look alike, not even after a
quarter turn; a script belongs to one split as a whole, so that test scripts are never seen in
training. The shape is that of Lake, Salakhutdinov, Tenenbaum, "Human-level concept learning
through probabilistic program induction", Science 2015. Renderers differ, so the bitmaps ship with
the package; `assets/make_glyphs.py` made them.

Letters: C characters, D = 20 drawings of each, B bitmaps of all faces, S = 28 pixels a side.
"""

import hashlib
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.nn import functional

from bench.core.errors import DataError
from bench.core.types import Split
from suites import published
from suites.parts.fewshot import Images

ASSET = Path(__file__).parent / "assets" / "glyphs.npz"
SHA256 = "cfb7d0a3a47459b15f1ca3a8af2ce69b0e9a76e14b5bb45d748eacca87ac065d"
SPLITS = ("train", "validation", "test")
DRAWINGS, SEED = 20, 20  # as many as Omniglot has; the drawings are data, so their seed is fixed
TURN, SLANT, STRETCH, SHIFT = 0.18, 0.2, 0.15, 0.1  # at most: rad, tangent, ratio, half-widths
SHRINK = 1.08  # room on the paper for what the others move
BEND, KNOTS = 0.075, 5  # the elastic field's deviation at its knots, in half-widths; knots a side


@dataclass(frozen=True, kw_only=True)
class Glyphs(Images):
    """N-way K-shot classification of printed characters, 28x28, ink 1 on paper 0; scripts at test are new."""

    manifests: ClassVar[dict[str, str]] = published()["glyphs"]

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """All drawings."""
        return drawings()

    @property
    def kinds(self) -> tuple[str, ...]:
        """The script of each character."""
        return scripts()

    def classes_of(self, split: Split) -> Tensor:
        """The characters of a split."""
        return torch.from_numpy(split_indices(split))


@cache
def drawings() -> NDArray[np.uint8]:
    """uint8 [C, D, S, S], the same at every call; ink is dark (0), paper white (255)."""
    asset, generator = _asset(), Generator().manual_seed(SEED)
    faces = torch.from_numpy(asset["faces"]).long().unsqueeze(1)  # [C, 1]
    # Shuffled for each character, lest drawing d of all of them stand in one typeface.
    order = torch.rand(len(faces), DRAWINGS, generator=generator).argsort(1)
    rows = faces.cumsum(0) - faces + order % faces  # [C, D]
    ink = torch.from_numpy(asset["ink"])[rows.flatten()].unsqueeze(1).float() / 15  # [C D, 1, S, S]
    drawn = functional.grid_sample(ink, _grid(ink, generator), align_corners=False)
    images = (255 * (1 - drawn)).round().to(torch.uint8)
    return images.view(*rows.shape, *ink.shape[2:]).numpy()


def scripts() -> tuple[str, ...]:
    """The script of each of the C characters; for signs without one, their Unicode block."""
    return tuple(_asset()["scripts"].tolist())


def split_indices(split: str) -> NDArray[np.int64]:
    """Ascending indices of the characters in "train", "validation" or "test"."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}. Allowed: {', '.join(SPLITS)}.")
    return np.flatnonzero(_asset()["splits"] == split)


@cache
def _asset() -> dict[str, NDArray[Any]]:
    content = ASSET.read_bytes() if ASSET.exists() else b""
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise DataError(f"{ASSET} is missing or is not the file that shipped. Reinstall bench.")
    with np.load(io.BytesIO(content)) as arrays:
        return dict(arrays)


def _grid(images: Tensor, generator: Generator) -> Tensor:
    """Where each pixel looks [N, S, S, 2]: an affine map plus a smooth field, drawn per image."""
    count, size = len(images), list(images.shape)
    turn, slant, x, y, right, down = 2 * torch.rand(6, count, generator=generator) - 1
    cos, sin, slant = torch.cos(TURN * turn), torch.sin(TURN * turn), SLANT * slant
    wide, high = SHRINK + STRETCH * x, SHRINK + STRETCH * y
    across = torch.stack([wide * cos, wide * (slant * cos - sin), SHIFT * right], 1)
    along = torch.stack([high * sin, high * (slant * sin + cos), SHIFT * down], 1)
    affine = functional.affine_grid(torch.stack([across, along], 1), size, align_corners=False)
    knots = BEND * torch.randn(count, 2, KNOTS, KNOTS, generator=generator)
    field = functional.interpolate(knots, size[2:], mode="bicubic", align_corners=True)
    return affine + field.movedim(1, -1)
