"""The run directory says what is wrong with it, and a full disk loses nothing."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import bench
from bench.core.errors import HeldError, StoreError
from bench.core.records import Outcome
from bench.storage.store import Store

SMALL: dict[str, Any] = {"preset": "smoke", "iterations": 2, "threads": 1, "engine": "eager"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished") / "store"
    bench.run("sinusoid", "maml[meta_batch=2]", out=root, **SMALL)
    return root


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Store:
    return Store.open(shutil.copytree(finished, tmp_path / "store"))


@pytest.fixture
def cell(store: Store) -> str:
    return next(store.records()).cell


def load_message(store: Store) -> str:
    with pytest.raises(StoreError) as caught:
        bench.load(store.root)
    return str(caught.value)


def edited(store: Store, cell: str, **changes: Any) -> bytes:
    record = json.loads((store.folder(cell) / "record.json").read_bytes())
    return json.dumps(record | changes).encode()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"{}"])
def test_a_corrupt_record_is_named_and_said_how_to_mend(store: Store, cell: str, content: bytes) -> None:
    path = store.folder(cell) / "record.json"
    path.write_bytes(content)
    assert f"{path} is corrupt or foreign" in load_message(store)
    assert f"Move {path.parent} away and run again" in load_message(store)
    assert path.read_bytes() == content


@pytest.mark.parametrize(("changes", "field"), [({"outcome": "great"}, "outcome"), ({"stranger": 1}, "stranger")])
def test_a_record_that_breaks_its_schema_says_where(store: Store, cell: str, changes: Any, field: str) -> None:
    store.write(cell, "record.json", edited(store, cell, **changes))
    assert field in load_message(store)


def test_a_record_of_another_cell_is_refused(store: Store, cell: str) -> None:
    shutil.copytree(store.folder(cell), store.root / "cells" / "another")
    assert f"belongs to another cell ({cell})" in load_message(store)


def test_other_formats_are_refused(store: Store, cell: str) -> None:
    store.write(cell, "record.json", edited(store, cell, format=1))
    assert "format 1; this bench reads 2. Use the version of bench that wrote it" in load_message(store)
    (store.root / "store.json").write_text('{"format": 1}')
    with pytest.raises(StoreError, match="format 1; this bench reads 2"):
        Store.create(store.root)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"3"])
def test_a_corrupt_mark_is_refused(store: Store, content: bytes) -> None:
    (store.root / "store.json").write_bytes(content)
    assert "store.json is corrupt or foreign" in load_message(store)


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "missing"])
def test_damaged_scores_are_named(store: Store, cell: str, damage: str) -> None:
    path = store.folder(cell) / "scores.parquet"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:300])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "foreign":
        pd.DataFrame({"task": [1]}).to_parquet(path)
    else:
        path.unlink()
    assert f"{path} is missing, corrupt or foreign" in load_message(store)


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\x10\0\0\0\0\0\0\0{}"])
def test_a_corrupt_checkpoint_is_named(store: Store, cell: str, content: bytes) -> None:
    (store.folder(cell) / "record.json").unlink()
    path = store.folder(cell) / "checkpoint.safetensors"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"checkpoint\.safetensors is corrupt or foreign.*Remove it and run again"):
        bench.run("sinusoid", "maml[meta_batch=2]", out=store.root, **SMALL)
    assert path.read_bytes() == content


def test_a_stranger_among_the_specifications_is_passed_over(store: Store) -> None:
    for name, content in (("a", b"no json"), ("b", b"{}")):
        store.write(name, "spec.json", content)
    (store.root / "cells" / "c" / "spec.json").mkdir(parents=True)
    assert len(list(store.specs())) == 1


def test_a_folder_that_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match="is not empty and is no run directory"):
        Store.create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_a_killed_writer_left_does_not_block_a_new_store(tmp_path: Path) -> None:
    (tmp_path / ".store.json.123").write_text("{")
    assert Store.create(tmp_path).root == tmp_path


def test_a_path_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"Not a directory\. Give another folder with --out"):
        Store.create(tmp_path / "file" / "store")


def test_a_full_disk_leaves_the_old_file_whole(store: Store, cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.folder(cell) / "spec.json"
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match=r"the disk is full\. Free some space and run the same command again"):
        store.write(cell, "spec.json", b"new")
    assert path.read_bytes() == before
    assert not [left for left in path.parent.iterdir() if left.name.startswith(".")]


def test_a_run_that_met_a_full_disk_goes_on_once_there_is_space(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, content: bytes) -> None:
        if path.name == "scores.parquet":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        path.write_bytes(content)

    with monkeypatch.context() as full:
        full.setattr("bench.storage.store.write", write)
        with pytest.raises(StoreError, match="the disk is full"):
            bench.run("sinusoid", "maml[meta_batch=2]", out=tmp_path / "store", **SMALL)
    results = bench.run("sinusoid", "maml[meta_batch=2]", out=tmp_path / "store", **SMALL)
    [record], [whole] = results.store.records(), Store.open(finished).records()
    assert (record.pieces, record.digest) == (2, whole.digest)


def test_a_held_cell_says_who_holds_it(store: Store, cell: str) -> None:
    with (
        store.hold(cell),
        pytest.raises(HeldError, match=f"cell {cell} is being run by process {os.getpid()} on {os.uname().nodename}"),
        store.hold(cell),
    ):
        pass


def test_a_cell_is_free_again_after_an_error(store: Store, cell: str) -> None:
    with pytest.raises(RuntimeError), store.hold(cell):
        raise RuntimeError
    with store.hold(cell) as hold:
        hold.check()


@pytest.mark.parametrize("there", ["finished", "diverged"])
@pytest.mark.parametrize("late", ["finished", "diverged", "failed"])
def test_only_a_failure_is_ever_replaced(store: Store, cell: str, there: Outcome, late: Outcome) -> None:
    record = next(store.records())
    store.write(cell, "record.json", edited(store, cell, outcome="failed"))
    first = store.conclude(record.model_copy(update={"outcome": there}))
    path = store.folder(cell) / "record.json"
    before = path.read_bytes()
    assert first.outcome == there
    assert store.conclude(record.model_copy(update={"outcome": late, "digest": "other"})) == first
    assert path.read_bytes() == before


def test_a_failure_is_known_again_and_a_later_one_is_not(store: Store, cell: str) -> None:
    assert store.failure(cell) == ""
    assert store.ended(cell)
    store.write(cell, "record.json", edited(store, cell, outcome="failed", message="first"))
    first = store.failure(cell)
    assert store.ended(cell, first) is None
    store.conclude(next(store.records()).model_copy(update={"message": "second"}))
    ended = store.ended(cell, first)
    assert ended and ended.message == "second"
