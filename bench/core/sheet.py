"""What `bench show --sheet` draws."""

from typing import Any, Literal, NamedTuple


class Sheet(NamedTuple):
    """Rows of small images, or curves; NumPy arrays."""

    kind: Literal["images", "curves"]
    values: Any  # images [rows, columns, H, W], ink 1, or [rows, columns, H, W, 3]; or curves [rows, points]
    x: Any = None  # of curves, [points]
