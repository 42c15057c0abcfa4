"""The tidy DataFrame -> who reaches what, who can't be told apart, and what it costs; numbers, not text."""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import combinations
from string import ascii_lowercase
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.core.metric import Metric
from bench.core.records import FEWEST_SEEDS
from reports import statistics
from reports.statistics import Better, Interval, Robust, Scores

KEYS = ["suite", "setting", "norm"]  # algorithms are compared where these agree
FURTHER = {  # metrics that stand beside the headline: how far predictions can be believed
    "nll": "negative log-likelihood of the targets, – where a method predicts no distribution",
    "gap": "nll above that of the tasks' exact posterior, for each target by itself",
    "needed": "points after which a task counts as learned, all of them where it never does",
    "reached": "tasks that count as learned in their rounds",
    "regret": "a round's mean above that of the same learner as it is at the stream's end, the leader of all tasks",
    "forgetting": "how much worse than in its round a task is met at the stream's end, on points that were never given",
    "ece": "expected calibration error, how far stated probabilities are from how often they come true",
}

QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
MARGIN_POINTS = 1.0  # of percentages: two that differ by less are as good as each other
MARGIN_SD = 0.2  # of other metrics: of the tasks' standard deviation, Cohen's small effect (as in arXiv:2306.13841)


@dataclass(frozen=True, eq=False)
class Cube:
    """One arm's scores by one metric in one setting."""

    suite: str
    setting: str
    norm: str
    algorithm: str
    arm: str
    metric: Metric
    floor: float  # the headline of whoever knows nothing
    report_steps: tuple[int, ...]
    seeds: tuple[int, ...]
    tasks: tuple[int, ...]
    steps: tuple[int, ...]
    values: NDArray[np.float64]  # [K, S, T]
    known: dict[int, Robust] = field(default_factory=dict)  # what `robust` has found

    def at(self, step: int) -> Scores:
        """The scores after an inner step, [S, T]."""
        scores: Scores = self.values[self.steps.index(step)]
        return scores

    def robust(self, step: int) -> Robust:
        """Median and interquartile mean after an inner step, drawn once."""
        if step not in self.known:
            self.known[step] = statistics.median_and_iqm(self.at(step))
        return self.known[step]

    def mean(self, step: int) -> Interval:
        """The mean after an inner step; its interval stays within the metric's range."""
        return statistics.bounded(self.at(step), self.metric.low, self.metric.high)

    def heavy(self, step: int) -> bool:
        """Whether the mean is infinite, or that of single tasks."""
        return statistics.heavy_tailed(self.at(step), self.better)

    def worse(self, step: int) -> int:
        """How many scores are worse than knowing nothing."""
        scores = self.at(step)
        return int(np.count_nonzero(scores > self.floor if self.better == "lower" else scores < self.floor))

    def harmed(self, step: int) -> Interval:
        """The percentage of scores that adaptation makes worse than they are at step 0; NaN where there is none."""
        if 0 not in self.steps or step == 0:
            return Interval(math.nan, math.nan, math.nan)
        before, after = self.at(0), self.at(step)
        worse = after > before if self.better == "lower" else after < before
        return statistics.bounded(np.where(worse, 100.0, 0.0), 0, 100)

    @property
    def better(self) -> Better:
        """Which scores are."""
        return self.metric.better

    @property
    def last(self) -> int:
        """The last inner step that the suite reports."""
        return self.report_steps[-1]


def cubes(frame: pd.DataFrame, cells: pd.DataFrame) -> list[Cube]:
    """The headline scores: one per suite, setting, normalisation and arm, under the label that `cells` has for the arm.

    Args:
        frame: reports.frame.tidy of all cells.
        cells: reports.frame.cells of all cells.
    """
    return _cubes(frame, cells, {suite: metrics[0] for suite, metrics in _metrics(cells).items()})


def further(frame: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Means of the metrics in `FURTHER` after the last report step: a row per setting, arm and metric that has any."""
    rows = []
    for name in FURTHER:
        wanted = {suite: m for suite, metrics in _metrics(cells).items() for m in metrics[1:] if m.name == name}
        for cube in _cubes(frame, cells, wanted):
            keys = {key: getattr(cube, key) for key in [*KEYS, "algorithm", "arm"]}
            rows.append({**keys, "metric": name, "step": cube.last, **_named("", cube.mean(cube.last), "mean")})
    return pd.DataFrame(rows, columns=[*KEYS, "algorithm", "arm", "metric", "step", "mean", "low", "high"])


def _metrics(cells: pd.DataFrame) -> dict[str, tuple[Metric, ...]]:
    if cells.empty:
        return {}
    return {str(suite): metrics for suite, metrics in cells.groupby("suite", sort=False)["metrics"].first().items()}


def _cubes(frame: pd.DataFrame, cells: pd.DataFrame, wanted: dict[str, Metric]) -> list[Cube]:
    """Of each suite the scores by one metric."""
    if frame.empty:
        return []
    arms = cells.drop_duplicates("arm").set_index("arm")
    names = frame["suite"].map({suite: metric.name for suite, metric in wanted.items()})
    made = []
    for keys, part in frame[frame["metric"] == names].groupby([*KEYS, "arm"], sort=False):
        suite, setting, norm, arm = map(str, keys)
        metric = wanted[suite]
        part = _shared_steps(part)
        values = part.sort_values(["step", "seed", "task"])["value"].to_numpy(dtype=float)
        steps, seeds, tasks = (tuple(np.unique(part[name]).tolist()) for name in ("step", "seed", "task"))
        worst = np.inf if metric.better == "lower" else -np.inf
        made.append(
            Cube(
                *(suite, setting, norm, str(arms["algorithm"][arm]), arm),
                metric=metric,
                floor=float(arms["floor"][arm]),
                report_steps=tuple(arms["report_steps"][arm]),
                seeds=seeds,
                tasks=tasks,
                steps=steps,
                values=np.where(np.isnan(values), worst, values).reshape(len(steps), len(seeds), len(tasks)),
            )
        )
    return made


def _shared_steps(part: pd.DataFrame) -> pd.DataFrame:
    """The inner steps at which every seed has scores: where results are kept compact, some steps are left out."""
    counts = part.groupby("step")["seed"].nunique()
    return part if counts.nunique() == 1 else part[part["step"].isin(counts.index[counts == counts.max()])]


def compare(made: Iterable[Cube]) -> pd.DataFrame:
    """One row per setting, algorithm and report step, in the order of `made`.

    `mark` is "best" for the best mean (the best median where a mean is infinite or spoilt by single tasks, which
    `by` says), "level" for what can't be told apart from it: the 95 % interval of the paired difference holds 0.
    """
    rows: list[dict[str, Any]] = []
    for group in _groups(made):
        for step in group[0].report_steps:
            rows += _compare_at(group, step)
    return pd.DataFrame(rows)


def _compare_at(group: list[Cube], step: int) -> list[dict[str, Any]]:
    better = group[0].better
    heavy = [cube.heavy(step) for cube in group]
    by = "median" if any(heavy) else "mean"
    means = [cube.mean(step) for cube in group]
    robust = [cube.robust(step) for cube in group]
    sign = 1 if better == "lower" else -1
    middles = [r.median.value for r in robust] if by == "median" else [m.value for m in means]
    # Equals are told apart by name, so that the same data have the same best in whatever order they come.
    best = min(range(len(group)), key=lambda i: (sign * middles[i], group[i].algorithm, group[i].arm))
    rows = []
    for i, cube in enumerate(group):
        apart = _difference(cube, group[best], step, by) if i != best else Interval(0.0, 0.0, 0.0)
        split = statistics.variance(cube.at(step))
        level = bool(apart.low <= 0 <= apart.high)
        rows.append(
            {
                **{name: getattr(cube, name) for name in [*KEYS, "algorithm", "arm"]},
                "step": step,
                **_named("", means[i], "mean"),
                **_named("median_", robust[i].median, "median"),
                **_named("iqm_", robust[i].iqm, "iqm"),
                "tasks": len(cube.tasks),
                "seeds": len(cube.seeds),
                "over": "seeds and tasks" if len(cube.seeds) >= FEWEST_SEEDS else "tasks",
                "heavy": heavy[i],
                "worse": cube.worse(step),
                **_spoiling(cube.at(step), better, heavy[i]),
                **_named("harmed_", cube.harmed(step), "harmed"),
                "worst_tenth": statistics.worst_tenth(cube.at(step), better),
                "by": by,
                "mark": "best" if i == best else "level" if level else "",
                **_named("behind_", apart, "behind"),
                "variance_seeds": split.seeds if split else np.nan,
                "variance_tasks": split.tasks if split else np.nan,
                "variance_interaction": split.interaction if split else np.nan,
            }
        )
    return rows


def standings(made: Iterable[Cube], compared: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Who stands where in each suite's headline setting after its last report step: a row per suite and algorithm.

    `rank` is 1 for the best, `value` with `low` and `high` the mean, or the median where `by` says so; algorithms that
    share one of their `letters` can't be told apart.

    Args:
        made: cubes of any settings.
        compared: `compare` of the same.
        cells: reports.frame.cells.
    """
    rows: list[dict[str, Any]] = []
    groups = {tuple(getattr(group[0], key) for key in KEYS): group for group in _groups(made)}
    for about in cells[cells["domain"] == ""].drop_duplicates("suite").to_dict("records"):
        group = groups.get(tuple(about[key] for key in KEYS), [])
        if not group:
            continue
        here = compared[(compared[KEYS] == [about[key] for key in KEYS]).all(axis=1)]
        here = here[here["step"] == group[0].last].set_index("arm")
        by = str(here["by"].iloc[0])
        ranks = here[by].rank(ascending=group[0].better == "lower", method="min").astype(int)
        group = sorted(group, key=lambda cube: (ranks[cube.arm], cube.algorithm))
        apart = [
            (i, j)
            for (i, a), (j, b) in combinations(enumerate(group), 2)
            if not (found := _difference(a, b, a.last, by)).low <= 0 <= found.high
        ]
        ends = ("low", "high") if by == "mean" else ("median_low", "median_high")
        for cube, shared in zip(group, letters(len(group), apart), strict=True):
            row = here.loc[cube.arm]
            keys = {key: getattr(cube, key) for key in [*KEYS, "algorithm", "arm"]}
            value = {"by": by, "value": row[by], "low": row[ends[0]], "high": row[ends[1]], "seeds": len(cube.seeds)}
            rows.append({**keys, **value, "rank": int(ranks[cube.arm]), "letters": shared})
    return pd.DataFrame(rows)


def letters(count: int, apart: Iterable[tuple[int, int]]) -> list[str]:
    """The letters of each of `count`: two share one if and only if they aren't `apart`.

    Piepho 2004, "An algorithm for a letter-based representation of all-pairwise comparisons", J. Comput. Graph. Stat.
    13, 456-466: a group that holds two that are apart becomes one without the one and one without the other.
    """
    groups = [frozenset(range(count))]
    for pair in apart:
        halves = {half for g in groups for half in ([g - {i} for i in pair] if g.issuperset(pair) else [g])}
        groups = [half for half in halves if not any(half < other for other in halves)]
    groups.sort(key=sorted)
    return ["".join(_letter(n) for n, group in enumerate(groups) if i in group) for i in range(count)]


def _letter(number: int) -> str:
    """From a to z, then from a1 on."""
    round_, letter = divmod(number, len(ascii_lowercase))
    return ascii_lowercase[letter] + (str(round_) if round_ else "")


def _spoiling(scores: Scores, better: Better, heavy: bool) -> dict[str, int]:
    """How many scores, and on how many tasks, make a mean that says little of the others."""
    found = statistics.spoiling(scores, better) if heavy else np.zeros(scores.shape, dtype=bool)
    return {"spoiling": int(found.sum()), "spoiling_tasks": int(found.any(0).sum())}


def quantiles(made: Iterable[Cube]) -> pd.DataFrame:
    """How the scores of all seeds and tasks are spread after every inner step: a row per setting, arm and step.

    `q05` to `q95` are scores that were reached, from the lowest on; `harmed` is the percentage that adaptation has made
    worse by then.
    """
    rows = []
    for cube in made:
        found = np.quantile(cube.values.reshape(len(cube.steps), -1), QUANTILES, axis=1, method="inverted_cdf")
        for step, own in zip(cube.steps, found.T, strict=True):
            keys = {key: getattr(cube, key) for key in [*KEYS, "algorithm", "arm"]}
            named = {f"q{100 * q:02.0f}": value for q, value in zip(QUANTILES, own, strict=True)}
            rows.append({**keys, "metric": cube.metric.name, "step": step, **named, "harmed": cube.harmed(step).value})
    return pd.DataFrame(rows)


def differences(made: Iterable[Cube], wanted: Callable[[Cube, Cube], bool] | None = None) -> pd.DataFrame:
    """Every pair of algorithms in every setting after the last report step, paired by task; a row reads a - b.

    With `wanted`, the pairs for which it is true.
    `p` is Wilcoxon's on per-task means over seeds, `p_holm` the same corrected within the setting. `d_tasks` and
    `d_seeds` are Cohen's, `p_equivalent` that of the two one-sided tests of means that differ by the `margin` or more:
    `MARGIN_POINTS`, or `MARGIN_SD` of the standard deviation that tasks have under a and b. None of the three where
    single tasks spoil the mean of a or b.
    """
    rows: list[dict[str, Any]] = []
    for group in _groups(made):
        step = group[0].last
        by = "median" if any(cube.heavy(step) for cube in group) else "mean"
        pairs = [pair for pair in combinations(group, 2) if wanted is None or wanted(*pair)]
        p = [statistics.wilcoxon(*_shared(a, b, step)) for a, b in pairs]
        for (a, b), raw, corrected in zip(pairs, p, statistics.holm(p), strict=True):
            left, right = _shared(a, b, step)
            wins = statistics.improvement(left, right, a.better)
            rows.append(
                {
                    **{name: getattr(a, name) for name in KEYS},
                    "step": step,
                    "a": a.algorithm,
                    "b": b.algorithm,
                    "by": by,
                    "tasks": len(set(a.tasks) & set(b.tasks)),
                    "paired_seeds": a.seeds == b.seeds,
                    **_named("", _difference(a, b, step, by), "difference"),
                    **_named("improvement_", wins, "improvement"),
                    "p": raw,
                    "p_holm": corrected,
                    **_size(left, right, a.seeds == b.seeds, a.metric, a.heavy(step) or b.heavy(step)),
                }
            )
    return pd.DataFrame(rows)


def orders(cells: pd.DataFrame) -> pd.DataFrame:
    """What second order costs against first: seconds per meta-iteration and peak memory, as ratios.

    A pair is two arms that differ in nothing but `gradient` (and the name): same suite, hyperparameters, engine, device
    and threads. The ratio is the geometric mean over common seeds, its 95 % interval Student's on the logarithms;
    none with fewer than three seeds.
    """
    done = cells[(cells["outcome"] == "finished") & cells["seconds_per_iteration"].notna()] if len(cells) else cells
    done = done[done["domain"] == ""] if len(done) else done
    rows = []
    arms = [(part.iloc[0], part.set_index("seed")) for _, part in done.groupby("arm", sort=False)] if len(done) else []
    for second, its in arms:
        gradient, rest = _work(second)
        if gradient in ("first_order", None):
            continue
        for first, others in arms:
            if _work(first) != ("first_order", rest):
                continue
            seeds = [seed for seed in its.index if seed in others.index]
            if not seeds:
                continue
            ratio = its.loc[seeds, "seconds_per_iteration"] / others.loc[seeds, "seconds_per_iteration"]
            memory = its.loc[seeds, "peak_bytes"] / others.loc[seeds, "peak_bytes"]
            rows.append(
                {
                    "suite": second["suite"],
                    "second": second["algorithm"],
                    "first": first["algorithm"],
                    "operator": gradient,
                    "inner_steps": json.loads(second["parameters"]).get("steps"),
                    "engine": second["engine"],
                    "seeds": len(seeds),
                    "second_seconds": its.loc[seeds, "seconds_per_iteration"].median(),
                    "first_seconds": others.loc[seeds, "seconds_per_iteration"].median(),
                    **_named("", _geometric(ratio.to_numpy()), "ratio"),
                    "memory_ratio": float(np.exp(np.log(memory).mean())),
                }
            )
    return pd.DataFrame(rows)


def _work(cell: "pd.Series[Any]") -> tuple[str | None, tuple[Any, ...]]:
    parameters = json.loads(cell["parameters"])
    gradient = parameters.pop("gradient", None)
    same = ("suite", "engine", "device", "threads", "store")
    return gradient, (*(cell.get(name) for name in same), json.dumps(parameters, sort_keys=True))


def _geometric(ratios: NDArray[np.float64]) -> Interval:
    from scipy import stats

    logs = np.log(ratios)
    middle, count = float(logs.mean()), len(logs)
    if count < 3:
        return Interval(float(np.exp(middle)), np.nan, np.nan)
    half = float(stats.t.ppf(0.975, count - 1) * logs.std(ddof=1) / np.sqrt(count))
    return Interval(*map(float, np.exp([middle, middle - half, middle + half])))


def _groups(made: Iterable[Cube]) -> list[list[Cube]]:
    groups: dict[tuple[str, ...], list[Cube]] = {}
    for cube in made:
        groups.setdefault((cube.suite, cube.setting, cube.norm), []).append(cube)
    return list(groups.values())


def _shared(a: Cube, b: Cube, step: int) -> tuple[Scores, Scores]:
    """Both on the tasks that both met."""
    if a.tasks == b.tasks:
        return a.at(step), b.at(step)
    both = sorted(set(a.tasks) & set(b.tasks))
    left, right = (cube.at(step)[:, np.searchsorted(cube.tasks, both)] for cube in (a, b))
    return left, right


def _size(a: Scores, b: Scores, paired_seeds: bool, metric: Metric, spoilt: bool) -> dict[str, float]:
    """How large a difference of means is, and whether it is of interest."""
    if spoilt:
        return dict.fromkeys(("d_tasks", "d_seeds", "margin", "p_equivalent"), np.nan)
    effect = statistics.effect(a, b, paired_seeds)
    margin = MARGIN_POINTS if metric.unit == "%" else MARGIN_SD * statistics.pooled_sd(a.mean(0), b.mean(0))
    p = statistics.equivalence(a, b, margin, paired_seeds)
    return {"d_tasks": effect.tasks, "d_seeds": effect.seeds, "margin": margin, "p_equivalent": p}


def _difference(a: Cube, b: Cube, step: int, by: str) -> Interval:
    left, right = _shared(a, b, step)
    if by == "median" and a.tasks == b.tasks:
        return statistics.median_difference(a.robust(step), b.robust(step))
    if by == "median":
        return statistics.median_difference(*map(statistics.median_and_iqm, (left, right)))
    span = a.metric.high - a.metric.low
    return statistics.difference(left, right, a.seeds == b.seeds).within(-span, span)


def _named(prefix: str, found: Interval, value: str) -> dict[str, float]:
    return {value: found.value, f"{prefix}low": found.low, f"{prefix}high": found.high}
