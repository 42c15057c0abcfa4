"""Published values: the command that makes each here, what those have come to, and how long the others would take.

A value of ours is looked for by what a cell is, suite and algorithm with all their parameters and the number of
meta-iterations, and not by its id: who computed it, with which engine and how many threads, is no part of the question.
"""

import json
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock

from bench.cells.carry import PLACE
from bench.cells.execute import run_cells
from bench.cells.watch import Watch
from bench.core.data import cache_dir
from bench.core.discovery import Catalogue, Named, parameters, parse
from bench.core.errors import BenchError, DataError, unknown
from bench.core.interrupts import passed_on
from bench.core.records import Record, Spec
from bench.places.execution import Execution, cores
from bench.planning.engines import measured
from bench.planning.forecast import predict
from bench.planning.plan import Cell, Choice, Request, algorithm_of, plan, suite_of
from bench.storage.merge import iteration_of, merge
from bench.storage.store import MARK, Store
from reports import published
from reports.comparison import Cube, cubes
from reports.frame import cells as cells_of
from reports.frame import tidy
from reports.statistics import Interval

RESULTS = Path(__file__).parents[2] / "results"  # those that the project keeps
OUT = Path("runs/reproduce")
COMMAND = ["run_suite", "run_algorithm", "preset"]
Key = tuple[str, str, str, str]  # names and parameters of a suite and an algorithm
Kept = list[tuple[Store, Record]]


@dataclass(frozen=True)
class Asked:
    """How cells are to run, where the published protocol leaves it open."""

    device: str = "cpu"
    threads: int | None = None


@dataclass(frozen=True)
class Aim:
    """What one command of published.csv makes here."""

    suite: Named
    algorithm: Named
    preset: str
    seeds: int
    key: Key = ("", "", "", "")
    iterations: int = 0
    report_steps: tuple[int, ...] = ()
    refused: str = ""  # why nothing of it can be planned here

    @classmethod
    def of(cls, row: dict[str, Any], catalogue: Catalogue) -> "Aim":
        """Of a row of published.csv."""
        [suite], [algorithm] = parse(row["run_suite"]), parse(row["run_algorithm"])
        asked = (suite, algorithm, str(row["preset"]), int(row["seeds"]))
        try:
            built = suite_of(catalogue, suite)
            learner = algorithm_of(catalogue, algorithm, built)
        except BenchError as error:
            return cls(*asked, refused=str(error))
        key = (suite.name, _canonical(parameters(built)), algorithm.name, _canonical(parameters(learner)))
        iterations = built.presets[str(row["preset"])].iterations if learner.trains else 0
        return cls(*asked, key, iterations, built.report_steps)

    @property
    def name(self) -> str:
        """What is run, of each seed."""
        return f"{self.suite} · {self.algorithm} · {self.preset}"

    @property
    def command(self) -> str:
        """As it is typed."""
        quoted = [f'"{name}"' if "[" in str(name) else str(name) for name in (self.suite, self.algorithm)]
        return f"bench run --suite {quoted[0]} --algos {quoted[1]} --preset {self.preset} --seeds {self.seeds}"


@dataclass(frozen=True)
class Found:
    """What stores hold of an aim; engine and threads may differ from seed to seed."""

    records: Kept = field(default_factory=list)  # one for each seed
    done: int = 0  # meta-iterations of what is finished, or of a checkpoint
    diverged: str = ""

    def cubes(self) -> list[Cube]:
        """Its scores, of all seeds as those of one arm."""
        frame = tidy((record, store.read_table(record.cell, "scores.parquet")) for store, record in self.records)
        return cubes(frame.assign(arm=""), cells_of(record for _, record in self.records).assign(arm=""))


Seconds = Callable[[Aim, int, Kept], float | str]


def selected(what: Sequence[str]) -> pd.DataFrame:
    """The rows of published.csv that are named: suite, suite/algorithm or suite/algorithm/setting; all by default.

    Settings may be written short, as 5w1s.

    Raises:
        BenchError: nothing is published of what was named.
    """
    rows = published.values()
    if not what:
        return rows
    return pd.concat([_named(rows, text) for text in what]).drop_duplicates().sort_index()


def _named(rows: pd.DataFrame, text: str) -> pd.DataFrame:
    for column, part in zip(("suite", "algorithm", "setting"), text.split("/"), strict=False):
        short = re.fullmatch(r"(\d+)w(\d+)s", part)
        name = f"{short[1]}-way {short[2]}-shot" if short else part
        known = rows[column].str.partition(", ")[0] if short else rows[column]  # on whichever split
        there = rows[known == name]
        if there.empty:
            names = map(str, rows[column].dropna().unique())
            raise unknown(f"published {column}", name, names, "`bench reproduce` lists them.")
        rows = there
    return rows


def reproduced(rows: pd.DataFrame, out: Path = OUT, seconds: Seconds | None = None) -> pd.DataFrame:
    """The published values with ours, a verdict and how to come to it; what is committed counts as well as `out`.

    Args:
        rows: of published.csv.
        out: a run directory, which need not exist.
        seconds: how long so many seeds of an aim take, of which there are these records, or why nobody knows.
    """
    catalogue, held = Catalogue(), _Held([*_stores(out), *_stores(RESULTS)])
    made: list[dict[str, Any]] = []
    for aim, values in _aims(rows, catalogue):
        found = held.of(aim)
        scores = found.cubes() if found.records else []
        left = aim.seeds - (len(found.records) if found.done >= aim.iterations else 0)
        ask = seconds and left > 0 and not found.diverged
        took = seconds(aim, left, held.records.get(aim.key, [])) if seconds and ask else None
        for index, row in values.items():
            made.append({"row": index, **_told(row, aim, found, scores, took)})
    return pd.DataFrame(made).astype({"step": "Int64", "iterations": "Int64"}).sort_values("row").set_index("row")


def _told(row: dict[str, Any], aim: Aim, found: Found, scores: list[Cube], took: float | str | None) -> dict[str, Any]:
    ours, spoilt = _score(row, scores) or (None, "")
    whole = found.done >= aim.iterations and bool(found.records)
    differs = "" if pd.isna(row["differs"]) else str(row["differs"])
    word, gap, how = "not run", float("nan"), took if isinstance(took, str) else ""
    if ours:
        word, gap = published.verdict(ours, float(row["value"]), float(row["ci95"]))
        word, how = ("outside", spoilt) if spoilt else (word, how)
    if found.diverged:
        word, how = "diverged", found.diverged
    elif not whole and found.done:
        word, how = "running", f"{found.done:,} of {aim.iterations:,}"
    elif whole and differs:
        word = "differs in protocol"
    elif whole and not ours:
        word, how = "not scored", "no score of ours is of that setting and step"
    return {
        **{name: row[name] for name in ("suite", "setting", "norm", "algorithm", "unit", "run_suite", "run_algorithm")},
        "step": None if pd.isna(row["step"]) else int(row["step"]),
        **{name: row[name] for name in ("value", "ci95", "origin", "grade", "source", "notes")},
        **(
            {"ours": ours.value, "low": ours.low, "high": ours.high} if ours else dict.fromkeys(("ours", "low", "high"))
        ),
        "seeds": len(found.records),
        "iterations": found.done if found.records else None,
        "verdict": word,
        "gap": gap,
        "how": how or aim.refused,
        "differs": differs,
        "seconds": took if isinstance(took, float) else None,
        "command": aim.command,
    }


def _score(row: dict[str, Any], scores: list[Cube]) -> tuple[Interval, str] | None:
    """Our mean where the published value is of, or at the headline, and what must be said of it."""
    for cube in scores:
        step = cube.last if pd.isna(row["step"]) else int(row["step"])
        fits = pd.isna(row["setting"]) or published.setting_of(cube.setting) == row["setting"]
        if fits and (pd.isna(row["norm"]) or cube.norm == row["norm"]) and step in cube.steps:
            return cube.mean(step), _spoilt(cube, step) if cube.heavy(step) else ""
    return None


def _spoilt(cube: Cube, step: int) -> str:
    median, count = cube.robust(step).median.value, cube.at(step).size
    return (
        f"our mean is that of single tasks, median {median:.3g}: of {count:,} scores {cube.worse(step):,} are worse "
        "than knowing nothing"
    )


def cells(rows: pd.DataFrame, out: Path, asked: Asked, choice: Choice = measured) -> tuple[list[Cell], dict[str, str]]:
    """The cells that the rows lack, and why others can't be run here: the command -> the reason."""
    catalogue, held = Catalogue(), _Held([*_stores(out), *_stores(RESULTS)])
    known = [spec for store in (*_stores(out), *_stores(RESULTS / PLACE)) for spec in store.specs()]
    found: dict[str, Cell] = {}
    refused: dict[str, str] = {}
    for aim, _ in _aims(rows, catalogue):
        there = held.of(aim)
        whole = {record.spec.seed for _, record in there.records if there.done >= aim.iterations}
        seeds = tuple(seed for seed in range(aim.seeds) if seed not in whole)
        if there.diverged or not seeds:
            continue
        request = Request(
            suites=str(aim.suite), algos=str(aim.algorithm), preset=aim.preset, seeds=seeds,
            device=asked.device, threads=asked.threads,
        )  # fmt: skip
        try:
            planned = plan(request, known, choice)
            planned[0].suite.check("test")
        except BenchError as error:
            refused[aim.command] = str(error)
            continue
        found |= {cell.id: cell for cell in planned}
    return list(found.values()), refused


def run(
    rows: pd.DataFrame,
    out: Path,
    asked: Asked,
    watch: Watch,
    time_limit: float | None,
    execution: Execution,
) -> tuple[int, list[Record], dict[str, str]]:
    """Runs what the rows lack, from the committed checkpoints where there are any.

    Returns:
        How many cells were missing, the records of those that ended, and why others can't be run here.
    """
    wanted, refused = cells(rows, out, asked)
    store = Store.create(out)
    begun = {spec.id for kept in _stores(RESULTS / PLACE) for spec in kept.specs()}
    if carried := begun & {cell.id for cell in wanted}:
        list(merge([RESULTS / PLACE], out, carried))
    with passed_on():
        return len(wanted), run_cells(wanted, store, watch, time_limit, (), execution), refused


class Times:
    """How long cells take on this machine: by what it has trained, or a few meta-iterations on trial, once."""

    def __init__(
        self, asked: Asked, out: Path, say: Callable[[str], object] | None = None, *, tries: bool = True
    ) -> None:
        """`say` is told before something is tried; not `tries`, which take minutes for all: what is known is told."""
        self.asked, self.out, self.say, self.tries = asked, out, say, tries
        self.path = cache_dir() / "reproduce.json"
        self.known = self._read()

    def __call__(self, aim: Aim, seeds: int, kept: Kept) -> float | str:
        """Seconds of so many seeds, on trial at most, since eagerly; or why nobody knows."""
        if aim.refused:
            return aim.refused
        here = {"host": platform.node(), "torch_build": torch.__version__}
        done = [record for _, record in kept if here.items() <= record.environment.items()]
        if taken := [_seconds(record, aim.iterations) for record in done if record.outcome == "finished"]:
            return seeds * statistics.median(taken)
        threads = self.asked.threads or cores()
        where = f"{self.asked.device} · {threads} · {platform.node()} · torch {torch.__version__}"
        key = f"{aim.name} · {where}"
        if key not in self.known:
            if not self.tries:
                return f"`bench reproduce {aim.suite.name} --dry-run` says how long it takes here"
            if self.say:
                self.say(f"timing {aim.algorithm} on {aim.suite}, once on this machine")
            request = Request(
                suites=str(aim.suite), algos=str(aim.algorithm), preset=aim.preset, engine="eager",
                device=self.asked.device, threads=threads,
            )  # fmt: skip
            try:
                cell = plan(request)[0]
                cell.suite.check("test")
                began, busy = time.perf_counter(), time.process_time()
                [found] = predict([cell], self.out)
                # Of one thread, what other processes took of the core does not count.
                share = (time.process_time() - busy) / (time.perf_counter() - began) if threads == 1 else 1.0
            except DataError:
                return f"its data are not at hand: `bench data fetch {aim.suite.name}` says what to do"
            except BenchError as error:
                return str(error)
            if found.seconds is None:
                return str(found.error)
            self._keep(key, found.seconds * min(share, 1.0))
        return seeds * self.known[key]

    def _read(self) -> dict[str, float]:
        # A lost or broken file costs a measurement, nothing else.
        with suppress(OSError, ValueError):
            found: dict[str, float] = json.loads(self.path.read_bytes())
            return found
        return {}

    def _keep(self, key: str, seconds: float) -> None:
        self.known[key] = seconds
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_suffix(".lock")):
                self.known = {**self._read(), key: seconds}
                part = self.path.with_suffix(".part")
                part.write_text(json.dumps(self.known, indent=1))
                part.replace(self.path)


def _seconds(record: Record, iterations: int) -> float:
    return record.train_seconds * iterations / max(record.stopped_at, 1) + record.evaluate_seconds


class _Held:
    """What stores hold, by what it is."""

    def __init__(self, stores: Iterable[Store]) -> None:
        self.records: dict[Key, Kept] = {}
        self.begun: dict[Key, int] = {}  # the furthest checkpoint
        ended: set[str] = set()
        for store in stores:
            for record in store.records():
                if record.outcome != "failed" and record.spec.split == "test":
                    self.records.setdefault(_key(record.spec), []).append((store, record))
                    ended.add(record.cell)
            for at in (store, *_stores(store.root / PLACE)):
                for spec in at.specs():
                    if spec.id not in ended and spec.split == "test":
                        done = iteration_of(at.folder(spec.id) / "checkpoint.safetensors")
                        self.begun[_key(spec)] = max(self.begun.get(_key(spec), 0), done)

    def of(self, aim: Aim) -> Found:
        """What was trained for the most meta-iterations up to the aim's own."""
        ends: dict[int, dict[int, tuple[Store, Record]]] = {}  # of training -> seed -> the first
        diverged = ""
        for store, record in self.records.get(aim.key, []):
            if record.outcome == "diverged" and record.spec.iterations == aim.iterations:
                diverged = record.message or f"after {record.stopped_at:,} meta-iterations"
            elif record.outcome == "finished" and record.spec.iterations <= aim.iterations:
                ends.setdefault(record.spec.iterations, {}).setdefault(record.spec.seed, (store, record))
        if not ends:
            return Found(done=self.begun.get(aim.key, 0), diverged=diverged)
        last = max(ends)
        done = last if last >= aim.iterations else max(last, self.begun.get(aim.key, 0))
        return Found([ends[last][seed] for seed in sorted(ends[last])], done)


def _stores(root: Path) -> Iterator[Store]:
    if (root / MARK).exists():
        yield Store.open(root)


def _key(spec: Spec) -> Key:
    suite, algorithm = spec.suite, spec.algorithm
    return suite.name, _canonical(suite.parameters), algorithm.name, _canonical(algorithm.parameters)


def _canonical(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)


def _aims(rows: pd.DataFrame, catalogue: Catalogue) -> Iterator[tuple[Aim, dict[int, dict[str, Any]]]]:
    """Each command with its rows, by their numbers."""
    for _, part in rows.groupby(COMMAND, sort=False):
        values = {int(str(index)): {str(k): v for k, v in row.items()} for index, row in part.to_dict("index").items()}
        first = next(iter(values.values()))
        yield Aim.of(first | {"seeds": max(row["seeds"] for row in values.values())}, catalogue), values
