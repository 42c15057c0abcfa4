"""What was asked -> the cells: suite x algorithm x seed, each with its content-addressed specification."""

import contextlib
import itertools
import logging
import os
import platform
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from bench.core.discovery import Catalogue, Named, build, parameters, parse, source_hash
from bench.core.errors import BenchError, PluginError, foreign, unknown
from bench.core.modules import batch_norms
from bench.core.records import Component, EngineName, Judgement, Selection, Spec, Tuning
from bench.core.stream import Stream
from bench.core.types import Interactive, Kind, Learner, Split, Suite
from bench.learning.engines import learn2learn
from bench.learning.evaluate import manifest
from bench.learning.outer.trpo import outer_of
from bench.places.execution import cores
from bench.planning import engines as choose
from bench.planning import networks
from bench.protocols.online import stream

A_ROUND = 2  # meta-iterations that each round of a stream has at least
log = logging.getLogger("bench")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One `bench run` as asked."""

    suites: str
    algos: str
    seeds: tuple[int, ...] = (0,)
    preset: str = "quick"
    iterations: int | None = None
    selection: Selection = "last"
    validate_every: int | None = None
    engine: EngineName | Literal["auto"] = "auto"
    device: str = "cpu"
    threads: int | None = None
    share: int | None = None  # of the cores, for cells for which no threads are asked; all of them by default
    chunk_tasks: int | None = None
    split: Literal["test", "validation"] = "test"  # whose tasks are scored; "validation" never draws a test task
    plugins: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One run of one algorithm on one suite with one seed."""

    spec: Spec
    suite: Suite
    algorithm: Learner
    label: str = field(default="")  # for people: sinusoid · maml · seed 0
    reason: str = field(default="", compare=False)  # why this engine
    why_by_task: str = field(default="", compare=False)  # why one task after the other, if so
    tuning: Tuning | None = field(default=None, compare=False)  # the sweep that chose the parameters
    goes_on_from: tuple[str, ...] = field(default=(), compare=False)  # cells of its trajectory, longest first
    domain: Suite | None = None  # whose test tasks the scores are of, if not the suite's

    @property
    def id(self) -> str:
        """The specification's hash."""
        return self.spec.id


class Begun:
    """The cells that a store has begun, as whoever plans others asks for them; each specification is read once."""

    def __init__(self, specs: Iterable[Spec]) -> None:
        """Of these specifications."""
        self.ids: set[str] = set()
        self._ends: dict[str, dict[str, int]] = {}  # trajectory -> id -> meta-iterations
        self._kin: dict[str, list[Spec]] = {}
        self.add(specs)

    def add(self, specs: Iterable[Spec]) -> None:
        """More of them."""
        for spec in specs:
            if spec.id not in self.ids:
                self.ids.add(spec.id)
                self._ends.setdefault(spec.trajectory, {})[spec.id] = spec.iterations
                self._kin.setdefault(spec.kin, []).append(spec)

    def shorter(self, spec: Spec) -> tuple[str, ...]:
        """The ids of cells from whose end a cell can go on, the longest first."""
        ends = self._ends.get(spec.trajectory, {})
        return tuple(sorted((key for key, end in ends.items() if end < spec.iterations), key=lambda key: -ends[key]))

    def but_for_threads(self, spec: Spec, engines: Sequence[str]) -> Spec | None:
        """What a cell is, or goes on from, but for its threads, with one of the engines; None if also with its own."""
        kin = [s for s in self._kin.get(spec.kin, ()) if s.engine in engines and s.iterations <= spec.iterations]
        if any(s.threads == spec.threads for s in kin):
            return None
        return max(kin, key=lambda s: s.iterations, default=None)

    def going_on(self, cells: Iterable[Cell]) -> list[Cell]:
        """The cells, each told from which others it can go on."""
        return [replace(cell, goes_on_from=self.shorter(cell.spec)) for cell in cells]


Choice = Callable[[list[choose.OpenEngine]], list[tuple[EngineName, str]]]


def plan(
    request: Request,
    known: Iterable[Spec] = (),
    choice: Choice = choose.measured,
    broken: Callable[[PluginError], object] | None = None,
) -> list[Cell]:
    """The cells of a request, in the order of suites, algorithms and seeds; every mistake shows before any runs.

    Args:
        request: what was asked.
        known: the store's specifications; engine and threads left open are those that a cell was started with.
        choice: of the engine of the others.
        broken: told of what somebody's own code does not let be planned, so that the others go on.

    Raises:
        PluginError: nothing can be planned, or something where nobody is told of it.
        BenchError: another mistake.
    """
    planner, begun = _Planner(request, Catalogue(request.plugins)), Begun(known)
    algorithms, suites = parse(request.algos), parse(request.suites)
    check_device(request.device)
    cells: list[Cell] = []
    lost: list[PluginError] = []
    for suite, algorithm in itertools.product(suites, algorithms):
        try:
            cells += planner.cells(suite, algorithm)
        except PluginError as error:
            lost.append(error)
    if lost and (broken is None or not cells):
        raise lost[0]
    if broken:
        for each in lost:
            broken(each)
    cells = planner.with_threads(cells, begun)
    if request.engine == "auto":
        cells = planner.with_engines(cells, begun, choice)
    first: dict[str, Cell] = {}
    for cell in begun.going_on(cells):
        first.setdefault(cell.id, cell)
    return list(first.values())


def planned(spec: Spec, catalogue: Catalogue, **others: Any) -> Cell:
    """The cell of a specification, made again where it is to run; `others` are its other fields.

    Raises:
        BenchError: this machine has another source of the suite or of the algorithm than the one it was planned with.
    """
    suite = _again(spec.suite, catalogue)
    domain = _again(spec.domain.suite, catalogue) if spec.domain else None
    cls = catalogue.load("algorithm", spec.algorithm.name)
    algorithm = build(cls, spec.algorithm.name, spec.algorithm.parameters)
    sources = [(spec.suite, suite.made_of), (spec.algorithm, algorithm.made_of)]
    sources += [(spec.domain.suite, domain.made_of)] if spec.domain and domain else []
    for component, classes in sources:
        if (found := source_hash(*classes)) != component.source:
            raise BenchError(
                f"the source of {component.name} on {platform.node()} has SHA-256 {found[:16]}..., not the planned "
                f"{component.source[:16]}...: it has changed since, or this host has another. Install the same bench "
                "and the same plug-ins on every host, or run the cells anew."
            )
    return Cell(spec, suite, algorithm, domain=domain, **others)


def _again(suite: Component, catalogue: Catalogue) -> Suite:
    again: Suite = build(catalogue.load("suite", suite.name), suite.name, suite.parameters)
    return again


def suite_of(catalogue: Catalogue, named: Named) -> Suite:
    """The suite that was named."""
    suite: Suite = build(catalogue.load("suite", named.name), named.name, named.given)
    return suite


def algorithm_of(catalogue: Catalogue, named: Named, suite: Suite) -> Learner:
    """The algorithm that was named, with the suite's protocol where it leaves a field open."""
    protocol = {name: setting.value for name, setting in suite.protocol.items()}
    algorithm: Learner = build(catalogue.load("algorithm", named.name), named.name, named.given, protocol)
    return algorithm


def check_kind(catalogue: Catalogue, named_suite: Named, suite: Suite, named: Named) -> None:
    """Refuses an algorithm that is not made for a suite's kind of task, and says who can meet whom.

    Raises:
        BenchError: `Learner.suits` lacks `Suite.kind`.
    """
    algorithm: type[Learner] = catalogue.load("algorithm", named.name)
    _check_protocol(catalogue, named_suite, type(suite), named.name, algorithm)
    suits = algorithm.suits
    if suits.issuperset(get_args(Kind)) or (kind := _kind(suite)) in suits:
        return
    suites = [
        name
        for name, cls in catalogue.classes("suite").items()
        if meets(cls, algorithm) and _kind_by_default(cls, name) in suits and _shows(cls, algorithm)
    ]
    algorithms = [
        name
        for name, cls in catalogue.classes("algorithm").items()
        if meets(type(suite), cls) and kind in cls.suits and _shows(type(suite), cls)
    ]
    raise BenchError(
        f"{named.name} is for {' and '.join(sorted(suits)) or 'no kind of task'}, and {named_suite.name} is "
        f"{kind}. Suites that {named.name} can meet: {', '.join(suites) or 'none'}. "
        f"Algorithms that can meet {named_suite.name}: {', '.join(algorithms) or 'none'}."
    )


def _check_protocol(
    catalogue: Catalogue, named: Named, suite: type[Suite], name: str, algorithm: type[Learner]
) -> None:
    """Refuses a learner of drawn tasks on a stream, and one that follows a stream elsewhere, and says who can."""
    if meets(suite, algorithm):
        return
    algorithms = {other: cls for other, cls in catalogue.classes("algorithm").items() if meets(suite, cls)}
    if algorithm.follows:
        suites = [other for other, cls in catalogue.classes("suite").items() if meets(cls, algorithm)]
        raise BenchError(
            f"{name} follows a stream of tasks, and the tasks of {named.name} are drawn. Suites that {name} can meet: "
            f"{', '.join(suites) or 'none'}. Algorithms that can meet {named.name}: {', '.join(algorithms) or 'none'}."
        )
    drivers = [other for other, cls in algorithms.items() if "learner" in {field.name for field in fields(cls)}]
    led = f" Write {drivers[0]}[learner={name}]." if drivers else ""
    raise BenchError(
        f"{named.name} is a stream, whose tasks come one after the other, and {name} learns from tasks that are drawn."
        f"{led} Algorithms that can meet {named.name}: {', '.join(algorithms) or 'none'}."
    )


def meets(suite: type[Suite], algorithm: type[Learner]) -> bool:
    """Whether both are of one protocol."""
    return issubclass(suite, Stream) == bool(algorithm.follows)


def _kind(suite: Suite) -> Kind:
    """As the class declares it, else as its data show, without the real ones."""
    return suite.kind if isinstance(type(suite).kind, str) else suite.stand_in().kind


def _shows(suite: type[Suite], algorithm: type[Learner]) -> bool:
    """Whether a suite has the views that an algorithm wants."""
    return all(hasattr(suite, method) for method in (algorithm.train_view, algorithm.test_view) if method)


def _kind_by_default(cls: type[Suite], name: str) -> Kind | None:
    """A suite's kind where nothing is given; None where that can't be known here, such as without an extra."""
    with contextlib.suppress(Exception):
        return _kind(build(cls, name, {}))
    return None


def judgement_of(suite: Suite) -> Judgement:
    """How a suite's scores are to be read."""
    judged = Judgement(metrics=suite.metrics, report_steps=suite.report_steps, floor=suite.floor, caveat=suite.caveat)
    if not isinstance(suite, Stream):
        return judged
    return judged.model_copy(update={"metrics": (*suite.metrics, *suite.of_rounds), "after": "points"})


def view(suite: Suite, method: str, algorithm: str, catalogue: Catalogue) -> Suite:
    """The suite as an algorithm wants to see it; an error that names the suites which can show it so."""
    if not method:
        return suite
    if not hasattr(suite, method):
        raise BenchError(
            f"{algorithm} needs a suite with {method}(), which this one does not have. "
            f"Suites that have it: {', '.join(catalogue.having(method)) or 'none'}."
        )
    seen: Suite = getattr(suite, method)()
    return seen


def threads_of(request: Request) -> int:
    """The threads asked for, else a cell's share of the cores, else as many as this process may use."""
    return request.threads or request.share or cores()


def check_device(device: str) -> None:
    """Refuses a device that is not the CPU or a CUDA device that torch sees, and says why it sees none."""
    with warnings.catch_warnings(record=True) as said:  # what torch finds wrong with a driver
        warnings.simplefilter("always")
        found = torch.cuda.is_available()
    seen = ["cpu", *(["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))] if found else [])]
    if device in seen:
        return
    if found or not device.casefold().startswith(("cuda", "gpu", "nvidia")):
        raise unknown("device", device, seen)
    if torch.version.cuda is None and torch.version.hip is None:
        raise BenchError(
            f"--device {device}: this torch ({torch.__version__}) is a CPU build and uses no GPU. Install one that is "
            "built for CUDA, as https://pytorch.org/get-started/locally/ says for your driver, or take --device cpu."
        )
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    reasons = [str(warning.message).splitlines()[0] for warning in said]
    reasons += [f"CUDA_VISIBLE_DEVICES is {hidden!r}, which may hide it"] if hidden is not None else []
    raise BenchError(
        f"--device {device}: torch {torch.__version__} is built for CUDA {torch.version.cuda or torch.version.hip} and "
        f"finds no GPU here ({'; '.join(reasons) or 'no driver, or none for this version'}). `nvidia-smi` shows what "
        "the driver sees; install or update it, ask for a node that has a GPU, or take --device cpu."
    )


class _Planner:
    def __init__(self, request: Request, catalogue: Catalogue) -> None:
        self.request, self.catalogue = request, catalogue
        self.tried: dict[tuple[str, str], str] = {}  # why tasks go one after the other, for all seeds
        self.hashes: dict[tuple[str, str], dict[str, str]] = {}  # of the frozen tasks, which all algorithms share

    def cells(self, named_suite: Named, named: Named) -> list[Cell]:
        """One for each seed, which are alike in all else."""
        with foreign(f"{named_suite} with {named} can't be planned"):
            first = self._cell(named_suite, named)
            orders = {seed: self._order(named_suite, first, seed) for seed in self.request.seeds}
        specs = (first.spec.model_copy(update={"seed": seed, "order": order}) for seed, order in orders.items())
        return [replace(first, spec=spec, label=f"{first.label} · seed {spec.seed}") for spec in specs]

    def _cell(self, named_suite: Named, named: Named) -> Cell:
        request = self.request
        suite = suite_of(self.catalogue, named_suite)
        check_kind(self.catalogue, named_suite, suite, named)
        algorithm = algorithm_of(self.catalogue, named, suite)
        if suite.kind not in algorithm.suits:  # which may depend on its fields
            kinds = " and ".join(sorted(algorithm.suits)) or "no kind of task"
            raise BenchError(f"{named} is for {kinds}, and {named_suite} is {suite.kind}.")
        if request.preset not in suite.presets:
            raise unknown("preset", request.preset, suite.presets)
        budget = suite.presets[request.preset]
        trained = view(suite, algorithm.train_view, named.name, self.catalogue)
        tested = view(suite, algorithm.test_view, named.name, self.catalogue)
        suite.sample(1, "train", torch.Generator().manual_seed(0))
        judgement_of(suite).model_dump_json()  # what can be written of it
        why = self._why_by_task(named_suite, trained, named, algorithm)
        engine = "eager" if request.engine == "auto" else _engine(request.engine, suite, algorithm, named.name, why)
        iterations = (request.iterations or budget.iterations) if algorithm.trains else 0
        spec = Spec(
            suite=Component(
                name=named_suite.name,
                given=typed(named_suite, suite),
                parameters=parameters(suite),
                source=source_hash(*suite.made_of),
            ),
            suite_version=suite.version,
            norm=suite.normalisation,
            manifests=self._manifests(named_suite, algorithm.test_view, tested),
            algorithm=Component(
                name=named.name,
                given=typed(named, algorithm),
                parameters=parameters(algorithm),
                source=source_hash(*algorithm.made_of),
            ),
            outer=repr(outer_of(trained, algorithm, iterations)) if algorithm.trains else "",
            seed=0,
            iterations=iterations,
            validate_every=request.validate_every or suite.validate_every,
            selection=request.selection if algorithm.trains and not isinstance(suite, Stream) else "last",
            test_tasks=budget.test_tasks if request.split == "test" else 0,
            validation_tasks=budget.validation_tasks,
            engine=engine,
            by_task=bool(why),
            protocol="online" if isinstance(suite, Stream) else "episodic",
            dtype="float32",
            device=request.device,
            threads=threads_of(request),
            chunk_tasks=request.chunk_tasks if algorithm.trains else None,
        )
        reason = choose.why_eager(suite, algorithm) if request.engine == "compiled" else ""
        return Cell(spec, suite, algorithm, f"{named_suite} · {named}", reason or "asked for", why)

    def _order(self, named: Named, cell: Cell, seed: int) -> str:
        """The hash of a stream's tasks as a seed meets them; nothing of other suites."""
        suite, spec = cell.suite, cell.spec
        if not isinstance(suite, Stream):
            return ""
        rounds = spec.test_tasks or spec.validation_tasks
        if spec.iterations < (least := A_ROUND * rounds):
            option = "--trial-iterations" if self.request.split == "validation" else "--iterations"
            raise BenchError(
                f"{spec.iterations} meta-iterations are too few for the {rounds} rounds of {named}: give {option} "
                f"{least} or more, or a preset with fewer rounds."
            )
        return stream(suite, named.name, self.request.split, seed, rounds)[1]

    def with_threads(self, cells: list[Cell], begun: Begun) -> list[Cell]:
        """The cells with the threads that they were begun with, if those are left open; says what does not count."""
        engines = [("eager", "compiled") if self.request.engine == "auto" else (c.spec.engine,) for c in cells]
        others = [begun.but_for_threads(cell.spec, some) for cell, some in zip(cells, engines, strict=True)]
        for threads in sorted({other.threads for other in others if other}):
            count = sum(other is not None and other.threads == threads for other in others)
            there = f"{count} of these cells {'is' if count == 1 else 'are'} in the store with {_threads(threads)}"
            if self.request.threads is None:
                log.info("%s, which goes on; --threads begins anew", there)
            else:
                log.warning(
                    "%s, which does not count for %s: another number changes digits. --threads %d goes on with that",
                    there, _threads(self.request.threads), threads,
                )  # fmt: skip
        if self.request.threads is not None:
            return cells
        return [
            replace(cell, spec=cell.spec.model_copy(update={"threads": other.threads})) if other else cell
            for cell, other in zip(cells, others, strict=True)
        ]

    def with_engines(self, cells: list[Cell], known: Begun, choice: Choice) -> list[Cell]:
        begun = [_open_engine(cell, known) for cell in cells]
        cases = [self._case(cell) for cell, engine in zip(cells, begun, strict=True) if not engine]
        chosen = iter(choice(cases))
        engines = [engine or next(chosen) for engine in begun]
        return [
            replace(cell, spec=cell.spec.model_copy(update={"engine": engine}), reason=reason)
            for cell, (engine, reason) in zip(cells, engines, strict=True)
        ]

    def _case(self, cell: Cell) -> choose.OpenEngine:
        with foreign(f"{cell.label} can't be planned"):
            suite = view(cell.suite, cell.algorithm.train_view, cell.spec.algorithm.name, self.catalogue)
        return choose.OpenEngine(cell.spec, suite, cell.algorithm)

    def _why_by_task(self, named_suite: Named, suite: Suite, named: Named, algorithm: Learner) -> str:
        key = (str(named_suite), str(named))
        if key not in self.tried:
            try:
                self.tried[key] = networks.why_by_task(suite, algorithm)
            except PluginError as error:
                raise PluginError(f"{named} on {named_suite}: {error}") from error
        return self.tried[key]

    def _manifests(self, named: Named, test_view: str, tested: Suite) -> dict[str, str]:
        key = (str(named), test_view)
        if key not in self.hashes:
            trial = self.request.split == "validation"
            splits: tuple[Split, ...] = ("validation",) if trial else ("test", "validation")
            self.hashes[key] = {
                f"{variant.setting}/{split}": manifest(variant, named.name, split)[1]
                for variant in (tested.evaluations[:1] if trial else tested.evaluations)
                for split in splits
            }
        return self.hashes[key]


def _open_engine(cell: Cell, known: Begun) -> tuple[EngineName, str] | None:
    """The engine with which the cell, or a shorter run that it goes on from, began; eager if no other would do."""
    spec = cell.spec
    if why := choose.why_eager(cell.suite, cell.algorithm):
        return "eager", why
    if spec.by_task:
        return "eager", "one task goes after the other"
    either = [spec.model_copy(update={"engine": engine}) for engine in ("eager", "compiled")]
    for found in (*(s for s in either if s.id in known.ids), *(s for s in either if known.shorter(s))):
        return found.engine, "as the run in the store, which goes on"
    return ("eager", "nothing is trained") if not spec.iterations else None


def _engine(engine: EngineName, suite: Suite, algorithm: Learner, name: str, why_by_task: str) -> EngineName:
    if isinstance(suite, Interactive) and engine == "learn2learn":
        raise BenchError("learn2learn has no suites whose tasks are acted in. Use --engine auto.")
    if engine == "compiled" and why_by_task:
        raise BenchError(f"what goes one task after the other is not compiled: {why_by_task}. Use --engine auto.")
    if engine == "compiled" and (why := choose.why_eager(suite, algorithm)):
        log.info("%s runs eagerly: %s", name, why)
        return "eager"
    if engine != "learn2learn":
        return engine
    if not algorithm.trains:
        return "eager"
    if suite.fixed or suite.draws or batch_norms(suite.skeleton):
        raise BenchError(
            "learn2learn keeps buffers, frozen parameters, dropout and running statistics elsewhere than in what is "
            f"meta-learned, so that its {name} would not be ours. Use --engine auto."
        )
    if algorithm.learn2learn and not learn2learn.wrapper(algorithm):
        raise BenchError(
            f"learn2learn's {name} does not clip inner gradients. Use --engine auto, or leave inner_clip out."
        )
    if not _is_wrapped(algorithm):
        raise BenchError(
            f"learn2learn has no {name}. Use --engine auto, or what it has, such as maml, fomaml and metasgd."
        )
    learn2learn.load()
    return "learn2learn"


def _is_wrapped(algorithm: Learner) -> bool:
    """Whether a wrapper of learn2learn computes what the algorithm does: not if a subclass has changed a method."""
    owner: Any = next(cls for cls in type(algorithm).__mro__ if "learn2learn" in vars(cls))
    methods = ("init", "start", "step", "params", "adapted", "meta_loss")
    return bool(owner.learn2learn) and all(getattr(type(algorithm), m) is getattr(owner, m) for m in methods)


def _threads(number: int) -> str:
    return f"{number} thread{'' if number == 1 else 's'}"


def typed(named: Named, instance: Any) -> dict[str, Any]:
    """The parameters that were named, as they were built."""
    return {name: getattr(instance, name) for name in named.given}
