"""Several run directories -> one: nothing is overwritten, and what contradicts is kept side by side."""

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from bench.core.errors import BenchError
from bench.core.records import Record
from bench.storage.store import COLUMNS, META, TUNING, Store, write

UNFINISHED = ("spec.json", "log.txt", "checkpoint.safetensors")


class Merged(NamedTuple):
    """What became of one cell of one source."""

    cell: str
    source: Path
    what: Literal["copied", "equal", "differs", "kept"]
    message: str = ""


def merge(sources: Sequence[Path], into: Path, cells: Collection[str] | None = None) -> Iterator[Merged]:
    """Brings the cells of run directories into one, telling what became of each.

    A finished cell is taken where the target has none or an unfinished or failed one, a checkpoint where the target's
    is not as far. Where both have a result and the
    digests are equal, the target's stays; where they differ, both stay: the other as record-<digest>.json beside
    record.json, its tables likewise. Trials and sweeps in `tuning/` come along, without their journals: `bench tune`
    proposes the same trials again and finds them done. Sources are only read. With `cells`, these alone are brought.

    Raises:
        StoreError: a source is no run directory or of another format, a file is corrupt, or a cell of the target is
            being run.
    """
    if len({path.resolve() for path in sources}) < len(sources):
        raise BenchError(f"{', '.join(map(str, sources))}: one is given twice. Name different run directories.")
    others = [path for path in sources if path.resolve() != into.resolve()]
    if not others:
        raise BenchError(f"{into} is all there is to merge, into itself. Name another run directory: bench merge A B.")
    for path in others:
        if into.resolve().is_relative_to(path.resolve()) or path.resolve().is_relative_to(into.resolve()):
            raise BenchError(f"of {path} and {into} one lies within the other. Merge into a folder beside them.")
    stores = [Store.open(path) for path in sources]
    for store in stores:
        for _ in store.records():  # what is corrupt shows before anything is copied
            pass
    target = Store.create(into)
    for store in stores:
        if store.root.resolve() != target.root.resolve():
            for folder in sorted((store.root / "cells").glob("*/")):
                if cells is None or folder.name in cells:
                    yield _one(store, target, folder.name)
    if cells is not None:
        return
    tunings = [store.root / TUNING for store in stores if (store.root / TUNING).is_dir()]
    if any(path.parent.resolve() != into.resolve() for path in tunings):
        yield from merge(tunings, into / TUNING)
        for path in (path for tuning in tunings for path in sorted(tuning.glob("*/s*.json"))):
            kept = into / TUNING / path.parent.name / path.name
            if not kept.exists():
                kept.parent.mkdir(exist_ok=True)
                write(kept, path.read_bytes())


def _one(source: Store, target: Store, cell: str) -> Merged:
    new = source.record(cell)
    with target.hold(cell):
        old = target.record(cell)
        if new is None:
            return _unfinished(source, target, cell)
        if old is None or (old.outcome == "failed" and new.outcome != "failed"):
            _copy(source, target, cell, (*UNFINISHED, *COLUMNS, META, "record.json"))
            _rivals(source, target, cell, new)
            return Merged(cell, source.root, "copied")
        if new.outcome == "failed" or _result(new) == _result(old):
            _rivals(source, target, cell, old)
            return Merged(cell, source.root, "equal" if _result(new) == _result(old) else "kept", _failed(new))
        _beside(source, target, cell, new, "")
        _rivals(source, target, cell, old)
        return Merged(cell, source.root, "differs", f"{_shown(old)} and {_shown(new)}: both are kept")


def _unfinished(source: Store, target: Store, cell: str) -> Merged:
    new, old = (iteration_of(store.folder(cell) / "checkpoint.safetensors") for store in (source, target))
    if target.record(cell) or (old >= 0 and new <= old):
        return Merged(cell, source.root, "kept", "unfinished there")
    if old >= 0:
        _copy(source, target, cell, ("checkpoint.safetensors",))
        return Merged(cell, source.root, "copied", f"unfinished, at {new:,} meta-iterations instead of {old:,}")
    _copy(source, target, cell, UNFINISHED)
    return Merged(cell, source.root, "copied", "unfinished: the command that began it goes on")


def iteration_of(checkpoint: Path) -> int:
    """The meta-iterations of a checkpoint; -1 where there is none that can be read."""
    from safetensors import safe_open

    with suppress(Exception), safe_open(checkpoint, "np") as file:
        return int(json.loads(file.metadata()["state"])["iteration"])
    return -1


def _rivals(source: Store, target: Store, cell: str, first: Record) -> None:
    """What an earlier merge kept beside the source's record."""
    for rival in source.rivals(cell):
        if _result(rival) != _result(first):
            _beside(source, target, cell, rival, f"-{_name(rival)}")


def _beside(source: Store, target: Store, cell: str, record: Record, suffix: str) -> None:
    """Writes a second result of a cell under names that its digest makes; the record last."""
    for name in (*COLUMNS, "record.json"):
        stem, _, extension = name.partition(".")
        path = source.folder(cell) / f"{stem}{suffix}.{extension}"
        if path.exists():
            target.write(cell, f"{stem}-{_name(record)}.{extension}", path.read_bytes())


def _copy(source: Store, target: Store, cell: str, names: Sequence[str]) -> None:
    for name in names:
        path = source.folder(cell) / name
        if path.exists():
            target.write(cell, name, path.read_bytes())


def _name(record: Record) -> str:
    return record.digest[:16] or record.outcome


def _result(record: Record) -> tuple[str, str, int]:
    return record.outcome, record.digest, record.stopped_at


def _failed(record: Record) -> str:
    return f"failed there: {record.message}" if record.outcome == "failed" else ""


def _shown(record: Record) -> str:
    where = f"{record.environment.get('host', 'an unknown host')}, torch {record.environment.get('torch', 'unknown')}"
    return f"{record.outcome} {record.digest[:12]} ({where})"
