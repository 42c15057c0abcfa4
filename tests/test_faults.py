"""Whatever is killed, filled or cut, what was done stays, the rest ends with the same digest, no process is left.

BENCH_FAULTS says how often each fault is injected (`tox -e faults`: 20), BENCH_FAULTS_TABLE where the table goes. In
the first half, where processes are killed, cells are light: they checkpoint and resume as the real ones do and import
nothing; in the second they are real. The moments are random.
"""

import contextlib
import datetime
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.cells import execute
from bench.cells.execute import run_cells
from bench.cells.watch import Silent
from bench.core.errors import BenchError, StoreError
from bench.core.records import Record
from bench.places import cluster
from bench.places.execution import Execution
from bench.planning.plan import Cell, Request, plan
from bench.storage.store import Store
from bench.tuning.settings import Settings
from bench.tuning.sweep import sweeps, tune
from tests.conftest import ROOT, Forked, PostgreSQL
from tests.probes import chores
from tests.tuning.test_sweep import SMALL

TIMES = int(os.environ.get("BENCH_FAULTS", "1"))
FEW = max(1, TIMES // 3) if TIMES < 20 else TIMES  # of those that take seconds each
TOKEN = f"bench-fault-{uuid.uuid4().hex}"
ITERATIONS, CELLS = 150, 6
pytestmark = [pytest.mark.slow, pytest.mark.timeout(60 + 60 * TIMES)]
tally: dict[str, list[int]] = {}  # fault -> injected, lost, resumed


@pytest.fixture(scope="module", autouse=True)
def _environment() -> Iterator[None]:
    paths = os.pathsep.join([str(ROOT / "tests" / "probes"), str(ROOT)])  # chores, bench
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", paths)
        patch.setenv("BENCH_FAULT", TOKEN)
        yield
    if path := os.environ.get("BENCH_FAULTS_TABLE"):
        write_table(Path(path))


def write_table(path: Path) -> None:
    """Of the faults that were injected; the rows of others stay as they are."""
    text = path.read_text(encoding="utf-8")
    rows = {line.split(" | ")[0][2:]: line for line in re.findall(r"^\| .* \| \d+ \| \d+ \| \d+ \|$", text, re.M)}
    rows |= {fault: f"| {fault} | {n} | {lost} | {resumed} |" for fault, (n, lost, resumed) in tally.items()}
    table = "\n".join(
        ["| fault | times injected | results lost | resumed to the same digests |", "|---|---|---|---|", *rows.values()]
    )
    made = re.sub(r"(?<=<!-- faults -->\n).*?(?=<!-- /faults -->)", lambda _: f"{table}\n", text, flags=re.S)
    path.write_text(made, encoding="utf-8")


def counted(fault: str, before: dict[str, bytes], store: Path, resumed: bool) -> None:
    """Adds an injection to the tally, and holds it to what is promised."""
    after = records_of(store)
    lost = sum(after.get(cell) != content for cell, content in before.items())
    row = tally.setdefault(fault, [0, 0, 0])
    row[0], row[1], row[2] = row[0] + 1, row[1] + lost, row[2] + resumed
    assert lost == 0
    assert resumed
    assert orphans() == []


def records_of(store: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in store.glob("cells/*/record.json")}


def orphans(within: float = 15.0) -> list[int]:
    """The processes of jobs started here that are still there after a while."""
    until = time.monotonic() + within
    while (found := list(_jobs())) and time.monotonic() < until:
        time.sleep(0.05)
    return found


def _jobs() -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            ours = b"bench.places.jobs" in (folder / "cmdline").read_bytes()
            if ours and TOKEN.encode() in (folder / "environ").read_bytes():
                yield int(folder.name)


def light_cells(count: int = CELLS, iterations: int = ITERATIONS) -> list[Cell]:
    asked: Any = {"preset": "smoke", "threads": 1, "engine": "eager", "iterations": iterations}
    return plan(Request(suites="sinusoid", algos="maml", seeds=tuple(range(count)), **asked))


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    monkeypatch.setattr(execute, "WORK", "chores:trained")
    return light_cells()


def run(cells: list[Cell], root: Path, watch: Silent | None = None, **where: Any) -> list[Record]:
    return run_cells(cells, Store.create(root), watch or Silent(), None, (), Execution(**where))


def right(records: list[Record], cells: list[Cell]) -> bool:
    expected = [chores.digest(cell.spec.seed, cell.spec.iterations) for cell in cells]
    return [record.digest for record in records] == expected


class Striking(Silent):
    """Does something a random moment after the first cell has begun."""

    def __init__(self, function: Callable[[], object], within: float) -> None:
        self.function, self.within = function, within
        self.timer: threading.Timer | None = None

    def starts(self, cell: Cell, done: int) -> None:
        if self.timer is None:
            self.timer = threading.Timer(random.uniform(0.0, self.within), self.function)
            self.timer.start()


class Telling(Silent):
    """Adds what it is told done to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ends(self, cell: Cell, record: Record, fresh: bool) -> None:
        with self.path.open("a") as file:
            file.write(f"{cell.id}\n")


def forked(function: Callable[[], object]) -> int:
    """The id of a process that does it: this one once more, since a new one would take seconds to import torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which do nothing here
        pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            function()
        os._exit(0)
    return pid


@pytest.mark.parametrize("time_", range(TIMES))
def test_sigkill_of_the_main_process(time_: int, light: list[Cell], tmp_path: Path) -> None:
    root, told = tmp_path / "store", tmp_path / "told"
    pid = forked(lambda: run(light, root, Telling(told), workers=2))
    time.sleep(random.uniform(0.05, 1.5))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert orphans() == []
    reported = set(told.read_text().split()) if told.exists() else set()
    before = records_of(root)
    assert reported <= set(before)
    counted("SIGKILL of `bench run --workers 2`", before, root, right(run(light, root, workers=2), light))


def kill_one_job() -> None:
    if jobs := list(_jobs()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(random.choice(jobs), signal.SIGKILL)


@pytest.mark.parametrize("time_", range(TIMES))
def test_sigkill_of_a_cell_s_process(time_: int, light: list[Cell], tmp_path: Path) -> None:
    records = run(light, tmp_path, Striking(kill_one_job, 0.5), workers=2)
    counted("SIGKILL of a cell's process", {}, tmp_path, right(records, light))


@pytest.fixture(scope="module")
def local_cluster() -> Iterator[Any]:
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as made:
        yield made


@pytest.mark.parametrize("time_", range(TIMES))
def test_sigkill_of_a_dask_worker(time_: int, light: list[Cell], tmp_path: Path, local_cluster: Any) -> None:
    from distributed import Client

    with Client(local_cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)  # that of the time before has been started again
        workers = list(client.run(os.getpid).values())
    watch = Striking(lambda: os.kill(random.choice(workers), signal.SIGKILL), 0.5)
    records = run(light, tmp_path, watch, dask=local_cluster.scheduler_address)
    counted("SIGKILL of a Dask worker", {}, tmp_path, right(records, light))


@pytest.mark.parametrize("time_", range(FEW))
def test_sigkill_of_the_dask_scheduler(
    time_: int, light: list[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 10.0)
    monkeypatch.chdir(tmp_path)
    root, dask = tmp_path / "store", [sys.executable, "-m", "dask"]
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    of = ["--scheduler-file", "scheduler.json"]
    scheduler = subprocess.Popen([*dask, "scheduler", "--port", "0", "--dashboard-address", ":0", *of], **quiet)
    options = ["--nthreads", "1", "--no-dashboard", "--no-nanny", "--death-timeout", "5"]
    workers = [subprocess.Popen([*dask, "worker", *of, *options], **quiet) for _ in range(2)]
    try:
        while not Path("scheduler.json").exists():
            assert scheduler.poll() is None
            time.sleep(0.1)
        address = re.search(r'"address": "(tcp://[^"]+)"', Path("scheduler.json").read_text())
        assert address
        with contextlib.suppress(BenchError):  # said, if cells were still to come
            run(light, root, Striking(scheduler.kill, 0.8), dask=address[1], retries=0)
        scheduler.wait(10)
        assert orphans() == []
        before = records_of(root)
        counted("SIGKILL of the Dask scheduler", before, root, right(run(light, root, workers=2), light))
    finally:
        for process in (scheduler, *workers):
            process.kill()
            process.wait()


@pytest.mark.parametrize("time_", range(FEW))
def test_a_hundred_cells_of_which_ten_crash_in_native_code(
    time_: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "WORK", "chores:cell")
    asked: Any = {"preset": "smoke", "threads": 1, "engine": "eager", "validate_every": 1, "selection": "best"}
    cells = plan(Request(suites="sinusoid", algos="maml", seeds=tuple(range(100)), **asked))
    records = run(cells, tmp_path, workers=4, retries=0)
    failed = [record.spec.seed for record in records if record.outcome == "failed"]
    assert failed == list(range(9, 100, 10))
    kept = {record.cell for record in records if record.outcome == "finished"}
    before = {cell: content for cell, content in records_of(tmp_path).items() if cell in kept}
    assert len(before) == 90
    monkeypatch.setattr(execute, "WORK", "chores:trained")  # mended
    mended = run(cells, tmp_path, workers=4)
    counted("100 cells of which 10 crash in native code", before, tmp_path, len(mended) == 100)


# What follows befalls real cells.


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Cell], list[str]]:
    """Two cells, and the digests of a run that nothing befell."""
    asked: Any = {"preset": "smoke", "threads": 1, "engine": "eager", "iterations": 70}
    cells = plan(Request(suites="sinusoid", algos="maml[meta_batch=2],metasgd[meta_batch=2]", **asked))
    return cells, [record.digest for record in run(cells, tmp_path_factory.mktemp("whole"))]


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Cell], list[str]]:
    """Four cells of about a second, and the digests of a run that nothing befell."""
    asked: Any = {"preset": "smoke", "threads": 1, "engine": "eager", "iterations": 150, "seeds": (0, 1)}
    cells = plan(Request(suites="sinusoid", algos="maml[meta_batch=2],metasgd[meta_batch=2]", **asked))
    return cells, [record.digest for record in run(cells, tmp_path_factory.mktemp("longer"))]


def command(root: Path, output: Path, *more: str) -> Forked:
    """`bench run` of those."""
    what = ["--suite", "sinusoid", "--algos", "maml[meta_batch=2],metasgd[meta_batch=2]", "--seeds", "2"]
    how = ["--preset", "smoke", "--threads", "1", "--engine", "eager", "--iterations", "150", "--out", str(root)]
    return Forked(["run", *what, *how, *more], output)


@pytest.mark.parametrize("time_", range(TIMES))
def test_sigkill_around_the_writing_of_a_record(
    time_: int, whole: tuple[list[Cell], list[str]], tmp_path: Path, strike: Callable[[int, float], None]
) -> None:
    cells, digests = whole
    strike(signal.SIGKILL, random.choice([-1.0, random.uniform(0, 0.02)]))
    told = tmp_path / "told"
    records = run(cells, tmp_path / "store", Telling(told), workers=2)
    assert len(list((tmp_path / "struck").iterdir())) == 2
    right = [record.digest for record in records] == digests
    assert set(told.read_text().split()) == set(records_of(tmp_path / "store"))
    counted("SIGKILL of a cell's process around the writing of its record *", {}, tmp_path / "store", right)


@pytest.mark.parametrize("time_", range(TIMES))
def test_sigterm_of_the_main_process(time_: int, longer: tuple[list[Cell], list[str]], tmp_path: Path) -> None:
    cells, digests = longer
    root, workers = tmp_path / "store", ["--workers", "2"] if time_ % 2 else []
    started = command(root, tmp_path / "output", *workers)
    time.sleep(random.uniform(0.1, 8.0 if workers else 3.0))
    number = random.choice([signal.SIGTERM, signal.SIGHUP])
    os.kill(started.pid, number)
    code = started.wait()
    assert (code == 128 + number and "the same command goes on from there" in started.said) or code in (0, -number)
    before = records_of(root)
    assert all(b'"failed"' not in content for content in before.values())
    resumed = [record.digest for record in run(cells, root)] == digests
    counted("SIGTERM or SIGHUP of `bench run`, with workers and without *", before, root, resumed)


@pytest.mark.parametrize("time_", range(TIMES))
def test_several_commands_of_which_one_is_killed(
    time_: int, longer: tuple[list[Cell], list[str]], tmp_path: Path
) -> None:
    cells, digests = longer
    root = tmp_path / "store"
    commands = [command(root, tmp_path / f"output-{i}") for i in range(3)]
    time.sleep(random.uniform(0.1, 3.0))
    before = records_of(root)
    killed = random.choice(commands)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert [each.wait() for each in commands if each is not killed] == [0, 0]
    begun = [(Store.open(root).folder(cell.id) / "log.txt").read_text().count(" INFO engine ") for cell in cells]
    assert sum(begun) <= len(cells) + 1  # that which the killed one held
    found = [record.digest for record in Store.open(root).records()]
    counted("three `bench run` on one directory, one killed *", before, root, sorted(found) == sorted(digests))


class At(Silent):
    """Does something once, at an iteration of the second cell."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.function: Callable[[], object] | None = function
        self.iteration, self.cells = random.randrange(1, 70), 0

    def starts(self, cell: Cell, done: int) -> None:
        self.cells += 1

    def trains(self, cell: Cell, state: Any) -> None:
        if self.cells == 2 and state.iteration >= self.iteration and self.function:
            self.function()
            self.function = None


def mount(*options: str) -> None:
    done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mount is not permitted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path))
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.parametrize("time_", range(TIMES))
def test_a_full_disk(time_: int, whole: tuple[list[Cell], list[str]], disk: Path) -> None:
    cells, digests = whole

    def fill() -> None:
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    with pytest.raises(StoreError, match="the disk is full"):
        run(cells, disk / "store", At(fill))
    before = records_of(disk / "store")
    assert len(before) == 1
    (disk / "filler").unlink()
    resumed = [record.digest for record in run(cells, disk / "store")]
    counted("a full disk", before, disk / "store", resumed == digests)


class Outage(Silent):
    """Stops a server for a second soon after one of the first six trials has begun."""

    def __init__(self, server: PostgreSQL) -> None:
        self.server, self.before = server, random.randrange(6)
        self.thread = threading.Thread(target=self.happens)

    def starts(self, cell: Cell, done: int) -> None:
        if self.before == 0:
            self.thread.start()
        self.before -= 1

    def happens(self) -> None:
        time.sleep(random.uniform(0, 0.2))
        self.server.stop()
        time.sleep(1)
        self.server.start()


@pytest.fixture(scope="module")
def whole_sweep(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a sweep finds that keeps its trials in a file."""
    return swept(tmp_path_factory.mktemp("sweep"), None, Silent())


def swept(out: Path, url: str | None, watch: Silent) -> dict[str, Any]:
    [(tuning, _)] = tune(sweeps(SMALL, Settings(trials=8, batch=4, storage=url)), out, watch)
    return tuning.model_dump() | {"finished": ""}


@pytest.mark.parametrize("time_", range(FEW))
def test_postgresql_stopped_and_started_in_mid_sweep(
    time_: int, postgresql: PostgreSQL, whole_sweep: dict[str, Any], tmp_path: Path
) -> None:
    outage = Outage(postgresql)
    with contextlib.suppress(BenchError):  # it may be over before the storage is called next, and then nobody notices
        swept(tmp_path, postgresql.url, outage)
    before = records_of(tmp_path / "tuning")
    outage.thread.join()
    resumed = swept(tmp_path, postgresql.url, Silent())
    counted("PostgreSQL stopped and started in mid-sweep", before, tmp_path / "tuning", resumed == whole_sweep)


@pytest.mark.parametrize("time_", range(TIMES))
def test_a_read_only_mount(time_: int, whole: tuple[list[Cell], list[str]], disk: Path) -> None:
    cells, digests = whole
    store = disk / "store"
    try:
        # Lazily again and again: a log that is open for writing keeps a file system from being read-only.
        with pytest.raises(StoreError, match="Read-only file system"):
            run(cells, store, At(lambda: mount("--bind", "-o", "ro", str(store), str(store))))
    finally:
        subprocess.run(["umount", "-l", str(store)], check=True)
    before = records_of(store)
    assert len(before) == 1
    resumed = [record.digest for record in run(cells, store)]
    counted("a read-only mount", before, store, resumed == digests)


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "record.json"])
@pytest.mark.parametrize("time_", range(TIMES))
def test_a_truncated_file(time_: int, name: str, whole: tuple[list[Cell], list[str]], tmp_path: Path) -> None:
    cells, digests = whole
    run(cells, tmp_path)
    folder = Store.open(tmp_path).folder(cells[1].id)
    if name == "checkpoint.safetensors":
        (folder / "record.json").unlink()
    before = {cell: content for cell, content in records_of(tmp_path).items() if cell != cells[1].id}
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: random.randrange(len(content))])
    with pytest.raises(StoreError, match=f"{name} is corrupt or foreign"):
        run(cells, tmp_path)
    (folder / name).unlink()  # as the message says
    resumed = [record.digest for record in run(cells, tmp_path)]
    counted(f"a truncated {name.partition('.')[0]}", before, tmp_path, resumed == digests)


@pytest.mark.parametrize("time_", range(TIMES))
def test_a_clock_that_jumps(
    time_: int, whole: tuple[list[Cell], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells, digests = whole
    usual = time.time

    class Jumping(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return super().fromtimestamp(time.time(), tz)

    monkeypatch.setattr("time.time", lambda: usual() + random.uniform(-1e8, 1e8))
    monkeypatch.setattr("bench.cells.outcome.datetime", Jumping)
    records = run_cells(cells, Store.create(tmp_path), Silent(), 600.0, ())
    counted("a clock that jumps by years", {}, tmp_path, [record.digest for record in records] == digests)
