"""Means with intervals, differences, tests and the sources of variance of scores [S, T]; array in, value out.

Every one of S seeds met the same T tasks, so that intervals come from a crossed bootstrap (Owen 2007,
arXiv:0712.1111, "pigeonhole"): each replicate draws seeds and, once for all of them, tasks. Seeds are few, tasks may
be, and two things are done about it: S - 1 and T - 1 of them are drawn, since S would understate the variance of seeds
by (S - 1) / S, and the quantile is Student's with Satterthwaite's degrees of freedom. An interaction of seeds with
tasks counts up to three times, so that intervals are too wide rather than too narrow. The draws depend on S and T
alone: two algorithms meet the same ones.

Fewer than three seeds say nothing of seeds: two have one degree of freedom, with which Student's quantile is 12.7, and
an interval that wide excludes nothing. There the trained models are taken as they are, and intervals are over tasks
alone. Scores are numbers or infinite, never NaN. Letters: S seeds, T tasks, R replicates.
"""

import math
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr, stdtrit

from bench.core.records import FEWEST_SEEDS

Scores = NDArray[np.float64]  # [S, T]
Better = Literal["lower", "higher"]
REPLICATES = 2_000
FEWEST_ORDERED = 6  # tasks: all that lies between the ends of T has the median with a probability of 1 - 2 / 2^T
DRAWN = 20_000_000  # numbers in memory at once; fewer replicates where there are very many tasks


class Interval(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half its width."""
        return (self.high - self.low) / 2

    def within(self, low: float, high: float) -> "Interval":
        """What of it can be true: no mean lies outside the range of its scores."""
        lowest, highest = (float(v) for v in np.clip([self.low, self.high], low, high))
        return Interval(self.value, lowest, highest)


class Variance(NamedTuple):
    """Shares of the variance of a single score, which sum to 1."""

    seeds: float
    tasks: float
    interaction: float  # of seeds with tasks, and whatever noise a score has of itself


def interval(scores: Scores) -> Interval:
    """The mean and its 95 % interval.

    Over seeds and tasks by the crossed bootstrap from three seeds on; with fewer over tasks, Student's t sd / sqrt(T)
    of the seeds' means (600 tasks: t = 1.964, the published 1.96). No interval where there is one task; none and an
    infinite value where a single score is not finite.
    """
    if not scores.size or not np.isfinite(scores).all():
        return Interval(-math.inf if np.isneginf(scores).any() else math.inf, math.nan, math.nan)
    return _error(scores).interval(float(scores.mean()))


def bounded(scores: Scores, low: float, high: float) -> Interval:
    """The mean of scores that lie between low and high, with a 95 % interval that does too.

    Where every score is at one end of a finite range, their spread is 0 and says nothing of how rare others are. At a
    mean whose distance from that end is the share d of the range, a score is there with a probability of 1 - d at
    most, and all T tasks with (1 - d)^T: the interval holds each d for which that is 5 % or more.
    """
    found = interval(scores).within(low, high)
    most = (high - low) * (1 - 0.05 ** (1 / scores.shape[1])) if scores.size else 0.0
    if math.isfinite(most) and (scores == high).all():
        return Interval(high, high - most, high)
    if math.isfinite(most) and (scores == low).all():
        return Interval(low, low, low + most)
    return found


def difference(a: Scores, b: Scores, paired_seeds: bool = True) -> Interval:
    """The mean of a - b over the same tasks, with its interval; paired by seed too where the seeds are the same.

    Over tasks alone where either has fewer than three seeds.
    """
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return Interval(math.nan, math.nan, math.nan)
    return _error_of_difference(a, b, paired_seeds).interval(float(a.mean() - b.mean()))


class Effect(NamedTuple):
    """Cohen's d of a - b: the mean difference in standard deviations of what it is a difference of."""

    tasks: float  # of the tasks' differences, seeds averaged
    seeds: float  # of the seeds' differences, tasks averaged; NaN below three seeds


def effect(a: Scores, b: Scores, paired_seeds: bool = True) -> Effect:
    """How large a - b is beside its spread, which more tasks leave as it is while they make any p value small.

    Of the seeds, where a's are others than b's, in standard deviations of both pooled (Cohen 1988, equation 2.2.1).
    """
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return Effect(math.nan, math.nan)
    tasks, seeds = _cohen(a.mean(0) - b.mean(0)), math.nan
    if min(len(a), len(b)) >= FEWEST_SEEDS:
        left, right = a.mean(1), b.mean(1)
        seeds = _cohen(left - right) if paired_seeds else _over(left.mean() - right.mean(), pooled_sd(left, right))
    return Effect(tasks, seeds)


def pooled_sd(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The standard deviation within two samples, each of which has as much say as the other."""
    return math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2) if min(a.size, b.size) > 1 else math.nan


def equivalence(a: Scores, b: Scores, margin: float, paired_seeds: bool = True) -> float:
    """P of two one-sided tests that |mean of a - b| is as large as the margin (Schuirmann 1987, 10.1007/BF01068419).

    Below 0.05 the 90 % interval of the difference lies within the margin. The standard error and its degrees of
    freedom are those of `difference`. NaN of scores that are not finite and of a single task.
    """
    if not (np.isfinite(a).all() and np.isfinite(b).all() and np.isfinite(margin)):
        return math.nan
    error = _error_of_difference(a, b, paired_seeds)
    beyond = abs(float(a.mean() - b.mean())) - margin
    if error.freedom == 0:
        return math.nan
    if error.standard == 0:
        return float(beyond >= 0)
    return float(stdtr(min(error.freedom, 1e9), beyond / error.standard))


class Robust(NamedTuple):
    """What is left of scores of which single ones may be anything; no intervals of a model or two on five tasks."""

    median: Interval
    iqm: Interval  # interquartile mean (Agarwal et al. 2021, arXiv:2108.13264)
    medians: NDArray[np.float64]  # of the replicates, [R]
    freedom: float


def median_and_iqm(scores: Scores, replicates: int = 1_000) -> Robust:
    """The median and the interquartile mean of all scores, with the replicates that differences need."""
    here, found, freedom = _robust(scores.reshape(1, -1))[0], _replicate(scores, replicates), _rank_freedom(scores)
    lows, highs = _expanded(found, freedom)
    median, iqm = (Interval(float(v), float(lo), float(hi)) for v, lo, hi in zip(here, lows, highs, strict=True))
    return Robust(median, iqm, found[:, 0], freedom)


def median_difference(a: Robust, b: Robust) -> Interval:
    """The median of a minus that of b, with the same draws of tasks (and of seeds, where there are as many)."""
    with np.errstate(invalid="ignore"):
        found = np.nan_to_num(a.medians - b.medians, nan=0.0, posinf=np.inf, neginf=-np.inf)
        value = a.median.value - b.median.value
    low, high = _expanded(found, min(a.freedom, b.freedom))
    return Interval(float(value), float(low), float(high))


def variance(scores: Scores) -> Variance | None:
    """How much of the variance is of seeds, tasks and their interaction; None with one seed or scores without a mean.

    The two-way random model without repetition, by the method of moments: MS_e = σ²_e, MS_seeds = σ²_e + T σ²_seeds,
    MS_tasks = σ²_e + S σ²_tasks; negative estimates are 0.
    """
    seeds, tasks = scores.shape
    if seeds < 2 or tasks < 2 or not np.isfinite(scores).all():
        return None
    by_seed, by_task, mean = scores.mean(1), scores.mean(0), scores.mean()
    rest = scores - by_seed[:, None] - by_task[None] + mean
    noise = (rest**2).sum() / ((seeds - 1) * (tasks - 1))
    of_seeds = max(0.0, (tasks * by_seed.var(ddof=1) - noise) / tasks)
    of_tasks = max(0.0, (seeds * by_task.var(ddof=1) - noise) / seeds)
    total = of_seeds + of_tasks + noise
    if total == 0:
        return None
    return Variance(float(of_seeds / total), float(of_tasks / total), float(noise / total))


def wilcoxon(a: Scores, b: Scores) -> float:
    """P of the signed-rank test on per-task means over seeds, ties split between the signs (Pratt's zeros halved).

    It speaks of these trained models on tasks like these, not of models trained anew.
    """
    from scipy import stats

    x, y = a.mean(0), b.mean(0)
    with np.errstate(invalid="ignore"):
        apart = np.where(x == y, 0.0, x - y)  # infinite ones tie
    return float(stats.wilcoxon(apart, zero_method="zsplit", method="asymptotic").pvalue) if apart.any() else 1.0


def holm(p: list[float]) -> list[float]:
    """The p values of one family, corrected by Holm's step-down method (1979, Scand. J. Statist. 6, 65-70)."""
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(np.arange(len(p), 0, -1) * np.sort(p)).clip(max=1.0)
    return [float(v) for v in corrected]


def improvement(a: Scores, b: Scores, better: Better) -> Interval:
    """The probability that a beats b on a task, ties halved, over all pairs of their seeds (arXiv:2108.13264)."""
    x, y = (s if better == "higher" else -s for s in (a, b))
    wins = np.stack([((row > y) + 0.5 * (row == y)).mean(0) for row in x])  # [S_a, T], over the seeds of b
    others = np.stack([((x > row) + 0.5 * (x == row)).mean(0) for row in y])  # [S_b, T], over those of a
    value = float(wins.mean())
    if value in (0.0, 1.0):
        return bounded(wins, 0, 1)
    if min(len(a), len(b)) < FEWEST_SEEDS:
        half = _quantile(wins.shape[1] - 1) * math.sqrt(_mean_variance(wins.mean(0)))
    else:  # the variances of the seeds of a, of b and of the tasks add up
        parts = [(_mean_variance(w.mean(1)), len(w) - 1) for w in (wins, others)]
        parts.append((_mean_variance(wins.mean(0)), wins.shape[1] - 1))
        half = float(_quantile(_satterthwaite(parts)) * math.sqrt(sum(v for v, _ in parts)))
    return Interval(value, max(0.0, value - half), min(1.0, value + half))


def profile(scores: Scores, thresholds: NDArray[np.float64], better: Better) -> list[Interval]:
    """The share of scores at least as good as each threshold (a performance profile, arXiv:2108.13264)."""
    passed = scores[None] <= thresholds[:, None, None] if better == "lower" else scores >= thresholds[:, None, None]
    return [bounded(p.astype(float), 0, 1) for p in passed]


def worst_tenth(scores: Scores, better: Better) -> float:
    """The mean of the tenth of the tasks that come off worst, seeds averaged; of one task at least."""
    by_task = np.sort(scores.mean(0) if better == "lower" else -scores.mean(0))[::-1]
    mean = float(by_task[: max(1, round(by_task.size / 10))].mean())
    return mean if better == "lower" else -mean


def heavy_tailed(scores: Scores, better: Better) -> bool:
    """Whether single tasks make a mean of errors meaningless: it is over ten times the median."""
    if not np.isfinite(scores).all():
        return True
    return better == "lower" and bool(np.mean(scores) > 10 * np.median(scores))


def spoiling(scores: Scores, better: Better) -> NDArray[np.bool_]:
    """The fewest scores, from the worst on, without which `heavy_tailed` is false: a mask [S, T]."""
    rank = np.argsort(np.argsort(scores if better == "lower" else -scores, axis=None, kind="stable"))
    ordered = np.sort(scores, axis=None) if better == "lower" else -np.sort(-scores, axis=None)
    count = np.arange(1, ordered.size + 1)  # of the best that are kept
    kept = np.isfinite(ordered)
    if better == "lower":
        finite = np.where(kept, ordered, 0)
        median = (finite[(count - 1) // 2] + finite[count // 2]) / 2
        kept &= np.cumsum(finite) / count <= 10 * median
    most = int(count[kept].max(initial=0))
    return np.asarray(rank >= most).reshape(scores.shape)


@lru_cache(maxsize=32)
def _draws(count: int, drawn: int, replicates: int, stream: int) -> NDArray[np.int64]:
    """Which of `count` are drawn, with replacement: [R, drawn]."""
    return np.random.default_rng((stream, count)).integers(count, size=(replicates, drawn))


@lru_cache(maxsize=32)
def _weights(count: int, drawn: int, replicates: int, stream: int) -> Scores:
    """The same draws as shares: [R, count], rows sum to 1."""
    flat = _draws(count, drawn, replicates, stream) + count * np.arange(replicates)[:, None]
    return np.bincount(flat.ravel(), minlength=replicates * count).reshape(replicates, count) / drawn


def _replicates(tasks: int) -> int:
    return max(200, min(REPLICATES, DRAWN // max(tasks, 1)))


def _means(scores: Scores, stream: int) -> NDArray[np.float64]:
    """The mean in every replicate, [R]; streams differ in the seeds that they draw, never in the tasks."""
    seeds, tasks = scores.shape
    count = _replicates(tasks)
    of_tasks = _weights(tasks, max(tasks - 1, 1), count, -1 % 2**32)
    return np.asarray(((_weights(seeds, seeds - 1, count, stream) @ scores) * of_tasks).sum(1))


def _robust(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median and interquartile mean of every row: [rows, N] -> [rows, 2]."""
    ordered = np.sort(samples, axis=1)
    count = ordered.shape[1]
    cut = int(0.25 * count)
    return np.stack([np.median(ordered, axis=1), ordered[:, cut : count - cut].mean(1)], 1)


def _replicate(scores: Scores, most: int) -> NDArray[np.float64]:
    """Median and interquartile mean in every replicate, [R, 2]."""
    seeds, tasks = scores.shape
    count = min(_replicates(tasks), most)
    which_tasks = _draws(tasks, max(tasks - 1, 1), _replicates(tasks), -1 % 2**32)[:count]
    if seeds < FEWEST_SEEDS:
        which_seeds = np.tile(np.arange(seeds), (count, 1))
    else:
        which_seeds = _draws(seeds, seeds - 1, _replicates(tasks), 0)[:count]
    step = max(1, 4_000_000 // scores.size)
    parts = [
        _robust(scores[which_seeds[i : i + step, :, None], which_tasks[i : i + step, None, :]].reshape(-1, n))
        for i in range(0, count, step)
        for n in [which_seeds.shape[1] * which_tasks.shape[1]]
    ]
    return np.concatenate(parts)


def _expanded(replicates: NDArray[np.float64], freedom: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The percentile interval, widened to Student's quantile (Hesterberg 2015, arXiv:1411.5279)."""
    if freedom == 0:
        return (np.full(replicates.shape[1:], math.nan),) * 2
    outside = float(ndtr(-_quantile(freedom)))
    low, high = np.quantile(replicates, [outside, 1 - outside], axis=0, method="closest_observation")
    return low, high


def _rank_freedom(scores: Scores) -> float:
    """Degrees of freedom of what depends on the order of the scores alone."""
    if scores.shape[0] < FEWEST_SEEDS and scores.shape[1] < FEWEST_ORDERED:
        return 0
    return _freedom(np.asarray(pd.Series(scores.ravel()).rank(), dtype=float).reshape(scores.shape))


def _quantile(freedom: float) -> float:
    return 1.96 if math.isinf(freedom) else float(stdtrit(freedom, 0.975))  # NaN of none


class _Error(NamedTuple):
    """The standard error of a mean, with its degrees of freedom."""

    standard: float
    freedom: float

    def interval(self, mean: float) -> Interval:
        half = _quantile(self.freedom) * self.standard  # NaN of one task
        return Interval(mean, mean - half, mean + half)


def _error(scores: Scores) -> _Error:
    if len(scores) < FEWEST_SEEDS:
        return _Error(math.sqrt(_mean_variance(scores.mean(0))), scores.shape[1] - 1)
    return _Error(float(_means(scores, stream=0).std()), _freedom(scores))


def _error_of_difference(a: Scores, b: Scores, paired_seeds: bool) -> _Error:
    if paired_seeds:
        return _error(a - b)
    if min(len(a), len(b)) < FEWEST_SEEDS:
        return _error((a.mean(0) - b.mean(0))[None])
    replicates = _means(a, stream=1) - _means(b, stream=2)
    parts = [(_mean_variance(a.mean(1)), len(a) - 1), (_mean_variance(b.mean(1)), len(b) - 1)]
    parts.append((_mean_variance(a.mean(0) - b.mean(0)), a.shape[1] - 1))
    return _Error(float(replicates.std()), _satterthwaite(parts))


def _cohen(differences: NDArray[np.float64]) -> float:
    """Their mean over their standard deviation; infinite where all are the same, NaN of one or none."""
    if differences.size < 2:
        return math.nan
    return _over(float(differences.mean()), float(differences.std(ddof=1)))


def _over(mean: float, sd: float) -> float:
    return float(mean / sd) if sd else math.copysign(math.inf, mean) if mean else 0.0


def _mean_variance(means: NDArray[np.float64]) -> float:
    return float(means.var(ddof=1) / len(means)) if len(means) > 1 else 0.0


def _freedom(scores: Scores) -> float:
    seeds, tasks = scores.shape
    if seeds < FEWEST_SEEDS:
        return float(tasks - 1)
    return _satterthwaite([(_mean_variance(scores.mean(1)), seeds - 1), (_mean_variance(scores.mean(0)), tasks - 1)])


def _satterthwaite(parts: list[tuple[float, int]]) -> float:
    """Degrees of freedom of a sum of variances, each with its own."""
    total = sum(v for v, _ in parts)
    if total == 0:
        return math.inf
    return total**2 / sum(v**2 / freedom for v, freedom in parts if v)
