"""The terminal never crashes on its own words: any encoding, any width, any closed pipe, no stream at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.terminal.outlet import sayable

BENCH = [sys.executable, "-m", "bench"]
RUN = ["run", "--suite", "sinusoid", "--algos", "maml,fomaml", "--preset", "smoke", "--iterations", "3"]
RUN += ["--threads", "1", "--engine", "eager"]
CODECS = ["ascii", "cp1252", "latin-1", "cp437", "utf-16", "shift_jis", "utf-8"]


def call(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*BENCH, *arguments], capture_output=True, env=os.environ | (environment or {}))


@pytest.mark.parametrize("codec", CODECS)
def test_every_encoding_gets_what_is_refused(codec: str) -> None:
    done = call("∞", environment={"PYTHONIOENCODING": codec})
    assert done.returncode == 2
    assert ("∞" if sayable("∞", codec) == "∞" else "inf") in done.stderr.decode(codec)


@pytest.mark.forms(2)
@pytest.mark.slow
@pytest.mark.parametrize("codec", ["ascii", "cp1252", "utf-16"])
@pytest.mark.parametrize("arguments", [["show", "maml"], ["show", "sinusoid"]])
def test_every_encoding_gets_all_that_is_said(codec: str, arguments: list[str]) -> None:
    done = call(*arguments, environment={"PYTHONIOENCODING": codec, "PYTHONUTF8": "0"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout.decode(codec)) > 1_000


@pytest.mark.parametrize(
    ("text", "encoding", "said"),
    [
        ("2 × 3 ± ∞", "ascii", "2 x 3 +- inf"),
        ("2 × 3 ± ∞", "cp1252", "2 × 3 ± inf"),
        ("−1 – 2 ≤ 3 · θ", "latin-1", "-1 - 2 <= 3 · theta"),
        ("naïve Größe ½", "ascii", "naive Gro?e 1/2"),
        ("│─┼ \udcff 猫", "ascii", "|-| ? ?"),
        ("\udcff", "utf-8", "?"),
    ],
)
def test_what_an_encoding_lacks_is_said_in_other_words(text: str, encoding: str, said: str) -> None:
    assert sayable(text, encoding) == said


@pytest.mark.slow
def test_a_table_in_ascii_is_aligned(tmp_path: Path) -> None:
    done = call(*RUN, "--out", str(tmp_path / "store"), environment={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    lines = done.stdout.decode("ascii").splitlines()
    rows = [line for line in lines if line.startswith(("|", "+"))]
    assert any("+-" in row and row.startswith("|") for row in rows) and len({len(row) for row in rows}) == 1


@pytest.mark.forms(1)
@pytest.mark.slow
@pytest.mark.parametrize("streams", ["1", "2", "1 2"])
def test_a_reader_that_has_gone_keeps_no_work_from_being_done(tmp_path: Path, streams: str) -> None:
    read, written = os.pipe()
    os.close(read)
    taken = {
        name: written if number in streams else subprocess.DEVNULL
        for number, name in (("1", "stdout"), ("2", "stderr"))
    }
    done = subprocess.run([*BENCH, *RUN, "--out", str(tmp_path / "store")], **taken)  # type: ignore[call-overload]
    os.close(written)
    assert done.returncode == 0
    assert len(list((tmp_path / "store").glob("cells/*/record.json"))) == 2


@pytest.mark.slow
def test_only_the_first_line_is_wanted() -> None:
    done = subprocess.run(f"{sys.executable} -m bench show maml | head -1", shell=True, capture_output=True)
    assert (done.stdout, done.stderr) == (b"maml (algorithm)\n", b"")


@pytest.mark.forms(1)
@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["list"], ["show", "maml"], ["--help"]])
def test_words_that_a_full_disk_loses_are_an_error_and_no_traceback(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*BENCH, *arguments], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ") and "No space left" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.forms(0)
@pytest.mark.slow
def test_a_process_without_streams_does_its_work(tmp_path: Path) -> None:
    command = f"{sys.executable} -m bench {' '.join(RUN)} --out {tmp_path / 'store'} >&- 2>&-"
    assert subprocess.run(command, shell=True).returncode == 0
    assert len(list((tmp_path / "store").glob("cells/*/record.json"))) == 2


@pytest.mark.forms(0)
@pytest.mark.slow
def test_a_folder_whose_name_is_no_text_can_be_run_in_and_reported_on(tmp_path: Path) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/r\xff")
    assert call(*RUN, "--out", folder).returncode == 0
    done = call("report", folder)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.forms(1)
@pytest.mark.slow
@pytest.mark.parametrize(("columns", "terminal"), [("1", "xterm"), ("7", "dumb"), ("20", "")])
def test_a_narrow_or_dumb_terminal_is_no_crash(columns: str, terminal: str) -> None:
    import pty

    master, slave = pty.openpty()
    environment = os.environ | {"COLUMNS": columns, "TERM": terminal}
    with subprocess.Popen([*BENCH, "show", "sinusoid"], stdout=slave, stderr=slave, env=environment) as process:
        os.close(slave)
        said = b""
        while block := _read(master):
            said += block
    os.close(master)
    assert process.returncode == 0 and b"Traceback" not in said and len(said) > 100


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # the other end is closed
        return b""
