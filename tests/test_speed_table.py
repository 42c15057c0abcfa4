"""docs/cost.md's table of speeds says which rows miss their own goal."""

import json
from typing import Any

import pytest

from tests.benchmarks.table import END, KEPT, PAGE, START, misses, table


def found(median: float, unit: str = "x") -> dict[str, Any]:
    return {"median": median, "low": median, "high": median, "unit": unit}


@pytest.mark.parametrize(
    ("goal", "median", "unit", "missed"),
    [
        ("≥ 25x", 24.9, "x", True),
        ("≥ 25x", 25.0, "x", False),
        ("≤ 1.8x", 1.808, "x", True),
        ("≤ 1.8x", 1.79, "x", False),
        ("≥ 60 %", 57.6, "%", True),
        ("≤ 5 %", 3.96, "%", False),
        ("≤ 2 copies", 1.12, "copies (resident: 3.0)", False),
        ("≤ 2 copies", 6.84, "copies (resident: 8.7)", True),
        ("(for comparison)", 0.1, "x", False),
    ],
)
def test_a_goal_is_missed_by_a_median_on_its_wrong_side(goal: str, median: float, unit: str, missed: bool) -> None:
    assert misses(goal, found(median, unit)) == missed


@pytest.mark.parametrize("goal", ["> 3x", "fast", "≥ 60 %", "≥ 3"])
def test_a_goal_that_cannot_be_held_against_the_median_is_an_error(goal: str) -> None:
    with pytest.raises(ValueError, match="the unit 'x'"):
        misses(goal, found(100.0, "x"))


def test_only_the_row_and_the_machine_that_miss_are_marked() -> None:
    slow, fast = found(1.5), found(30.0)
    one = table({"a | b | ≥ 2x": {"here": slow}, "c | d | ≥ 2x": {"here": fast}})
    assert one.splitlines()[2:] == ["| a | b | ≥ 2x, **missed** | 1.5x |", "| c | d | ≥ 2x | 30x |"]
    two = table({"a | b | ≥ 2x": {"here": slow, "there": fast}, "c | d | ≥ 2x": {"there": fast}})
    assert two.splitlines()[2:] == ["| a | b | ≥ 2x, **missed** on here | 1.5x | 30x |", "| c | d | ≥ 2x |  | 30x |"]


def test_the_page_has_the_table_of_what_was_measured() -> None:
    shown = PAGE.read_text().partition(START)[2].partition(END)[0].strip()
    assert shown == table(json.loads(KEPT.read_text()))
