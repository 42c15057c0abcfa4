"""What the terminal shows: progress, tables, explanations; plain lines where the output is no terminal."""

import dataclasses
import inspect
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Literal, Self, get_type_hints

import pandas as pd
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table as RichTable
from rich.text import Text

from bench.core.discovery import FOLDERS, Catalogue, Named, allowed, parse
from bench.core.errors import BenchError, unknown
from bench.core.records import Record
from bench.core.types import Suite
from bench.evaluate import FROZEN
from bench.plan import Cell, algorithm_of, suite_of
from bench.train import Training
from reports.table import Table

PIPED_WIDTH = 1_000  # nothing is folded where a program reads
EVERY = 10.0  # seconds between lines of progress where the output is no terminal


def console() -> Console:
    """Standard output; brackets in names are no markup."""
    width = None if sys.stdout.isatty() else PIPED_WIDTH
    return Console(width=width, highlight=False, markup=False, emoji=False)


def table(report: Table) -> None:
    """Prints one suite's comparison, in one piece where it fits and else as scores above costs."""
    out = console()
    whole = _rich(pd.concat([report.scores, report.costs], axis=1), report.title)
    if out.measure(whole).maximum <= out.width:
        out.print(whole)
    else:
        costs = pd.concat([report.scores["algorithm"], report.costs], axis=1).drop_duplicates()
        out.print(_rich(report.scores, report.title), _rich(costs, None))
    out.print(*(Text(note, style="dim") for note in report.notes), "", sep="\n")


def _rich(rows: pd.DataFrame, title: str | None) -> RichTable:
    left = {"algorithm", "setting", "norm", "selected", "outcome"}
    drawn = _frame(*((name, "left" if name in left else "right") for name in rows.columns), title=title)
    for row in rows.itertuples(index=False):
        drawn.add_row(*row)
    return drawn


def _frame(*columns: str | tuple[str, Literal["left", "right"]], title: str | None = None) -> RichTable:
    """An empty table; columns are headings, or pairs of heading and side."""
    drawn = RichTable(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for column in columns:
        if isinstance(column, str):
            column = (column, "left")
        drawn.add_column(column[0], justify=column[1], overflow="fold")
    return drawn


class Progress:
    """A Watch: one live line for the cell at hand on a terminal, a plain line now and then elsewhere."""

    def __init__(self) -> None:
        """Nothing is shown before a cell starts."""
        self.console = Console(stderr=True, highlight=False)
        self.live = Live(console=self.console, refresh_per_second=4, transient=True) if self._tty else None
        self.began = self.said = time.monotonic()
        self.first: int | None = None

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
        self.said, self.first = time.monotonic(), None
        going_on = f", going on from iteration {done:,}" if done else ""
        compiling = ", compiling first" if cell.spec.engine == "compiled" else ""
        what = f"{cell.spec.iterations:,} meta-iterations" if cell.spec.iterations else "no meta-training"
        self._line(f"{cell.label}: {what}{going_on}{compiling}")

    def trains(self, cell: Cell, state: Training) -> None:
        """Shows loss, validation score and the time left."""
        now = time.monotonic()
        if self.first is None:  # the first iteration may compile and foretells nothing
            self.began, self.first = now, state.iteration
        if now - self.said < (0.25 if self.live else EVERY) or state.iteration == self.first:
            return
        self.said = now
        left = (now - self.began) / (state.iteration - self.first) * (cell.spec.iterations - state.iteration)
        losses = state.losses or [row[1] for row in state.curve[-1:]]
        validated = [row[2] for row in state.curve if row[2] is not None]
        score = f"  validation {validated[-1]:.4g}" if validated else ""
        share = 100 * state.iteration / cell.spec.iterations
        self._line(
            f"{cell.label}: {state.iteration:,}/{cell.spec.iterations:,} ({share:.0f} %)  "
            f"loss {statistics.fmean(losses):.4g}{score}  {_span(left)} left",
            live=True,
        )

    def scores(self, cell: Cell) -> None:
        """Says that evaluation begins."""
        self._line(f"{cell.label}: scoring {cell.spec.test_tasks} test tasks", live=True)

    def ends(self, cell: Cell, record: Record, fresh: bool) -> None:
        """Says what became of the cell."""
        took = _span(record.train_seconds + record.compile_seconds + record.evaluate_seconds)
        how = f"{record.outcome} ({took})" if fresh else f"{record.outcome} before"
        self._line(f"{cell.label}: {how}{': ' + record.message if record.message else ''}")

    def _line(self, text: str, live: bool = False) -> None:
        if self.live and live:
            self.live.update(Text(text, overflow="ellipsis", no_wrap=True))
            return
        if self.live:
            self.live.update("")
        self.console.print(Text(text), soft_wrap=True)


def forecast(cells: list[Cell], root: Path) -> None:
    """Prints the cells with a predicted time: the store's measurements, else a few iterations here and now."""
    from bench.forecast import predict

    rows = _frame("cell", "what", "engine", ("iterations", "right"), ("predicted", "right"))
    seconds = list(predict(cells, root))
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
    docs = [sys.modules[cls.__module__].__doc__, cls.__doc__]
    out = console()
    out.print(Text(f"{named.name} ({kind})", style="bold"))
    for doc in docs:
        if doc and not doc.startswith(f"{cls.__name__}("):  # what dataclass makes up is no explanation
            out.print(inspect.cleandoc(doc), "", sep="\n")
    out.print(_parameters(cls), facts)
    if sheet:
        _draw(suite_of(catalogue, named), text, sheet)
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
    sources: dict[str, list[str]] = {}
    for name in catalogue.names("suite"):
        suite = suite_of(catalogue, Named(name, {}))
        algorithm = algorithm_of(catalogue, named, suite)
        rows.add_row(name, suite.setting, *(_short(getattr(algorithm, field)) for field in fields))
        for field in fields:
            if field in suite.protocol and field not in named.given:
                sources.setdefault(f"{field}: {suite.protocol[field].source}", []).append(name)
    return Group(rows, *(Text(f"{source} ({', '.join(names)})") for source, names in sorted(sources.items())))


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def certificate(groups: Any) -> bool:
    """Prints the certificate as it comes; whether nothing is at fault."""
    out = console()
    sound = True
    for name, checks in groups:
        rows = _frame("check", ("figure", "right"), "bound", "verdict", title=name)
        for check in checks:
            sound &= check.verdict != "FAULT"
            style = {"pass": "green", "FAULT": "bold red"}.get(check.verdict, "dim")
            rows.add_row(check.name, check.figure, check.bound, Text(check.verdict, style=style))
        out.print(rows)
    out.print("certified" if sound else "at least one fault: do not trust its numbers")
    return sound


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
