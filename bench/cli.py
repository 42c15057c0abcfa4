"""The `bench` command: parse, call, print. Nothing heavy is imported before a command needs it.

Exit codes: 0 done; 1 `certify`, `audit` or `verify` found a fault; 2 bad input; 3 a cell diverged, failed or was lost,
or would; 130 interrupted by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.
"""

import contextlib
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.core.environment import variable
from bench.core.errors import BenchError, PluginError, unknown
from bench.core.interrupts import Interrupted, interruptible
from bench.terminal.completion import names_of
from bench.terminal.config import Configured, config_options
from bench.terminal.document import gathered, json_option
from bench.terminal.outlet import outlets

if TYPE_CHECKING:
    from bench.places.execution import Execution


MOST_SEEDS, LAST_SEED = 1_000, 2**32 - 1
MOST_COUNTED = 10_000  # inner steps or tasks
PRESETS = ("smoke", "quick", "standard", "paper")


class Command(click.Group):
    """The group, which prints what a user or the machine did wrong as one short message and never as a traceback."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the command line, help and refusals included, with all that is said kept sayable."""
        # A shell that completes a word is written to in bytes.
        guarded = contextlib.nullcontext() if "_BENCH_COMPLETE" in os.environ else outlets()
        try:
            with guarded:
                return super().main(*args, **kwargs)
        except OSError as error:
            with outlets():
                click.echo(f"Error: not all could be said: {error}. What was done is kept.", err=True)
            sys.exit(2)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; exit 2 on a mistake or where the system refuses something, 128 + n by signal n."""
        try:
            from bench.core.system import check_system, wait_politely
            from bench.core.torch_version import check_torch

            with interruptible():
                check_system()
                wait_politely(os.environ)
                check_torch()
                return super().invoke(ctx)
        except BenchError as error:
            message, code = str(error), error.exit_code
        except OSError as error:
            message, code = f"{error}. What is finished is kept; mend this and run the same command again.", 2
        except KeyboardInterrupt as interrupt:
            number = Interrupted.by(interrupt, "").number
            by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
            message, code = f"interrupted{by}. {interrupt}".rstrip(), 128 + number
        click.echo(f"Error: {message}", err=True)
        raise click.exceptions.Exit(code)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command, or an error with the nearest name."""
        command = super().get_command(ctx, name)
        if command is None:
            raise click.UsageError(str(unknown("command", name, self.list_commands(ctx))))
        return command


@click.group(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="meta-bench", prog_name="bench")
def main() -> None:
    """Compare meta-learners on uniform suites, under one protocol, with intervals that can be trusted."""


def _tell(errors: Iterable[PluginError]) -> None:
    for message in dict.fromkeys(map(str, errors)):
        click.echo(message)


def _tell_lost(lost: dict[str, str], retries: int) -> None:
    for label, message in lost.items():
        click.echo(f"not done, after {retries} retries: {label}: {message}")


def _tell_limit(ended: int, lost: int, wanted: int) -> None:
    if ended + lost < wanted:
        click.echo(f"the time limit came first: {ended} of {wanted} cells done. The same command goes on.")


Callback = Callable[[click.Context, click.Parameter, str | None], int | None]


def _count(most: int = 10**9) -> Callback:
    """A callback that takes whole numbers from 1 to `most`."""

    def convert(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
        if text is None or (text.strip().isdecimal() and 1 <= int(text) <= most):
            return None if text is None else int(text)
        raise click.BadParameter(f"{text!r} is no whole number from 1 to {most:,}. Write it in digits, such as 8.")

    return convert


def _chunk(ctx: click.Context, parameter: click.Parameter, text: str) -> int | None:
    return None if text == "auto" else _count()(ctx, parameter, text)


def _duration(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", text.replace(" ", ""))
    seconds = sum(float(n or 0) * unit for n, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0
    if seconds <= 0:
        raise click.BadParameter(f"{text!r} is not a duration. Write 90s, 9m or 1h30m.")
    return seconds


def _seeds(_: click.Context, __: click.Parameter, text: str) -> tuple[int, ...]:
    listed = "," in text
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    lowest, highest = (0, LAST_SEED) if listed else (1, MOST_SEEDS)
    if not numbers or min(numbers) < lowest or max(numbers) > highest:
        raise click.BadParameter(
            f"{text!r} is neither how many seeds (3; from 1 to {MOST_SEEDS:,}) "
            f"nor a list of them (0,1,2; each from 0 to {LAST_SEED:,}). One alone is a list with a comma (7,)."
        )
    return tuple(dict.fromkeys(numbers)) if listed else tuple(range(numbers[0]))


def _ids(_: click.Context, __: click.Parameter, text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _plugins(_: click.Context, __: click.Parameter, paths: tuple[Path, ...]) -> tuple[Path, ...]:
    return tuple(path.absolute() for path in paths)


def _data_dir(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Sets BENCH_DATA_DIR, which the command and the processes that it starts read, until the command has ended."""
    if path:
        ctx.with_resource(variable("BENCH_DATA_DIR", str(path.absolute())))


def going_on(command: Callable[..., Any]) -> Callable[..., Any]:
    """Lets a command that is interrupted say how it goes on."""

    @wraps(command)
    def saying(suites: str, out: Path | None, **options: Any) -> Any:
        try:
            return command(suites=suites, out=out, **options)
        except KeyboardInterrupt as interrupt:
            from bench.storage.store import default_out

            message = f"What is done is kept in {out or default_out(suites)}; the same command goes on from there."
            raise Interrupted.by(interrupt, message) from None

    return saying


def suites_option(name: str, described: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--suite, which a shell completes."""
    return click.option(
        "--suite", name, required=True, metavar="S[,S]", shell_complete=names_of("suite"), help=described
    )


def algos_option(described: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--algos, which a shell completes."""
    return click.option("--algos", required=True, metavar="A[,A]", shell_complete=names_of("algorithm"), help=described)


time_limit_option = click.option(
    "--time-limit", callback=_duration, metavar="9m", help="Stop after this long; the same command goes on."
)
plugin_option = click.option(
    "--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), metavar="FILE", callback=_plugins,
    help="A Python file with your own algorithm or suite, named like it; may be repeated.",
)  # fmt: skip
data_option = click.option(
    "--data-dir", type=click.Path(path_type=Path, exists=True, file_okay=False), callback=_data_dir, expose_value=False,
    help="Where data sets lie as zips or folders, instead of downloading.  [env: BENCH_DATA_DIR]",
)  # fmt: skip


def execution_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say where cells run, given to the command as one `execution`."""
    from bench.places.execution import RETRIES, Execution

    @wraps(command)
    def taking(workers: int | None, dask: str | None, dask_spec: Path | None, retries: int, **options: Any) -> Any:
        execution = Execution(workers=workers, dask=dask, dask_spec=dask_spec, retries=retries)
        return command(execution=execution, **options)

    for option in reversed((
        click.option(
            "--workers", callback=_count(4096), metavar="N",
            help="Run N cells at a time, each in a process of its own.  [default: one after the other in this one]",
        ),
        click.option("--dask", metavar="ADDRESS", help="Run cells on this Dask scheduler's cluster: tcp://host:8786."),
        click.option(
            "--dask-spec", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
            help="Run cells on the Dask cluster that a YAML file describes: module, class, kwargs.",
        ),
        click.option(
            "--retries", type=click.IntRange(0, 100), default=RETRIES, show_default=True,
            help="How often a cell is sent again that was lost by a crash or a broken connection.",
        ),
    )):  # fmt: skip
        taking = option(taking)
    return taking


@main.command(cls=Configured)
@json_option
@suites_option("suites", 'Suites, e.g. "omniglot[ways=20,shots=5]".')
@algos_option('Algorithms, e.g. "maml[inner_lr=2.0],fomaml".')
@click.option("--seeds", default="1", show_default=True, callback=_seeds, help="How many (3), or which (0,1,2).")
@click.option(
    "--preset", type=click.Choice(PRESETS), default="quick", show_default=True,
    envvar="BENCH_PRESET", show_envvar=True, help="Budget: seconds, minutes, hours on two cores, or the paper's.",
)  # fmt: skip
@click.option("--iterations", callback=_count(), metavar="N", help="Meta-iterations, instead of the preset's.")
@time_limit_option
@click.option(
    "--selection", type=click.Choice(["last", "best"]), default="last", show_default=True,
    help="Score the last parameters, or the best on the validation tasks.",
)  # fmt: skip
@click.option("--validate-every", callback=_count(), metavar="N", help="Meta-iterations between two validations.")
@click.option("--out", type=click.Path(path_type=Path), help="The run directory.  [default: runs/<suites>]")
@data_option
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option(
    "--engine", type=click.Choice(["auto", "eager", "compiled", "learn2learn"]), default="auto", show_default=True,
    help="How meta-gradients are computed; auto compiles where it pays.",
)  # fmt: skip
@click.option(
    "--threads", callback=_count(256), metavar="N",
    help="CPU threads.  [default: as in the run directory, else all cores, shared by the workers]",
)  # fmt: skip
@click.option(
    "--chunk-tasks", default="auto", show_default=True, callback=_chunk, metavar="N",
    help="Tasks computed at once; auto takes all, half as many each time memory runs out, and one on each core where "
    "large nets are compiled.",
)  # fmt: skip
@click.option("--tuned", is_flag=True, help="Take the values that `bench tune` chose.")
@click.option(
    "--score-on", default="", metavar="S[,S]",
    help="Further suites with the same inputs, on whose test tasks everything is scored as well.",
)  # fmt: skip
@execution_options
@plugin_option
@click.option(
    "--track", "trackers", type=click.Choice(["tensorboard", "mlflow"]), multiple=True,
    help="Also send curves and scores there while running (an extra); may be repeated.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show the cells and a predicted time; run nothing.")
@config_options
@going_on
def run(
    suites: str,
    out: Path | None,
    time_limit: float | None,
    tuned: bool,
    score_on: str,
    dry_run: bool,
    plugins: tuple[Path, ...],
    execution: "Execution",
    trackers: tuple[str, ...],
    **options: Any,
) -> None:
    """Train and score algorithms; print the comparison.

    Finished cells are not run again; an interrupted one goes on from its checkpoint.
    """
    from bench.api import cells_of, results
    from bench.cells.cell import logging_to
    from bench.cells.execute import run_cells
    from bench.cells.track import Tracker
    from bench.cells.watch import Watches
    from bench.core.discovery import Catalogue
    from bench.learning.engines.vectorised import keep_memory
    from bench.planning.elsewhere import elsewhere
    from bench.planning.engines import measured, remembered
    from bench.planning.plan import Request
    from bench.storage.store import Store, default_out
    from bench.terminal import tables
    from bench.terminal.progress import Progress
    from reports.views import comparisons

    asked = Request(suites=suites, plugins=plugins, share=execution.threads, **options)
    root = out or default_out(suites)
    broken: list[PluginError] = []
    if not dry_run:
        keep_memory()
    with logging_to(logging.StreamHandler()):
        cells = cells_of(asked, root, tuned, remembered if dry_run else measured, broken.append)
    cells += elsewhere(cells, score_on, Catalogue(plugins)) if score_on else []
    if dry_run:
        whole = tables.forecast(cells, root, plugins)
        _tell(broken)
        if broken or not whole:
            sys.exit(3)
        return
    store = Store.create(root)
    with Progress() as progress:
        watch = Watches([progress, *(Tracker(store, name) for name in trackers)])
        records = run_cells(cells, store, watch, time_limit, plugins, execution)
    for view in comparisons(results(store, records), records):
        tables.comparison(view)
    _tell_lost(progress.lost, execution.retries)
    _tell_limit(len(records), len(progress.lost), len(cells))
    click.echo(f"stored in {root}")
    _tell(broken)
    if broken or progress.lost or any(record.outcome != "finished" for record in records):
        sys.exit(3)


@main.command("score")
@json_option
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--on", "domains", required=True, metavar="S[,S]", help='Suites, e.g. "glyphs,omniglot[split=alphabet]".')
@time_limit_option
@data_option
@execution_options
@plugin_option
def score_(
    store: Path, domains: str, time_limit: float | None, execution: "Execution", plugins: tuple[Path, ...]
) -> None:
    """Score what is trained on another domain's test tasks.

    STORE is a run directory, to which the scores are added; nothing is trained. The suites must show the same inputs.
    """
    from bench.api import results, trained_cells, with_homes
    from bench.cells.execute import run_cells
    from bench.core.discovery import Catalogue
    from bench.planning.elsewhere import elsewhere
    from bench.storage.store import Store
    from bench.terminal import tables
    from bench.terminal.progress import Progress
    from reports.views import comparisons

    held, catalogue = Store.open(store), Catalogue(plugins)
    cells = elsewhere(trained_cells(held, catalogue), domains, catalogue)
    with Progress() as progress:
        records = run_cells(cells, held, progress, time_limit, plugins, execution)
    shown = with_homes(held, records)
    for view in comparisons(results(held, shown), shown):
        tables.comparison(view)
    _tell_lost(progress.lost, execution.retries)
    _tell_limit(len(records), len(progress.lost), len(cells))
    click.echo(f"stored in {store}")
    if progress.lost or any(record.outcome != "finished" for record in records):
        sys.exit(3)


@main.command(cls=Configured)
@json_option
@suites_option("suites", 'Suites, e.g. "omniglot[ways=20,shots=5]".')
@algos_option('Algorithms; "maml[steps=5]" fixes what is in brackets.')
@click.option("--trials", default="30", show_default=True, callback=_count(100_000), metavar="N", help="For each.")
@click.option(
    "--trial-iterations", "iterations", callback=_count(), metavar="N",
    help="Meta-iterations of a trial.  [default: a tenth of the preset's]",
)  # fmt: skip
@click.option("--seeds", default="1", show_default=True, callback=_seeds, help="Of a trial: how many, or which.")
@click.option(
    "--preset", type=click.Choice(PRESETS), default="quick", show_default=True,
    envvar="BENCH_PRESET", show_envvar=True, help="Whose tenth a trial trains for.",
)  # fmt: skip
@click.option("--sampler", default="tpe", show_default=True, metavar="NAME", help="tpe, random, cmaes or grid.")
@click.option(
    "--pruner", default="none", show_default=True, metavar="NAME",
    help="none, median or hyperband; a pruned budget is unequal, and the record says so.",
)  # fmt: skip
@click.option(
    "--sampler-seed", "seed", default=0, show_default=True, type=click.IntRange(0, LAST_SEED), help="Its own."
)
@click.option(
    "--batch", default="5", show_default=True, callback=_count(100_000), metavar="N", help="Trials in a round."
)
@click.option(
    "--search", metavar="A[P=..]",
    help='Where to look, instead of where algorithms declare: "maml[inner_lr=0.01..1 log, steps=1|3|5]".',
)  # fmt: skip
@click.option("--storage", metavar="URL", help="postgresql://...  [default: a journal file in the run directory]")
@time_limit_option
@click.option("--out", type=click.Path(path_type=Path), help="The run directory.  [default: runs/<suites>]")
@data_option
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option(
    "--engine", type=click.Choice(["eager", "compiled", "learn2learn"]), default="eager", show_default=True,
    help="How meta-gradients are computed; trials are short and of many shapes, so compiling seldom pays.",
)  # fmt: skip
@click.option(
    "--threads", callback=_count(256), metavar="N",
    help="CPU threads.  [default: as in the run directory, else all cores, shared by the workers]",
)  # fmt: skip
@execution_options
@plugin_option
@config_options
@going_on
def tune(
    suites: str,
    trials: int,
    sampler: str,
    pruner: str,
    seed: int,
    batch: int,
    storage: str | None,
    search: str | None,
    time_limit: float | None,
    out: Path | None,
    execution: "Execution",
    **options: Any,
) -> None:
    """Choose hyperparameters on validation tasks, with equal budgets.

    Every algorithm gets the same trials, meta-iterations and seeds; `bench run --tuned` reads what is chosen. The first
    trial is the suite's protocol. Killed or interrupted, the same command goes on and proposes what it would have.
    """
    from bench.cells.cell import logging_to
    from bench.learning.engines.vectorised import keep_memory
    from bench.planning.plan import Request
    from bench.storage.store import default_out
    from bench.terminal import tables
    from bench.terminal.progress import Progress
    from bench.tuning.settings import Settings
    from bench.tuning.sweep import sweeps
    from bench.tuning.sweep import tune as sweep

    settings = Settings(
        trials=trials, sampler=sampler, pruner=pruner, seed=seed, batch=batch, storage=storage, search=search
    )
    root = out or default_out(suites)
    keep_memory()
    with logging_to(logging.StreamHandler()):
        broken: list[PluginError] = []
        found = sweeps(Request(suites=suites, share=execution.threads, **options), settings, root, broken.append)
    tables.sweeps(found)
    with Progress() as progress:
        done = sweep(found, root, progress, time_limit, execution)
    tables.swept(done, root)
    tunings = [tuning for tuning, _ in done]
    _tell(broken)
    _tell_lost(progress.lost, execution.retries)
    if any(len(tuning.trials) < trials for tuning in tunings):
        click.echo("not all trials are done. The same command goes on.")
    failed = any(trial.outcome == "failed" for tuning in tunings for trial in tuning.trials)
    if broken or failed or any(tuning.trials and tuning.best is None for tuning in tunings):
        sys.exit(3)


def _counts(_: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= MOST_COUNTED for part in parts):
        raise click.BadParameter(f"{text!r} is no list of whole numbers from 1 to {MOST_COUNTED:,}. Write 1,5,10.")
    return tuple(dict.fromkeys(map(int, parts)))


def _names(_: click.Context, __: click.Parameter, text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",")))


@main.command("cost")
@json_option
@suites_option("suite", 'Suites, e.g. "omniglot,omniglot[ways=20]".')
@algos_option("Algorithms, each with every operator that it can take.")
@click.option("--steps", default="1,5,10", show_default=True, callback=_counts, help="Inner steps.")
@click.option("--tasks", default="4,16,32", show_default=True, callback=_counts, help="Tasks in a meta-batch.")
@click.option(
    "--engines", default="eager", show_default=True, callback=_names, metavar="E[,E]",
    help="Of eager, compiled (up to a minute more for each row) and learn2learn.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Where the pictures go.  [default: cost/<suites>]")
@click.option(
    "--runs",
    type=click.Path(path_type=Path),
    help="Draw this run directory's scores.  [default: runs/<suites>, if any]",
)
@data_option
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--threads", callback=_count(256), metavar="N", help="CPU threads.  [default: all cores]")
@plugin_option
def cost(suite: str, algos: str, out: Path | None, runs: Path | None, **options: Any) -> None:
    """Measure what a meta-iteration costs.

    Seconds, memory and FLOPs over inner steps and tasks, second order against first.

    Images that are not at hand are replaced by random ones: their content does not change the time.
    """
    from bench.reporting.costing import cost as measure
    from bench.storage.store import MARK, check_claim, default_out
    from bench.terminal import tables

    default = default_out(suite)
    stored = runs or (default if (default / MARK).exists() else None)
    if runs and not (runs / MARK).exists():
        raise BenchError(f"{runs} is no run directory. Give one that `bench run` made, such as {default}.")
    folder = out or Path("cost") / default.name
    check_claim(folder, tables.COST_MARK, tables.COST_KIND)
    frame = measure(suite, algos, watch=lambda text: click.echo(text, err=True), **options)
    tables.costs(frame, folder, stored)
    for message in frame.attrs["broken"]:
        click.echo(message)
    if frame.attrs["broken"]:
        sys.exit(3)


@main.command("list")
@json_option
@plugin_option
def list_(plugins: tuple[Path, ...]) -> None:
    """List the suites and the algorithms."""
    from bench.core.discovery import Catalogue

    catalogue = Catalogue(plugins)
    suites = [{"name": name, "what": line} for name, line in catalogue.names("suite").items()]
    algorithms = [
        {
            "name": name,
            "what": line,
            "family": catalogue.stated(name, "family")[0],
            "meets": list(catalogue.stated(name, "suits")),
            "protocol": "online" if any(catalogue.stated(name, "follows")) else "episodic",
        }
        for name, line in catalogue.names("algorithm").items()
    ]
    if gathered("suites", suites) and gathered("algorithms", algorithms):
        return
    _listed("suites", suites)
    for family in sorted({str(fact["family"]) for fact in algorithms}, key=str.casefold):
        _listed(f"algorithms: {family}", [fact for fact in algorithms if fact["family"] == family])


def _listed(title: str, facts: list[dict[str, Any]]) -> None:
    """Prints a line for each; of algorithms, also what kinds of suites they meet where that is not every one."""
    click.echo(title)
    width = max((len(fact["name"]) for fact in facts), default=0)
    for fact in facts:
        some = f" ({' and '.join(fact['meets'])} only)" if 0 < len(fact.get("meets", ())) < 3 else ""
        some = " (streams only)" if fact.get("protocol") == "online" else some
        click.echo(f"  {fact['name']:{width}}  {fact['what']}{some}")


@main.command("show")
@json_option
@click.argument("name", shell_complete=names_of("suite", "algorithm"))
@click.option("--sheet", type=click.Path(path_type=Path, dir_okay=False), help="Draw the suite's data to this PNG.")
@data_option
@plugin_option
def show_(name: str, sheet: Path | None, plugins: tuple[Path, ...]) -> None:
    """Explain a suite or an algorithm.

    What it is, its parameters with defaults, meaning and source; NAME may have brackets: "omniglot[ways=20]".
    """
    from bench.terminal.explain import explain

    explain(name, plugins, sheet)


@main.command()
@json_option
@click.argument("algos", required=False, metavar="[NAMES]", shell_complete=names_of("algorithm"))
@click.option("--compiled", is_flag=True, help="Also compile every operator; this takes seconds each.")
@click.option(
    "--step", metavar="FILE:FUNCTION",
    help="Your own training step instead, step(parameters, support, query) -> loss: is it second order?",
)  # fmt: skip
@data_option
@plugin_option
def certify(algos: str | None, compiled: bool, step: str | None, plugins: tuple[Path, ...]) -> None:
    """Prove that algorithms and suites are what they claim.

    NAMES are of algorithms and suites as for `run`; all by default. Prints a table of figures; exit 1 on a fault.
    """
    from bench.certificate.algorithms import certificate
    from bench.terminal import tables

    if step and (algos or compiled):
        raise BenchError("--step certifies a function of your own: leave NAMES and --compiled out.")
    if step:
        from bench.certificate.steps import step_checks

        groups = iter([(step, list(step_checks(step)))])
    else:
        groups = certificate(algos, plugins, compiled)
    if not tables.certificate(groups):
        sys.exit(1)


@main.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--curves", type=click.Path(path_type=Path, dir_okay=False), help="The score against inner steps.")
@click.option("--paths", type=click.Path(path_type=Path, dir_okay=False), help="Where policies walk in the plane.")
@click.option(
    "--video", type=click.Path(path_type=Path, dir_okay=False), metavar="MP4",
    help="Film a robot before and after adapting.",
)  # fmt: skip
@click.option("--suite", help="Which suite, if the run directory holds several.")
@click.option("--algo", help="Whose paths or film, if the run directory holds several.")
@click.option("--task", type=click.IntRange(0), default=0, show_default=True, help="Which test task to film.")
@plugin_option
def draw(
    store: Path, suite: str | None, algo: str | None, task: int, plugins: tuple[Path, ...], **pictures: Path | None
) -> None:
    """Draw what a run directory holds.

    Adaptation curves, or the paths or a film of what policies do before and after each inner step.
    """
    if not any(pictures.values()):
        raise BenchError("say what to draw, and where: --curves FILE.png, --paths FILE.png or --video FILE.mp4.")
    from bench.terminal.draw import draw_curves, draw_paths

    if curves := pictures["curves"]:
        draw_curves(store, suite, curves)
    if paths := pictures["paths"]:
        draw_paths(store, suite, algo, paths, plugins)
    if video := pictures["video"]:
        from bench.reporting.filming import film

        click.echo(f"{film(store, algo, suite, task, video, plugins)} drawn to {video}")


@main.command()
@json_option
@click.argument("store", required=False, type=click.Path(path_type=Path))
@click.option(
    "--compare", nargs=2, type=click.Path(path_type=Path), metavar="A B",
    help="Two run directories side by side instead: did my change help? Paired by task.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Where it goes.  [default: STORE/report, report-compare]")
@plugin_option
def report(store: Path | None, compare: tuple[Path, Path] | None, out: Path | None, plugins: tuple[Path, ...]) -> None:
    """Write a run directory's report.

    One HTML page that needs no network, figures (SVG, PNG, PDF), tables (Markdown, LaTeX), numbers (CSV, Parquet).
    """
    if (store is None) == (compare is None):
        raise BenchError("Give one run directory, or two with --compare: `bench report runs/omniglot`.")
    from bench.reporting import report as reporting
    from bench.terminal import tables

    if compare:
        page = reporting.side_by_side(compare, out, plugins)
    elif store:
        page = reporting.report(store, out, plugins)
        tables.stored(store)
    click.echo(f"written to {page}")


@main.command()
@json_option
@click.argument("what", nargs=-1, metavar="[SUITE[/ALGORITHM[/SETTING]]]...")
@click.option("--out", type=click.Path(path_type=Path), help="The run directory.  [default: runs/reproduce]")
@time_limit_option
@click.option("--dry-run", is_flag=True, help="Run nothing: only say what is there and how long the rest would take.")
@click.option("--csv", type=click.Path(path_type=Path, dir_okay=False), help="Also write a row for each value there.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option(
    "--threads", callback=_count(256), metavar="N",
    help="CPU threads.  [default: as in the run directory, else all cores, shared by the workers]",
)  # fmt: skip
@data_option
@execution_options
def reproduce(
    what: tuple[str, ...],
    out: Path | None,
    time_limit: float | None,
    dry_run: bool,
    csv: Path | None,
    device: str,
    threads: int | None,
    execution: "Execution",
) -> None:
    """Make published values again, and show them beside ours.

    WHAT are suites, such as sinusoid, or omniglot/maml/5w1s; what is missing is run, and an interrupted cell goes on.
    Without WHAT nothing is run: a list of what was published, what came out here, and how long the rest would take, as
    far as that is known; `--dry-run` with WHAT tries it.
    Results and checkpoints that are committed in results/ count as well as the run directory.
    """  # fmt: skip
    from bench.reporting.reproduce import OUT, Asked, Times, reproduced, selected
    from bench.reporting.reproduce import run as run_missing
    from bench.terminal import tables

    root, asked, rows = out or OUT, Asked(device, threads or execution.threads), selected(what)
    lost = False
    if what and not dry_run:
        from bench.cells.cell import logging_to
        from bench.learning.engines.vectorised import keep_memory
        from bench.terminal.progress import Progress

        keep_memory()
        try:
            with logging_to(logging.StreamHandler()), Progress() as progress:
                wanted, records, refused = run_missing(rows, root, asked, progress, time_limit, execution)
        except KeyboardInterrupt as interrupt:
            message = f"What is done is kept in {root}; the same command goes on from there."
            raise Interrupted.by(interrupt, message) from None
        for command, reason in refused.items():
            click.echo(f"not run: {command}: {reason}")
        lost = bool(refused or progress.lost or any(record.outcome != "finished" for record in records))
        _tell_lost(progress.lost, execution.retries)
        _tell_limit(len(records), len(progress.lost), wanted)
    found = reproduced(rows, root, Times(asked, root, lambda text: click.echo(text, err=True), tries=bool(what)))
    tables.reproduced(found)
    if csv:
        found.to_csv(csv)
        click.echo(f"written to {csv}")
    if lost:
        sys.exit(3)


@main.command("predict")
@json_option
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--cell", required=True, metavar="ID", help="Whose learner: a folder's name in STORE/cells.")
@click.option(
    "--support", required=True, type=click.Path(path_type=Path), metavar="FOLDER",
    help="What to adapt to: a folder with a folder of images for each class.",
)  # fmt: skip
@click.option(
    "--query", required=True, type=click.Path(path_type=Path), metavar="FOLDER", help="The images to be named."
)
@data_option
@plugin_option
def predict_(store: Path, cell: str, support: Path, query: Path, plugins: tuple[Path, ...]) -> None:
    """Name your own images by a trained learner.

    It is adapted to a few images of each class; then each image of the query has a class and a probability.
    """
    from bench.reporting.classify import classify
    from bench.terminal import tables

    tables.answers(classify(store, cell, support, query, plugins))


@main.command()
@json_option
@click.argument("store", type=click.Path(path_type=Path))
def audit(store: Path) -> None:
    """Find what makes a comparison invalid.

    Reads the records of a run directory: mixed versions, other tasks, missing cells, unequal budgets, results that
    contradict. Says which comparisons stand and which don't, and why; exit 1 on a fault.
    """
    from bench.storage.audit import audit as found
    from bench.storage.store import Store
    from bench.terminal import tables

    if not tables.audit(found(Store.open(store))):
        sys.exit(1)


@main.command()
@json_option
@click.argument("stores", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="A B...")
@click.option("--into", type=click.Path(path_type=Path), metavar="FOLDER", help="Where to.  [default: A]")
def merge(stores: tuple[Path, ...], into: Path | None) -> None:
    """Bring the cells of several run directories into one.

    Nothing is overwritten: where two results of one cell differ, both are kept and named.
    """
    from bench.storage.merge import merge as merged
    from bench.terminal import tables

    if len(stores) < 2 and into is None:
        raise BenchError(f"{stores[0]} alone is nothing to merge. Name two run directories, or another with --into.")
    tables.merged(merged(stores, into or stores[0]), into or stores[0])


@main.command()
@json_option
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--cells", default="", metavar="ID[,ID]", callback=_ids, help="Which: folders in STORE/cells.  [default: all]"
)
@click.option(
    "--to", type=click.Path(path_type=Path), metavar="FOLDER", help="Add the results to this run directory, compactly."
)
@click.option(
    "--checkpoints", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Write the checkpoints of unfinished cells to this file, for `bench import`.",
)  # fmt: skip
def export(store: Path, cells: tuple[str, ...], to: Path | None, checkpoints: Path | None) -> None:
    """Carry results or checkpoints out of a run directory.

    With --to, results go where they may be kept for good, without a digit lost: records, scores at the report steps,
    curves, small networks; checkpoints of unfinished cells into its folder unfinished. With --checkpoints, what another
    machine needs to go on, in one file.
    """
    from bench.cells.carry import compact, pack
    from bench.terminal import tables

    if (to is None) == (checkpoints is None):
        raise BenchError("Say where to: --to FOLDER for results, or --checkpoints FILE for what is unfinished.")
    if to:
        tables.merged(compact(store, to, cells), to)
    if checkpoints:
        for line in (*pack(store, checkpoints, cells), f"written to {checkpoints}"):
            click.echo(line)


@main.command("import")
@json_option
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="FOLDER", help="The run directory.")
def import_(file: Path, out: Path) -> None:
    """Take in checkpoints that `bench export` wrote.

    The command that began the cells goes on with them in the run directory, to the digest of a run that never moved.
    """
    from bench.cells.carry import unpack
    from bench.terminal import tables

    tables.merged(unpack(file, out), out)


@main.group()
def data() -> None:
    """Fetch and verify data sets."""


@data.command()
@json_option
@click.argument("name", shell_complete=names_of("suite"))
@data_option
@plugin_option
def fetch(name: str, plugins: tuple[Path, ...]) -> None:
    """Download a suite's data once, or say where it lies."""
    from bench.certificate.data import fetched
    from bench.core.discovery import Catalogue

    places = fetched(name, Catalogue(plugins))
    click.echo("\n".join(places) or f"{name} has nothing to fetch: what it reads is at hand")


@data.command()
@json_option
@click.argument("name", shell_complete=names_of("suite"))
@data_option
@plugin_option
def verify(name: str, plugins: tuple[Path, ...]) -> None:
    """Check a suite's data by content, and its frozen tasks; exit 1 on a fault.

    What a suite reads is read anew, of all its splits, and never from a cache.
    """
    from bench.certificate.data import verified
    from bench.core.discovery import Catalogue

    rows = list(verified(name, Catalogue(plugins)))
    for row in rows if not gathered(name, [row._asdict() for row in rows]) else ():
        click.echo(f"{'ok   ' if row.ok else 'WRONG'} {row.what}: {row.found}")
    if not all(row.ok for row in rows):
        sys.exit(1)


@data.command("check")
@json_option
@click.argument("what")
@data_option
@plugin_option
def check_(what: str, plugins: tuple[Path, ...]) -> None:
    """Say what a folder of images of your own would give, before anything trains.

    WHAT is a folder of class folders, a zip or a CSV, or a suite with parameters: "images[folder=photos,ways=3]".
    """
    from bench.certificate.data import used
    from bench.core.discovery import Catalogue
    from bench.terminal import tables

    tables.used(*used(what, Catalogue(plugins)))
