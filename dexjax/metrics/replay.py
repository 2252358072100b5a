"""Recorded episodes as pictures: a video of several side by side and a strip of their moments."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from dexjax.metrics.episodes import Episode, strictest
from dexjax.metrics.stage import Stage, object_mesh
from dexjax.render import (
    Camera,
    RayScene,
    RenderMesh,
    frame_camera,
    grid,
    label,
    write_mp4,
    write_png,
)

VIDEO_TILE, VIDEO_STRIDE, VIDEO_COLUMNS = 192, 2, 3  # pixels, control steps, tiles
STRIP_TILE = 208
STRIP_MOMENTS = (0.0, 0.3, 0.45, 0.65, 1.0)  # of the episode: start, reach, close, lift, hold
_BORDER = 4  # pixels
_GOOD, _BAD = (46, 160, 67), (207, 60, 50)
# The camera shows what happens within x, y of +- the first and below the second, m: an object that
# is thrown away may leave the picture.
_VIEW, _FRAMED_MOMENTS = (0.26, 0.5), 7


def choose_episodes(
    episodes: Mapping[str, np.ndarray], worst_first: Sequence[int], count: int
) -> list[int]:
    """Indices of `count` episodes of different objects: half failures of the worst objects, half
    successes of objects spread over the ranking; more of one kind where the other is rare."""
    ids, good = episodes["object_id"], episodes[strictest(episodes)] > 0.5

    def first(wanted: bool) -> list[int]:
        """The first success or failure of each object that has one."""
        rows = [np.flatnonzero((ids == o) & (good == wanted)) for o in worst_first]
        return [int(r[0]) for r in rows if len(r)]

    failed, worked = first(False), first(True)
    failed = failed[: max(min(len(failed), count // 2), count - len(worked))]
    shown, room = set(ids[failed]), count - len(failed)
    others = [b for b in worked if ids[b] not in shown]
    if len(others) >= room:
        return [
            others[i] for i in np.linspace(0, len(others) - 1, room).round().astype(int)
        ] + failed
    return [*others, *(b for b in worked if ids[b] in shown)][:room] + failed


def write_pictures(episodes: Sequence[Episode], stem: Path) -> list[Path]:
    """Write STEM.png, one row per episode, and STEM.mp4, all episodes at once. Returns both."""
    stages = [EpisodeStage(e) for e in episodes]
    png, mp4 = Path(f"{stem}.png"), Path(f"{stem}.mp4")
    tiles = [tile for stage in stages for tile in stage.moments()]
    write_png(png, grid(tiles, len(STRIP_MOMENTS)))
    return [png, _write_video(stages, mp4, VIDEO_TILE, VIDEO_STRIDE)]


def write_video(
    episodes: Sequence[Episode], path: Path, *, tile: int = 240, stride: int = 2
) -> Path:
    """All episodes at once as an H.264 video, each with its caption, framed green for success.

    Returns the file written, see `write_mp4`. tile: side of one episode's picture in pixels;
    stride: control steps per frame.
    """
    return _write_video([EpisodeStage(e) for e in episodes], path, tile, stride)


def _write_video(stages: Sequence[EpisodeStage], path: Path, tile: int, stride: int) -> Path:
    columns = VIDEO_COLUMNS if len(stages) <= 6 else math.ceil(math.sqrt(1.5 * len(stages)))
    columns = min(columns, len(stages))

    def frames() -> Iterator[np.ndarray]:
        for t in range(0, max(len(s.episode.qpos) for s in stages), stride):
            yield grid([s.tile(t, tile, supersample=1) for s in stages], columns)

    return write_mp4(path, frames(), fps=1 / (stride * stages[0].episode.control_dt))


class EpisodeStage:
    """Hand, object and table of an episode, with a camera that suits it."""

    def __init__(self, episode: Episode) -> None:
        self.episode = episode
        thing, self.note = object_mesh(episode.object)
        self._stage = Stage(episode.scene, thing)

    def meshes(self, step: int) -> list[RenderMesh]:
        """Everything at control step `step`: hand, object, table."""
        return self._stage.meshes(self.episode.qpos[step])

    @cached_property
    def camera(self) -> Camera:
        """A fixed camera that sees hand and object during the whole episode, near the table."""
        last = len(self.episode.qpos) - 1
        moments = np.unique(np.linspace(0, last, _FRAMED_MOMENTS).round().astype(int))
        meshes = [m for t in moments for m in self.meshes(t)[:-1]]  # all but the table
        low = np.array([-_VIEW[0], -_VIEW[0], 0.0])
        high = np.array([_VIEW[0], _VIEW[0], _VIEW[1]])
        floor = np.array([0.0, 0.0, self.episode.scene.table_height])
        points = np.concatenate([m.world_vertices() for m in meshes]) - floor
        inside = points[((points >= low) & (points <= high)).all(1)] + floor
        return frame_camera(
            [RenderMesh(inside, np.zeros((0, 3), int))], -48.0, 24.0, fov=27.0, margin=1.18
        )

    def image(self, step: int, size: int, supersample: int = 2) -> np.ndarray:
        """Square picture at a control step; the last one where the episode is shorter."""
        step = min(step, len(self.episode.qpos) - 1)
        scene = RayScene(self.meshes(step))
        return scene.image(self.camera, size, size, supersample=supersample)

    def tile(self, step: int, size: int, supersample: int) -> np.ndarray:
        """`image` with caption and a frame: green for success, else red."""
        image = self.image(step, size - 2 * _BORDER, supersample)
        framed = np.empty((size, size, 3), np.uint8)
        framed[:] = _GOOD if self.episode.good else _BAD
        framed[_BORDER:-_BORDER, _BORDER:-_BORDER] = label(image, _fit(self.episode, size), size=12)
        return framed

    def moments(self) -> list[np.ndarray]:
        """Tiles of the strip: start, reach, close, lift, hold."""
        steps = np.multiply(STRIP_MOMENTS, len(self.episode.qpos) - 1).round().astype(int)
        return [self.tile(int(t), STRIP_TILE, supersample=2) for t in steps]


def _fit(episode: Episode, size: int) -> str:
    """The caption, its name shortened from the left where the picture is too small for it."""
    room = size // 7 - len(episode.ending) - 2  # a letter is about 7 pixels wide
    name = episode.object.name
    short = name if len(name) <= room else "..." + name[3 - max(room, 8) :]
    return f"{short}: {episode.ending}"
