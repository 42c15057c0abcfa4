"""docs/reproduce.md is what the committed results come to; BENCH_REPRODUCE_PAGE names the page to be written.

How long the rest takes was measured on the machine that wrote the page, and stands in docs/reproduce.json.
"""

import json
import os
import re
from pathlib import Path

import pytest

from bench.cells.carry import PLACE
from bench.cells.outcome import environment
from bench.reporting.reproduce import OUT, RESULTS, Aim, Asked, Kept, Times, reproduced, selected
from bench.storage.store import META, Store
from reports import views
from tests.conftest import ROOT

PAGE, TIMES = ROOT / "docs" / "reproduce.md", ROOT / "docs" / "reproduce.json"
MARKED = re.compile(r"(?<=<!-- published -->\n).*?(?=<!-- /published -->)", re.S)
CELL, ALL, WAITING = 60_000, 40_000_000, 30_000_000  # bytes: a cell without what it learned, results, checkpoints


def page() -> str:
    """A table for each suite, with the times that are known."""
    known = json.loads(TIMES.read_text())

    def seconds(aim: Aim, seeds: int, _: Kept) -> float | str:
        found = known["seconds"].get(aim.name, "not timed yet")
        return found if isinstance(found, str) else seeds * float(found)

    made = views.reproduced(reproduced(selected([]), RESULTS, seconds))
    said = f"Times are of one thread of {known['machine']}, torch {known['torch']}."
    return "\n".join(view.markdown() for view in made) + f"{views.VERDICTS}\n\n{said}\n"


def timed() -> None:
    """Measures, or takes from what was measured on this machine, how long one seed of each takes."""
    times, found = Times(Asked(threads=1), OUT, print), {}

    def seconds(aim: Aim, _: int, __: Kept) -> float | str:
        found[aim.name] = times(aim, 1, [])
        return found[aim.name]

    reproduced(selected([]), Path("nowhere"), seconds)
    about = environment()
    content = {"machine": about["cpu"], "torch": about["torch_build"], "seconds": found}
    TIMES.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def test_the_page_of_published_values_is_what_the_committed_results_come_to() -> None:
    if where := os.environ.get("BENCH_REPRODUCE_PAGE"):
        if os.environ.get("BENCH_REPRODUCE_TIMES"):
            timed()
        Path(where).write_text(MARKED.sub(lambda _: page(), PAGE.read_text()))
    [shown] = MARKED.findall(PAGE.read_text())
    assert shown == page(), "write it anew: tox -e reproduce"


def test_committed_results_are_whole_and_small() -> None:
    store, size = Store.open(RESULTS), 0
    for record in store.records():
        folder = store.folder(record.cell)
        sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
        learned = sizes.pop(META, 0)
        assert sum(sizes.values()) <= CELL, (record.cell, sizes)
        size += sum(sizes.values()) + learned
        for name in record.files:
            store.read_table(record.cell, name)  # refused where its SHA-256 is not the record's
        assert not store.rivals(record.cell)
        assert record.outcome in ("finished", "diverged")
        assert str(ROOT) not in (folder / "record.json").read_text()
    assert 0 < size <= ALL


def test_only_what_has_not_ended_waits() -> None:
    waiting = sorted((RESULTS / PLACE / "cells").glob("*/")) if (RESULTS / PLACE).exists() else []
    assert sum(path.stat().st_size for folder in waiting for path in folder.iterdir()) <= WAITING
    assert [folder.name for folder in waiting if Store.open(RESULTS).record(folder.name)] == []


@pytest.mark.slow
def test_committed_results_are_read_as_any_run_directory(tmp_path: Path) -> None:
    import bench

    frame = bench.load(RESULTS)
    assert {"sinusoid"} <= {str(name).partition("[")[0] for name in frame["suite"]}
    merged = bench.merge([RESULTS], tmp_path / "copy")
    assert set(merged["what"]) == {"copied"}
    assert bench.load(tmp_path / "copy").equals(frame)
    found = bench.audit(RESULTS)
    assert [finding for finding in found.findings if "differ" in finding.what and "digest" in finding.what] == []
    cell = next(record.cell for record in Store.open(RESULTS).records() if record.spec.algorithm.name == "maml")
    assert bench.load(RESULTS).learner(cell)
