"""Tables of numbers: those that scikit-learn ships, and a CSV of somebody's own with a column that names the task.

Letters: R rows, F columns.
"""

import hashlib
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.core.errors import DataError, MissingExtraError
from bench.core.types import Split

SHIPPED: dict[str, Split] = {  # whole tables, so that what is tested was never seen
    "digits": "train",
    "breast_cancer": "train",
    "wine": "validation",
    "iris": "test",
    "diabetes": "test",
}
MOST = 2**30  # bytes of a CSV
SHOWN = 3  # of many, in a message


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of one kind: columns have mean 0 and variance 1; what is not there is 0."""

    name: str
    split: Split
    columns: NDArray[np.float64]  # [R, F]
    there: NDArray[np.bool_]  # [F], which columns differ from row to row at all
    target: NDArray[np.float64] | None  # [R], mean 0 and variance 1; None where no column is meant
    labels: NDArray[np.int64] | None  # [R]; None where the target is no class


def standard(columns: NDArray[Any]) -> NDArray[np.float64]:
    """Each column less its mean over its deviation; 0 where there is no number, and of a column that never differs."""
    values = np.asarray(columns, dtype=np.float64)
    known = np.isfinite(values)
    count = np.maximum(known.sum(0), 1)
    values = np.where(known, values, 0.0)
    values = np.where(known, values - values.sum(0) / count, 0.0)
    deviation = np.sqrt((values**2).sum(0) / count)
    return np.where(deviation > 1e-12, values / np.maximum(deviation, 1e-12), 0.0)


@cache
def shipped() -> tuple[Table, ...]:
    """Iris, wine, breast cancer and digits with their classes, diabetes with its target.

    Raises:
        MissingExtraError: scikit-learn is missing.
    """
    try:
        from sklearn import datasets  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise MissingExtraError("scikit-learn", "tabular") from None
    found = []
    for name, split in SHIPPED.items():
        columns, target = getattr(datasets, f"load_{name}")(return_X_y=True)
        columns = standard(columns)
        classes = name != "diabetes"
        goal = None if classes else standard(target[:, None])[:, 0]
        labels = target.astype(np.int64) if classes else None
        found.append(Table(name, split, columns, _differing(columns), goal, labels))
    return tuple(found)


def read(path: Path, task: str, target: str, classes: bool, shares: tuple[float, float]) -> tuple[list[Table], str]:
    """The tasks of a CSV, in order of their names, and the SHA-256 of the file.

    A split is a task's by the hash of its name; `shares` are those of validation and test.

    Raises:
        DataError: there is no such file, no such column, or something is no number.
    """
    import pandas as pd

    if not path.is_file() or path.stat().st_size > MOST:
        what = "is larger than 1 GiB" if path.is_file() else "is no file"
        raise DataError(f"{path} {what}. Give a CSV with a header, a row for each example, and a column {task!r}.")
    content = path.read_bytes()
    try:
        # Of its bytes: by its name, pandas would unpack a zip, whose size nobody has looked at.
        frame = pd.read_csv(io.BytesIO(content), encoding="utf-8-sig", skipinitialspace=True)
    except (ValueError, OSError) as error:  # pandas' own and those of the encoding are ValueErrors
        raise DataError(f"{path} is no CSV in UTF-8 ({' '.join(str(error).split())[:100]}). Save it as one.") from None
    if not isinstance(frame.index, pd.RangeIndex):  # pandas takes the first of too many values for the row's name
        raise DataError(f"{path} is no CSV: a row has more values than the header has names. Name every column.")
    for column in (task, target):
        if column not in frame:
            first = ",".join(map(str, frame.columns))[:80]
            raise DataError(
                f"{path} has no column {column!r}; its first line is {first!r}. Write a header above the rows, or "
                f"say which it is: tabular[data={path.name},task=COLUMN,target=COLUMN]."
            )
    frame = frame.dropna(subset=[task, target])
    if frame.empty:
        raise DataError(f"{path} has no row with a {task!r} and a {target!r}. Write rows below the header.")
    if len(frame.columns) < 3:
        raise DataError(f"{path} has no column of features beside {task!r} and {target!r}. Write some.")
    features = frame.drop(columns=[task, target])
    for column in [*features, *(() if classes else (target,))]:
        numbers = pd.to_numeric(frame[column], errors="coerce")
        if (wrong := frame[column][~np.isfinite(numbers) & frame[column].notna()]).size:
            raise DataError(
                f"the column {column!r} of {path} holds {str(wrong.iloc[0])[:40]!r}, which is no number. Leave the "
                "column out, or write numbers in it."
            )
        frame[column] = numbers
    names = sorted({str(name) for name in frame[task]})
    splits = _splits(names, shares)
    tables = []
    for name, rows in frame.groupby(frame[task].astype(str)):
        columns = standard(rows.drop(columns=[task, target]).to_numpy())
        goal = None if classes else standard(rows[[target]].to_numpy())[:, 0]
        labels = pd.factorize(rows[target].astype(str), sort=True)[0].astype(np.int64) if classes else None
        tables.append(Table(str(name), splits[str(name)], columns, _differing(columns), goal, labels))
    return tables, hashlib.sha256(content).hexdigest()


def _differing(columns: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.array([bool(column.any()) for column in columns.T], dtype=np.bool_)


def _splits(names: list[str], shares: tuple[float, float]) -> dict[str, Split]:
    ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest())
    validation, test = (max(1, round(share * len(names))) for share in shares)
    return {
        name: "test" if place < test else "validation" if place < test + validation else "train"
        for place, name in enumerate(ranked)
    }
