"""Data sets on disk: found or downloaded once, checked by content, cached as mapped arrays.

Scores compare only if everybody reads the same bytes, so what counts is the SHA-256 of the content,
not where it lies or how it is packed: a mirror's zip, the author's zip and an unpacked folder are
all the same data.
"""

import gzip
import hashlib
import logging
import os
import stat
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.core.errors import DataError
from bench.core.images import SUFFIXES

_LITTER = {"__MACOSX", ".DS_Store"}  # macOS adds these to folders and zips; they are nobody's data
_CRC_BYTES = 4


@dataclass(frozen=True)
class Archive:
    """One zip file, or the folder that it unpacks to; or one file packed by gzip, or unpacked."""

    name: str  # of the zip without ".zip", and of the only folder inside; of the file without ".gz"
    url: str
    sha256: str  # of the content, see `content_hash`
    max_bytes: int = 2**30  # unpacked; what claims or comes to more is refused as a bomb
    packing: Literal["zip", "gz"] = "zip"

    @property
    def packed(self) -> str:
        """The packed file's name."""
        return f"{self.name}.{self.packing}"


class Verified(NamedTuple):
    """What `Dataset.verify` found out about one archive."""

    name: str
    where: Path
    files: int
    sha256: str
    ok: bool


def data_dir() -> Path | None:
    """The user's own data folder, from BENCH_DATA_DIR (`--data-dir`), or None if there is none."""
    given = os.environ.get("BENCH_DATA_DIR")
    return Path(given).expanduser().absolute() if given else None


def cache_dir() -> Path:
    """The folder for downloads and cached arrays: BENCH_CACHE_DIR, else the user's cache folder."""
    from platformdirs import user_cache_dir

    given = os.environ.get("BENCH_CACHE_DIR") or user_cache_dir("bench")
    return Path(given).expanduser().absolute()


def content_hash(files: Iterable[tuple[str, bytes]]) -> tuple[int, str]:
    """(number of files, SHA-256 over path, NUL and the file's SHA-256 of each), sorted by path."""
    count, total = 0, hashlib.sha256()
    for path, content in files:
        total.update(path.encode(errors="surrogateescape") + b"\0")
        total.update(hashlib.sha256(content).digest())
        count += 1
    return count, total.hexdigest()


def cached_array(name: str, key: str, build: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """The array `<name>/<key>` of the cache, memory-mapped copy-on-write; built once, by one process at a time.

    Raises:
        DataError: what `build` raises, or the cache cannot be written.
    """
    target = cache_dir() / name / f"{key}.npy"
    if (cached := _load(target)) is not None:
        return cached
    with _lock(target):
        cached = _load(target)  # perhaps somebody else built it while we waited for the lock
        if cached is None:
            logging.getLogger(__name__).info("building %s, once", target)
            _save(target, build())
            cached = _load(target)
    if cached is None:
        raise DataError(f"{target} was written but reads back wrong. Set BENCH_CACHE_DIR to another disk.")
    return cached


@dataclass(frozen=True)
class Dataset:
    """Archives that belong together, and where they are from."""

    name: str  # the suite's, for `bench data`
    archives: tuple[Archive, ...]
    licence: str  # and the source, for `bench data`
    folder: str = ""  # in which they lie; the name unless given

    def fetch(self) -> tuple[Path, ...]:
        """Where each archive lies, after downloading those that the cache lacks.

        Raises:
            DataError: if BENCH_DATA_DIR is set but lacks one (nothing is downloaded then), or a
                download fails.
        """
        if data_dir() is None:
            for archive in self.archives:
                if self._find(archive) is None:
                    self._download(archive)
        return tuple(self._locate(archive) for archive in self.archives)

    def verify(self) -> tuple[Verified, ...]:
        """A row per archive, with the hash that its content has and whether it is the right one.

        Raises:
            DataError: if an archive is missing or cannot be read; nothing is downloaded.
        """
        rows = []
        for archive in self.archives:
            where = self._locate(archive)
            count, found = content_hash(_read(where, archive))
            rows.append(Verified(archive.name, where, count, found, found == archive.sha256))
        return tuple(rows)

    def files(self, archive: Archive) -> Iterator[tuple[str, bytes]]:
        """(relative path, content) of each file, sorted, from zip or folder; `verify` checks it."""
        return _read(self._locate(archive), archive)

    def array(self, key: str, build: Callable[[], NDArray[Any]], *, version: int = 1) -> NDArray[Any]:
        """`build()`, memory-mapped copy-on-write from the cache; built once, from verified content.

        The file is named after the content hashes, so a cached array needs no archives at all.

        Args:
            key: Name of the array among those of this data set.
            build: Makes the array from `files`.
            version: Raise it when `build` changes its result.

        Raises:
            DataError: if the data is missing or altered, or the cache cannot be written.
        """
        identity = "\0".join([*(archive.sha256 for archive in self.archives), str(version)])
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]

        def verified() -> NDArray[Any]:
            self.fetch()
            for archive, row in zip(self.archives, self.verify(), strict=True):
                if not row.ok:
                    altered = _altered(str(row.where), archive, row.sha256)
                    raise DataError(f"{altered} Delete it. {self._remedy(archive)}")
            return build()

        return cached_array(self.name, f"{key}-{digest}", verified)

    def _places(self, archive: Archive) -> list[Path]:
        root = data_dir()
        own = self.folder or self.name
        folders = [cache_dir() / own] if root is None else [root / own, root]
        names = (archive.packed, archive.name)
        return [folder / name for folder in folders for name in names]

    def _find(self, archive: Archive) -> Path | None:
        try:
            return next((place for place in self._places(archive) if place.exists()), None)
        except OSError as error:
            raise DataError(f"cannot look for {self.name}: {error}. Mend permissions.") from error

    def _locate(self, archive: Archive) -> Path:
        if (place := self._find(archive)) is not None:
            return place
        root = data_dir()
        if root is None:
            where = cache_dir() / (self.folder or self.name)
            raise DataError(f"no {archive.packed} in {where}. {self._remedy(archive)}")
        lacks = "lacks" if root.is_dir() else "does not exist, so it lacks"
        looked = ", ".join(str(place.relative_to(root)) for place in self._places(archive))
        raise DataError(
            f"BENCH_DATA_DIR (--data-dir) is {root}, which {lacks} {archive.name} of {self.name}; "
            f"looked for {looked}. Put one of them there, or unset BENCH_DATA_DIR and run "
            f"`bench data fetch {self.name}` to download it from {archive.url}."
        )

    def _download(self, archive: Archive) -> None:
        target = self._places(archive)[0]
        with _lock(target):
            if self._find(archive) is None:  # nobody else fetched it while we waited for the lock
                _fetch(archive, target, remedy=self._remedy(archive))

    def _remedy(self, archive: Archive) -> str:
        return (
            f"Retry with `bench data fetch {self.name}`, or get {archive.url} by other means and "
            f"point --data-dir (BENCH_DATA_DIR) at a folder with {self.folder or self.name}/{archive.packed}."
        )


def _altered(what: str, archive: Archive, found: str) -> str:
    return (
        f"{what} is not the {archive.name} that it should be: its content hash is {found}, "
        f"not {archive.sha256}, so files in it were changed, added or lost."
    )


def _fetch(archive: Archive, target: Path, *, remedy: str) -> None:
    """Downloads to a name beside `target` and moves it there once its content is verified."""
    import pooch
    import requests

    logging.getLogger(__name__).info("downloading %s", archive.url)
    part = target.with_name(f"{target.name}.part")  # a fixed name, so leftovers are overwritten
    responses: list[requests.Response] = []  # pooch leaves those of failed downloads open
    get = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(),
        chunk_size=2**16,
        timeout=30,  # seconds without a byte
        hooks={"response": lambda response, **_: responses.append(response)},
    )
    try:
        with _writing(target.parent):
            try:
                get(archive.url, str(part), None)
            except requests.RequestException as error:
                reason = _reason(error)
                raise DataError(f"cannot fetch {archive.url}: {reason}. {remedy}") from error
            try:
                _, found = content_hash(_read(part, archive, packed=True))
            except DataError as error:
                raise DataError(f"{archive.url} gave no intact data: {error} {remedy}") from error
            if found != archive.sha256:
                raise DataError(f"{_altered(archive.url, archive, found)} {remedy}")
            part.replace(target)
    finally:
        for response in responses:
            response.close()
        part.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "truncated, the connection broke off before the end"
    if isinstance(error, requests.ConnectionError | requests.Timeout):
        return f"no network, or the server does not answer ({type(error).__name__})"
    return str(error)


def _read(where: Path, archive: Archive, packed: bool = False) -> Iterator[tuple[str, bytes]]:
    if where.is_dir():
        return _read_folder(where)
    if archive.packing == "zip":
        return _read_zip(where, archive)
    return _read_file(where, archive, packed or where.suffix == ".gz")


def _read_file(where: Path, archive: Archive, packed: bool) -> Iterator[tuple[str, bytes]]:
    try:
        with gzip.open(where) if packed else where.open("rb") as file:
            content = file.read(archive.max_bytes + 1)
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(f"{where} is truncated, damaged or no gzip file ({error}). Get an intact copy.") from error
    if len(content) > archive.max_bytes:
        raise DataError(
            f"{where} is refused: it has more than the {archive.max_bytes} bytes allowed. Get an intact copy."
        )
    yield archive.name, content


def _read_folder(where: Path) -> Iterator[tuple[str, bytes]]:
    try:
        files = (path for path in where.rglob("*") if path.is_file())
        paths = {path.relative_to(where.parent).as_posix(): path for path in files}
        for name in sorted(name for name in paths if not _LITTER.intersection(name.split("/"))):
            yield name, paths[name].read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {where}: {error}. Mend permissions.") from error


def zip_entries(where: Path, max_bytes: int, folder: str | None = None) -> list[zipfile.ZipInfo]:
    """The entries of a zip file, sorted by name, none of which would do harm if it were unpacked.

    Args:
        where: the file.
        max_bytes: that it may unpack to.
        folder: in which all must lie; None: anywhere inside.

    Raises:
        DataError: it is damaged or no zip, an entry is hostile, or it claims to be larger.
    """
    with _zip(where) as file:
        entries = sorted(file.infolist(), key=lambda entry: entry.filename)
    entries = [entry for entry in entries if not _LITTER.intersection(entry.filename.split("/"))]
    for entry in entries:
        if reason := _hostile(entry, folder):
            raise DataError(f"{where} is refused: its entry {entry.orig_filename!r} {reason}. Get an intact copy.")
    if (claimed := sum(entry.file_size for entry in entries)) > max_bytes:
        raise DataError(
            f"{where} is refused: it unpacks to {claimed} bytes, of {max_bytes} allowed. Get an intact copy."
        )
    return entries


def _read_zip(where: Path, archive: Archive) -> Iterator[tuple[str, bytes]]:
    """Never extracts, so a hostile name could do no harm; it is refused all the same."""
    entries = zip_entries(where, archive.max_bytes, archive.name)
    with _zip(where) as file:
        for entry in entries:
            if not entry.is_dir():
                with file.open(entry) as content:
                    # Bounded, for the size that an entry claims may be a lie.
                    yield entry.filename, content.read(entry.file_size)


def zip_images(where: Path, max_bytes: int = 2**30) -> Iterator[tuple[PurePosixPath, bytes]]:
    """(path, content) of each image in a zip file, sorted, which is never unpacked.

    Raises:
        DataError: it is damaged or no zip, an entry is hostile, or it claims to be larger.
    """
    entries = [entry for entry in zip_entries(where, max_bytes) if entry.filename.lower().endswith(SUFFIXES)]
    with _zip(where) as file:
        for entry in entries:
            with file.open(entry) as content:
                yield PurePosixPath(entry.filename), content.read(entry.file_size)


@contextmanager
def _zip(where: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(where) as file:
            yield file
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OSError) as error:
        raise DataError(f"{where} is truncated, damaged or no zip file ({error}). Get an intact copy.") from error


def _hostile(entry: zipfile.ZipInfo, folder: str | None) -> str | None:
    name = entry.orig_filename
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "is a symbolic link"
    if "\\" in name or ":" in name or name.startswith("/"):
        return "has a backslash, a drive letter or an absolute path"
    if ".." in name.split("/"):
        return "climbs out of its folder"
    if folder and PurePosixPath(name).parts[:1] != (folder,):
        return f"is not inside {folder}/"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is packed by method {entry.compress_type}, neither stored nor deflated"
    return None


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write to the cache {folder} ({error}). "
            "Free it up, or set BENCH_CACHE_DIR to a folder that you can write to."
        ) from error


def _lock(target: Path) -> AbstractContextManager[object]:
    """The sole right, among all processes, to write `target`."""
    from filelock import FileLock

    with _writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(f"{target}.lock").acquire()


def _save(target: Path, array: NDArray[Any]) -> None:
    part = target.with_name(f"{target.name}.part")
    contiguous = np.ascontiguousarray(array)
    try:
        with _writing(target.parent):
            with part.open("wb") as file:
                np.save(file, contiguous, allow_pickle=False)
                # Readers of .npy files ignore what follows the array.
                file.write(zlib.crc32(contiguous.data).to_bytes(_CRC_BYTES, "little"))
                file.flush()
                os.fsync(file.fileno())  # else a power cut could leave a file of zeros
            part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _load(target: Path) -> NDArray[Any] | None:
    """The cached array, or None if it is missing or damaged; 25 MB take 20 ms to check."""
    try:
        # Copy-on-write, because torch.from_numpy warns of read-only memory; the file stays intact.
        array: np.memmap[Any, Any] = np.lib.format.open_memmap(target, mode="c")
        with target.open("rb") as file:
            file.seek(array.offset + array.nbytes)
            intact = file.read() == zlib.crc32(array.data).to_bytes(_CRC_BYTES, "little")
    except Exception:  # headers break in many ways, and one cure serves all: a cache is rebuilt
        return None
    return array if intact else None
