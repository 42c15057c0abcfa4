"""The run directory: one folder per cell, named by its specification's hash; every file is written whole or not at all.

`runs/<experiment>/cells/<id>/`: spec.json, checkpoint.safetensors, log.txt, scores.parquet, curve.parquet and, last,
record.json. What is reported done is on the disk.
"""

import errno
import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from bench.core.errors import StoreError
from bench.core.records import FORMAT, Record, Spec, Tuning
from bench.storage.hold import Hold

if TYPE_CHECKING:
    import pandas as pd

MARK = "store.json"
META = "meta.safetensors"  # what a cell has learned, without what going on would need; where results are kept compact
TUNING = "tuning"  # within a run directory: the store of a sweep's trials, and a folder for each sweep
COLUMNS = {  # of the tables
    "scores.parquet": ("setting", "norm", "metric", "task", "step", "value"),
    "curve.parquet": ("iteration", "loss", "validation"),
}


def default_out(suites: str) -> Path:
    """runs/<suites>, without brackets and commas."""
    name = "".join(c if c.isalnum() or c in "_-" else "-" for c in suites.replace(" ", ""))
    return Path("runs") / name.strip("-")


def tunings(root: Path) -> Iterator[Tuning]:
    """The sweeps of a run directory, in order of their names.

    Raises:
        StoreError: one is corrupt.
    """
    for path in sorted((root / TUNING).glob("*/sweep.json")):
        try:
            yield Tuning.model_validate_json(path.read_bytes())
        except (ValidationError, OSError) as error:
            first = str(error).splitlines()[0]
            raise StoreError(f"{path} is corrupt or foreign ({first}). `bench tune` writes it anew.") from None


@dataclass(frozen=True)
class Store:
    """A run directory."""

    root: Path

    @classmethod
    def create(cls, root: Path) -> "Store":
        """The store at `root`, made if there is none; refuses a folder that is something else."""
        claim(root, MARK, "run directory")
        return cls.open(root)

    @classmethod
    def open(cls, root: Path) -> "Store":
        """The store at `root`, which must be one that this version can read."""
        try:
            _check_format(root, json.loads((root / MARK).read_bytes())["format"])
        except FileNotFoundError:
            raise StoreError(f"{root} is no run directory: it has no {MARK}. `bench run` makes one.") from None
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise StoreError(
                f"{root / MARK} is corrupt or foreign ({_reason(error)}). Restore it, or give another --out."
            ) from None
        return cls(root)

    def folder(self, cell: str) -> Path:
        """Where a cell's files are."""
        return self.root / "cells" / cell

    def record(self, cell: str) -> Record | None:
        """The record of a cell, or None if it has not ended."""
        path = self.folder(cell) / "record.json"
        return self._read(cell, path) if path.exists() else None

    def _read(self, cell: str, path: Path) -> Record:
        try:
            data = json.loads(path.read_bytes())
            if isinstance(data, dict):
                _check_format(path, data.get("format", FORMAT))
            record = Record.model_validate(data)
        except (ValueError, OSError) as error:
            raise StoreError(
                f"{path} is corrupt or foreign ({_reason(error)}). Move {path.parent} away and run again."
            ) from None
        if record.cell != cell or record.spec.id != cell:
            raise StoreError(
                f"{path} belongs to another cell ({record.spec.id}). Move {path.parent} away and run again."
            )
        return record

    def rivals(self, cell: str) -> list[Record]:
        """Records of the same cell with other digests, which a merge kept beside the first."""
        paths = sorted(self.folder(cell).glob("record-*.json"))
        return [self._read(cell, path) for path in paths]

    def records(self) -> Iterator[Record]:
        """All records, in order of their ids."""
        cells = self.root / "cells"
        for folder in sorted(cells.iterdir()) if cells.is_dir() else ():
            if folder.is_dir() and (record := self.record(folder.name)):
                yield record

    def specs(self) -> Iterator[Spec]:
        """The specifications of all cells that were ever started."""
        for path in sorted(self.root.glob("cells/*/spec.json")):
            with suppress(ValueError, OSError):  # another version's, or half a disk's: nothing to go on from
                yield Spec.model_validate_json(path.read_bytes())

    def write(self, cell: str, name: str, content: bytes) -> None:
        """Writes a file of a cell: whole, or not at all."""
        folder = self.folder(cell)
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write(folder / name, content)

    def write_table(self, cell: str, name: str, table: "pd.DataFrame") -> str:
        """Writes a table of a cell as Parquet; the file's SHA-256, for the record."""
        content: bytes = table.to_parquet(index=False)
        self.write(cell, name, content)
        return hashlib.sha256(content).hexdigest()

    def read_table(self, cell: str, name: str) -> "pd.DataFrame":
        """A table of a cell; what its record was not written with is refused."""
        import pandas as pd

        path, record = self.folder(cell) / name, self.record(cell)
        expected = record.files.get(name) if record else None
        try:
            content = path.read_bytes()
            if expected and (found := hashlib.sha256(content).hexdigest()) != expected:
                raise ValueError(f"its SHA-256 is {found[:16]}..., not {expected[:16]}... as in the record")
            table = pd.read_parquet(io.BytesIO(content))
            if missing := [column for column in COLUMNS[name] if column not in table]:
                raise ValueError(f"it has no column {', '.join(missing)}")
        except Exception as error:  # broken files break readers in many ways, and one cure serves all
            raise StoreError(
                f"{path} is missing, corrupt or foreign ({_reason(error)}). Move {path.parent} away and run again."
            ) from None
        return table

    def ended(self, cell: str, failure: str = "") -> Record | None:
        """The record of a cell that has ended; none where it has failed, by the `failure` that is to be tried again."""
        record = self.record(cell)
        again = record is not None and record.outcome == "failed" and self.failure(cell) == failure
        return None if again else record

    def failure(self, cell: str) -> str:
        """What tells the failure of a cell from a later one: its record's SHA-256; "" where it has not failed."""
        record = self.record(cell)
        if record is None or record.outcome != "failed":
            return ""
        return hashlib.sha256((self.folder(cell) / "record.json").read_bytes()).hexdigest()

    def conclude(self, record: Record) -> Record:
        """Writes the record of a cell that is held, unless one as good is there; the one that stands.

        Only a failure is ever replaced.
        """
        there = self.record(record.cell)
        if there and there.outcome != "failed":
            return there
        self.write(record.cell, "record.json", record.model_dump_json(indent=1).encode())
        return record

    def claim(self, cell: str) -> Hold:
        """What to take a cell by, for whoever can wait for it."""
        folder = self.folder(cell)
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return Hold(folder, f"cell {cell}")

    @contextmanager
    def hold(self, cell: str) -> Iterator[Hold]:
        """Keeps everybody else from running the cell.

        Raises:
            HeldError: somebody has it.
        """
        hold = self.claim(cell)
        with _writing(hold.path):
            if not hold.take():
                raise hold.held()
        try:
            yield hold
        finally:
            hold.release()


def claim(folder: Path, mark: str, what: str) -> None:
    """Makes a folder for what bench writes, by a mark in it; one that holds anything else is left as it is.

    Raises:
        StoreError: the folder is somebody else's, or can't be written.
    """
    check_claim(folder, mark, what)
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / mark).exists():
            write(folder / mark, json.dumps({"format": FORMAT}).encode())


def check_claim(folder: Path, mark: str, what: str) -> None:
    """Refuses a folder that `claim` would refuse, before anything is computed for it.

    Raises:
        StoreError: it is neither new, nor empty, nor marked, or has a place among a run directory's cells.
    """
    place = folder.resolve()
    for above in place.parents:
        kept = place.relative_to(above).parts[0]
        if (kept == "cells" or (kept == TUNING and mark != MARK)) and (above / MARK).exists():
            raise StoreError(f"{folder} would lie among the {kept} of {above}. Give another folder with --out.")
    with _writing(folder):
        if not folder.exists():
            return
        strangers = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if strangers and not (folder / mark).exists():  # looked for last: another process may write it at this moment
        raise StoreError(
            f"{folder} is not empty and is no {what} (it has no {mark}, but {', '.join(strangers[:3])}"
            f"{', ...' if len(strangers) > 3 else ''}). Give another folder with --out."
        )


def write(path: Path, content: bytes) -> None:
    """Writes a file by renaming a finished one, synced first, so that a power cut leaves the old or the new."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _check_format(path: Path, found: object) -> None:
    if found != FORMAT:
        raise StoreError(
            f"{path} has format {found}; this bench reads {FORMAT}. "
            "Use the version of bench that wrote it, or give another --out."
        )


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}"
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = "the disk is full" if full else (error.strerror or str(error))
        todo = "Free some space and run the same command again" if full else "Give another folder with --out"
        raise StoreError(f"cannot write to {path}: {what}. {todo}; what is finished is kept.") from error
