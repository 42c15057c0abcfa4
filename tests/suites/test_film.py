"""Films are side by side, as long as the longest, and encoded; what is missing is named."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.core.errors import BenchError
from suites.parts import film

WHY = 'needs the extra "mujoco": pip install "meta-bench[mujoco]"'


def still(brightness: int) -> film.Frame:
    return np.full((film.HEIGHT, film.WIDTH, 3), brightness, dtype=np.uint8)


def test_the_shorter_film_holds_its_last_frame() -> None:
    pictures = list(film.side_by_side([[still(10), still(20)], [still(90)]], ["before", "after"]))
    assert len(pictures) == 2
    assert [int(picture[-1, 0, 0]) for picture in pictures] == [10, 20]
    assert [int(picture[-1, -1, 0]) for picture in pictures] == [90, 90]
    captions = pictures[0][: -film.HEIGHT]
    assert captions[:, : film.WIDTH].min() < 100 and captions[:, film.WIDTH :].min() < 100
    assert not np.array_equal(captions[:, : film.WIDTH], captions[:, film.WIDTH :])


def test_what_is_encoded_has_every_frame_in_its_order(tmp_path: Path) -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason=WHY)
    path = tmp_path / "film.mp4"
    film.encode(path, iter([still(30), still(120), still(220)]), 20)
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-loglevel",
        "error",
        "-i",
        path,
        "-f",
        "rawvideo",
        "-pix_fmt",
        "gray",
        "-",
    ]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    means = np.frombuffer(raw, dtype=np.uint8).reshape(-1, film.HEIGHT * film.WIDTH).mean(1)
    assert means == pytest.approx([30, 120, 220], abs=5)


def test_a_film_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason=WHY)
    with pytest.raises(BenchError, match="ffmpeg cannot write"):
        film.encode(tmp_path / "nowhere" / "film.mp4", iter([still(0)]), 20)


def test_draw_without_anything_to_draw_names_the_options(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["draw", str(tmp_path)])
    assert result.exit_code == 2
    assert "--video" in result.output and "--curves" in result.output
