"""How long cells will take, before they are run."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from bench.core import seeds
from bench.core.discovery import Catalogue
from bench.core.errors import BenchError, DataError, PluginError, foreign
from bench.core.records import Record, Spec
from bench.core.task import SuiteTask
from bench.core.threads import threads
from bench.core.trees import to, tree_map
from bench.core.types import Interactive, Meta, Suite
from bench.learning.engines import learn2learn, vectorised
from bench.learning.evaluate import manifest, steps_of, trace
from bench.planning.engines import OpenEngine, inputs, timed
from bench.planning.plan import Cell, view
from bench.protocols.episodic import Episodic
from bench.storage.store import MARK, Store

TRIAL = 3  # meta-iterations that are timed after one to warm up
ENOUGH = 2.0  # seconds after which one of them will do
SCORED = 10  # that are scored on trial


class Pace(NamedTuple):
    """What was measured on cells of one kind."""

    iteration: float  # seconds of one meta-iteration
    scoring: float  # seconds of selection and test

    def of(self, cell: Cell) -> float:
        """Seconds of the whole cell."""
        return cell.spec.iterations * self.iteration + self.scoring


class Forecast(NamedTuple):
    """How long a cell will take."""

    seconds: float | None  # 0 if it is done, None if nobody can know
    error: BenchError | None = None  # why nobody can


def predict(cells: list[Cell], root: Path, plugins: tuple[Path, ...] = ()) -> Iterator[Forecast]:
    """The forecast of each cell, by the store's measurements or else by trial."""
    store = Store.open(root) if (root / MARK).exists() else None
    done = (record for record in store.records() if record.outcome == "finished") if store else ()
    known: dict[str, Pace | BenchError | None] = {_kind(r.spec): _measured(r) for r in done if not r.spec.domain}
    catalogue = Catalogue(plugins)
    for cell in cells:
        record = store.record(cell.id) if store else None
        if record and record.outcome != "failed":
            yield Forecast(0.0)
            continue
        kind = _kind(cell.spec.home)
        if cell.domain:  # which another cell trains
            pace = known.get(kind)
            yield Forecast(pace.scoring if isinstance(pace, Pace) else None)
            continue
        try:
            known[kind] = found = known.get(kind) or _tried(cell, catalogue)
        except (DataError, PluginError) as error:
            known[kind] = found = error
        yield Forecast(None, found) if isinstance(found, BenchError) else Forecast(found.of(cell))


def _kind(spec: Spec) -> str:
    return spec.model_copy(update={"seed": 0, "iterations": 0, "outer": "", "selection": "last"}).id


def _tried(cell: Cell, catalogue: Catalogue) -> Pace:
    with threads(cell.spec.threads), foreign(f"{cell.label} can't be timed"):
        return _try(cell, catalogue)


def _measured(record: Record) -> Pace | None:
    pace = record.seconds_per_iteration
    return Pace(pace or 0.0, record.evaluate_seconds) if pace or not record.spec.iterations else None


def _try(cell: Cell, catalogue: Catalogue) -> Pace:
    name, algorithm, device = cell.spec.algorithm.name, cell.algorithm, cell.spec.device
    peer = cell.spec.engine == "learn2learn"
    suite = view(cell.suite, algorithm.train_view, name, catalogue)
    meta = to(algorithm.init(SuiteTask(suite), seeds.generator("forecast")), device)
    seconds = [0.0]
    if algorithm.trains:
        seconds = []
        for iteration in islice(_iterations(cell, suite, meta), 1 + TRIAL):
            seconds.append(timed(iteration))
            if len(seconds) > 1 and sum(seconds) > ENOUGH:
                break
        seconds = seconds[1:]
    tested = view(cell.suite, algorithm.test_view, name, catalogue)
    if algorithm.train_view != algorithm.test_view:
        meta = to(tested.new_params(seeds.generator("forecast")), device)
    variant, candidates = tested.evaluations[0], algorithm.candidates()
    tasks = tree_map(lambda x: x[:SCORED], manifest(variant, cell.spec.suite.name, "validation")[0])
    scored = len(tested.evaluations) * cell.spec.test_tasks
    scored += len(candidates) * cell.spec.validation_tasks if len(candidates) > 1 else 0
    tracer, steps = learn2learn.trace if peer else trace, steps_of(variant, candidates[0])
    scoring = timed(lambda: tracer(variant, candidates[0], meta, tasks, steps, device))
    return Pace(min(seconds), scoring / SCORED * scored)


def _iterations(cell: Cell, suite: Suite, meta: Meta) -> Iterator[Callable[[], object]]:
    """Meta-iterations to be timed, eager, which bounds compiled; where tasks are acted in, with what is collected."""
    algorithm = cell.algorithm
    if isinstance(suite, Interactive):
        protocol = Episodic(cell.spec, cell.suite, algorithm)
        steps = protocol.advance(protocol.begin(None))
        while True:
            yield lambda: next(steps)
    gradient = (learn2learn if cell.spec.engine == "learn2learn" else vectorised).meta_gradient(suite, algorithm)
    for case in inputs(OpenEngine(cell.spec, suite, algorithm)):
        yield partial(gradient, *case)
