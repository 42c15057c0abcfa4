"""Image files, as suites of images read them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from bench.core.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png")  # of data sets that are published
IMAGES = (*SUFFIXES, ".bmp", ".gif", ".tif", ".tiff", ".webp")  # of what people have


def image_files(folder: Path, suffixes: tuple[str, ...] = SUFFIXES) -> Iterator[Path]:
    """The images in a folder and below, sorted; what is hidden is none."""
    for path in sorted(folder.rglob("*")):
        hidden = any(name.startswith(".") for name in path.relative_to(folder).parts)
        if path.suffix.lower() in suffixes and not hidden:
            yield path


def decode(
    file: Path | BinaryIO, size: tuple[int, int], mode: Literal["L", "RGB"], what: str = "", upright: bool = False
) -> NDArray[np.uint8]:
    """An image file as uint8 [H, W], or [H, W, 3] in colour; resized where it is not of that size, on white paper.

    Args:
        file: its path, or what it holds.
        size: height and width in pixels.
        mode: grey or colour.
        what: how it is called in errors; its path by default.
        upright: turned as the camera noted.

    Raises:
        DataError: it is no image, or damaged.
    """
    from PIL import Image

    try:
        return read(file, size, mode, upright)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # of broken PNG chunks, too
        raise DataError(f"cannot read the image {what or file} ({error}). Get an intact copy.") from None


def read(
    file: Path | BinaryIO, size: tuple[int, int], mode: Literal["L", "RGB"], upright: bool = False
) -> NDArray[np.uint8]:
    """Likewise, with Pillow's own exceptions; `upright`: turned as the camera noted."""
    from PIL import Image, ImageOps

    height, width = size
    with Image.open(file) as opened:
        image: Any = ImageOps.exif_transpose(opened) if upright else opened
        if image.mode.startswith(("I", "F")):  # 16 or 32 bits, which Pillow would cut to the lowest 256 values
            image = Image.fromarray(_eight_bits(np.asarray(image)))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert(mode)
        small = image if image.size == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS)
        return np.asarray(small)


def _eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Of 16 bits the upper eight; of other ranges, from their least value to their greatest."""
    if values.dtype == np.uint16 or (values.min() >= 0 and 255 < values.max() < 2**16):
        return (values.astype(np.uint32) >> 8).astype(np.uint8)
    low, high = float(values.min()), float(values.max())
    return ((values - low) / max(high - low, 1e-12) * 255 if high > 255 or low < 0 else values).astype(np.uint8)
