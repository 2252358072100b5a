"""Recorded episodes as pictures: a video of several side by side and a strip of their moments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import mujoco
import numpy as np

from dexjax.objects.asset import ObjectAsset
from dexjax.render import (
    Camera,
    RenderMesh,
    frame_camera,
    grid,
    label,
    model_geometry,
    pose_geometry,
    render,
    write_mp4,
    write_png,
)
from dexjax.sim.scene import OBJECT_BODY, Scene, build_scene

VIDEO_TILE, VIDEO_STRIDE, VIDEO_COLUMNS = 192, 2, 3  # pixels, control steps, tiles
STRIP_TILE = 208
STRIP_MOMENTS = (0.0, 0.3, 0.45, 0.65, 1.0)  # of the episode: start, reach, close, lift, hold
_BORDER = 4  # pixels
_GOOD, _BAD = (46, 160, 67), (207, 60, 50)
# One colour per part of an object, told apart by people with colour blindness (Okabe and Ito).
_PARTS = (
    (0.90, 0.62, 0.10), (0.15, 0.45, 0.70), (0.80, 0.40, 0.65), (0.10, 0.62, 0.45),
    (0.84, 0.37, 0.10), (0.94, 0.89, 0.35), (0.35, 0.70, 0.90),
)  # fmt: skip
_TABLE = (0.72, 0.66, 0.58)
# The camera shows what happens within x, y of +- the first and below the second, m: an object that
# is thrown away may leave the picture.
_VIEW, _FRAMED_MOMENTS = (0.26, 0.5), 7


@dataclass(frozen=True, eq=False)
class Clip:
    """A recorded episode of one object."""

    scene: Scene
    asset: ObjectAsset
    qpos: np.ndarray  # (T, nq) one row per control step
    outcome: Mapping[str, bool]  # "success_any", "success_end", "success_held", "lifted", ...
    control_dt: float

    @property
    def good(self) -> bool:
        """The strictest success that was measured."""
        return self.outcome[_strictest(self.outcome)]

    @property
    def caption(self) -> str:
        """Object and how the episode ended."""
        o = self.outcome
        if self.good:
            end = "success"
        elif o.get("diverged"):
            end = "diverged"
        elif o.get("dropped"):
            end = "dropped"
        elif not o.get("lifted", True):
            end = "not lifted"
        else:
            end = "at goal, not held" if o.get("success_any") else "not at goal"
        return f"{self.asset.name}: {end}"


def choose_episodes(
    episodes: Mapping[str, np.ndarray], worst_first: Sequence[int], count: int
) -> list[int]:
    """Indices of `count` episodes of different objects: half failures of the worst objects, half
    successes of objects spread over the ranking; more of one kind where the other is rare."""
    ids, good = episodes["object_id"], episodes[_strictest(episodes)] > 0.5

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


def write_pictures(clips: Sequence[Clip], stem: Path) -> list[Path]:
    """Write STEM.png, one row per episode, and STEM.mp4, all episodes at once. Returns both."""
    stages = [_Stage(c) for c in clips]
    strip = [
        _tile(stage, int(t), STRIP_TILE, supersample=2)
        for stage in stages
        for t in np.multiply(STRIP_MOMENTS, len(stage.clip.qpos) - 1).round()
    ]
    png, mp4 = Path(f"{stem}.png"), Path(f"{stem}.mp4")
    write_png(png, grid(strip, len(STRIP_MOMENTS)))
    write_mp4(mp4, _frames(stages), fps=1 / (VIDEO_STRIDE * clips[0].control_dt))
    return [png, mp4]


def _frames(stages: Sequence[_Stage]) -> Iterator[np.ndarray]:
    """Frames of the video; a shorter episode stands still at its end."""
    for t in range(0, max(len(s.clip.qpos) for s in stages), VIDEO_STRIDE):
        yield grid([_tile(s, t, VIDEO_TILE, supersample=1) for s in stages], VIDEO_COLUMNS)


class _Stage:
    """Hand, object and table of a clip, ready to be posed."""

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        config = clip.scene.config
        self._model = build_scene([clip.asset], config, visual=True).model
        self._data = mujoco.MjData(self._model)
        hidden = {0, self._model.body(OBJECT_BODY).id}  # the table and the convex pieces
        self._hand = [g for g in model_geometry(self._model, detail=2) if g[0] not in hidden]
        self._object = RenderMesh(clip.asset.vertices, clip.asset.faces, _colours(clip.asset))
        top = config.table_height
        self._table = _slab(0.5, top - 0.02, top)

    def meshes(self, step: int) -> list[RenderMesh]:
        """Everything at control step `step`."""
        qpos, at = self.clip.qpos[step], self.clip.scene.object_qpos
        self._data.qpos[:] = qpos
        mujoco.mj_kinematics(self._model, self._data)
        hand = pose_geometry(self._hand, self._data.xpos.copy(), self._data.xquat.copy())
        return [*hand, self._object.at(qpos[at : at + 3], qpos[at + 3 : at + 7]), self._table]

    @cached_property
    def camera(self) -> Camera:
        """A fixed camera that sees hand and object during the whole episode, near the table."""
        last = len(self.clip.qpos) - 1
        moments = np.unique(np.linspace(0, last, _FRAMED_MOMENTS).round().astype(int))
        meshes = [m for t in moments for m in self.meshes(t)[:-1]]  # all but the table
        low = np.array([-_VIEW[0], -_VIEW[0], 0.0])
        high = np.array([_VIEW[0], _VIEW[0], _VIEW[1]])
        floor = np.array([0.0, 0.0, self.clip.scene.config.table_height])
        points = np.concatenate([m.world_vertices() for m in meshes]) - floor
        inside = points[((points >= low) & (points <= high)).all(1)] + floor
        return frame_camera(
            [RenderMesh(inside, np.zeros((0, 3), int))], -48.0, 24.0, fov=27.0, margin=1.18
        )


def _tile(stage: _Stage, step: int, size: int, supersample: int) -> np.ndarray:
    step = min(step, len(stage.clip.qpos) - 1)
    inner = size - 2 * _BORDER
    image = render(stage.meshes(step), stage.camera, inner, inner, supersample=supersample)
    framed = np.empty((size, size, 3), np.uint8)
    framed[:] = _GOOD if stage.clip.good else _BAD
    framed[_BORDER:-_BORDER, _BORDER:-_BORDER] = label(image, stage.clip.caption, size=12)
    return framed


def _colours(asset: ObjectAsset) -> np.ndarray | tuple[float, float, float]:
    if asset.face_parts is None:
        return _PARTS[0]
    return np.array(_PARTS)[asset.face_parts % len(_PARTS)]


def _slab(half: float, bottom: float, top: float) -> RenderMesh:
    """A square board centred at the origin."""
    corners = [(x, y, z) for z in (bottom, top) for y in (-half, half) for x in (-half, half)]
    faces = [
        (0, 2, 1), (1, 2, 3), (4, 5, 6), (5, 7, 6), (0, 1, 4), (1, 5, 4),
        (2, 6, 3), (3, 6, 7), (0, 4, 2), (2, 4, 6), (1, 3, 5), (3, 7, 5),
    ]  # fmt: skip
    return RenderMesh(np.array(corners, float), np.array(faces), _TABLE)


def _strictest(outcome: Mapping[str, object]) -> str:
    """The name of the strictest success among the keys."""
    return next(k for k in ("success_held", "success_end", "success_any") if k in outcome)
