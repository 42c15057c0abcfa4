"""The commands from Python, by their names: the same cells, stores and numbers, as pandas DataFrames.

Reports and sweeps are imported by those who want them: seaborn, Optuna and their like take as long as torch,
and every run would wait for them.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from bench.cells import carry
from bench.cells.adapt import Trained, learner
from bench.cells.execute import run_cells
from bench.cells.restore import finished_cell, label, trained
from bench.cells.watch import Silent
from bench.core import seeds as seeds_
from bench.core.discovery import Catalogue
from bench.core.errors import BenchError, PluginError, foreign
from bench.core.findings import Audit
from bench.core.interrupts import passed_on
from bench.core.records import EngineName, Record
from bench.core.trees import part, shapes_of
from bench.places.execution import RETRIES, Execution
from bench.planning.elsewhere import elsewhere
from bench.planning.engines import measured
from bench.planning.plan import Cell, Choice, Request, plan, planned
from bench.reporting import reproduce as reproducing
from bench.reporting.classify import classify
from bench.storage import audit as audit_
from bench.storage import merge as merge_
from bench.storage.store import MARK, META, Store, default_out
from bench.tuning.settings import Settings
from bench.tuning.tuned import tuned as with_chosen_values
from reports.frame import tidy, trials_of


class Results(pd.DataFrame):
    """A tidy DataFrame, one row per task, inner step and metric, that knows the store it came from."""

    _metadata = ["store"]  # noqa: RUF012  # pandas' own way to carry an attribute along
    store: Store

    @property
    def _constructor(self) -> Callable[..., "Results"]:
        return Results

    def model(self, cell: str, plugins: Sequence[str | Path] = ()) -> nn.Module:
        """The meta-trained module of a cell, unadapted: its initialisation; plug-in files as for `bench run`.

        It knows nothing of a task; `learner` adapts to one.

        Raises:
            BenchError: there is no such cell, or it has no checkpoint.
        """
        record = finished_cell(self.store, cell)
        catalogue = Catalogue(tuple(map(Path, plugins)))
        views, algorithm, meta, running = trained(self.store, record, catalogue)
        noise = part(algorithm.noise(shapes_of(meta), 1, seeds_.generator(0)), 0)
        with torch.random.fork_rng(devices=[]):  # its first values, which are of no use, take no draws of the caller
            module: nn.Module = views.training.module()
        try:
            params = algorithm.params(meta, algorithm.start(meta, noise))
            buffers = dict(module.named_buffers())
            strangers = module.load_state_dict({**params, **running}, strict=False).unexpected_keys
            for name in buffers.keys() & set(strangers):  # those that a state_dict leaves out
                buffers[name].copy_(params[name])
            strangers = [name for name in strangers if name not in buffers]
        except Exception as error:
            strangers = [str(error)]
        if strangers or not set(dict(module.named_parameters())) <= set(params):
            raise BenchError(
                f"{record.spec.algorithm.label} does not predict by the network of {record.spec.suite.label}, so that "
                "there is no module to give."
            )
        return module

    def learner(self, cell: str, plugins: Sequence[str | Path] = ()) -> Trained:
        """The learner of a cell, to be adapted to data of one's own: `learner(cell).adapt((x, y))(x_query)`.

        Any learner of a suite that isn't a control suite, as it was tested; plug-in files as for `bench run`.

        Raises:
            BenchError: there is no such cell, it has no checkpoint, or it acts instead of predicting.
        """
        return learner(self.store, cell, Catalogue(tuple(map(Path, plugins))))


def run(
    suite: str,
    algos: str | Sequence[str],
    *,
    out: str | Path | None = None,
    seeds: int | Sequence[int] = 1,
    time_limit: float | None = None,
    plugins: Sequence[str | Path] = (),
    tuned: bool = False,
    workers: int | None = None,
    dask: str | None = None,
    dask_spec: Path | None = None,
    retries: int = RETRIES,
    score_on: str = "",
    **options: Any,
) -> Results:
    """What `bench run` reaches, as a tidy DataFrame; finished cells come from the store.

    Args:
        suite: as on the command line, such as "omniglot[ways=20]".
        algos: names, with parameters in brackets.
        out: the run directory; `runs/<suite>` by default.
        seeds: how many, or which.
        time_limit: seconds after which it stops, to be resumed by the same call.
        plugins: plug-in files.
        tuned: take the values that `bench tune` chose in this run directory.
        workers: that many cells at a time, each in a process of its own, instead of one after the other in this one.
        dask: or on the Dask cluster of the scheduler at this address.
        dask_spec: or on one made by this YAML file.
        retries: how often a cell is sent again that was lost there.
        score_on: further suites of the same inputs on whose test tasks everything is scored as well.
        options: preset, iterations, selection, validate_every, engine, device, threads, chunk_tasks.

    Raises:
        BenchError: as the command, which prints its message.
    """
    execution = Execution(workers=workers, dask=dask, dask_spec=dask_spec, retries=retries)
    text = algos if isinstance(algos, str) else ",".join(algos)
    request = Request(
        suites=suite,
        algos=text,
        seeds=tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds),
        plugins=tuple(map(Path, plugins)),
        share=execution.threads,
        **options,
    )
    root = Path(out) if out else default_out(suite)
    cells = cells_of(request, root, tuned)
    cells += elsewhere(cells, score_on, Catalogue(request.plugins)) if score_on else []
    store = Store.create(root)
    with passed_on():
        records = run_cells(cells, store, Silent(), time_limit, request.plugins, execution)
    return results(store, records)


def score(
    path: str | Path,
    on: str,
    *,
    time_limit: float | None = None,
    plugins: Sequence[str | Path] = (),
    workers: int | None = None,
) -> Results:
    """Scores every finished cell of a run directory on other suites' test tasks, as `bench score` does; nothing trains.

    Args:
        path: the run directory, to which the scores are added.
        on: suites of the same inputs: "glyphs,omniglot[split=alphabet]".
        time_limit: seconds after which it stops, to be resumed by the same call.
        plugins: plug-in files.
        workers: cells at a time, each in a process of its own.

    Returns:
        The scores there, beside those on the suites' own tasks.

    Raises:
        BenchError: as the command, which prints its message.
    """
    files, store = tuple(map(Path, plugins)), Store.open(Path(path))
    cells = elsewhere(trained_cells(store, Catalogue(files)), on, Catalogue(files))
    with passed_on():
        records = run_cells(cells, store, Silent(), time_limit, files, Execution(workers=workers))
    return results(store, with_homes(store, records))


def load(path: str | Path) -> Results:
    """All finished cells of a run directory as a tidy DataFrame; `.learner(cell)` adapts to data of one's own."""
    store = Store.open(Path(path))
    return results(store, list(store.records()))


def tune(
    suite: str,
    algos: str | Sequence[str],
    *,
    out: str | Path | None = None,
    trials: int = Settings.trials,
    trial_iterations: int | None = None,
    seeds: int | Sequence[int] = 1,
    sampler: str = Settings.sampler,
    pruner: str = Settings.pruner,
    sampler_seed: int = Settings.seed,
    batch: int = Settings.batch,
    search: str | None = None,
    storage: str | None = None,
    time_limit: float | None = None,
    plugins: Sequence[str | Path] = (),
    workers: int | None = None,
    dask: str | None = None,
    dask_spec: Path | None = None,
    retries: int = RETRIES,
    engine: EngineName = "eager",
    **options: Any,
) -> pd.DataFrame:
    """What `bench tune` tries, a row for each trial; `run(..., tuned=True)` takes what it chose.

    Args:
        suite: as for `run`.
        algos: as for `run`; what stands in brackets is not searched.
        out: the run directory; `runs/<suite>` by default.
        trials: of each algorithm.
        trial_iterations: meta-iterations of a trial; a tenth of the preset's by default.
        seeds: of a trial: how many, or which.
        sampler: "tpe", "random", "cmaes" or "grid".
        pruner: "none", "median" or "hyperband".
        sampler_seed: the sampler's own.
        batch: trials in a round.
        search: where to look, instead of where algorithms declare: "maml[inner_lr=0.01..1 log, steps=1|3|5]".
        storage: "postgresql://..." instead of a journal file in the run directory.
        time_limit: seconds after which it stops, to be resumed by the same call.
        plugins: plug-in files.
        workers: as for `run`, like the next three.
        dask: the address of a scheduler.
        dask_spec: a file that describes a cluster.
        retries: of a lost cell.
        engine: how meta-gradients are computed.
        options: preset, device, threads.

    Raises:
        BenchError: as the command, which prints its message.
    """
    from bench.tuning.sweep import sweeps
    from bench.tuning.sweep import tune as run_sweeps

    execution = Execution(workers=workers, dask=dask, dask_spec=dask_spec, retries=retries)
    settings = Settings(
        trials=trials, sampler=sampler, pruner=pruner, seed=sampler_seed, batch=batch, search=search, storage=storage
    )
    root = Path(out) if out else default_out(suite)
    request = Request(
        suites=suite,
        algos=algos if isinstance(algos, str) else ",".join(algos),
        seeds=tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds),
        iterations=trial_iterations,
        plugins=tuple(map(Path, plugins)),
        share=execution.threads,
        engine=engine,
        **options,
    )
    with passed_on():
        done = run_sweeps(sweeps(request, settings, root), root, Silent(), time_limit, execution)
    return trials_of(tuning for tuning, _ in done)


def report(
    store: str | Path,
    *,
    compare: str | Path | None = None,
    out: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
) -> Path:
    """Writes the report of a run directory, or of two side by side, as `bench report` does; its page.

    Raises:
        BenchError: there is nothing to report on, or no way to write it.
    """
    from bench.reporting import report as reporting

    where, files = Path(out) if out else None, tuple(map(Path, plugins))
    if compare is None:
        return reporting.report(Path(store), where, files)
    return reporting.side_by_side((Path(store), Path(compare)), where, files)


def audit(store: str | Path) -> Audit:
    """What makes comparisons in a run directory invalid, as `bench audit` prints it; `.sound` if nothing does.

    Raises:
        StoreError: it is no run directory, or a file of it is corrupt.
    """
    return audit_.audit(Store.open(Path(store)))


def predict(
    store: str | Path, cell: str, *, support: str | Path, query: str | Path, plugins: Sequence[str | Path] = ()
) -> pd.DataFrame:
    """What a cell's learner takes images of one's own for, as `bench predict` does; `Results.learner` takes any data.

    Returns:
        A row for each image: file, class, probability.

    Raises:
        BenchError: as the command, which prints its message.
    """
    found = classify(Path(store), cell, Path(support), Path(query), tuple(map(Path, plugins)))
    return pd.DataFrame(found.rows, columns=["file", "class", "probability"])


def merge(stores: Sequence[str | Path], into: str | Path | None = None) -> pd.DataFrame:
    """Brings the cells of several run directories into one, the first by default, as `bench merge` does.

    Returns:
        A row for each cell of each source: cell, source, what became of it, message.

    Raises:
        BenchError: there is nothing to merge, a source is no run directory, or a cell of the target is being run.
    """
    paths = [Path(store) for store in stores]
    return pd.DataFrame(merge_.merge(paths, Path(into) if into else paths[0]), columns=merge_.Merged._fields)


def export(
    store: str | Path,
    *,
    to: str | Path | None = None,
    checkpoints: str | Path | None = None,
    cells: Sequence[str] = (),
) -> pd.DataFrame:
    """Carries results to a compact run directory, or checkpoints of unfinished cells to a file, as `bench export` does.

    Returns:
        A row for each cell: as of `merge`; with `checkpoints`, what it is and how far.

    Raises:
        BenchError: there is nothing to carry, a cell does not exist, or neither or both places were named.
    """
    if (to is None) == (checkpoints is None):
        raise BenchError("Say where to: to=FOLDER for results, or checkpoints=FILE for what is unfinished.")
    if to is not None:
        return pd.DataFrame(carry.compact(Path(store), Path(to), cells), columns=merge_.Merged._fields)
    return pd.DataFrame({"carried": carry.pack(Path(store), Path(str(checkpoints)), cells)})


def import_(file: str | Path, out: str | Path) -> pd.DataFrame:
    """Brings checkpoints that `export` wrote into a run directory, as `bench import` does; rows as of `merge`.

    Raises:
        BenchError: the file is damaged or something else.
    """
    return pd.DataFrame(carry.unpack(Path(file), Path(out)), columns=merge_.Merged._fields)


def reproduce(
    what: str | Sequence[str] = (),
    *,
    out: str | Path | None = None,
    time_limit: float | None = None,
    dry_run: bool = False,
    device: str = "cpu",
    threads: int | None = None,
    workers: int | None = None,
    retries: int = RETRIES,
) -> pd.DataFrame:
    """Published values beside ours, as `bench reproduce` shows them; of what is named, what is missing is run before.

    Args:
        what: "sinusoid", "omniglot/maml/5w1s", or several; everything that was published, of which nothing is run.
        out: the run directory; `runs/reproduce` by default.
        time_limit: seconds after which it stops, to be resumed by the same call.
        dry_run: run nothing of what is named either.
        device: where cells run.
        threads: of a cell.
        workers: as for `run`.
        retries: of a lost cell.

    Returns:
        A row for each value: what it is of, value, ci95, origin and source; ours with its interval, verdict and gap;
        seconds that the missing cells take here at most; the command.

    Raises:
        BenchError: nothing is published of what was named, or as `run`.
    """
    execution = Execution(workers=workers, retries=retries)
    root, asked = Path(out) if out else reproducing.OUT, reproducing.Asked(device, threads or execution.threads)
    rows = reproducing.selected([what] if isinstance(what, str) else what)
    if what and not dry_run:
        reproducing.run(rows, root, asked, Silent(), time_limit, execution)
    return reproducing.reproduced(rows, root, reproducing.Times(asked, root, tries=bool(what)))


def cells_of(
    request: Request,
    root: Path,
    tuned: bool,
    choice: Choice = measured,
    broken: Callable[[PluginError], object] | None = None,
) -> list[Cell]:
    """What a request asks for, as the run directory has begun it; `tuned` with the values that a sweep chose.

    `broken` is told of what somebody's own code does not let be planned; without it that is raised.
    """
    known = list(Store.open(root).specs()) if (root / MARK).exists() else []
    if not tuned:
        return plan(request, known, choice, broken)
    return with_chosen_values(request, root, known, choice)


def trained_cells(store: Store, catalogue: Catalogue) -> list[Cell]:
    """The finished cells of a run directory as planned, to be scored again on something else.

    Raises:
        BenchError: there is none, its checkpoint is gone, or this machine has other code than it was trained with.
    """
    done = [record for record in store.records() if record.outcome == "finished" and not record.spec.domain]
    if not done:
        raise BenchError(f"{store.root} holds no finished cell. `bench run --out {store.root} ...` makes some.")
    for record in done:
        paths = [store.folder(record.cell) / name for name in ("checkpoint.safetensors", META)]
        if record.spec.iterations and not any(path.exists() for path in paths):
            gone = f"{paths[0]} is missing, so that {label(record.spec)} can't be scored"
            raise BenchError(f"{gone}. Move its folder away and run again.")
    found = []
    for record in done:
        name, how = label(record.spec), {"tuning": record.tuning, "why_by_task": record.why_by_task}
        with foreign(f"{name} can't be scored again"):
            found.append(planned(record.spec, catalogue, label=name, **how))
    return found


def with_homes(store: Store, records: list[Record]) -> list[Record]:
    """The records of cells that are scored elsewhere, after those of the same training on the suite's own tasks."""
    homes = [store.record(record.spec.home.id) for record in records]
    return list({record.cell: record for record in (*homes, *records) if record}.values())


def results(store: Store, records: list[Record]) -> Results:
    """The records' scores as one tidy DataFrame."""
    done = [record for record in records if record.outcome == "finished"]
    frame = Results(tidy((record, store.read_table(record.cell, "scores.parquet")) for record in done))
    frame.store = store
    return frame
