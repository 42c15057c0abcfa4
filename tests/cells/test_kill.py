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

CASES = [
    ("sinusoid", "maml[meta_batch=4]", "eager", 600),
    ("sinusoid", "maml[meta_batch=4]", "learn2learn", 150),
    ("sinusoid", "metasgd[meta_batch=4]", "compiled", 1500),
    ("glyphs", "maml[meta_batch=2]", "eager", 60),
    ("glyphs", "fomaml[meta_batch=2]", "learn2learn", 40),
]


def command(suite: str, algos: str, engine: str, iterations: int, out: Path) -> list[str]:
    asked = ["--suite", suite, "--algos", algos, "--engine", engine, "--iterations", str(iterations)]
    return [
        str(Path(sys.executable).parent / "bench"),
        "run",
        *asked,
        "--preset",
        "smoke",
        "--threads",
        "1",
        "--out",
        str(out),
    ]


def digests(store: Path) -> list[str]:
    return [record.digest for record in Store.open(store).records()]


@pytest.mark.forms(3)
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("suite", "algos", "engine", "iterations"), CASES)
def test_killed_and_resumed_equals_left_alone(
    suite: str, algos: str, engine: str, iterations: int, tmp_path: Path
) -> None:
    env = {**os.environ, "BENCH_SAVE_EVERY": "0.2"}
    began = time.monotonic()
    subprocess.run(command(suite, algos, engine, iterations, tmp_path / "whole"), check=True, capture_output=True)
    took = time.monotonic() - began
    moment = random.Random(f"{suite} {engine} {os.getpid()}")
    for _ in range(1 if engine == "compiled" else 2):  # compiling takes most of the time
        running = subprocess.Popen(
            command(suite, algos, engine, iterations, tmp_path / "killed"),
            env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(moment.uniform(0.1, 0.9) * took)
        running.send_signal(signal.SIGKILL)
        running.wait()
    last = subprocess.run(
        command(suite, algos, engine, iterations, tmp_path / "killed"), capture_output=True, text=True, check=False
    )
    assert last.returncode == 0, last.stderr
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
    assert len(digests(tmp_path / "whole")) == 1
