"""Cells that score what others train on test tasks of another domain: they go on from where the others ended."""

from collections.abc import Sequence
from dataclasses import replace

from bench.core.discovery import Catalogue, Named, parameters, parse, source_hash
from bench.core.errors import BenchError, foreign
from bench.core.records import Component, Domain
from bench.core.stream import Stream
from bench.core.types import Suite
from bench.learning.elsewhere import misfit, pairs
from bench.learning.evaluate import manifest
from bench.planning.plan import Cell, suite_of, typed, view


def elsewhere(cells: Sequence[Cell], domains: str, catalogue: Catalogue) -> list[Cell]:
    """For each cell one for each of the domains, but for its own suite: the same training, scored there.

    Args:
        cells: of learners that are trained, or will be.
        domains: suites as on the command line: "glyphs,omniglot[split=alphabet]".
        catalogue: of suites.

    Raises:
        BenchError: a domain is what all cells are scored on anyway, or shows other inputs than a suite does.
    """
    found = []
    for named in parse(domains):
        with foreign(f"nothing can be scored on {named}"):
            own = suite_of(catalogue, named)
            others = [c for c in cells if (type(c.suite), parameters(c.suite)) != (type(own), parameters(own))]
            if not others:
                raise BenchError(f"{named} is what is trained on: its scores are there without. Name another suite.")
            known: dict[tuple[str, str], Domain] = {}
            for cell in others:
                key = (repr(cell.suite), cell.algorithm.test_view)
                if key not in known:
                    known[key] = _domain(cell, named, own, catalogue)
                spec = cell.spec.model_copy(update={"domain": known[key]})
                found.append(
                    replace(
                        cell,
                        spec=spec,
                        domain=own,
                        label=f"{cell.label} · on {named}",
                        goes_on_from=(cell.id, *cell.goes_on_from),
                    )
                )
    return found


def _domain(cell: Cell, named: Named, suite: Suite, catalogue: Catalogue) -> Domain:
    tested, there = (
        view(each, cell.algorithm.test_view, cell.spec.algorithm.name, catalogue) for each in (cell.suite, suite)
    )
    if why := misfit(tested, there):
        if isinstance(cell.suite, Stream):
            advice = "Train on a suite that is no stream."
        elif isinstance(suite, Stream):
            advice = "Name a suite that is no stream."
        else:
            advice = (
                "Name a suite with the same inputs and outputs, or give it parameters: "
                f"`bench show {named.name}` lists them."
            )
        raise BenchError(f"what is trained on {cell.spec.suite.label} can't be scored on {named}: {why}. {advice}")
    return Domain(
        suite=Component(
            name=named.name,
            given=typed(named, suite),
            parameters=parameters(suite),
            source=source_hash(type(suite), type(suite.skeleton)),
        ),
        suite_version=suite.version,
        manifests={
            f"{variant.setting}/test": manifest(variant, named.name, "test")[1] for _, variant in pairs(tested, there)
        },
    )
