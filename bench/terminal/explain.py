"""`bench show`: what a name means, what it takes and where its values come from."""

import dataclasses
import inspect
import sys
from pathlib import Path
from typing import Any, get_type_hints

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from bench.core.discovery import FOLDERS, Catalogue, Named, allowed, parse
from bench.core.errors import BenchError, MissingExtraError, PluginError, foreign, unknown
from bench.core.labels import shown
from bench.core.stream import Stream
from bench.core.types import Suite
from bench.learning.evaluate import FROZEN
from bench.planning.plan import algorithm_of, meets, suite_of
from bench.terminal.document import gathered
from bench.terminal.draw import draw_sheet
from bench.terminal.tables import console, grid


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
    with foreign(f"{text} can't be shown"):
        facts = _suite_facts(suite_of(catalogue, named)) if kind == "suite" else _algorithm_facts(catalogue, named)
        if sheet:
            draw_sheet(suite_of(catalogue, named), text, sheet)
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


def _suite_facts(suite: Suite) -> RichTable:
    settings = ", ".join(
        f"{v.setting} ({v.normalisation})" if v.normalisation != "none" else v.setting for v in suite.evaluations
    )
    presets = ", ".join(f"{key} {budget.iterations:,}" for key, budget in suite.presets.items())
    facts = {
        "version": str(suite.version),
        "scored on": _scored_on(suite, settings),
        "metrics": ", ".join(f"{m.name} ({m.better} is better)" for m in suite.metrics),
        "report steps": ", ".join(map(str, suite.report_steps)),
        "knowing nothing": f"{suite.floor:.4g}",
        "normalisation": suite.normalisation,
        "meta-iterations": presets,
        "views": ", ".join(view for view in ("oracle_view", "pretraining") if hasattr(suite, view)),
        **{key: f"{setting.value:g}: {setting.source}" for key, setting in suite.protocol.items()},
        "caveat": suite.caveat,
    }
    rows = RichTable(box=None, show_header=False, pad_edge=False)
    for key, value in facts.items() if not gathered("facts", [facts]) else ():
        if value:
            rows.add_row(Text(key, style="bold"), value)
    return rows


def _scored_on(suite: Suite, settings: str) -> str:
    if isinstance(suite, Stream):
        rounds = ", ".join(f"{key} {budget.test_tasks}" for key, budget in suite.presets.items())
        return (
            f"the rounds of a stream of {suite.length} tasks, {settings}: {rounds}, after {suite.known} that are known"
        )
    return f"{FROZEN['test']} test tasks each of {settings}; {FROZEN['validation']} validation tasks"


def _parameters(cls: type[Any]) -> RichTable:
    rows = grid("parameter", "default", "allowed", "meaning")
    hints = get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        meaning = [d for m in getattr(hint, "__metadata__", ()) if (d := getattr(m, "description", None))]
        default = {dataclasses.MISSING: "the suite's", None: "–"}.get(field.default, field.default)
        words = (field.name, shown(default), allowed(hint), *meaning[-1:])
        number = default if isinstance(default, int | float) else words[1]  # widths such as 40,40 are no number
        rows.add_row(*words, values=(words[0], number, *words[2:]))
    return rows


def _algorithm_facts(catalogue: Catalogue, named: Named) -> Group:
    """What each suite's protocol makes of the open fields, as they are then used, and where the values come from."""
    cls = catalogue.load("algorithm", named.name)
    fields = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING or f.name in named.given]
    rows = grid("suite", "setting", *fields, title="with the suites' protocols")
    sources: dict[tuple[str, str], list[str]] = {}
    missing: dict[str, list[str]] = {}
    for name in catalogue.names("suite"):
        try:
            with foreign(f"{name} can't be shown"):
                suite = suite_of(catalogue, Named(name, {}))
                setting, protocol = suite.setting, suite.protocol
        except (MissingExtraError, PluginError) as error:
            missing.setdefault(str(error), []).append(name)
            continue
        if not meets(type(suite), cls):
            continue
        algorithm = algorithm_of(catalogue, named, suite)
        rows.add_row(name, setting, *(_short(getattr(algorithm, field)) for field in fields))
        for field in fields:
            if field in protocol and field not in named.given:
                sources.setdefault((field, protocol[field].source), []).append(name)
    notes = (f"{field} of {', '.join(names)}: {source}" for (field, source), names in sorted(sources.items()))
    absent = (f"not shown: {', '.join(names)}: {error}" for error, names in missing.items())
    return Group(rows, *map(Text, (*notes, *absent)))


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else shown(value)
