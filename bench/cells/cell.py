"""One cell, from its specification to its record: checkpoints, resuming, and every outcome recorded."""

import contextlib
import logging
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench.cells.outcome import PeakMemory, curve_of, digest, record_of
from bench.cells.restore import resumed
from bench.cells.watch import Watch
from bench.core.discovery import Catalogue
from bench.core.errors import DataError, ManifestError, MissingExtraError, StoreError, told
from bench.core.interrupts import deferred
from bench.core.records import Record
from bench.core.threads import threads
from bench.learning.train import Diverged
from bench.learning.training import Training
from bench.planning.plan import Cell
from bench.protocols import protocol_of
from bench.storage.hold import Hold
from bench.storage.store import META, Store

SAVE_EVERY = 30.0  # seconds between checkpoints, unless BENCH_SAVE_EVERY says otherwise
log = logging.getLogger("bench")


@dataclass
class Deadline:
    """The moment at which a run stops by itself."""

    at: float | None = None

    def passed(self) -> bool:
        """Whether it is over."""
        return self.at is not None and time.monotonic() >= self.at


def run_cell(
    cell: Cell, store: Store, watch: Watch, deadline: Deadline, catalogue: Catalogue, failure: str | None = None
) -> Record | None:
    """The cell's record, from the store or by running it; None if the deadline came first (the checkpoint is kept).

    Args:
        cell: what to run.
        store: where to.
        watch: looks on.
        deadline: when to stop.
        catalogue: of suites and algorithms.
        failure: the one that is to be tried again (`Store.failure`); by default, whichever is there.

    Raises:
        HeldError: somebody else is at it.
    """
    failure = store.failure(cell.id) if failure is None else failure
    if record := store.ended(cell.id, failure):
        watch.ends(cell, record, False)
        return record
    if deadline.passed():
        return None
    with store.hold(cell.id) as hold:
        if record := store.ended(cell.id, failure):  # in the meantime
            watch.ends(cell, record, False)
            return record
        store.write(cell.id, "spec.json", cell.spec.model_dump_json(indent=1).encode())
        with _logging_to(store, cell), threads(cell.spec.threads):
            log.info("engine %s: %s", cell.spec.engine, cell.reason)
            if cell.why_by_task:
                log.info("one task after the other: %s", cell.why_by_task)
            peak, life = PeakMemory(), None
            try:
                life = _Life(cell, store, hold, watch, deadline)
                outcome = life.record(peak)
            except (StoreError, DataError, ManifestError, MissingExtraError, KeyboardInterrupt):
                raise
            except BaseException as error:  # a plug-in's mistake must not take the other cells along
                log.error("%s", traceback.format_exc().encode(errors="backslashreplace").decode())
                done, where = life.reached() if life else (0, "")
                outcome = record_of(cell, "failed", told(error) + where, done, peak)
        if outcome:
            hold.check()
            outcome = store.conclude(outcome)
            watch.ends(cell, outcome, True)
        return outcome


class _Life:
    """From where the cell stands in the store to its record."""

    def __init__(self, cell: Cell, store: Store, hold: Hold, watch: Watch, deadline: Deadline) -> None:
        self.cell, self.store, self.hold, self.watch, self.deadline = cell, store, hold, watch, deadline
        self.spec = cell.spec
        self.protocol = protocol_of(cell.spec, cell.suite, cell.algorithm, cell.domain)
        self.state: Training | None = None

    def reached(self) -> tuple[int, str]:
        """Meta-iterations done, and in words what came next."""
        if self.state is None:
            return 0, ""
        done = self.state.iteration
        if done >= self.spec.iterations:
            return done, " (while the test tasks were scored)"
        return done, f" (in meta-iteration {done + 1:,} of {self.spec.iterations:,})"

    def record(self, peak: "PeakMemory") -> Record | None:
        self.state = state = self._state()
        self.watch.starts(self.cell, state.iteration)
        try:
            if not self._train(state):
                return None
        except Diverged as error:
            log.warning("%s", error)
            return record_of(self.cell, "diverged", str(error), state.iteration, peak, state)
        self.watch.scores(self.cell)
        began = time.perf_counter()
        scores, selected, test_seconds = self.protocol.score(state)
        curve = curve_of(state)
        self.hold.check()
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
            test_seconds=test_seconds,
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
        path = self._checkpoint()
        if path is None:
            return self.protocol.begin(None)
        state = resumed(self.protocol, path, "Remove it and run again.")
        state.pieces += 1
        log.info("going on from iteration %d (%s)", state.iteration, path)
        return state

    def _checkpoint(self) -> Path | None:
        """Its own, or that of the longest of the cells from which it can go on."""
        paths = [self.store.folder(cell) / "checkpoint.safetensors" for cell in (self.cell.id, *self.cell.goes_on_from)]
        if self.spec.domain:  # all that is left to do is to score what was learned
            paths.append(self.store.folder(self.spec.home.id) / META)
        return next((path for path in paths if path.exists()), None)

    def _train(self, state: Training) -> bool:
        """Whether training reached its end before the deadline."""
        begun = state.iteration
        if begun < self.spec.iterations:
            try:
                self._iterate(state)
            except KeyboardInterrupt:
                if state.whole and state.iteration > begun:  # else the last checkpoint stands
                    self._save(state)
                raise
            self._save(state)
        return state.iteration >= self.spec.iterations

    def _iterate(self, state: Training) -> None:
        """Trains; interrupted between two iterations, or at once in the first, which may compile for minutes."""
        saved, pause = time.monotonic(), float(os.environ.get("BENCH_SAVE_EVERY", SAVE_EVERY))
        iterations = self.protocol.advance(state)
        next(iterations)
        self.watch.trains(self.cell, state)
        with deferred() as interrupted:
            while not self.deadline.passed():
                if time.monotonic() - saved > pause:
                    self._save(state)
                    saved = time.monotonic()
                interrupted()
                if next(iterations, None) is None:
                    break
                self.watch.trains(self.cell, state)

    def _save(self, state: Training) -> None:
        self.hold.check()
        self.store.write(self.cell.id, "checkpoint.safetensors", state.save(self.spec.trajectory))


def _logging_to(store: Store, cell: Cell) -> AbstractContextManager[None]:
    handler = logging.FileHandler(store.folder(cell.id) / "log.txt", encoding="utf-8", errors="backslashreplace")
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
