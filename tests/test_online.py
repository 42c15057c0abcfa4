"""Tasks and points come one after the other, and where a run was cut changes nothing of what is learned from them."""

from pathlib import Path
from typing import Any

import pytest

from bench.cells.cell import Deadline, run_cell
from bench.cells.execute import run_cells
from bench.cells.watch import Silent
from bench.core.discovery import Catalogue
from bench.core.records import Record
from bench.learning.training import Training
from bench.planning.plan import Request, plan
from bench.storage.store import Store

SMALL: dict[str, Any] = {"preset": "smoke", "threads": 1, "engine": "eager"}
SUITE = "sinusoid_stream[points=20,unseen=5,shots=5]"


def cells_of(algos: str, suite: str = SUITE, **options: Any) -> list[Any]:
    return plan(Request(suites=suite, algos=algos, **{**SMALL, **options}))


def run(root: Path, algos: str, **options: Any) -> list[Record]:
    return run_cells(cells_of(algos, **options), Store.create(root), Silent(), None, ())


class StopAt(Silent):
    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def trains(self, cell: Any, state: Training) -> None:
        if state.iteration == self.iteration:
            raise KeyboardInterrupt


@pytest.mark.parametrize("algorithm", ["ftml", "from_scratch"])
def test_a_stream_that_was_cut_ends_with_the_digest_of_one_that_was_not(tmp_path: Path, algorithm: str) -> None:
    [whole] = run(tmp_path / "whole", algorithm)
    [cell] = cells_of(algorithm)
    store = Store.create(tmp_path / "cut")
    for cut in (1, 10, 17, 30):  # at once, where a round begins, within one, at the end
        with pytest.raises(KeyboardInterrupt):
            run_cell(cell, store, StopAt(cut), Deadline(), Catalogue())
    record = run_cell(cell, store, Silent(), Deadline(), Catalogue())
    assert record is not None
    assert (record.digest, record.pieces) == (whole.digest, 5)
