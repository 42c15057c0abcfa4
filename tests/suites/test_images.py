"""Images of somebody's own: whatever the layout, they are read alike; what is broken is left out and told."""

import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import bench
from bench.core import seeds
from bench.core.errors import DataError
from reports.sheet import draw
from suites.images import OwnImages
from tests.conftest import bench as command

CLASSES, EACH = 12, 6


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("BENCH_DATA_DIR", raising=False)


def picture(kind: int, number: int) -> Image.Image:
    values = np.random.default_rng((kind, number)).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    values[:4, :4] = (20 * kind, 20 * number, 7)
    return Image.fromarray(values)


def folders(root: Path, of: Callable[[int], str] = lambda kind: f"kind {kind:02}") -> Path:
    for kind in range(CLASSES):
        for number in range(EACH):
            path = root / of(kind) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(kind, number).save(path)
    return root


def suite(folder: object, **others: Any) -> OwnImages:
    small = {"ways": 2, "shots": 1, "queries": 2, "size": 16, "validation": 0.25, "test": 0.25}
    return OwnImages(folder=str(folder), **small | others)


def names(of: OwnImages, split: Any) -> list[str]:
    return [of.kinds[number] for number in of.classes_of(split)]


def zipped(root: Path, file: Path) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(root.rglob("*.*")):
            archive.write(path, f"{root.name}/{path.relative_to(root)}")
    return file


def listed(root: Path, split: bool = False) -> Path:
    rows = ["filename,label,split" if split else "Path, Class"]
    for path in sorted(root.rglob("*.png")):
        own = ("train", "val", "test")[int(path.parent.name[-2:]) % 3]
        rows.append(f"{path.relative_to(root)},{path.parent.name}{f',{own}' if split else ''}")
    (root / "list.csv").write_text("\n".join(rows))
    return root / "list.csv"


def test_a_folder_a_zip_of_it_and_a_list_are_the_same_images_and_tasks(tmp_path: Path) -> None:
    root = folders(tmp_path / "photos")
    plain, packed = suite(root), suite(zipped(root, tmp_path / "photos.zip"))
    by_list = suite(listed(folders(tmp_path / "other")))
    assert plain.found[0].content == packed.found[0].content == by_list.found[0].content
    tasks = [s.sample(5, "test", seeds.generator(1)) for s in (plain, packed, by_list)]
    for other in tasks[1:]:
        assert all(torch.equal(a, b) for a, b in zip(tasks[0], other, strict=True))
    assert np.array_equal(plain.pixels, packed.pixels)
    assert plain.found[0].content[:12] in plain.setting


def test_classes_are_split_by_the_hash_of_their_names_and_none_stands_in_two(tmp_path: Path) -> None:
    found = suite(folders(tmp_path / "photos"))
    split = {name: names(found, name) for name in ("train", "validation", "test")}
    assert [len(own) for own in split.values()] == [6, 3, 3]
    assert sorted(name for own in split.values() for name in own) == found.kinds
    renamed = suite(folders(tmp_path / "moved" / "deeper" / "photos"))
    assert {name: names(renamed, name) for name in split} == split


def test_split_folders_and_a_column_of_the_list_say_the_split(tmp_path: Path) -> None:
    words = ("train", "val", "test")
    by_folder = suite(folders(tmp_path / "photos", lambda kind: f"{words[kind % 3]}/kind {kind:02}"))
    by_column = suite(listed(folders(tmp_path / "other"), split=True))
    for found in (by_folder, by_column):
        assert names(found, "validation") == [f"kind {kind:02}" for kind in range(1, CLASSES, 3)]
        assert names(found, "test") == [f"kind {kind:02}" for kind in range(2, CLASSES, 3)]


def test_a_validation_split_that_nobody_gives_is_taken_from_the_training_classes(tmp_path: Path) -> None:
    found = suite(folders(tmp_path / "photos", lambda kind: f"{'test' if kind < 4 else 'train'}/kind {kind:02}"))
    assert names(found, "test") == [f"kind {kind:02}" for kind in range(4)]
    assert (len(names(found, "train")), len(names(found, "validation"))) == (6, 2)


def test_within_the_same_classes_no_image_stands_in_two_splits(tmp_path: Path) -> None:
    found = suite(folders(tmp_path / "photos"), split="within", queries=1, validation=0.34, test=0.34)
    pools = found.pools
    images = {split: set(pool.images.flatten().tolist()) for split, pool in pools.items()}
    assert all(names(found, split) == found.kinds for split in pools)
    assert sum(map(len, images.values())) == len(set.union(*images.values())) == CLASSES * EACH
    assert "same classes" in found.setting and "other images of the classes" in found.caveat


def test_a_task_shows_its_classes_own_images_each_once(tmp_path: Path) -> None:
    root = folders(tmp_path / "photos")
    for number in range(EACH, 9):
        picture(1, number).save(root / "kind 01" / f"{number}.png")  # a class with more than others
    found = suite(root, shots=2, queries=3)
    tasks = found.sample(200, "train", seeds.generator(0))
    labels = torch.tensor(found.found[0].labels)
    assert torch.equal(labels[tasks.drawings], tasks.classes.unsqueeze(-1).expand_as(tasks.drawings))
    assert all(len(set(row.tolist())) == 5 for row in tasks.drawings.flatten(0, 1))
    support, query = found.look_up(tasks, "support"), found.look_up(tasks, "query")
    assert support.images.shape == (200, 4, 3, 16, 16) and query.images.shape == (200, 6, 3, 16, 16)
    shown = (support.images[3, 0] * 255).round().to(torch.uint8)
    assert np.array_equal(shown.numpy(), found.pixels[tasks.drawings[3, 0, 0]])


MODES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "L": lambda image: image.convert("L"),
    "P": lambda image: image.convert("P"),
    "1": lambda image: image.convert("1"),
    "RGBA": lambda image: image.convert("RGBA"),
    "LA": lambda image: image.convert("LA"),
    "I;16": lambda image: Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257),
}


@pytest.mark.parametrize("mode", MODES)
def test_an_image_of_any_mode_looks_as_it_does_in_colour(tmp_path: Path, mode: str) -> None:
    root = folders(tmp_path / "photos")
    grey = picture(3, 0).resize((16, 16)).convert("1").convert("L")
    other = MODES[mode](grey.convert("RGB"))
    assert other.mode == mode
    other.save(root / "kind 03" / "0.png")
    found = suite(root)
    seen = found.pixels[found.found[0].files.index("kind 03/0.png")]
    assert np.abs(seen.astype(int) - np.asarray(grey.convert("RGB")).transpose(2, 0, 1)).max() <= 1


def test_a_photograph_is_turned_as_the_camera_noted(tmp_path: Path) -> None:
    root = folders(tmp_path / "photos")
    image, exif = picture(3, 0).resize((16, 16)), Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image.rotate(90, expand=True).save(root / "kind 03" / "0.png", exif=exif)
    found = suite(root)
    seen = found.pixels[found.found[0].files.index("kind 03/0.png")]
    assert np.array_equal(seen, np.asarray(image).transpose(2, 0, 1))


def bomb(path: Path) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows)


def test_what_cannot_be_read_and_classes_with_too_little_are_left_out_and_told(tmp_path: Path) -> None:
    root = folders(tmp_path / "photos")
    (root / "kind 04" / "text.jpg").write_text("not an image")
    cut = (root / "kind 05" / "0.png").read_bytes()
    (root / "kind 05" / "cut.png").write_bytes(cut[: len(cut) // 2])
    bomb(root / "kind 06" / "bomb.png")
    picture(0, 0).save(root / "loose.png")
    (root / "few").mkdir()
    picture(0, 0).save(root / "few" / "0.png")
    (root / "notes.txt").write_text("nothing")
    found = suite(root)
    assert set(found.found[0].dropped) == {"kind 04/text.jpg", "kind 05/cut.png", "kind 06/bomb.png", "loose.png"}
    assert found.found[0].dropped["kind 04/text.jpg"] == "no image"
    assert found.found[0].dropped["kind 06/bomb.png"] == "too many pixels"
    assert found.few == ["few"]
    assert "1 of 13 classes left out, with too few images (few); 4 files left out (" in found.caveat


def test_what_a_list_says_twice_counts_once(tmp_path: Path) -> None:
    root = folders(tmp_path / "photos")
    os.mkfifo(root / "pipe.gif")
    rows = listed(root).read_text().splitlines()[1:]
    again = written(root / "again.csv", "\n".join(["\npath,class", *rows, rows[0], "pipe.gif,few"]))
    found = suite(again).found[0]
    assert len(found.labels) == CLASSES * EACH
    assert found.dropped == {"pipe.gif": "not there"}


def test_the_name_of_a_class_says_nothing_to_a_terminal(tmp_path: Path) -> None:
    root = folders(tmp_path / "photos")
    (root / "kind 00").rename(root / "kind\n\x1b[31m")
    assert r"kind\n\x1b[31m" in suite(root).kinds


def hostile(path: Path, name: str, size: int | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"x")
        if size:
            archive.filelist[0].file_size = size
    return path


def hollow(path: Path) -> Path:
    """An empty zip among images."""
    folders(path.parent)
    zipfile.ZipFile(path, "w").close()
    return path


def empty(path: Path) -> Path:
    path.mkdir()
    return path


def one(path: Path) -> Path:
    (path / "alone").mkdir(parents=True)
    for number in range(8):
        picture(0, number).save(path / "alone" / f"{number}.png")
    return path


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def overlapping(path: Path) -> Path:
    for split in ("train", "test"):
        folders(path / split)
    return path


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing there": (lambda t: t / "nowhere", "there is no .*nowhere"),
    "an empty folder": (lambda t: empty(t / "a"), "no image in a class folder"),
    "one class": (lambda t: one(t / "a"), r"has 1 classes, .* A 2-way task needs 2 in every split. .*split=within"),
    "a text": (lambda t: written(t / "a.txt", "x"), "neither a folder nor"),
    "no zip": (lambda t: written(t / "a.zip", "x"), "truncated, damaged or no zip"),
    "a zip that climbs out": (lambda t: hostile(t / "a.zip", "../c/a.png"), "climbs out of its folder"),
    "a zip of nothing": (lambda t: hollow(t / "a.zip"), "no image in a class folder"),
    "a zip bomb": (lambda t: hostile(t / "a.zip", "c/a.png", 2**40), "unpacks to|damaged"),
    "a list without a header": (lambda t: written(t / "a.csv", "c/a.png,cat\n"), "has no header .* Write path,class"),
    "an empty list": (lambda t: written(t / "a.csv", ""), "has no header"),
    "a list that leads out": (lambda t: written(t / "a.csv", "path,class\n../a.png,cat\n"), "leads out of its folder"),
    "a list with an absolute path": (lambda t: written(t / "a.csv", "path,class\n/a.png,cat\n"), "leads out"),
    "a list with a hole": (lambda t: written(t / "a.csv", "path,class\na.png,\n"), "line 2 of the list"),
    "a list with an image of two classes": (
        lambda t: written(t / "a.csv", "path,class\na.png,cat\n./a.png,dog\n"),
        "line 3 of the list has './a.png' again",
    ),
    "a list of what is not there": (lambda t: written(t / "a.csv", "path,class\na.png,cat\n"), "has 0 classes"),
    "the same classes in each split": (lambda t: overlapping(t / "a"), "more than one split .*split=within"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_use_is_told_with_the_way_out(tmp_path: Path, what: str) -> None:
    make, said = BAD[what]
    with pytest.raises(DataError, match=said):
        _ = suite(make(tmp_path)).pools


def test_the_command_says_what_would_be_used_and_refuses_before_anything_trains(tmp_path: Path) -> None:
    root = folders(tmp_path / "photos")
    (root / "kind 04" / "text.jpg").write_text("not an image")
    told = command("data", "check", "images[folder=photos,ways=2,queries=2,size=16]").output
    assert "left out: kind 04/text.jpg: no image" in told
    assert "train" in told and "48" in told
    refused = command("run", "--suite", "images[folder=photos,ways=4,queries=2]", "--algos", "maml", code=2)
    assert "A 4-way task needs 4 in every split" in refused.output
    assert "no folder was given" in command("run", "--suite", "images", "--algos", "maml", code=2).output
    command("show", "images[folder=photos,ways=2,queries=2,size=16]", "--sheet", "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 1_000


def test_unbalanced_queries_are_as_many_as_small_classes_have_room_for(tmp_path: Path) -> None:
    found = suite(folders(tmp_path / "photos"), queries="dirichlet")
    tasks = found.sample(20, "test", seeds.generator("test"))
    counts = torch.stack([(tasks.labels == label).sum(1) for label in range(2)])
    room = int(found.pools["test"].counts.min()) - 1
    assert room >= counts.max() > counts.min()
    every = torch.cat([tasks.drawings.flatten(1), tasks.shown], 1)
    assert all(len(set(own)) == len(own) for own in every.tolist())
    with pytest.raises(DataError, match=r"at least 3 images each .* larger shares validation and test"):
        _ = suite(tmp_path / "photos", queries="dirichlet", split="within").pools


def test_an_image_to_be_named_is_seen_as_those_of_the_folder_are(tmp_path: Path) -> None:
    root = folders(tmp_path / "photos")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(3, 1).save(root / "kind 03" / "0.webp", exif=turned, lossless=True)
    found = suite(root)
    seen = found.picture(root / "kind 03" / "0.webp")
    known = torch.from_numpy(found.pixels[found.found[0].files.index("kind 03/0.webp")])
    torch.testing.assert_close(seen, known.float() / 255)


def test_a_sheet_s_title_is_whole_however_long(tmp_path: Path) -> None:
    title = f"images[{','.join(f'parameter{i}=value' for i in range(12))}]"
    draw(suite(folders(tmp_path / "photos")).sheet(), title, tmp_path / "sheet.png")
    top = np.asarray(Image.open(tmp_path / "sheet.png").convert("L"))[:60]
    assert top.min() < 128
    assert top[:, -8:].min() == 255


@pytest.mark.slow
def test_a_run_on_images_cut_and_gone_on_with_ends_with_the_same_digest(tmp_path: Path) -> None:
    folders(tmp_path / "photos")
    text = "images[folder=photos,ways=2,queries=2,size=16]"
    options: dict[str, Any] = {"preset": "smoke", "threads": 1, "engine": "eager"}
    bench.run(text, "maml", iterations=3, out="cut", **options)
    cut, whole = (bench.run(text, "maml", iterations=6, out=out, **options).store.records() for out in ("cut", "whole"))
    assert {record.digest for record in cut if record.spec.iterations == 6} == {record.digest for record in whole}
