"""Where cells run: in this process, in local processes, or on a Dask cluster.

The store is the truth: only cells without a record are sent, and one is done when its record is in the store. Wherever
it goes, a cell is a job (`bench.places.jobs`), a process of its own, so that none can take another along. One that is
lost, by a crash, a killed worker, a full disk or a broken connection, is sent again a stated number of times and goes
on from its checkpoint; what became of it is told to the watch. Many may run the same cells in the same store: each
takes what nobody holds, and waits for the rest.
"""

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from bench.cells.cell import Deadline, run_cell
from bench.cells.outcome import crashed
from bench.cells.watch import Watch
from bench.core.discovery import Catalogue
from bench.core.errors import BenchError, HeldError, StoreError
from bench.core.interrupts import deferred
from bench.core.records import Record, Spec
from bench.learning.engines.vectorised import keep_memory
from bench.learning.training import Training
from bench.places.execution import Execution, Place
from bench.places.jobs import Emit, Ending, Event, Job, Messages
from bench.planning.plan import Cell, planned
from bench.storage.hold import Hold
from bench.storage.store import MARK, Store

WORK = "bench.cells.begin:begin"  # what a cell's job calls
HERE = Execution()
TELL = 0.5  # seconds between two words of a cell in training
LOOK = 0.2  # seconds between two looks at the clock
AGAIN = 1.0  # seconds between two looks at what somebody else runs
log = logging.getLogger("bench")


def run_cells(
    cells: list[Cell],
    store: Store,
    watch: Watch,
    time_limit: float | None,
    plugins: tuple[Path, ...],
    execution: Execution = HERE,
) -> list[Record]:
    """The records of the cells that ended before the time limit, in the cells' order.

    Args:
        cells: what to run; what is finished comes from the store.
        store: where to.
        watch: looks on.
        time_limit: seconds after which it stops, to be resumed by the same call.
        plugins: plug-in files that define some of the suites and algorithms.
        execution: where and how.

    Raises:
        BenchError: data are missing, the place is gone, or the store is somebody else's.
    """
    where = execution.place(store.root)
    open_ = [cell for cell in cells if store.record(cell.id) is None]
    wanted = {repr(suite): (suite, cell) for cell in open_ for suite in (cell.suite, cell.domain) if suite}
    for suite, cell in wanted.values():
        try:
            suite.check(cell.spec.split)  # missing data shows before anything is trained
        except (BenchError, KeyboardInterrupt):
            raise
        except BaseException as error:  # the cell itself will tell of a plug-in's mistake
            log.debug("the check of %s failed: %s", cell.label, error)
    deadline = Deadline(time.monotonic() + time_limit if time_limit else None)
    records: list[Record] = []
    at_home, elsewhere = ([cell for cell in cells if bool(cell.domain) == there] for there in (False, True))
    for some in (at_home, elsewhere) if at_home and elsewhere else (cells,):  # the latter go on from the former
        if where:
            records += run_elsewhere(some, store, watch, deadline, plugins, where, execution.retries)
        else:
            records += run_here(some, store, watch, deadline, Catalogue(plugins))
    return with_tuning(cells, records, store)


def run_here(cells: list[Cell], store: Store, watch: Watch, deadline: Deadline, catalogue: Catalogue) -> list[Record]:
    """The records of the cells that ended before the deadline, in order; those that others run come last.

    Raises:
        BenchError: data are missing, or the store is broken.
    """
    failures = {cell.id: store.failure(cell.id) for cell in cells}
    records: dict[str, Record] = {}
    left, waits = cells, _Waits(store, watch, failures)
    while left:
        for cell in left:
            try:
                record = run_cell(cell, store, watch, deadline, catalogue, failures[cell.id])
            except HeldError:
                waits.add(cell)
                continue
            if record:
                records[cell.id] = record
        while not (left := waits.over()) and waits.cells and not deadline.passed():
            waits.say()
            time.sleep(AGAIN)
    return [records[cell.id] for cell in cells if cell.id in records]


class _Waits:
    """Cells that somebody else runs."""

    def __init__(self, store: Store, watch: Watch, failures: dict[str, str]) -> None:
        self.store, self.watch, self.failures = store, watch, failures
        self.cells: dict[str, Cell] = {}
        self.holds: dict[str, Hold] = {}  # each is kept: it knows since when no heartbeat came
        self.said: set[str] = set()
        self.looked = -math.inf

    def add(self, cell: Cell) -> None:
        self.cells[cell.id] = cell
        self.holds.setdefault(cell.id, self.store.claim(cell.id))

    def over(self) -> list[Cell]:
        """Those that have ended or are free; whoever wants one takes it anew."""
        if time.monotonic() - self.looked < AGAIN:
            return []
        self.looked = time.monotonic()
        return [self.cells.pop(key) for key in list(self.cells) if self._over(key)]

    def _over(self, key: str) -> bool:
        if self.store.ended(key, self.failures[key]):
            return True
        if taken := self.holds[key].take():
            self.holds[key].release()
        return taken

    def say(self) -> None:
        """Tells the watch, once of each."""
        for key in [key for key in self.cells if key not in self.said]:
            self.said.add(key)
            self.watch.waits(self.cells[key], self.holds[key].holder())


def with_tuning(cells: list[Cell], records: list[Record], store: Store) -> list[Record]:
    """The records with the sweeps that chose their values: also of cells that had them before any sweep."""
    tunings = {cell.id: cell.tuning for cell in cells if cell.tuning}
    found = []
    for record in records:
        tuning = tunings.get(record.cell, record.tuning)
        if tuning != record.tuning:
            record = record.model_copy(update={"tuning": tuning})
            with contextlib.suppress(HeldError), store.hold(record.cell):  # whoever has it at this moment says the same
                if (there := store.record(record.cell)) and there.outcome == record.outcome:
                    store.write(record.cell, "record.json", record.model_dump_json(indent=1).encode())
        found.append(record)
    return found


def run_elsewhere(
    cells: list[Cell],
    store: Store,
    watch: Watch,
    deadline: Deadline,
    plugins: tuple[Path, ...],
    where: Callable[[Messages], Place],
    retries: int,
) -> list[Record]:
    """The records of the cells that ended before the deadline, in the cells' order.

    Raises:
        KeyboardInterrupt: after every running cell has saved where it was.
        BenchError: the place is gone.
    """
    messages: Messages = SimpleQueue()
    run = _Dispatch(cells, store, watch, plugins, retries)
    try:
        with where(messages) as elsewhere, deferred() as interrupted:  # no message is taken and then forgotten
            try:
                run.begin(elsewhere, interrupted)
                run.listen(messages, elsewhere, deadline, interrupted)
            except KeyboardInterrupt:
                run.stopping = run.interrupted = True
                elsewhere.stop(at_once=True)
                run.listen(messages, elsewhere, Deadline(), lambda: None)
                raise
    finally:
        run.release()
    return [run.records[cell.id] for cell in cells if cell.id in run.records]


class _Dispatch:
    """Cells that are sent away, until each has its record or is given up."""

    def __init__(self, cells: list[Cell], store: Store, watch: Watch, plugins: tuple[Path, ...], retries: int) -> None:
        self.store, self.watch, self.retries = store, watch, retries
        self.stopping = self.interrupted = False
        self.records: dict[str, Record] = {}
        self.open: dict[str, Cell] = {}
        self.failures = {cell.id: store.failure(cell.id) for cell in cells}
        for cell in cells:
            if record := store.ended(cell.id, self.failures[cell.id]):
                self.records[cell.id] = record
                watch.ends(cell, record, False)
            else:
                self.open[cell.id] = cell
        memory = _memory(store)
        self.jobs = {
            cell.id: _job(cell, store, plugins, self.failures[cell.id], memory.get(cell.spec.work))
            for cell in self.open.values()
        }
        self.losses = dict.fromkeys(self.jobs, 0)
        self.crashes: dict[str, str] = {}  # what is to be recorded of cells that were lost for good
        self.began: set[str] = set()
        self.waits = _Waits(store, watch, self.failures)
        self.holds: dict[str, Hold] = {}  # for jobs that do not see the store, and so cannot hold their cells

    def begin(self, place: Place, interrupted: Callable[[], None]) -> None:
        for cell in list(self.open.values()):
            interrupted()
            self._start(cell, place)

    def release(self) -> None:
        for hold in self.holds.values():
            hold.release()

    def listen(self, messages: Messages, place: Place, deadline: Deadline, interrupted: Callable[[], None]) -> None:
        while self.open:
            interrupted()
            if deadline.passed() and not self.stopping:
                self.stopping = True
                place.stop(at_once=False)
            self._look_after(place)
            with contextlib.suppress(Empty):
                key, message = messages.get(timeout=LOOK)
                if isinstance(message, Ending):
                    self._ended(self.open[key], message, place)
                elif key in self.open:
                    _pass_on(self.watch, self.open[key], message)
                    self.began.update({key} if message["event"] == "starts" else ())

    def _start(self, cell: Cell, place: Place) -> None:
        if not place.shared and cell.id not in self.holds:
            hold = self.store.claim(cell.id)
            if not hold.take():
                self.waits.add(cell)
                return
            self.holds[cell.id] = hold
        place.start(self.jobs[cell.id])

    def _look_after(self, place: Place) -> None:
        """Takes up again what somebody else had."""
        if self.stopping:
            for key in self.waits.cells:
                del self.open[key]
            self.waits.cells.clear()
        for cell in self.waits.over():
            if record := self.store.ended(cell.id, self.failures[cell.id]):
                self._close(cell, record)
            elif cell.id in self.crashes:
                self._fail(cell)
            else:
                self._start(cell, place)
        if len(self.waits.cells) == len(self.open):
            self.waits.say()

    def _ended(self, cell: Cell, ending: Ending, place: Place) -> None:
        if not self.store.ended(cell.id, self.failures[cell.id]):
            self._bring(cell, ending)
        if record := self.store.ended(cell.id, self.failures[cell.id]):
            self._close(cell, record)  # it is there, whatever became of the process since
            return
        if ending.how == "held" and not self.stopping:
            self.waits.add(cell)
            return
        if ending.how == "done":
            ending = Ending("crashed", "it said that it was done and left no record")
        if self.interrupted or (ending.how in ("stopped", "held") and self.stopping):
            self._close(cell, None)
            return
        self.losses[cell.id] += 1
        again = self.losses[cell.id] <= self.retries and not self.stopping
        what = ending.message or "it was cancelled"
        self.watch.loses(cell, what, again)
        self._note(cell, what, ending.trace)
        if again:
            place.start(self.jobs[cell.id])
        elif ending.how == "crashed":
            times = f", {self.losses[cell.id]} times" if self.losses[cell.id] > 1 else ""
            self.crashes[cell.id] = f"{what}{times}"
            self._fail(cell)
        else:
            self._close(cell, None)

    def _bring(self, cell: Cell, ending: Ending) -> None:
        """Writes what was made where the store is not seen, the record last."""
        for name, content in ending.files.items():
            if name != "record.json":
                self.store.write(cell.id, name, content)
        if record := ending.files.get("record.json"):
            self.store.conclude(Record.model_validate_json(record))

    def _close(self, cell: Cell, record: Record | None, fresh: bool = False) -> None:
        del self.open[cell.id]
        if hold := self.holds.pop(cell.id, None):
            hold.release()
        if record:
            self.records[cell.id] = record
            self.watch.ends(cell, record, fresh or cell.id in self.began)

    def _fail(self, cell: Cell) -> None:
        """Records a crash; waits where somebody else has the cell by now, or its host has died with it."""
        record = crashed(cell, self.crashes[cell.id])
        try:
            with contextlib.nullcontext() if cell.id in self.holds else self.store.hold(cell.id):
                self.store.write(cell.id, "spec.json", cell.spec.model_dump_json(indent=1).encode())
                standing = self.store.conclude(record)
            self._close(cell, standing, fresh=standing is record)
        except HeldError:
            self.waits.add(cell)
        except StoreError as error:
            self.watch.loses(cell, str(error), False)
            self._close(cell, None)

    def _note(self, cell: Cell, what: str, trace: str) -> None:
        """Adds to the cell's log what it could not write itself."""
        with contextlib.suppress(OSError):
            path = self.store.folder(cell.id) / "log.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write("\n".join(filter(None, (f"{_now()} LOST {what}", trace.rstrip()))) + "\n")


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _memory(store: Store) -> dict[str, int]:
    """The most memory that equal work has taken, as far as the store knows."""
    peaks: dict[str, int] = {}
    with contextlib.suppress(StoreError):  # a broken record of another cell is no concern of this run
        for record in store.records():
            peaks[record.spec.work] = max(peaks.get(record.spec.work, 0), record.peak_bytes or 0)
    return peaks


def _job(cell: Cell, store: Store, plugins: tuple[Path, ...], failure: str, memory: int | None) -> Job:
    needs: dict[str, float] = {
        "CORES": cell.spec.threads,
        "GPU": float(cell.spec.device != "cpu"),
        "MEMORY": memory or 0,
    }
    return Job(
        cell.id,
        WORK,
        {
            "cell": cell.id,
            "store": str(store.root.absolute()),
            "mark": (store.root / MARK).read_text(),
            "failure": failure,
            "spec": cell.spec.model_dump(mode="json"),
            "about": {name: getattr(cell, name) for name in ("label", "reason", "why_by_task", "goes_on_from")},
            "plugins": [str(path.absolute()) for path in plugins],
            "data_dir": os.environ.get("BENCH_DATA_DIR"),
        },
        {name: amount for name, amount in needs.items() if amount},
        cell.spec.device,
    )


def _pass_on(watch: Watch, cell: Cell, event: Event) -> None:
    if event["event"] == "starts":
        watch.starts(cell, event["done"])
    elif event["event"] == "scores":
        watch.scores(cell)
    elif event["event"] == "trains":
        state = Training(None, [], iteration=event["iteration"], losses=[event["loss"]])
        state.curve = [(event["iteration"], event["loss"], event["validation"])]
        watch.trains(cell, state)


def work(arguments: dict[str, Any], emit: Emit, stop: Any) -> bool:
    """Runs a cell, in its job's process, which it changes and which ends with it; whether it has a record now."""
    if arguments["data_dir"]:
        os.environ.setdefault("BENCH_DATA_DIR", arguments["data_dir"])
    catalogue = Catalogue(tuple(map(Path, arguments["plugins"])))
    spec = Spec.model_validate(arguments["spec"])
    cell = planned(spec, catalogue, **arguments["about"])
    keep_memory()
    store = Store.open(Path(arguments["store"]))
    return run_cell(cell, store, _Telling(emit), _Told(stop), catalogue, arguments["failure"]) is not None


class _Told(Deadline):
    def __init__(self, stop: Any) -> None:
        self.stop = stop

    def passed(self) -> bool:
        told: bool = self.stop.is_set()
        return told


class _Telling:
    """A Watch that tells the one who started the job."""

    def __init__(self, emit: Emit) -> None:
        self.emit, self.told = emit, 0.0

    def starts(self, cell: Cell, done: int) -> None:
        self.emit({"event": "starts", "done": done})

    def trains(self, cell: Cell, state: Training) -> None:
        now = time.monotonic()
        if now - self.told < TELL or not (state.losses or state.curve):
            return
        self.told = now
        validated = [row[2] for row in state.curve if row[2] is not None]
        loss = sum(state.losses) / len(state.losses) if state.losses else state.curve[-1][1]
        event = {"event": "trains", "iteration": state.iteration, "loss": loss}
        self.emit(event | {"validation": validated[-1] if validated else None})

    def scores(self, cell: Cell) -> None:
        self.emit({"event": "scores"})

    def ends(self, cell: Cell, record: Record, fresh: bool) -> None:
        """The record says it."""

    def loses(self, cell: Cell, message: str, again: bool) -> None:
        """Never: it would be lost itself."""

    def waits(self, cell: Cell, who: str) -> None:
        """Never: whoever started the job waits."""
