"""Finding, downloading, verifying and caching data, on a tiny data set and a local server."""

import gzip
import io
import os
import socket
import stat
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.core.data import Archive, Dataset, cache_dir, content_hash, data_dir
from bench.core.errors import DataError

REPOSITORY = Path(__file__).parents[2]
# "a b" sorts before "a/" by character but after it by folder: the hash is over sorted strings.
FILES = {
    "letters/a b/1.txt": b"one",
    "letters/a/2.txt": b"two",
    "letters/a/empty.txt": b"",
    "letters/z.txt": b"three" * 1000,
}
SHA256 = content_hash(sorted(FILES.items()))[1]


class Server(ThreadingHTTPServer):
    """Answers any path with what its fields say, and counts the requests."""

    daemon_threads = True
    body = b""
    status = 200
    claimed_bytes: int | None = None
    delay_seconds = 0.0
    requests = 0

    @property
    def url(self) -> str:
        """Where the zip is to be had."""
        return f"http://127.0.0.1:{self.server_address[1]}/letters.zip"


class Handler(BaseHTTPRequestHandler):
    """Serves the fields of its `Server`."""

    server: Server

    def do_GET(self) -> None:
        """Sends status, length and body, all of which may be wrong on purpose."""
        self.server.requests += 1
        time.sleep(self.server.delay_seconds)
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(self.server.claimed_bytes or len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing, to keep the test output clean."""


def pack(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


def put_zip(folder: Path, content: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "letters.zip").write_bytes(content)


def put_folder(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def dataset(url: str = "http://127.0.0.1:1/letters.zip") -> Dataset:
    return Dataset("toy", (Archive("letters", url, SHA256),), "nobody's")


def lengths(data: Dataset) -> Callable[[], NDArray[Any]]:
    return lambda: np.array([[len(content)] for _, content in data.files(data.archives[0])])


def left_behind(cache: Path) -> list[str]:
    files = (path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock")
    return [path.name for path in files]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("BENCH_DATA_DIR", raising=False)
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path / "own"))
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.body = pack(FILES)
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_content_hash_follows_the_written_definition() -> None:
    # sha256(b"letters/a\0" + sha256(b"one").digest()), by coreutils: sha256sum and xxd -r -p.
    assert content_hash([("letters/a", b"one")]) == (
        1,
        "9ddc02020140178bcd801ee5ffd43f2078c91a6ab4e304c06f8ceed2c2a8cc05",
    )


def test_import_needs_neither_torch_nor_the_downloaders() -> None:
    code = (
        "import sys, bench.core.data; "
        "late = {'torch', 'pooch', 'requests', 'platformdirs', 'filelock'}; "
        "sys.exit(bool(late & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


def test_folders_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("BENCH_CACHE_DIR")
    assert cache_dir().is_absolute()
    assert data_dir() is None
    monkeypatch.setenv("BENCH_DATA_DIR", "")
    assert data_dir() is None
    monkeypatch.setenv("BENCH_DATA_DIR", "~/mine")
    assert data_dir() == Path.home() / "mine"


# Finding and reading.


@pytest.mark.parametrize("inside", ["toy", ""])
@pytest.mark.parametrize("packed", [True, False])
def test_every_layout_of_a_local_folder_gives_the_same_files(own: Path, inside: str, packed: bool) -> None:
    if packed:
        put_zip(own / inside, pack(dict(reversed(FILES.items()))))
    else:
        put_folder(own / inside, FILES)
    data = dataset()
    assert list(data.files(data.archives[0])) == sorted(FILES.items())
    (row,) = data.verify()
    assert row == ("letters", data.fetch()[0], len(FILES), SHA256, True)
    assert row.where.is_relative_to(own / inside)


def test_litter_of_macos_is_no_data(own: Path) -> None:
    litter = {"__MACOSX/letters/._z.txt": b"?", "letters/a/.DS_Store": b"?"}
    put_zip(own, pack(FILES | litter))
    assert dataset().verify()[0].ok
    (own / "letters.zip").unlink()
    put_folder(own, FILES | litter)
    assert dataset().verify()[0].ok


def test_directory_entries_are_no_files(own: Path) -> None:
    put_zip(own, pack({"letters/": b"", "letters/a/": b""} | FILES))
    assert dataset().verify()[0].ok


def test_local_folder_without_the_data_is_named_and_nothing_is_downloaded(own: Path, server: Server) -> None:
    with pytest.raises(DataError) as caught:
        dataset(server.url).fetch()
    message = str(caught.value)
    looked = (str(own), "toy/letters.zip", "toy/letters,", "unset BENCH_DATA_DIR", "data fetch toy")
    for expected in looked:
        assert expected in message
    assert server.requests == 0


def test_local_folder_that_does_not_exist_is_said_to(own: Path) -> None:
    own.rmdir()
    with pytest.raises(DataError, match="does not exist"):
        dataset().fetch()


def test_verify_downloads_nothing(server: Server) -> None:
    with pytest.raises(DataError, match=r"no letters\.zip in .*cache.*bench data fetch toy"):
        dataset(server.url).verify()
    assert server.requests == 0


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    "altered",
    [
        FILES | {"letters/a/2.txt": b"TWO"},
        FILES | {"letters/more.txt": b""},
        {name: content for name, content in FILES.items() if name != "letters/z.txt"},
    ],
    ids=["changed", "added", "lost"],
)
def test_altered_content_is_reported_and_never_built_from(
    own: Path, cache: Path, altered: dict[str, bytes], packed: bool
) -> None:
    if packed:
        put_zip(own, pack(altered))
    else:
        put_folder(own, altered)
    data = dataset()
    (row,) = data.verify()
    assert not row.ok
    assert row.sha256 != SHA256
    with pytest.raises(DataError, match="changed, added or lost"):
        data.array("lengths", lengths(data))
    assert left_behind(cache) == []


@pytest.mark.parametrize(
    "name",
    [
        "/letters/a.txt",
        "letters/../../a.txt",
        "../letters/a.txt",
        "C:/letters/a.txt",
        "letters\\..\\a.txt",
        "others/a.txt",
        "letters.txt",
    ],
)
def test_hostile_entry_is_refused_by_name(own: Path, name: str) -> None:
    put_zip(own, pack(FILES | {name: b"!"}))
    with pytest.raises(DataError, match="is refused") as caught:
        dataset().verify()
    assert repr(name) in str(caught.value)


def test_symbolic_link_in_a_zip_is_refused(own: Path) -> None:
    link = zipfile.ZipInfo("letters/link")
    link.create_system = 3  # Unix, else the mode means nothing
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(own / "letters.zip", "w") as file:
        file.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match=r"letters/link.* is a symbolic link"):
        dataset().verify()


def test_unusual_compression_is_refused(own: Path) -> None:
    with zipfile.ZipFile(own / "letters.zip", "w", zipfile.ZIP_LZMA) as file:
        file.writestr("letters/z.txt", b"z")
    with pytest.raises(DataError, match="packed by method 14"):
        dataset().verify()


def test_zip_bomb_is_refused(own: Path) -> None:
    put_zip(own, pack(FILES))
    data = dataset()
    small = replace(data, archives=(replace(data.archives[0], max_bytes=5010),))
    with pytest.raises(DataError, match="unpacks to 5006"):
        replace(small, archives=(replace(data.archives[0], max_bytes=5005),)).verify()
    assert small.verify()[0].ok


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "text"])
def test_damaged_zip_is_an_error_that_names_it(own: Path, damage: str) -> None:
    whole = pack(FILES)
    at = whole.index(b"letters/z.txt") + 20
    damaged = {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "flipped": whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :],
        "text": b"<html>Please log in</html>",
    }
    put_zip(own, damaged[damage])
    with pytest.raises(DataError, match=r"letters\.zip is truncated, damaged or no zip"):
        dataset().verify()


# Downloading.


def test_download_happens_once(server: Server, cache: Path) -> None:
    data = dataset(server.url)
    assert data.fetch() == data.fetch() == (cache / "toy" / "letters.zip",)
    assert server.requests == 1
    assert left_behind(cache) == ["letters.zip"]
    assert data.verify()[0].ok


def test_download_is_silent_when_piped(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    dataset(server.url).fetch()
    assert capfd.readouterr() == ("", "")


def test_download_shows_its_progress_on_a_terminal(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    dataset(server.url).fetch()
    assert "100%" in capsys.readouterr().err


def test_leftover_of_a_killed_download_is_overwritten(server: Server, cache: Path) -> None:
    (cache / "toy").mkdir(parents=True)
    (cache / "toy" / "letters.zip.part").write_bytes(b"x" * 100_000)
    dataset(server.url).fetch()
    assert left_behind(cache) == ["letters.zip"]


def fails(data: Dataset, cache: Path, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        data.fetch()
    remedies = ("bench data fetch toy", "BENCH_DATA_DIR", "toy/letters.zip", data.archives[0].url)
    for expected in remedies:
        assert expected in str(caught.value)
    assert left_behind(cache) == []


def test_missing_on_the_server_says_404(server: Server, cache: Path) -> None:
    server.status = 404
    fails(dataset(server.url), cache, "the server answered 404 Not Found")


def test_broken_connection_says_truncated(server: Server, cache: Path) -> None:
    server.body, server.claimed_bytes = server.body[:100], len(server.body)
    fails(dataset(server.url), cache, "truncated")


def test_half_a_zip_says_truncated(server: Server, cache: Path) -> None:
    server.body = server.body[:100]
    fails(dataset(server.url), cache, "no intact data: .*truncated")


def test_tampered_download_says_which_hash_it_has(server: Server, cache: Path) -> None:
    server.body = pack(FILES | {"letters/z.txt": b"evil"})
    fails(dataset(server.url), cache, f"content hash is [0-9a-f]{{64}}, not {SHA256}")


def test_hostile_download_is_refused(server: Server, cache: Path) -> None:
    server.body = pack(FILES | {"letters/../../evil": b""})
    fails(dataset(server.url), cache, "'letters/../../evil' climbs out")


def test_closed_port_says_no_network(cache: Path) -> None:
    with socket.socket() as unused:  # bound but not listening, so nobody else takes the port
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/letters.zip"
        fails(dataset(url), cache, "no network")


def test_two_processes_download_once(server: Server, cache: Path) -> None:
    server.delay_seconds = 1.0
    code = (
        "import sys; from bench.core.data import Archive, Dataset; "
        "Dataset('toy', (Archive('letters', *sys.argv[1:]),), '').fetch()"
    )
    command = [sys.executable, "-c", code, server.url, SHA256]
    processes = [subprocess.Popen(command, cwd=REPOSITORY) for _ in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert server.requests == 1
    assert left_behind(cache) == ["letters.zip"]


def test_unwritable_cache_names_the_variable_to_set(
    server: Server, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()  # not chmod, which does not stop root
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path / "file" / "cache"))
    put_zip(own, pack(FILES))
    data = dataset(server.url)
    with pytest.raises(DataError, match=r"cannot write to the cache .*BENCH_CACHE_DIR"):
        data.array("lengths", lengths(data))
    monkeypatch.delenv("BENCH_DATA_DIR")
    with pytest.raises(DataError, match=r"cannot write to the cache .*BENCH_CACHE_DIR"):
        data.fetch()


# Cached arrays.


def test_array_is_downloaded_built_once_and_then_needs_no_archive(server: Server, cache: Path) -> None:
    data = dataset(server.url)
    first = data.array("lengths", lengths(data))
    np.testing.assert_array_equal(first, [[3], [3], [0], [5000]])
    assert isinstance(first, np.memmap)
    (cache / "toy" / "letters.zip").unlink()
    again = data.array("lengths", lambda: pytest.fail("built twice"))
    np.testing.assert_array_equal(again, first)
    assert server.requests == 1


def test_writing_to_an_array_leaves_the_cache_as_it_was(own: Path) -> None:
    put_zip(own, pack(FILES))
    data = dataset()
    data.array("lengths", lengths(data))[:] = -1
    np.testing.assert_array_equal(data.array("lengths", lambda: pytest.fail("built twice")), [[3], [3], [0], [5000]])


def test_torch_takes_an_array_without_a_warning(own: Path) -> None:
    torch = pytest.importorskip("torch")
    put_zip(own, pack(FILES))
    data = dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.from_numpy(data.array("lengths", lengths(data))).shape == (4, 1)


def test_other_content_version_or_key_is_another_array(own: Path, cache: Path) -> None:
    put_zip(own, pack(FILES))
    data = dataset()
    data.array("lengths", lengths(data))
    data.array("lengths", lengths(data), version=2)
    data.array("widths", lengths(data))
    put_zip(own, pack(FILES | {"letters/z.txt": b"new"}))
    newer = replace(data, archives=(replace(data.archives[0], sha256=data.verify()[0].sha256),))
    assert newer.array("lengths", lengths(newer))[-1] == 3
    assert len(left_behind(cache)) == 4


@pytest.mark.parametrize("damage", ["empty", "cut", "longer", "header", "shape", "flipped", "zeros"])
def test_damaged_cache_is_rebuilt(own: Path, cache: Path, damage: str) -> None:
    put_zip(own, pack(FILES))
    data = dataset()
    data.array("lengths", lengths(data))
    (path,) = cache.rglob("*.npy")
    whole = path.read_bytes()
    damaged = {
        "empty": b"",
        "cut": whole[:-10],
        "longer": whole + b"\0",
        "header": whole[:10] + b"{{{{" + whole[14:],
        "shape": whole.replace(b"(4, 1)", b"(3, 1)"),
        "flipped": whole[:-10] + bytes([whole[-10] ^ 1]) + whole[-9:],
        "zeros": bytes(len(whole)),
    }
    path.write_bytes(damaged[damage])
    np.testing.assert_array_equal(data.array("lengths", lengths(data)), [[3], [3], [0], [5000]])
    assert path.read_bytes() == whole
    assert left_behind(cache) == [path.name]


def test_build_that_fails_leaves_nothing_and_its_error_is_raised(own: Path, cache: Path) -> None:
    put_zip(own, pack(FILES))

    def build() -> NDArray[Any]:
        raise OSError("a bug in build")

    with pytest.raises(OSError, match="a bug in build"):
        dataset().array("lengths", build)
    assert left_behind(cache) == []


def test_threads_that_ask_at_once_build_once(own: Path) -> None:
    put_zip(own, pack(FILES))
    data, built, results = dataset(), [], []

    def build() -> NDArray[Any]:
        built.append(os.getpid())
        time.sleep(0.2)
        return lengths(data)()

    threads = [threading.Thread(target=lambda: results.append(data.array("lengths", build))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert len(results) == 3


@pytest.mark.parametrize("packed", [True, False])
def test_a_file_of_its_own_may_be_packed_by_gzip_or_not(own: Path, packed: bool) -> None:
    sha256 = content_hash([("digits", b"123")])[1]
    archive = Archive("digits", "http://127.0.0.1:1/digits.gz", sha256, 10, "gz")
    data = Dataset("toy", (archive,), "", folder="numbers")
    (own / "numbers").mkdir()
    where = own / "numbers" / ("digits.gz" if packed else "digits")
    with pytest.raises(
        DataError, match=r"looked for numbers/digits\.gz, numbers/digits, digits\.gz, digits\..*fetch toy"
    ):
        data.verify()
    pack_it = gzip.compress if packed else bytes
    where.write_bytes(pack_it(b"123"))
    [row] = data.verify()
    assert (row.ok, row.files, row.where) == (True, 1, where)
    where.write_bytes(pack_it(b"124"))
    assert not data.verify()[0].ok
    where.write_bytes(pack_it(b"1" * 11))
    with pytest.raises(DataError, match="has more than the 10 bytes allowed"):
        data.verify()
    if packed:
        where.write_bytes(gzip.compress(b"123")[:-4])
        with pytest.raises(DataError, match="is truncated, damaged or no gzip file"):
            data.verify()
