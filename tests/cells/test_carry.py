"""Results are carried without losing a digit, and an unfinished cell goes on elsewhere to the same digest."""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bench
from bench.cells.carry import PLACE, compact, pack, unpack
from bench.core.errors import BenchError, StoreError
from bench.storage.audit import audit
from bench.storage.merge import iteration_of, merge
from bench.storage.store import META, Store

ALGORITHM = "maml[meta_batch=2]"
SMALL: dict[str, Any] = {"preset": "smoke", "threads": 1, "engine": "eager"}
BOUND = 60_000  # bytes of a cell without what it learned


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished") / "run"
    bench.run("sinusoid", [ALGORITHM, "scratch[inner_lr=0.01]"], out=root, iterations=20, **SMALL)
    return root


def cut(root: Path, iterations: int = 2_000, seconds: float = 0.2) -> str:
    """A run that its time limit cut; its cell."""
    bench.run("sinusoid", ALGORITHM, out=root, iterations=iterations, time_limit=seconds, **SMALL)
    [spec] = Store.open(root).specs()
    return spec.id


def done(store: Path, cell: str) -> int:
    return iteration_of(store / "cells" / cell / "checkpoint.safetensors")


def digests(root: Path) -> list[str]:
    return [record.digest for record in Store.open(root).records()]


def test_a_compact_store_holds_every_digit_that_is_reported(finished: Path, tmp_path: Path) -> None:
    assert [each.what for each in compact(finished, tmp_path / "small")] == ["copied", "copied"]
    before, after = bench.load(finished), bench.load(tmp_path / "small")
    kept = before[before["step"].isin([0, 1, 5, 10])].reset_index(drop=True)
    assert set(before["step"]) > set(after["step"])
    assert after.equals(kept)
    assert digests(tmp_path / "small") == digests(finished)
    assert audit(Store.open(tmp_path / "small")) == audit(Store.open(finished))
    assert [each.what for each in compact(finished, tmp_path / "small")] == ["equal", "equal"]
    assert [each.what for each in merge([tmp_path / "small"], tmp_path / "merged")] == ["copied", "copied"]
    assert bench.load(tmp_path / "merged").equals(after)


@pytest.mark.slow
def test_other_metrics_than_the_headline_are_kept_at_the_last_report_step(tmp_path: Path) -> None:
    frame = bench.run("glyphs[ways=2]", ALGORITHM, out=tmp_path / "run", iterations=2, **SMALL)
    list(compact(tmp_path / "run", tmp_path / "small"))
    steps = bench.load(tmp_path / "small").groupby("metric")["step"].unique()
    assert {name: set(found) for name, found in steps.items()} == {"accuracy": {0, 1, 3}, "loss": {3}, "ece": {3}}
    page = bench.report(tmp_path / "small")
    assert "ece" in page.read_text()
    assert set(frame["step"]) > {0, 1, 3}


def test_what_a_small_network_learned_comes_along(finished: Path, tmp_path: Path) -> None:
    list(compact(finished, tmp_path / "small"))
    list(merge([tmp_path / "small"], tmp_path / "merged"))
    cell = next(record.cell for record in Store.open(finished).records() if record.spec.algorithm.name == "maml")
    x = torch.linspace(-1, 1, 5).unsqueeze(1)
    answers = [bench.load(root).learner(cell).adapt((x, x))(x) for root in (finished, tmp_path / "merged")]
    assert torch.equal(*answers)
    content = (tmp_path / "small" / "cells" / cell / META).stat().st_size
    assert content < (finished / "cells" / cell / "checkpoint.safetensors").stat().st_size / 2


def test_nothing_goes_on_from_what_was_only_learned(finished: Path, tmp_path: Path) -> None:
    list(compact(finished, tmp_path / "small"))
    longer = {"iterations": 40, **SMALL}
    bench.run("sinusoid", ALGORITHM, out=tmp_path / "small", **longer)  # without Adam's memory it would end elsewhere
    bench.run("sinusoid", ALGORITHM, out=tmp_path / "anew", **longer)
    assert set(digests(tmp_path / "anew")) <= set(digests(tmp_path / "small"))


def test_results_that_differ_are_not_hidden(finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(finished, root)
    cell = next(record.cell for record in Store.open(root).records())
    folder = root / "cells" / cell
    (folder / "record-ffff.json").write_bytes((folder / "record.json").read_bytes())
    with pytest.raises(BenchError, match=f"{cell} .* has results that differ"):
        list(compact(root, tmp_path / "small"))


@pytest.mark.slow
def test_checkpoints_wait_in_their_own_place_until_their_cells_have_ended(tmp_path: Path) -> None:
    cell = cut(tmp_path / "run", iterations=300)
    assert [each.what for each in compact(tmp_path / "run", tmp_path / "small")] == ["copied"]
    waiting = tmp_path / "small" / PLACE
    assert done(waiting, cell) == done(tmp_path / "run", cell) > 0
    assert len(bench.load(tmp_path / "small")) == 0
    list(merge([waiting], tmp_path / "elsewhere"))
    bench.run("sinusoid", ALGORITHM, out=tmp_path / "elsewhere", iterations=300, **SMALL)
    list(compact(tmp_path / "elsewhere", tmp_path / "small"))
    assert not (waiting / "cells" / cell).exists()
    assert digests(tmp_path / "small") == digests(tmp_path / "elsewhere")


def test_the_further_checkpoint_stays(tmp_path: Path) -> None:
    cell = cut(tmp_path / "near")
    shutil.copytree(tmp_path / "near", tmp_path / "far")
    cut(tmp_path / "far")
    near, far = (done(tmp_path / name, cell) for name in ("near", "far"))
    assert 0 < near < far
    [kept] = merge([tmp_path / "near"], tmp_path / "far")
    assert (kept.what, done(tmp_path / "far", cell)) == ("kept", far)
    [taken] = merge([tmp_path / "far"], tmp_path / "near")
    assert taken.message == f"unfinished, at {far:,} meta-iterations instead of {near:,}"
    assert done(tmp_path / "near", cell) == far


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_killed_here_it_goes_on_elsewhere_to_the_same_digest(tmp_path: Path) -> None:
    here, there, file = tmp_path / "here", tmp_path / "there", tmp_path / "carried.zip"
    words = ["run", "--suite", "sinusoid", "--algos", ALGORITHM, "--preset", "smoke", "--iterations", "600"]
    words = [sys.executable, "-m", "bench", *words, "--threads", "1", "--engine", "eager", "--out"]
    running = subprocess.Popen(
        [*words, str(here)], env={**os.environ, "BENCH_SAVE_EVERY": "0.05"}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 60
    while not list(here.glob("cells/*/checkpoint.safetensors")) and time.monotonic() < until:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert digests(here) == []
    [said] = pack(here, file)
    assert "of 600 meta-iterations" in said
    shutil.rmtree(here)
    assert [each.what for each in unpack(file, there)] == ["copied"]
    for root in (there, tmp_path / "whole"):
        subprocess.run([*words, str(root)], check=True, capture_output=True)
    assert digests(there) == digests(tmp_path / "whole")
    [record] = Store.open(there).records()
    assert record.pieces > 1


def test_only_what_is_unfinished_is_packed(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no unfinished cell"):
        pack(finished, tmp_path / "file.zip")
    cell = next(record.cell for record in Store.open(finished).records())
    with pytest.raises(BenchError, match=f"{cell}: ended, or not begun"):
        pack(finished, tmp_path / "file.zip", [cell])
    with pytest.raises(BenchError, match=r"unknown cell of .* 'abc'"):
        pack(finished, tmp_path / "file.zip", ["abc"])
    assert not (tmp_path / "file.zip").exists()


def test_a_file_that_is_damaged_edited_or_something_else_is_refused(tmp_path: Path) -> None:
    cell = cut(tmp_path / "run")
    pack(tmp_path / "run", tmp_path / "good.zip")
    content = (tmp_path / "good.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "good.zip") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    checkpoint = f"cells/{cell}/checkpoint.safetensors"
    edited = bytearray(entries[checkpoint])
    edited[-1] ^= 1
    others = {
        "cut.zip": content[: len(content) // 2],
        "text.zip": b"no archive",
        "edited.zip": entries | {checkpoint: bytes(edited)},
        "outside.zip": entries | {"cells/../../escaped.json": b"{}"},
        "other.zip": {name.replace(cell, "0" * 16): each for name, each in entries.items()},
        "partial.zip": {checkpoint: entries[checkpoint]},
    }
    for name, other in others.items():
        if isinstance(other, bytes):
            (tmp_path / name).write_bytes(other)
        else:
            with zipfile.ZipFile(tmp_path / name, "w") as archive:
                for entry, each in other.items():
                    archive.writestr(entry, each)
        with pytest.raises(StoreError, match=f"{name} is not what `bench export --checkpoints` writes, or damaged"):
            list(unpack(tmp_path / name, tmp_path / "into"))
    with pytest.raises(BenchError, match=r"there is no file .*absent\.zip"):
        list(unpack(tmp_path / "absent.zip", tmp_path / "into"))
    assert not (tmp_path / "into").exists()
    assert not list(tmp_path.parent.glob("**/escaped.json"))


def test_a_cell_is_small(tmp_path: Path) -> None:
    """As many scores and rows as the longest of them: 600 tasks in three settings, 1,400 rows of the curve."""
    root = tmp_path / "run"
    bench.run("sinusoid", "scratch[inner_lr=0.01]", out=root, **{**SMALL, "preset": "quick"})
    list(compact(root, tmp_path / "small"))
    [folder] = (tmp_path / "small" / "cells").iterdir()
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size < BOUND - 20_000  # for the curve
    assert np.isfinite(bench.load(tmp_path / "small")["value"]).all()
