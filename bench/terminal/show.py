"""What the terminal shows: progress, tables, explanations; plain lines where the output is no terminal."""

import dataclasses
import inspect
import statistics
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_type_hints

import pandas as pd
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table as RichTable
from rich.text import Text

from bench.core.discovery import FOLDERS, Catalogue, Named, allowed, parse
from bench.core.errors import BenchError, MissingExtraError, unknown
from bench.core.findings import Audit
from bench.core.records import Record
from bench.core.types import Suite
from bench.learning.evaluate import FROZEN
from bench.learning.training import Training
from bench.planning.plan import Cell, algorithm_of, suite_of
from bench.storage.merge import Merged
from bench.storage.store import Store
from reports.table import Table

if TYPE_CHECKING:
    from optuna.study import Study

    from bench.core.records import Tuning
    from bench.tuning.sweep import Sweep

PIPED_WIDTH = 1_000  # nothing is folded where a program reads
COST_NOTE = (
    "ms: median of alternating rounds with its 95 % interval (bootstrap). x first order: median of the rounds' ratios "
    "to the same algorithm in first order. MB: growth of resident memory at its highest; live MB: of tensors. GFLOP: "
    "counted on the plain algorithm, task by task. % of peak: of a float32 matrix product's rate in the same rounds."
)
EVERY = 10.0  # seconds between lines of progress where the output is no terminal


def console() -> Console:
    """Standard output; brackets in names are no markup."""
    width = None if sys.stdout.isatty() else PIPED_WIDTH
    return Console(width=width, highlight=False, markup=False, emoji=False)


def table(report: Table) -> None:
    """Prints one suite's comparison, in one piece where it fits and else as scores above costs."""
    out = console()
    whole = pd.concat([report.scores, report.costs], axis=1)
    if _width(whole, out) <= out.width:
        out.print(_rich(whole, report.title))
    else:
        costs = pd.concat([report.scores["algorithm"], report.costs], axis=1).drop_duplicates()
        out.print(Text(report.title, style="bold"))
        for part in (report.scores, costs):
            out.print(*(_rich(piece) for piece in _pieces(part, out)), sep="")
    out.print(*(Text(note, style="dim") for note in report.notes), "", sep="\n")


def store(root: Path) -> None:
    """Prints the comparison of everything in a run directory."""
    from bench.api import results
    from reports.table import tables

    held = Store.open(root)
    records = list(held.records())
    for report in tables(results(held, records), records):
        table(report)


def _pieces(rows: pd.DataFrame, out: Console) -> Iterator[pd.DataFrame]:
    """The columns in as many tables as it takes to fit, each with those that say what a row is."""
    keys = [name for name in rows.columns if name in ("algorithm", "setting", "norm")]
    shown = keys
    for name in rows.columns.drop(keys):
        if len(shown) > len(keys) and _width(rows[[*shown, name]], out) > out.width:
            yield rows[shown]
            shown = keys
        shown = [*shown, name]
    yield rows[shown]


def _width(rows: pd.DataFrame, out: Console) -> int:
    return out.measure(_rich(rows), options=out.options.update(width=PIPED_WIDTH)).maximum


def _rich(rows: pd.DataFrame, title: str | None = None) -> RichTable:
    left = {"algorithm", "setting", "norm", "selected", "outcome"}
    drawn = _frame(*rows.columns, right=set(rows.columns) - left, title=title)
    for row in rows.itertuples(index=False):
        drawn.add_row(*row)
    return drawn


def _frame(*columns: str, right: Collection[str] = (), title: str | None = None) -> RichTable:
    """An empty table; the columns in `right` hold numbers."""
    drawn = RichTable(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for name in columns:
        number = name in right
        drawn.add_column(name, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return drawn


class Progress:
    """A Watch: a live line for each running cell on a terminal, a plain line now and then elsewhere."""

    def __init__(self) -> None:
        """Nothing is shown before a cell starts."""
        self.console = Console(stderr=True, highlight=False)
        self.live = Live(console=self.console, refresh_per_second=4, transient=True) if self._tty else None
        self.running: dict[str, _Running] = {}
        self.lost: dict[str, str] = {}  # label -> what happened, of cells that have no record for it

    @property
    def _tty(self) -> bool:
        return self.console.is_terminal

    def __enter__(self) -> Self:
        """Starts the live display on a terminal."""
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Takes it away."""
        if self.live:
            self.live.stop()

    def starts(self, cell: Cell, done: int) -> None:
        """Says which cell begins."""
        self.running[cell.id] = _Running()
        going_on = f", going on from iteration {done:,}" if done else ""
        compiling = ", compiling first" if cell.spec.engine == "compiled" else ""
        what = f"{cell.spec.iterations:,} meta-iterations" if cell.spec.iterations else "no meta-training"
        self._line(f"{cell.label}: {what}{going_on}{compiling}")

    def trains(self, cell: Cell, state: Training) -> None:
        """Shows loss, validation score and the time left."""
        now, its = time.monotonic(), self.running.setdefault(cell.id, _Running())
        if its.first is None:  # the first iteration may compile and foretells nothing
            its.began, its.first = now, state.iteration
        if now - its.said < (0.25 if self.live else EVERY) or state.iteration == its.first:
            return
        its.said = now
        left = (now - its.began) / (state.iteration - its.first) * (cell.spec.iterations - state.iteration)
        losses = state.losses or [row[1] for row in state.curve[-1:]]
        validated = [row[2] for row in state.curve if row[2] is not None]
        score = f"  validation {validated[-1]:.4g}" if validated else ""
        share = 100 * state.iteration / cell.spec.iterations
        self._line(
            f"{cell.label}: {state.iteration:,}/{cell.spec.iterations:,} ({share:.0f} %)  "
            f"loss {statistics.fmean(losses):.4g}{score}  {_span(left)} left",
            its,
        )

    def scores(self, cell: Cell) -> None:
        """Says that evaluation begins."""
        its = self.running.setdefault(cell.id, _Running())
        count = cell.spec.test_tasks or cell.spec.validation_tasks
        self._line(f"{cell.label}: scoring {count} {cell.spec.split} tasks", its)

    def ends(self, cell: Cell, record: Record, fresh: bool) -> None:
        """Says what became of the cell."""
        self.running.pop(cell.id, None), self.lost.pop(cell.label, None)
        took = _span(record.train_seconds + record.compile_seconds + record.evaluate_seconds)
        how = f"{record.outcome} ({took})" if fresh else f"{record.outcome} before"
        self._line(f"{cell.label}: {how}{': ' + record.message if record.message else ''}")

    def loses(self, cell: Cell, message: str, again: bool) -> None:
        """Says that a cell was lost where it ran, and keeps it for the end where it is not sent again."""
        self.running.pop(cell.id, None)
        if not again:
            self.lost[cell.label] = message
        self._line(f"{cell.label}: lost: {message}{'; sent again' if again else ''}")

    def _line(self, text: str, its: "_Running | None" = None) -> None:
        """Prints a line, or on a terminal shows it as that of a running cell."""
        if self.live and its:
            its.line = text
        if self.live:
            lines = [its.line for its in self.running.values() if its.line]
            self.live.update(Group(*(Text(line, overflow="ellipsis", no_wrap=True) for line in lines)))
        if not self.live or not its:
            self.console.print(Text(text), soft_wrap=True)


class _Running:
    """What is known of a running cell."""

    def __init__(self) -> None:
        self.began = self.said = time.monotonic()
        self.first: int | None = None
        self.line = ""


def costs(frame: pd.DataFrame, pictures: Path, runs: Path | None) -> None:
    """Prints what was measured and how it grows, and draws it; also the scores of stored runs against their seconds."""
    from reports import cost
    from reports.frame import progress

    out = console()
    left = {*cost.KEYS}
    for title, rows in (("cost of a meta-iteration", cost.table(frame)), ("how it grows", cost.growth(frame))):
        if len(rows):
            drawn = _frame(*rows.columns, right=set(rows.columns) - left, title=title)
            for row in rows.astype(str).itertuples(index=False):
                drawn.add_row(*row)
            out.print(drawn)
    out.print(Text(COST_NOTE, style="dim"))
    pictures.mkdir(parents=True, exist_ok=True)
    figures = {"steps.png": cost.against_steps(frame)}
    if runs:
        store = Store.open(runs)
        done = [record for record in store.records() if record.outcome == "finished"]
        reached = progress((record, store.read_table(record.cell, "curve.parquet")) for record in done)
        if len(reached):
            figures["seconds.png"] = cost.against_seconds(reached)
        else:
            out.print(f"{runs} holds no validation scores to draw against seconds")
    for name, figure in figures.items():
        figure.savefig(pictures / name, dpi=150)
        out.print(f"drawn to {pictures / name}")


def forecast(cells: list[Cell], root: Path, plugins: tuple[Path, ...]) -> None:
    """Prints the cells with a predicted time: the store's measurements, else a few iterations here and now."""
    from bench.planning.forecast import predict

    rows = _frame("cell", "what", "engine", "iterations", "predicted", right=("iterations", "predicted"))
    seconds = list(predict(cells, root, plugins))
    for cell, time_ in zip(cells, seconds, strict=True):
        predicted = "finished" if time_ == 0 else _span(time_)
        rows.add_row(cell.id, cell.label, cell.spec.engine, f"{cell.spec.iterations:,}", predicted)
    out = console()
    out.print(rows)
    known = _span(sum(filter(None, seconds)))
    unknown_ = f" and {seconds.count(None)} unknown for want of data" if None in seconds else ""
    out.print(f"cells: {len(cells)}, about {known}{unknown_}, in {root}; compiling, where it is, comes on top")


def explain(text: str, plugins: tuple[Path, ...], sheet: Path | None) -> None:
    """Prints what a name means and what it takes, with parameters in brackets or without; draws a sheet if asked."""
    catalogue = Catalogue(plugins)
    named, *others = parse(text)
    if others:
        raise BenchError(f"{text!r} is more than one name. Give one, such as {named.name}.")
    kind = next((kind for kind in FOLDERS if named.name in catalogue.names(kind)), None)
    if kind is None:
        everything = [name for kind in FOLDERS for name in catalogue.names(kind)]
        raise unknown("suite or algorithm", named.name, everything)
    if sheet and kind != "suite":
        raise BenchError(f"--sheet draws suites; {named.name!r} is an algorithm.")
    cls = catalogue.load(kind, named.name)
    facts = _suite_facts(suite_of(catalogue, named)) if kind == "suite" else _algorithm_facts(catalogue, named)
    if sheet:
        _draw(suite_of(catalogue, named), text, sheet)
    docs = [sys.modules[cls.__module__].__doc__, cls.__doc__]
    out = console()
    out.print(Text(f"{named.name} ({kind})", style="bold"))
    for doc in docs:
        if doc and not doc.startswith(f"{cls.__name__}("):  # what dataclass makes up is no explanation
            for paragraph in inspect.cleandoc(doc).split("\n\n"):
                out.print(paragraph.replace("\n", " "), "", sep="\n")
    out.print(_parameters(cls), facts)
    if sheet:
        out.print(f"drawn to {sheet}")


def _draw(suite: Suite, title: str, path: Path) -> None:
    from reports.sheet import draw

    if path.suffix != ".png":
        raise BenchError(f"--sheet {path} is no PNG. Give a name that ends in .png.")
    try:
        draw(suite.sheet(), title, path)
    except NotImplementedError:
        raise BenchError(f"{title} has nothing to draw: it does not define sheet().") from None
    except OSError as error:
        raise BenchError(f"cannot write {path}: {error.strerror}. Give another --sheet.") from None


def _suite_facts(suite: Suite) -> RichTable:
    settings = ", ".join(f"{v.setting} ({v.norm})" if v.norm != "none" else v.setting for v in suite.evaluations)
    presets = ", ".join(f"{key} {budget.iterations:,}" for key, budget in suite.presets.items())
    facts = {
        "version": str(suite.version),
        "scored on": f"{FROZEN['test']} test tasks each of {settings}; {FROZEN['validation']} validation tasks",
        "metrics": ", ".join(f"{m.name} ({m.better} is better)" for m in suite.metrics),
        "report steps": ", ".join(map(str, suite.report_steps)),
        "knowing nothing": f"{suite.floor:.4g}",
        "normalisation": suite.norm,
        "meta-iterations": presets,
        "views": ", ".join(view for view in ("oracle_view", "pretraining") if hasattr(suite, view)),
        **{key: f"{setting.value:g}: {setting.source}" for key, setting in suite.protocol.items()},
        "caveat": suite.caveat,
    }
    rows = RichTable(box=None, show_header=False, pad_edge=False)
    for key, value in facts.items():
        if value:
            rows.add_row(Text(key, style="bold"), value)
    return rows


def _parameters(cls: type[Any]) -> RichTable:
    rows = _frame("parameter", "default", "allowed", "meaning")
    hints = get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        meaning = next((m.description for m in getattr(hint, "__metadata__", ()) if hasattr(m, "description")), None)
        default = {dataclasses.MISSING: "the suite's", None: "–"}.get(field.default, field.default)
        rows.add_row(field.name, str(default), allowed(hint), meaning or "")
    return rows


def _algorithm_facts(catalogue: Catalogue, named: Named) -> Group:
    """What each suite's protocol makes of the open fields, as they are then used, and where the values come from."""
    cls = catalogue.load("algorithm", named.name)
    fields = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING or f.name in named.given]
    rows = _frame("suite", "setting", *fields, title="with the suites' protocols")
    sources: dict[tuple[str, str], list[str]] = {}
    missing: dict[str, list[str]] = {}
    for name in catalogue.names("suite"):
        try:
            suite = suite_of(catalogue, Named(name, {}))
        except MissingExtraError as error:
            missing.setdefault(str(error), []).append(name)
            continue
        algorithm = algorithm_of(catalogue, named, suite)
        rows.add_row(name, suite.setting, *(_short(getattr(algorithm, field)) for field in fields))
        for field in fields:
            if field in suite.protocol and field not in named.given:
                sources.setdefault((field, suite.protocol[field].source), []).append(name)
    notes = (f"{field} of {', '.join(names)}: {source}" for (field, source), names in sorted(sources.items()))
    absent = (f"not shown: {', '.join(names)}: {error}" for error, names in missing.items())
    return Group(rows, *map(Text, (*notes, *absent)))


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def draw_curves(root: Path, suite: str | None, path: Path) -> None:
    """Draws the adaptation curves of a suite's finished cells to a picture."""
    from bench.api import load
    from reports import figures
    from reports.comparison import cubes
    from reports.frame import cells, label, told_apart

    frame = load(root)
    done = [record for record in frame.store.records() if record.outcome == "finished"]
    known = {label(record.spec.suite): record.judgement for record in done}
    if not known:
        raise BenchError(f"{root} holds no finished cell. `bench run --out {root} ...` makes some.")
    if suite is None and len(known) > 1:
        raise BenchError(f"{root} holds several suites. Name one with --suite: {', '.join(known)}.")
    name = suite or next(iter(known))
    if name not in known:
        raise unknown("suite in this run directory", name, known)
    judged = known[name]
    made = cubes(told_apart(frame[frame["suite"] == name]), cells(done))
    look = figures.looks([*Catalogue().names("algorithm"), *(cube.algorithm for cube in made)])
    _save(figures.adaptation(made, look, f"{judged.metric} {judged.unit}".strip(), judged.floor), path)


def draw_paths(root: Path, suite: str | None, algorithm: str | None, path: Path, plugins: tuple[Path, ...]) -> None:
    """Draws where a finished cell's policy walks before and after each inner step."""
    from bench.reporting.paths import walks
    from reports.paths import draw

    title, found = walks(root, suite, algorithm, plugins)
    _save(draw(found, title), path)


def _save(figure: Any, path: Path) -> None:
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise BenchError(f"cannot write {path}: {error}. Give another file, such as curves.png.") from None
    console().print(f"drawn to {path}")


def sweeps(found: "list[Sweep]") -> None:
    """Prints what a sweep will do: the same for all, and what each algorithm searches."""
    out = console()
    for suite in dict.fromkeys(str(sweep.named[0]) for sweep in found):
        here = [sweep for sweep in found if str(sweep.named[0]) == suite]
        request, settings, spec = here[0].request, here[0].settings, here[0].cell.spec
        share = "" if settings.pruner == "none" else f", pruned by {settings.pruner}: budgets will be unequal"
        out.print(
            f"{suite}: for each algorithm {settings.trials} trials of {request.iterations:,} meta-iterations, seeds "
            f"{','.join(map(str, request.seeds))}, in rounds of {settings.batch} by {settings.sampler}{share}; "
            f"scored on {spec.validation_tasks} validation tasks after {here[0].cell.suite.report_steps[-1]} steps"
        )
        for sweep in here:
            ranges = (
                f"{name} {low:g} to {high:g}{' (logarithmic)' if log else ''}"
                for name, (low, high, log) in sweep.ranges.items()
            )
            out.print(f"  {sweep.named[1]}: {', '.join(ranges)}")


def swept(done: "list[tuple[Tuning, Study]]", root: Path) -> None:
    """Prints what the sweeps chose and what it cost, draws them, and says what comes next."""
    from bench.storage.store import TUNING
    from reports import tuning as drawn
    from reports.figures import looks
    from reports.frame import label

    out = console()
    tunings = [tuning for tuning, _ in done]
    summary = drawn.summary(tunings)
    rows = _frame(*summary.columns, right=set(summary.columns) - {"suite", "algorithm", "chosen", "of them"})
    for row in summary.itertuples(index=False):
        rows.add_row(*row)
    out.print(rows)
    pictures = []
    if any(tuning.trials for tuning in tunings):
        look = looks([*Catalogue().names("algorithm"), *(label(tuning.algorithm) for tuning in tunings)])
        pictures.append((root / TUNING / "budget.png", drawn.budget(tunings, look)))
    for tuning, study in done:
        folder = root / TUNING / tuning.study
        pictures += [(folder / name, figure) for name, figure in drawn.pictures(study, tuning).items()]
    for path, figure in pictures:
        figure.savefig(path, dpi=150)
        out.print(f"drawn to {path}")
    out.print(f"stored in {root / TUNING}; `bench run --tuned` takes the chosen values")


def certificate(groups: Any) -> bool:
    """Prints the certificate as it comes; whether nothing is at fault."""
    out = console()
    sound = True
    for name, checks in groups:
        rows = _frame("check", "figure", "bound", "verdict", right=("figure",), title=name)
        for check in checks:
            sound &= check.verdict != "FAULT"
            style = {"pass": "green", "FAULT": "bold red"}.get(check.verdict, "dim")
            rows.add_row(check.name, check.figure, check.bound, Text(check.verdict, style=style))
        out.print(rows)
    out.print("certified" if sound else "at least one fault: do not trust its numbers")
    return sound


def audit(found: Audit) -> bool:
    """Prints what an audit found, and which comparisons stand; whether all do."""
    out = console()
    for finding in found.findings:
        style = "bold red" if finding.severity == "fault" else "yellow"
        out.print(Text(f"{finding.severity.upper()}  {finding.suite}: {finding.what}", style=style))
        out.print(Text(f"  {finding.message}"), Text(f"  {finding.advice}", style="dim"), sep="\n", soft_wrap=True)
    for comparison in found.comparisons:
        names = ", ".join(comparison.algorithms)
        if comparison.why_not:
            out.print(Text(f"{comparison.suite}: {names} compares with none: {comparison.why_not}"), soft_wrap=True)
        elif len(comparison.algorithms) > 1:
            out.print(Text(f"{comparison.suite}: {names} may be compared with one another"), soft_wrap=True)
        else:
            out.print(Text(f"{comparison.suite}: {names} has nothing to be compared with"), soft_wrap=True)
    cautions = sum(finding.severity == "caution" for finding in found.findings)
    faults = len(found.findings) - cautions
    verdict = "sound" if found.sound else "not every comparison stands"
    out.print(f"faults: {faults}, cautions: {cautions}: {verdict}")
    return found.sound


def merged(cells: Iterable[Merged], into: Path) -> None:
    """Prints what became of the cells of a merge, those that need no word as a count."""
    out = console()
    counts: dict[str, int] = {}
    for cell in cells:
        counts[cell.what] = counts.get(cell.what, 0) + 1
        if cell.message:
            out.print(Text(f"{cell.what}  {cell.cell} of {cell.source}: {cell.message}"), soft_wrap=True)
    said = {"copied": "copied", "equal": "already there", "differs": "DIFFER", "kept": "kept as they were"}
    out.print(", ".join(f"{n} {said[what]}" for what, n in counts.items()) or "no cells", f"in {into}", sep=", ")
    if counts.get("differs"):
        out.print(f"results that differ make comparisons invalid: `bench audit {into}` says which")


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
