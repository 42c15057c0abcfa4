"""What bench.cost measured, as tables for people and two pictures."""

from collections.abc import Iterator
from typing import Any

import matplotlib.figure
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

KEYS = ["suite", "algorithm", "gradient", "engine"]
GROWTH = ("ms fixed", "ms per step", "ms per task", "ms per task and step")
STYLES = {"first_order": ":", "reverse": "-", "mixed": "--", "-": "-"}


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """The measurements as text, one row per measurement."""
    shown = pd.DataFrame({key: frame[key].astype(str) for key in [*KEYS, "steps", "tasks"]})
    shown["ms"] = [_span(*row) for row in _columns(1e3 * frame[["seconds", "low", "high"]])]
    ratios = frame[["over_first", "over_first_low", "over_first_high"]]
    shown["x first order"] = [_span(*row) for row in _columns(ratios)]
    shown["MB"] = [_number(v / 2**20) for v in frame["peak_bytes"].astype(float)]
    shown["live MB"] = [_number(v / 2**20) for v in frame["live_bytes"].astype(float)]
    shown["GFLOP"] = [_number(v) for v in frame["gflop"]]
    shown["% of peak"] = [_number(100 * v) for v in frame["share"]]
    return shown


def adapting(frame: pd.DataFrame) -> pd.DataFrame:
    """What adapting at test costs as text, one row per suite, algorithm and number of tasks; none where nothing was."""
    own = frame[frame["test_seconds"].notna()].drop_duplicates(["suite", "algorithm", "tasks"])
    shown = pd.DataFrame({key: own[key].astype(str) for key in ("suite", "algorithm")})
    shown["steps"] = [f"{steps:.0f}" for steps in own["test_steps"]]
    shown["tasks"] = own["tasks"].astype(str)
    shown["ms/task"] = [_span(*row) for row in _columns(1e3 * own[["test_seconds", "test_low", "test_high"]])]
    shown["MFLOP/task"] = [_number(1e3 * v) for v in own["test_gflop"]]
    return shown


def growth(frame: pd.DataFrame) -> pd.DataFrame:
    """How seconds grow: a + b steps + c tasks + d steps x tasks, fitted to relative errors; needs 2 x 2 settings.

    Columns: KEYS, ms fixed (a), per step (b), per task (c), per task and step (d), the largest relative error.
    """
    rows = []
    for key, part in frame.groupby(KEYS, sort=False):
        if part["steps"].nunique() < 2 or part["tasks"].nunique() < 2:
            continue
        k, n = part["steps"], part["tasks"]
        terms = np.stack([np.ones(len(part)), k, n, k * n], 1)
        seconds = part["seconds"].to_numpy()
        weights = 1 / seconds[:, None]
        solution = np.linalg.lstsq(terms * weights, np.ones(len(part)), rcond=None)[0]
        worst = np.abs(terms @ solution / seconds - 1).max()
        rows.append([*key, *(_number(1e3 * value) for value in solution), f"{100 * worst:.0f} %"])
    return pd.DataFrame(rows, columns=[*KEYS, *GROWTH, "worst error"])


def against_steps(frame: pd.DataFrame) -> matplotlib.figure.Figure:
    """Milliseconds and memory against inner steps at the most tasks: a colour per algorithm, a dash per operator."""
    suites = list(dict.fromkeys(frame["suite"]))
    figure = matplotlib.figure.Figure(figsize=(3.2 + 3.6 * 2, 3.4 * len(suites)), layout="constrained")
    axes = np.atleast_2d(figure.subplots(len(suites), 2))
    colours = _colours(frame["algorithm"])
    engines = list(dict.fromkeys(frame["engine"]))
    for row, suite in zip(axes, suites, strict=True):
        here = frame[(frame["suite"] == suite) & (frame["tasks"] == frame["tasks"].max())]
        for (algorithm, gradient, engine), part in here.groupby(["algorithm", "gradient", "engine"], sort=False):
            line = part.sort_values("steps")
            look: dict[str, Any] = {
                "color": colours[algorithm],
                "linestyle": STYLES[gradient],
                "marker": "os^"[engines.index(engine)],
                "markersize": 4,
                "label": " ".join([algorithm, *([gradient] if gradient != "-" else []), engine]),
            }
            row[0].plot(line["steps"], 1e3 * line["seconds"], **look)
            row[0].fill_between(
                line["steps"], 1e3 * line["low"], 1e3 * line["high"], color=look["color"], alpha=0.15, linewidth=0
            )
            row[1].plot(line["steps"], line["live_bytes"] / 2**20, **look)
        row[0].set_title(f"{suite}, {frame['tasks'].max()} tasks", loc="left", fontsize=10)
        row[0].set_ylabel("ms per meta-iteration, median and 95 %")
        row[1].set_ylabel("MB of live tensors")
        for ax in row:
            _tidy(ax, sorted(here["steps"].unique()))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure


def against_seconds(progress: pd.DataFrame) -> matplotlib.figure.Figure:
    """The validation score against the seconds of training, compiling included; one line per cell.

    Args:
        progress: reports.frame.progress.
    """
    suites = list(dict.fromkeys(progress["suite"]))
    figure = matplotlib.figure.Figure(figsize=(2.2 + 4.2 * len(suites), 3.6), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(suites)))
    colours = _colours(progress["algorithm"])
    for ax, suite in zip(axes, suites, strict=True):
        here = progress[progress["suite"] == suite]
        for (algorithm, seed), line in here.groupby(["algorithm", "seed"], sort=False):
            label = algorithm if seed == here[here["algorithm"] == algorithm]["seed"].iloc[0] else None
            ax.plot(line["seconds"], line["score"], marker="o", markersize=4, color=colours[algorithm], label=label)
        ax.set_title(suite, loc="left", fontsize=10)
        ax.set(xlabel="seconds of training", ylabel=f"{here['metric'].iloc[0]} on validation tasks", xlim=(0, None))
        sns.despine(ax=ax)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure


def _tidy(ax: Axes, steps: list[int]) -> None:
    ax.set(xlabel="inner steps", xticks=steps, ylim=(0, None))
    sns.despine(ax=ax)


def _colours(algorithms: "pd.Series[str]") -> dict[str, Any]:
    names = list(dict.fromkeys(algorithms))
    return dict(zip(names, sns.color_palette("colorblind", len(names)), strict=True))


def _columns(frame: pd.DataFrame) -> Iterator[tuple[float, float, float]]:
    return frame.itertuples(index=False, name=None)


def _span(middle: float, low: float, high: float) -> str:
    return "-" if np.isnan(middle) else f"{_number(middle)} ({_number(low)} to {_number(high)})"


def _number(value: float) -> str:
    if np.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
