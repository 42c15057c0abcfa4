"""What of a run directory goes elsewhere: results, compact enough to be committed, and checkpoints of unfinished cells.

A compact store is a run directory like any other, which `bench load`, `report`, `audit` and `merge` read: records,
scores before adapting and at the report steps, by other metrics than the headline at the last of them, curves and, of
small networks, what was learned. Nothing is rounded and
digests stay; what is left out are the other inner steps, logs, and what only going on would need. So it is no place to
go on from, and checkpoints of what is unfinished lie in `unfinished/`, a run directory within it.
"""

import hashlib
import io
import re
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from bench.cells.restore import label
from bench.core.errors import BenchError, StoreError, unknown
from bench.core.records import Record, Spec
from bench.learning.training import bare, opened
from bench.storage.merge import UNFINISHED, Merged, merge
from bench.storage.store import META, Store, write

PLACE = "unfinished"  # within a compact store
SMALL = 64 * 1024  # bytes of what was learned, up to which it comes along
MOST = 1 << 30  # bytes of a file in an archive
NAMES = re.compile(rf"cells/([0-9a-f]{{16}})/({'|'.join(map(re.escape, UNFINISHED))})")


def compact(source: Path, to: Path, cells: Sequence[str] = ()) -> Iterator[Merged]:
    """Adds the results of a run directory to a compact one, as `merge` does, telling what became of each cell.

    Finished and diverged cells go to the store itself, checkpoints of cells that have not ended to `unfinished/` in it,
    from which they go when they have. Failed cells are left where they are.

    Args:
        source: the run directory.
        to: the compact store.
        cells: ids; all by default.

    Raises:
        BenchError: a cell does not exist or has results that differ, or as `merge`.
    """
    store = Store.open(source)
    with TemporaryDirectory() as folder:
        done, begun = (Store.create(Path(folder) / name) for name in ("done", "begun"))
        for cell in _chosen(store, cells):
            record = store.record(cell)
            if record is None:
                _begun(store, begun, cell)
            elif store.rivals(cell):
                raise BenchError(
                    f"{cell} ({label(record.spec)}) has results that differ, which `bench audit {source}` tells of. "
                    "Name the others with --cells."
                )
            elif record.outcome != "failed":
                _shrunk(store, done, record)
        moved = [*merge([done.root], to)]
        moved += merge([begun.root], to / PLACE) if any(begun.specs()) or (to / PLACE).exists() else []
        _tidied(Store.open(to))
    yield from (each._replace(source=source) for each in moved)


def pack(source: Path, file: Path, cells: Sequence[str] = ()) -> list[str]:
    """Writes the checkpoints of a run directory's unfinished cells to one file, for `unpack`; what they are, in words.

    Raises:
        BenchError: there is none, or a cell that was named does not exist or has ended.
    """
    store, packed = Store.open(source), io.BytesIO()
    chosen = [cell for cell in _chosen(store, cells) if _unfinished(store, cell)]
    if over := [cell for cell in cells if cell not in chosen]:
        raise BenchError(f"{', '.join(over)}: ended, or not begun. Name cells of {source} that are unfinished.")
    if not chosen:
        raise BenchError(f"{source} holds no unfinished cell with a checkpoint: there is nothing to carry.")
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for cell in chosen:
            for name in UNFINISHED:
                if (path := store.folder(cell) / name).exists():
                    archive.writestr(f"cells/{cell}/{name}", path.read_bytes())
    write(file, packed.getvalue())
    return [_said(store, cell) for cell in chosen]


def unpack(file: Path, into: Path) -> Iterator[Merged]:
    """Brings what `pack` wrote into a run directory, where the command that began the cells goes on.

    Raises:
        BenchError: the file is no such archive, damaged or edited, or as `merge`.
    """
    if not file.is_file():
        raise BenchError(f"there is no file {file}. `bench export RUN --checkpoints FILE` writes one.")
    with TemporaryDirectory() as folder:
        carried = Store.create(Path(folder) / "carried")
        try:
            with zipfile.ZipFile(file) as archive:
                for entry in archive.infolist():
                    found = NAMES.fullmatch(entry.filename)
                    if found is None or entry.file_size > MOST:
                        raise ValueError(f"it holds {entry.filename!r} of {entry.file_size:,} bytes")
                    carried.write(found[1], found[2], archive.read(entry))
            for path in sorted((carried.root / "cells").glob("*")):
                spec = Spec.model_validate_json((path / "spec.json").read_bytes())
                if spec.id != path.name:
                    raise ValueError(f"the specification of {path.name} is that of {spec.id}")
                opened((path / "checkpoint.safetensors").read_bytes(), spec.trajectory)
        except Exception as error:  # broken files break readers in many ways
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise StoreError(
                f"{file} is not what `bench export --checkpoints` writes, or damaged ({reason}). Carry it over again."
            ) from None
        moved = [*merge([carried.root], into)]
    yield from (each._replace(source=file) for each in moved)


def _chosen(store: Store, cells: Sequence[str]) -> list[str]:
    held = sorted(folder.name for folder in (store.root / "cells").glob("*/"))
    for cell in cells:
        if cell not in held:
            raise unknown(f"cell of {store.root}", cell, held)
    return list(cells or held)


def _unfinished(store: Store, cell: str) -> bool:
    needed = (store.folder(cell) / name for name in ("spec.json", "checkpoint.safetensors"))
    return store.record(cell) is None and all(path.exists() for path in needed)


def _said(store: Store, cell: str) -> str:
    spec = Spec.model_validate_json((store.folder(cell) / "spec.json").read_bytes())
    content = (store.folder(cell) / "checkpoint.safetensors").read_bytes()
    done = opened(content, spec.trajectory)[1]["iteration"]
    return f"{cell} ({label(spec)}): {done:,} of {spec.iterations:,} meta-iterations"


def _begun(source: Store, target: Store, cell: str) -> None:
    if _unfinished(source, cell):
        for name in ("spec.json", "checkpoint.safetensors"):
            target.write(cell, name, (source.folder(cell) / name).read_bytes())


def _shrunk(source: Store, target: Store, record: Record) -> None:
    """Writes a cell as small as it gets without losing a digit of what stays."""
    cell, spec, files = record.cell, record.spec, {}
    for name in record.files:
        table = source.read_table(cell, name)
        if name == "scores.parquet":
            steps, headline = record.judgement.report_steps, table["metric"] == record.judgement.headline.name
            table = table[(headline & table["step"].isin([0, 1, *steps])) | (table["step"] == steps[-1])]
        content = _compressed(table)
        target.write(cell, name, content)
        files[name] = hashlib.sha256(content).hexdigest()
    target.write(cell, "spec.json", spec.model_dump_json(indent=1).encode())
    found = [path for name in (META, "checkpoint.safetensors") if (path := source.folder(cell) / name).exists()]
    if record.outcome == "finished" and found:
        learned = bare(found[0].read_bytes(), spec.trajectory, spec.selection == "best")
        if len(learned) <= SMALL:
            target.write(cell, META, learned)
    made = record.model_copy(update={"files": files})
    target.write(cell, "record.json", made.model_dump_json().encode())


def _compressed(table: pd.DataFrame) -> bytes:
    numbers = [name for name in table if table[name].dtype == "float64"]
    content: bytes = table.to_parquet(
        index=False,
        compression="zstd",
        compression_level=19,
        use_dictionary=[name for name in table if name not in numbers],
        column_encoding=dict.fromkeys(numbers, "BYTE_STREAM_SPLIT"),  # bytes of like weight lie together
    )
    return content


def _tidied(store: Store) -> None:
    """Drops the checkpoints of cells that have ended."""
    for folder in (store.root / PLACE / "cells").glob("*/"):
        if store.record(folder.name):
            shutil.rmtree(folder)
