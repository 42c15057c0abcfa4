"""A stranger's training step is told what it computes, and a stranger's mistake what to do."""

import pytest
from click.testing import CliRunner

from bench.certificate.steps import step_checks
from bench.cli import main
from bench.core.errors import BenchError
from tests.conftest import ROOT

STEPS = ROOT / "tests" / "probes" / "steps.py"


def test_a_loop_with_its_graph_is_second_order() -> None:
    assert [check.verdict for check in step_checks(f"{STEPS}:second")] == ["pass", "pass"]


@pytest.mark.parametrize("name", ["forgotten", "functional_detached"])
def test_a_loop_without_create_graph_is_told_that_it_is_first_order(name: str) -> None:
    *_, last = step_checks(f"{STEPS}:{name}")
    assert last.verdict == "FAULT"
    assert "FIRST ORDER" in last.name
    assert "create_graph" in last.name


@pytest.mark.parametrize("name", ["cut_off", "by_optimiser", "in_place"])
def test_a_loop_whose_weights_lose_the_graph_is_told_so(name: str) -> None:
    (only,) = step_checks(f"{STEPS}:{name}")
    assert only.verdict == "FAULT"
    assert only.name == "a gradient reaches the parameters"


def test_a_loop_that_cuts_off_something_else_is_of_neither_order() -> None:
    *_, last = step_checks(f"{STEPS}:forgets_a_layer")
    assert "neither" in last.name


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (f"{STEPS}:no_scalar", "a tensor of shape (5, 1), not a scalar"),
        (f"{STEPS}:fails", "KeyError"),
        (f"{STEPS}:secnd", "Did you mean 'second'?"),
        (f"{STEPS}", "is not FILE:FUNCTION"),
        ("nowhere.py:step", "is not a file"),
    ],
)
def test_a_mistake_gets_one_message(place: str, said: str) -> None:
    with pytest.raises(BenchError) as raised:
        list(step_checks(place))
    assert said in str(raised.value)


@pytest.mark.parametrize(("name", "code"), [("second", 0), ("forgotten", 1), ("fails", 2)])
def test_the_command_ends_as_documented(name: str, code: int) -> None:
    assert CliRunner().invoke(main, ["certify", "--step", f"{STEPS}:{name}"]).exit_code == code
