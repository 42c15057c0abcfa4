"""A job is heard, stopped, survived, and never outlives whoever started it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from bench.places import execution
from bench.places.jobs import Child, Ending, Event, Job, Local, Messages
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def _probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests" / "probes"), str(ROOT)]))  # chores, bench


def job(name: str, **arguments: Any) -> Job:
    return Job("key", f"chores:{name}", arguments)


def run(
    name: str, then: Callable[[Child, Event], None] = lambda *_: None, **arguments: Any
) -> tuple[Ending, list[Event]]:
    child, events = Child(job(name, **arguments)), list[Event]()

    def emit(event: Event) -> None:
        events.append(event)
        then(child, event)

    return child.listen(emit), events


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def gone(pid: int, within: float = 10.0) -> bool:
    until = time.monotonic() + within
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive(pid)


def test_a_job_says_what_it_does_and_that_it_is_done() -> None:
    ending, [event] = run("nap")
    assert ending == Ending("done")
    assert event["event"] == "begins"


def test_what_a_library_prints_is_no_event() -> None:
    assert run("chatter") == (Ending("done"), [{"event": "spoke"}])


def test_a_crash_in_native_code_is_told_with_its_last_words() -> None:
    ending, _ = run("crash")
    assert (ending.how, ending.message) == ("crashed", "its process was killed by SIGSEGV")
    assert "about to crash" in ending.trace and "Segmentation fault" in ending.trace


def test_a_mistake_is_told_as_it_would_be_here() -> None:
    assert run("refuse")[0] == Ending("refused", "mend this")


def test_a_job_that_does_not_exist_crashes_with_the_reason() -> None:
    ending, _ = run("missing")
    assert ending.how == "crashed" and "has no attribute 'missing'" in ending.trace


@pytest.mark.parametrize(("name", "at_once"), [("nap", False), ("interrupted", True)])
def test_a_job_stops_when_told(name: str, at_once: bool) -> None:
    began = time.monotonic()
    ending, _ = run(name, lambda child, _: child.stop(at_once), seconds=60)
    assert ending.how == "stopped"
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("name", ["nap", "hang"])
def test_a_job_dies_with_its_parent_even_while_it_hangs(name: str) -> None:
    code = (
        "import sys; from bench.places.jobs import Child, Job; "
        f"Child(Job('key', 'chores:{name}', {{'seconds': 60}}))"
        ".listen(lambda event: print(event['pid'], flush=True))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        time.sleep(0.1)
        assert alive(pid)
        parent.kill()
    assert gone(pid)


def test_jobs_started_at_the_same_time_do_not_keep_each_other_alive() -> None:
    children = [Child(job("nap", seconds=0.2 * i)) for i in range(3)]
    endings: list[Ending] = []
    threads = [threading.Thread(target=lambda c=c: endings.append(c.listen(lambda _: None))) for c in children]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert endings == [Ending("done")] * 3


def test_a_killed_job_is_gone() -> None:
    pids: list[int] = []

    def kill(child: Child, event: Event) -> None:
        pids.append(event["pid"])
        os.kill(event["pid"], signal.SIGKILL)

    ending, _ = run("nap", kill, seconds=60)
    assert "killed by SIGKILL (the system does that when memory runs out)" in ending.message
    assert gone(pids[0])


def seen(device: str, gpus: tuple[str, ...]) -> dict[str, str | None]:
    """What each of four jobs at once sees of these GPUs."""
    messages: Messages = SimpleQueue()
    found: dict[str, str | None] = {}
    with Local(4, messages, gpus) as place:
        for i in range(4):
            place.start(Job(f"{i}", "chores:look", {"seconds": 30}, device=device))
        while len(found) < 4:
            key, said = messages.get(timeout=20)
            assert isinstance(said, dict), said
            found[key] = said["gpus"]
    return found


def test_jobs_on_any_gpu_are_spread_over_all_of_them() -> None:
    assert sorted(map(str, seen("cuda", ("0", "GPU-5")).values())) == ["0", "0", "GPU-5", "GPU-5"]


@pytest.mark.parametrize(("device", "gpus"), [("cuda:1", ("0", "1")), ("cpu", ("0", "1")), ("cuda", ())])
def test_a_job_that_names_its_gpu_or_needs_none_sees_what_there_is(
    device: str, gpus: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert set(seen(device, gpus).values()) == {"0,1"}


def test_a_gpu_is_free_again_when_its_job_has_ended() -> None:
    messages: Messages = SimpleQueue()
    with Local(1, messages, ("7", "8")) as place:
        for i in range(3):
            place.start(Job(f"{i}", "chores:look", {}, device="cuda"))
        said = [messages.get(timeout=20)[1] for _ in range(6)]
    assert [event["gpus"] for event in said if isinstance(event, dict)] == ["7", "7", "7"]


@pytest.mark.parametrize(
    ("allowed", "there", "names"),
    [(None, 2, ("0", "1")), ("3,GPU-ab", 2, ("3", "GPU-ab")), ("", 0, ()), (None, 0, ())],
)
def test_gpus_are_named_as_the_driver_is_told(
    allowed: str | None, there: int, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    if allowed is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    monkeypatch.setattr("torch.cuda.device_count", lambda: there)
    assert execution.gpus() == names


def test_a_jobs_threads_wait_politely(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    assert run("environment", variable="OMP_WAIT_POLICY")[1] == [{"value": "passive"}]
