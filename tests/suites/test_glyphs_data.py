"""The glyphs: what ships, that no two characters look alike, and that the drawings are fixed."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bench.core.errors import DataError
from suites import glyphs

EVERY = [glyphs.split_indices(split) for split in glyphs.SPLITS]


@pytest.fixture(scope="module")
def asset() -> dict[str, np.ndarray]:
    with np.load(glyphs.ASSET) as arrays:
        return dict(arrays)


def test_shipped_file_is_small_and_as_hashed() -> None:
    content = glyphs.ASSET.read_bytes()
    assert len(content) < 2_000_000
    assert hashlib.sha256(content).hexdigest() == glyphs.SHA256


@pytest.mark.parametrize("content", [None, b"another file"])
def test_another_file_is_refused_with_what_to_do(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "glyphs.npz"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(glyphs, "ASSET", path)
    with pytest.raises(DataError, match="Reinstall"):
        glyphs._asset.__wrapped__()


def test_every_character_has_two_to_six_faces_and_the_licences_travel_along(
    asset: dict[str, np.ndarray],
) -> None:
    assert asset["faces"].min() >= 2
    assert asset["faces"].max() <= 6
    assert asset["faces"].sum() == len(asset["ink"]) == len(asset["fonts"])
    dejavu, stix = asset["licences"]
    assert "Bitstream Vera" in dejavu
    assert "SIL OPEN FONT LICENSE" in stix


def test_splits_share_no_script_and_leave_no_character_out() -> None:
    scripts = glyphs.scripts()
    np.testing.assert_array_equal(np.sort(np.concatenate(EVERY)), np.arange(len(scripts)))
    train, validation, test = ({scripts[i] for i in indices} for indices in EVERY)
    assert not train & validation
    assert not train & test
    assert not validation & test
    fractions = [len(indices) / len(scripts) for indices in EVERY]
    assert fractions == pytest.approx([0.69, 0.07, 0.24], abs=0.01)
    assert len(scripts) >= 1200


def test_unknown_split_names_the_allowed() -> None:
    with pytest.raises(ValueError, match="train, validation, test"):
        glyphs.split_indices("training")


@pytest.mark.parametrize("alike", ["AΑАᴀ", "OoΟοОоՕ", "cCсС", "HНΗ", "xXхХΧ", "unՍՈ"])
def test_of_homoglyphs_one_at_most_stays(alike: str, asset: dict[str, np.ndarray]) -> None:
    assert sum(ord(character) in asset["codepoints"] for character in alike) <= 1


def test_latin_capital_a_stays_and_its_greek_and_cyrillic_doubles_go(
    asset: dict[str, np.ndarray],
) -> None:
    assert [ord(one) in asset["codepoints"] for one in "AΑА"] == [True, False, False]


def test_no_two_characters_look_alike_in_a_shared_face_even_turned(
    asset: dict[str, np.ndarray],
) -> None:
    owner = torch.from_numpy(np.repeat(np.arange(len(asset["faces"])), asset["faces"]))
    pictures = torch.from_numpy(asset["ink"]).float()
    tap = torch.exp(-(torch.arange(-3.0, 4.0) ** 2) / (2 * 0.7**2))
    blurred = F.conv2d(pictures[:, None], torch.outer(tap, tap)[None, None], padding=3)[:, 0]
    total, shared = torch.zeros(2, len(asset["faces"]), len(asset["faces"]))
    for font in range(len(asset["font_names"])):
        mine = torch.from_numpy(asset["fonts"] == font)
        rows, ink = owner[mine], blurred[mine]
        turns = [F.normalize(torch.rot90(ink, turn, (1, 2)).flatten(1)) for turn in range(4)]
        nearest = 1 - torch.stack([turns[0] @ turned.T for turned in turns]).amax(0)
        nearest.fill_diagonal_(1)
        assert nearest.min() > 0.0399
        total[rows[:, None], rows] += nearest
        shared[rows[:, None], rows] += 1
    assert shared.min() >= 1
    assert (total / shared).min() > 0.0799


def test_drawings_are_twenty_distinct_dark_on_white() -> None:
    drawings = glyphs.drawings()
    assert drawings.dtype == np.uint8
    assert drawings.shape == (len(glyphs.scripts()), 20, 28, 28)
    assert len(np.unique(drawings.reshape(-1, 28 * 28), axis=0)) == 20 * len(drawings)
    assert np.median(drawings) == 255
    darkest = drawings.min(axis=(2, 3))
    assert (darkest < 200).all()
    assert np.median(darkest) < 10


def test_drawings_are_computed_once_and_the_same_when_computed_again() -> None:
    assert glyphs.drawings() is glyphs.drawings()
    np.testing.assert_array_equal(glyphs.drawings(), glyphs.drawings.__wrapped__())


def test_drawings_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    glyphs.drawings.__wrapped__()
    assert torch.equal(before, torch.get_rng_state())


def test_few_drawings_touch_the_border() -> None:
    drawings = glyphs.drawings()
    border = np.minimum(drawings[..., [0, -1], :].min((2, 3)), drawings[..., [0, -1]].min((2, 3)))
    assert (border < 128).mean() < 0.02
