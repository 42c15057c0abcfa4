"""An audit finds every way in which a comparison is invalid, and none in a valid one."""

from typing import Any

import pytest

from bench.core.findings import Audit
from bench.core.metric import Metric
from bench.core.records import Component, Judgement, Record, Spec, Trial, Tuning
from bench.storage.audit import audit_of

JUDGEMENT = Judgement(metrics=(Metric("mse", "", "lower"),), report_steps=(1,), floor=1.0, caveat="")
ENVIRONMENT = {"bench": "0.1.0", "torch": "2.13.0", "cpu": "a CPU", "host": "here", "system": "Linux"}


def record(algorithm: str = "maml", seed: int = 0, outcome: Any = "finished", **changes: Any) -> Record:
    """A record; `changes` are of its specification, or of its environment where that has the name."""
    environment = ENVIRONMENT | {name: changes.pop(name) for name in list(changes) if name in ENVIRONMENT}
    source, digest = changes.pop("source", "a" * 64), changes.pop("digest", "d" * 64)
    given = changes.pop("given", {})
    values: dict[str, Any] = {
        "suite": Component(name="sinusoid", given={}, parameters={"shots": 10}, source="s" * 64),
        "suite_version": 1,
        "norm": "none",
        "manifests": {"K=10/test": "t" * 64},
        "algorithm": Component(name=algorithm, given=given, parameters=given, source=source),
        "outer": "Adam(rate=0.001)",
        "seed": seed,
        "iterations": 1000,
        "validate_every": 500,
        "selection": "last",
        "test_tasks": 600,
        "validation_tasks": 200,
        "engine": "eager",
        "dtype": "float32",
        "device": "cpu",
        "threads": 1,
    }
    spec = Spec(**values | changes)
    return Record(
        cell=spec.id, spec=spec, judgement=JUDGEMENT, outcome=outcome, stopped_at=spec.iterations, digest=digest,
        finished="2026-01-01T00:00:00+00:00", environment=environment,
    )  # fmt: skip


def grid(*algorithms: str, seeds: int = 3, **changes: Any) -> list[Record]:
    return [record(name, seed, **changes) for name in algorithms for seed in range(seeds)]


def tuned(record: Record, trials: int = 2, iterations: int = 100, pruned: int = 0) -> Record:
    """The record with the sweep that chose its values."""
    tried = [
        Trial(
            number=i, parameters={}, outcome="pruned" if i < pruned else "finished", score=1.0, iterations=iterations,
            cells=(),
        )
        for i in range(trials)
    ]  # fmt: skip
    tuning = Tuning(
        study="a-study", suite=record.spec.suite, algorithm=record.spec.algorithm, space={}, metric="mse",
        better="lower", step=1, iterations=iterations, seeds=(0,), validation_tasks=200, sampler="tpe",
        pruner="median" if pruned else "none", seed=0, batch=5, trials=tuple(tried), finished="",
    )  # fmt: skip
    return record.model_copy(update={"tuning": tuning})


def found(audit: Audit) -> list[tuple[str, str]]:
    return [(finding.severity, finding.what) for finding in audit.findings]


def together(audit: Audit) -> list[tuple[str, ...]]:
    return [comparison.algorithms for comparison in audit.comparisons if not comparison.why_not]


def test_nothing_is_found_in_a_whole_grid() -> None:
    audit = audit_of([*grid("maml", "fomaml"), *grid("scratch", iterations=0)])
    assert found(audit) == []
    assert audit.sound
    assert together(audit) == [("maml", "fomaml", "scratch")]


@pytest.mark.parametrize(
    ("changes", "what", "values"),
    [
        ({"iterations": 500}, "iterations differ", "1,000: maml; 500: metasgd"),
        ({"norm": "inductive"}, "normalisation differs", "none: maml; inductive: metasgd"),
        ({"torch": "2.12.0"}, "torch versions differ", "2.13.0: maml; 2.12.0: metasgd"),
        ({"bench": "0.2.0"}, "bench versions differ", "0.1.0: maml; 0.2.0: metasgd"),
        ({"suite_version": 2}, "suite versions differ", "version 1, source ssssssss: maml; version 2"),
        ({"manifests": {"K=10/test": "u" * 64}}, "test tasks differ", "600 of tttttttt: maml; 600 of uuuuuuuu"),
        ({"test_tasks": 20}, "test tasks differ", "600 of tttttttt: maml; 20 of tttttttt: metasgd"),
    ],
)
def test_what_two_algorithms_do_not_share_keeps_them_apart(changes: Any, what: str, values: str) -> None:
    audit = audit_of([*grid("maml"), *grid("metasgd", **changes), *grid("scratch", iterations=0)])
    [fault] = [finding for finding in audit.findings if finding.what == what]
    assert fault.severity == "fault"
    assert values in fault.message.replace(", scratch", "")
    assert not audit.sound
    assert not any({"maml", "metasgd"} <= set(algorithms) for algorithms in together(audit))
    assert ("maml", "scratch") in together(audit)


def test_an_algorithm_that_was_edited_between_seeds_compares_with_none() -> None:
    edited = [*grid("maml", seeds=2), record("maml", 2, source="b" * 64)]
    audit = audit_of([*edited, *grid("fomaml"), *grid("metasgd")])
    assert found(audit) == [("fault", "code differs")]
    assert together(audit) == [("fomaml", "metasgd")]
    [alone] = [comparison for comparison in audit.comparisons if comparison.why_not]
    assert (alone.algorithms, alone.why_not) == (("maml",), "code differs among its own cells")


@pytest.mark.parametrize("way", ["never begun", "begun", "failed"])
def test_a_missing_cell_is_a_fault_of_its_algorithm(way: str) -> None:
    lost = record("fomaml", 2, outcome="failed")
    records = [*grid("maml", "metasgd"), *grid("fomaml", seeds=2), *([lost] if way == "failed" else [])]
    audit = audit_of(records, begun=[lost.spec] if way == "begun" else [])
    assert found(audit) == [("fault", "cells are missing"), ("caution", "few seeds")]
    assert audit.findings[0].message == "fomaml has no result for seed 2"
    assert together(audit) == [("maml", "metasgd")]


def test_an_unfinished_cell_that_a_longer_run_went_on_from_is_not_missing() -> None:
    shorter = record(iterations=500).spec
    assert audit_of(grid("maml", "fomaml"), begun=[shorter]).sound


@pytest.mark.parametrize("changes", [{"iterations": 2000}, {"norm": "inductive"}])
def test_whole_comparisons_may_stand_side_by_side(changes: Any) -> None:
    audit = audit_of([*grid("maml", "fomaml"), *grid("maml", "fomaml", **changes)])
    assert audit.sound
    assert [len(algorithms) for algorithms in together(audit)] == [2, 2]


def test_a_second_digest_of_one_specification_is_a_fault() -> None:
    rival = record("maml", 1, digest="e" * 64, host="there")
    audit = audit_of(grid("maml", "fomaml"), rivals=[rival])
    assert found(audit) == [("fault", "digests differ")]
    assert "dddddddddddd and eeeeeeeeeeee, of here and there" in audit.findings[0].message
    assert together(audit) == [("fomaml",)]


def test_cautions_leave_comparisons_standing() -> None:
    diverged = [record("maml", 2, outcome="diverged", digest="")]
    audit = audit_of([*grid("maml", seeds=2), *diverged, *grid("fomaml", cpu="another CPU")])
    assert found(audit) == [("caution", "hardware differs"), ("caution", "diverged")]
    assert audit.sound
    assert found(audit_of(grid("maml", seeds=2))) == [("caution", "few seeds")]


@pytest.mark.parametrize("other", [{"trials": 3}, {"iterations": 200}, None])
def test_tuning_budgets_that_differ_are_a_fault(other: Any) -> None:
    second = [tuned(r, **other) if other else r for r in grid("fomaml")]
    audit = audit_of([*map(tuned, grid("maml")), *second])
    assert found(audit) == [("fault", "tuning budgets differ")]
    assert "trials 2: maml; " in audit.findings[0].message and ": fomaml" in audit.findings[0].message
    assert together(audit) == [("maml",), ("fomaml",)]


def test_defaults_and_tuned_values_are_two_comparisons() -> None:
    chosen = [tuned(r) for r in grid("maml", "fomaml", given={"inner_lr": 0.3})]
    audit = audit_of([*grid("maml", "fomaml", "oracle"), *chosen])
    assert audit.sound
    assert together(audit) == [("maml", "fomaml", "oracle"), ("maml[inner_lr=0.3]", "fomaml[inner_lr=0.3]")]


def test_pruned_trials_are_a_caution() -> None:
    audit = audit_of([tuned(r, pruned=1) for r in grid("maml", "fomaml")])
    assert found(audit) == [("caution", "trials were pruned")]
    assert audit.findings[0].message == "maml: 1 trials; fomaml: 1 trials"
