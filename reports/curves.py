"""Adaptation curves: the score against the inner steps, one colour per algorithm, one panel per setting."""

import matplotlib.figure
import numpy as np
import pandas as pd
import seaborn as sns

from reports.statistics import interval


def adaptation(frame: pd.DataFrame, metric: str, floor: float, better: str) -> matplotlib.figure.Figure:
    """Mean score (the median where the mean is not finite or the tail is heavy) and its 95 % interval at steps 0..K.

    Args:
        frame: one suite's rows of reports.frame.tidy.
        metric: which of its metrics.
        floor: the score of knowing nothing, drawn as a dotted line.
        better: "lower" draws medians on a logarithmic scale, since single tasks spoil a mean of errors.
    """
    rows = frame[frame["metric"] == metric]
    panels = list(dict.fromkeys(zip(rows["setting"], rows["norm"], strict=True)))
    algorithms = list(dict.fromkeys(rows["algorithm"]))
    colours = dict(zip(algorithms, sns.color_palette("colorblind", len(algorithms)), strict=True))
    figure = matplotlib.figure.Figure(figsize=(0.8 + 3.6 * len(panels), 3.8), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    heavy = better == "lower"
    for ax, (setting, norm) in zip(axes, panels, strict=True):
        here = rows[(rows["setting"] == setting) & (rows["norm"] == norm)]
        for algorithm in algorithms:
            values = here[here["algorithm"] == algorithm].pivot(index=["seed", "task"], columns="step", values="value")
            steps = values.columns.to_numpy()
            if heavy:
                middle = values.median()
                low, high = values.quantile(0.25), values.quantile(0.75)
            else:
                seeds = values.groupby(level="seed").ngroups
                means = [interval(values[k].to_numpy().reshape(seeds, -1)) for k in steps]
                middle, low, high = (pd.Series(column, index=steps) for column in zip(*means, strict=True))
            ax.plot(steps, middle, color=colours[algorithm], label=algorithm, marker="o", markersize=3)
            ax.fill_between(steps, low, high, color=colours[algorithm], alpha=0.15, linewidth=0)
        ax.axhline(floor, color="0.5", linestyle=":", linewidth=1, label="knowing nothing")
        ax.set_title(f"{setting}{f', {norm}' if norm != 'none' else ''}", loc="left", fontsize=10)
        ax.set(xlabel="inner steps")
        if heavy:
            ax.set_yscale("log")
        sns.despine(ax=ax)
    axes[0].set_ylabel(f"{metric}, median and quartiles of tasks" if heavy else f"{metric}, mean and 95 % interval")
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure
