"""Records -> one tidy DataFrame: a row per suite, setting, algorithm, seed, task, inner step and metric."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from bench.core.records import Component, Record

COLUMNS = [
    *("suite", "setting", "norm", "algorithm", "seed", "task", "step", "metric", "value"),
    *("iterations", "selection", "engine", "cell"),
]


def tidy(results: Iterable[tuple[Record, pd.DataFrame]]) -> pd.DataFrame:
    """Every task's score at every inner step of all finished cells, with the columns of `COLUMNS`."""
    parts = []
    for record, scores in results:
        spec = record.spec
        parts.append(
            scores.assign(
                suite=label(spec.suite),
                algorithm=label(spec.algorithm),
                seed=spec.seed,
                iterations=spec.iterations,
                selection=spec.selection,
                engine=spec.engine,
                cell=record.cell,
            )
        )
    return pd.concat(parts, ignore_index=True)[COLUMNS] if parts else pd.DataFrame(columns=COLUMNS)


def progress(results: Iterable[tuple[Record, pd.DataFrame]]) -> pd.DataFrame:
    """Validation scores of cells against their seconds of training: suite, algorithm, seed, seconds, score, metric."""
    parts = []
    for record, curve in results:
        rows = curve.dropna(subset="validation")
        seconds = record.compile_seconds + rows["iteration"] * (record.train_seconds / max(record.stopped_at, 1))
        parts.append(
            pd.DataFrame(
                {
                    "suite": label(record.spec.suite),
                    "algorithm": label(record.spec.algorithm),
                    "seed": record.spec.seed,
                    "seconds": seconds,
                    "score": rows["validation"],
                    "metric": f"{record.judgement.metric}, {record.judgement.unit},",
                }
            )
        )
    columns = ["suite", "algorithm", "seed", "seconds", "score", "metric"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def told_apart(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with as much added to an algorithm's label as it takes to be that of one cell per seed."""
    for column in ("iterations", "selection", "engine", "cell"):  # in a store that has grown, several may differ
        several = frame.groupby(["suite", "algorithm", "seed"])[column].transform("nunique") > 1
        longer = frame["algorithm"] + f", {column} " + frame[column].astype(str)
        frame = frame.assign(algorithm=frame["algorithm"].where(~several, longer))
    return frame


def label(component: Component) -> str:
    """name[parameter=value,...] with the parameters that were set."""
    given: dict[str, Any] = component.given
    inside = ",".join(f"{key}={value}" for key, value in given.items())
    return f"{component.name}[{inside}]" if inside else component.name
