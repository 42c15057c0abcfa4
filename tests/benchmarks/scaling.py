"""Cells per second against workers, with cells that sleep for a second and import nothing; writes docs/scaling.md.

What is measured is all that `bench run` adds to a cell: processes, Dask, records, the watch. `python
tests/benchmarks/scaling.py` from the root of a checkout.
"""

import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests" / "probes"), str(ROOT)])  # chores, bench

from bench.cells import execute  # noqa: E402
from bench.cells.execute import run_cells  # noqa: E402
from bench.cells.watch import Silent  # noqa: E402
from bench.places.execution import Execution  # noqa: E402
from bench.planning.plan import Cell, Request, plan  # noqa: E402
from bench.storage.store import Store  # noqa: E402

PAGE = ROOT / "docs" / "scaling.md"
WORKERS = (2, 4, 8, 16, 32, 64)
ROUNDS = 4  # cells of each worker
SLEEP = 1_000  # milliseconds
MANY = 1_000  # finished cells of a store


def cells_of(count: int, **options: Any) -> list[Cell]:
    asked: dict[str, Any] = {"preset": "smoke", "threads": 1, "engine": "eager", **options}
    return plan(Request(suites="sinusoid", algos="maml", seeds=tuple(range(count)), **asked))


def cpu() -> float:
    """Seconds of processor so far, of this process and of those that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def timed(cells: list[Cell], **where: Any) -> tuple[float, float]:
    """Seconds by the wall, and of processor, until all cells have their records."""
    with tempfile.TemporaryDirectory() as folder:
        began, used = time.perf_counter(), cpu()
        records = run_cells(cells, Store.create(Path(folder) / "store"), Silent(), None, (), Execution(**where))
        if len(records) < len(cells):
            raise RuntimeError(f"{len(cells) - len(records)} cells have no record")
        return time.perf_counter() - began, cpu() - used


def scaled() -> Iterator[str]:
    """The rows of the first table."""
    from distributed import LocalCluster

    execute.WORK = "chores:cell"
    yield "| workers | ideal, cells/s | processes, cells/s | processor ms/cell | Dask, cells/s |"
    yield "|---|---|---|---|---|"
    for workers in WORKERS:
        cells = cells_of(ROUNDS * workers, validate_every=SLEEP)
        seconds, used = timed(cells, workers=workers)
        with LocalCluster(n_workers=2, threads_per_worker=workers // 2, dashboard_address=":0") as cluster:
            by_dask, _ = timed(cells, dask=cluster.scheduler_address)
        ideal = workers * 1000 / SLEEP
        yield (
            f"| {workers} | {ideal:g} | {len(cells) / seconds:.3g} ({100 * len(cells) / seconds / ideal:.0f} %) "
            f"| {1000 * used / len(cells):.0f} "
            f"| {len(cells) / by_dask:.3g} ({100 * len(cells) / by_dask / ideal:.0f} %) |"
        )


def parts() -> Iterator[str]:
    """The rows of the second table: what a cell costs beside its own work."""
    yield "| what | seconds |"
    yield "|---|---|"
    began = time.perf_counter()
    for _ in range(20):
        subprocess.run([sys.executable, "-c", "pass"], check=True)
    yield f"| a Python process that does nothing | {(time.perf_counter() - began) / 20:.3f} |"
    real_work, execute.WORK = execute.WORK, "chores:cell"
    alone = timed(cells_of(20, validate_every=1), workers=1)[0] / 20
    yield f"| a cell that does nothing, one after the other in processes | {alone:.3f} |"
    execute.WORK = real_work
    real = cells_of(4, iterations=5)
    here = timed(real)[0] / 4
    there = timed(real, workers=1)[0] / 4
    yield f"| a real cell of five iterations on sinusoids, in this process | {here:.2f} |"
    yield f"| the same in a process of its own, which imports torch first | {there:.2f} |"
    execute.WORK = "chores:cell"
    many = cells_of(MANY, validate_every=1)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "store")
        run_cells(many[:1], store, Silent(), None, (), Execution(workers=1))
        record = store.record(many[0].id)
        if record is None:
            raise RuntimeError("no record")
        for cell in many:
            made = record.model_copy(update={"cell": cell.id, "spec": cell.spec})
            store.write(cell.id, "record.json", made.model_dump_json().encode())
        began = time.perf_counter()
        run_cells(many, store, Silent(), None, (), Execution(workers=2))
        yield f"| finding that {MANY:,} cells are finished | {time.perf_counter() - began:.2f} |"
    began = time.perf_counter()
    cells_of(MANY)
    yield f"| planning {MANY:,} cells | {time.perf_counter() - began:.2f} |"


def write(name: str, rows: list[str]) -> None:
    """Replaces a table of the page."""
    text = PAGE.read_text(encoding="utf-8")
    block = re.compile(f"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", re.S)
    PAGE.write_text(block.sub(lambda _: "\n".join([*rows, ""]), text), encoding="utf-8")


if __name__ == "__main__":
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    for name, rows in (("machine", [machine]), ("parts", list(parts())), ("scaled", list(scaled()))):
        write(name, rows)
        sys.stdout.write("\n".join([*rows, "", ""]))
