"""A look at a suite's data: a contact sheet of images, or curves."""

import textwrap
from pathlib import Path

import matplotlib.figure
import seaborn as sns

from bench.core.sheet import Sheet

TITLE = 100  # characters of a line


def draw(sheet: Sheet, title: str, path: Path) -> None:
    """Writes the sheet as a PNG."""
    figure = matplotlib.figure.Figure(figsize=(10, 6.5), layout="constrained")
    axes = figure.subplots()
    if sheet.kind == "images":
        rows, columns, height, width, *colours = sheet.values.shape
        tiled = sheet.values.swapaxes(1, 2).reshape(rows * height, columns * width, *colours)
        axes.imshow(tiled, cmap="gray_r", vmin=0, vmax=1)
        axes.set_xticks([width * (i + 0.5) for i in range(columns)], map(str, range(columns)))
        axes.set_yticks([height * (i + 0.5) for i in range(rows)], map(str, range(rows)))
        axes.set(xlabel="image" if colours else "drawing", ylabel="class")
        axes.tick_params(length=0)
        sns.despine(ax=axes, left=True, bottom=True)
    else:
        for curve, colour in zip(sheet.values, sns.color_palette("viridis", len(sheet.values)), strict=True):
            axes.plot(sheet.x, curve, color=colour)
        axes.set(xlabel="x", ylabel="y")
        sns.despine(ax=axes)
    figure.suptitle(textwrap.fill(title, TITLE), x=0.01, ha="left")
    figure.savefig(path, dpi=120)
