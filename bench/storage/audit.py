"""What makes a comparison invalid, found in the records of a run directory.

A row of a table is one entrant: an algorithm with its iterations, normalisation and selection, over its seeds. Entrants
of one suite may be compared if they met the same tasks, with the same code, versions, budget and seeds. A store may
hold several whole comparisons side by side, such as every algorithm at two numbers of iterations: that is no fault.
"""

import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations

from bench.core.findings import Audit, Comparison, Finding
from bench.core.records import FEWEST_SEEDS, Domain, Record, Spec
from bench.storage.store import Store

ITERATIONS = "iterations differ"
MACHINE = ("cpu", "host", "system")  # of a record's environment; the rest are versions
DOUBTS = "Training may not have trained: look at the curve, the outer rate and the bounds of the outer rule."
RERUN = "Run them again into a new run directory (--out)."


def audit(store: Store) -> Audit:
    """What is to be said of a run directory."""
    records = list(store.records())
    known = {record.cell for record in records}
    rivals = [rival for record in records for rival in store.rivals(record.cell)]
    return audit_of(records, rivals, [spec for spec in store.specs() if spec.id not in known])


def audit_of(records: Sequence[Record], rivals: Iterable[Record] = (), begun: Iterable[Spec] = ()) -> Audit:
    """Likewise of records at hand.

    Args:
        records: one per cell.
        rivals: records of the same specifications with other digests.
        begun: specifications of cells that have no record.
    """
    ended = {(r.spec.trajectory, r.spec.iterations) for r in records if r.outcome != "failed"}
    specs = [r.spec for r in records if r.outcome == "failed"] + [
        spec for spec in begun if not any(t == spec.trajectory and n > spec.iterations for t, n in ended)
    ]
    sound = [r for r in records if r.outcome != "failed"]
    findings, comparisons = list[Finding](), list[Comparison]()
    for suite in dict.fromkeys(_suite(r.spec) for r in records) | dict.fromkeys(map(_suite, specs)):
        group = _Group(
            [r for r in sound if _suite(r.spec) == suite],
            [spec for spec in specs if _suite(spec) == suite],
            [r for r in rivals if _suite(r.spec) == suite],
        )
        group.examine()
        findings += group.findings
        comparisons += group.comparisons()
    findings.sort(key=lambda finding: finding.severity, reverse=True)  # stable: faults, then cautions
    return Audit(tuple(findings), tuple(comparisons))


@dataclass(eq=False)
class _Entrant:
    name: str
    cells: list[Record] = field(default_factory=list)
    missing: list[Spec] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # that keep it from every other

    @property
    def spec(self) -> Spec:
        return self.cells[0].spec if self.cells else self.missing[0]

    @property
    def seeds(self) -> set[int]:
        return {record.spec.seed for record in self.cells}


class _Group:
    """The entrants of one suite, whatever its normalisation."""

    def __init__(self, records: list[Record], missing: list[Spec], rivals: list[Record]) -> None:
        self.records, self.rivals = records, rivals
        self.entrants: dict[Hashable, _Entrant] = {}
        for record in records:
            self._entrant(record.spec).cells.append(record)
        for spec in missing:
            self._entrant(spec).missing.append(spec)
        spec = next(iter(self.entrants.values())).spec
        given = {name: value for name, value in spec.suite.given.items() if name != "norm"}
        self.title = spec.suite.model_copy(update={"given": given}).label
        self.title += f" on {spec.domain.suite.label}" if spec.domain else ""
        self.findings: list[Finding] = []
        self.differing: list[tuple[str, Callable[[_Entrant], Hashable]]] = []  # what tells entrants apart, and how

    def _entrant(self, spec: Spec) -> _Entrant:
        key = (spec.algorithm.label, spec.iterations, spec.norm, spec.selection, spec.engine)
        return self.entrants.setdefault(key, _Entrant(spec.algorithm.label))

    def examine(self) -> None:
        everything = list(self.entrants.values())
        trained = [e for e in everything if e.spec.iterations]
        self._unless_shared(ITERATIONS, trained, lambda e: e.spec.iterations, lambda n: f"{n:,}")
        self._unless_shared("normalisation differs", everything, lambda e: e.spec.norm, str)
        self._unless_shared("tuning budgets differ", everything, _budget, str)
        for members in _by(trained, lambda e: (e.spec.iterations, *_side(e))) or [[]]:
            others = [e for e in everything if e not in trained and (not members or _side(e) == _side(members[0]))]
            self._versions([*members, *others])
            self._missing([*members, *others])
        self._digests()
        self._cautions(everything)
        self.findings = list(dict.fromkeys(self.findings))

    def _unless_shared(
        self, what: str, entrants: list[_Entrant], value: Callable[[_Entrant], Hashable], shown: Callable[..., str]
    ) -> None:
        """A fault, unless any two algorithms have a value in common: then comparisons stand side by side."""
        values = list(dict.fromkeys(map(value, entrants)))
        if len(values) < 2:
            return
        self.differing.append((what, value))
        had: dict[str, set[Hashable]] = {}
        for entrant in entrants:
            had.setdefault(entrant.spec.algorithm.name, set()).add(value(entrant))
        if any(not one & other for one, other in combinations(had.values(), 2)):
            listed = {shown(v): [e.name for e in entrants if value(e) == v] for v in values}
            self._fault(what, _values(listed), "Run all algorithms with the same.")

    def _versions(self, comparable: list[_Entrant]) -> None:
        packages = dict.fromkeys(name for e in comparable for record in e.cells for name in record.environment)
        for name in [name for name in packages if name not in MACHINE]:
            self._mixed(f"{name} versions differ", comparable, partial(_package, name), str)
        self._mixed("suite versions differ", comparable, lambda r: _versioned(r.spec.domain or r.spec), _version)
        self._mixed("test tasks differ", comparable, lambda r: (_canonical(_met(r.spec)), r.spec.test_tasks), _tasks)
        for entrant in comparable:
            self._mixed("code differs", [entrant], lambda r: r.spec.algorithm.source[:8], str)

    def _mixed(
        self, what: str, entrants: list[_Entrant], value: Callable[[Record], Hashable], shown: Callable[..., str]
    ) -> None:
        """A fault if their records don't agree."""
        listed: dict[Hashable, list[str]] = {}
        for entrant in entrants:
            own = dict.fromkeys(map(value, entrant.cells))
            for one in own:
                listed.setdefault(one, []).append(entrant.name)
            if len(own) > 1:
                entrant.faults.append(f"{what} among its own cells")
        if len(listed) > 1:
            self._fault(what, _values({shown(one): names for one, names in listed.items()}), RERUN)
            if len(entrants) > 1:
                self.differing.append((what, lambda e: frozenset(map(value, e.cells))))

    def _missing(self, comparable: list[_Entrant]) -> None:
        wanted = set[int]().union(*(e.seeds | {spec.seed for spec in e.missing} for e in comparable))
        for entrant in comparable:
            if lacking := sorted(wanted - entrant.seeds):
                seeds = f"seed{'s' if len(lacking) > 1 else ''} {', '.join(map(str, lacking))}"
                self._fault(
                    "cells are missing",
                    f"{entrant.name} has no result for {seeds}",
                    "The command that made the others runs what is missing.",
                    [spec.id for spec in entrant.missing],
                )
                entrant.faults.append(f"{seeds} missing")

    def _digests(self) -> None:
        for rival in self.rivals:
            entrant = self._entrant(rival.spec)
            [first] = [r for r in entrant.cells if r.cell == rival.cell] or [rival]
            hosts = f"{_host(first)} and {_host(rival)}"
            self._fault(
                "digests differ",
                f"{entrant.name}, seed {rival.spec.seed}: {first.digest[:12]} and {rival.digest[:12]}, of {hosts}, "
                "for one specification",
                f"Run it again, and find out which machine computes otherwise; both are kept in cells/{rival.cell}.",
                [rival.cell],
            )
            entrant.faults.append("two results for one specification")

    def _cautions(self, everything: list[_Entrant]) -> None:
        few: dict[str, list[str]] = {}
        for entrant in everything:
            if len(entrant.seeds) < FEWEST_SEEDS:
                few.setdefault(str(len(entrant.seeds)), []).append(entrant.name)
        if few:
            self._caution("few seeds", _values(few), f"--seeds {FEWEST_SEEDS} or more.")
        hardware: dict[str, list[str]] = {}
        for record in self.records:
            hardware.setdefault(_hardware(record), []).append(record.spec.algorithm.label)
        if len(hardware) > 1:
            self._caution("hardware differs", _values(hardware), "Don't compare seconds and memory.")
        pruned = {e.name: n for e in everything if (n := _pruned(e))}
        if pruned:
            trials = "; ".join(f"{name}: {n} trials" for name, n in pruned.items())
            self._caution("trials were pruned", trials, "A pruned budget is unequal; tune with --pruner none.")
        diverged: dict[str, list[str]] = {}
        for record in self.records:
            if record.outcome == "diverged":
                diverged.setdefault(f"seed {record.spec.seed}", []).append(record.spec.algorithm.label)
        if diverged:
            self._caution("diverged", _values(diverged), "Their means are over the seeds that did not diverge.")
        self._doubts()

    def _doubts(self) -> None:
        """What the cells themselves have found amiss."""
        found: dict[str, dict[str, list[str]]] = {}
        for record in self.records:
            for what, message in record.cautions.items():
                name = f"{record.spec.algorithm.label}, seed {record.spec.seed}"
                found.setdefault(what, {}).setdefault(message, []).append(name)
        for what, listed in found.items():
            self._caution(what, _values(listed), DOUBTS)

    def comparisons(self) -> Iterator[Comparison]:
        """Who may be compared with whom; one that is not trained, with entrants of any number of iterations."""
        sound = [e for e in self.entrants.values() if not e.faults]
        trained = _by([e for e in sound if e.spec.iterations], lambda e: self._place(e, any_iterations=False))
        loose = _by([e for e in sound if not e.spec.iterations], lambda e: self._place(e, any_iterations=True))
        joined = set[int]()
        for members in trained:
            alike = [
                i for i, others in enumerate(loose) if self._place(others[0], True) == self._place(members[0], True)
            ]
            joined.update(alike)
            yield self._comparison([*members, *(e for i in alike for e in loose[i])])
        yield from (self._comparison(others) for i, others in enumerate(loose) if i not in joined)
        for entrant in self.entrants.values():
            if entrant.faults:
                yield self._comparison([entrant], "; ".join(dict.fromkeys(entrant.faults)))

    def _place(self, entrant: _Entrant, any_iterations: bool) -> Hashable:
        """Equal for entrants that may be compared."""
        told_by = (value for what, value in self.differing if not any_iterations or what != ITERATIONS)
        return tuple(value(entrant) for value in told_by)

    def _comparison(self, entrants: list[_Entrant], why_not: str = "") -> Comparison:
        return Comparison(self.title, tuple(dict.fromkeys(map(self._name, entrants))), why_not)

    def _name(self, entrant: _Entrant) -> str:
        namesakes = [e for e in self.entrants.values() if e.name == entrant.name]
        more = [f"{entrant.spec.iterations:,} iterations"] if len({e.spec.iterations for e in namesakes}) > 1 else []
        more += [entrant.spec.norm] if len({e.spec.norm for e in namesakes}) > 1 else []
        return f"{entrant.name} ({', '.join(more)})" if more else entrant.name

    def _fault(self, what: str, message: str, advice: str, cells: Sequence[str] = ()) -> None:
        self.findings.append(Finding("fault", self.title, what, message, advice, tuple(cells)))

    def _caution(self, what: str, message: str, advice: str) -> None:
        self.findings.append(Finding("caution", self.title, what, message, advice))


def _met(spec: Spec) -> dict[str, str]:
    """The frozen tasks by which a cell is judged, and those by which it chose."""
    return spec.manifests | (spec.domain.manifests if spec.domain else {})


def _suite(spec: Spec) -> str:
    """A suite apart from its normalisation, which is looked at by itself, and the domain that is scored on."""
    parameters = {name: value for name, value in spec.suite.parameters.items() if name != "norm"}
    domain = spec.domain.suite.model_dump(include={"name", "parameters"}) if spec.domain else None
    return _canonical([spec.suite.name, parameters, domain])


def _by(entrants: list[_Entrant], key: Callable[[_Entrant], Hashable]) -> list[list[_Entrant]]:
    parts: dict[Hashable, list[_Entrant]] = {}
    for entrant in entrants:
        parts.setdefault(key(entrant), []).append(entrant)
    return list(parts.values())


def _budget(entrant: _Entrant) -> str:
    tuning = next((record.tuning for record in entrant.cells if record.tuning), None)
    return ", ".join(f"{name} {value}" for name, value in tuning.budget.items()) if tuning else "not tuned"


def _side(entrant: _Entrant) -> tuple[Hashable, ...]:
    """What, with the iterations, tells comparisons apart that stand side by side."""
    return entrant.spec.norm, _budget(entrant)


def _pruned(entrant: _Entrant) -> int:
    tunings = [record.tuning for record in entrant.cells if record.tuning]
    return sum(trial.outcome == "pruned" for trial in tunings[0].trials) if tunings else 0


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _values(listed: dict[str, list[str]]) -> str:
    """Value: who has it; and so on."""
    return "; ".join(f"{value}: {', '.join(dict.fromkeys(names))}" for value, names in listed.items())


def _package(name: str, record: Record) -> str:
    return record.environment.get(name, "unknown")


def _versioned(of: Spec | Domain) -> tuple[int, str]:
    return of.suite_version, of.suite.source[:8]


def _version(value: tuple[int, str]) -> str:
    return f"version {value[0]}, source {value[1]}"


def _tasks(value: tuple[str, int]) -> str:
    manifests: dict[str, str] = json.loads(value[0])
    test = next((sha for name, sha in manifests.items() if name.endswith("/test")), "unknown")
    return f"{value[1]} of {test[:8]}"


def _host(record: Record) -> str:
    return record.environment.get("host", "an unknown host")


def _hardware(record: Record) -> str:
    where = record.environment.get("cpu", "unknown") if record.spec.device == "cpu" else record.spec.device
    return f"{where}, {record.spec.threads} threads"
