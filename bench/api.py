"""`bench.run` and `bench.load`: the same cells, stores and numbers as the command, as pandas DataFrames."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from bench.core import seeds as seeds_
from bench.core.discovery import Catalogue, Named
from bench.core.errors import BenchError
from bench.core.records import Record
from bench.core.types import Learner, Meta, Suite
from bench.plan import Cell, Request, algorithm_of, plan, suite_of, view
from bench.runner import Deadline, Watch, run_cell
from bench.store import MARK, Store
from bench.train import Training
from reports.frame import tidy


class Results(pd.DataFrame):
    """A tidy DataFrame, one row per task, inner step and metric, that knows the store it came from."""

    _metadata = ["store"]  # noqa: RUF012  # pandas' own way to carry an attribute along
    store: Store

    @property
    def _constructor(self) -> Callable[..., "Results"]:
        return Results

    def model(self, cell: str, plugins: Sequence[str | Path] = ()) -> nn.Module:
        """The meta-trained module of a cell, before adaptation; plug-in files as for `bench run`.

        Raises:
            BenchError: there is no such cell, or it has no checkpoint.
        """
        record = self.store.record(cell)
        if record is None:
            raise BenchError(f"there is no finished cell {cell!r} in {self.store.root}; see the column 'cell'.")
        catalogue = Catalogue(tuple(map(Path, plugins)))
        suite, algorithm = components(record, catalogue)
        seen = view(suite, algorithm.train_view, record.spec.algorithm.name, catalogue)
        return trained_module(seen, algorithm, self.store, record)


def run(
    suite: str,
    algos: str | Sequence[str],
    *,
    out: str | Path | None = None,
    seeds: int | Sequence[int] = 1,
    time_limit: float | None = None,
    plugins: Sequence[str | Path] = (),
    **options: Any,
) -> Results:
    """What `bench run` reaches, as a tidy DataFrame; finished cells come from the store.

    Args:
        suite: as on the command line, such as "omniglot[ways=20]".
        algos: names, with parameters in brackets.
        out: the run directory; `runs/<suite>` by default.
        seeds: how many, or which.
        time_limit: seconds after which it stops, to be resumed by the same call.
        plugins: plug-in files.
        options: preset, iterations, selection, validate_every, engine, device, threads, chunk_tasks.

    Raises:
        BenchError: as the command, which prints its message.
    """
    text = algos if isinstance(algos, str) else ",".join(algos)
    request = Request(
        suites=suite,
        algos=text,
        seeds=tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds),
        plugins=tuple(map(Path, plugins)),
        **options,
    )
    root = Path(out) if out else default_out(suite)
    cells = plan(request, Store.open(root).specs() if (root / MARK).exists() else ())
    store = Store.create(root)
    records = run_cells(cells, store, Silent(), time_limit, request.plugins)
    return results(store, records)


def load(path: str | Path) -> Results:
    """All finished cells of a run directory as a tidy DataFrame; `.model(cell)` gives the meta-trained module."""
    store = Store.open(Path(path))
    return results(store, list(store.records()))


def run_cells(
    cells: list[Cell], store: Store, watch: Watch, time_limit: float | None, plugins: tuple[Path, ...]
) -> list[Record]:
    """The records of the cells that ended before the time limit."""
    for cell in {repr(cell.suite): cell for cell in cells if store.record(cell.id) is None}.values():
        cell.suite.check()  # missing data shows before anything is trained
    deadline = Deadline(time.monotonic() + time_limit if time_limit else None)
    found = (run_cell(cell, store, watch, deadline, Catalogue(plugins)) for cell in cells)
    return [record for record in found if record]


def results(store: Store, records: list[Record]) -> Results:
    """The records' scores as one tidy DataFrame."""
    done = [record for record in records if record.outcome == "finished"]
    frame = Results(tidy((record, store.read_table(record.cell, "scores.parquet")) for record in done))
    frame.store = store
    return frame


def components(record: Record, catalogue: Catalogue) -> tuple[Suite, Learner]:
    """The suite and the algorithm that a record is of."""
    spec = record.spec
    suite = suite_of(
        catalogue, Named(spec.suite.name, {k: v for k, v in spec.suite.parameters.items() if v is not None})
    )
    named = Named(spec.algorithm.name, {k: v for k, v in spec.algorithm.parameters.items() if v is not None})
    return suite, algorithm_of(catalogue, named, suite)


def trained_meta(suite: Suite, algorithm: Learner, store: Store, record: Record) -> Meta:
    """All that was meta-learned, as selected."""
    like = algorithm.init(suite.new_params, seeds_.generator(record.spec.seed, "init"))
    if not algorithm.trains:
        return like
    path = store.folder(record.cell) / "checkpoint.safetensors"
    state = Training.load(path.read_bytes(), like)
    return state.best if record.spec.selection == "best" and state.best is not None else state.meta


def trained_module(suite: Any, algorithm: Any, store: Store, record: Record) -> nn.Module:
    """The suite's module with the parameters that the selected Meta starts from."""
    meta = trained_meta(suite, algorithm, store, record)
    params = algorithm.params(meta, algorithm.start(meta, algorithm.noise(meta, 1, seeds_.generator(0))))
    module: nn.Module = suite.module()
    module.load_state_dict(params, strict=False)
    return module


def default_out(suites: str) -> Path:
    """runs/<suites>, without brackets and commas."""
    name = "".join(c if c.isalnum() or c in "_-" else "-" for c in suites.replace(" ", ""))
    return Path("runs") / name.strip("-")


class Silent:
    """A Watch that says nothing."""

    def starts(self, cell: Cell, done: int) -> None:
        """Nothing."""

    def trains(self, cell: Cell, state: Training) -> None:
        """Nothing."""

    def scores(self, cell: Cell) -> None:
        """Nothing."""

    def ends(self, cell: Cell, record: Record, fresh: bool) -> None:
        """Nothing."""
