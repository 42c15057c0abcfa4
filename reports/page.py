"""A report's files: one HTML page that needs no other, figures as SVG, PNG and PDF, tables for people and machines."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from bench.core.findings import Audit
from reports.figures import INK
from reports.views import View, columns_of

LOST = "replace"  # names of files need not be text
FORMATS = ("svg", "png", "pdf")
SALT: dict[Any, Any] = {"svg.hashsalt": "bench"}  # the same figure, the same file


@dataclass(frozen=True)
class Picture:
    """A figure and what it shows."""

    name: str  # of its files
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Report:
    """All that a report says; everything in it is taken for text, never for markup."""

    title: str
    subtitle: str
    audit: Audit
    summary: Sequence[str]
    scores: Sequence[View]
    analyses: Sequence[View]
    pictures: Sequence[Picture]
    cells: View
    commands: Sequence[str]
    command_notes: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def views(self) -> list[View]:
        """All tables."""
        return [*self.scores, *self.analyses, self.cells]


def publish(
    report: Report, folder: Path, frames: Mapping[str, pd.DataFrame], write: Callable[[Path, bytes], None]
) -> Path:
    """Writes the report's files into the folder and gives the page's path.

    Args:
        report: what to say.
        folder: an existing folder; index.html, figures/, tables/ and data/ come into it.
        frames: name -> numbers for machines, each written as CSV, or as Parquet where a name says so.
        write: writes one file, whole or not at all.
    """
    for name in ("figures", "tables", "data"):
        (folder / name).mkdir(exist_ok=True)
    drawn = []
    for picture in report.pictures:
        contents = draw(picture.figure)
        for form, content in contents.items():
            write(folder / "figures" / f"{picture.name}.{form}", content)
        drawn.append((picture, contents["svg"].decode()))
    for view in report.views:
        write(folder / "tables" / f"{view.name}.tex", view.latex().encode(errors=LOST))
    write(folder / "tables" / "report.md", markdown(report).encode(errors=LOST))
    for name, frame in frames.items():
        path = folder / "data" / name
        write(
            path,
            frame.to_parquet(index=False)
            if path.suffix == ".parquet"
            else frame.to_csv(index=False).encode(errors=LOST),
        )
    page = folder / "index.html"
    write(page, html(report, drawn).encode(errors=LOST))
    return page


def draw(figure: Figure) -> dict[str, bytes]:
    """The figure's files by format."""
    contents = {}
    with matplotlib.rc_context(SALT):
        for form in FORMATS:
            file = io.BytesIO()
            metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
            figure.savefig(file, format=form, dpi=150, metadata=metadata, transparent=form == "svg")
            contents[form] = file.getvalue()
            figure.set_layout_engine(None)  # it is laid out: a further format need not do it again
    return contents


def html(report: Report, drawn: Sequence[tuple[Picture, str]]) -> str:
    """The page; what is not markup of ours is escaped by the template."""
    library = files("itables").joinpath("html")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(files("reports").joinpath("page.html").read_text("utf-8"))
    code = library.joinpath("dt_bundle.js").read_bytes()
    return template.render(
        title=report.title,
        subtitle=report.subtitle,
        version=version("meta-bench"),
        audit=report.audit,
        summary=report.summary,
        scores=report.scores,
        analyses=report.analyses,
        figures=[
            {
                "name": picture.name,
                "caption": picture.caption,
                "svg": inline(svg),
                "files": [f"figures/{picture.name}.{form}" for form in FORMATS],
            }
            for picture, svg in drawn
        ],
        cells=report.cells,
        commands=report.commands,
        command_notes=report.command_notes,
        environment=report.environment,
        columns_of=columns_of,
        library_css=Markup(library.joinpath("dt_bundle.css").read_text("utf-8")),
        library_js=base64.b64encode(code).decode(),
    )


def inline(svg: str) -> Markup:
    """A figure of matplotlib's as part of a page, its ink the page's; matplotlib has escaped what it was given."""
    return Markup(svg[svg.index("<svg") :].replace(INK, "currentColor"))


def markdown(report: Report) -> str:
    """Summary and tables as Markdown."""
    said = "".join(f"* {sentence}\n" for sentence in report.summary)
    return f"# {report.title}\n\n{said}\n" + "".join(view.markdown() for view in report.views)
