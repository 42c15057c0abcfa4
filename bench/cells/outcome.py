"""A cell's outcome: its record, what it is told by (digest, curve), what it took and where it ran."""

import contextlib
import gc
import hashlib
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from bench.core.records import Judgement, Outcome, Record
from bench.core.trees import named_leaves, raw
from bench.core.types import Suite
from bench.learning.training import Training
from bench.planning.plan import Cell, judgement_of


class PeakMemory:
    """The peak of resident memory since it was made, in bytes, or None where the system does not tell."""

    def __init__(self) -> None:
        """Frees what can be freed and resets the mark."""
        gc.collect()
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def bytes(self) -> int | None:
        """The high-water mark."""
        with contextlib.suppress(OSError, StopIteration, ValueError):
            lines = Path("/proc/self/status").read_text().splitlines()
            return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
        return None


def record_of(
    cell: Cell,
    outcome: Outcome,
    message: str,
    stopped_at: int,
    peak: PeakMemory,
    state: Training | None = None,
    **more: Any,
) -> Record:
    """The record of a cell that has ended, as it stood in training if it came so far.

    Args:
        cell: which.
        outcome: what became of it.
        message: why, unless it is finished.
        stopped_at: meta-iterations done.
        peak: of memory, since the cell began here.
        state: of training.
        more: other fields of `Record`.
    """
    timing: dict[str, Any] = {}
    if state:
        timing = {
            "seconds_per_iteration": float(np.median(state.pace)) if state.pace else None,
            "train_seconds": state.train_seconds,
            "compile_seconds": state.compile_seconds,
            "pieces": state.pieces,
        }
    return Record(
        cell=cell.id,
        spec=cell.spec,
        judgement=_judgement(cell),
        outcome=outcome,
        message=message,
        stopped_at=stopped_at,
        peak_bytes=peak.bytes(),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=environment(),
        tuning=cell.tuning,
        why_engine=cell.reason,
        why_by_task=cell.why_by_task,
        **timing,
        **more,
    )


def crashed(cell: Cell, message: str) -> Record:
    """The record of a cell whose process ended without one."""
    return record_of(cell, "failed", message, 0, PeakMemory()).model_copy(update={"peak_bytes": None})


def digest(state: Training, scores: pd.DataFrame, curve: pd.DataFrame) -> str:
    """SHA-256 of the final Meta, what is kept beside it, the scores and the curve: equal means the same bits."""
    sha = hashlib.sha256()
    kept = [(f"kept/{name}", value) for name, value in sorted(state.kept.items())]  # a file has no order
    for name, leaf in (*named_leaves(state.meta), *kept):
        sha.update(name.encode() + raw(leaf))
    for table in (scores, curve):
        sha.update(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
    return sha.hexdigest()


def curve_of(state: Training) -> pd.DataFrame:
    """A row per interval; of an interactive suite with the columns of its notes, such as environment_steps."""
    curve = pd.DataFrame(state.curve, columns=["iteration", "loss", "validation"]).astype(
        {"iteration": "int64", "loss": "float64", "validation": "float64"}
    )
    if not state.notes:
        return curve
    notes = pd.DataFrame([{"iteration": i, **columns} for i, columns in state.notes])
    return curve.merge(notes, on="iteration", how="left")


def environment() -> dict[str, str]:
    """Versions and machine."""
    packages = ("numpy", "torch", "pandas")
    return {
        "bench": version("meta-bench"),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "torch_build": torch.__version__,
        "cpu": _cpu(),
        "host": platform.node(),
        "system": platform.platform(),
    }


def _judgement(cell: Cell) -> Judgement:
    """The suite's; of a domain its own, after the inner steps that the suite quotes."""
    suite: Suite = cell.domain or cell.suite
    judged = judgement_of(suite).model_copy(update={"report_steps": cell.suite.report_steps})
    with contextlib.suppress(Exception):  # of somebody's own suite, which may be why the cell failed
        if suite.kind == "regression":
            return judged.model_copy(update={"metrics": (*judged.metrics, *suite.of_distributions)})
    return judged


def _cpu() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.processor()
