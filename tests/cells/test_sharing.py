"""Many commands at one run directory: each takes what nobody holds, no cell is run twice, none is lost."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from bench.core.records import Tuning
from bench.storage import hold
from bench.storage.store import Store
from tests.conftest import ROOT, Forked

RUN = ["run", "--suite", "sinusoid", "--algos", "maml[meta_batch=2],metasgd[meta_batch=2]", "--engine", "eager"]
SMALL = ["--preset", "smoke", "--threads", "1", "--out", "store"]
TUNE = ["tune", "--suite", "sinusoid", "--algos", "maml[meta_batch=2],scratch", "--trials", "6", "--batch", "3"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("BENCH_SAVE_EVERY", "0.1")


def start(count: int, *command: str) -> list[Forked]:
    return [Forked([*command, *SMALL], Path(f"output-{i}")) for i in range(count)]


def begun(folder: str = "store") -> list[int]:
    """Of every cell, how often somebody began to run it."""
    return [path.read_text().count(" INFO engine ") for path in Path(folder).glob("cells/*/log.txt")]


def digests(folder: str = "store") -> list[str]:
    return [record.digest for record in Store.open(Path(folder)).records()]


@pytest.mark.forms(1)
@pytest.mark.parametrize("more", [[], ["--workers", "1"]], ids=["here", "in processes"])
def test_each_cell_is_run_once_and_all_commands_end_with_all_results(more: list[str]) -> None:
    command = [*RUN, "--iterations", "100", "--seeds", "2"]
    commands = start(3, *command, *more)
    assert [process.wait(150) for process in commands] == [0] * 3, [process.said for process in commands]
    assert begun() == [1] * 4
    assert all(process.said.count("finished") >= 4 for process in commands)
    together = digests()
    Path("store").rename("shared")
    assert start(1, *command)[0].wait(100) == 0
    assert digests() == together
    assert not list(Path("shared").rglob(hold.NAME))


@pytest.mark.forms(1)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_killed_one_held_is_taken_over(number: int) -> None:
    commands = start(2, *RUN, "--iterations", "400", "--seeds", "2")
    while not list(Path("store").glob("cells/*/checkpoint.safetensors")):
        time.sleep(0.01)
    time.sleep(random.uniform(0, 1))
    os.kill(commands[0].pid, number)
    commands[0].wait()
    assert commands[1].wait(100) == 0, commands[1].said
    assert sorted(begun()) == [1, 1, 1, 2]
    together = digests()
    assert len(together) == 4
    Path("store").rename("shared")
    assert start(1, *RUN, "--iterations", "400", "--seeds", "2")[0].wait(100) == 0
    assert digests() == together


@pytest.mark.forms(0)
def test_a_cell_that_fails_is_not_tried_by_each() -> None:
    Path("mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from algorithms.maml import MAML\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Mine(MAML):\n"
        '    """Fails."""\n\n'
        "    def meta_loss(self, meta, task, episode):\n"
        "        import time; time.sleep(2)\n"
        "        raise RuntimeError\n"
    )
    command = ["run", "--suite", "sinusoid", "--algos", "mine", "--engine", "eager", "--plugin", "mine.py"]
    commands = start(3, *command)
    assert [process.wait() for process in commands] == [3, 3, 3], [process.said for process in commands]
    assert begun() == [1]
    assert start(1, *command)[0].wait() == 3  # but by the next command
    assert begun() == [2]


@pytest.mark.forms(0)
@pytest.mark.parametrize("pruner", ["none", "hyperband"])
@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_a_sweep_is_shared_and_ends_as_one_command_s(sampler: str, pruner: str) -> None:
    command = [*TUNE, "--trial-iterations", "30", "--sampler", sampler, "--pruner", pruner]
    command[4] = "maml[meta_batch=2]" if pruner == "hyperband" else command[4]
    commands = start(3, *command)
    assert [process.wait(200) for process in commands] == [0, 0, 0], [process.said for process in commands]
    assert set(begun("store/tuning")) == {1}
    shared = tunings()
    Path("store").rename("shared")
    assert start(1, *command)[0].wait(200) == 0
    assert tunings() == shared
    assert {len(tuning.trials) for tuning in shared.values()} == {6}


@pytest.mark.forms(0)
def test_a_sweep_of_which_one_command_is_killed_is_ended_by_the_other() -> None:
    command = [*TUNE, "--trial-iterations", "200"]
    commands = start(2, *command)
    while len(list(Path("store").glob("tuning/cells/*/record.json"))) < 2:
        time.sleep(0.01)
    os.kill(commands[0].pid, signal.SIGKILL)
    commands[0].wait()
    assert commands[1].wait(200) == 0, commands[1].said
    shared = tunings()
    Path("store").rename("shared")
    assert start(1, *command)[0].wait(200) == 0
    assert tunings() == shared


def tunings() -> dict[str, Tuning]:
    found = [Tuning.model_validate_json(path.read_bytes()) for path in Path("store/tuning").glob("*/sweep.json")]
    return {tuning.study: tuning.model_copy(update={"finished": ""}) for tuning in found}
