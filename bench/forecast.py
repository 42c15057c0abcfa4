"""How long a cell will take, before it is run."""

import time
from itertools import islice
from pathlib import Path

from bench.core import seeds
from bench.core.discovery import Catalogue
from bench.core.errors import BenchError
from bench.engines import learn2learn, vectorised
from bench.plan import Cell, view
from bench.store import Store
from bench.train import episodes

TRIAL = 3  # meta-iterations that are timed after one to warm up


def predict(cell: Cell, root: Path) -> float | None:
    """Seconds of meta-training: by the store's measurements, else by trial; 0 if it is done, None without its data."""
    pace = None
    if (root / "store.json").exists():
        store = Store.open(root)
        if store.record(cell.id):
            return 0.0
        alike = [r for r in store.records() if _kind(r.spec) == _kind(cell.spec) and r.seconds_per_iteration]
        pace = alike[-1].seconds_per_iteration if alike else None
    try:
        return cell.spec.iterations * (pace or _measure(cell))
    except BenchError:
        return None


def _kind(spec: object) -> object:
    return spec.model_copy(update={"seed": 0, "iterations": 0, "selection": "last"})  # type: ignore[attr-defined]


def _measure(cell: Cell) -> float:
    if not cell.algorithm.trains:
        return 0.0
    suite = view(cell.suite, cell.algorithm.train_view, cell.spec.algorithm.name, Catalogue())
    meta = cell.algorithm.init(suite.new_params, seeds.generator("forecast"))
    engine = learn2learn if cell.spec.engine == "learn2learn" else vectorised  # eager: an upper bound for compiled
    gradient = engine.meta_gradient(suite, cell.algorithm)
    batches = episodes(suite, cell.algorithm, lambda: meta, cell.spec.seed, 0)
    seconds = []
    for batch in islice(batches, 1 + TRIAL):
        began = time.perf_counter()
        gradient(meta, batch)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])
