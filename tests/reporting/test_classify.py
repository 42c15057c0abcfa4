"""`bench predict`: a learner names images that lie in folders."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import bench
from bench.cli import main
from suites.glyphs import drawings
from suites.omniglot import BACKGROUND, DATA, Omniglot, names
from suites.parts.photographs import ColourImages
from tests.conftest import ROOT

PROTOTYPES = ROOT / "tests" / "probes" / "prototypes.py"
PLUGIN = ["--plugin", str(PROTOTYPES)]
LETTERS = (3, 40, 200, 500, 900)  # glyphs that look unlike each other


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run directory with prototypes on glyphs, and its cell."""
    root = tmp_path_factory.mktemp("trained")
    frame = bench.run(
        "glyphs", "prototypes[meta_batch=4]", out=root, preset="smoke", iterations=30, threads=1, engine="eager",
        plugins=[PROTOTYPES],
    )  # fmt: skip
    return root, frame["cell"].iloc[0]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three drawings of each of five glyphs in folders, and two more of each to be named."""
    support, query = tmp_path / "support", tmp_path / "query"
    query.mkdir()
    for name, glyph in zip("edcba", LETTERS, strict=True):
        (support / name).mkdir(parents=True)
        for drawing in range(5):
            where = support / name / f"{drawing}.png" if drawing < 3 else query / f"{name}{drawing}.PNG"
            Image.fromarray(drawings()[glyph, drawing]).save(where)
    return support, query


def predict(trained: tuple[Path, str], support: Path, query: Path, *more: str, code: int = 0) -> str:
    root, cell = trained
    words = ["predict", str(root), "--cell", cell, "--support", str(support), "--query", str(query), *PLUGIN, *more]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == code, (done.output, done.exc_info)
    return done.output


@pytest.mark.slow
def test_images_are_named_with_a_probability_in_table_document_and_python(
    trained: tuple[Path, str], folders: tuple[Path, Path]
) -> None:
    document = json.loads(predict(trained, *folders, "--json"))
    [table] = document["tables"]
    rows = table["rows"]
    assert [row["file"] for row in rows] == sorted(f"{name}{i}.PNG" for name in "abcde" for i in (3, 4))
    assert sum(row["file"][0] == row["class"] for row in rows) >= 8
    assert all(0.2 < row["probability"] <= 1 for row in rows)
    assert any("normalised together" in line for line in document["said"])
    lines = predict(trained, *folders).splitlines()
    for row in rows:
        assert any(line.split() == [row["file"], row["class"], f"{row['probability']:.3f}"] for line in lines)
    frame = bench.predict(trained[0], trained[1], support=folders[0], query=folders[1], plugins=[PROTOTYPES])
    assert frame.to_dict("records") == rows


def too_few(support: Path, query: Path) -> None:
    for path in (support / "a").iterdir():
        path.unlink()


def too_many(support: Path, query: Path) -> None:
    (support / "f").mkdir()
    Image.new("L", (28, 28)).save(support / "f" / "0.png")


def stray(support: Path, query: Path) -> None:
    Image.new("L", (28, 28)).save(support / "stray.png")


def nothing(support: Path, query: Path) -> None:
    for path in query.iterdir():
        path.unlink()


def broken(support: Path, query: Path) -> None:
    (query / "a3.PNG").write_bytes((query / "a3.PNG").read_bytes()[:60])


def no_image(support: Path, query: Path) -> None:
    (support / "b" / "9.png").write_text("text")


def no_folder(support: Path, query: Path) -> None:
    for path in query.iterdir():
        path.unlink()
    query.rmdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (too_few, "images of 4 classes (b, c, d, e), but"),
        (too_many, "tells 5 apart"),
        (stray, "is in no class's folder"),
        (nothing, "holds no image to name"),
        (broken, "cannot read the image"),
        (no_image, "cannot read the image"),
        (no_folder, "is no folder"),
    ],
)
def test_folders_that_do_not_hold_what_they_must_are_refused(
    trained: tuple[Path, str], folders: tuple[Path, Path], damage: Callable[[Path, Path], None], message: str
) -> None:
    damage(*folders)
    assert message in predict(trained, *folders, code=2)


def test_other_sizes_and_kinds_of_files_and_hidden_ones_do_no_harm(
    trained: tuple[Path, str], folders: tuple[Path, Path]
) -> None:
    support, query = folders
    before = json.loads(predict(trained, *folders, "--json"))["tables"]
    (query / ".hidden.png").write_text("")
    (support / ".ipynb_checkpoints").mkdir()
    Image.new("L", (28, 28)).save(support / ".ipynb_checkpoints" / "0.png")
    (query / "notes.txt").write_text("")
    ink = Image.open(query / "a3.PNG")
    clear = Image.new("RGBA", ink.size, (0, 0, 0, 0))
    clear.putalpha(Image.eval(ink, lambda value: 255 - value))  # black ink on nothing
    clear.save(query / "a3.PNG")
    assert json.loads(predict(trained, *folders, "--json"))["tables"] == before
    Image.open(query / "c3.PNG").save(query / "c3.bmp")
    (query / "c3.PNG").unlink()
    Image.open(query / "b3.PNG").convert("RGB").resize((84, 60)).save(query / "b3.PNG")
    assert len(json.loads(predict(trained, *folders, "--json"))["tables"][0]["rows"]) == 10


def test_a_suite_that_reads_no_images_says_what_does(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    frame = bench.run("sinusoid", "maml", out=tmp_path / "run", preset="smoke", iterations=1, threads=1, engine="eager")
    message = predict((tmp_path / "run", frame["cell"].iloc[0]), *folders, code=2)
    assert "does not read image files. Suites that do: cifar_fs, fc100, glyphs, images, mini_imagenet" in message


def test_a_file_is_seen_as_the_suite_s_own_images_are(tmp_path: Path) -> None:
    glyph = drawings()[7, 0]
    Image.fromarray(glyph).save(tmp_path / "grey.png")
    seen = Omniglot().picture(tmp_path / "grey.png")
    torch.testing.assert_close(seen, 1 - torch.from_numpy(np.array(glyph)).float()[None] / 255)
    colours = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "colour.png")

    class Small(ColourImages):
        image_shape = (3, 32, 32)

    expected = torch.from_numpy(colours).permute(2, 0, 1).float() / 255
    torch.testing.assert_close(Small().picture(tmp_path / "colour.png"), expected)


@pytest.mark.slow
def test_a_file_of_omniglot_is_seen_as_the_data_set_s_own(
    tmp_path: Path, omniglot_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_DATA_DIR", str(omniglot_dir))
    name, content = next(DATA.files(BACKGROUND))
    (tmp_path / "file.png").write_bytes(content)
    assert name.rpartition("/")[0] == names()[0]
    own = 1 - torch.from_numpy(np.array(Omniglot().pixels[0, 0])).float() / 255
    torch.testing.assert_close(Omniglot().picture(tmp_path / "file.png")[0], own)
