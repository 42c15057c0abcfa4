"""One cell, from its specification to its record: checkpoints, resuming, and every outcome recorded."""

import contextlib
import logging
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench.cells.outcome import PeakMemory, curve_of, digest, record_of
from bench.cells.watch import Watch
from bench.core.discovery import Catalogue
from bench.core.errors import BenchError, StoreError, told
from bench.core.records import Record
from bench.core.threads import threads
from bench.learning.train import Diverged
from bench.learning.training import Training
from bench.planning.plan import Cell
from bench.protocols.episodic import Episodic
from bench.storage.store import Store

SAVE_EVERY = 30.0  # seconds between checkpoints, unless BENCH_SAVE_EVERY says otherwise
log = logging.getLogger("bench")


@dataclass
class Deadline:
    """The moment at which a run stops by itself."""

    at: float | None = None

    def passed(self) -> bool:
        """Whether it is over."""
        return self.at is not None and time.monotonic() >= self.at


def run_cell(cell: Cell, store: Store, watch: Watch, deadline: Deadline, catalogue: Catalogue) -> Record | None:
    """The cell's record, from the store or by running it; None if the deadline came first (the checkpoint is kept)."""
    record = store.record(cell.id)
    if record and record.outcome != "failed":
        watch.ends(cell, record, False)
        return record
    if deadline.passed():
        return None
    with store.hold(cell.id):
        store.write(cell.id, "spec.json", cell.spec.model_dump_json(indent=1).encode())
        with _logging_to(store, cell), threads(cell.spec.threads):
            log.info("engine %s: %s", cell.spec.engine, cell.reason)
            if cell.why_by_task:
                log.info("one task after the other: %s", cell.why_by_task)
            peak = PeakMemory()
            try:
                outcome = _Life(cell, store, watch, deadline).record(peak)
            except (BenchError, KeyboardInterrupt):
                raise
            except (Exception, SystemExit) as error:  # a plug-in's mistake must not take the other cells along
                log.error("%s", traceback.format_exc())
                outcome = record_of(cell, "failed", f"{type(error).__name__}: {_first_line(error)}", 0, peak)
        if outcome:
            store.write(cell.id, "record.json", outcome.model_dump_json(indent=1).encode())
            watch.ends(cell, outcome, True)
        return outcome


class _Life:
    """From where the cell stands in the store to its record."""

    def __init__(self, cell: Cell, store: Store, watch: Watch, deadline: Deadline) -> None:
        self.cell, self.store, self.watch, self.deadline = cell, store, watch, deadline
        self.spec = cell.spec
        self.protocol = Episodic(cell.spec, cell.suite, cell.algorithm)

    def record(self, peak: "PeakMemory") -> Record | None:
        state = self._state()
        self.watch.starts(self.cell, state.iteration)
        try:
            if not self._train(state):
                return None
        except Diverged as error:
            log.warning("%s", error)
            return record_of(self.cell, "diverged", str(error), state.iteration, peak, state)
        self.watch.scores(self.cell)
        began = time.perf_counter()
        scores, selected = self.protocol.score(state)
        curve = curve_of(state)
        tables = {"scores.parquet": scores, "curve.parquet": curve}
        files = {name: self.store.write_table(self.cell.id, name, table) for name, table in tables.items()}
        return record_of(
            self.cell,
            "finished",
            "",
            state.iteration,
            peak,
            state,
            digest=digest(state, scores, curve),
            files=files,
            cautions=self._cautions(state),
            selected=selected,
            evaluate_seconds=time.perf_counter() - began,
            chunk_tasks=self.protocol.chunk,
            environment_steps=int(state.counts["environment_steps"]) if state.counts else None,
        )

    def _cautions(self, state: Training) -> dict[str, str]:
        try:
            return self.protocol.doubts(state)
        except Exception as error:  # of somebody's own code, after all that counts is done
            log.warning("nobody knows whether it trained: %s", told(error))
            return {}

    def _state(self) -> Training:
        found = self._checkpoint()
        if found is None:
            return self.protocol.begin(None)
        path, content = found
        try:
            state = self.protocol.begin(content)
        except Exception as error:
            raise StoreError(
                f"the checkpoint {path} is corrupt or foreign ({_first_line(error)}). Remove it and run again."
            ) from None
        state.pieces += 1
        log.info("going on from iteration %d (%s)", state.iteration, path)
        return state

    def _checkpoint(self) -> tuple[Path, bytes] | None:
        """Its own, or that of the longest of the cells from which it can go on."""
        for cell in (self.cell.id, *self.cell.goes_on_from):
            path = self.store.folder(cell) / "checkpoint.safetensors"
            if path.exists():
                return path, path.read_bytes()
        return None

    def _train(self, state: Training) -> bool:
        """Whether training reached its end before the deadline."""
        if state.iteration < self.spec.iterations:
            saved, pause = time.monotonic(), float(os.environ.get("BENCH_SAVE_EVERY", SAVE_EVERY))
            try:
                for _ in _between_interrupts(self.protocol.advance(state)):
                    self.watch.trains(self.cell, state)
                    if self.deadline.passed():
                        break
                    if time.monotonic() - saved > pause:
                        self._save(state)
                        saved = time.monotonic()
            except KeyboardInterrupt:
                if state.whole:  # else the last checkpoint stands
                    self._save(state)
                raise
            self._save(state)
        return state.iteration >= self.spec.iterations

    def _save(self, state: Training) -> None:
        self.store.write(self.cell.id, "checkpoint.safetensors", state.save())


def _between_interrupts(iterations: Iterator[Training]) -> Iterator[Training]:
    """The iterations, with a first Ctrl-C raised between two of them, where all that is done can be saved."""
    caught: list[int] = []
    usual = signal.getsignal(signal.SIGINT)

    def note(number: int, _: object) -> None:
        caught.append(number)
        signal.signal(signal.SIGINT, usual)  # a second one does not wait

    ours = threading.current_thread() is threading.main_thread() and usual is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        for state in iterations:
            if caught:
                raise KeyboardInterrupt
            yield state
        if caught:
            raise KeyboardInterrupt
    finally:
        if ours:
            signal.signal(signal.SIGINT, usual)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]


def _logging_to(store: Store, cell: Cell) -> AbstractContextManager[None]:
    handler = logging.FileHandler(store.folder(cell.id) / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return logging_to(handler)


@contextlib.contextmanager
def logging_to(handler: logging.Handler) -> Iterator[None]:
    """What is logged meanwhile goes to the handler, which is closed after."""
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        handler.close()
