"""What a finished cell had come to, from its record and checkpoint: to be looked at, drawn and filmed."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from bench.core.discovery import Catalogue, Named
from bench.core.errors import BenchError, StoreError, foreign, unknown
from bench.core.records import Component, Record, Spec
from bench.core.task import SuiteTask
from bench.core.types import Learner, Meta, Params, Suite
from bench.learning.training import Training
from bench.learning.views import Views
from bench.planning.plan import algorithm_of, suite_of
from bench.protocols import protocol_of
from bench.protocols.protocol import Protocol
from bench.storage.store import META, Store

SHOWN = 5  # cells that a refusal names


def finished(store: Store, suite: str | None, algorithm: str | None) -> Record:
    """The finished cell of the least seed, by the names or labels of its suite and its algorithm.

    Raises:
        BenchError: there is none, or a name is left open where the run directory holds several.
    """
    done = [r for r in store.records() if r.outcome == "finished" and not r.spec.domain]
    done.sort(key=lambda record: record.spec.seed)
    if not done:
        raise BenchError(f"{store.root} holds no finished cell. `bench run --out {store.root} ...` makes some.")
    for kind, option, asked in (("suite", "--suite", suite), ("algorithm", "--algo", algorithm)):
        labels = list(dict.fromkeys(getattr(record.spec, kind).label for record in done))
        if asked is None and len(labels) > 1:
            raise BenchError(f"{store.root} holds several {kind}s. Name one with {option}: {', '.join(labels)}.")
        if asked is not None:
            known = [r for r in done if asked in (getattr(r.spec, kind).label, getattr(r.spec, kind).name)]
            if not known:
                raise unknown(f"{kind} in this run directory", asked, labels)
            done = known
    return done[0]


def finished_cell(store: Store, cell: str) -> Record:
    """The finished cell of this id.

    Raises:
        BenchError: there is none.
    """
    done = {record.cell: record for record in store.records() if record.outcome == "finished"}
    if cell not in done:
        held = ", ".join(f"{key} ({label(record.spec)})" for key, record in list(done.items())[:SHOWN]) or "none"
        more = f" and {len(done) - SHOWN} more" if len(done) > SHOWN else ""
        raise BenchError(f"there is no finished cell {cell!r} in {store.root}. Finished are: {held}{more}.")
    return done[cell]


def label(spec: Spec) -> str:
    """A cell in words."""
    domain = f", scored on {spec.domain.suite.label}" if spec.domain else ""
    return f"{spec.algorithm.label} on {spec.suite.label}, seed {spec.seed}{domain}"


class Restored(NamedTuple):
    """What a cell was tested on, the learner that was chosen for it, and all that it was tested with."""

    suite: Suite
    learner: Learner
    meta: Meta
    running: Params  # statistics that normalise where the query must not be seen

    @property
    def task(self) -> SuiteTask:
        """What the suite's tasks are to the learner when it is tested."""
        return SuiteTask.tested(self.suite, self.running)


def resumed(protocol: Protocol, path: Path, advice: str) -> Training:
    """Where training stands by a checkpoint.

    Raises:
        StoreError: there is none, or it is not one of this trajectory; ends with the advice.
    """
    try:
        return protocol.begin(path.read_bytes())
    except Exception as error:  # broken files break readers in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        missing = "missing" if isinstance(error, FileNotFoundError) else "corrupt or foreign"
        raise StoreError(f"the checkpoint {path} is {missing} ({reason}). {advice}") from None


def trained(store: Store, record: Record, catalogue: Catalogue) -> tuple[Views, Learner, Meta, Params]:
    """What a cell was trained and tested on, its learner, all that was meta-learned, as selected, and what was kept.

    Raises:
        BenchError: the suite or the algorithm is not at hand.
        StoreError: its checkpoint is missing, corrupt or of another cell.
    """
    spec = record.spec
    with foreign(f"{label(spec)} can't be restored"):
        suite = suite_of(catalogue, _named(spec.suite))
        algorithm = algorithm_of(catalogue, _named(spec.algorithm), suite)
        protocol = protocol_of(spec, suite, algorithm)
        fresh = protocol.begin(None)  # what breaks now is no fault of the checkpoint
    folders = (store.folder(cell) for cell in (record.cell, spec.home.id))  # the training may be another cell's
    paths = [folder / name for folder in folders for name in (META, "checkpoint.safetensors")]
    path = next((path for path in paths if path.exists()), paths[1])
    advice = f"Move {path.parent} away and run again."
    state = resumed(protocol, path, advice) if algorithm.trains else fresh
    return protocol.views, algorithm.at(state.iteration), *state.chosen(spec.selection == "best")


def tested(store: Store, record: Record, catalogue: Catalogue) -> Restored:
    """What a cell was tested with.

    Raises:
        BenchError: as `trained`.
    """
    views, algorithm, meta, running = trained(store, record, catalogue)
    learner = replace(algorithm, **record.selected)
    return Restored(views.tested.evaluations[0], learner, views.fit(meta, record.spec.seed), running)


def _named(component: Component) -> Named:
    return Named(component.name, {name: value for name, value in component.parameters.items() if value is not None})
