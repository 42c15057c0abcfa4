"""Paths in the plane before and after adaptation, as figure 5 of Finn et al. 2017 (arXiv:1703.03400)."""

from typing import NamedTuple

import matplotlib.figure
import numpy as np
import seaborn as sns
from numpy.typing import NDArray


class Walk(NamedTuple):
    """Episodes of one task after some inner steps."""

    task: int
    step: int
    goal: NDArray[np.float32]  # [2]
    paths: list[NDArray[np.float32]]  # [time-steps, 2] each
    score: float  # mean return


SHOWN = 5  # episodes of a panel


def draw(walks: list[Walk], title: str) -> matplotlib.figure.Figure:
    """A row for each task, a column for each number of inner steps; a star is the goal, a dot the start."""
    tasks, steps = (sorted({getattr(walk, name) for walk in walks}) for name in ("task", "step"))
    figure = matplotlib.figure.Figure(figsize=(2.6 * len(steps), 0.5 + 2.6 * len(tasks)), layout="constrained")
    axes = np.atleast_2d(figure.subplots(len(tasks), len(steps), squeeze=False, sharex=True, sharey=True))
    path, start, goal = (sns.color_palette("colorblind")[i] for i in (0, 7, 3))
    for walk in walks:
        ax = axes[tasks.index(walk.task), steps.index(walk.step)]
        for points in walk.paths[:SHOWN]:
            ax.plot(*points.T, color=path, linewidth=1, alpha=0.7)
        ax.plot(*walk.paths[0][0], "o", color=start, markersize=5)
        ax.plot(*walk.goal, "*", color=goal, markersize=12, markeredgecolor="black", markeredgewidth=0.5)
        ax.text(
            0.03,
            0.97,
            f"return {walk.score:.1f}",
            transform=ax.transAxes,
            va="top",
            fontsize=8,
            bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0},
        )
        ax.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal")
        sns.despine(ax=ax)
    for ax, step in zip(axes[0], steps, strict=True):
        ax.set_title("before adaptation" if not step else f"after {step} step{'s' if step > 1 else ''}", fontsize=10)
    for ax, task in zip(axes[:, 0], tasks, strict=True):
        ax.set_ylabel(f"test task {task}")
    figure.suptitle(title, fontsize=10)
    return figure
