"""Trackers: curves and final scores to TensorBoard or MLflow while cells run. They look on; the store stays the record.

Both are extras, `pip install 'meta-bench[tensorboard]'` or `[mlflow]`, and off unless `--track` names them.
"""

import importlib
from collections.abc import Iterator
from typing import Any, Protocol

from bench.core.errors import BenchError
from bench.core.records import Record
from bench.learning.training import Training
from bench.planning.plan import Cell
from bench.storage.store import Store


class Sink(Protocol):
    """Where one cell's numbers go."""

    def number(self, name: str, value: float, step: int) -> None:
        """A number after `step` meta-iterations, or inner steps for final scores."""

    def close(self, outcome: str) -> None:
        """The cell has ended."""


class Tracker:
    """A Watch that sends every new row of a cell's curve, and at its end its scores, to a sink of its own."""

    def __init__(self, store: Store, kind: str) -> None:
        """Finds out at once whether the tracker is installed.

        Raises:
            BenchError: it is not.
        """
        self.store = store
        self.open: type[_TensorBoard] | type[_MLflow] = _MLflow if kind == "mlflow" else _TensorBoard
        self.sinks: dict[str, Sink] = {}
        self.sent: dict[str, int] = {}  # the iteration of the last row that was
        self.open.find()

    def starts(self, cell: Cell, done: int) -> None:
        """Opens the cell's sink; what an interrupted run had sent is not sent again."""
        self.sinks[cell.id], self.sent[cell.id] = self.open(self.store, cell), done

    def trains(self, cell: Cell, state: Training) -> None:
        """Sends the curve's new rows."""
        for iteration, loss, validation in state.curve[-2:]:
            if iteration > self.sent[cell.id]:
                self.sent[cell.id] = iteration
                self.sinks[cell.id].number("train/loss", loss, iteration)
                if validation is not None:
                    self.sinks[cell.id].number("validation/score", validation, iteration)

    def scores(self, cell: Cell) -> None:
        """Nothing: there is no number yet."""

    def ends(self, cell: Cell, record: Record, fresh: bool) -> None:
        """Sends the mean of every metric at every inner step, and what the cell took; nothing for old cells."""
        if not fresh:
            return
        sink = self.sinks.pop(cell.id, None) or self.open(self.store, cell)
        for name, value, step in _final(self.store, record):
            sink.number(name, value, step)
        sink.close(record.outcome)

    def loses(self, cell: Cell, message: str, again: bool) -> None:
        """Closes the sink, unless the cell is sent once more."""
        if not again and (sink := self.sinks.pop(cell.id, None)):
            sink.close("failed")

    def waits(self, cell: Cell, who: str) -> None:
        """Nothing: whoever runs it tells its own."""


class _TensorBoard:
    """Event files under tracking/tensorboard/<cell> of the run directory."""

    def __init__(self, store: Store, cell: Cell) -> None:
        folder = store.root / "tracking" / "tensorboard" / f"{_file_name(cell.label)}-{cell.id}"
        self.writer: Any = self.find().SummaryWriter(str(folder))

    @staticmethod
    def find() -> Any:
        return _imported("torch.utils.tensorboard", "tensorboard")

    def number(self, name: str, value: float, step: int) -> None:
        self.writer.add_scalar(name, value, step)

    def close(self, outcome: str) -> None:
        self.writer.add_text("outcome", outcome)
        self.writer.close()


class _MLflow:
    """A run of the experiment "bench", where MLFLOW_TRACKING_URI says or in MLflow's own default place."""

    def __init__(self, store: Store, cell: Cell) -> None:
        self.client: Any = self.find().MlflowClient()
        experiment = self.client.get_experiment_by_name("bench")
        number = experiment.experiment_id if experiment else self.client.create_experiment("bench")
        tags = {"bench.cell": cell.id, "bench.storage.store": str(store.root)}
        self.run: str = self.client.create_run(number, run_name=cell.label, tags=tags).info.run_id
        about = {"suite": cell.spec.suite.name, "algorithm": cell.spec.algorithm.name, "seed": cell.spec.seed}
        for name, value in (about | cell.spec.algorithm.parameters).items():
            self.client.log_param(self.run, name, value)

    @staticmethod
    def find() -> Any:
        return _imported("mlflow", "mlflow")

    def number(self, name: str, value: float, step: int) -> None:
        self.client.log_metric(self.run, name, value, step=step)

    def close(self, outcome: str) -> None:
        self.client.set_tag(self.run, "bench.outcome", outcome)
        self.client.set_terminated(self.run, "FINISHED" if outcome == "finished" else "FAILED")


def _final(store: Store, record: Record) -> Iterator[tuple[str, float, int]]:
    if record.outcome != "finished":
        return
    scores = store.read_table(record.cell, "scores.parquet")
    for (setting, norm, metric, step), values in scores.groupby(["setting", "norm", "metric", "step"], sort=False):
        where = "".join(c if c.isalnum() or c in "_-. /" else "-" for c in f"test/{setting}/{norm}/{metric}")
        yield where, float(values["value"].mean()), int(str(step))
    yield "cost/train_seconds", record.train_seconds, record.stopped_at
    if record.peak_bytes:
        yield "cost/peak_bytes", float(record.peak_bytes), record.stopped_at


def _imported(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise BenchError(f"--track {extra} needs {extra}. Install it: pip install 'meta-bench[{extra}]'.") from None


def _file_name(label: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in label)
