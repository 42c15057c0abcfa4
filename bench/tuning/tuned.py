"""What `bench tune` chose: the cells of a request with tuned values, from sweeps of equal budgets."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from bench.core.discovery import Named, parse
from bench.core.errors import BenchError
from bench.core.records import Component, Spec, Tuning
from bench.planning.plan import Cell, Choice, Request, plan
from bench.storage.store import TUNING, tunings


def tuned(request: Request, root: Path, known: Iterable[Spec], choice: Choice) -> list[Cell]:
    """The cells of a request with the values that `bench tune` chose, sweeps of equal budgets for all algorithms.

    Raises:
        BenchError: a sweep is missing, unequal or without a usable trial; says which command to run.
    """
    cells: list[Cell] = []
    stored = list(tunings(root))
    for suite in parse(request.suites):
        algorithms = parse(request.algos)
        chosen = _chosen(replace(request, suites=str(suite)), algorithms, stored, root)
        for algorithm, tuning in zip(algorithms, chosen, strict=True):
            best = tuning.best
            if best is None:
                raise BenchError(
                    f"no trial of {algorithm} on {suite} has a finite score ({len(tuning.trials)} tried). Give more "
                    f"trials or iterations to `bench tune`; {root / TUNING / tuning.study} holds what was tried."
                )
            given = algorithm.given | {name: str(value) for name, value in best.parameters.items()}
            asked = replace(request, suites=str(suite), algos=str(Named(algorithm.name, given)))
            cells += [replace(cell, tuning=tuning) for cell in plan(asked, known, choice)]
    return list({cell.id: cell for cell in cells}.values())


def _chosen(request: Request, algorithms: list[Named], stored: list[Tuning], root: Path) -> list[Tuning]:
    """One sweep per algorithm of one suite, all of the same budget: the latest of which every algorithm has one."""
    matches = []
    for algorithm in algorithms:
        probe = replace(request, algos=str(algorithm), seeds=request.seeds[:1], split="validation", engine="eager")
        spec = plan(probe)[0].spec
        alike = [t for t in stored if _same(t.suite, spec.suite) and _same(t.algorithm, spec.algorithm)]
        matches.append([t for t in alike if set(t.algorithm.given) == set(algorithm.given)])
    latest = sorted((t for some in matches for t in some), key=lambda t: t.finished, reverse=True)
    for wanted in latest:
        rows = [next((t for t in some if t.budget == wanted.budget), None) for some in matches]
        if None not in rows:
            return [row for row in rows if row]
    lacking = [str(a) for a, some in zip(algorithms, matches, strict=True) if not some]
    names = ",".join(map(str, algorithms))
    command = f'bench tune --suite "{request.suites}" --algos "{names}" --out {root}'
    if not lacking:
        found = "; ".join(
            f"{a}: {', '.join(sorted({_budget(t) for t in some}))}" for a, some in zip(algorithms, matches, strict=True)
        )
        raise BenchError(
            f"the sweeps on {request.suites} have unequal budgets ({found}), so their tuned values would not compare. "
            f"Give all of them the same: {command} --trials N --trial-iterations N"
        )
    like = f" --trials {len(latest[0].trials)} --trial-iterations {latest[0].iterations}" if latest else ""
    raise BenchError(
        f"{', '.join(lacking)} was not tuned on {request.suites} as file and parameters now stand: {root / TUNING} has "
        f"no such sweep. Run: {command}{like}"
    )


def _same(one: Component, other: Component) -> bool:
    first, second = (component.model_dump(mode="json", exclude={"given"}) for component in (one, other))
    return first == second


def _budget(tuning: Tuning) -> str:
    return f"{len(tuning.trials)} trials of {tuning.iterations:,} iterations, {tuning.sampler}, {tuning.pruner} pruned"
