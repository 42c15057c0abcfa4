"""What the terminal shows: progress, tables, explanations; plain lines where the output is no terminal."""

import dataclasses
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Self, get_type_hints

import click
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table as RichTable
from rich.text import Text

from bench.core.discovery import Catalogue, Named
from bench.core.errors import BenchError, unknown
from bench.core.records import Record
from bench.plan import Cell, suite_of
from bench.train import Training
from reports.table import SCORES, Table

PIPED_WIDTH = 200
EVERY = 10.0  # seconds between lines of progress where the output is no terminal


def console() -> Console:
    """Standard output; a pipe gets wide, plain lines."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False, soft_wrap=False)


def table(report: Table) -> None:
    """Prints one suite's comparison, in one piece where it fits and else as scores above costs."""
    out = console()
    whole = _rich(report.rows, report.title)
    if out.measure(whole).maximum <= out.width:
        out.print(whole)
    else:
        ends = report.rows.columns.get_loc("tasks")
        out.print(_rich(report.rows.iloc[:, :ends], report.title))
        out.print(_rich(report.rows[["algorithm", *report.rows.columns[ends:]]].drop_duplicates(), None))
    for note in report.notes:
        out.print(Text(note, style="dim"))


def _rich(rows: Any, title: str | None) -> RichTable:
    drawn = RichTable(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for name in rows.columns:
        text = name in (*SCORES, "selected", "outcome")
        drawn.add_column(name, justify="left" if text else "right", overflow="fold")
    for row in rows.itertuples(index=False):
        drawn.add_row(*row)
    return drawn


class Progress:
    """A Watch: one live line for the cell at hand on a terminal, a plain line now and then elsewhere."""

    def __init__(self) -> None:
        """Nothing is shown before a cell starts."""
        self.console = Console(stderr=True, highlight=False)
        self.live = Live(console=self.console, refresh_per_second=4, transient=True) if self._tty else None
        self.began = self.said = time.monotonic()
        self.first = 0

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
        self.began = self.said = time.monotonic()
        self.first = done
        going_on = f", going on from iteration {done:,}" if done else ""
        compiling = ", compiling first" if cell.spec.engine == "compiled" else ""
        self._line(f"{cell.label}: {cell.spec.iterations:,} meta-iterations{going_on}{compiling}")

    def trains(self, cell: Cell, state: Training) -> None:
        """Shows loss, validation score and the time left."""
        now = time.monotonic()
        if now - self.said < (0.25 if self.live else EVERY):
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

    rows = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("cell", "what", "engine", "iterations", "predicted"):
        rows.add_column(name, justify="right" if name in ("iterations", "predicted") else "left", overflow="fold")
    total = 0.0
    for cell in cells:
        seconds = predict(cell, root)
        total += seconds or 0
        predicted = "finished" if seconds == 0 else _span(seconds)
        rows.add_row(cell.id, cell.label, cell.spec.engine, f"{cell.spec.iterations:,}", predicted)
    out = console()
    out.print(rows)
    out.print(f"{len(cells)} cells, about {_span(total)}, in {root}; compiling, where it is, comes on top")


def explain(name: str, plugins: tuple[Path, ...], sheet: Path | None) -> None:
    """Prints what a name means and what it takes; draws the contact sheet if asked."""
    catalogue = Catalogue(plugins)
    for kind in ("suite", "algorithm"):
        if name in catalogue.names(kind):  # type: ignore[arg-type]  # mypy widens the literals of a loop
            break
    else:
        raise unknown("suite or algorithm", name, [*catalogue.names("suite"), *catalogue.names("algorithm")])
    out = console()
    cls = catalogue.load(kind, name)  # type: ignore[arg-type]
    module_doc = sys.modules[cls.__module__].__doc__ or ""
    out.print(Text(f"{name} ({kind})", style="bold"))
    out.print(Text(module_doc.strip()), "", Text(cls.__doc__ or ""), sep="\n")
    out.print(_parameters(cls))
    if kind == "algorithm":
        if sheet:
            raise BenchError(f"--sheet draws suites; {name!r} is an algorithm.")
        out.print(_protocols(cls, catalogue))
        return
    suite = suite_of(catalogue, Named(name, {}))
    facts = RichTable(box=None, show_header=False, pad_edge=False)
    for key, value in _facts(suite, name):
        facts.add_row(Text(key, style="bold"), value)
    out.print(facts)
    if sheet:
        from reports.sheet import draw

        try:
            draw(suite.sheet(), name, sheet)
        except OSError as error:
            raise BenchError(f"cannot write {sheet}: {error.strerror}. Give another --sheet.") from None
        out.print(f"drawn to {sheet}")


def _facts(suite: Any, name: str) -> list[tuple[str, str]]:
    settings = ", ".join(f"{v.setting} ({v.norm})" if v.norm != "none" else v.setting for v in suite.evaluations)
    presets = ", ".join(f"{key} {b.iterations:,}" for key, b in suite.presets.items())
    facts = [
        ("version", str(suite.version)),
        ("scored on", f"600 test tasks each of {settings}; 200 validation tasks"),
        ("metrics", ", ".join(f"{m.name} ({m.better} is better)" for m in suite.metrics)),
        ("report steps", ", ".join(map(str, suite.report_steps))),
        ("knowing nothing", f"{suite.floor:.4g}"),
        ("normalisation", suite.norm),
        ("meta-iterations", presets),
        *((f"protocol: {key}", f"{s.value:g}  {s.source}") for key, s in suite.protocol.items()),
        ("views", ", ".join(v for v in ("oracle_view", "pretraining") if hasattr(suite, v))),
    ]
    return [*facts, *([("caveat", suite.caveat)] if suite.caveat else [])]


def _parameters(cls: type[Any]) -> RichTable:
    rows = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("parameter", "default", "allowed", "meaning"):
        rows.add_column(heading, overflow="fold")
    hints = get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        info = next((m for m in getattr(hint, "__metadata__", ()) if hasattr(m, "description")), None)
        kind = getattr(hint, "__origin__", hint)
        bounds = " ".join(str(m) for m in getattr(info, "metadata", ()))
        default = "by the suite's protocol" if field.default is dataclasses.MISSING else str(field.default)
        name = getattr(kind, "__name__", str(kind)) if isinstance(kind, type) else str(kind)
        allowed = f"{name.replace('typing.', '')} {bounds}".strip()
        rows.add_row(field.name, default, allowed, info.description if info and info.description else "")
    return rows


def _protocols(cls: type[Any], catalogue: Catalogue) -> RichTable:
    open_fields = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
    rows = RichTable(title="what the suites' protocols fill in", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("suite", *open_fields, "source of the rate"):
        rows.add_column(heading, overflow="fold")
    for name in catalogue.names("suite"):
        protocol = suite_of(catalogue, Named(name, {})).protocol
        values = (f"{protocol[f].value:g}" if f in protocol else "–" for f in open_fields)
        rate = protocol.get("inner_lr")
        rows.add_row(name, *values, rate.source if rate and "inner_lr" in open_fields else "")
    return rows


def certificate(groups: Any) -> bool:
    """Prints the certificate as it comes; whether nothing is at fault."""
    out = console()
    sound = True
    for name, checks in groups:
        rows = RichTable(title=name, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in ("check", "figure", "bound", "verdict"):
            rows.add_column(heading, overflow="fold", justify="left" if heading != "figure" else "right")
        for check in checks:
            sound &= check.verdict != "FAULT"
            style = {"pass": "green", "FAULT": "bold red"}.get(check.verdict, "dim")
            rows.add_row(check.name, check.figure, check.bound, Text(check.verdict, style=style))
        out.print(Group(rows))
    click.echo("certified" if sound else "at least one fault: do not trust its numbers")
    return sound


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
