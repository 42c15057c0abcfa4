"""A first signal can be caught, waits where it is told to, and is never lost; a second one ends the process."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from bench.core import interrupts
from bench.core.interrupts import SIGNALS, Interrupted, deferred, interruptible

HANDLERS = dict.fromkeys(SIGNALS, signal.SIG_DFL) | {signal.SIGINT: signal.default_int_handler}


@pytest.fixture(autouse=True)
def _usual() -> Iterator[None]:
    """The handlers that a process is born with, whatever the one that runs the tests has."""
    before = {number: signal.signal(number, what) for number, what in HANDLERS.items()}
    yield
    for number, what in before.items():
        signal.signal(number, what)


def handlers() -> dict[int, object]:
    return {number: signal.getsignal(number) for number in SIGNALS}


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # until the interpreter looks


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_raised_once_with_its_number_and_the_handlers_are_given_back(number: int) -> None:
    again: list[int] = []
    with pytest.raises(Interrupted) as caught, interruptible(again.append):
        try:
            send(number)
        finally:
            send(number)  # as `timeout` and SLURM do
    assert caught.value.number == number
    assert again == []
    assert handlers() == HANDLERS


def test_a_second_one_is_another_only_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "TOGETHER", 0.1)
    again: list[int] = []
    with interruptible(again.append):
        with pytest.raises(Interrupted):
            send(signal.SIGTERM)
        send(signal.SIGHUP)
        time.sleep(0.2)
        send(signal.SIGINT)
    assert again == [signal.SIGINT]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("outer", [True, False], ids=["of a command", "of a library"])
def test_what_is_deferred_is_raised_where_somebody_looks(number: int, outer: bool) -> None:
    done: list[str] = []

    def work() -> None:
        with deferred() as look:
            look()
            send(number)
            done.append("went on")
            look()
            done.append("never")

    with pytest.raises(Interrupted) as caught:
        if outer:
            with interruptible():
                work()
        else:
            work()
    assert (caught.value.number, done) == (number, ["went on"])
    assert handlers() == HANDLERS


def test_what_nobody_looks_for_is_raised_at_the_end_even_if_something_else_went_wrong() -> None:
    with pytest.raises(Interrupted), deferred():
        send(signal.SIGTERM)
    with pytest.raises(Interrupted), deferred():
        send(signal.SIGTERM)
        raise ValueError


def test_deferring_within_deferring_leaves_it_to_the_outer_one() -> None:
    done: list[str] = []
    with pytest.raises(Interrupted), deferred() as look:
        with deferred() as inner:
            send(signal.SIGTERM)
            inner()
        done.append("went on")
        look()
        done.append("never")
    assert done == ["went on"]


@pytest.mark.parametrize("what", [signal.SIG_IGN, lambda *_: None], ids=["nohup", "somebody else's"])
def test_what_is_ignored_or_another_s_stays_so(what: object) -> None:
    signal.signal(signal.SIGHUP, what)  # type: ignore[arg-type]
    with interruptible(), deferred() as look:
        assert signal.getsignal(signal.SIGHUP) is what
        send(signal.SIGHUP)
        look()


def test_another_thread_is_left_in_peace() -> None:
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with interruptible(), deferred() as look:
                look()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failed == []


CALL = """if True:
    import signal, sys, time
    from bench.core import interrupts
    interrupts.TOGETHER = 0.05
    def work():
        try:
            print("ready", flush=True)
            time.sleep(30)
        finally:
            print("saved", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_library_s_process_saves_and_dies_by_the_signal(number: int) -> None:
    code = CALL + "    with interrupts.passed_on(): work()\n"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.read() == "saved\n"
    assert process.returncode == -number


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_what_takes_too_long_to_save(number: int) -> None:
    code = CALL + (
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "    with interrupts.interruptible():\n"
        "        try: work()\n"
        "        finally: time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "saved\n"
        time.sleep(0.2)
        began = time.monotonic()
        process.send_signal(number)
        process.wait()
    assert time.monotonic() - began < 5
    assert process.returncode == 128 + number
