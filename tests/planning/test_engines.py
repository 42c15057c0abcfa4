"""The engine is measured once, kept, and never changed for a run that has begun."""

from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import BenchError
from bench.core.records import Spec
from bench.learning.outer.trpo import Move
from bench.planning import engines as choose
from bench.planning.engines import Timing
from bench.planning.plan import Request, plan


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path))


def one(known: tuple[Spec, ...] = (), **options: Any) -> Any:
    (cell,) = plan(Request(suites="sinusoid", algos="maml", **options), known)
    return cell


@pytest.mark.parametrize(("iterations", "engine"), [(99, "eager"), (101, "compiled")])
def test_what_ends_sooner_is_chosen(iterations: int, engine: str) -> None:
    assert Timing(eager=0.2, compiled=0.1, compiling=10.0).choice(iterations)[0] == engine


def test_a_measurement_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_pace", lambda *_: 0.5)
    timed = iter([Timing(0.5, 0.1, 9.0)])
    monkeypatch.setattr(choose, "_compare", lambda *_: next(timed))
    assert [one(iterations=1_000).spec.engine for _ in range(2)] == ["compiled", "compiled"]
    assert "500 ms eager, 100 ms compiled" in one(iterations=1_000).reason


def test_a_mistake_shows_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_pace", lambda *_: pytest.fail("measured"))
    with pytest.raises(BenchError, match="mamll"):
        plan(Request(suites="sinusoid", algos="maml,mamll", iterations=9_999))


def test_a_short_run_is_not_even_measured_compiled() -> None:
    cell = one(iterations=3)
    assert cell.spec.engine == "eager"
    assert "too short" in cell.reason


def test_without_a_compiler_it_is_eager_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choose, "compiler", lambda: None)
    assert one(iterations=100_000).spec.engine == "eager"
    assert "no C++ compiler" in caplog.text


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_a_run_goes_on_with_the_engine_that_it_began_with(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_pace", lambda *_: pytest.fail("nothing is to be measured"))
    begun = one(iterations=100, engine=engine).spec
    assert one((begun,), iterations=100).id == begun.id
    assert one((begun,), iterations=50_000).spec.trajectory == begun.trajectory


def test_broken_findings_cost_a_measurement_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "engines.json").write_text("{]")
    assert one(iterations=3).spec.engine == "eager"


def test_a_plugin_that_fails_when_measured_is_left_to_its_own_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(choose, "_pace", fails)
    cell = one(iterations=3)
    assert cell.spec.engine == "eager"
    assert "planted" in cell.reason


def test_where_tasks_are_acted_in_the_outer_step_is_timed_too() -> None:
    options: dict[str, Any] = {"algos": "maml[meta_batch=2]", "iterations": 1, "threads": 1}
    moves = []
    for outer in ("trpo", "adam"):
        (cell,) = plan(Request(suites=f"bandit[trajectories=2,outer={outer}]", **options))
        case = choose.OpenEngine(cell.spec, cell.suite, cell.algorithm)
        moves.append(choose.iteration(case, compiled=False)(*next(choose.inputs(case))))
    assert [isinstance(move, Move) for move in moves] == [True, False]


def test_a_long_measurement_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "SHORT", 0.0)
    assert choose._while_short(iter(range(5))) == [0]
