"""docs/results.md is what the committed results come to; BENCH_RESULTS_PAGE names the page to be written."""

import os
import re
from pathlib import Path

from bench.reporting.reproduce import RESULTS
from bench.storage.store import Store
from reports import frame, views
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "results.md"
MARKED = re.compile(r"(?<=<!-- results -->\n).*?(?=<!-- /results -->)", re.S)


def page() -> str:
    """All methods on all suites, and a table for each suite."""
    store = Store.open(RESULTS)
    records = [record for record in store.records() if record.outcome == "finished"]
    scores = frame.tidy((record, store.read_table(record.cell, "scores.parquet")) for record in records)
    return "\n".join(view.markdown() for view in views.comparisons(scores, records))


def test_the_page_of_results_is_what_the_committed_results_come_to() -> None:
    if where := os.environ.get("BENCH_RESULTS_PAGE"):
        Path(where).write_text(MARKED.sub(lambda _: page(), PAGE.read_text()))
    [shown] = MARKED.findall(PAGE.read_text())
    assert shown == page(), "write it anew: BENCH_RESULTS_PAGE=docs/results.md pytest tests/test_results_page.py"
