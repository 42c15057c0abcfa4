"""What all tests share: a cache of their own, one thread, the real data if it is at hand."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from bench.cells.watch import Silent
from bench.cli import main
from bench.core import discovery
from bench.learning.training import Training

ROOT = Path(__file__).parents[1]
SMALL = ["--threads", "1", "--iterations", "20", "--preset", "smoke"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What may take longest comes first, lest one process be left with it when the others are done.

    Of a test with the mark `forms(n)`, n of its forms are run, for the time it takes; all of them with BENCH_ALL_FORMS.
    """
    items.sort(key=lambda item: -max((mark.args[0] for mark in item.iter_markers("timeout") if mark.args), default=0))
    if os.environ.get("BENCH_ALL_FORMS"):
        return
    seen: Counter[str] = Counter()
    left_out = set()
    for item in items:
        mark, name = item.get_closest_marker("forms"), item.nodeid.partition("[")[0]
        seen[name] += 1
        if mark and seen[name] > mark.args[0]:
            left_out.add(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def bench(*arguments: str, code: int = 0) -> Result:
    """The command, which ends with this exit code."""
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code, (result.output, result.exc_info)
    return result


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["BENCH_CACHE_DIR"] = str(tmp_path_factory.getbasetemp().parent / "cache")
    os.environ.pop("BENCH_PRESET", None)
    torch.set_num_threads(1)  # two workers share two cores


@pytest.fixture(autouse=True)
def _own_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_READ", {})


@pytest.fixture(scope="session")
def omniglot_dir() -> Path:
    """The folder that holds the real Omniglot."""
    for folder in (os.environ.get("BENCH_DATA_DIR"), ROOT.parent / "shared" / "data"):
        if folder and (Path(folder) / "omniglot").is_dir():
            return Path(folder)
    pytest.skip("real Omniglot not found: set BENCH_DATA_DIR")


@dataclass(frozen=True)
class PostgreSQL:
    """A server of the tests' own, in a folder of its own, that takes whoever comes from this machine."""

    programs: Path
    folder: Path
    port: int
    user: str | None  # that it runs as: the server refuses to run as root

    @property
    def url(self) -> str:
        """Of its one database."""
        return f"postgresql://bench@127.0.0.1:{self.port}/postgres"

    def call(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self.programs / program, "-D", self.folder / "data", *arguments],
            user=self.user, cwd=self.folder, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self) -> None:
        quick = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self.call("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", quick, "start")

    def stop(self) -> None:
        self.call("pg_ctl", "-w", "-m", "immediate", "stop")

    def restart(self) -> None:
        self.stop()
        self.start()


@pytest.fixture
def postgresql() -> Generator[PostgreSQL, None, None]:
    """A running PostgreSQL."""
    pytest.importorskip("psycopg", reason="psycopg not found: pip install 'meta-bench[postgresql]'")
    places = [
        *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),
        Path(shutil.which("initdb") or "").parent,
    ]
    programs = next((place for place in places if (place / "initdb").exists()), None)
    if programs is None:
        missing = "PostgreSQL's initdb and pg_ctl not found: apt-get install postgresql"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    with tempfile.TemporaryDirectory(prefix="bench-postgresql-") as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        server = PostgreSQL(programs, Path(folder), port, "postgres" if os.getuid() == 0 else None)
        if server.user:
            shutil.chown(folder, server.user)
        server.call("initdb", "-U", "bench", "-A", "trust", "--no-sync")
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, None, None]:
    """Where the data must be there, a skip for want of it is a failure."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and os.environ.get("BENCH_REQUIRE_DATA") and "BENCH_DATA_DIR" in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"skipped for want of data that lies beside the checkout: {report.longrepr}"


@pytest.fixture
def strike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, float], None]:
    """Lets each cell's first process be killed around the writing of its record (`tests/probes/record_strike.py`)."""

    def set_up(number: int, seconds: float) -> None:
        folder = tmp_path / "struck"
        folder.mkdir()
        (tmp_path / "sitecustomize.py").write_text("import record_strike\n")
        monkeypatch.setenv("STRIKE", f"{int(number)} {seconds} {folder}")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (tmp_path, ROOT / "tests" / "probes", ROOT))))

    return set_up


class StopAt(Silent):
    """Interrupts at an iteration, as Ctrl-C would."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def trains(self, cell: Any, state: Training) -> None:
        if state.iteration == self.iteration:
            raise KeyboardInterrupt


class Forked:
    """A `bench` command in a process that is this one once more: a new one would take seconds to import torch."""

    def __init__(self, arguments: list[str], output: Path, before: Callable[[], object] = lambda: None) -> None:
        """Starts it in a process group of its own, with the handlers of signals that a shell's command is born with.

        Args:
            arguments: of the command.
            output: where what it prints goes.
            before: is called in the process first.
        """
        self.output = output
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which do nothing here
            self.pid = os.fork()
        if self.pid == 0:
            code: object = 99
            try:
                os.setpgid(0, 0)
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
                file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                sys.stdout = sys.stderr = os.fdopen(file, "w", buffering=1)
                before()
                main(arguments)
            except SystemExit as error:
                code = error.code
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code if isinstance(code, int) else 0)

    @property
    def said(self) -> str:
        """What it has printed so far."""
        return self.output.read_text() if self.output.exists() else ""

    def says(self, text: str, within: float = 60.0) -> None:
        """Waits until it has printed something."""
        until = time.monotonic() + within
        while text not in self.said:
            assert time.monotonic() < until, self.said
            time.sleep(0.01)

    def wait(self, within: float = 60.0) -> int:
        """Its exit code, minus the signal that killed it; kills it where it takes too long."""
        until = time.monotonic() + within
        while (ended := os.waitpid(self.pid, os.WNOHANG)) == (0, 0):
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                pytest.fail(f"it did not end: {self.said}")
            time.sleep(0.01)
        return os.waitstatus_to_exitcode(ended[1])
