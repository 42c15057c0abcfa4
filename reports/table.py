"""The printed comparison: score with its 95 % interval at the report steps, beside what it cost.

Letters: S seeds, T tasks.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.core.records import Judgement, Record
from reports.statistics import Interval, heavy_tailed, interval

COUNTS = ("tasks", "seeds", "iterations", "selected")
TUNING = ("values", "trials", "tuning iterations")  # where a row's values were chosen by a sweep
COST = ("s/iteration", "train s", "compile s", "peak MB", "outcome")
SHARED = ("setting", "norm", *COUNTS, "outcome")  # said once, in a note, where all rows agree


@dataclass(frozen=True)
class Table:
    """One suite's comparison: text cells, and what must be said with them."""

    title: str
    scores: pd.DataFrame  # one row per algorithm, setting and normalisation
    costs: pd.DataFrame  # what stands beside them
    notes: tuple[str, ...]


def tables(frame: pd.DataFrame, records: list[Record]) -> list[Table]:
    """One table per suite of the records, in the records' order; `frame` is what reports.frame.tidy made of them."""
    suites = dict.fromkeys(record.spec.suite.label for record in records)
    return [_table(name, frame, [r for r in records if r.spec.suite.label == name]) for name in suites]


def _table(suite: str, frame: pd.DataFrame, records: list[Record]) -> Table:
    judged = records[0].judgement
    unit = f" {judged.headline.unit}" if judged.headline.unit else ""
    columns = {step: f"{judged.headline.name}{unit} @{step}" for step in judged.report_steps}
    frame = frame[(frame["suite"] == suite) & (frame["metric"] == judged.headline.name)]
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.spec.algorithm.label, record.spec.arm), []).append(record)
    rows, tails = [], list[str]()
    for (algorithm, _), cells in groups.items():
        iterations = cells[0].spec.iterations
        own = frame[frame["cell"].isin([r.cell for r in cells])]
        headline = next(iter(cells[0].spec.manifests)).rpartition("/")[0], cells[0].spec.norm  # of cells without scores
        for setting, norm in dict.fromkeys(zip(own["setting"], own["norm"], strict=True)) or [headline]:
            here = own[(own["setting"] == setting) & (own["norm"] == norm)]
            matrices = {
                name: here[here["step"] == step].pivot(index="cell", columns="task", values="value").to_numpy()
                for step, name in columns.items()
            }
            seeds, tasks = next(iter(matrices.values())).shape
            tails += [
                f"heavy tail: {algorithm} {setting} {name}: {tail}"
                for name, matrix in matrices.items()
                if matrix.size and (tail := _tail(matrix, judged))
            ]
            rows.append(
                {"algorithm": algorithm, "setting": setting, "norm": norm}
                | {name: plus_minus(interval(matrix)) if matrix.size else "–" for name, matrix in matrices.items()}
                | {
                    "tasks": str(tasks),
                    "seeds": str(seeds),
                    "iterations": f"{iterations:,}",
                    **_tuning(cells, records),
                    **_cost(cells),
                }
            )
    table = pd.DataFrame(rows)
    shared = {name: table[name].iloc[0] for name in SHARED if table[name].nunique() == 1}
    said = ", ".join(f"{name} {value}" for name, value in shared.items() if value != "–")
    table = table.drop(columns=list(shared))
    costs = [name for name in (*COUNTS, *TUNING, *COST) if name in table]
    notes = (*([f"in every row: {said}"] if said else []), *_notes(records), *tails)
    return Table(suite, table.drop(columns=costs), table[costs], notes)


def _tail(scores: NDArray[np.float64], judged: Judgement) -> str:
    """What to say where single tasks make a mean of errors meaningless."""
    if judged.headline.better == "higher" or not heavy_tailed(scores, judged.headline.better):
        return ""
    median = np.median(np.where(np.isnan(scores), np.inf, scores))
    lost = np.count_nonzero(~(scores <= judged.floor))
    return f"median {median:.2f}; {lost:,} of {scores.size:,} scores worse than knowing nothing"


def plus_minus(found: Interval) -> str:
    """The value ± half its interval, with two digits of that and no fewer than two decimals."""
    mean, half = found.value, found.half
    if not math.isfinite(mean):
        return "∞"
    if mean >= 1e6:
        return f"{mean:.1e} ± {half:.1e}"
    decimals = decimals_of(half)
    return f"{mean:.{decimals}f} ± {half:.{decimals}f}"


def _tuning(cells: list[Record], records: list[Record]) -> dict[str, str]:
    """Whose values a row has and what choosing them took; nothing where no row of the table was tuned."""
    if not any(record.tuning for record in records):
        return {}
    tuning = cells[0].tuning
    if tuning is None or tuning.best is None:
        return dict(zip(TUNING, ("default", "–", "–"), strict=True))
    values = "tuned, the default" if tuning.best.default else "tuned"
    return dict(zip(TUNING, (values, str(len(tuning.trials)), f"{tuning.spent:,}"), strict=True))


def decimals_of(half: float) -> int:
    """How many decimals show two digits of half an interval: from 2 to 6."""
    return min(6, max(2, 1 - math.floor(math.log10(half)))) if math.isfinite(half) and half > 0 else 2


def _cost(cells: list[Record]) -> dict[str, str]:
    pace = [r.seconds_per_iteration for r in cells if r.seconds_per_iteration]
    peak = [r.peak_bytes for r in cells if r.peak_bytes]
    selected: dict[str, dict[str, None]] = {}  # name -> the distinct values, in the seeds' order
    for name, value in (pair for r in cells for pair in r.selected.items()):
        selected.setdefault(name, {})[_short(value)] = None
    outcomes = Counter(_outcome(r) for r in cells)
    return {
        "selected": ", ".join(f"{name}={'/'.join(values)}" for name, values in selected.items()) or "–",
        "s/iteration": f"{np.median(pace):.4f}" if pace else "–",
        "train s": f"{sum(r.train_seconds for r in cells):.0f}",
        "compile s": f"{sum(r.compile_seconds for r in cells):.0f}",
        "peak MB": f"{max(peak) / 1e6:.0f}" if peak else "–",
        "outcome": ", ".join(outcomes) if len(outcomes) == 1 else ", ".join(f"{n} {o}" for o, n in outcomes.items()),
    }


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _outcome(record: Record) -> str:
    if record.outcome == "diverged":
        return f"diverged at {record.stopped_at + 1}"
    return record.outcome


def _notes(records: list[Record]) -> tuple[str, ...]:
    judged = records[0].judgement
    several = len({r.spec.seed for r in records if r.outcome == "finished"}) > 1
    over = f"{'seeds and tasks' if several else 'tasks (one seed)'}; {judged.headline.better} is better"
    checkpoints, engines, devices, threads = (
        ", ".join(sorted({str(getattr(r.spec, name)) for r in records}))
        for name in ("selection", "engine", "device", "threads")
    )
    return (
        f"{judged.headline.name} after @k inner steps ± 95 % interval over {over}; knowing nothing: {judged.floor:.3g}",
        f"checkpoint: {checkpoints}; engine: {engines}; device: {devices}, threads: {threads}",
        *(
            f"{r.spec.algorithm.label}, seed {r.spec.seed}, {r.outcome}: {r.message}; see cells/{r.cell}/log.txt"
            for r in records
            if r.outcome != "finished"
        ),
        *([judged.caveat] if judged.caveat else []),
    )
