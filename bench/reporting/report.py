"""`bench report`: a run directory, or two side by side, as tables, figures and one HTML page."""

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.core.discovery import Catalogue
from bench.core.errors import BenchError
from bench.core.findings import Audit, Finding
from bench.core.records import Record, Tuning
from bench.reporting.predictions import CONFUSED_TASKS, confusions, regression_curves
from bench.storage.audit import audit
from bench.storage.store import TUNING, Store, check_claim, claim, tunings, write
from reports import comparison, figures, frame, published, tuning, views
from reports.comparison import Cube
from reports.figures import Looks
from reports.page import Picture, Report, publish

MARK, KIND = "report.json", "report of bench's"
TABLES = ("scores", "cells", "progress", "trials", "curves", "confusions")


@dataclass(frozen=True)
class Contents:
    """What one or more run directories hold, as data: the only source of a report."""

    scores: pd.DataFrame  # reports.frame.tidy
    cells: pd.DataFrame  # reports.frame.cells
    progress: pd.DataFrame  # reports.frame.progress
    trials: pd.DataFrame  # reports.frame.trials
    curves: pd.DataFrame  # predictions of stored models, for the figure of a regression suite
    confusions: pd.DataFrame  # which classes each image suite's best algorithm confuses
    links: dict[str, str]  # cell -> its folder
    records: tuple[Record, ...]


def report(root: Path, out: Path | None = None, plugins: Sequence[Path] = ()) -> Path:
    """Writes the report of a run directory and gives its page; by default to `report/` in it.

    One that holds nothing but sweeps gets the report of those.

    Raises:
        BenchError: there is nothing to report on, or no way to write it.
    """
    folder = out or root / "report"
    check_claim(folder, MARK, KIND)
    if not any(Store.open(root).records()) and (found := [each for each in tunings(root) if each.trials]):
        return _publish_sweeps(found, root, folder, Catalogue(tuple(plugins)))
    contents = read(root, folder, Catalogue(tuple(plugins)))
    commands, notes = reproduce(contents.records, Catalogue(tuple(plugins)), root)
    return _publish(contents, folder, root.name, str(root), audit(Store.open(root)), commands, notes)


def side_by_side(roots: tuple[Path, Path], out: Path | None = None, plugins: Sequence[Path] = ()) -> Path:
    """Writes the report of two run directories side by side, an algorithm of one against itself in the other.

    Raises:
        BenchError: as `report`, or they have no algorithm on a suite in common.
    """
    folder = out or Path("report-compare")
    check_claim(folder, MARK, KIND)
    names = [root.name for root in roots] if roots[0].name != roots[1].name else [str(root) for root in roots]
    if names[0] == names[1]:
        raise BenchError(f"{roots[0]} would be compared with itself. Give two run directories.")
    catalogue = Catalogue(tuple(plugins))
    each = [_named(read(root, folder, catalogue), name) for root, name in zip(roots, names, strict=True)]
    both = Contents(
        **{name: pd.concat([getattr(c, name) for c in each], ignore_index=True) for name in TABLES},
        links={cell: link for c in each for cell, link in c.links.items()},
        records=tuple(record for c in each for record in c.records),
    )
    suites = [set(zip(c.cells["suite"], c.cells["base"], strict=True)) for c in each]
    if not suites[0] & suites[1]:
        raise BenchError(
            f"{roots[0]} and {roots[1]} have no algorithm on a suite in common, so there is nothing to pair. "
            f"The one has {_known(suites[0])}; the other {_known(suites[1])}."
        )
    commands, notes = [], []
    for root, contents in zip(roots, each, strict=True):
        more, said = reproduce(contents.records, catalogue, root)
        commands += more
        notes += said
    one, other = (audit(Store.open(root)).named(name) for root, name in zip(roots, names, strict=True))
    title, source = f"{names[0]} against {names[1]}", f"{roots[0]} and {roots[1]}"
    return _publish(both, folder, title, source, one.beside(other), commands, notes, paired=True)


def read(root: Path, folder: Path, catalogue: Catalogue) -> Contents:
    """What a run directory holds.

    Raises:
        BenchError: no cell of it has ended.
    """
    store = Store.open(root)
    records = tuple(store.records())
    if not records:
        raise BenchError(f"{root} holds no finished cell: there is nothing to report on. `bench run --out {root} ...`")
    done = [record for record in records if record.outcome == "finished"]
    at_home = [record for record in done if not record.spec.domain]
    cells = frame.cells(records)
    scores = frame.tidy((record, store.read_table(record.cell, "scores.parquet")) for record in done)
    labels = dict(zip(cells["arm"], cells["algorithm"], strict=True))
    every = {
        "scores": scores,
        "cells": cells,
        "progress": frame.progress((record, store.read_table(record.cell, "curve.parquet")) for record in at_home),
        "trials": frame.trials(records),
        "curves": regression_curves(store, at_home, catalogue),
        "confusions": confusions(store, _best(scores, cells, at_home), catalogue),
    }
    for table in every.values():
        if len(table):
            table["algorithm"] = table["arm"].map(labels).fillna("")
    where = Path(os.path.relpath(root.absolute(), folder.absolute()))
    links = {record.cell: (where / "cells" / record.cell).as_posix() for record in records}
    return Contents(**every, links=links, records=records)


def _best(scores: pd.DataFrame, cells: pd.DataFrame, done: Sequence[Record]) -> list[Record]:
    """Of every suite the cell with the best mean after the last report step."""
    of, best = {record.cell: record for record in done}, []
    for about in cells[cells["domain"] == ""].drop_duplicates("suite").to_dict("records"):
        headline = scores["step"] == about["report_steps"][-1]
        for name in ("suite", "setting", "norm", "metric"):
            headline &= scores[name] == about[name]
        means = scores[headline].groupby("cell")["value"].mean().dropna()
        if len(means):
            best.append(of[str(means.idxmin() if about["better"] == "lower" else means.idxmax())])
    return best


def _named(contents: Contents, name: str) -> Contents:
    """The contents with a run directory's name beside every algorithm's."""
    made = {}
    for field in TABLES:
        table = getattr(contents, field)
        if len(table):
            shown = table["algorithm"].where(table["algorithm"] == "", table["algorithm"] + f" ({name})")
            arms = {key: table[key] + f"@{name}" for key in ("arm", "home") if key in table}
            table = table.assign(algorithm=shown, **arms, store=name)
        made[field] = table
    return Contents(**made, links=contents.links, records=contents.records)


def _publish(
    contents: Contents,
    folder: Path,
    title: str,
    source: str,
    found: Audit,
    commands: list[str],
    notes: list[str],
    paired: bool = False,
) -> Path:
    cells = contents.cells
    base = dict(zip(cells["arm"], cells["base"], strict=True))
    cubes = comparison.cubes(contents.scores, cells)
    compared, beside = comparison.compare(cubes), comparison.further(contents.scores, cells)
    pairs = comparison.differences(cubes, (lambda a, b: base[a.arm] == base[b.arm]) if paired else None)
    orders = comparison.orders(cells)
    at_home = compared[compared["arm"].isin(cells.loc[cells["domain"] == "", "arm"])] if len(compared) else compared
    known = published.beside(at_home, cells) if len(at_home) else pd.DataFrame()
    suites = list(dict.fromkeys(cells["suite"]))
    each = [
        (
            views.comparison(s, compared, beside, cells),
            views.domains(s, compared, cells),
            views.rounds(s, contents.scores, cells),
        )
        for s in suites
    ]
    standing = comparison.standings(cubes, compared, cells)
    front = views.front(standing, cells)
    scores = [view for view in (front, *(view for of_suite in each for view in of_suite)) if view.rows]
    analyses = [views.differences(suite, pairs) for suite in suites] if len(pairs) else []
    analyses += [views.variances(compared, cells)] if len(compared) else []
    analyses += [views.costs(orders), views.published(known)]
    made = Report(
        title=title,
        subtitle=f"{len(cells)} cells of {len(suites)} suite{'s' if len(suites) > 1 else ''} in {source}, "
        f"last finished {max(cells['finished'])}",
        audit=found,
        summary=views.summary(at_home, orders, cells),
        scores=scores,
        analyses=[view for view in analyses if view.rows],
        pictures=list(_pictures(contents, cubes, at_home, orders)),
        cells=views.cells_of(cells, contents.links),
        commands=commands,
        command_notes=notes,
        environment=_environment(contents.records),
    )
    frames = {
        "comparison.csv": compared,
        "standings.csv": standing,
        "quantiles.csv": comparison.quantiles(cubes),
        "differences.csv": pairs,
        "second-order.csv": orders,
        "further.csv": beside,
        "published.csv": known,
        "cells.csv": cells.drop(columns="metrics"),
        "scores.parquet": contents.scores,
    }
    return _written(made, folder, {name: table for name, table in frames.items() if len(table)})


def _written(made: Report, folder: Path, frames: dict[str, pd.DataFrame]) -> Path:
    try:
        claim(folder, MARK, KIND)
        return publish(made, folder, frames, write)
    except OSError as error:
        reason = error.strerror or error
        raise BenchError(f"cannot write to {folder}: {reason}. Give another folder with --out.") from None


def _publish_sweeps(found: list[Tuning], root: Path, folder: Path, catalogue: Catalogue) -> Path:
    """The report of sweeps, of which nothing was run yet with what they chose."""
    trials, records = frame.trials_of(found), list(Store.open(root / TUNING).records())
    look = figures.looks([*catalogue.names("algorithm"), *trials["algorithm"]])
    columns = ["suite", "algorithm", "trial", "outcome", "score", "metric", "spent", "parameters"]
    made = Report(
        title=root.name,
        subtitle=f"{len(trials)} trials of {len(found)} sweep{'s' if len(found) > 1 else ''} in {root}, "
        f"last finished {max(each.finished for each in found)}",
        audit=Audit(tuple(_unequal(found)), ()),
        summary=[f"{t.algorithm.label} on {t.suite.label}: {tuning.values(t.best)}." for t in found],
        scores=[views.plain("sweeps", "What the sweeps chose, on validation tasks", tuning.summary(found))],
        analyses=[],
        pictures=[
            Picture(
                "budget",
                "The best validation score against the number of trials: median over orders in which they might have "
                "come, with the interval of 95 % of them; dots: as they came.",
                tuning.budget(found, look),
            ),
            Picture(
                "tuning", "The best validation score so far against what a sweep spent.", figures.tuning(trials, look)
            ),
        ],
        cells=views.plain("trials", "All trials", trials[columns]),
        commands=[*(_tune_command(each, root, catalogue) for each in found), f"bench report {shlex.quote(str(root))}"],
        environment=_environment(records),
    )
    return _written(made, folder, {"trials.csv": trials.drop(columns="arm")})


def _unequal(found: list[Tuning]) -> Iterator[Finding]:
    """A fault for each suite on which sweeps had other budgets than others."""
    for suite in dict.fromkeys(each.suite.label for each in found):
        budgets: dict[str, list[str]] = {}
        for each in (each for each in found if each.suite.label == suite):
            said = ", ".join(f"{name} {value}" for name, value in each.budget.items())
            budgets.setdefault(said, []).append(each.algorithm.label)
        if len(budgets) > 1:
            listed = "; ".join(f"{budget}: {', '.join(names)}" for budget, names in budgets.items())
            yield Finding("fault", suite, "tuning budgets differ", listed, "Give all of them the same.")


def _tune_command(found: Tuning, root: Path, catalogue: Catalogue) -> str:
    options = {
        "suite": found.suite.label, "algos": found.algorithm.label, "trials": len(found.trials),
        "trial-iterations": found.iterations, "seeds": ",".join(map(str, found.seeds)) + ",", "sampler": found.sampler,
        "pruner": found.pruner, "sampler-seed": found.seed, "batch": found.batch, "out": root,
    }  # fmt: skip
    presets = catalogue.load("suite", found.suite.name).presets if found.suite.name in catalogue.names("suite") else {}
    fits = [name for name, budget in presets.items() if budget.validation_tasks == found.validation_tasks]
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return shlex.join(["bench", "tune", *words, *(("--preset", fits[0]) if fits else ())])


def _pictures(contents: Contents, cubes: list[Cube], compared: pd.DataFrame, orders: pd.DataFrame) -> Iterator[Picture]:
    cells = contents.cells
    look = figures.looks([*Catalogue().names("algorithm"), *cells["algorithm"]])
    abouts = cells.drop_duplicates("suite").set_index("suite")
    for suite, about in abouts.iterrows():
        own = [cube for cube in cubes if cube.suite == suite]
        yield from _of_suite(str(suite), about, own, contents, look)
    if len(compared):
        yield Picture(
            "cost-and-score",
            "What a method costs against what it reaches, with 95 % intervals; what nothing cheaper matches is joined.",
            figures.cost_and_score(compared, cells, look),
        )
    if len(orders):
        yield Picture("second-order", "What second order costs: seconds, second over first.", figures.overhead(orders))
    if len(contents.trials):
        yield Picture(
            "tuning", "The best validation score so far against what a sweep spent.",
            figures.tuning(contents.trials, look),
        )  # fmt: skip
    ranked = _ranked(compared, abouts)
    if len(ranked) >= 3 and len(ranked.columns) >= 3:
        few = " With fewer than ten suites read it as a description, not as a test." if len(ranked) < 10 else ""
        yield Picture(
            "critical-difference",
            f"Mean ranks over suites; bars join what Wilcoxon's test with Holm's correction can't tell apart.{few}",
            figures.critical_difference(ranked, {str(s): str(b) for s, b in abouts["better"].items()}, look),
        )


def _of_suite(suite: str, about: Any, own: list[Cube], contents: Contents, look: Looks) -> Iterator[Picture]:
    name, unit = views.slug(suite), f" {about['unit']}" if about["unit"] else ""
    metric = f"{about['metric']}{unit}"
    if own:
        yield Picture(
            f"adaptation-{name}",
            f"{suite}: {metric} after 0 to {own[0].steps[-1]} {about['after']}, with 95 % intervals.",
            figures.adaptation(own, look, metric, str(about["after"])),
        )
    here = contents.scores[contents.scores["suite"] == suite]
    if own and (here["metric"] == "needed").any():
        yield Picture(
            f"rounds-{name}",
            f"{suite}: as tasks come, {metric} after so many points of a task, and the points that it needed: running "
            "means over tasks, their mean over seeds and the range of the seeds.",
            figures.rounds(
                here[here["metric"].isin(["needed", about["metric"]])],
                look,
                metric,
                about["report_steps"],
                str(about["better"]),
            ),
        )
    progress = contents.progress[contents.progress["suite"] == suite]
    if len(progress):
        yield Picture(
            f"learning-{name}", f"{suite}: what meta-training reaches on the validation tasks; thin lines are seeds.",
            figures.learning(progress, look),
        )  # fmt: skip
    curves = contents.curves
    if len(curves) and (curves["suite"] == suite).any():
        yield Picture(
            f"regression-{name}", f"{suite}: test tasks, before and after adaptation (Finn et al. 2017, figure 2).",
            figures.regression(curves[curves["suite"] == suite], look),
        )  # fmt: skip
    confused = contents.confusions
    if len(confused) and (confused["suite"] == suite).any():
        yield Picture(
            f"confusion-{name}",
            f"{suite}: what the best algorithm takes images for, by what their classes are one of; beside each name, "
            f"how many of its images are named right. Of {CONFUSED_TASKS} test tasks at most.",
            figures.confusion(confused[confused["suite"] == suite]),
        )
    headline = [cube for cube in own if (cube.setting, cube.norm) == (about["setting"], about["norm"])]
    if not about["unit"] and headline:
        yield Picture(
            f"profile-{name}", f"{suite}, {about['setting']}: performance profile, the share of scores as good as τ.",
            figures.profiles(headline, look, metric, float(about["floor"])),
        )  # fmt: skip
    if len(headline) > 1:
        a, b = sorted(headline, key=_middle)[:2]
        yield Picture(
            f"tasks-{name}", f"{suite}, {about['setting']}: every task under {a.algorithm} and {b.algorithm}.",
            figures.scatter(a, b, metric, float(about["floor"])),
        )  # fmt: skip


def _middle(cube: Cube) -> float:
    """What orders algorithms from the best on."""
    sign = 1 if cube.better == "lower" else -1
    return sign * float(pd.Series(cube.at(cube.last).ravel()).median())


def _ranked(compared: pd.DataFrame, abouts: pd.DataFrame) -> pd.DataFrame:
    """[suite, algorithm]: headline scores of the algorithms that every suite has."""
    if not len(compared):
        return compared
    about = abouts.loc[compared["suite"]]
    last = [steps[-1] for steps in about["report_steps"]]
    headline = (compared["setting"].to_numpy() == about["setting"].to_numpy()) & (
        compared["norm"].to_numpy() == about["norm"].to_numpy()
    )
    headline &= compared["step"].to_numpy() == last
    rows = compared[headline]
    scores = rows["median"].where(rows["by"] == "median", rows["mean"])
    table: pd.DataFrame = rows.assign(score=scores).pivot_table(index="suite", columns="algorithm", values="score")
    return table.dropna(axis=1)


def _environment(records: Sequence[Record]) -> dict[str, str]:
    """What the cells ran on; with counts where they differ."""
    names = dict.fromkeys(name for record in records for name in record.environment)
    found = {}
    for name in names:
        count = pd.Series([record.environment.get(name, "unknown") for record in records]).value_counts()
        found[name] = (
            str(count.index[0]) if len(count) == 1 else "; ".join(f"{v} ({n} cells)" for v, n in count.items())
        )
    return found


def reproduce(records: Sequence[Record], catalogue: Catalogue, root: Path) -> tuple[list[str], list[str]]:
    """The commands that plan the same cells again, and what they need besides."""
    groups: dict[tuple[str, ...], dict[str, list[Any]]] = {}
    foreign: dict[str, None] = {}
    for record in records:
        spec = record.spec
        unknown = (
            *({c.name for c in (spec.suite, spec.domain and spec.domain.suite) if c} - set(catalogue.names("suite"))),
            *({spec.algorithm.name} - set(catalogue.names("algorithm"))),
        )
        foreign |= dict.fromkeys(unknown)
        options = [f"--preset {preset}"] if (preset := _preset(record, catalogue)) else []
        options += [f"--iterations {spec.iterations}"] if spec.iterations else []
        options += [f"--selection {spec.selection}"] if spec.iterations and spec.selection != "last" else []
        options += [f"--validate-every {spec.validate_every}", f"--device {spec.device}", f"--threads {spec.threads}"]
        options += [f"--engine {spec.engine}"] if spec.iterations else ["--engine eager"]
        options += [f"--chunk-tasks {spec.chunk_tasks}"] if spec.chunk_tasks else []
        options += [f"--score-on {shlex.quote(spec.domain.suite.label)}"] if spec.domain else []
        key = (spec.suite.label, *options)
        group = groups.setdefault(key, {"algos": [], "seeds": []})
        group["algos"].append(spec.algorithm.label)
        group["seeds"].append(spec.seed)
    lines = []
    for (suite, *options), group in groups.items():
        algos = ",".join(dict.fromkeys(group["algos"]))
        seeds = ",".join(map(str, sorted(set(group["seeds"])))) + ("," if len(set(group["seeds"])) == 1 else "")
        words = ["bench", "run", "--suite", suite, "--algos", algos, "--seeds", seeds]
        lines.append(" ".join([shlex.join(words), *options, "--out", shlex.quote(str(root))]))
    lines.append(f"bench report {shlex.quote(str(root))}")
    notes = [f"Add --plugin FILE for {', '.join(foreign)}, which bench itself does not have."] if foreign else []
    return lines, notes


def _preset(record: Record, catalogue: Catalogue) -> str:
    """A preset with the record's numbers of tasks, if its suite is known and has one."""
    if record.spec.suite.name not in catalogue.names("suite"):
        return ""
    presets = catalogue.load("suite", record.spec.suite.name).presets
    tasks = (record.spec.test_tasks, record.spec.validation_tasks)
    fits = [name for name, budget in presets.items() if (budget.test_tasks, budget.validation_tasks) == tasks]
    return "quick" if "quick" in fits else next(iter(fits), "")


def _known(pairs: set[tuple[str, str]]) -> str:
    return ", ".join(sorted(f"{algorithm} on {suite}" for suite, algorithm in pairs))
