"""docs/suites.md lists what there is as `bench show` prints it; BENCH_SUITES_PAGE names the page to be written."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from bench.core.discovery import Catalogue
from tests.conftest import ROOT, bench

PAGE = ROOT / "docs" / "suites.md"
MARKED = re.compile(r"(?<=<!-- catalogue -->\n).*?(?=<!-- /catalogue -->)", re.S)
LEFT_TO_SHOW = {"caveat", "knowing nothing", "metrics", "scored on", "version", "views"}
ALONE = "(extra: metaworld)"  # which no environment has beside the others


def table(head: list[str], rows: list[list[Any]]) -> str:
    """As Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def catalogue() -> str:
    """A row for each suite, then for each what it can be given and where its protocol comes from."""
    rows, details = [], []
    for name, line in Catalogue().names("suite").items():
        source = f"[`{name}`](../suites/{name}.py)"
        if ALONE in line:
            rows.append([source, line, "", ""])
            continue
        document = json.loads(bench("show", name, "--json").stdout)
        facts, parameters = (found["rows"] for found in document["tables"])
        [facts] = facts
        metrics = ", ".join(metric.partition(" (")[0] for metric in facts["metrics"].split("), "))
        settings = re.sub(r"^\d+ test tasks each of | \(\w+tive\)", "", facts["scored on"].partition(";")[0])
        rows.append([source, line, metrics, ", ".join(dict.fromkeys(settings.split(", ")))])
        kept = [[f"`{key}`", value] for key, value in facts.items() if value and key not in LEFT_TO_SHOW]
        asked = [[f"`{row['parameter']}`", *list(row.values())[1:]] for row in parameters]
        paragraphs = [
            f'<details id="{name}" markdown="1">\n<summary><code>{name}</code></summary>',
            *document["said"][2:],
            *([table(["parameter", "default", "allowed", "meaning"], asked)] if asked else []),
            table(["protocol", ""], kept),
            "</details>",
        ]
        details.append("\n\n".join(paragraphs))
    overview = table(["suite", "what it is", "scored by", "tested on"], rows)
    return (
        "\n\n".join([overview, "What each can be given, and where its protocol's values come from:", *details]) + "\n"
    )


@pytest.mark.slow
def test_the_page_of_suites_lists_what_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "10000")
    made = catalogue()
    if page := os.environ.get("BENCH_SUITES_PAGE"):
        Path(page).write_text(MARKED.sub(lambda _: made, PAGE.read_text()))
    [shown] = MARKED.findall(PAGE.read_text())
    assert shown == made, "write it anew: BENCH_SUITES_PAGE=docs/suites.md pytest -m slow tests/test_suites_page.py"
