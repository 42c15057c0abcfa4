"""Images that somebody has, in class folders, split folders, a list of files and classes, or a zip of any of these.

They are read once and cached as arrays; a zip is never unpacked. Letters: N images, S pixels on a side.
"""

import csv
import hashlib
import io
import json
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.core.data import cached_array, zip_entries
from bench.core.errors import DataError, printable
from bench.core.images import IMAGES, read
from bench.core.types import Split

WORDS: dict[str, Split] = {
    **{"train": "train", "training": "train"},
    **{"val": "validation", "valid": "validation", "validation": "validation", "dev": "validation"},
    **{"test": "test", "testing": "test"},
}
COLUMNS = {"path": ("path", "file", "filename", "image"), "class": ("class", "label", "category")}
MOST = 8 * 2**30  # bytes of pixels, and of what a zip unpacks to
SHOWN = 3  # of many, in a message


class Listed(NamedTuple):
    """One image, as folders or a list have it."""

    path: str
    label: str
    split: Split | None


@dataclass(frozen=True)
class Collection:
    """What was read: image i is of class names[labels[i]], and of splits[i] where somebody said so."""

    names: list[str]
    labels: list[int]
    splits: list[Split | None]
    files: list[str]  # class and file name, wherever they lie
    content: str  # SHA-256 of paths and bytes, of what was read
    dropped: dict[str, str] = field(default_factory=dict)  # path -> why


def collected(path: Path, size: int) -> tuple[Collection, NDArray[np.uint8]]:
    """All images of a folder, a zip or a CSV, and their pixels, uint8 [N, 3, S, S].

    Raises:
        DataError: there is nothing such, it is damaged or hostile, or nothing in it is an image of a class.
    """
    where = _Place(path)
    key = f"{size}-{zlib.crc32(repr((str(path.absolute()), size, where.state)).encode()):08x}"
    made: dict[str, Collection] = {}

    def pixels() -> NDArray[np.uint8]:
        found, made["about"] = _read(where, size)
        return found

    array = cached_array("images", key, pixels)
    about = cached_array("images", f"{key}-about", lambda: _packed(made.get("about") or _read(where, size)[1]))
    return Collection(**json.loads(about.tobytes())), array


class _Place:
    """Where images lie: what there is, and how it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise DataError(
                f"there is no {path}. Give a folder of class folders, a zip of one, or a CSV of path,class."
            )
        self.root = path if path.is_dir() else path.parent
        self.entries: dict[str, zipfile.ZipInfo] | None = None  # of a zip, which may be empty
        if path.is_file() and path.suffix.lower() == ".zip":
            self.entries = {entry.filename: entry for entry in zip_entries(path, MOST) if not entry.is_dir()}
        elif path.is_file() and path.suffix.lower() != ".csv":
            raise DataError(f"{path} is neither a folder nor a .zip nor a .csv. Give one of these.")

    @cached_property
    def names(self) -> list[str]:
        """Paths below the root of all that is there and not hidden, sorted."""
        if self.entries is not None:
            found = list(self.entries)
        else:
            found = [p.relative_to(self.root).as_posix() for p in self.root.rglob("*") if p.is_file()]
        return sorted(n for n in found if not any(p.startswith((".", "__MACOSX")) for p in PurePosixPath(n).parts))

    @cached_property
    def state(self) -> list[Any]:
        """What changes when what lies there does, without reading it."""
        if self.path.is_file():
            known = self.path.stat()
            return [known.st_size, known.st_mtime_ns, *(self._stats() if self.entries is None else [])]
        return self._stats()

    def _stats(self) -> list[Any]:
        stats = ((name, (self.root / name).stat()) for name in self.names)
        return [(name, known.st_size, known.st_mtime_ns) for name, known in stats]

    @property
    def list(self) -> str | None:
        """The CSV that says which image is of which class, if there is one: itself, or the only one in it."""
        if self.path.suffix.lower() == ".csv":
            return self.path.name
        lists = [name for name in self.names if name.lower().endswith(".csv")]
        images = [name for name in self.names if name.lower().endswith(IMAGES) and "/" in name]
        loose = len({PurePosixPath(name).parent for name in images}) < 2  # no class folders
        return lists[0] if len(lists) == 1 and loose else None

    def _read_file(self, name: str) -> bytes:
        path = self.root / name
        if not path.is_file():  # a list may name a pipe, which has no end
            raise FileNotFoundError(name)
        return path.read_bytes()

    def reader(self) -> tuple[Callable[[str], bytes], Callable[[], None]]:
        """What gives the bytes of a path, and what closes it."""
        if (entries := self.entries) is None:
            return self._read_file, (lambda: None)
        archive = zipfile.ZipFile(self.path)

        def read(name: str) -> bytes:
            with archive.open(entries[name]) as file:
                return file.read(entries[name].file_size)  # bounded: what an entry claims may be a lie

        return read, archive.close


def _read(where: _Place, size: int) -> tuple[NDArray[np.uint8], Collection]:
    content_of, close = where.reader()
    try:
        dropped: dict[str, str] = {}
        listed = _from_list(where, content_of) if where.list else _from_folders(where, dropped)
        if not listed:
            raise DataError(
                f"{where.path} has no image in a class folder. Lay images out as CLASS/IMAGE, as train/CLASS/IMAGE, "
                f"validation/... and test/..., or in a CSV of path,class; read are {', '.join(IMAGES)}."
            )
        if (needed := len(listed) * 3 * size * size) > MOST:
            raise DataError(
                f"{len(listed):,} images of {size}x{size} take {needed / 2**30:.1f} GiB, of {MOST / 2**30:.0f} "
                "allowed. Give a lower size."
            )
        pixels = np.empty((len(listed), 3, size, size), np.uint8)
        kept: list[Listed] = []
        total = hashlib.sha256()
        for image in sorted(listed):
            try:
                content = content_of(image.path)
                with warnings.catch_warnings():
                    warnings.simplefilter("error")  # Pillow's, of an image that may be a bomb
                    decoded = read(io.BytesIO(content), (size, size), "RGB", upright=True)
            except Exception as error:  # a damaged file breaks in every way, and is left out
                dropped[image.path] = _reason(error)
                continue
            pixels[len(kept)] = decoded.transpose(2, 0, 1)
            total.update(json.dumps([_name(image), image.split]).encode())
            total.update(hashlib.sha256(content).digest())
            kept.append(image)
    finally:
        close()
    names = sorted({image.label for image in kept})
    number = {name: i for i, name in enumerate(names)}
    labels, splits = [number[image.label] for image in kept], [image.split for image in kept]
    said, why = [printable(name) for name in names], {printable(path): reason for path, reason in dropped.items()}
    return pixels[: len(kept)], Collection(said, labels, splits, [_name(k) for k in kept], total.hexdigest(), why)


def _from_folders(where: _Place, dropped: dict[str, str]) -> list[Listed]:
    """CLASS/IMAGE or SPLIT/CLASS/IMAGE, below any folders that hold nothing else."""
    paths = {name: PurePosixPath(name).parts for name in where.names if name.lower().endswith(IMAGES)}
    tops = {parts[0].lower() for parts in paths.values()}
    while len(tops) == 1 and not tops <= set(WORDS) and all(len(parts) > 2 for parts in paths.values()):
        paths = {name: parts[1:] for name, parts in paths.items()}
        tops = {parts[0].lower() for parts in paths.values()}
    ahead = 1 if tops <= set(WORDS) else 0  # folders above that of a class
    found = []
    for name, parts in paths.items():
        if label := "/".join(parts[ahead:-1]):
            found.append(Listed(name, label, WORDS[parts[0].lower()] if ahead else None))
        else:
            dropped[name] = "it lies in no class folder"
    return found


def _from_list(where: _Place, read: Callable[[str], bytes]) -> list[Listed]:
    """The rows of a CSV of path and class, and of the split if it says so."""
    name = where.list or ""
    inside = PurePosixPath(name).parent
    try:
        rows = csv.DictReader(io.StringIO(read(name).decode("utf-8-sig").lstrip("\r\n"), newline=""))
        heads = {(head or "").strip().lower(): head for head in rows.fieldnames or ()}
        columns = {what: next((heads[head] for head in some if head in heads), None) for what, some in COLUMNS.items()}
        if None in columns.values():
            raise DataError(
                f"{where.path if name == where.path.name else name} has no header with a column for the path "
                f"({', '.join(COLUMNS['path'])}) and one for the class ({', '.join(COLUMNS['class'])}); its first line "
                f"is {','.join(rows.fieldnames or ['empty'])[:80]!r}. Write path,class above the rows, with commas "
                "between."
            )
        return list(_rows(where, inside, rows, columns, heads.get("split")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{name} is no CSV in UTF-8 ({error}). Save it as one.") from None


def _rows(
    where: _Place, inside: PurePosixPath, rows: "csv.DictReader[str]", columns: dict[str, str | None], split: str | None
) -> Iterator[Listed]:
    known: dict[str, Listed] = {}
    for number, row in enumerate(rows, 2):
        path, label = ((row.get(columns[what] or "") or "").strip() for what in ("path", "class"))
        given = (row.get(split) or "").strip().lower() if split else ""
        if not path or not label or (given and given not in WORDS):
            raise DataError(
                f"line {number} of the list has path {path[:80]!r}, class {label[:80]!r}, split {given[:80]!r}. "
                "Mend it."
            )
        relative = os.path.normpath(inside / path)
        if Path(path).is_absolute() or relative.startswith(".."):
            raise DataError(
                f"line {number} of the list leads out of its folder: {path!r}. Put the list above all its images."
            )
        image = Listed(Path(relative).as_posix(), label, WORDS[given] if given else None)
        if known.setdefault(image.path, image) != image:  # or it would be trained and tested on
            raise DataError(f"line {number} of the list has {path[:80]!r} again, of another class or split. Keep one.")
    yield from known.values()


def _name(image: Listed) -> str:
    return f"{image.label}/{PurePosixPath(image.path).name}"


def _reason(error: Exception) -> str:
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "no image"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "too many pixels"
    if isinstance(error, FileNotFoundError | KeyError):
        return "not there"
    return " ".join(str(error).split())[:100] or type(error).__name__


def _packed(about: Collection) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(asdict(about)).encode(), np.uint8)
