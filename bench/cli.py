"""The `bench` command: parse, call, print. Nothing heavy is imported before a command needs it.

Exit codes: 0 done; 1 `certify` or `verify` found a fault; 2 bad input; 3 a cell diverged or failed; 130 interrupted.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

import click

from bench.core.errors import BenchError


class Command(click.Group):
    """The group, which prints a user's mistakes as one short message and never as a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; exit 2 on a BenchError, 130 on Ctrl-C."""
        try:
            return super().invoke(ctx)
        except BenchError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(error.exit_code)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command, or an error with the nearest name."""
        command = super().get_command(ctx, name)
        if command is None:
            from bench.core.errors import unknown

            raise click.UsageError(str(unknown("command", name, self.list_commands(ctx))))
        return command


@click.group(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="meta-bench", prog_name="bench")
def main() -> None:
    """Compare meta-learners on uniform suites, under one protocol, with intervals that can be trusted."""


def _duration(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
    seconds = sum(float(n or 0) * unit for n, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0
    if seconds <= 0:
        raise click.BadParameter(f"{text!r} is not a duration. Write 90s, 9m or 1h30m.")
    return seconds


def _seeds(_: click.Context, __: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    listed = "," in text
    if not numbers or min(numbers) < (0 if listed else 1):
        raise click.BadParameter(f"{text!r} is neither a number of seeds (3) nor a list of them (0,1,2).")
    return tuple(dict.fromkeys(numbers)) if listed else tuple(range(numbers[0]))


def _data_dir(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    if path:
        os.environ["BENCH_DATA_DIR"] = str(path.absolute())
    return path


plugin_option = click.option(
    "--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
    help="A Python file with your own algorithm or suite, named like it; may be repeated.",
)  # fmt: skip
data_option = click.option(
    "--data-dir", type=click.Path(path_type=Path, exists=True, file_okay=False), callback=_data_dir, expose_value=False,
    help="Where data sets lie as zips or folders, instead of downloading.  [env: BENCH_DATA_DIR]",
)  # fmt: skip


@main.command()
@click.option("--suite", "suites", required=True, metavar="S[,S]", help='Suites, e.g. "omniglot[ways=20,shots=5]".')
@click.option("--algos", required=True, metavar="A[,A]", help='Algorithms, e.g. "maml[inner_lr=2.0],fomaml".')
@click.option("--seeds", default="1", show_default=True, callback=_seeds, help="How many (3), or which (0,1,2).")
@click.option(
    "--preset", type=click.Choice(["smoke", "quick", "paper"]), default="quick", show_default=True,
    envvar="BENCH_PRESET", show_envvar=True, help="Budget: seconds, minutes, or the paper's protocol.",
)  # fmt: skip
@click.option("--iterations", type=click.IntRange(min=1), help="Meta-iterations, instead of the preset's.")
@click.option("--time-limit", callback=_duration, metavar="9m", help="Stop after this long; the same command goes on.")
@click.option(
    "--selection", type=click.Choice(["last", "best"]), default="last", show_default=True,
    help="Score the last parameters, or the best on the validation tasks.",
)  # fmt: skip
@click.option("--validate-every", type=click.IntRange(min=1), help="Meta-iterations between two validations.")
@click.option("--out", type=click.Path(path_type=Path), help="The run directory.  [default: runs/<suites>]")
@data_option
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option(
    "--engine", type=click.Choice(["auto", "eager", "compiled", "learn2learn"]), default="auto", show_default=True,
    help="How meta-gradients are computed; auto compiles where it pays.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@plugin_option
@click.option("--dry-run", is_flag=True, help="Show the cells and a predicted time; run nothing.")
def run(
    suites: str, out: Path | None, time_limit: float | None, dry_run: bool, plugins: tuple[Path, ...], **options: Any
) -> None:
    """Meta-train and score algorithms on suites, and print the comparison.

    Finished cells are not run again; an interrupted one goes on from its checkpoint.
    """
    from bench import show
    from bench.api import default_out, results, run_cells
    from bench.plan import Request, plan
    from bench.store import Store
    from reports.table import tables

    asked = Request(suites=suites, plugins=tuple(path.absolute() for path in plugins), **options)
    cells = plan(asked)
    root = out or default_out(suites)
    if dry_run:
        show.forecast(cells, root)
        return
    store = Store.create(root)
    try:
        with show.Progress() as progress:
            records = run_cells(cells, store, progress, time_limit, asked.plugins)
    except KeyboardInterrupt:
        click.echo(f"\ninterrupted; what is done is kept in {root}. The same command goes on from there.", err=True)
        sys.exit(130)
    for table in tables(results(store, records), records):
        show.table(table)
    if len(records) < len(cells):
        click.echo(f"the time limit came first: {len(records)} of {len(cells)} cells done. The same command goes on.")
    click.echo(f"stored in {root}")
    if any(record.outcome != "finished" for record in records):
        click.echo("some cells diverged or failed: see the column outcome, and log.txt in their folders", err=True)
        sys.exit(3)


@main.command("list")
@plugin_option
def list_(plugins: tuple[Path, ...]) -> None:
    """List the suites and the algorithms."""
    from bench.core.discovery import Catalogue

    catalogue = Catalogue(tuple(path.absolute() for path in plugins))
    for kind in ("suite", "algorithm"):
        names = catalogue.names(kind)  # type: ignore[arg-type]  # mypy widens the literals of a loop
        width = max(map(len, names), default=0)
        click.echo(f"{kind}s")
        for name, line in names.items():
            click.echo(f"  {name:{width}}  {line}")


@main.command("show")
@click.argument("name")
@click.option("--sheet", type=click.Path(path_type=Path, dir_okay=False), help="Draw the suite's data to this PNG.")
@data_option
@plugin_option
def show_(name: str, sheet: Path | None, plugins: tuple[Path, ...]) -> None:
    """Explain a suite or an algorithm: parameters with defaults, meaning and source."""
    from bench import show

    show.explain(name, tuple(path.absolute() for path in plugins), sheet)


@main.command()
@click.argument("algos", required=False)
@plugin_option
def certify(algos: str | None, plugins: tuple[Path, ...]) -> None:
    """Prove that algorithms compute what they claim: a table of figures, exit 1 on a fault."""
    from bench import show
    from bench.certify import certificate

    if not show.certificate(certificate(algos, tuple(path.absolute() for path in plugins))):
        sys.exit(1)


@main.group()
def data() -> None:
    """Fetch and verify data sets."""


def _dataset(name: str) -> Any:
    from bench.core.discovery import Catalogue

    catalogue = Catalogue()
    cls = catalogue.load("suite", name)
    if not hasattr(cls, "data"):
        raise BenchError(f"the suite {name!r} needs no data. Nothing to do.")
    return cls.data


@data.command()
@click.argument("name")
@data_option
def fetch(name: str) -> None:
    """Download a suite's data once, or say where it already lies."""
    for path in _dataset(name).fetch():
        click.echo(path)


@data.command()
@click.argument("name")
@data_option
def verify(name: str) -> None:
    """Check a suite's data by content; exit 1 if any differs."""
    rows = _dataset(name).verify()
    for row in rows:
        click.echo(f"{'ok   ' if row.ok else 'WRONG'} {row.name}: {row.files} files, SHA-256 {row.sha256}, {row.where}")
    if not all(row.ok for row in rows):
        sys.exit(1)

