"""pytest-benchmark's JSON -> docs/speed.json, docs/cost.md: `python tests/benchmarks/table.py [FILE [COLUMN]]`.

Without a FILE the table is written again from docs/speed.json.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
KEPT, PAGE = ROOT / "docs" / "speed.json", ROOT / "docs" / "cost.md"
START, END = "<!-- speed -->", "<!-- /speed -->"
NO_GOAL = "(for comparison)"


def main(source: str = "", column: str = "two cores") -> None:
    """Adds the measurements under the name of a machine, in a column of its own."""
    rows = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for result in json.loads(Path(source).read_text())["benchmarks"] if source else []:
        info = result["extra_info"]
        key = f"{info['work']} | {info['against']} | {info['goal']}"
        rows.setdefault(key, {})[column] = {name: info[name] for name in ("median", "low", "high", "unit")}
    KEPT.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    before, _, rest = PAGE.read_text().partition(START)
    PAGE.write_text(f"{before}{START}\n{table(rows)}\n{END}{rest.partition(END)[2]}")


def table(rows: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The rows as Markdown; a goal that a machine's median misses is marked."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [f"| work | against | goal | {' | '.join(columns)} |", "|---|---|---|" + "---|" * len(columns)]
    for key, row in rows.items():
        missed = [name for name, found in row.items() if misses(key.rpartition(" | ")[2], found)]
        mark = f", **missed**{' on ' + ', '.join(missed) if len(columns) > 1 else ''}" if missed else ""
        lines.append(f"| {key}{mark} | {' | '.join(_cell(row.get(name)) for name in columns)} |")
    return "\n".join(lines)


def misses(goal: str, found: dict[str, Any]) -> bool:
    """Whether a median misses a goal such as "≥ 25x", "≤ 5 %" or "≤ 2 copies".

    Raises:
        ValueError: the goal can't be read, or is in another unit than the median.
    """
    if goal == NO_GOAL:
        return False
    parts = re.fullmatch(r"([≥≤]) (\d+(?:\.\d+)?) ?(\S+)", goal)
    unit = found["unit"].partition(" (")[0]
    if not parts or parts[3] != unit:
        raise ValueError(f"the goal {goal!r} is not {NO_GOAL!r}, and not ≥ or ≤, a number and the unit {unit!r}")
    median, bound = found["median"], float(parts[2])
    return bool(median < bound if parts[1] == "≥" else median > bound)


def _cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    median, low, high = (f"{found[name]:.3g}" for name in ("median", "low", "high"))
    interval = "" if low == high else f" ({low} to {high})"
    return f"{median} {found['unit']}{interval}".replace(" x", "x")


if __name__ == "__main__":
    main(*sys.argv[1:])
