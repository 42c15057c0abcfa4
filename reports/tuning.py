"""What sweeps found, as a table for people and pictures: budget curves, and Optuna's slice, contour and importance."""

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import matplotlib.figure
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray
from optuna.study import Study
from optuna.trial import TrialState
from optuna.visualization import matplotlib as drawn

from bench.core.records import Trial, Tuning
from reports.figures import Looks

ORDERS = 2_000  # in which the trials might have come
OUTCOMES = ("finished", "pruned", "diverged", "failed")


def summary(tunings: Iterable[Tuning]) -> pd.DataFrame:
    """One row of text per sweep: the chosen values with their score, the protocol's, and the budget."""
    rows = []
    for tuning in tunings:
        counts = {name: sum(trial.outcome == name for trial in tuning.trials) for name in OUTCOMES}
        default = next((trial for trial in tuning.trials if trial.default), None)
        rows.append(
            {
                "suite": tuning.suite.label,
                "algorithm": tuning.algorithm.label,
                "chosen": values(tuning.best),
                f"{tuning.metric} @{tuning.step}": _score(tuning.best),
                "default's": _score(default),
                "trials": str(len(tuning.trials)),
                "of them": ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "–",
                "meta-iterations": f"{tuning.spent:,}",
            }
        )
    return pd.DataFrame(rows)


def values(trial: Trial | None) -> str:
    """The searched values of a trial, as one types them."""
    if trial is None:
        return "none usable"
    shown = {n: f"{value:g}" if isinstance(value, float) else value for n, value in trial.parameters.items()}
    return ", ".join(f"{name}={value}" for name, value in shown.items())


def running_best(tuning: Tuning) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Best score so far: in the order of the trials, [n], and in 2,000 random orders of them, [2000, n].

    A trial without a finite score improves nothing.
    """
    sign = 1.0 if tuning.better == "lower" else -1.0
    usable = [t.score if t.outcome == "finished" and t.score is not None else sign * np.inf for t in tuning.trials]
    scores = sign * np.asarray(usable, dtype=np.float64)
    rng = np.random.default_rng(0)
    orders = rng.permuted(np.tile(scores, (ORDERS, 1)), axis=1)
    return sign * np.minimum.accumulate(scores), sign * np.minimum.accumulate(orders, axis=1)


def budget(tunings: list[Tuning], look: Looks) -> matplotlib.figure.Figure:
    """The best validation score against the number of trials: one panel per suite, one colour per algorithm.

    Line: median over orders of the trials, with the interval of 95 % of them; dots: the order in which they came.
    """
    suites = list(dict.fromkeys(tuning.suite.label for tuning in tunings))
    figure = matplotlib.figure.Figure(figsize=(2.4 + 4.2 * len(suites), 3.8), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(suites)))
    for ax, suite in zip(axes, suites, strict=True):
        here = [tuning for tuning in tunings if tuning.suite.label == suite and tuning.trials]
        for tuning in here:
            name = tuning.algorithm.label
            came, orders = running_best(tuning)
            trials = np.arange(1, len(came) + 1)
            low, middle, high = np.quantile(orders, [0.025, 0.5, 0.975], axis=0, method="inverted_cdf")
            ax.plot(trials, middle, color=look[name].color, label=name)
            ax.fill_between(trials, low, high, color=look[name].color, alpha=0.15, linewidth=0)
            ax.plot(trials, came, color=look[name].color, linestyle="", marker="o", markersize=3)
        ax.set_title(suite, loc="left", fontsize=10)
        first = here[0] if here else tunings[0]
        ax.set(xlabel="trials", ylabel=f"best {first.metric} on validation tasks @{first.step}", xlim=(0.5, None))
        ax.xaxis.get_major_locator().set_params(integer=True)
        if _heavy([value for tuning in here for value in running_best(tuning)[0] if _finite(value)], first):
            ax.set_yscale("log")
            _plain(ax.yaxis)
        sns.despine(ax=ax)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure


def pictures(study: Study, tuning: Tuning) -> dict[str, matplotlib.figure.Figure]:
    """File name -> Optuna's slice, contour and importance of a study; what needs more trials or parameters is left out.

    Trials without a finite score are not drawn.
    """
    rates = {n: n == "outer_lr" for n, where in tuning.space.items() if isinstance(where, tuple) and where[2]}
    names = sorted(tuning.space, key=lambda name: (name != "inner_lr", rates.get(name, 2)))  # inner rates come first
    done = [trial for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if _finite(trial.value)]
    varied = [name for name in names if len({trial.params[name] for trial in done}) > 1]
    unit = f"{tuning.metric} @{tuning.step}"
    heavy = _heavy([trial.value for trial in done if trial.value], tuning)
    found: dict[str, Any] = {}
    with _quietly():
        if varied:
            found["slice.png"] = drawn.plot_slice(study, varied, target_name=unit)
            for ax in np.atleast_1d(found["slice.png"]) if heavy else ():
                ax.set_yscale("log")
        if len(varied) > 1:
            scale = {"target": lambda trial: float(np.log10(trial.value)), "target_name": f"log10 {unit}"}
            found["contour.png"] = drawn.plot_contour(study, varied[:2], **(scale if heavy else {"target_name": unit}))
            found["importance.png"] = drawn.plot_param_importances(study, params=varied)
            found["importance.png"].get_legend().remove()
        return {name: _titled(np.atleast_1d(axes), tuning) for name, axes in found.items()}


def _titled(axes: NDArray[Any], tuning: Tuning) -> matplotlib.figure.Figure:
    figure: matplotlib.figure.Figure = axes.flat[0].figure
    for ax in axes.flat:
        for side in ("left", "center", "right"):
            ax.set_title("", loc=side)
        for axis in (ax.xaxis, ax.yaxis):
            _plain(axis)
    figure.suptitle(f"{tuning.algorithm.label} on {tuning.suite.label}, validation tasks", fontsize=11)
    plt.close(figure)  # out of pyplot's list, which would keep it for good
    return figure


def _plain(axis: Any) -> None:
    """A logarithmic axis with few ticks, written as one types them."""
    if axis.get_scale() == "log":
        axis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def _heavy(scores: list[float], tuning: Tuning) -> bool:
    """Whether errors spread so far that only a logarithmic scale shows them."""
    return tuning.better == "lower" and bool(scores) and max(scores) > 10 * min(scores) > 0


@contextmanager
def _quietly() -> Iterator[None]:
    """Optuna's plots change matplotlib's style for good and tell that they are experimental."""
    log = logging.getLogger("optuna")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        look: dict[Any, Any] = {"backend": "agg", "figure.constrained_layout.use": True, "figure.figsize": (6.4, 4.2)}
        with warnings.catch_warnings(), plt.style.context("default"), matplotlib.rc_context(look):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _finite(value: float | None) -> bool:
    return value is not None and np.isfinite(value)


def _score(trial: Trial | None) -> str:
    return "–" if trial is None or trial.score is None else f"{trial.score:.4g}"
