"""The Omniglot loader: fixed splits without the data, and the real drawings where at hand."""

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.core.errors import BenchError, DataError
from suites import omniglot

SPLITS = ("train", "validation", "test")


def sha256(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def test_there_are_1623_names_in_order_of_folder_alphabet_character() -> None:
    names = omniglot.names()
    assert len(names) == len(set(names)) == 1623
    assert list(names) == sorted(names, key=lambda name: name.split("/"))
    assert names[0] == "images_background/Alphabet_of_the_Magi/character01"


def test_shipped_file_follows_the_rule_in_its_first_line() -> None:
    rule = omniglot.CHARACTERS.read_text(encoding="utf-8").splitlines()[0]
    assert rule.startswith("#")
    assert "SHA-256" in rule
    names = omniglot.names()
    shuffled = sorted(names, key=sha256)
    parts = (shuffled[:1100], shuffled[1100:1200], shuffled[1200:])
    for split, expected in zip(SPLITS, parts, strict=True):
        indices = omniglot.split_indices(split, by="character")
        assert {names[i] for i in indices} == set(expected)


@pytest.mark.parametrize(
    ("by", "sizes"), [("character", (1100, 100, 423)), ("alphabet", (827, 137, 659)), ("vinyals", (1028, 172, 423))]
)
def test_splits_share_nothing_and_leave_nothing_out(by: str, sizes: tuple[int, ...]) -> None:
    splits = [omniglot.split_indices(split, by) for split in SPLITS]
    assert tuple(len(split) for split in splits) == sizes
    np.testing.assert_array_equal(np.sort(np.concatenate(splits)), np.arange(1623))
    for split in splits:
        assert split.dtype == np.int64
        assert (np.diff(split) > 0).all()


def test_splits_by_alphabet_share_no_alphabet_and_test_is_the_evaluation_set() -> None:
    names = omniglot.names()
    parts = {
        split: {tuple(names[i].split("/")[:2]) for i in omniglot.split_indices(split, "alphabet")} for split in SPLITS
    }
    assert [len({alphabet for _, alphabet in parts[split]}) for split in SPLITS] == [25, 5, 20]
    assert len({alphabet for part in parts.values() for _, alphabet in part}) == 50
    assert {folder for folder, _ in parts["test"]} == {"images_evaluation"}
    background = parts["train"] | parts["validation"]
    assert {folder for folder, _ in background} == {"images_background"}
    first = sorted((alphabet for _, alphabet in background), key=sha256)[:5]
    assert {alphabet for _, alphabet in parts["validation"]} == set(first)


def test_the_split_of_vinyals_names_its_source_and_is_its() -> None:
    first, *_ = omniglot.VINYALS.read_text(encoding="utf-8").splitlines()
    assert "github.com/jakesnell/prototypical-networks (c9bb4d2" in first
    names = omniglot.names()
    test = {names[i].split("/", 1)[1] for i in omniglot.split_indices("test", "vinyals")}
    assert {"Gurmukhi/character42", "Gurmukhi/character45"} <= test  # which that file begins with


@pytest.mark.parametrize(
    ("split", "by", "nearest"),
    [("valid", "character", "validation"), ("train", "alphabets", "alphabet")],
)
def test_unknown_split_names_the_nearest(split: str, by: str, nearest: str) -> None:
    with pytest.raises(BenchError, match=f"Did you mean '{nearest}'"):
        omniglot.split_indices(split, by)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the real data, with a cache of its own that starts empty."""
    shared = Path(__file__).parents[3] / "shared" / "data"
    place = Path(os.environ.get("BENCH_DATA_DIR") or shared)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_DATA_DIR", str(place))
        patch.setenv("BENCH_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        try:
            omniglot.DATA.fetch()  # from that folder only, never from the network
        except DataError:
            pytest.skip("real Omniglot not found: set BENCH_DATA_DIR")
        yield place


@pytest.fixture(scope="module")
def drawings(real: Path) -> NDArray[np.uint8]:
    return omniglot.drawings()


@pytest.mark.slow
def test_real_archives_have_their_content_hash(real: Path) -> None:
    rows = omniglot.DATA.verify()
    assert [(row.name, row.files, row.ok) for row in rows] == [
        ("images_background", 964 * 20, True),
        ("images_evaluation", 659 * 20, True),
    ]


@pytest.mark.slow
def test_real_drawings_are_dark_on_light(drawings: NDArray[np.uint8]) -> None:
    assert drawings.shape == (1623, 20, 28, 28)
    assert drawings.dtype == np.uint8
    assert np.median(drawings) == 255
    assert drawings.min() == 0
    assert drawings.min(axis=(2, 3)).max() < 128  # no drawing is blank


@pytest.mark.slow
def test_real_drawings_are_in_order_of_name_and_file(drawings: NDArray[np.uint8]) -> None:
    import io

    from PIL import Image

    names = omniglot.names()
    wanted = {0: 0, 700: 7, 964: 0, 1622: 19}
    for archive in omniglot.DATA.archives:
        files = dict(omniglot.DATA.files(archive))
        for character, drawing in wanted.items():
            if names[character].startswith(archive.name):
                path = sorted(path for path in files if path.startswith(f"{names[character]}/"))
                assert path[drawing].endswith(f"_{drawing + 1:02}.png")
                image = Image.open(io.BytesIO(files[path[drawing]])).convert("L")
                small = np.asarray(image.resize((28, 28), Image.Resampling.LANCZOS))
                np.testing.assert_array_equal(drawings[character, drawing], small)


@pytest.mark.slow
def test_real_drawings_are_the_same_on_every_machine(drawings: NDArray[np.uint8]) -> None:
    # If a new Pillow resizes otherwise, scores no longer compare: raise `version` and say so.
    assert hashlib.sha256(drawings.tobytes()).hexdigest() == (
        "064c72a352f9e549c13af971be4d08e06ad22a438a17d630f7131a03ee0665c2"
    )


@pytest.mark.slow
def test_second_load_takes_less_than_a_fifth_of_a_second_and_no_archives(
    drawings: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path))  # empty
    start = time.perf_counter()
    again = omniglot.drawings()
    seconds = time.perf_counter() - start
    np.testing.assert_array_equal(again, drawings)
    assert seconds < 0.2


@pytest.mark.parametrize("change", ["fewer", "more", "fewer drawings"])
def test_archives_that_disagree_with_the_shipped_file_are_refused(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.new("1", (105, 105)).save(buffer, "png")
    names = ("images_background/A/character01", "images_background/A/character02")
    monkeypatch.setattr(omniglot, "names", lambda: names)
    characters = {"fewer": names[:1], "more": (*names, "images_background/A/character03")}
    drawn = 19 if change == "fewer drawings" else 20

    class Fake:
        name = "omniglot"
        archives = (omniglot.BACKGROUND,)

        def files(self, archive: Any) -> Iterator[tuple[str, bytes]]:
            for character in characters.get(change, names):
                for drawing in range(drawn):
                    yield f"{character}/{drawing:02}.png", buffer.getvalue()

    monkeypatch.setattr(omniglot, "DATA", Fake())
    with pytest.raises(DataError, match="do not hold 20 drawings of each character"):
        omniglot._read_drawings()
