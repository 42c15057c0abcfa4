"""`bench tune`: every algorithm gets the same trials, meta-iterations and seeds, scored on validation tasks alone.

A trial is a set of cells, one per seed, in a store of its own, run as any other cell. What is proposed depends on the
sweep's seed, the trial's number and the trials of earlier rounds, never on where a sweep was killed nor on how many
commands are at it: they propose and tell in turn, and share a round's cells as those of any run.
"""

import dataclasses
import hashlib
import itertools
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from bench.cells.execute import HERE, run_cells
from bench.cells.watch import Watch
from bench.core import seeds
from bench.core.discovery import Catalogue, Named, parse
from bench.core.errors import BenchError, PluginError, StoreError, foreign, unknown
from bench.core.records import Choices, Record, Trial, Tuning
from bench.core.stream import Stream
from bench.core.types import Suite
from bench.learning.outer.trpo import outer_of
from bench.learning.views import Views
from bench.places.execution import Execution
from bench.planning.plan import A_ROUND, Begun, Cell, Request, plan, suite_of
from bench.storage.hold import briefly
from bench.storage.store import TUNING, Store, default_out, write
from bench.tuning.settings import Settings
from bench.tuning.space import rounded, searched, space, spaced, within

SHARE = 10  # of a preset's meta-iterations that a trial gets
SAMPLERS = ("tpe", "random", "cmaes", "grid")
PRUNERS = ("none", "median", "hyperband")
REDUCTION = 3  # a trial that may be pruned stops at a ninth, a third and the whole of its meta-iterations
OPTIONS = {  # what a sweep depends on -> what says it
    **{name: f"--{name}" for name in ("threads", "engine", "device", "seeds", "sampler", "pruner", "batch", "trials")},
    **{"iterations": "--trial-iterations", "sampler seed": "--sampler-seed"},
}
log = logging.getLogger("bench")
JOURNAL, ABOUT = "journal.log", "study.json"  # of all sweeps, in the folder of each


def propose(earlier: list[FrozenTrial], sweep: "Sweep") -> FrozenTrial:
    """The next trial: a function of the trials so far, whose number is the next one's, and of the sweep's protocol.

    Trials of the same round are taken for running, whatever became of them since. Asked of a copy of the study in
    memory, so that the stored one gets a trial whole or not at all.
    """
    number = len(earlier)
    if number == 0:
        return _trial(sweep.default, sweep.space)
    first = number - number % sweep.settings.batch
    mates = (_trial(mate.params, mate.distributions, mate.system_attrs) for mate in earlier[first:])
    copy = _copy(sweep, [*earlier[:first], *mates])
    copy.sampler = sweep.sampler(number)
    copy.ask(sweep.space)
    asked = copy.trials[-1]
    values = {name: within(rounded(value), sweep.space[name]) for name, value in asked.params.items()}
    return _trial(values, sweep.space, asked.system_attrs)


@dataclass(frozen=True)
class Sweep:
    """The sweep of one algorithm on one suite."""

    cell: Cell  # with the suite's protocol for every hyperparameter that was not given
    named: tuple[Named, Named]  # suite, algorithm
    request: Request  # of a whole trial
    settings: Settings

    @cached_property
    def space(self) -> dict[str, BaseDistribution]:
        """Where each hyperparameter is looked for."""
        named = self.named[1]
        asked = searched(self.settings.search).get(named.name, {})
        return space(self.cell.algorithm, self.cell.suite, named, asked)

    @property
    def ranges(self) -> dict[str, tuple[float, float, bool] | Choices]:
        """Low, high and whether the scale is logarithmic; or what is chosen from."""
        found: dict[str, Any] = self.space
        return {
            name: Choices(choices=each.choices)
            if isinstance(each, CategoricalDistribution)
            else (each.low, each.high, each.log)
            for name, each in found.items()
        }

    @cached_property
    def protocol(self) -> dict[str, Any]:
        """The suite's value of each hyperparameter, else the algorithm's own."""
        protocol, algorithm = self.cell.suite.protocol, self.cell.algorithm
        values = {name: getattr(algorithm, name) for name in self.space}
        open_ = {n: protocol[n].value for n, value in values.items() if value is None and n in protocol}
        return values | open_

    @cached_property
    def default(self) -> dict[str, Any]:
        """The first trial: the suite's protocol, or the nearest to it that is looked at."""
        return {name: within(value, self.space[name]) for name, value in self.protocol.items()}

    @property
    def name(self) -> str:
        """The study's: names for people, and a hash of all that its proposals depend on."""
        content = json.dumps(self.about, sort_keys=True)
        suite, algorithm = (default_out(str(named)).name for named in self.named)
        return f"{suite}-{algorithm}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"

    @property
    def about(self) -> dict[str, Any]:
        """All that the proposals and what becomes of them depend on."""
        settings = dataclasses.asdict(replace(self.settings, storage=None))
        settings.pop("search")  # which the ranges tell
        if self.settings.sampler != "grid":  # more trials go on from fewer; a grid is laid for a number of them
            settings.pop("trials")
        spec = self.cell.spec.model_dump(mode="json")
        spec["suite"].pop("given"), spec["algorithm"].pop("given")
        ranges = {key: repr(value) for key, value in self.space.items()}
        return {"spec": spec, "seeds": list(self.request.seeds), "settings": settings, "space": ranges}

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """Optuna's word for which scores are better."""
        return "minimize" if self.cell.suite.metrics[0].better == "lower" else "maximize"

    @property
    def worst(self) -> float:
        """What a sampler is told of a trial that diverged."""
        return math.inf if self.direction == "minimize" else -math.inf

    @property
    def rungs(self) -> tuple[int, ...]:
        """Meta-iterations of one seed after which a trial is judged, the whole last."""
        whole = self.cell.spec.iterations
        if self.settings.pruner == "none" or not whole:
            return (whole,)
        return tuple(sorted({max(1, whole // REDUCTION**power) for power in (2, 1, 0)}))

    @property
    def pruner(self) -> optuna.pruners.BasePruner:
        """Optuna's."""
        if self.settings.pruner == "median":
            return optuna.pruners.MedianPruner()
        if self.settings.pruner == "hyperband" and self.rungs[-1]:
            low, high = self.rungs[0], self.rungs[-1]
            return optuna.pruners.HyperbandPruner(min_resource=low, max_resource=high, reduction_factor=REDUCTION)
        return optuna.pruners.NopPruner()

    def sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """A new one for each trial: a sampler that lives on draws from a state that dies with its process."""
        seed = seeds.generator("sweep", self.settings.seed, number).initial_seed() % 2**32
        match self.settings.sampler:
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)
            case "cmaes":
                return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
            case "grid":  # which numbers its points by its seed
                return optuna.samplers.GridSampler(self.grid, seed=self.settings.seed)
        return optuna.samplers.TPESampler(seed=seed)

    @cached_property
    def grid(self) -> dict[str, list[Any]]:
        """Evenly spaced values, as few per hyperparameter as give every trial but the first a point of its own."""
        for points in range(1, self.settings.trials + 1):
            grid = {name: spaced(found, points) for name, found in self.space.items()}
            if math.prod(map(len, grid.values())) >= self.settings.trials - 1:
                return grid
        raise BenchError(
            f"the grid of {self.named[1]} has {math.prod(map(len, grid.values()))} points, fewer than "
            f"{self.settings.trials} trials less the protocol's. Ask for fewer trials, or for another sampler."
        )

    def cells(self, trial: FrozenTrial, iterations: int) -> list[Cell]:
        """One cell per seed of a trial that is trained so far; all of them score validation tasks."""
        suite, algorithm = self.named
        values = algorithm.given | {name: str(value) for name, value in trial.params.items()}
        asked = replace(
            self.request,
            suites=str(suite),
            algos=str(Named(algorithm.name, values)),
            iterations=iterations or None,
        )
        return [replace(cell, label=f"trial {trial.number} · {cell.label}") for cell in plan(asked)]

    def outcome(self, trial: FrozenTrial, iterations: int, store: Store) -> Trial:
        """What became of a trial at a rung, by its cells' records."""
        cells = self.cells(trial, iterations)
        records = [record for cell in cells if (record := store.record(cell.id))]
        outcomes = {record.outcome for record in records}
        score = None
        if outcomes == {"finished"}:
            score = math.fsum(validation_score(record, store) for record in records) / len(records)
        return Trial(
            number=trial.number,
            parameters=trial.params,
            default=trial.params == self.protocol,
            outcome=next((bad for bad in ("failed", "diverged") if bad in outcomes), "finished"),
            score=score if score is not None and math.isfinite(score) else None,
            iterations=sum(record.stopped_at for record in records),
            cells=tuple(cell.id for cell in cells),
        )

    def tuning(self, study: Study, store: Store) -> Tuning:
        """All that was told so far."""
        trials = []
        for trial in study.trials[: self.settings.trials]:
            pruned = trial.state == TrialState.PRUNED
            found = self.outcome(trial, (trial.last_step or 0) if pruned else self.rungs[-1], store)
            if trial.state.is_finished() and all(store.record(cell) for cell in found.cells):
                trials.append(found.model_copy(update={"outcome": "pruned"}) if pruned else found)
        spec, metric = self.cell.spec, self.cell.suite.metrics[0]
        return Tuning(
            study=self.name,
            suite=spec.suite,
            algorithm=spec.algorithm,
            space=self.ranges,
            metric=metric.name,
            better=metric.better,
            step=self.cell.suite.report_steps[-1],
            iterations=self.request.iterations or 0,
            seeds=self.request.seeds,
            validation_tasks=spec.validation_tasks,
            sampler=self.settings.sampler,
            pruner=self.settings.pruner,
            seed=self.settings.seed,
            batch=self.settings.batch,
            trials=tuple(trials),
            finished=max((r.finished for t in trials for c in t.cells if (r := store.record(c))), default=""),
        )


def validation_score(record: Record, store: Store) -> float:
    """Mean headline score over the validation tasks after the last of the suite's report steps; infinite if not one."""
    table = store.read_table(record.cell, "scores.parquet")
    judged = record.judgement
    rows = table[(table["metric"] == judged.headline.name) & (table["step"] == judged.report_steps[-1])]
    mean = float(rows["value"].mean(skipna=False))
    return mean if math.isfinite(mean) else (math.inf if judged.headline.better == "lower" else -math.inf)


def sweeps(
    request: Request,
    settings: Settings,
    root: Path | None = None,
    broken: Callable[[PluginError], object] | None = None,
) -> list[Sweep]:
    """One per suite and algorithm; every mistake shows before any trial runs.

    Args:
        request: what to tune; iterations are a trial's, a tenth of the preset's unless given. Threads that are left
            open are those that a sweep was begun with.
        settings: of all sweeps.
        root: the run directory, which may hold some of them, or almost.
        broken: told of what somebody's own code does not let be planned, so that the others go on.

    Raises:
        PluginError: nothing can be planned, or something where nobody is told of it.
        BenchError: another mistake.
    """
    for kind, name, allowed in (("sampler", settings.sampler, SAMPLERS), ("pruner", settings.pruner, PRUNERS)):
        if name not in allowed:
            raise unknown(kind, name, allowed)
    found: dict[str, Sweep] = {}
    lost: list[PluginError] = []
    catalogue = Catalogue(request.plugins)
    names = [algorithm.name for algorithm in parse(request.algos)]
    for name in searched(settings.search):
        if name not in names:
            raise unknown("algorithm in --search", name, names, "Name those of --algos.")
    for suite, algorithm in itertools.product(parse(request.suites), parse(request.algos)):
        try:
            with foreign(f"{suite} with {algorithm} can't be planned"):
                sweep = _sweep(request, settings, suite_of(catalogue, suite), (suite, algorithm), root)
                found.setdefault(sweep.name, sweep)
        except PluginError as error:
            lost.append(error)
    if lost and (broken is None or not found):
        raise lost[0]
    if broken:
        for each in lost:
            broken(each)
    return list(found.values())


def _sweep(request: Request, settings: Settings, suite: Suite, named: tuple[Named, Named], root: Path | None) -> Sweep:
    if request.preset not in suite.presets:
        raise unknown("preset", request.preset, suite.presets)
    budget = suite.presets[request.preset]
    least = A_ROUND * budget.validation_tasks if isinstance(suite, Stream) else 1
    iterations = request.iterations or max(least, budget.iterations // SHARE)
    asked = replace(request, suites=str(named[0]), algos=str(named[1]), iterations=iterations, split="validation")
    sweep = Sweep(plan(asked)[0], named, asked, settings)
    if root:
        sweep = _as_begun(sweep, root / TUNING)
    _check_rungs(sweep)
    sweep.grid if settings.sampler == "grid" else sweep.space  # noqa: B018  # what is wrong with it shows now
    return sweep


def _as_begun(sweep: Sweep, folder: Path) -> Sweep:
    """The sweep with the threads that it was begun with, if those are left open; says what there does not count."""
    if (folder / sweep.name / ABOUT).exists():
        return sweep
    label = f"{sweep.named[1]} on {sweep.named[0]}"
    differences = [(other, _differences(about, sweep.about)) for other, about in _alike(sweep, folder)]
    for other, found in sorted(differences, key=lambda each: len(each[1])):
        count = _trials(sweep, json.loads((folder / other / ABOUT).read_bytes()), folder)
        there = f"{folder / other} holds a sweep of {label} with {count} finished trial{'' if count == 1 else 's'}"
        if sweep.request.threads is None and list(found) == ["threads"]:
            log.info("%s, which goes on with --threads %s, as it was begun", there, found["threads"][0])
            asked = replace(sweep.request, threads=found["threads"][0])
            return Sweep(plan(asked)[0], sweep.named, asked, sweep.settings)
        what = ", ".join(f"{name} {theirs}, not {ours}" for name, (theirs, ours) in found.items())
        options = " ".join(f"{OPTIONS[name]} {theirs}" for name, (theirs, _) in found.items() if name in OPTIONS)
        more = f"{options} goes on with it" if len(options.split()) == 2 * len(found) else "nothing goes on with it"
        log.warning("%s, which does not count here, for it has %s: %s", there, what, more)
    return sweep


def _alike(sweep: Sweep, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The sweeps of the same algorithm on the same suite, as they were named, and what they depend on."""
    prefix = sweep.name.rpartition("-")[0]
    for path in sorted(folder.glob(f"{prefix}-*/{ABOUT}")):
        if path.parent.name.rpartition("-")[0] == prefix:
            try:
                yield path.parent.name, json.loads(path.read_bytes())
            except (ValueError, OSError) as error:
                raise StoreError(f"{path} is corrupt ({error}). Move it away: `bench tune` writes it anew.") from None


def _differences(about: dict[str, Any], ours: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Name -> theirs, ours; of what an option says and of what none does."""

    def flat(of: dict[str, Any]) -> dict[str, Any]:
        settings = {"sampler seed" if name == "seed" else name: value for name, value in of["settings"].items()}
        spec = {name: value for name, value in of["spec"].items() if name not in ("seed", "outer")}
        sources = {f"the source of the {kind}": spec.pop(kind) for kind in ("suite", "algorithm")}
        seeds = ",".join(map(str, of["seeds"])) + ("," if len(of["seeds"]) == 1 else "")
        return {**spec, "seeds": seeds, **settings, "ranges": of["space"], **sources}

    theirs, mine = flat(about), flat(ours)
    found = {name: (theirs.get(name), mine.get(name)) for name in {**theirs, **mine}}
    long = ("ranges", "manifests", "the source of the suite", "the source of the algorithm")
    differing = {name: pair for name, pair in found.items() if pair[0] != pair[1]}
    return {name: ("another", "the present one") if name in long else pair for name, pair in differing.items()}


def _trials(sweep: Sweep, about: dict[str, Any], folder: Path) -> int:
    """How many trials of a sweep have ended."""
    same = ("suite", "suite_version", "engine", "device", "threads", "validation_tasks")
    cells = 0
    for record in Store.open(folder).records():
        spec = record.spec.model_dump(mode="json")
        spec["suite"].pop("given")
        alike = all(spec[name] == about["spec"][name] for name in same)
        cells += alike and spec["algorithm"]["source"] == about["spec"]["algorithm"]["source"]
    return cells // len(about["seeds"])


def _check_rungs(sweep: Sweep) -> None:
    """Refuses to prune where a trial that is cut short is another run than the beginning of the whole."""
    if isinstance(sweep.cell.suite, Stream) and len(sweep.rungs) > 1:
        raise BenchError(
            f"the tasks of {sweep.named[0]} come the faster the fewer meta-iterations there are, so that a pruned "
            "trial would be another run than the whole one's beginning. Give --pruner none."
        )
    algorithm = sweep.cell.algorithm
    suite = Views.of(sweep.cell.suite, algorithm).training
    if algorithm.trains and len({repr(outer_of(suite, algorithm, rung)) for rung in sweep.rungs}) > 1:
        raise BenchError(
            f"the outer rate of {sweep.named[1].name} falls until a run's end, so that a pruned trial would be another "
            f"run than the whole one's beginning. Give --pruner none, or declare when it has fallen: until=..."
        )


def tune(
    found: list[Sweep],
    root: Path,
    watch: Watch,
    time_limit: float | None = None,
    execution: Execution = HERE,
) -> list[tuple[Tuning, Study]]:
    """Runs the sweeps in step, so that budgets are equal whenever the time runs out; goes on where it was cut.

    Args:
        found: what `sweeps` gave.
        root: the run directory; trials are kept in its folder `tuning`.
        watch: looks on.
        time_limit: seconds after which it stops, to be resumed by the same call.
        execution: where and how cells run.

    Returns:
        Each sweep as it is kept, and its study in memory.

    Raises:
        BenchError: the storage does not answer.
    """
    Store.create(root)
    store = Store.create(root / TUNING)
    settings = found[0].settings
    storage, verbosity = None, optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with _turn(store):
            storage = _storage(settings.storage, store.root)
            studies = [(sweep, _study(sweep, storage, store)) for sweep in found]
        deadline, begun = time.monotonic() + time_limit if time_limit else None, Begun(store.specs())
        for first in range(0, settings.trials, settings.batch):
            numbers = range(first, min(first + settings.batch, settings.trials))
            if not _round(studies, numbers, store, begun, watch, deadline, execution):
                break
        with _turn(store):
            return [(_kept(sweep.tuning(study, store), store), _copy(sweep, study.trials)) for sweep, study in studies]
    except (StorageInternalError, SQLAlchemyError) as error:
        raise _silent(settings.storage, error) from None
    finally:
        if isinstance(storage, optuna.storages.RDBStorage):
            storage.remove_session()
            storage.engine.dispose()
        optuna.logging.set_verbosity(verbosity)


@contextmanager
def _turn(store: Store) -> Iterator[None]:
    """Meanwhile no other command proposes or tells, and the journal ends with a whole line."""
    with briefly(store.root, "the sweep"):
        path = store.root / JOURNAL
        content = path.read_bytes() if path.exists() else b""
        if content and not content.endswith(b"\n"):  # a full disk or a kill cut it short, and the next would go bad
            os.truncate(path, content.rfind(b"\n") + 1)
        yield


def _study(sweep: Sweep, storage: optuna.storages.BaseStorage, store: Store) -> Study:
    """The sweep's study in the storage; what it is stands beside its trials, for whoever asks for almost the same."""
    path = store.root / sweep.name / ABOUT
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        write(path, json.dumps(sweep.about, indent=1).encode())
    return optuna.create_study(
        storage=storage, study_name=sweep.name, sampler=optuna.samplers.RandomSampler(), pruner=sweep.pruner,
        direction=sweep.direction, load_if_exists=True,
    )  # fmt: skip


def _copy(sweep: Sweep, trials: Iterable[FrozenTrial]) -> Study:
    """A study in memory, which needs no storage to answer."""
    copy = optuna.create_study(
        study_name=sweep.name, direction=sweep.direction, sampler=optuna.samplers.RandomSampler(), pruner=sweep.pruner
    )
    copy.add_trials(trials)
    return copy


def _round(
    studies: list[tuple[Sweep, Study]],
    numbers: range,
    store: Store,
    begun: Begun,
    watch: Watch,
    deadline: float | None,
    execution: Execution,
) -> bool:
    """Asks, runs and tells some trials of every sweep; whether the time sufficed."""
    with _turn(store):
        for sweep, study in studies:
            for number in numbers:
                earlier = study.get_trials(deepcopy=False)
                if len(earlier) <= number:
                    study.add_trial(propose(earlier, sweep))
                    if len(study.get_trials(deepcopy=False)) != number + 1:
                        raise BenchError(
                            f"somebody else adds trials to the study {sweep.name} in the same storage, from another "
                            "run directory. Several `bench tune` share a sweep that have the same --out."
                        )
    for level in range(max(len(sweep.rungs) for sweep, _ in studies)):
        cells: list[Cell] = []
        for sweep, study in studies:
            for trial in _reaching(sweep, study, numbers, level):
                some = sweep.cells(trial, sweep.rungs[level])
                told = trial.state.is_finished()
                cells += [cell for cell in some if not told or store.record(cell.id) is None]
        left = None if deadline is None else max(deadline - time.monotonic(), 1e-3)
        plugins = studies[0][0].request.plugins
        cells = begun.going_on({cell.id: cell for cell in cells}.values())  # two trials may be alike
        begun.add(cell.spec for cell in cells)
        ended = run_cells(cells, store, watch, left, plugins, execution) if cells else []
        if {record.cell for record in ended} != {cell.id for cell in cells}:
            return False
        with _turn(store):
            for sweep, study in studies:
                for trial in _reaching(sweep, study, numbers, level):
                    if trial.state == TrialState.RUNNING:
                        _tell(sweep, study, trial, level, store)
    return True


def _reaching(sweep: Sweep, study: Study, numbers: range, level: int) -> list[FrozenTrial]:
    """The trials of a round, in order of their numbers, that were not pruned before a rung."""
    if level >= len(sweep.rungs):
        return []
    some = [study.get_trials(deepcopy=False)[number] for number in numbers]
    return [t for t in some if t.state != TrialState.PRUNED or (t.last_step or 0) >= sweep.rungs[level]]


def _tell(sweep: Sweep, study: Study, trial: FrozenTrial, level: int, store: Store) -> None:
    iterations = sweep.rungs[level]
    found = sweep.outcome(trial, iterations, store)
    value = sweep.worst if found.score is None else found.score
    if found.outcome == "failed":
        study.tell(trial.number, state=TrialState.FAIL)
    elif iterations == sweep.rungs[-1]:
        study.tell(trial.number, value)
    else:
        running = optuna.trial.Trial(study, trial._trial_id)
        if iterations not in trial.intermediate_values:
            running.report(value, iterations)
        if running.should_prune():
            study.tell(trial.number, state=TrialState.PRUNED)


def _kept(tuning: Tuning, store: Store) -> Tuning:
    folder = store.root / tuning.study
    folder.mkdir(exist_ok=True)
    write(folder / "sweep.json", tuning.model_dump_json(indent=1).encode())
    return tuning


def _storage(url: str | None, folder: Path) -> optuna.storages.BaseStorage:
    """A journal file, or the PostgreSQL database of a URL."""
    if url is None:
        path = folder / JOURNAL
        try:
            return optuna.storages.JournalStorage(JournalFileBackend(str(path)))
        except (ValueError, KeyError) as error:
            raise StoreError(f"{path} is corrupt ({error}). Move it away: a new one gets the same trials.") from None
    scheme, _, rest = url.partition("://")
    if scheme not in ("postgresql", "postgresql+psycopg"):
        reason = "SQLite loses and locks trials that come in parallel. " if scheme.startswith("sqlite") else ""
        raise BenchError(
            f"--storage {_shown(url)} is no PostgreSQL database. {reason}Write postgresql://user@host/database, or "
            "leave --storage out: a journal file in the run directory needs no server."
        )
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise BenchError("--storage postgresql://... needs psycopg: pip install 'meta-bench[postgresql]'.") from None
    # A server that was restarted meanwhile is connected to anew.
    options = {"pool_pre_ping": True, "connect_args": {"connect_timeout": 10}}
    try:
        return optuna.storages.RDBStorage(f"postgresql+psycopg://{rest}", engine_kwargs=options)
    except (StorageInternalError, SQLAlchemyError) as error:
        raise _silent(url, error) from None


def _silent(url: str | None, error: Exception) -> BenchError:
    reason = str(error.__cause__ or error).splitlines()[0]
    return BenchError(
        f"the storage {_shown(url or '')} does not answer: {reason}. Start it, or mend --storage, and run the same "
        "command again; what is finished is kept."
    )


def _shown(url: str) -> str:
    """The URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return url.partition("://")[0] or "file"


def _trial(
    values: dict[str, Any], space: dict[str, BaseDistribution], system_attrs: dict[str, Any] | None = None
) -> FrozenTrial:
    return create_trial(
        state=TrialState.RUNNING, params=values, distributions=space, system_attrs=dict(system_attrs or {})
    )
