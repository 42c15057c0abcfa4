"""Moving pictures of MuJoCo without a screen: frames of recorded positions, encoded by ffmpeg."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.core.errors import BenchError, MissingExtraError

Frame = NDArray[np.uint8]  # [height, width, 3]
WIDTH, HEIGHT = 480, 320


def frames(model: Any, positions: NDArray[np.float64], camera: str = "track") -> Iterator[Frame]:
    """A picture for each of the positions [H, Q].

    Raises:
        BenchError: there is neither EGL nor OSMesa to draw with.
    """
    renderer, data = _renderer(model)
    try:
        for position in positions:
            data.qpos[:] = position
            renderer.mujoco.mj_forward(model, data)
            renderer.drawer.update_scene(data, camera)
            renderer.drawer.scene.flags[renderer.mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
            yield renderer.drawer.render()
    finally:
        renderer.drawer.close()


class _Renderer:
    def __init__(self, mujoco: Any, drawer: Any) -> None:
        self.mujoco, self.drawer = mujoco, drawer


def _renderer(model: Any) -> tuple[_Renderer, Any]:
    import mujoco

    model.vis.quality.offsamples = model.vis.quality.shadowsize = 0  # a software renderer takes minutes over them
    try:
        return _Renderer(mujoco, mujoco.Renderer(model, HEIGHT, WIDTH)), mujoco.MjData(model)
    except Exception as error:  # GL fails in as many ways as there are drivers
        raise BenchError(
            f"cannot draw without a screen by {os.environ.get('MUJOCO_GL', 'glfw')} ({type(error).__name__}: {error}). "
            "Install EGL (Debian: libegl1 libgl1-mesa-dri), or OSMesa (libosmesa6) and set MUJOCO_GL=osmesa."
        ) from None


def side_by_side(panels: Sequence[Sequence[Frame]], captions: Sequence[str]) -> Iterator[Frame]:
    """Frames of several films at once, each under its caption; a shorter one holds its last frame."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(16)
    bars = []
    for caption in captions:
        bar = Image.new("RGB", (WIDTH, 32), "white")
        ImageDraw.Draw(bar).text((8, 6), caption, "black", font)
        bars.append(np.asarray(bar))
    for i in range(max(map(len, panels))):
        columns = [np.concatenate([bar, film[min(i, len(film) - 1)]]) for bar, film in zip(bars, panels, strict=True)]
        yield np.concatenate(columns, 1)


def encode(path: Path, pictures: Iterator[Frame], rate: float) -> None:
    """Writes pictures, `rate` a second, as H.264.

    Raises:
        BenchError: ffmpeg is missing or fails.
    """
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ModuleNotFoundError:
        raise MissingExtraError("imageio-ffmpeg", "mujoco") from None
    try:
        program = get_ffmpeg_exe()
    except RuntimeError:
        raise BenchError("there is no ffmpeg. Install it (Debian: ffmpeg), or set IMAGEIO_FFMPEG_EXE.") from None
    first = next(pictures)
    size = f"{first.shape[1]}x{first.shape[0]}"
    command = [
        program, "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", f"{rate:g}",
        "-i", "-", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(path),
    ]  # fmt: skip
    frames_ = b"".join(np.ascontiguousarray(picture).tobytes() for picture in (first, *pictures))
    done = subprocess.run(command, input=frames_, capture_output=True, check=False)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise BenchError(f"ffmpeg cannot write {path}: {reason[-1] if reason else done.returncode}.")
