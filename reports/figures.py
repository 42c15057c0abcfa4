"""One function per figure; each returns the Figure. An algorithm has one colour, marker and dash in all of them."""

import functools
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Any, NamedTuple, ParamSpec

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports import statistics
from reports.comparison import Cube

INK = "#1b1c1d"  # of all text and axes, so that a page can replace it by its own
GREY = "0.55"
STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.markersize": 4.0,
}
MARKERS, DASHES = "osD^vPX<>*", ("-", "--", "-.", ":")
ROW = 3  # panels beside each other
TITLE = 36  # characters in a line of a panel's title
LONG = 60  # more steps than these are drawn on a logarithmic scale
WINDOWS = 10  # a running mean over tasks is over a tenth of them
BEYOND = 30  # errors over this many times that of knowing nothing leave the picture
P = ParamSpec("P")


class Look(NamedTuple):
    """How an algorithm is drawn."""

    color: Any
    marker: str
    linestyle: str


Looks = dict[str, Look]


def looks(algorithms: Iterable[str]) -> Looks:
    """One look per label: a colour that colour-blind readers can tell apart for an algorithm, a dash for a variant.

    Give first, and in an order of their own, those that are to look the same in every picture.
    """
    colours = sns.color_palette("colorblind", 10)
    variants: dict[str, list[str]] = {}
    for name in dict.fromkeys(algorithms):
        variants.setdefault(re.split(r"[\[, ]", name)[0], []).append(name)
    return {
        name: Look(colours[i % 10], MARKERS[(i + 3 * v) % 10], DASHES[(i // 10 + v) % len(DASHES)])
        for i, names in enumerate(variants.values())
        for v, name in enumerate(names)
    }


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled


@_styled
def adaptation(cubes: Sequence[Cube], look: Looks, metric: str, after: str = "inner steps") -> Figure:
    """The score after 0..K inner steps, or points of a stream, with its 95 % interval over seeds and tasks.

    One suite, one panel a setting.

    Means of what has a unit; medians on a logarithmic scale of errors, whose means single tasks spoil.
    """
    panels = list(dict.fromkeys((cube.setting, cube.norm) for cube in cubes))
    figure, axes = _panels(len(panels), 3.0, 2.9, sharey=True)
    errors = cubes[0].better == "lower"
    for ax, (setting, norm) in zip(axes, panels, strict=False):
        for cube in cubes:
            if (cube.setting, cube.norm) != (setting, norm):
                continue
            each = [
                statistics.median_and_iqm(cube.at(step), 300).median if errors else cube.mean(step)
                for step in cube.steps
            ]
            middle, low, high = (np.array(column) for column in zip(*each, strict=True))
            ax.plot(cube.steps, middle, label=cube.algorithm, **look[cube.algorithm]._asdict())
            ax.fill_between(cube.steps, low, high, color=look[cube.algorithm].color, alpha=0.15, linewidth=0)
        floor = next(cube.floor for cube in cubes if (cube.setting, cube.norm) == (setting, norm))
        ax.axhline(floor, color=GREY, linestyle=":", linewidth=1, label="knowing nothing")
        ax.set_title(textwrap.fill(setting if norm == "none" else f"{setting}, {norm}", TITLE))
        ax.set_xlabel(after)
        if cubes[0].last > LONG:
            ax.set_xscale("symlog", linthresh=max(1, cubes[0].steps[1]))
        if errors:
            ax.set_yscale("log")
    if errors:  # once all is drawn: the panels share the axis
        axes[0].set_ylim(top=min(axes[0].get_ylim()[1], BEYOND * max(cube.floor for cube in cubes)))
    axes[0].set_ylabel(f"{metric}, {'median' if errors else 'mean'} and 95 % interval")
    _legend(figure, axes)
    return figure


@_styled
def rounds(scores: pd.DataFrame, look: Looks, metric: str, steps: Sequence[int], better: str) -> Figure:
    """A stream's scores against the number of the task: after so many of its points, and the points that it needed.

    Lines are means over seeds, bands reach from the lowest seed to the highest; both of running means over tasks.

    Args:
        scores: rows of reports.frame.tidy of one suite, by its headline and by `needed`.
        look: of every algorithm.
        metric: the headline in words.
        steps: the numbers of points after which it is drawn.
        better: which scores are.
    """
    drawn = {step: scores[(scores["step"] == step) & (scores["metric"] != "needed")] for step in steps}
    panels = {f"{metric} after {step} points": rows for step, rows in drawn.items()}
    panels["points needed"] = scores[scores["metric"] == "needed"]
    window = max(1, scores["task"].nunique() // WINDOWS)
    figure, axes = _panels(len(panels), 3.2, 2.9)
    for ax, (title, rows) in zip(axes, panels.items(), strict=False):
        for algorithm, part in rows.groupby("algorithm", sort=False):
            seeds = part.pivot_table(index="task", columns="seed", values="value").rolling(window, min_periods=1).mean()
            own, middle = look[str(algorithm)], seeds.mean(axis=1)
            ax.plot(seeds.index + 1, middle, color=own.color, linestyle=own.linestyle, label=algorithm)
            ax.fill_between(
                seeds.index + 1, seeds.min(axis=1), seeds.max(axis=1), color=own.color, alpha=0.15, linewidth=0
            )
        ax.set(xlabel="task of the stream", title=title)
        if better == "lower" and title != "points needed" and (rows["value"] > 0).all():
            ax.set_yscale("log")
    axes[-1].set_ylim(bottom=0)
    _legend(figure, axes)
    return figure


@_styled
def learning(progress: pd.DataFrame, look: Looks) -> Figure:
    """Validation scores against meta-iterations, seconds and, where they are counted, environment steps.

    Args:
        progress: rows of reports.frame.progress of one suite. A thin line is a seed, a thick one the median of
            the seeds, where all of them were looked at.
        look: of every algorithm.
    """
    axes_of = {"iteration": "meta-iterations", "seconds": "seconds of training, compiling included"}
    if progress["environment_steps"].notna().any():
        axes_of["environment_steps"] = "environment steps"
    figure, axes = _panels(len(axes_of), 3.6, 3.0, sharey=True)
    for ax, (column, title) in zip(axes, axes_of.items(), strict=False):
        for algorithm, part in progress.groupby("algorithm", sort=False):
            own = look[str(algorithm)]
            for _, line in part.groupby("seed"):
                ax.plot(line[column], line["score"], color=own.color, linewidth=0.7, alpha=0.5)
            middle = part.groupby("iteration")[[column, "score"]].median()
            middle = middle[part.groupby("iteration").size() == part["seed"].nunique()]
            ax.plot(middle[column], middle["score"], label=algorithm, linewidth=1.8, **own._asdict())
        ax.set(xlabel=title, xlim=(0, None))
        if progress["better"].iloc[0] == "lower" and (progress["score"] > 0).all():
            ax.set_yscale("log")
            finite = progress["score"][np.isfinite(progress["score"])]  # a mean that overflows is infinite
            if len(finite):
                most = BEYOND * float(finite.median())
                ax.set_ylim(0.7 * float(finite.min()), min(1.5 * float(finite.max()), most))
    axes[0].set_ylabel(f"{progress['metric'].iloc[0]} on validation tasks")
    _legend(figure, axes)
    return figure


@_styled
def cost_and_score(comparison: pd.DataFrame, cells: pd.DataFrame, look: Looks) -> Figure:
    """What a method costs against what it reaches, with the Pareto front; one panel a suite, its headline setting.

    Args:
        comparison: reports.comparison.compare.
        cells: reports.frame.cells; the cost is the median over seeds of the seconds of training.
        look: of every algorithm.
    """
    arms = cells[cells["outcome"] == "finished"].groupby("arm")
    seconds, first = arms["train_seconds"].median(), arms.first()
    headline = comparison[
        [
            (row["setting"], row["norm"]) == (first.loc[row["arm"], "setting"], first.loc[row["arm"], "norm"])
            and row["step"] == first.loc[row["arm"], "report_steps"][-1]
            for row in comparison.to_dict("records")
        ]
    ]
    suites = list(dict.fromkeys(headline["suite"]))
    figure, axes = _panels(len(suites), 3.4, 3.0)
    for ax, suite in zip(axes, suites, strict=False):
        rows = headline[headline["suite"] == suite]
        about = first.loc[rows["arm"].iloc[0]]
        by = rows["by"].iloc[0]
        low, high = ("median_low", "median_high") if by == "median" else ("low", "high")
        points = [(float(seconds[row["arm"]]), float(row[by])) for row in rows.to_dict("records")]
        for (x, y), row in zip(points, rows.to_dict("records"), strict=True):
            own = look[row["algorithm"]]
            bar = [[max(0.0, y - row[low])], [max(0.0, row[high] - y)]] if np.isfinite(y) else None  # out of sight
            ax.errorbar(x, y, bar, fmt=own.marker, color=own.color, label=row["algorithm"], capsize=2, markersize=6)
        front = _pareto(points, about["better"])
        if len(front) > 1:
            ax.step(*zip(*front, strict=True), where="post", color=GREY, linewidth=1, zorder=0, label="Pareto front")
        if _far_apart([x for x, _ in points]):
            ax.set_xscale("symlog", linthresh=1.0)
        ax.margins(x=0.1)
        if about["better"] == "lower" and all(y > 0 for _, y in points):
            if _far_apart([y for _, y in points]):
                ax.set_yscale("log")
            ax.set_ylim(top=min(ax.get_ylim()[1], BEYOND * float(about["floor"])))
        unit = f" {about['unit']}" if about["unit"] else ""
        ax.set(xlabel="seconds of training", title=f"{suite}, {rows['setting'].iloc[0]}")
        ax.set_ylabel(f"{about['metric']}{unit} @{rows['step'].iloc[0]}, {by}")
    _legend(figure, axes)
    return figure


def _far_apart(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis shows them better: over less than a decade it may have no number beside it."""
    positive = [value for value in values if value > 0]
    return bool(positive) and max(positive) >= 10 * min(positive)


@_styled
def overhead(orders: pd.DataFrame) -> Figure:
    """Second over first order in seconds per meta-iteration, a bar a pair, with its interval.

    Args:
        orders: reports.comparison.orders.
    """
    figure = Figure(figsize=(6.4, 0.9 + 0.42 * len(orders)), layout="constrained")
    ax = figure.subplots()
    colours = dict(zip(dict.fromkeys(orders["suite"]), sns.color_palette("colorblind", 10) * 9, strict=False))
    rows = orders.to_dict("records")
    for i, row in enumerate(rows):
        ratio, low, high = row["ratio"], row["low"], row["high"]
        ax.barh(i, ratio, color=colours[row["suite"]], height=0.6)
        if not math.isnan(low):
            ax.errorbar(ratio, i, xerr=[[ratio - low], [high - ratio]], color=INK, capsize=3, linewidth=1)
        ax.annotate(f" {ratio:.2f}", (ratio if math.isnan(high) else high, i), va="center")
    names = [f"{r['suite']}: {r['second']} over {r['first']}\n{r['operator']}, {r['engine']}" for r in rows]
    ax.set_yticks(range(len(names)), names)
    ax.axvline(1, color=GREY, linewidth=1, linestyle=":")
    ax.set(xlabel="seconds per meta-iteration, second over first order", ylim=(len(names) - 0.5, -0.5))
    ax.set_xlim(0, 1.12 * float(np.nanmax([orders["ratio"].max(), orders["high"].max()])))
    return figure


@_styled
def scatter(a: Cube, b: Cube, metric: str, floor: float) -> Figure:
    """Every task's score under two algorithms, means over seeds; where tasks coincide the dot is larger.

    Errors far beyond that of knowing nothing, `floor`, are drawn at the edge.
    """
    step = a.last
    both = sorted(set(a.tasks) & set(b.tasks))
    x, y = (cube.at(step)[:, np.searchsorted(cube.tasks, both)].mean(0) for cube in (a, b))
    edge = (-np.inf, BEYOND * floor) if a.better == "lower" else (-1e300, np.inf)
    points, count = np.unique(np.clip(np.stack([x, y], 1), *edge), axis=0, return_counts=True)
    figure = Figure(figsize=(4.4, 4.9), layout="constrained")
    ax = figure.subplots()
    ahead = points[:, 0] < points[:, 1] if a.better == "lower" else points[:, 0] > points[:, 1]
    tied = points[:, 0] == points[:, 1]
    wins = [count[ahead & ~tied].sum(), count[~ahead & ~tied].sum(), count[tied].sum()]
    blue, orange = sns.color_palette("colorblind", 2)
    which: tuple[tuple[Any, Any, str], ...] = (
        (ahead & ~tied, blue, f"{a.algorithm} better: {wins[0]}"),
        (~ahead & ~tied, orange, f"{b.algorithm} better: {wins[1]}"),
        (tied, GREY, f"equal: {wins[2]}"),
    )
    size = 9 + 240 * (count - 1) / max(1, count.max() - 1) if count.max() > 3 else np.full(len(count), 9.0)
    for where, colour, label in which:
        style: dict[str, Any] = {"color": colour, "alpha": 0.6, "linewidth": 0, "rasterized": True}
        ax.scatter(points[where, 0], points[where, 1], s=size[where], **style)
        if where.any():
            ax.plot([], [], "o", color=colour, label=label)
    if a.better == "lower" and (points > 0).all():
        ax.set(xscale="log", yscale="log")
    ends = (points.min(), points.max()) if len(points) else (0, 1)
    ax.plot(ends, ends, color=GREY, linewidth=1, zorder=0)
    ax.set(xlabel=f"{metric} @{step} of {a.algorithm}", ylabel=f"of {b.algorithm}", box_aspect=1)
    ax.set_ylim(ax.get_xlim())
    norm = "" if a.norm == "none" else f", {a.norm}"
    figure.suptitle(f"{a.suite}, {a.setting}{norm}: {count.sum()} tasks", x=0.02, ha="left", fontsize=9.5)
    figure.legend(loc="outside lower left", ncols=1)
    return figure


@_styled
def profiles(cubes: Sequence[Cube], look: Looks, metric: str, floor: float) -> Figure:
    """The share of scores at least as good as a threshold, with its 95 % interval, after the last report step."""
    better, step = cubes[0].better, cubes[0].last
    pooled = np.concatenate([cube.at(step).ravel() for cube in cubes])
    pooled = pooled[np.isfinite(pooled)]
    logarithmic = better == "lower" and bool((pooled > 0).all())
    low, high = np.quantile(pooled, [0.005, 0.995])
    high = min(high, BEYOND * floor) if better == "lower" else high
    thresholds = np.geomspace(low, high, 40) if logarithmic else np.linspace(low, high, 40)
    figure = Figure(figsize=(5.6, 3.2), layout="constrained")
    ax = figure.subplots()
    for cube in cubes:
        each = statistics.profile(cube.at(step), thresholds, better)
        middle, lows, highs = (np.array(column) for column in zip(*each, strict=True))
        own = look[cube.algorithm]
        ax.plot(thresholds, middle, color=own.color, linestyle=own.linestyle, label=cube.algorithm)
        ax.fill_between(thresholds, lows, highs, color=own.color, alpha=0.15, linewidth=0)
    if logarithmic:
        ax.set_xscale("log")
    sign = "≤" if better == "lower" else "≥"
    ax.set(xlabel=f"threshold τ of {metric} @{step}", ylabel=f"share of scores {sign} τ", ylim=(0, 1))
    ax.set_title(f"{cubes[0].suite}, {cubes[0].setting}")
    figure.legend(loc="outside right upper")
    return figure


@_styled
def critical_difference(scores: pd.DataFrame, better: dict[str, str], look: Looks) -> Figure:
    """Mean ranks over suites; a bar joins what Wilcoxon's test with Holm's correction can't tell apart (Demšar 2006).

    Args:
        scores: [suite, algorithm], no cell missing.
        better: suite -> "lower" or "higher".
        look: of every algorithm.
    """
    signed = scores.mul([1 if better[str(s)] == "lower" else -1 for s in scores.index], axis=0)
    ranks = signed.rank(axis=1)
    mean = ranks.mean().sort_values(kind="stable")
    names, at = [str(name) for name in mean.index], mean.to_numpy()
    bars = _level(ranks[mean.index])
    left = math.ceil(len(names) / 2)  # names of the better half hang on the left, of the others on the right
    figure = Figure(figsize=(6.4, 1.0 + 0.16 * len(bars) + 0.28 * left), layout="constrained")
    ax = figure.subplots()
    for height, (first, last) in enumerate(bars, 1):
        ax.plot([at[first] - 0.04, at[last] + 0.04], [-0.4 * height] * 2, color=INK, linewidth=3.5, gid="level")
    for i, (name, rank) in enumerate(zip(names, at, strict=True)):
        on_left = i < left
        y = -0.4 * len(bars) - 0.7 - (i if on_left else len(names) - 1 - i) * 0.7
        x = 0.8 if on_left else len(names) + 0.2
        ax.plot([rank, rank, x], [0, y, y], color=look[name].color, linewidth=1.2)
        ax.plot(rank, 0, look[name].marker, color=look[name].color, clip_on=False)
        text = f"{name}  {rank:.2f} " if on_left else f" {rank:.2f}  {name}"
        ax.text(x, y, text, ha="right" if on_left else "left", va="center")
    ax.set(xlim=(0.8, len(names) + 0.2), ylim=(None, 0), xticks=range(1, len(names) + 1), yticks=[])
    ax.xaxis.tick_top()
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.spines["top"].set(visible=True, bounds=(1, len(names)))
    few = "\nwith fewer than ten suites the test has next to no power" if len(scores) < 10 else ""
    ax.set_title(f"mean rank over {len(scores)} suites (1 is best){few}")
    return figure


def _level(ranks: pd.DataFrame) -> list[tuple[int, int]]:
    """The longest runs of neighbouring columns of which no two can be told apart, as positions of both ends."""
    from scipy.stats import wilcoxon

    columns = ranks.to_numpy().T
    pairs = list(combinations(range(len(columns)), 2))
    apart = [columns[i] - columns[j] for i, j in pairs]
    p = [float(wilcoxon(d, zero_method="zsplit").pvalue) if d.any() else 1.0 for d in apart]
    told = {pair for pair, corrected in zip(pairs, statistics.holm(p), strict=True) if corrected < 0.05}
    runs = [(i, j) for i, j in pairs if told.isdisjoint(combinations(range(i, j + 1), 2))]
    return [(i, j) for i, j in runs if not any(a <= i and j <= b and (a, b) != (i, j) for a, b in runs)]


@_styled
def tuning(trials: pd.DataFrame, look: Looks) -> Figure:
    """The best validation score so far against the meta-iterations that a sweep has spent.

    Args:
        trials: rows of reports.frame.trials: suite, algorithm, spent, score, best, metric, better.
        look: of every algorithm.
    """
    suites = list(dict.fromkeys(trials["suite"]))
    figure, axes = _panels(len(suites), 3.4, 2.9)
    for ax, suite in zip(axes, suites, strict=False):
        here = trials[trials["suite"] == suite]
        for algorithm, part in here.groupby("algorithm", sort=False):
            own = look[str(algorithm)]
            ax.step(part["spent"], part["best"], where="post", color=own.color, linestyle=own.linestyle)
            ax.plot(part["spent"], part["score"], own.marker, color=own.color, alpha=0.5, label=algorithm)
        if here["better"].iloc[0] == "lower":
            ax.set_yscale("log")
            ax.set_ylim(0.7 * float(here["best"].min()), 3 * float(here["best"].max()))  # single trials may be anything
        ax.set(xlabel="meta-iterations spent", title=suite, ylabel=f"{here['metric'].iloc[0]} on validation tasks")
    _legend(figure, axes)
    return figure


@_styled
def regression(curves: pd.DataFrame, look: Looks) -> Figure:
    """Truth, support points and predictions before and after inner steps (Finn et al. 2017, figure 2).

    Args:
        curves: columns task, algorithm, kind ("truth", "support", "prediction"), step, x, y.
        look: of every algorithm.
    """
    tasks = list(dict.fromkeys(curves["task"]))
    algorithms = list(dict.fromkeys(curves["algorithm"]))
    figure = Figure(figsize=(1.4 + 2.2 * len(algorithms), 0.4 + 2.0 * len(tasks)), layout="constrained")
    axes = np.atleast_2d(figure.subplots(len(tasks), len(algorithms), sharex=True, sharey="row", squeeze=False))
    for ax, algorithm in zip(axes[0], algorithms, strict=True):
        ax.set_title(algorithm)
    for row, task in zip(axes, tasks, strict=True):
        for ax, algorithm in zip(row, algorithms, strict=True):
            own = look[algorithm]
            here = curves[(curves["task"] == task) & (curves["algorithm"] == algorithm)]
            for (kind, step), line in here.groupby(["kind", "step"], sort=True):
                if kind == "truth":
                    ax.plot(line["x"], line["y"], color=GREY, linewidth=3, alpha=0.6, label="truth", zorder=0)
                elif kind == "support":
                    ax.plot(line["x"], line["y"], "^", color=INK, markersize=5, label="support", zorder=3)
                else:
                    last = step == here["step"].max()
                    name = "before" if step == 0 else f"{step} step{'s' if step > 1 else ''}"
                    style = ":" if step == 0 else "-" if last else "--"
                    ax.plot(line["x"], line["y"], style, color=own.color, label=name, linewidth=1.6 if last else 1.2)
        most = 1.6 * float(curves.loc[(curves["task"] == task) & (curves["kind"] == "truth"), "y"].abs().max())
        row[0].set(ylabel="y", ylim=(-most, most))
    for ax in axes[-1]:
        ax.set_xlabel("x")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper")
    return figure


@_styled
def confusion(found: pd.DataFrame, most: int = 15) -> Figure:
    """Which kinds of classes are taken for which, in percent of a kind's images; a panel an algorithm.

    Args:
        found: columns algorithm, truth, answer, count: how many images of kind `truth` were taken for another class of
            their task, of kind `answer`, or, without an answer, named right.
        most: kinds that are shown, those with the most errors.
    """
    errors = found[found["answer"] != ""].groupby("truth")["count"].sum().reindex(found["truth"].unique(), fill_value=0)
    kinds = errors.sort_values(ascending=False, kind="stable").index[:most].tolist()
    algorithms = list(dict.fromkeys(found["algorithm"]))
    side = 1.2 + 0.26 * len(kinds)
    figure = Figure(figsize=(1.9 + (side + 1.4) * len(algorithms), 1.8 + side), layout="constrained")
    for ax, algorithm in zip(figure.subplots(1, len(algorithms), squeeze=False)[0], algorithms, strict=True):
        own = found[found["algorithm"] == algorithm]
        counts = own.groupby(["truth", "answer"])["count"].sum().unstack(fill_value=0)
        share = (100 * counts.div(counts.sum(axis=1), axis=0)).reindex(index=kinds, columns=["", *kinds], fill_value=0)
        right = share.pop("")
        bar = {"label": "% of its images taken for another class of this kind", "shrink": 0.7}
        sns.heatmap(share, ax=ax, cmap="rocket_r", vmin=0, square=True, cbar_kws=bar, rasterized=True)
        ax.set_yticklabels([f"{kind}  {value:.0f} %" for kind, value in right.items()], rotation=0)
        named = own.loc[own["answer"] == "", "count"].sum() / own["count"].sum()
        left_out = f"; {len(kinds)} of {len(errors)} kinds" if len(errors) > most else ""
        ax.set(title=f"{algorithm}: {100 * named:.1f} % right{left_out}", xlabel="", ylabel="")
        ax.tick_params(length=0)
    return figure


def _panels(count: int, width: float, height: float, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """Axes for `count` panels, at most ROW in a row; those left over are taken away."""
    columns = min(count, ROW)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(1.6 + width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=sharey, squeeze=False).ravel().tolist()
    for ax in axes[count:]:
        ax.remove()
    return figure, axes[:count]


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend for all panels, each label once."""
    found: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(found.values(), found.keys(), loc="outside right upper")


def _pareto(points: Sequence[tuple[float, float]], better: str) -> list[tuple[float, float]]:
    """Those that nothing cheaper is as good as, in order of cost."""
    sign = 1 if better == "lower" else -1
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda p: (p[0], sign * p[1])):
        if not front or sign * y < sign * front[-1][1]:
            front.append((x, y))
    return front
