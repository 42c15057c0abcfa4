"""Wherever cells run, the same results are in the store, and what goes wrong with one stays with it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bench
from bench.cells.execute import run_cells
from bench.cells.outcome import crashed
from bench.cells.watch import Silent
from bench.core.errors import BenchError
from bench.core.records import Record
from bench.places import cluster
from bench.places.execution import Execution, cores
from bench.planning.plan import Cell, Request, plan
from bench.storage.store import Store
from tests.conftest import ROOT

SMALL: dict[str, Any] = {"preset": "smoke", "iterations": 20, "threads": 1, "engine": "eager"}


def hide_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of a cluster no longer see the run directory."""
    original = cluster.Cluster.__enter__

    def unseen(self: Any) -> Any:
        made = original(self)
        self.shared = False
        self.sign.unlink()
        return made

    monkeypatch.setattr(cluster.Cluster, "__enter__", unseen)


@pytest.fixture(autouse=True)
def _probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests" / "probes"), str(ROOT)]))  # chores, bench


@pytest.fixture
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells sleep instead of training, and import nothing."""
    monkeypatch.setattr("bench.cells.execute.WORK", "chores:cell")


def cells_of(count: int, milliseconds: int = 1, crash: bool = False) -> list[Cell]:
    more: Any = {"validate_every": milliseconds, "selection": "best" if crash else "last"}
    return plan(Request(suites="sinusoid", algos="maml", seeds=tuple(range(count)), **SMALL, **more))


class Noting(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.ended: list[tuple[int, str, bool]] = []
        self.lost: list[tuple[int, str, bool]] = []

    def starts(self, cell: Cell, done: int) -> None:
        self.started.append(cell.spec.seed)

    def ends(self, cell: Cell, record: Record, fresh: bool) -> None:
        self.ended.append((cell.spec.seed, record.outcome, fresh))

    def loses(self, cell: Cell, message: str, again: bool) -> None:
        self.lost.append((cell.spec.seed, message, again))


def run(cells: list[Cell], root: Path, time_limit: float | None = None, **where: Any) -> tuple[list[Record], Noting]:
    watch = Noting()
    return run_cells(cells, Store.create(root), watch, time_limit, (), Execution(**where)), watch


THREE = Request(suites="sinusoid", algos="maml", seeds=(0, 1, 2), **SMALL)
SPY = """if True:
    import sys, os
    def note(event, arguments):
        if event == "open" and str(arguments[0]).endswith(("spec.json", "record.json")):
            with open(os.environ["SPY"], "a") as file:
                file.write(f"{arguments[0]}\\n")
    sys.addaudithook(note)
"""


@pytest.mark.forms(1)
@pytest.mark.slow
@pytest.mark.parametrize("workers", [None, 2], ids=["here", "in processes"])
def test_a_fresh_cell_reads_nothing_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int | None
) -> None:
    store, (spec, *_) = Store.create(tmp_path / "store"), [cell.spec for cell in plan(THREE)]
    for seed in range(100, 140):  # which a fresh cell could go on from, but for their seed
        other = spec.model_copy(update={"seed": seed})
        store.write(other.id, "spec.json", other.model_dump_json().encode())
    (tmp_path / "sitecustomize.py").write_text(SPY)
    (tmp_path / "opened").touch()
    monkeypatch.setenv("SPY", str(tmp_path / "opened"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
    options = {**SMALL, "out": str(store.root), "workers": workers}
    code = f"import bench; bench.run('sinusoid', 'maml', seeds=3, **{options})"
    subprocess.run([sys.executable, "-c", code], check=True)
    opened = [Path(line).parent.name for line in (tmp_path / "opened").read_text().splitlines()]
    fresh = {cell.id for cell in plan(THREE)}
    assert len({name for name in opened if name not in fresh}) == 40  # the planner has read each of them,
    assert len([name for name in opened if name not in fresh]) == 40  # and nobody read one again
    assert len(opened) - 40 <= 10 * len(fresh)


@pytest.mark.forms(0)
@pytest.mark.slow
def test_where_a_cell_can_go_on_from_is_told_to_its_process(tmp_path: Path) -> None:
    more: Any = {**SMALL, "out": tmp_path / "store"}
    for iterations in (10, 15):
        bench.run("sinusoid", "maml", **more | {"iterations": iterations})
    frame = bench.run("sinusoid", "maml", workers=1, **more)
    [record] = [record for record in frame.store.records() if record.spec.iterations == 20]
    log = (frame.store.folder(record.cell) / "log.txt").read_text()
    assert record.pieces == 3
    assert "going on from iteration 15" in log
    [whole], _ = run(plan(THREE)[:1], tmp_path / "whole")
    assert record.digest == whole.digest


@pytest.mark.usefixtures("_light")
def test_only_what_is_missing_is_sent(tmp_path: Path) -> None:
    cells = cells_of(6)
    run(cells[:4], tmp_path, workers=2)
    records, watch = run(cells, tmp_path, workers=2)
    assert [record.cell for record in records] == [cell.id for cell in cells]
    assert sorted(watch.started) == [4, 5]
    assert [fresh for _, _, fresh in watch.ended] == [False] * 4 + [True] * 2


@pytest.mark.usefixtures("_light")
def test_cells_that_crash_are_recorded_after_the_retries_and_the_others_go_on(tmp_path: Path) -> None:
    cells = cells_of(20, crash=True)
    records, watch = run(cells, tmp_path, workers=4, retries=1)
    failed = [record for record in records if record.outcome == "failed"]
    assert [record.spec.seed for record in failed] == [9, 19]
    assert {record.outcome for record in records if record not in failed} == {"finished"}
    assert {record.message for record in failed} == {"its process was killed by SIGSEGV, 2 times"}
    assert sorted((seed, again) for seed, _, again in watch.lost) == [(9, False), (9, True), (19, False), (19, True)]
    log = (Store.open(tmp_path).folder(failed[0].cell) / "log.txt").read_text()
    assert log.count("LOST its process was killed by SIGSEGV\n") == 2
    assert "Segmentation fault" in log
    assert run(cells, tmp_path, workers=4, retries=0)[1].lost != []  # a failed cell is tried again by the next command


@pytest.mark.usefixtures("_light")
def test_the_time_limit_ends_what_runs_and_begins_nothing_more(tmp_path: Path) -> None:
    began = time.monotonic()
    records, watch = run(cells_of(6, milliseconds=60_000), tmp_path, time_limit=1.0, workers=2)
    assert time.monotonic() - began < 20
    assert (records, watch.lost, len(watch.started)) == ([], [], 2)


def test_a_cell_runs_in_one_place(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="--workers and --dask are given"):
        run([], tmp_path, workers=2, dask="tcp://127.0.0.1:1")


def test_a_scheduler_that_does_not_answer_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    for address in ("tcp://127.0.0.1:1", "nonsense://"):
        with pytest.raises(BenchError, match="no Dask scheduler answers at"):
            run(cells_of(1), tmp_path, dask=address)
    assert [path.name for path in tmp_path.iterdir()] == ["store.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "describes no Dask cluster"),
        ("module: dask_jobqueue", "describes no Dask cluster (KeyError: 'class')"),
        ("{module: distributed, class: LocalCluster, workers: 2}", "it has workers"),
        ("{module: distributed, class: RemoteCluster}", "distributed.RemoteCluster, which is not installed"),
    ],
)
def test_a_file_that_describes_no_cluster_says_what_would(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(content)
    with pytest.raises(BenchError) as caught:
        run([], tmp_path / "store", dask_spec=path)
    assert message in str(caught.value)


def test_threads_are_shared_among_workers() -> None:
    assert Execution().threads is None
    assert {Execution(workers=cores()).threads, Execution(workers=1_000).threads, Execution(dask="a:1").threads} == {1}
    assert Execution(workers=1).threads == cores()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_processes_and_a_cluster_give_the_digests_of_this_process(tmp_path: Path) -> None:
    cells = plan(Request(suites="sinusoid", algos="maml[meta_batch=2],metasgd[meta_batch=2]", **SMALL))
    here, _ = run(cells, tmp_path / "here")
    processes, _ = run(cells, tmp_path / "processes", workers=2)
    spec = tmp_path / "cluster.yaml"
    spec.write_text(
        "{module: distributed, class: LocalCluster,"
        " kwargs: {n_workers: 2, threads_per_worker: 1, dashboard_address: ':0', resources: {CORES: 1}}}"
    )
    cluster, watch = run(cells, tmp_path / "cluster", dask_spec=spec)
    assert [record.outcome for record in cluster] == ["finished", "finished"]
    assert sorted(watch.started) == [0, 0]
    digests = [[record.digest for record in records] for records in (here, processes, cluster)]
    assert digests[0] == digests[1] == digests[2]
    assert len(set(digests[0])) == 2


@pytest.fixture(scope="module")
def scheduler() -> Any:
    """The address of a cluster of two workers."""
    from distributed import LocalCluster

    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests" / "probes"), str(ROOT)])
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", resources={"CORES": 1}) as made:
        yield made.scheduler_address


@pytest.mark.slow
@pytest.mark.usefixtures("_light")
def test_on_a_cluster_too_a_crash_stays_with_its_cell(tmp_path: Path, scheduler: str) -> None:
    records, watch = run(cells_of(12, crash=True), tmp_path, dask=scheduler, retries=1)
    assert [record.outcome for record in records] == ["finished"] * 9 + ["failed"] + ["finished"] * 2
    assert {seed for seed, _, _ in watch.lost} == {9}
    assert set(watch.started) == set(range(12))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".bench")]


@pytest.mark.slow
@pytest.mark.usefixtures("_light")
def test_on_a_cluster_too_the_time_limit_ends_what_runs(tmp_path: Path, scheduler: str) -> None:
    records, watch = run(cells_of(6, milliseconds=60_000), tmp_path, time_limit=3.0, dask=scheduler)
    assert (records, watch.lost) == ([], [])
    assert len(watch.started) == 2
    assert len(run(cells_of(2), tmp_path, dask=scheduler)[0]) == 2  # and the cluster is free again


@pytest.mark.slow
@pytest.mark.usefixtures("_light")
def test_a_run_can_be_stopped_when_its_cluster_has_lost_every_worker(tmp_path: Path) -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as made:

        class Leaving(Noting):
            def starts(self, cell: Cell, done: int) -> None:
                super().starts(cell, done)
                made.scale(0)

        cells = cells_of(3, milliseconds=60_000)
        watch = Leaving()
        began = time.monotonic()
        where = Execution(dask=made.scheduler_address)
        assert run_cells(cells, Store.create(tmp_path), watch, 8.0, (), where) == []
        assert time.monotonic() - began < 60
    assert len(set(watch.started)) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("_light")
def test_what_dask_never_tells_ends_with_its_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import Future, LocalCluster

    monkeypatch.setattr(Future, "add_done_callback", lambda *_: None)
    monkeypatch.setattr(cluster, "PATIENCE", 3.0)
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as made:

        class Closing(Noting):
            def starts(self, cell: Cell, done: int) -> None:
                super().starts(cell, done)
                made.close(timeout=5)

        watch, where = Closing(), Execution(dask=made.scheduler_address, retries=0)
        cells = cells_of(3, milliseconds=60_000)
        assert run_cells(cells, Store.create(tmp_path), watch, 90.0, (), where) == []
    assert {message for _, message, _ in watch.lost} == {"the connection to the scheduler was lost"}
    assert len(watch.lost) == 3


@pytest.mark.slow
def test_where_a_worker_cannot_see_the_run_directory_the_files_travel(
    tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = plan(Request(suites="sinusoid", algos="maml[meta_batch=2]", **SMALL))
    [whole], _ = run(cells, tmp_path / "here")
    hide_the_store(monkeypatch)
    [record], watch = run(cells, tmp_path / "there", dask=scheduler)
    assert record.digest == whole.digest
    assert len(bench.load(tmp_path / "there")) == len(bench.load(tmp_path / "here"))
    assert watch.started == [0]
    assert (Store.open(tmp_path / "there").folder(record.cell) / "checkpoint.safetensors").exists()


@pytest.mark.slow
def test_needs_that_no_worker_offers_are_said(tmp_path: Path, scheduler: str) -> None:
    cells = plan(Request(suites="sinusoid", algos="maml", **SMALL | {"threads": 3}))
    with pytest.raises(
        BenchError, match=r"a cell needs CORES=3, and no worker offers that; the nearest offers CORES=1"
    ):
        run(cells, tmp_path, dask=scheduler)


@pytest.mark.forms(2)
@pytest.mark.slow
@pytest.mark.parametrize("place", ["in processes", "on a cluster", "on a cluster that does not see the store"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_record_that_is_there_wins_whatever_becomes_of_the_process(
    tmp_path: Path, place: str, number: int, strike: Callable[[int, float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import LocalCluster

    cells = plan(Request(suites="sinusoid", algos="maml[meta_batch=2]", **SMALL))
    strike(number, -1.0)
    if place == "in processes":
        [record], watch = run(cells, tmp_path / "store", workers=1, retries=0)
    else:
        if "not see" in place:
            hide_the_store(monkeypatch)
        with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as made:
            [record], watch = run(cells, tmp_path / "store", dask=made.scheduler_address, retries=0)
    assert list((tmp_path / "struck").iterdir())
    assert (record.outcome, watch.lost) == ("finished", [])
    assert watch.ended == [(0, "finished", True)]
    assert Store.open(tmp_path / "store").record(record.cell) == record


@pytest.mark.slow
def test_a_failed_record_is_replaced_by_the_next_command_s_and_by_no_late_failure(
    tmp_path: Path, strike: Callable[[int, float], None]
) -> None:
    cells, store = plan(THREE)[:1], Store.create(tmp_path / "store")
    [failed] = [crashed(cells[0], "lost")]
    store.conclude(failed)
    strike(signal.SIGKILL, -1.0)
    while not (tmp_path / "struck" / cells[0].id).exists():
        [record], watch = run(cells, store.root, workers=1, retries=0)
    assert (record.outcome, watch.lost) == ("finished", [])
    assert store.conclude(failed) == record


def test_another_command_s_record_wins_over_a_loss_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.cells.execute.WORK", "chores:cell")
    cells, store = cells_of(10, crash=True)[9:], Store.create(tmp_path)
    finished = crashed(cells[0], "").model_copy(update={"outcome": "finished", "digest": "ab"})

    class Other(Noting):
        def loses(self, cell: Cell, message: str, again: bool) -> None:
            super().loses(cell, message, again)
            store.conclude(finished)  # by somebody who has it by now

    watch = Other()
    assert run_cells(cells, store, watch, None, (), Execution(workers=1, retries=0)) == [finished]
    assert len(watch.lost) == 1


def test_what_another_command_holds_is_left_to_it_and_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.cells.execute.WORK", "chores:holding")
    cells, store = cells_of(4), Store.create(tmp_path)
    finished = crashed(cells[1], "").model_copy(update={"outcome": "finished", "digest": "ab"})
    asked: list[str] = []

    class Other(Noting):
        def waits(self, cell: Cell, who: str) -> None:
            asked.append(f"{cell.spec.seed} {who}")
            store.conclude(finished)

    watch, hold = Other(), store.claim(cells[1].id)
    assert hold.take()
    records = run_cells(cells, store, watch, None, (), Execution(workers=2))
    hold.release()
    assert asked == [f"1 process {os.getpid()} on {os.uname().nodename}"]
    assert [record.cell for record in records] == [cell.id for cell in cells]
    assert watch.lost == []
    assert (1, "finished", False) in watch.ended


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_ctrl_c_saves_where_every_cell_was_and_leaves_no_process(tmp_path: Path) -> None:
    command = [
        *(str(Path(sys.executable).parent / "bench"), "run", "--suite", "sinusoid", "--algos", "maml,metasgd"),
        *("--preset", "smoke", "--iterations", "100000", "--threads", "1", "--engine", "eager", "--workers", "2"),
        *("--out", str(tmp_path / "store")),
    ]
    env = {**os.environ, "BENCH_SAVE_EVERY": "0.2"}
    # A shell gives what it starts in the background a SIGINT that is ignored, and so may whoever runs the tests.
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    until = time.monotonic() + 300
    while len(saved := list(tmp_path.glob("store/cells/*/checkpoint.safetensors"))) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    for path in saved:
        path.unlink()
    running.send_signal(signal.SIGINT)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 130, output
    assert "the same command goes on from there" in output
    assert len(list(tmp_path.glob("store/cells/*/checkpoint.safetensors"))) == 2
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
