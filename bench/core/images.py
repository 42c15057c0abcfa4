"""Image files, as suites of images read them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.core.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png")


def image_files(folder: Path) -> Iterator[Path]:
    """The images in a folder and below, sorted; what is hidden is none."""
    for path in sorted(folder.rglob("*")):
        hidden = any(name.startswith(".") for name in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not hidden:
            yield path


def decode(path: Path, size: tuple[int, int], mode: Literal["L", "RGB"]) -> NDArray[np.uint8]:
    """An image file as uint8 [H, W], or [H, W, 3] in colour; resized where it is not of that size, on white paper.

    Args:
        path: of the file.
        size: height and width in pixels.
        mode: grey or colour.

    Raises:
        DataError: it is no image, or damaged.
    """
    from PIL import Image

    height, width = size
    try:
        with Image.open(path) as file:
            image: Any = file
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert(mode)
            small = image if image.size == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS)
            return np.asarray(small)
    except (OSError, ValueError, SyntaxError) as error:  # Pillow's, of broken PNG chunks
        raise DataError(f"cannot read the image {path} ({error}). Get an intact copy.") from None
