"""miniImagenet and CIFAR-FS: the layouts that people have, read safely, and what is said where there are none."""

import hashlib
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from algorithms.maml import MAML
from bench.cli import main
from bench.core import seeds
from bench.core.errors import BenchError, DataError
from bench.core.outer import Adam
from bench.core.task import SuiteTask
from bench.core.types import Episode
from bench.learning.evaluate import manifest
from bench.learning.outer.descent import Descent
from suites import cifar_fs, mini_imagenet, tiny_imagenet
from suites.cifar_fs import CifarFS
from suites.fc100 import FC100
from suites.mini_imagenet import MiniImagenet
from suites.parts import photographs
from suites.parts.photographs import ColourImages
from suites.tiny_imagenet import TinyImagenet

EACH = 3  # photographs per class, of 600
SIZES = {"train": 64, "val": 16, "test": 20}


@pytest.fixture(autouse=True)
def few_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for suite in (ColourImages, TinyImagenet):
        monkeypatch.setattr(suite, "drawings_per_class", EACH)
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path / "cache"))
    mini_imagenet.pixels.cache_clear()
    cifar_fs.pixels.cache_clear()
    tiny_imagenet.pixels.cache_clear()


def colours(count: int, side: int) -> NDArray[np.uint8]:
    """Plain images [count, EACH, side, side, 3] of which no two are alike."""
    codes = np.arange(count * EACH).reshape(count, EACH)
    plain = np.stack([codes % 256, codes // 256, codes % 7], -1)[:, :, None, None]
    return np.broadcast_to(plain, (count, EACH, side, side, 3)).astype(np.uint8)


def mini(folder: Path, layout: str) -> NDArray[np.uint8]:
    folder.mkdir(parents=True)
    images, names = colours(100, 84), [f"n{i:08d}" for i in range(100)]
    first = 0
    for split, size in SIZES.items():
        labels = names[first : first + size]
        if layout == "csv":
            (folder / "images").mkdir(exist_ok=True)
            lines = ["filename,label"]
            for i, label in enumerate(labels, first):
                for k in range(EACH):
                    file = f"{label}{k:05d}.png"
                    Image.fromarray(images[i, k]).save(folder / "images" / file)
                    lines.append(f"{file},{label}")
            (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
        else:
            rows = {label: [EACH * i + k for k in range(EACH)] for i, label in enumerate(labels)}
            content = {"image_data": images[first : first + size].reshape(-1, 84, 84, 3), "class_dict": rows}
            (folder / f"mini-imagenet-cache-{split}.pkl").write_bytes(pickle.dumps(content, protocol=2))
        first += size
    return images


@pytest.mark.parametrize("layout", ["csv", "pickles"])
def test_both_layouts_of_mini_imagenet_are_read_and_cached(layout: str, tmp_path: Path) -> None:
    images = mini(tmp_path / "data" / "mini_imagenet", layout)
    found = MiniImagenet(queries=1).pixels
    assert np.array_equal(found, images.transpose(0, 1, 4, 2, 3))
    mini_imagenet.pixels.cache_clear()
    assert isinstance(MiniImagenet(queries=1).pixels, np.memmap)
    assert len(list((tmp_path / "cache" / "mini_imagenet").glob("*.npy"))) == 1


@pytest.mark.parametrize("below", ["tiny-imagenet-200", "."])
def test_tiny_imagenet_is_read_and_split_by_the_names_of_its_classes(tmp_path: Path, below: str) -> None:
    images, names = colours(200, 64), [f"n{i:08d}" for i in range(200)]
    for name, some in zip(names, images, strict=True):
        place = tmp_path / "data" / "tiny_imagenet" / below / "train" / name / "images"
        place.mkdir(parents=True)
        for k, image in enumerate(some):
            Image.fromarray(image).save(place / f"{name}_{k}.JPEG", "png")
    ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    order = [name for part in (ranked[:128], ranked[128:160], ranked[160:]) for name in sorted(part)]
    suite = TinyImagenet(queries=1)
    assert np.array_equal(suite.pixels, images[[names.index(name) for name in order]].transpose(0, 1, 4, 2, 3))
    assert [suite.classes_of(split)[[0, -1]].tolist() for split in ("train", "validation", "test")] == [
        [0, 127], [128, 159], [160, 199]
    ]  # fmt: skip
    tiny_imagenet.pixels.cache_clear()
    (place / f"{name}_0.JPEG").unlink()
    with pytest.raises(DataError, match="has 200 classes, of 200, and 1 of them do not have 3 images"):
        TinyImagenet(queries=1).pixels  # noqa: B018
    with pytest.raises(DataError, match=r"may not be passed on.*tiny-imagenet-200"):
        photographs.array("elsewhere", (3, 64, 64), {"tiny-imagenet-200/": lambda _: []}, TinyImagenet)


def test_both_layouts_of_cifar_fs_are_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = sorted(cifar_fs.split_of())
    images = colours(100, 32)
    source = tmp_path / "data" / "cifar_fs" / "cifar-100-python"
    source.mkdir(parents=True)
    (source / "meta").write_bytes(pickle.dumps({"fine_label_names": names}, protocol=2))
    rows = images.transpose(0, 1, 4, 2, 3).reshape(100, EACH, -1)
    for part, which in (("train", slice(0, 2)), ("test", slice(2, 3))):
        data = rows[:, which].reshape(-1, rows.shape[-1])
        labels = np.repeat(np.arange(100), len(data) // 100).tolist()
        files = [f"{number:04}.png" for _ in range(100) for number in range(*which.indices(EACH))]
        content = {"data": data, "fine_labels": labels, "filenames": files}
        (source / part).write_bytes(pickle.dumps(content, protocol=2))
    python = np.array(CifarFS(queries=1).pixels)

    other = tmp_path / "other"
    for name, some in zip(names, images, strict=True):
        (other / "cifar_fs" / "data" / name).mkdir(parents=True)
        for k, image in enumerate(some):
            Image.fromarray(image).save(other / "cifar_fs" / "data" / name / f"{k:04}.png")
    packed = tmp_path / "packed"
    (packed / "cifar_fs").mkdir(parents=True)
    with zipfile.ZipFile(packed / "cifar_fs" / "cifar-100.zip", "w") as archive:
        for path in (other / "cifar_fs" / "data").rglob("*.png"):
            archive.write(path, f"{'test' if path.stem < '0001' else 'train'}/{path.parent.name}/{path.name}")
    for root in (other, packed):
        monkeypatch.setenv("BENCH_DATA_DIR", str(root))
        cifar_fs.pixels.cache_clear()
        assert np.array_equal(CifarFS(queries=1).pixels, python)
    first_test = names.index(min(n for n, split in cifar_fs.split_of().items() if split == "test"))
    assert np.array_equal(python[80], images[first_test].transpose(0, 3, 1, 2))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("core", ["numpy._core.", "numpy.core."])
def test_arrays_of_every_protocol_of_either_numpy_are_read_as_they_were(
    tmp_path: Path, protocol: int, core: str
) -> None:
    images = colours(4, 5)
    content = {
        "image_data": images,
        "fortran": np.asfortranarray(images[0, 0].astype(np.float32)),
        "strided": images[::2, :, 1:],
        "empty": images[:0],
        "scalar": np.float64(0.5),
        "raw": bytearray(b"ab"),
        "class_dict": OrderedDict(a=[0, 1], b=np.arange(3)),
    }
    written = pickle.dumps(content, protocol=protocol)
    if core == "numpy.core." and b"numpy._core." in written and protocol < 4:  # whose names have no stated length
        written = written.replace(b"numpy._core.", b"numpy.core.")
    (tmp_path / "some.pkl").write_bytes(written)
    found = photographs.unpickle(tmp_path / "some.pkl")
    assert list(found) == list(content)
    for name in ("image_data", "fortran", "strided", "empty", "scalar"):
        assert np.array_equal(found[name], content[name]) and found[name].dtype == content[name].dtype
    assert bytes(found["raw"]) == b"ab" and found["class_dict"]["a"] == [0, 1]


@pytest.mark.parametrize("cut", [1, 10, 100, 1000])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_damaged_pickle_is_refused_in_a_sentence(tmp_path: Path, protocol: int, cut: int) -> None:
    written = pickle.dumps({"image_data": colours(4, 5)}, protocol=protocol)
    for damaged in (written[:-cut], written[:cut] + b"\xff" + written[cut + 1 :], b"\x80\x05" + written[cut:]):
        (tmp_path / "some.pkl").write_bytes(damaged)
        try:
            photographs.unpickle(tmp_path / "some.pkl")  # a changed pixel is none of a pickle's business
        except DataError as error:
            assert "cannot read" in str(error)


class Reducing:
    """What a pickle says of itself is a call of something that a protocol-5 array needs."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    "hostile",
    [
        Reducing(np.frombuffer, b"ab", "O"),
        Reducing(eval, "1"),
        Reducing(bytes.fromhex, "00"),
        Reducing(np.load, "nowhere"),
        Reducing(np._core.numeric._frombuffer, b"12345678", np.dtype("O"), (1,), "C"),
    ],
)
def test_nothing_but_arrays_is_called_in_protocol_5_either(tmp_path: Path, hostile: Any) -> None:
    (tmp_path / "some.pkl").write_bytes(pickle.dumps({"x": hostile}, protocol=5))
    with pytest.raises(DataError, match="cannot read"):
        photographs.unpickle(tmp_path / "some.pkl")


@pytest.mark.parametrize(
    ("suite", "name"), [(MiniImagenet, "mini_imagenet"), (CifarFS, "cifar_fs"), (TinyImagenet, "tiny_imagenet")]
)
@pytest.mark.parametrize("shots", [1, 5])
def test_manifests_are_the_published_ones(
    suite: type[ColourImages], name: str, shots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ColourImages, "drawings_per_class", 600)
    monkeypatch.setattr(TinyImagenet, "drawings_per_class", 500)
    made = suite(shots=shots)
    for split in ("test", "validation"):
        assert f"{made.setting}/{split}" in made.manifests
        manifest(made, name, split)  # type: ignore[arg-type]


def test_fc100_splits_the_same_photographs_by_superclass() -> None:
    own = {split: FC100(queries=1).classes_of(split) for split in ("train", "validation", "test")}
    assert [len(classes) for classes in own.values()] == [60, 20, 20]
    assert torch.cat(list(own.values())).unique().tolist() == list(range(100))
    tested = {FC100(queries=1).kinds[number] for number in own["test"]}
    assert {"man", "woman", "bee", "dolphin", "skunk"} <= tested
    assert not {"bus", "lion", "crab"} & tested


def test_cifar_fs_has_the_published_sizes() -> None:
    splits = list(cifar_fs.split_of().values())
    assert [splits.count(name) for name in photographs.SPLITS] == [64, 16, 20]


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_that_would_run_code_is_refused_and_does_not(tmp_path: Path) -> None:
    mini(folder := tmp_path / "data" / "mini_imagenet", "pickles")
    (folder / "mini-imagenet-cache-val.pkl").write_bytes(pickle.dumps(Hostile(tmp_path / "ran")))
    with pytest.raises(DataError, match="it would call"):
        _ = MiniImagenet(queries=1).pixels
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suite", [MiniImagenet(queries=1), CifarFS(queries=1)])
def test_without_data_it_says_how_to_get_it(suite: ColourImages, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--data-dir") as caught:
        _ = suite.pixels
    assert "may not be passed on" in str(caught.value)
    (tmp_path / "data" / ("mini_imagenet" if isinstance(suite, MiniImagenet) else "cifar_fs")).mkdir(parents=True)
    with pytest.raises(DataError, match=r"nothing in .* is"):
        _ = suite.pixels


def test_missing_photographs_are_told(tmp_path: Path) -> None:
    mini(folder := tmp_path / "data" / "mini_imagenet", "csv")
    lines = (folder / "val.csv").read_text().splitlines()
    (folder / "val.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(DataError, match="1 of them do not have 3 images"):
        _ = MiniImagenet(queries=1).pixels
    (folder / "images" / lines[1].split(",")[0]).unlink()
    with pytest.raises(DataError, match="cannot read the image"):
        _ = MiniImagenet(queries=1).pixels


def test_photographs_are_not_turned_and_the_net_learns_from_them() -> None:
    suite = CifarFS(shots=1, queries=1, ways=3).stand_in()
    tasks = suite.sample(2, "train", seeds.generator(0))
    assert not tasks.turns.any()
    data = suite.look_up(tasks, "support")
    assert data.images.shape == (2, 3, 3, 32, 32)
    one = type(data)(data.images[0], data.labels[0])
    params, task = suite.new_params(seeds.generator(0)), SuiteTask(suite)
    algorithm = MAML(inner_lr=0.001, steps=1, outer_lr=0.001, meta_batch=2)
    assert task.loss(algorithm.step(params, params, task, one, 0), one) < task.loss(params, one)


def test_the_rate_is_in_our_units_and_too_many_drawings_are_refused() -> None:
    assert MiniImagenet(queries=1).protocol["inner_lr"].value == pytest.approx(0.05)
    with pytest.raises(BenchError, match="drawings"):
        MiniImagenet(shots=3, queries=1)


def test_entries_of_the_meta_gradient_are_cut_as_the_protocol_says() -> None:
    assert MiniImagenet(queries=1).clip == 10.0
    rule = Descent(Adam(0.001), {"w": torch.zeros(2)}, [], clip=10.0)
    rule.update({"w": torch.tensor([-200.0, 3.0])}, Episode((), ()), 0, lambda: (torch.zeros(()), {}))
    assert rule.memory[0]["exp_avg"].tolist() == pytest.approx([-1.0, 0.3])  # Adam's mean after one step: a tenth


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["csv", "pickles"])
def test_verification_reads_what_lies_there_and_not_what_is_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    monkeypatch.setattr(ColourImages, "drawings_per_class", 16)
    monkeypatch.setitem(globals(), "EACH", 16)
    mini(tmp_path / "data" / "mini_imagenet", layout)

    def verify() -> Any:
        mini_imagenet.pixels.cache_clear()
        return CliRunner().invoke(main, ["data", "verify", "mini_imagenet"])

    mini_imagenet.pixels()
    other = verify()
    assert other.exit_code == 1 and "WRONG test tasks" in other.output  # published for 600 photographs of each class
    monkeypatch.setattr(MiniImagenet, "manifests", {})
    sound = verify()
    assert (sound.exit_code, sound.output.count("ok ")) == (0, 2)
    victim = next(path for path in sorted((tmp_path / "data").rglob("*")) if path.suffix in (".png", ".pkl"))
    content = bytearray(victim.read_bytes())  # of the same size, so that the cache does not notice
    content[: len(content) // 2] = bytes(len(content) // 2)
    victim.write_bytes(content)
    damaged = verify()
    assert damaged.exit_code == 2 and str(victim) in damaged.output
