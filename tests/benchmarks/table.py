"""pytest-benchmark's JSON -> docs/speed.json and README's table: `python tests/benchmarks/table.py FILE [COLUMN]`."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
KEPT, README = ROOT / "docs" / "speed.json", ROOT / "README.md"
START, END = "<!-- speed -->", "<!-- /speed -->"


def main(source: str, column: str = "two cores") -> None:
    """Adds the measurements under the name of a machine, in a column of its own."""
    rows = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for result in json.loads(Path(source).read_text())["benchmarks"]:
        info = result["extra_info"]
        key = f"{info['work']} | {info['against']} | {info['goal']}"
        rows.setdefault(key, {})[column] = {name: info[name] for name in ("median", "low", "high", "unit")}
    KEPT.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [f"| work | against | goal | {' | '.join(columns)} |", "|---|---|---|" + "---|" * len(columns)]
    lines += [f"| {key} | {' | '.join(_cell(row.get(name)) for name in columns)} |" for key, row in rows.items()]
    before, _, rest = README.read_text().partition(START)
    README.write_text(f"{before}{START}\n" + "\n".join(lines) + f"\n{END}{rest.partition(END)[2]}")


def _cell(found: dict[str, float | str] | None) -> str:
    if found is None:
        return ""
    median, low, high = (f"{found[name]:.3g}" for name in ("median", "low", "high"))
    interval = "" if low == high else f" ({low} to {high})"
    return f"{median} {found['unit']}{interval}".replace(" x", "x")


if __name__ == "__main__":
    main(*sys.argv[1:])
