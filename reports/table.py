"""The printed comparison: score with its 95 % interval at the report steps, beside what it cost.

Letters: S seeds, T tasks.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.core.records import Record
from reports.frame import label

REPLICATES = 2_000
SCORES = ["algorithm", "setting", "norm"]
COUNTS = ["tasks", "seeds", "iterations", "selected"]
COST = ["s/iteration", "train s", "compile s", "peak MB", "outcome"]


@dataclass(frozen=True)
class Table:
    """One suite's comparison: text cells, and what must be said with them."""

    title: str
    rows: pd.DataFrame
    notes: tuple[str, ...]


def interval(scores: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and half width of the 95 % interval of scores [S, T].

    Over tasks, 1.96 sd / sqrt(T) as published, where there is one seed; else from a crossed bootstrap, whose every
    replicate draws seeds and, once for all of them, tasks: every seed met the same tasks.
    """
    seeds, tasks = scores.shape
    if seeds == 1:
        return float(scores.mean()), float(1.96 * scores.std() / np.sqrt(tasks))
    rng = np.random.default_rng(0)
    seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), REPLICATES) / seeds
    task_weights = rng.multinomial(tasks, np.full(tasks, 1 / tasks), REPLICATES) / tasks
    means = np.einsum("rs,st,rt->r", seed_weights, scores, task_weights, optimize=True)
    return float(scores.mean()), float(1.96 * means.std())


def tables(frame: pd.DataFrame, records: list[Record]) -> list[Table]:
    """One table per suite of the records, in the records' order; `frame` is what reports.frame.tidy made of them."""
    suites = dict.fromkeys(label(record.spec.suite) for record in records)
    return [_table(name, frame, [r for r in records if label(r.spec.suite) == name]) for name in suites]


def _table(suite: str, frame: pd.DataFrame, records: list[Record]) -> Table:
    judged = records[0].judgement
    columns = {
        step: f"{judged.metric}{f' {judged.unit}' if judged.unit else ''} @{step}" for step in judged.report_steps
    }
    scores = frame[(frame["suite"] == suite) & (frame["metric"] == judged.metric)]
    rows = []
    groups: dict[tuple[str, int, str, str], list[Record]] = {}
    for record in records:
        key = (label(record.spec.algorithm), record.spec.iterations, record.spec.engine, record.spec.selection)
        groups.setdefault(key, []).append(record)
    for (algorithm, iterations, _, _), cells in groups.items():
        own = scores[scores["cell"].isin([r.cell for r in cells])]
        cost = _cost(cells)
        settings = list(dict.fromkeys(zip(own["setting"], own["norm"], strict=True))) or [("", "")]
        for setting, norm in settings:
            here = own[(own["setting"] == setting) & (own["norm"] == norm)]
            row = {"algorithm": algorithm, "setting": setting, "norm": norm}
            counts = (0, 0)
            for step, name in columns.items():
                matrix = here[here["step"] == step].pivot(index="cell", columns="task", values="value").to_numpy()
                counts = matrix.shape
                row[name] = "{:.2f} ± {:.2f}".format(*interval(matrix)) if matrix.size else "–"
            row |= {"tasks": str(counts[1]), "seeds": str(counts[0]), "iterations": f"{iterations:,}", **cost}
            rows.append(row)
    order = [*SCORES, *columns.values(), *COUNTS, *COST]
    return Table(suite, pd.DataFrame(rows)[order], _notes(records))


def _cost(cells: list[Record]) -> dict[str, str]:
    pace = [r.seconds_per_iteration for r in cells if r.seconds_per_iteration]
    peak = [r.peak_bytes for r in cells if r.peak_bytes]
    outcomes = dict.fromkeys(_outcome(r) for r in cells)
    selected = dict.fromkeys(
        ", ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in r.selected.items()) for r in cells
    )
    return {
        "selected": "; ".join(filter(None, selected)) or "–",
        "s/iteration": f"{np.median(pace):.4f}" if pace else "–",
        "train s": f"{sum(r.train_seconds for r in cells):.0f}",
        "compile s": f"{sum(r.compile_seconds for r in cells):.0f}",
        "peak MB": f"{max(peak) / 1e6:.0f}" if peak else "–",
        "outcome": "; ".join(outcomes),
    }


def _outcome(record: Record) -> str:
    if record.outcome == "diverged":
        return f"diverged at {record.stopped_at + 1}"
    return record.outcome


def _notes(records: list[Record]) -> tuple[str, ...]:
    judged = records[0].judgement
    seeds = {r.spec.seed for r in records}
    over = "tasks (one seed)" if len(seeds) == 1 else "seeds and tasks"
    best = "lower is better" if judged.better == "lower" else "higher is better"
    selection = ", ".join(sorted({r.spec.selection for r in records}))
    engines = ", ".join(sorted({r.spec.engine for r in records}))
    threads = ", ".join(sorted({str(r.spec.threads) for r in records}))
    notes = [
        f"{judged.metric} after @k inner steps ± 95 % interval over {over}; {best}; knowing nothing: {judged.floor:.3g}",
        f"checkpoint: {selection}; engine: {engines}; device: {records[0].spec.device}, {threads} threads",
    ]
    notes += [f"{label(r.spec.algorithm)}, seed {r.spec.seed}: {r.outcome}: {r.message}" for r in records if r.message]
    return (*notes, *([judged.caveat] if judged.caveat else []))
