"""A hold belongs to one process at a time, and falls with it, with its host, or with its thaw."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.core.errors import HeldError
from bench.storage import hold
from bench.storage.hold import NAME, Hold


def taken_by_another(folder: Path, then: str) -> subprocess.Popen[str]:
    code = (
        "import os, sys; from pathlib import Path; from bench.storage import hold; "
        f"hold.LEASE = {hold.LEASE}; h = hold.Hold(Path({str(folder)!r}), 'it'); assert h.take(); "
        f"print('taken', flush=True); {then}"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "taken\n"
    return process


def seconds_until(ready: Callable[[], bool], most: float = 20.0) -> float:
    began = time.monotonic()
    while not ready():
        assert time.monotonic() - began < most
        time.sleep(0.02)
    return time.monotonic() - began


def elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves what a holder on another host left that has died."""
    one = Hold(folder, "it")
    assert one.take()
    content = (folder / NAME).read_text()
    one.release()
    content = re.sub("(?m)^host=.*", "host=elsewhere", content)
    (folder / NAME).write_text(content)


def test_it_is_one_s_at_a_time(tmp_path: Path) -> None:
    one, other = Hold(tmp_path, "it"), Hold(tmp_path, "it")
    assert one.take()
    assert not other.take()
    assert f"it is being run by process {os.getpid()} on" in str(other.held())
    one.release()
    assert other.take()
    other.release()
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_falls_at_once_with_a_process_of_this_host(tmp_path: Path, number: int) -> None:
    with taken_by_another(tmp_path, "sys.stdin.read()") as process:
        waiting = Hold(tmp_path, "it")
        assert not waiting.take()
        assert f"process {process.pid} on" in waiting.holder()
        process.send_signal(number)
    assert seconds_until(waiting.take) < 1
    waiting.release()


def test_another_host_s_falls_when_it_has_sent_no_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold, "LEASE", 1.0)
    elsewhere(tmp_path, monkeypatch)
    waiting = Hold(tmp_path, "it")
    assert "on elsewhere" in waiting.holder()
    assert 0.9 < seconds_until(waiting.take) < 5
    waiting.release()


@pytest.mark.slow
@pytest.mark.parametrize("skew", [-1e8, 1e8])
def test_clocks_that_differ_by_years_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    monkeypatch.setattr(hold, "LEASE", 1.0)
    elsewhere(tmp_path, monkeypatch)
    now = time.time()
    os.utime(tmp_path / NAME, (now + skew, now + skew))
    monkeypatch.setattr("time.time", lambda: now - skew)
    assert 0.9 < seconds_until(Hold(tmp_path, "it").take) < 5


@pytest.mark.slow
def test_a_heartbeat_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold, "LEASE", 1.0)
    one, other = Hold(tmp_path, "it"), Hold(tmp_path, "it")
    assert one.take()
    until = time.monotonic() + 3
    while time.monotonic() < until:
        assert not other.take()
        time.sleep(0.1)
    one.check()
    one.release()


def test_a_process_that_was_frozen_finds_that_it_was_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "LEASE", 1.0)
    then = "sys.stdin.readline(); exec('try: h.check()\\nexcept Exception as e: print(type(e).__name__, e)')"
    with taken_by_another(tmp_path, then) as process:
        process.send_signal(signal.SIGSTOP)
        waiting = Hold(tmp_path, "it")
        seconds_until(waiting.take)
        process.send_signal(signal.SIGCONT)
        output, _ = process.communicate("go on\n")
    assert f"HeldError it was taken over by process {os.getpid()}" in output
    waiting.check()
    waiting.release()


def test_what_a_process_left_that_was_killed_while_it_made_the_file_goes_by_the_file_system_s_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / NAME).touch()
    waiting = Hold(tmp_path, "it")
    assert not waiting.take()  # it may be about to write
    assert waiting.holder() == "another process"
    before = time.time() - hold.LEASE - 1
    os.utime(tmp_path / NAME, (before, before))
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert waiting.take()
    waiting.release()
    assert list(tmp_path.iterdir()) == []


def test_what_this_process_could_not_remove_does_not_keep_it_out(tmp_path: Path) -> None:
    one = Hold(tmp_path, "it")
    assert one.take()
    content = (tmp_path / NAME).read_bytes()
    one.release()
    (tmp_path / NAME).write_bytes(content)
    assert one.take()
    one.release()


def test_whoever_lost_it_says_so(tmp_path: Path) -> None:
    one = Hold(tmp_path, "it")
    assert one.take()
    (tmp_path / NAME).unlink()
    with pytest.raises(HeldError, match="it was taken over by another process"):
        one.check()
    one.release()
