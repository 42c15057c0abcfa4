"""Numbers -> what people read: one table as HTML cells, Markdown, LaTeX and plain text; the summary in words."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from bench.core.labels import span
from bench.core.metric import Metric
from bench.core.records import Record
from reports.comparison import FURTHER, MARGIN_POINTS, MARGIN_SD, compare, cubes, further, standings
from reports.frame import cells
from reports.statistics import Interval, bounded

NONE = "–"
COMPARED = ["suite", "setting", "norm", "algorithm", "arm", "over", "by", "heavy", "worse"]
MARKS = "bold: the best; ≈: can't be told apart from it (the 95 % interval of the paired difference holds 0)"
OF_ROUNDS = ("needed", "reached", "regret")  # of a whole round, not of some number of points
PARTS = 3  # into which a table cuts a stream
ROBUST = {"median": "median", "iqm": "interquartile mean"}  # column of reports.comparison.compare -> in words
HARM = {"harmed %": "harmed", "worst tenth": "worst_tenth"}  # in words -> column of reports.comparison.compare
COSTS = (
    "tasks", "seeds", "iterations", "selected", "trials", "tuning iterations", "environment steps",
    "s/iteration", "train s", "compile s", "peak MB", "outcome",
)  # fmt: skip
VERDICTS = (
    "inside: our 95 % interval holds the published value, or the published one ours; outside: with ours minus the "
    "original value, or the first of others, and wherever single tasks make the mean; differs in protocol: likewise, "
    "but the note says what is not the same; running: meta-iterations so far; not run: what it takes here at most. "
    "original: of the method's own authors."
)
ADAPTING = "adapt ms/task"  # of each setting, where other costs are of the training
Mark = Literal["", "best", "level"]


@dataclass(frozen=True)
class Entry:
    """What is shown, and what it is sorted by."""

    text: str
    order: float | str = ""
    mark: Mark = ""
    link: str = ""
    interval: Interval | None = None

    @property
    def plain(self) -> Any:
        """The value for programs: a number, an interval by its ends, or the text."""
        if self.interval:
            found = {"value": self.interval.value, "low": self.interval.low, "high": self.interval.high}
            return found | ({"mark": self.mark} if self.mark else {})
        number = isinstance(self.order, int | float)
        return self.text if not number else self.order if math.isfinite(float(self.order)) else None


@dataclass(frozen=True)
class View:
    """A table with its title and what must be said with it."""

    name: str  # of its files
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()

    def frame(self, best: str = "{}", level: str = "{} ≈") -> pd.DataFrame:
        """The texts; the best and what is level with it as the formats say."""
        shown = {"": "{}", "best": best, "level": level}
        return pd.DataFrame([[shown[c.mark].format(c.text) for c in row] for row in self.rows], columns=self.columns)

    def markdown(self) -> str:
        """A pipe table below its title, with its notes."""
        rows = self.frame(best="**{}**").map(_escaped)
        head = [_escaped(name) for name in self.columns]
        lines = [head, ["---"] * len(head), *rows.to_numpy().tolist()]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"## {_escaped(self.title)}\n\n{table}\n\n" + "".join(f"{_escaped(note)}\n\n" for note in self.notes)

    def latex(self) -> str:
        """A booktabs table for a paper."""
        style = self.frame(best="BEST{}TSEB").style.hide(axis="index")
        style = style.format(escape="latex").format_index(escape="latex", axis=1)
        text = style.to_latex(hrules=True, caption=_latex(self.title), label=f"tab:{self.name}")
        for symbol, command in {"±": "$\\pm$", "∞": "$\\infty$", "≈": "$\\approx$", "–": "--", "−": "$-$"}.items():
            text = text.replace(symbol, command)
        return text.replace("BEST", "\\textbf{").replace("TSEB", "}")


def comparisons(frame: pd.DataFrame, records: Sequence[Record]) -> list[View]:
    """Each suite's comparison, in the records' order; `frame` is what reports.frame.tidy made of them.

    Before them, of several suites, all methods on all of them; after each that of domains, if there are any, and how a
    stream went as tasks came.
    """
    if not records:
        return []
    known = cells(records)
    made = cubes(frame, known)
    compared, beside = compare(made), further(frame, known)
    suites = dict.fromkeys(known["suite"])
    each = [
        (comparison(s, compared, beside, known), domains(s, compared, known), rounds(s, frame, known)) for s in suites
    ]
    whole = (front(standings(made, compared, known), known), *(view for some in each for view in some))
    return [view for view in whole if view.rows]


def front(standing: pd.DataFrame, known: pd.DataFrame) -> View:
    """All methods on all suites: score and rank in each suite's headline setting, then the costs; no rows of one suite.

    Methods that are measured on every suite come first, ordered by their mean rank among each other; the others after
    them, ordered by the first suite that they have.

    Args:
        standing: reports.comparison.standings.
        known: reports.frame.cells.
    """
    home = known[known["domain"] == ""]
    suites = home.drop_duplicates("suite").set_index("suite")
    if len(suites) < 2 or not len(standing):
        return View("front", "All methods on all suites", (), ())
    ranks = standing.pivot(index="algorithm", columns="suite", values="rank").reindex(
        index=list(dict.fromkeys(home["algorithm"])), columns=suites.index
    )
    mean_rank = ranks.dropna().rank(method="min").mean(axis=1)
    order = ranks.assign(mean=mean_rank).sort_values(["mean", *suites.index], kind="stable").index
    scored = dict(zip(zip(standing["suite"], standing["algorithm"], strict=True), _records(standing), strict=True))
    parts = {(str(s), str(a)): part for (s, a), part in home.groupby(["suite", "algorithm"], sort=False)}
    rows = []
    for algorithm in order:
        row = {"algorithm": Entry(algorithm, algorithm)}
        row["mean rank"] = _number(mean_rank.get(algorithm, math.nan), ".2f") if len(mean_rank) > 1 else Entry(NONE)
        costs: dict[str, Entry] = {}
        for suite, about in suites.iterrows():
            part, found = parts.get((str(suite), algorithm)), scored.get((suite, algorithm))
            column = f"{suite}: {_column(about['metrics'][0], about['report_steps'][-1])}"
            row |= _standing(f"{suite}: rank", column, found, part)
            costs |= {f"{suite}: {name}": entry for name, entry in _cost_of_one(part, str(about["setting"])).items()}
        rows.append(row | costs)
    settings = [f"{s}: {a['setting']}{'' if a['norm'] == 'none' else ', ' + a['norm']}" for s, a in suites.iterrows()]
    notes = [
        f"headline settings: {'; '.join(settings)}",
        "bold: the best. Beside the rank: methods of a suite that share a letter can't be told apart (the 95 % "
        "interval of their paired difference holds 0, for each pair by itself).",
        "missing: not run. What is missing is never filled in nor averaged over: mean ranks are of methods measured on "
        "every suite, among themselves.",
        "train s, environment steps: of one training, mean over seeds; adapt ms/task: at test time, as below.",
    ]
    if (standing["by"] == "median").any():
        spoilt = dict.fromkeys(standing.loc[standing["by"] == "median", "suite"])
        notes.append(f"Medians, since single tasks spoil means: {', '.join(spoilt)}.")
    return _view("front", "All methods on all suites", rows, notes)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _standing(rank: str, column: str, found: dict[str, Any] | None, cells: pd.DataFrame | None) -> dict[str, Entry]:
    """Score and rank of one method on one suite, or why there is none."""
    lost = Counter() if cells is None else Counter(cells.loc[cells["outcome"] != "finished", "outcome"])
    if found is None:
        why = "missing" if cells is None else ", ".join(lost) or "not scored"
        return {column: Entry(why, -math.inf), rank: Entry(NONE, "999")}
    score = Interval(found["value"], found["low"], found["high"])
    text = plus_minus(score) if found["by"] == "mean" else spanned(score)
    text += "".join(f", {n} of {n + found['seeds']} {outcome}" for outcome, n in lost.items())
    mark: Mark = "best" if found["rank"] == 1 else ""
    place = f"{found['rank']} {found['letters']}"
    return {column: Entry(text, score.value, mark, interval=score), rank: Entry(place, f"{found['rank']:03d}")}


def _cost_of_one(cells: pd.DataFrame | None, setting: str) -> dict[str, Entry]:
    if cells is None:
        return {}
    return {
        "train s": _number(cells["train_seconds"].mean()),
        ADAPTING: _adapting(cells, setting),
        "environment steps": _number(cells["environment_steps"].mean()),
    }


def comparison(suite: str, compared: pd.DataFrame, beside: pd.DataFrame, known: pd.DataFrame) -> View:
    """Who reaches what at what cost: a row per setting, normalisation and algorithm of one suite.

    Args:
        suite: its label.
        compared: reports.comparison.compare.
        beside: reports.comparison.further.
        known: reports.frame.cells.
    """
    here = compared[compared["suite"] == suite] if len(compared) else pd.DataFrame(columns=COMPARED)
    mine = known[known["suite"] == suite]
    arms = dict(iter(mine.groupby("arm", sort=False)))
    metrics: dict[str, Metric] = {metric.name: metric for metric in mine["metrics"].iloc[0]}
    rivals = here.groupby(["setting", "norm"])["arm"].nunique().max() if len(here) else 0
    more = beside[beside["suite"] == suite]
    columns = {row["metric"]: _column(metrics[row["metric"]], row["step"]) for row in more.to_dict("records")}
    rows = []
    for (setting, norm, _, arm), part in here.groupby(["setting", "norm", "algorithm", "arm"], sort=False):
        first = part.iloc[0]
        row = _keys(first) | _scores(part, metrics[mine["metric"].iloc[0]], rivals > 1, bool(here["heavy"].any()))
        row |= dict.fromkeys(columns.values(), Entry(NONE, -math.inf))
        its = more[(more["arm"] == arm) & (more["setting"] == setting) & (more["norm"] == norm)]
        for own in its.to_dict("records"):
            found = Interval(own["mean"], own["low"], own["high"])
            row[columns[own["metric"]]] = Entry(plus_minus(found), found.value, interval=found)
        row[ADAPTING] = _adapting(arms[str(arm)], str(setting))
        row |= {name: Entry(f"{first[name]:,}", float(first[name])) for name in ("tasks", "seeds")}
        rows.append(row | _cost(arms[str(arm)]))
    without = [part for arm, part in arms.items() if arm not in set(here["arm"])]  # none of its cells has scores
    rows += [_keys(part.iloc[0]) | {"seeds": Entry("0", 0.0)} | _cost(part) for part in without]
    return _view(f"comparison-{slug(suite)}", suite, rows, list(_said(here, beside, mine, rivals > 1)))


def domains(suite: str, compared: pd.DataFrame, known: pd.DataFrame) -> View:
    """What was trained on one suite, on its own test tasks beside those of other domains; no rows without any.

    Ranks may change between them (Setlur, Li, Smith 2021, arXiv:2102.11503).

    Args:
        suite: its label.
        compared: reports.comparison.compare.
        known: reports.frame.cells.
    """
    mine = known[known["suite"] == suite].drop_duplicates("arm").set_index("arm")
    if (mine["domain"] == "").all() or not len(compared):
        return View(f"domains-{slug(suite)}", suite, (), ())
    here = compared[compared["suite"] == suite]
    own = mine.loc[here["arm"]]
    last = np.array([steps[-1] for steps in own["report_steps"]])
    here = here[(here["setting"].to_numpy() == own["setting"].to_numpy()) & (here["step"].to_numpy() == last)]
    rows: dict[tuple[str, str], dict[str, Entry]] = {}
    for (setting, norm), part in here.groupby(["setting", "norm"], sort=False):
        by = part["by"].iloc[0]
        ranks = part[by].rank(ascending=mine.loc[part["arm"].iloc[0], "better"] == "lower", method="min")
        for row, rank in zip(part.to_dict("records"), ranks, strict=True):
            ends = ("low", "high") if by == "mean" else ("median_low", "median_high")
            found = Interval(row[by], *(row[end] for end in ends))
            text = f"{plus_minus(found) if by == 'mean' else spanned(found)} ({rank:.0f})"
            key = (str(mine.loc[row["arm"], "home"]), norm)
            entry = Entry(text, found.value, row["mark"] if len(part) > 1 else "", interval=found)
            names = {name: Entry(str(row[name]), str(row[name])) for name in ("algorithm", "norm")}
            rows.setdefault(key, names)[f"{setting}{' (median)' if by == 'median' else ''}"] = entry
    about = mine.iloc[0]
    notes = [
        f"{_with_unit(about['metrics'][0])} @{last[0]}, trained on {suite} alone; in brackets the rank in its column",
        MARKS,
    ]
    floors = dict(zip(mine["setting"], mine["floor"], strict=True))
    if len(set(floors.values())) > 1:
        notes.append("knowing nothing: " + ", ".join(f"{floor:.3g} {setting}" for setting, floor in floors.items()))
    return _view(f"domains-{slug(suite)}", f"{suite}: in its own domain and in others", list(rows.values()), notes)


def _keys(row: "pd.Series[Any]") -> dict[str, Entry]:
    return {name: Entry(str(row[name]), str(row[name])) for name in ("algorithm", "setting", "norm")}


def _scores(steps: pd.DataFrame, metric: Metric, marked: bool, heavy: bool) -> dict[str, Entry]:
    """Means after the report steps, then medians where there is no unit or some mean of the suite is spoilt.

    At last whom the last step does no good: the share of the tasks that it makes worse, and the worst tenth.
    """
    means, robust = {}, {}
    for row in steps.to_dict("records"):
        marks: dict[str, Mark] = {row["by"]: row["mark"]} if marked else {}
        found = Interval(row["mean"], row["low"], row["high"])
        means[_column(metric, row["step"])] = Entry(
            plus_minus(found), found.value, marks.get("mean", ""), interval=found
        )
        if heavy or not metric.unit:
            for name in ROBUST if row["step"] == steps["step"].max() else ["median"]:
                found = Interval(*(row[f"{name}{end}"] for end in ("", "_low", "_high")))
                robust[f"{ROBUST[name]} @{row['step']}"] = Entry(
                    spanned(found), found.value, marks.get(name, ""), interval=found
                )
    last = steps.sort_values("step").iloc[-1]
    tenth = float(last["worst_tenth"])
    harmed = Interval(*(last[f"harmed{end}"] for end in ("", "_low", "_high")))
    harm = {
        "harmed %": Entry(NONE, -math.inf)
        if math.isnan(harmed.value)
        else Entry(plus_minus(harmed), harmed.value, interval=harmed),
        "worst tenth": Entry(_finite(tenth, _decimals(abs(tenth))), tenth),
    }
    return means | robust | {f"{name} @{last['step']}": entry for name, entry in harm.items()}


def _said(here: pd.DataFrame, beside: pd.DataFrame, mine: pd.DataFrame, marked: bool) -> Iterator[str]:
    """What must be said with a comparison."""
    about = mine.iloc[0]
    yield (
        f"{_with_unit(about['metrics'][0])} after @k {about['after']}, mean ± 95 % interval over {_over(here)}; "
        f"{about['better']} is better; knowing nothing: {about['floor']:.3g}"
    )
    shown = set(beside.loc[beside["suite"] == about["suite"], "metric"])
    for m in about["metrics"][1:]:
        if m.name in shown:
            yield f"{_with_unit(m)}: {FURTHER[m.name]}; {m.better} is better"
    if marked:
        yield MARKS
    if len(here) and (here["by"] == "median").any():
        yield "Where single tasks spoil a mean, medians decide what is marked."
    yield from _heavy(here)
    if len(here):
        yield (
            "harmed: test tasks that adaptation makes worse than they were @0; worst tenth: the mean of the tasks that "
            "come off worst, seeds averaged"
        )
    checkpoints, engines, devices, threads = (
        ", ".join(sorted(set(mine[name].astype(str)))) for name in ("selection", "engine", "device", "threads")
    )
    yield f"checkpoint: {checkpoints}; engine: {engines}; device: {devices}, threads: {threads}"
    if any(json.loads(text) for text in mine["test_seconds"]):
        yield (
            f"{ADAPTING}: adapting to a test task, @{about['report_steps'][-1]} or by the one look that a method "
            "takes, and one prediction of its query; tasks side by side, eager; neither data nor scores"
        )
    for row in mine[mine["outcome"] != "finished"].to_dict("records"):
        what = f"{row['algorithm']}, seed {row['seed']}, {row['outcome']}: {row['message']}"
        yield f"{what}; see cells/{row['cell']}/log.txt"
    doubts: dict[str, list[str]] = {}
    for row in mine.to_dict("records"):
        for what, message in json.loads(row["cautions"]).items():
            doubts.setdefault(f"{row['algorithm']}: {what}: {message}", []).append(str(row["seed"]))
    for said, seeds in doubts.items():
        yield f"caution: {said} (seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)})"
    if about["caveat"]:
        yield str(about["caveat"])


def _heavy(here: pd.DataFrame) -> Iterator[str]:
    """Which scores make a mean that is infinite or far from the others."""
    spoilt = here[here["heavy"].astype(bool)] if len(here) else here
    for (setting, norm, algorithm), part in spoilt.groupby(["setting", "norm", "algorithm"], sort=False):
        where = f"{algorithm}, {setting}" + ("" if norm == "none" else f", {norm}")
        tasks, seeds = part["tasks"].iloc[0], part["seeds"].iloc[0]
        made = "; ".join(
            f"the mean @{row['step']} is made by {row['spoiling']:,} of {tasks * seeds:,} scores, "
            f"on {100 * row['spoiling_tasks'] / tasks:.2g} % of the tasks"
            for row in part.to_dict("records")
        )
        text = f"heavy tail: {where}: {made}"
        if (part["worse"] > 0).any():
            counts = ", ".join(f"{row['worse']:,} @{row['step']}" for row in part.to_dict("records"))
            text += f"; worse than knowing nothing: {counts}"
        yield text


def _column(metric: Metric, step: int) -> str:
    return _with_unit(metric) if metric.name in OF_ROUNDS else f"{_with_unit(metric)} @{step}"


def _with_unit(metric: Metric) -> str:
    return f"{metric.name} {metric.unit}".strip()


def rounds(suite: str, frame: pd.DataFrame, known: pd.DataFrame) -> View:
    """What a stream's tasks needed, and what they reached with few points, part by part; no rows of other suites.

    Args:
        suite: its label.
        frame: reports.frame.tidy.
        known: reports.frame.cells.
    """
    mine = known[known["suite"] == suite]
    here = frame[frame["suite"] == suite]
    metrics: dict[str, Metric] = {metric.name: metric for metric in mine["metrics"].iloc[0]}
    steps, labels = mine["report_steps"].iloc[0], dict(zip(mine["arm"], mine["algorithm"], strict=True))
    shown = {"needed": steps[-1], mine["metric"].iloc[0]: steps[0]} if (here["metric"] == "needed").any() else {}
    rows = []
    for arm, own in here.groupby("arm", sort=False) if shown else ():
        row = {"algorithm": Entry(labels[str(arm)], labels[str(arm)])}
        for name, step in shown.items():
            scores = own[(own["metric"] == name) & (own["step"] == step)].pivot(index="seed", columns="task")["value"]
            for tasks in np.array_split(scores.columns.to_numpy(), min(PARTS, len(scores.columns))):
                found = bounded(scores[tasks].to_numpy(), metrics[name].low, metrics[name].high)
                points = "" if name == "needed" else f" @{step}"
                which = f"task {tasks[0] + 1}" if len(tasks) == 1 else f"tasks {tasks[0] + 1} to {tasks[-1] + 1}"
                column = f"{_with_unit(metrics[name])}{points}, {which}"
                row[column] = Entry(plus_minus(found), found.value, interval=found)
        rows.append(row)
    note = f"mean ± 95 % interval; needed: {FURTHER['needed']}; tasks are numbered as they come, after the known ones"
    return _view(f"rounds-{slug(suite)}", f"{suite}: as tasks come", rows, [note])


def differences(suite: str, pairs: pd.DataFrame) -> View:
    """Every pair of algorithms of one suite."""
    rows = []
    here = pairs[pairs["suite"] == suite]
    for row in here.to_dict("records"):
        found = Interval(row["difference"], row["low"], row["high"])
        wins = Interval(row["improvement"], row["improvement_low"], row["improvement_high"])
        rows.append(
            {
                **{name: Entry(str(row[name]), str(row[name])) for name in ("a", "b", "setting", "norm")},
                f"a − b @{row['step']}": Entry(spanned(found), found.value),
                "of": Entry(row["by"], row["by"]),
                "P(a beats b)": Entry(spanned(wins), wins.value),
                "p": Entry(_p(row["p"]), row["p"]),
                "p, Holm": Entry(_p(row["p_holm"]), row["p_holm"]),
                "d, tasks": _effect(row["d_tasks"]),
                "d, seeds": _effect(row["d_seeds"]),
                "margin": _number(row["margin"], ".3g"),
                "p, equivalent": Entry(NONE, math.inf)
                if math.isnan(row["p_equivalent"])
                else Entry(_p(row["p_equivalent"]), row["p_equivalent"]),
            }
        )
    notes = [
        "Differences are of the same tasks, with their 95 % interval from the same draws. P: the probability that a "
        "scores better than b on a task, ties halved. p: Wilcoxon's signed-rank test on per-task means over seeds, "
        "corrected by Holm's method within a setting; it speaks of these trained models, not of models trained anew.",
        "d: Cohen's effect size, the mean difference over the standard deviation of the tasks' differences (seeds "
        "averaged), and of the seeds' (tasks averaged; from three seeds on); below 0.2 it is called small, however "
        "small p is. Equivalent: two one-sided tests (Schuirmann 1987) that means differ by less than the margin, "
        f"{MARGIN_POINTS:g} percentage point, and {MARGIN_SD:g} standard deviations of the tasks' scores for other "
        "metrics; below 0.05 they do, for that pair alone. Both are of means: none where single tasks spoil one.",
    ]
    return _view(f"differences-{slug(suite)}", f"{suite}: pairs", rows, notes)


def variances(compared: pd.DataFrame, cells: pd.DataFrame) -> View:
    """Where the variance of a single score comes from, after the last report step."""
    last = cells.drop_duplicates("suite").set_index("suite")["report_steps"].map(lambda steps: steps[-1])
    rows = []
    for row in compared.to_dict("records"):
        if row["step"] != last[row["suite"]] or np.isnan(row["variance_seeds"]):
            continue
        shares = {
            f"{name} %": Entry(f"{100 * row[f'variance_{name}']:.0f}", row[f"variance_{name}"])
            for name in ("seeds", "tasks", "interaction")
        }
        rows.append({n: Entry(str(row[n]), str(row[n])) for n in ("suite", "setting", "norm", "algorithm")} | shares)
    note = (
        "Shares of the variance of a single score: of the seeds, of the tasks, and of how seeds differ from task to "
        "task, noise included (two-way random model, method of moments). Needs two seeds and finite scores."
    )
    return _view("variance", "Where the variance comes from", rows, [note])


def costs(orders: pd.DataFrame) -> View:
    """Second order against first."""
    rows = [
        {
            "suite": Entry(row["suite"], row["suite"]),
            "second order": Entry(row["second"], row["second"]),
            "first order": Entry(row["first"], row["first"]),
            "operator": Entry(row["operator"], row["operator"]),
            "inner steps": Entry(str(row["inner_steps"]), row["inner_steps"] or 0),
            "engine": Entry(row["engine"], row["engine"]),
            "ratio of seconds": Entry(spanned(Interval(row["ratio"], row["low"], row["high"])), row["ratio"]),
            "s/iteration": Entry(
                f"{row['second_seconds']:.3g} against {row['first_seconds']:.3g}", row["second_seconds"]
            ),
            "ratio of peak memory": Entry(f"{row['memory_ratio']:.2f}", row["memory_ratio"]),
            "seeds": Entry(str(row["seeds"]), row["seeds"]),
        }
        for row in orders.to_dict("records")
    ]
    note = (
        "Pairs that differ in the operator alone. The ratio is the geometric mean over seeds of the medians per "
        "meta-iteration as they were while training, with Student's 95 % interval from three seeds on; `bench cost` "
        "measures the same in alternation on a quiet machine."
    )
    return _view("second-order", "What second order costs", rows, [note])


def published(rows: pd.DataFrame) -> View:
    """Measured values beside published ones."""
    shown = []
    for row in rows.to_dict("records"):
        measured = Interval(*(row[f"measured_{name}"] for name in ("mean", "low", "high")))
        half = row["published_ci95"]
        value = f"{row['published']:g}" + ("" if np.isnan(half) else f" ± {half:g}")
        shown.append(
            {
                **{name: Entry(str(row[name]), str(row[name])) for name in ("suite", "setting", "norm", "algorithm")},
                "step": Entry(str(row["step"]), row["step"]),
                "measured here": Entry(plus_minus(measured), measured.value),
                "published": Entry(value, row["published"]),
                "verdict": Entry(row["verdict"] or NONE, row["verdict"]),
                "source": Entry(f"{row['source']} ({row['grade']})", row["source"]),
                "protocol": Entry(row["protocol"] or NONE, row["protocol"]),
            }
        )
    note = (
        "Inside or outside the published value ± its 95 % interval; no verdict where the source gives none (a standard "
        "deviation over seeds is none). primary: read in the paper, its code or its data; secondary: in a page that "
        "quotes it. What is known to differ stands in the last column: a value outside is no failed reproduction."
    )
    return _view("published", "Beside published values", shown, [note])


def reproduced(rows: pd.DataFrame) -> list[View]:
    """Published values of each suite beside ours: a row for what one command reaches in one setting and inner step.

    Args:
        rows: bench.reporting.reproduce.reproduced.
    """
    return [_reproduced(str(suite), part) for suite, part in rows.groupby("suite", sort=False)]


def _reproduced(suite: str, part: pd.DataFrame) -> View:
    notes: dict[str, int] = {}  # sources and reasons, numbered as they come

    def note(text: str) -> str:
        return f" [{notes.setdefault(text, len(notes) + 1)}]" if text else ""

    shown = []
    same = ["setting", "algorithm", "step", "norm", "command"]
    for _, values in part.groupby(same, sort=False, dropna=False):
        # Two values of one source are of two protocols of its own.
        first = values.iloc[int((values["origin"] == "original").argmax())]
        ours = Interval(
            *(float(first[name]) if pd.notna(first[name]) else math.nan for name in ("ours", "low", "high"))
        )
        seeds = f" ({first['seeds']} seed{'s' if first['seeds'] > 1 else ''})" if first["seeds"] else ""
        step = "" if pd.isna(first["step"]) else f"{first['step']} step{'' if first['step'] == 1 else 's'}"
        after = ", ".join(filter(None, (step, "" if pd.isna(first["norm"]) else str(first["norm"]))))
        texts: dict[str, list[str]] = {"original": [], "others": []}
        for row in values.to_dict("records"):
            source = f"{row['source']}, {row['grade']}" + ("" if pd.isna(row["notes"]) else f": {row['notes']}")
            half = "" if pd.isna(row["ci95"]) else f" ± {row['ci95']:g}"
            order = " (first order)" if row["algorithm"] == "fomaml" else ""
            texts[row["origin"]].append(f"{row['value']:g}{half}{order}{note(source)}")
        entries = {
            "suite": str(first["run_suite"]),
            "setting": NONE if pd.isna(first["setting"]) else str(first["setting"]),
            "method": str(first["run_algorithm"]),
            "after": after or NONE,
            **{origin: "; ".join(found) or NONE for origin, found in texts.items()},
            "ours": NONE if math.isnan(ours.value) else plus_minus(ours) + seeds,
            "verdict": _verdict(first, note),
        }
        shown.append({name: Entry(text, text) for name, text in entries.items()})
    return _view(f"reproduce-{suite}", suite, shown, [f"[{number}] {text}" for text, number in notes.items()])


def _verdict(row: "pd.Series[Any]", note: Callable[[str], str]) -> str:
    word, how, unit = str(row["verdict"]), str(row["how"]), "" if pd.isna(row["unit"]) else f" {row['unit']}"
    gap = "" if pd.isna(row["gap"]) else f", {row['gap']:+.3g}{unit}".replace("-", "−").replace("inf", "∞")
    if word == "not run":
        known = f": up to {span(row['seconds'])} here" if pd.notna(row["seconds"]) else ""
        return word + known + note(how) + note(str(row["differs"]))
    if word == "running":
        return f"{word}: {how}{gap}" + note(str(row["differs"]))
    if word in ("diverged", "not scored"):
        return word + note(how)
    return word + ("" if word == "inside" else gap) + note(how) + note(str(row["differs"]))


def cells_of(cells: pd.DataFrame, links: dict[str, str]) -> View:
    """Every cell with its outcome, its specification and its log.

    Args:
        cells: reports.frame.cells.
        links: cell -> where its folder is, seen from the page.
    """
    rows = []
    for row in cells.to_dict("records"):
        folder = links.get(row["cell"], "")
        rows.append(
            {
                "cell": Entry(row["cell"], row["cell"], link=f"{folder}/spec.json" if folder else ""),
                "log": Entry("log", "", link=f"{folder}/log.txt" if folder else ""),
                **{name: Entry(str(row[name]), str(row[name])) for name in ("suite", "algorithm")},
                "scored on": Entry(row["domain"] or NONE, row["domain"]),
                "seed": Entry(str(row["seed"]), row["seed"]),
                "iterations": Entry(f"{row['iterations']:,}", row["iterations"]),
                "outcome": Entry(row["outcome"], row["outcome"]),
                "message": Entry(row["message"] or NONE, row["message"]),
                "train s": Entry(f"{row['train_seconds']:.0f}", row["train_seconds"]),
                "digest": Entry(row["digest"][:12] or NONE, row["digest"]),
                "finished": Entry(row["finished"], row["finished"]),
            }
        )
    return _view("cells", "Cells", rows, [])


def plain(name: str, title: str, table: pd.DataFrame) -> View:
    """A frame of texts and numbers as it is."""
    rows = [
        tuple(_number(value, ".4g") if isinstance(value, (int, float)) else Entry(str(value)) for value in row)
        for row in table.itertuples(index=False)
    ]
    return View(name, title, tuple(table.columns), tuple(rows))


def summary(compared: pd.DataFrame, orders: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
    """What came out, in sentences: each suite's headline setting after its last report step, then the cost."""
    said = []
    for suite, part in cells.groupby("suite", sort=False):
        about = part.iloc[0]
        lost = Counter(part.loc[part["outcome"] != "finished", "outcome"])
        if lost:
            said.append(f"{suite}: " + " and ".join(f"{n} of {len(part)} cells {o}" for o, n in lost.items()) + ".")
        if not len(compared):
            continue
        rows = compared[(compared["suite"] == suite) & (compared["step"] == about["report_steps"][-1])]
        rows = rows[(rows["setting"] == about["setting"]) & (rows["norm"] == about["norm"])]
        if not len(rows):
            continue
        best = rows[rows["mark"] == "best"].iloc[0]
        level, behind = rows.loc[rows["mark"] == "level", "algorithm"], rows.loc[rows["mark"] == "", "algorithm"]
        median = best["by"] == "median"
        value = (
            f"a median of {spanned(Interval(best['median'], best['median_low'], best['median_high']))}"
            if median
            else plus_minus(Interval(best["mean"], best["low"], best["high"]))
        )
        unit = f" {about['unit']}" if about["unit"] else ""
        norm = "" if about["norm"] == "none" else f", {about['norm']}"
        text = (
            f"On {suite} ({about['setting']}{norm}) {best['algorithm']} is best of {len(rows)}: {about['metric']} "
            f"{value}{unit} after {best['step']} {about['after']}, over {best['tasks']} tasks and {best['seeds']} "
            f"seed{'s' if best['seeds'] > 1 else ''}."
        )
        if len(level):
            text += f" {_listed(level.tolist())} can't be told apart from it."
        if len(behind):
            text += f" Behind: {_listed(behind.tolist())}."
        said.append(text)
    for row in orders.to_dict("records"):
        ratio = spanned(Interval(row["ratio"], row["low"], row["high"]))
        said.append(
            f"On {row['suite']} a meta-iteration of {row['second']} takes {ratio} times that of {row['first']} "
            f"({row['operator']}, {row['engine']}, {row['inner_steps']} inner step{'s' * (row['inner_steps'] != 1)})."
        )
    return said


def plus_minus(found: Interval) -> str:
    """The value ± half its interval, or (low to high) where the metric's range cuts one side off."""
    value, half = found.value, found.half
    if not math.isfinite(value):
        return _finite(value, 0)
    if not math.isclose(found.high - value, value - found.low, rel_tol=1e-3):
        return spanned(found)
    if abs(value) >= 1e6:
        return f"{value:.1e} ± {half:.1e}"
    decimals = _decimals(half)
    return f"{value:.{decimals}f} ± {half:.{decimals}f}"


def _decimals(half: float) -> int:
    """How many decimals show two digits of half an interval: from 2 to 6."""
    return min(6, max(2, 1 - math.floor(math.log10(half)))) if math.isfinite(half) and half > 0 else 2


def spanned(found: Interval) -> str:
    """Value (low to high), with two digits of half the width."""
    if math.isnan(found.value):
        return NONE
    decimals = _decimals(found.half)
    if math.isnan(found.low):
        return _finite(found.value, decimals)
    return f"{_finite(found.value, decimals)} ({_finite(found.low, decimals)} to {_finite(found.high, decimals)})"


def slug(name: str) -> str:
    """The name with everything that is no letter, digit, dash or underscore replaced."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in name).strip("-") or "suite"


def _view(name: str, title: str, rows: Sequence[dict[str, Entry]], notes: Sequence[str]) -> View:
    columns = tuple(dict.fromkeys(column for row in rows for column in row))
    columns = tuple(c for c in columns if any(row.get(c, Entry(NONE)).text not in (NONE, "none") for row in rows))
    whole = tuple(tuple(row.get(column, Entry(NONE)) for column in columns) for row in rows)
    return View(name, title, columns, whole, tuple(notes))


def _adapting(cells: pd.DataFrame, setting: str) -> Entry:
    taken = [json.loads(text).get(setting, math.nan) for text in cells["test_seconds"]]
    return _number(1e3 * float(pd.Series(taken).median()), ".3g")


def _cost(cells: pd.DataFrame) -> dict[str, Entry]:
    cells = cells.sort_values("seed")  # so that the same data have the same sums in whatever order they come
    first = cells.iloc[0]
    pace, peak = cells["seconds_per_iteration"].median(), cells["peak_bytes"].max()
    steps = cells["environment_steps"].sum(min_count=1)
    chosen: dict[str, dict[str, None]] = {}
    for name, value in (pair for text in cells["selected"] for pair in json.loads(text).items()):
        chosen.setdefault(name, {})[f"{value:g}" if isinstance(value, float) else str(value)] = None
    selected = ", ".join(f"{name}={'/'.join(values)}" for name, values in chosen.items())
    outcomes = Counter(cells["outcome"])
    outcome = next(iter(outcomes)) if len(outcomes) == 1 else ", ".join(f"{n} {o}" for o, n in outcomes.items())
    return {
        "iterations": Entry(f"{first['iterations']:,}", float(first["iterations"])),
        "selected": Entry(selected or NONE, selected),
        "trials": _number(first["trials"] or math.nan),
        "tuning iterations": _number(first["tuning_iterations"] or math.nan),
        "environment steps": _number(steps),
        "s/iteration": _number(pace, ".4f"),
        "train s": Entry(f"{cells['train_seconds'].sum():,.0f}", float(cells["train_seconds"].sum())),
        "compile s": Entry(f"{cells['compile_seconds'].sum():,.0f}", float(cells["compile_seconds"].sum())),
        "peak MB": _number(peak / 1e6),
        "outcome": Entry(outcome, outcome),
    }


def _number(value: float, form: str = ",.0f") -> Entry:
    return Entry(NONE, -math.inf) if math.isnan(value) else Entry(format(value, form), float(value))


def _effect(d: float) -> Entry:
    return Entry(_finite(d, 2), -math.inf if math.isnan(d) else d)


def _over(rows: pd.DataFrame) -> str:
    said = set(rows["over"]) if len(rows) else set()
    if said == {"tasks"}:
        return "tasks (fewer than three seeds: what another seed would reach is not in it)"
    return "seeds and tasks" if "tasks" not in said else "seeds and tasks, over tasks alone below three seeds"


def _finite(value: float, decimals: int) -> str:
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞" if value < 0 else NONE
    return f"{value:.1e}" if abs(value) >= 1e6 else f"{value:.{decimals}f}"


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, in one cell."""
    for sign, safe in {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "\\|", "\n": " "}.items():
        text = text.replace(sign, safe)
    return text


def _latex(text: str) -> str:
    signs = {"\\": r"\textbackslash{}", **{c: f"\\{c}" for c in "&%$#_{}"}, "~": r"\textasciitilde{}", "^": r"\^{}"}
    return "".join(signs.get(c, c) for c in text)


def columns_of(view: View) -> Iterator[tuple[str, bool]]:
    """Each column's name, and whether it holds numbers."""
    for i, name in enumerate(view.columns):
        orders = [row[i].order for row in view.rows]
        yield name, any(isinstance(order, float | int) for order in orders)
