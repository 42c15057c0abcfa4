"""Whatever a signal falls into, what is done is saved, the way on is said, and nobody is left."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.cells.cell import _Life
from bench.learning.outer.descent import Descent
from bench.learning.train import Gradients
from bench.learning.training import Training
from bench.protocols.episodic import Episodic
from bench.storage.store import Store
from tests.conftest import ROOT, Forked

MAML = ["--suite", "sinusoid", "--algos", "maml[meta_batch=2]", "--preset", "smoke", "--threads", "1"]
WAY_ON = "What is done is kept in store; the same command goes on from there."
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("BENCH_SAVE_EVERY", "0.5")


def start(
    *more: str, command: str = "run", engine: str = "eager", before: Callable[[], object] = lambda: None
) -> Forked:
    options = [*MAML, "--engine", engine, *more, "--out", "store"]
    return Forked([command, *options], Path("output"), before)


def checkpoints(folder: str = "store") -> dict[str, int]:
    """Cell -> iterations that were saved."""
    found = {}
    for path in Path(folder).glob("cells/*/checkpoint.safetensors"):
        content = path.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        found[path.parent.name] = json.loads(header["__metadata__"]["state"])["iteration"]
    return found


def train(process: Forked, cells: int = 1, folder: str = "store") -> None:
    """Waits until cells are in training, of which nothing is saved then."""
    until = time.monotonic() + 90
    while len(checkpoints(folder)) < cells:
        assert time.monotonic() < until, process.said
        time.sleep(0.02)
    for path in Path(folder).glob("cells/*/checkpoint.safetensors"):
        path.unlink()


def digests() -> list[str]:
    return [record.digest for record in Store.open(Path("store")).records()]


def children(pid: int) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            yield int(path.parent.name)
            yield from children(int(path.parent.name))


def gone(pids: list[int]) -> bool:
    until = time.monotonic() + 10
    while (left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]) and time.monotonic() < until:
        time.sleep(0.02)
    return not left


def ends_as_on(number: int, process: Forked, within: float = 20.0) -> None:
    assert process.wait(within) == 128 + number, process.said
    name = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    assert f"Error: interrupted{name}. {WAY_ON}" in process.said
    assert "Traceback" not in process.said
    assert "failed" not in process.said


@pytest.mark.forms(1)
@pytest.mark.parametrize("number", SIGNALS)
def test_in_training_it_is_saved_and_goes_on_to_the_same_digest(number: int) -> None:
    process = start("--iterations", "1500")
    train(process)
    os.kill(process.pid, number)
    ends_as_on(number, process)
    [saved] = checkpoints().values()
    assert 0 < saved < 1500
    again = start("--iterations", "1500")
    assert again.wait(120) == 0
    assert f"going on from iteration {saved:,}" in again.said
    [digest] = digests()
    Path("store").rename("cut")
    assert start("--iterations", "1500").wait(120) == 0
    assert digests() == [digest]


@pytest.mark.forms(0)
def test_more_than_one_at_once_is_one() -> None:
    process = start("--iterations", "100000")
    train(process)
    for _ in range(5):
        os.kill(process.pid, signal.SIGTERM)
        os.kill(process.pid, signal.SIGHUP)
        time.sleep(0.02)
    assert process.wait(20) in (129, 143)
    assert min(checkpoints().values()) > 0


@pytest.mark.forms(1)
@pytest.mark.parametrize("all_of_them", [False, True], ids=["the command", "each process of the job"])
@pytest.mark.parametrize("number", SIGNALS)
def test_with_workers_every_cell_is_saved(number: int, all_of_them: bool) -> None:
    process = start("--iterations", "100000", "--workers", "2", "--seeds", "3")
    train(process, cells=2)
    below = list(children(process.pid))
    assert len(below) >= 2
    for pid in [process.pid, *below] if all_of_them else [process.pid]:  # as SLURM tells each process of a step
        os.kill(pid, number)
    ends_as_on(number, process)
    assert gone(below)
    assert len(checkpoints()) == 2 and min(checkpoints().values()) > 0
    assert digests() == []


@pytest.mark.forms(0)
def test_a_signal_for_a_cell_s_process_alone_costs_it_nothing() -> None:
    process = start("--iterations", "1500", "--workers", "1")
    train(process)
    [child] = list(children(process.pid))
    os.kill(child, signal.SIGTERM)
    assert process.wait(120) == 0, process.said
    assert "going on from iteration" in process.said


@pytest.mark.forms(1)
@pytest.mark.parametrize("workers", [[], ["--workers", "2"]], ids=["here", "in processes"])
def test_in_a_sweep_the_trials_are_saved(workers: list[str]) -> None:
    asked = ["--trials", "4", "--batch", "2", "--trial-iterations", "100000", *workers]
    process = start(*asked, command="tune")
    train(process, folder="store/tuning")
    os.kill(process.pid, signal.SIGTERM)
    ends_as_on(signal.SIGTERM, process)
    assert min(checkpoints("store/tuning").values()) > 0


@pytest.mark.forms(0)
def test_while_it_compiles_it_ends_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "nothing-compiled-yet"))
    process = start("--iterations", "1000", engine="compiled")
    process.says("compiling first")
    time.sleep(1.0)
    os.kill(process.pid, signal.SIGTERM)
    ends_as_on(signal.SIGTERM, process)
    assert checkpoints() == {}


def test_in_evaluation_the_training_is_kept() -> None:
    def before() -> None:
        usual = Episodic.score

        def for_ever(self: Episodic, state: Training) -> Any:
            while True:
                usual(self, state)

        Episodic.score = for_ever  # type: ignore[method-assign]

    process = start("--iterations", "20", before=before)
    process.says("scoring")
    time.sleep(1.0)
    os.kill(process.pid, signal.SIGTERM)
    ends_as_on(signal.SIGTERM, process)
    assert list(checkpoints().values()) == [20]
    again = start("--iterations", "20")
    assert again.wait() == 0
    assert "going on from iteration 20" in again.said


@pytest.mark.forms(1)
@pytest.mark.parametrize(
    "moment", ["before the update", "in the update", "in the first update", "before the record", "after the record"]
)
def test_a_signal_that_falls_into_a_step_of_a_cell_s_life(moment: str) -> None:
    def before() -> None:
        def struck(function: Any, at: int, first: bool) -> Any:
            calls = [0]

            def call(*arguments: Any, **options: Any) -> Any:
                calls[0] += 1
                if first and calls[0] == at:
                    os.kill(os.getpid(), signal.SIGTERM)
                result = function(*arguments, **options)
                if not first and calls[0] == at:
                    os.kill(os.getpid(), signal.SIGTERM)
                return result

            return call

        if moment == "before the update":
            Gradients.at = struck(Gradients.at, 5, True)  # type: ignore[method-assign]
        elif moment.endswith("update"):
            Descent.update = struck(Descent.update, 5 if moment == "in the update" else 1, False)  # type: ignore[method-assign]
        elif moment == "before the record":
            _Life.record = struck(_Life.record, 1, False)  # type: ignore[method-assign]
        else:
            Store.conclude = struck(Store.conclude, 1, False)  # type: ignore[method-assign]

    struck = start("--iterations", "20", before=before)
    assert struck.wait() == 143, struck.said
    if moment.endswith("update"):
        assert list(checkpoints().values()) == ([] if "first" in moment else [5])
    assert len(digests()) == (moment == "after the record")
    assert start("--iterations", "20").wait() == 0
    [digest] = digests()
    Path("store").rename("cut")
    assert start("--iterations", "20").wait() == 0
    assert digests() == [digest]


def test_a_second_signal_ends_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def before() -> None:
        usual = _Life._save

        def slow(self: _Life, state: Training) -> None:
            sys.stdout.write("saving\n")
            time.sleep(60)
            usual(self, state)

        _Life._save = slow  # type: ignore[method-assign]

    process = start("--iterations", "100000", before=before)
    process.says("saving")
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(1.5)
    began = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(20) == 143
    assert time.monotonic() - began < 2


@pytest.mark.forms(0)
def test_a_second_signal_takes_the_workers_along() -> None:
    process = start("--iterations", "100000", "--workers", "2", "--seeds", "2")
    process.says("meta-iterations")
    below = list(children(process.pid))
    for pid in below:
        os.kill(pid, signal.SIGSTOP)  # deaf
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(1.5)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(10) == 143
    assert gone(below)
