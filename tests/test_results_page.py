"""docs/results.md is what the committed results come to; BENCH_RESULTS_PAGE names the page to be written."""

import os
import re
from pathlib import Path

import pytest

from bench.reporting.reproduce import RESULTS
from bench.storage.store import Store
from reports import frame, views
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "results.md"
STORES = {"results": RESULTS, "quick": RESULTS / "quick"}  # the mark on the page -> what stands there


def marked(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", re.S)


def page(root: Path) -> str:
    """All methods on all suites, and a table for each suite; of other results than the main ones, a level lower."""
    store = Store.open(root)
    records = [record for record in store.records() if record.outcome == "finished"]
    scores = frame.tidy((record, store.read_table(record.cell, "scores.parquet")) for record in records)
    tables = "\n".join(view.markdown() for view in views.comparisons(scores, records))
    return tables if root == RESULTS else re.sub(r"^## ", "### ", tables, flags=re.M)


@pytest.mark.parametrize("name", STORES)
def test_the_page_of_results_is_what_the_committed_results_come_to(name: str) -> None:
    made = page(STORES[name])
    if where := os.environ.get("BENCH_RESULTS_PAGE"):
        Path(where).write_text(marked(name).sub(lambda _: made, PAGE.read_text()))
    [shown] = marked(name).findall(PAGE.read_text())
    assert shown == made, "write it anew: BENCH_RESULTS_PAGE=docs/results.md pytest tests/test_results_page.py"
