"""Pictures: adaptation curves, paths, and sheets of a suite's data."""

from pathlib import Path
from typing import Any

from bench.core.discovery import Catalogue
from bench.core.errors import BenchError, unknown
from bench.core.types import Suite
from bench.terminal.tables import console


def draw_curves(root: Path, suite: str | None, path: Path) -> None:
    """Draws the adaptation curves of a suite's finished cells to a picture."""
    from bench.api import load
    from reports import figures
    from reports.comparison import cubes
    from reports.frame import cells

    frame = load(root)
    done = [record for record in frame.store.records() if record.outcome == "finished"]
    known = {record.spec.suite.label: record.judgement for record in done}
    if not known:
        raise BenchError(f"{root} holds no finished cell. `bench run --out {root} ...` makes some.")
    if suite is None and len(known) > 1:
        raise BenchError(f"{root} holds several suites. Name one with --suite: {', '.join(known)}.")
    name = suite or next(iter(known))
    if name not in known:
        raise unknown("suite in this run directory", name, known)
    judged = known[name]
    made = cubes(frame[frame["suite"] == name], cells(done))
    look = figures.looks([*Catalogue().names("algorithm"), *(cube.algorithm for cube in made)])
    metric = f"{judged.headline.name} {judged.headline.unit}".strip()
    _save(figures.adaptation(made, look, metric, judged.after), path)


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


def draw_sheet(suite: Suite, title: str, path: Path) -> None:
    """Draws a look at a suite's data."""
    from reports.sheet import draw

    if path.suffix != ".png":
        raise BenchError(f"--sheet {path} is no PNG. Give a name that ends in .png.")
    try:
        draw(suite.sheet(), title, path)
    except NotImplementedError:
        raise BenchError(f"{title} has nothing to draw: it does not define sheet().") from None
    except OSError as error:
        raise BenchError(f"cannot write {path}: {error.strerror}. Give another --sheet.") from None
