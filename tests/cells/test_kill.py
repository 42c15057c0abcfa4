"""Killed at a random moment and started again, a run ends with the digest of one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.storage.store import Store
from tests.conftest import Forked

CASES = [
    ("sinusoid", "maml[meta_batch=4]", "eager", 600),
    ("sinusoid", "maml[meta_batch=4]", "learn2learn", 150),
    ("sinusoid", "metasgd[meta_batch=4]", "compiled", 1500),
    ("glyphs", "maml[meta_batch=2]", "eager", 60),
    ("glyphs", "fomaml[meta_batch=2]", "learn2learn", 40),
]


def command(suite: str, algos: str, engine: str, iterations: int, out: Path) -> list[str]:
    asked = ["--suite", suite, "--algos", algos, "--engine", engine, "--iterations", str(iterations)]
    return ["run", *asked, "--preset", "smoke", "--threads", "1", "--out", str(out)]


class Fresh:
    """A `bench` command in a new process: what compiles must not be this one once more, whose compiler has begun."""

    def __init__(self, arguments: list[str], output: Path) -> None:
        """Starts it."""
        with output.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bench", *arguments], stdout=file, stderr=subprocess.STDOUT
            )
        self.pid = self.process.pid

    def wait(self, within: float) -> int:
        """Its exit code, minus the signal that killed it."""
        return self.process.wait(within)


def digests(store: Path) -> list[str]:
    return [record.digest for record in Store.open(store).records()]


@pytest.mark.forms(3)
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("suite", "algos", "engine", "iterations"), CASES)
def test_killed_and_resumed_equals_left_alone(
    suite: str, algos: str, engine: str, iterations: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Fresh if engine == "compiled" else Forked
    monkeypatch.setenv("BENCH_SAVE_EVERY", "0.2")
    began = time.monotonic()
    assert start(command(suite, algos, engine, iterations, tmp_path / "whole"), tmp_path / "said").wait(300) == 0
    took = time.monotonic() - began
    moment = random.Random(f"{suite} {engine} {os.getpid()}")
    for _ in range(1 if engine == "compiled" else 2):  # compiling takes most of the time
        running = start(command(suite, algos, engine, iterations, tmp_path / "killed"), tmp_path / "killed's")
        time.sleep(moment.uniform(0.1, 0.9) * took)
        os.kill(running.pid, signal.SIGKILL)
        running.wait(60)
    last = start(command(suite, algos, engine, iterations, tmp_path / "killed"), tmp_path / "last")
    assert last.wait(300) == 0, (tmp_path / "last").read_text()
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
    assert len(digests(tmp_path / "whole")) == 1
