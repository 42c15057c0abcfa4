"""Printed tables: comparison, costs, forecast, sweeps, certificate, audit, answers, merge."""

import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from bench.core.discovery import Catalogue
from bench.core.errors import DataError, PluginError
from bench.core.findings import Audit
from bench.core.labels import span
from bench.planning.plan import Cell
from bench.storage.merge import Merged
from bench.storage.store import Store, claim, tunings
from bench.terminal.document import gathered, value
from bench.terminal.outlet import sayable
from reports.views import COSTS, HARM, ROBUST, VERDICTS, View, columns_of, comparisons
from reports.views import reproduced as reproductions

if TYPE_CHECKING:
    from optuna.study import Study

    from bench.core.records import Tuning
    from bench.reporting.classify import Answers
    from bench.tuning.sweep import Sweep

SAID_ONCE = ("setting", "norm", "tasks", "seeds", "iterations", "selected", "outcome")  # where all rows agree
UNUSABLE = "Each trial's log.txt says why; give more trials or meta-iterations, or other ranges (--search)."
PIPED_WIDTH = 1_000  # nothing is folded where a program reads
COST_MARK, COST_KIND = "cost.json", "folder of `bench cost`'s"
ADAPTING = "cost of adapting to a test task, eager"
COST_NOTE = (
    "ms: median of alternating rounds with its 95 % interval (bootstrap). x first order: median of the rounds' ratios "
    "to the same algorithm in first order. MB: growth of resident memory at its highest; live MB: of tensors. GFLOP: "
    "counted on the plain algorithm, task by task. % of peak: of a float32 matrix product's rate in the same rounds. "
    "Adapting: so many inner steps (the suite's last report step, or as many as a learner looks once in) and one "
    "prediction of the query, tasks side by side; no environment's time. FLOPs are of matrix products and convolutions."
)


def console() -> Console:
    """Standard output; brackets in names are no markup."""
    width = None if sys.stdout.isatty() else PIPED_WIDTH
    return Console(width=width, highlight=False, markup=False, emoji=False)


def comparison(view: View) -> None:
    """Prints one suite's comparison, in one piece where it fits and else as scores above costs.

    In pieces it has medians only where they decide what is marked, and not whom adaptation harms: they would treble its
    length.
    """
    out = console()
    if gathered(view.title, [{n: c.plain for n, c in zip(view.columns, row, strict=True)} for row in view.rows]):
        out.print(*map(Text, view.notes), sep="\n")
        return
    right = {name for name, number in columns_of(view) if number}
    rows = view.frame(best="* {}", level="≈ {}")
    shared = [name for name in SAID_ONCE if name in rows and rows[name].nunique() == 1]
    said = [f"in every row: {', '.join(f'{name} {rows[name].iloc[0]}' for name in shared)}"] if shared else []
    rows = rows.drop(columns=shared)
    if _width(rows, right, out) <= out.width:
        out.print(_rich(rows, right, view.title))
    else:
        out.print(Text(view.title, style="bold"))
        costs = [name for name in COSTS if name in rows]
        harm, unmarked = [n for n in view.columns if n.startswith(tuple(HARM))], _unmarked(view)
        parts = [rows.drop(columns=[*costs, *unmarked, *harm])]
        parts += [rows[["algorithm", *costs]].drop_duplicates()] if costs else []
        for part in parts:
            out.print(*(_rich(piece, right) for piece in _pieces(part, right, out)), sep="")
        left = [*(HARM if harm else ()), *(["medians"] if unmarked else [])]
        said += [f"{', '.join(left)}: in a wider terminal, or by `bench report`"] if left else []
    notes = [note.replace("bold", "*", 1) if note.startswith("bold: ") else note for note in view.notes]
    out.print(*(Text(note, style="dim") for note in (*said, *notes)), "", sep="\n")


def stored(root: Path) -> None:
    """Prints the comparison of everything in a run directory."""
    from bench.api import results

    held = Store.open(root)
    records = list(held.records())
    if not records:
        chosen(list(tunings(root)))
        return
    for view in comparisons(results(held, records), records):
        comparison(view)


def chosen(found: "list[Tuning]") -> None:
    """Prints what sweeps chose and what it cost."""
    from reports import tuning as drawn

    summary = drawn.summary(found)
    rows = grid(*summary.columns, right=set(summary.columns) - {"suite", "algorithm", "chosen", "of them"})
    for row in summary.itertuples(index=False):
        rows.add_row(*row)
    console().print(rows)


def _unmarked(view: View) -> list[str]:
    """Columns of medians and the like, if none of them has a mark."""
    robust = [i for i, name in enumerate(view.columns) if name.startswith(tuple(ROBUST.values()))]
    return [] if any(row[i].mark for row in view.rows for i in robust) else [view.columns[i] for i in robust]


def _pieces(rows: pd.DataFrame, right: Collection[str], out: Console) -> Iterator[pd.DataFrame]:
    """The columns in as many tables as it takes to fit, each with those that say what a row is."""
    keys = [name for name in rows.columns if name in ("algorithm", "setting", "norm")]
    shown = keys
    for name in rows.columns.drop(keys):
        if len(shown) > len(keys) and _width(rows[[*shown, name]], right, out) > out.width:
            yield rows[shown]
            shown = keys
        shown = [*shown, name]
    yield rows[shown]


def _width(rows: pd.DataFrame, right: Collection[str], out: Console) -> int:
    return out.measure(_rich(rows, right), options=out.options.update(width=PIPED_WIDTH)).maximum


def _rich(rows: pd.DataFrame, right: Collection[str], title: str | None = None) -> RichTable:
    heads = {name: name.replace(": ", ":\n") for name in rows.columns}  # a suite's name above what is said of it
    drawn = grid(*heads.values(), right={heads[name] for name in right if name in heads}, title=title)
    for row in rows.itertuples(index=False):
        drawn.add_row(*(Text(text, style="bold" if text.startswith("* ") else "") for text in row))
    return drawn


class _Grid(RichTable):
    """A table whose cells are said in words that the terminal has before they are measured."""

    def __init__(self, **options: Any) -> None:
        """As rich's."""
        super().__init__(**options)
        self.records: list[dict[str, Any]] = []

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Drawn for people; for programs its rows are gathered."""
        title = self.title.plain if isinstance(self.title, Text) else self.title
        if not gathered(str(title or ""), self.records):
            yield from super().__rich_console__(console, options)

    def add_row(self, *cells: Any, values: Sequence[Any] | None = None, **options: Any) -> None:
        """As rich's; `values` are what the cells say, for programs."""
        plain = [cell.plain if isinstance(cell, Text) else cell for cell in cells]
        names = [str(column.header) for column in self.columns]
        self.records.append(dict.fromkeys(names, "") | dict(zip(names, values or map(value, plain), strict=False)))
        encoding = sys.stdout.encoding or "utf-8"
        said = (
            Text(sayable(c.plain, encoding), c.style) if isinstance(c, Text) else sayable(c, encoding) for c in cells
        )
        super().add_row(*said, **options)


def grid(*columns: str, right: Collection[str] = (), title: str | None = None) -> _Grid:
    """An empty table; the columns in `right` hold numbers."""
    drawn = _Grid(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for name in columns:
        number = name in right
        drawn.add_column(name, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return drawn


def used(rows: list[dict[str, object]], dropped: dict[str, str]) -> None:
    """Prints what a suite would use of somebody's images, and what it leaves out."""
    out = console()
    if gathered("used", rows) and gathered("left out", [{"what": k, "why": why} for k, why in dropped.items()]):
        return
    table = grid(*rows[0], right=set(rows[0]) - {"split"})
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row.values()))
    out.print(table)
    for what, why in dropped.items():
        out.print(Text(f"left out: {what}: {why}"), soft_wrap=True)


def costs(frame: pd.DataFrame, pictures: Path, runs: Path | None) -> None:
    """Prints what was measured and how it grows, and draws it; also the scores of stored runs against their seconds."""
    from reports import cost
    from reports.frame import progress

    out = console()
    left = {*cost.KEYS}
    whole = gathered("cost of a meta-iteration", frame.to_dict("records"))
    titled = {"cost of a meta-iteration": cost.table, "how it grows": cost.growth, ADAPTING: cost.adapting}
    for title, rows in () if whole else ((title, made(frame)) for title, made in titled.items()):
        if len(rows):
            drawn = grid(*rows.columns, right=set(rows.columns) - left, title=title)
            for row in rows.astype(str).itertuples(index=False):
                drawn.add_row(*row)
            out.print(drawn)
    out.print(Text(COST_NOTE, style="dim"))
    claim(pictures, COST_MARK, COST_KIND)
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


def forecast(cells: list[Cell], root: Path, plugins: tuple[Path, ...]) -> bool:
    """Prints the cells with a predicted time, by the store's measurements or a few iterations; whether all can run."""
    from bench.planning.forecast import predict

    rows = grid("cell", "what", "engine", "iterations", "predicted", right=("iterations", "predicted"))
    found = list(predict(cells, root, plugins))
    for cell, its in zip(cells, found, strict=True):
        predicted = "finished" if its.seconds == 0 else span(its.seconds)
        cells_of_row = (cell.id, cell.label, cell.spec.engine, f"{cell.spec.iterations:,}", predicted)
        rows.add_row(*cells_of_row, values=(*cells_of_row[:3], cell.spec.iterations, its.seconds))
    out = console()
    out.print(rows)
    known = span(sum(its.seconds or 0 for its in found))
    lacking, broken = (sum(isinstance(f.error, kind) for f in found) for kind in (DataError, PluginError))
    more = f" and {lacking} unknown for want of data" if lacking else ""
    more += f" and {broken} that break" if broken else ""
    out.print(f"cells: {len(cells)}, about {known}{more}, in {root}; compiling, where it is, comes on top")
    for message in dict.fromkeys(str(its.error) for its in found if isinstance(its.error, PluginError)):
        out.print(Text(message), soft_wrap=True)
    return not broken


def sweeps(found: "list[Sweep]") -> None:
    """Prints what a sweep will do: the same for all, and what each algorithm searches."""
    from bench.tuning.space import described

    out = console()
    for suite in dict.fromkeys(str(sweep.named[0]) for sweep in found):
        here = [sweep for sweep in found if str(sweep.named[0]) == suite]
        request, settings, spec = here[0].request, here[0].settings, here[0].cell.spec
        share = "" if settings.pruner == "none" else f", pruned by {settings.pruner}: budgets will be unequal"
        out.print(
            f"{suite}: for each algorithm {settings.trials} trials of {request.iterations:,} meta-iterations, seeds "
            f"{','.join(map(str, request.seeds))}, in rounds of {settings.batch} by {settings.sampler}{share}; "
            f"scored on {spec.validation_tasks} validation tasks after {here[0].cell.suite.report_steps[-1]} "
            f"{'points' if spec.protocol == 'online' else 'steps'}"
        )
        for sweep in here:
            ranges = (f"{name} {described(found)}" for name, found in sweep.space.items())
            out.print(f"  {sweep.named[1]}: {', '.join(ranges)}")
            outside = [f"{n}={v}" for n, v in sweep.protocol.items() if v != sweep.default[n]]
            if outside:
                out.print(f"    the protocol's {', '.join(outside)} lies outside; the first trial is the nearest to it")


def swept(done: "list[tuple[Tuning, Study]]", root: Path) -> None:
    """Prints what the sweeps chose and what it cost, draws them, and says what comes next."""
    from bench.storage.store import TUNING
    from reports import tuning as drawn
    from reports.figures import looks

    out = console()
    tunings = [tuning for tuning, _ in done]
    chosen(tunings)
    pictures = []
    if any(tuning.trials for tuning in tunings):
        look = looks([*Catalogue().names("algorithm"), *(tuning.algorithm.label for tuning in tunings)])
        pictures.append((root / TUNING / "budget.png", drawn.budget(tunings, look)))
    for tuning, study in done:
        folder = root / TUNING / tuning.study
        pictures += [(folder / name, figure) for name, figure in drawn.pictures(study, tuning).items()]
    for path, figure in pictures:
        figure.savefig(path, dpi=150)
        out.print(f"drawn to {path}")
    out.print(f"stored in {root / TUNING}")
    unusable = [f"{t.algorithm.label} on {t.suite.label}" for t in tunings if t.best is None]
    if len(unusable) < len(tunings):
        out.print("`bench run --tuned` takes the chosen values")
    if unusable:
        out.print(f"no trial of {' and '.join(unusable)} has a finite score: there is nothing to take. {UNUSABLE}")


def certificate(groups: Any) -> bool:
    """Prints the certificate as it comes; whether nothing is at fault."""
    out = console()
    sound = True
    for name, checks in groups:
        rows = grid("check", "figure", "bound", "verdict", right=("figure",), title=name)
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
    shown = (("findings", found.findings), ("comparisons", found.comparisons))
    if all(gathered(title, [asdict(each) for each in several]) for title, several in shown):
        return found.sound
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


def answers(found: "Answers") -> None:
    """Prints what images are taken for."""
    rows = grid("file", "class", "probability", right=("probability",))
    for row in found.rows:
        rows.add_row(row.file, row.answer, f"{row.probability:.3f}", values=row)
    out = console()
    out.print(rows)
    if found.caveat:
        out.print(Text(found.caveat, style="dim"), soft_wrap=True)


def reproduced(rows: pd.DataFrame) -> None:
    """Prints published values beside ours."""
    out = console()
    if gathered("published values", [{"row": index, **row} for index, row in rows.to_dict("index").items()]):
        return
    for view in reproductions(rows):
        table = grid(*view.columns, title=view.title)
        for row in view.rows:
            table.add_row(*(cell.text for cell in row))
        out.print(table)
        out.print(*(Text(note, style="dim") for note in view.notes), "", sep="\n", soft_wrap=True)
    out.print(Text(VERDICTS, style="dim"), soft_wrap=True)


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
