"""Images and videos as files, and sheets of images."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dexjax.core.errors import DataError


def write_png(path: str | Path, image: np.ndarray) -> None:
    """Write an (H, W, 3) uint8 image."""
    try:
        Image.fromarray(_checked(image)).save(path, format="PNG", optimize=True)
    except OSError as error:
        raise DataError(f"{path}: cannot write the image: {error.strerror or error}") from error


def write_mp4(path: str | Path, frames: Iterable[np.ndarray], fps: float = 30.0) -> Path:
    """Write equally large (H, W, 3) uint8 frames as H.264; odd sizes lose one row or column.

    Returns the file written: where there is no ffmpeg at all, an animated .gif beside it. Raises
    DataError where there are no frames, or frames of several sizes, or ffmpeg fails.
    """
    program = _ffmpeg()
    if program is None:
        return _write_gif(Path(path).with_suffix(".gif"), frames, fps)
    writer: subprocess.Popen[bytes] | None = None
    size = (0, 0)
    try:
        for frame in frames:
            frame = _checked(frame)
            height, width = (s - s % 2 for s in frame.shape[:2])  # yuv420 needs even sizes
            if writer is None:
                size = (width, height)
                writer = _start_ffmpeg(program, Path(path), size, fps)
            if (width, height) != size:
                raise DataError(f"{path}: frame of {width}x{height} after frames of {size}")
            assert writer.stdin is not None
            writer.stdin.write(np.ascontiguousarray(frame[:height, :width]).tobytes())
        if writer is None:
            raise DataError(f"{path}: no frames to write")
    except BrokenPipeError:
        pass  # ffmpeg has given up; its message is read below
    finally:
        message = b"" if writer is None else writer.communicate()[1]
    if writer is not None and writer.returncode:
        reason = message.decode(errors="replace").strip() or f"exit code {writer.returncode}"
        raise DataError(f"{path}: ffmpeg could not write the video ({reason[-300:]})")
    return Path(path)


def _ffmpeg() -> str | None:
    """Path of the ffmpeg program; None, with a line that says so, where there is none."""
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        print(f"no ffmpeg ({str(error).splitlines()[0]}): writing a .gif instead of a video")
        return None


def _write_gif(path: Path, frames: Iterable[np.ndarray], fps: float) -> Path:
    images = [Image.fromarray(_checked(f)) for f in frames]
    if not images:
        raise DataError(f"{path}: no frames to write")
    try:
        images[0].save(
            path, save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0
        )
    except OSError as error:
        raise DataError(f"{path}: cannot write: {error.strerror or error}") from error
    return path


def _start_ffmpeg(
    program: str, path: Path, size: tuple[int, int], fps: float
) -> subprocess.Popen[bytes]:
    """An ffmpeg that reads raw frames. Not `imageio_ffmpeg.write_frames`: that runs Python code in
    the forked child, which may deadlock beside JAX's threads."""
    command = [program, "-y", "-v", "error", "-f", "rawvideo"]
    command += ["-pix_fmt", "rgb24", "-s", f"{size[0]}x{size[1]}", "-r", f"{fps:.6g}", "-i", "-"]
    command += ["-an", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "17", str(path)]
    pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
    # A session of its own: Ctrl-C must not end it before its input does.
    return subprocess.Popen(command, stdin=pipe, stdout=quiet, stderr=pipe, start_new_session=True)


def grid(
    images: Sequence[np.ndarray],
    columns: int,
    labels: Sequence[str] | None = None,
    gap: int = 4,
) -> np.ndarray:
    """Equally large images in rows of `columns`, each with an optional label at its top left."""
    height, width = images[0].shape[:2]
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for k, image in enumerate(images):
        top, left = (k // columns) * (height + gap), (k % columns) * (width + gap)
        tile = _checked(image) if labels is None else label(image, labels[k])
        sheet[top : top + height, left : left + width] = tile
    return sheet


def label(image: np.ndarray, text: str, size: int = 14, at: tuple[int, int] = (6, 4)) -> np.ndarray:
    """Copy of an image with dark text at pixel (x, y)."""
    picture = Image.fromarray(_checked(image))
    ImageDraw.Draw(picture).text(at, text, (25, 25, 30), font=ImageFont.load_default(size))
    return np.asarray(picture)


def _checked(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise DataError(f"an image is (H, W, 3) uint8, not {image.shape} {image.dtype}")
    return image
