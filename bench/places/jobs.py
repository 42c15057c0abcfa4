"""A job: a function called in a process of its own, which can be stopped, may crash, and dies with whoever started it.

Why a process each: a crash in native code, a leak or a lock held for minutes takes one job along and nobody else. The
child is `python -m bench.places.jobs PARENT`. It reads the job from standard input as a line of JSON and then obeys
what follows there ("stop"; the end of it means that its parent is gone); it writes events, a line of JSON each, to what
was its standard output, and the last says how it ended. SIGINT, SIGTERM and SIGHUP stop it at once, however many of
them come: its parent knows when it has had enough. Nothing heavy is imported here.
"""

import contextlib
import ctypes
import faulthandler
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from queue import SimpleQueue
from typing import Any, Literal, Self

from bench.core.errors import BenchError, HeldError
from bench.core.interrupts import SIGNALS, interruptible
from bench.core.system import wait_politely

PR_SET_PDEATHSIG = 1  # linux/prctl.h
LAST_WORDS = 4_000  # bytes of a crashed job's standard error that are kept
Event = dict[str, Any]
Emit = Callable[[Event], None]


@dataclass(frozen=True)
class Job:
    """What to call, and what a machine must have for it."""

    key: str
    call: str  # "module:function", called as function(arguments, emit, stop)
    arguments: dict[str, Any]  # JSON
    needs: dict[str, float] = field(default_factory=dict)  # CORES, GPU, MEMORY in bytes
    device: str = "cpu"  # on which it runs; "cuda" is any GPU, so that jobs can be spread over several


@dataclass(frozen=True)
class Ending:
    """How a job ended: done, stopped as it was told, held by somebody else, refused with a message, or crashed."""

    how: Literal["done", "stopped", "held", "refused", "crashed"]
    message: str = ""
    trace: str = ""  # the last of standard error, if it crashed
    files: dict[str, bytes] = field(default_factory=dict)  # made where the one who asked can't read


Messages = SimpleQueue[tuple[str, Event | Ending]]  # with the job's key


class Child:
    """A running job."""

    def __init__(self, job: Job, gpu: str | None = None) -> None:
        """Starts it in a process group of its own, out of the terminal's Ctrl-C, which whoever started it passes on.

        Args:
            job: what it does.
            gpu: the only one that it sees, as CUDA_VISIBLE_DEVICES names it; None: all.
        """
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `listen`
        environment = dict(os.environ) if gpu is None else os.environ | {"CUDA_VISIBLE_DEVICES": gpu}
        wait_politely(environment)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bench.places.jobs", str(os.getpid())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, process_group=0, env=environment,
        )  # fmt: skip
        self._say(json.dumps(asdict(job)))

    def listen(self, emit: Emit) -> Ending:
        """Passes its events on until it ends, and says how."""
        last: Event = {}
        with self._process, self._errors:
            for line in self._process.stdout or ():
                with contextlib.suppress(ValueError):  # cut off by a crash
                    last = json.loads(line)
                if "how" not in last:
                    emit(last)
            with contextlib.suppress(OSError):  # a crash leaves what it was not told in the pipe
                self._process.stdin.close()  # type: ignore[union-attr]
            code = self._process.wait()
            if "how" in last and code == 0:
                return Ending(**last)
            self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - LAST_WORDS))
            trace = self._errors.read().decode(errors="replace")
        interrupted = -code in SIGNALS  # before it could listen to them
        return Ending("stopped" if interrupted else "crashed", _death(code), trace)

    def stop(self, at_once: bool) -> None:
        """Asks it to end at the next point from which it can go on later, or interrupts it as Ctrl-C does."""
        if at_once and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        elif not at_once:
            self._say("stop")

    def kill(self) -> None:
        """Ends it, whatever it does."""
        self._process.kill()

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # it has ended, as `listen` will say
            self._process.stdin.write(line.encode() + b"\n")  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]


class Local:
    """So many jobs at a time on this machine; what they say and how they end comes by the queue."""

    shared = True

    def __init__(self, workers: int, messages: Messages, gpus: tuple[str, ...] = ()) -> None:
        """Starts none yet; each that runs on any GPU will have the one of `gpus` that the fewest others are on."""
        self._messages, self._running = messages, set[Child]()
        self._busy, self._lock = dict.fromkeys(gpus, 0), threading.Lock()
        self._stopping = self._at_once = False
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="bench")  # a thread listens to a process

    def __enter__(self) -> Self:
        """Nothing to make ready."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kills what still runs."""
        self._stopping = True
        for child in list(self._running):
            child.kill()
        self._pool.shutdown()

    def start(self, job: Job) -> None:
        """Starts it as soon as a process is free for it."""
        self._pool.submit(self._run, job)

    def stop(self, at_once: bool) -> None:
        """Passes it on to all that run."""
        self._stopping, self._at_once = True, at_once
        for child in list(self._running):
            child.stop(at_once)

    def _run(self, job: Job) -> None:
        ending = Ending("stopped")
        try:
            if not self._stopping:
                ending = self._run_on(job, self._taken() if job.device == "cuda" else None)
        except OSError as error:  # no process to be had
            ending = Ending("crashed", f"its process could not be started: {error}")
        self._messages.put((job.key, ending))

    def _taken(self) -> str | None:
        with self._lock:
            gpu = min(self._busy, key=self._busy.__getitem__, default=None)
            if gpu is not None:
                self._busy[gpu] += 1
        return gpu

    def _run_on(self, job: Job, gpu: str | None) -> Ending:
        try:
            child = Child(job, gpu)
            self._running.add(child)
            if self._stopping:  # while it was being started
                child.stop(self._at_once)
            try:
                return child.listen(lambda event: self._messages.put((job.key, event)))
            finally:
                self._running.discard(child)
        finally:
            if gpu is not None:
                with self._lock:
                    self._busy[gpu] -= 1


def _death(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    name = signal.Signals(-code).name
    hint = " (the system does that when memory runs out)" if -code == signal.SIGKILL else ""
    return f"its process was killed by {name}{hint}"


def main() -> None:
    """The child: calls the job that it is given and says how that ended."""
    _die_with(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it
    faulthandler.enable()
    events = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what is printed, by whatever library, is no event
    lock = threading.Lock()

    def emit(event: Event) -> None:
        with lock:
            events.write(json.dumps(event) + "\n")

    stop = threading.Event()
    try:
        with interruptible(again=lambda _: None):
            job = json.loads(sys.stdin.buffer.readline())
            threading.Thread(target=_obey, args=(stop,), daemon=True).start()
            module, _, name = job["call"].partition(":")
            done = getattr(importlib.import_module(module), name)(job["arguments"], emit, stop)
        emit({"how": "done" if done else "stopped"})
    except HeldError as error:
        emit({"how": "held", "message": str(error)})
    except BenchError as error:
        emit({"how": "refused", "message": str(error)})
    except KeyboardInterrupt:
        emit({"how": "stopped"})
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    events.flush()
    os._exit(0)  # not the usual way, on which a thread that reads is a fatal error


def _die_with(parent: int) -> None:
    if sys.platform == "linux":  # works even while native code holds the interpreter's lock
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was quicker
        os._exit(1)


def _obey(stop: threading.Event) -> None:
    for line in sys.stdin.buffer:
        if line.strip() == b"stop":
            stop.set()
    os._exit(1)  # nobody is left to tell


if __name__ == "__main__":
    main()
