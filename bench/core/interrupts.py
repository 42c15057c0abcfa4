"""Ctrl-C, SIGTERM and SIGHUP: the first lets what is done be saved, a later one ends the process at once."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TOGETHER = 1.0  # seconds: `timeout`, SLURM and a closing terminal tell a process more than once


class Interrupted(KeyboardInterrupt):
    """One of the signals has come, and everything is to end as on Ctrl-C."""

    def __init__(self, number: int, message: str = "") -> None:
        """By the signal of this number; the message says how to go on."""
        super().__init__(message)
        self.number = number

    @classmethod
    def by(cls, interrupt: KeyboardInterrupt, message: str) -> "Interrupted":
        """The same with a message."""
        return cls(getattr(interrupt, "number", signal.SIGINT), message)


class _Handler:
    """What the signals call: raises the first, or keeps it while somebody looks for it by himself."""

    def __init__(self, again: Callable[[int], object]) -> None:
        self.again, self.deferring = again, False
        self.first: float | None = None
        self.kept: int | None = None

    def __call__(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first = now
            if not self.deferring:
                raise Interrupted(number)
            self.kept = number
        elif now - self.first > TOGETHER:
            self.again(number)

    def look(self) -> None:
        if self.kept is not None:
            number, self.kept = self.kept, None
            raise Interrupted(number)


def leave(number: int) -> None:
    """Ends the process at once, whatever its threads do; jobs that it started die with it."""
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h")  # the cursor that a live display hides
    os._exit(128 + number)


@contextmanager
def interruptible(again: Callable[[int], object] = leave) -> Iterator[None]:
    """Meanwhile the first of the signals raises Interrupted, and later ones call `again` with their number.

    A signal that is ignored, as by `nohup`, or that somebody else has a handler for is left alone; all are, outside the
    main thread.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        usual = (signal.SIG_DFL, signal.default_int_handler)
        before = {number: what for number in SIGNALS if (what := signal.getsignal(number)) in usual}
    handler = _Handler(again)
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, what in before.items():
            signal.signal(number, what)


@contextmanager
def passed_on() -> Iterator[None]:
    """As `interruptible`, for a library: what SIGTERM or SIGHUP would have ended is ended by it, all being saved."""
    try:
        with interruptible():
            yield
    except Interrupted as interrupt:
        if interrupt.number != signal.SIGINT:
            os.kill(os.getpid(), interrupt.number)
        raise


@contextmanager
def deferred() -> Iterator[Callable[[], None]]:
    """Meanwhile the first signal waits until what is yielded is called, which raises it; at the end it is raised."""
    with ExitStack() as stack:
        if _handler() is None:
            stack.enter_context(interruptible())
        handler = _handler()
        if handler is None or handler.deferring or threading.current_thread() is not threading.main_thread():
            yield lambda: None
            return
        handler.deferring = True
        try:
            yield handler.look
        finally:
            handler.deferring = False
            handler.look()


def _handler() -> "_Handler | None":
    return next((found for number in SIGNALS if isinstance(found := signal.getsignal(number), _Handler)), None)
