"""Recorded episodes: what happened, step by step, in one .npz file that anything can read.

Arrays are stacked over the E episodes of the file and padded to the longest (T steps) with NaN;
see `FIELDS`. Meshes are not in it: an object is referred to by name and file, and its convex pieces
stand in where that file is gone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

import dexjax
from dexjax.core.config import from_plain, to_plain
from dexjax.core.errors import DataError, DexjaxError
from dexjax.core.safe_io import read_npz
from dexjax.hands import load_hand
from dexjax.objects.asset import ObjectAsset
from dexjax.sim.scene import OBJECT_BODY, SceneConfig, build_scene

FORMAT = 1
SUFFIX = ".episodes.npz"
FIELDS = {
    "meta": "JSON: format, dexjax version, scene, control_dt, objects, names of terms and outcomes",
    "length": "(E,) int32 control steps that were recorded",
    "object": "(E,) int32 row of the objects in `meta`",
    "outcome": "(E, M) bool, columns named in `meta`",
    "qpos": "(E, T, nq) float32: hand base, fingers, object position and quaternion wxyz",
    "goal": "(E, 3) float32 m, where the object shall be; NaN where the task has no goal",
    "terms": "(E, T, K) float32 reward terms of the action chosen in that state",
    "success": "(E, T, S) float32 0 or 1, successes of the episode so far, after that action",
    "finger_force": "(E, T, fingers, 3) float32 N, net force of the object on each finger, world",
    "table_force": "(E, T) float32 N, net force between hand and table",
    "contact_point": "(E, T, C, 3) float32 m, where hand and object touch, world; NaN: unused",
    "contact_finger": "(E, T, C) int8 finger of that contact, -1: palm, -2: unused",
    "piece_vertices": "(P, 3) float32 convex pieces of all objects, object frame",
    "piece_size": "(Q,) int32 vertices of each piece",
    "piece_object": "(Q,) int32 row of the object in `meta`",
}
OBJECT_QPOS = slice(-7, None)  # the object is the last body of a scene
_TILT = 45.0  # degrees: an object that was turned over
_PUSHED = 0.15  # m: an object that was pushed away


@dataclass(frozen=True, eq=False)
class ObjectReference:
    """An object as an episode remembers it."""

    name: str
    category: str
    source: str  # "builtin", or the path of its mesh file
    bounds: np.ndarray  # (2, 3) m, object frame: tells size and place of the file's mesh
    pieces: tuple[np.ndarray, ...]  # convex, each (n, 3) m, object frame

    @staticmethod
    def of(asset: ObjectAsset) -> ObjectReference:
        """The reference to an asset; files by their absolute path."""
        vertices = asset.vertices[np.unique(asset.faces)]
        bounds = np.stack([vertices.min(0), vertices.max(0)])
        known = asset.source in ("builtin", "mesh")
        source = asset.source if known else str(Path(asset.source).absolute())
        return ObjectReference(asset.name, asset.category, source, bounds, asset.pieces)


@dataclass(frozen=True, eq=False)
class Episode:
    """One recorded episode of T control steps; row t is the state in which action t was chosen."""

    scene: SceneConfig
    object: ObjectReference
    control_dt: float
    qpos: np.ndarray  # (T, nq)
    outcome: Mapping[str, bool]  # "success_any", "success_end", "success_held", "lifted", ...
    terms: Mapping[str, np.ndarray]  # reward term -> (T,)
    success: Mapping[str, np.ndarray] = field(default_factory=dict)  # "success_any", ... -> (T,)
    goal: np.ndarray | None = None  # (3,)
    finger_force: np.ndarray | None = None  # (T, fingers, 3)
    table_force: np.ndarray | None = None  # (T,)
    contact_point: np.ndarray | None = None  # (T, C, 3)
    contact_finger: np.ndarray | None = None  # (T, C)

    @property
    def good(self) -> bool:
        """The strictest success that was measured."""
        return bool(self.outcome.get(strictest(self.outcome), False))

    @property
    def ending(self) -> str:
        """How it ended, in one or two words."""
        return ending(self.outcome, self.qpos[0, OBJECT_QPOS], self.qpos[-1, OBJECT_QPOS])

    @property
    def caption(self) -> str:
        """Object and how the episode ended."""
        return f"{self.object.name}: {self.ending}"


def ending(outcome: Mapping[str, Any], first: np.ndarray, last: np.ndarray) -> str:
    """Name of an episode's end, from its outcomes and the object's first and last pose (7,).

    success; diverged; slipped (had been lifted, was lost again); knocked over (never lifted, turned
    by more than 45 degrees); pushed away (never lifted, more than 15 cm from its place); missed;
    not held, not at goal (lifted, but not as asked).
    """
    if not outcome:
        return "running"
    if outcome.get(strictest(outcome)):
        return "success"
    if outcome.get("diverged"):
        return "diverged"
    if outcome.get("dropped"):
        return "slipped"
    if not outcome.get("lifted", True):
        if _turned(first[3:], last[3:]) > _TILT:
            return "knocked over"
        if outcome.get("out_of_reach") or np.linalg.norm(last[:2] - first[:2]) > _PUSHED:
            return "pushed away"
        return "missed"
    return "not held" if outcome.get("success_any") else "not at goal"


def strictest(outcome: Mapping[str, object]) -> str:
    """The name of the strictest success among the keys."""
    names = ("success_held", "success_end", "success_any")
    return next((k for k in names if k in outcome), names[0])


def _turned(first: np.ndarray, last: np.ndarray) -> float:
    """Angle in degrees by which the object's upright axis of the first pose has tilted."""
    matrices = []
    for quat in (first, last):
        out = np.empty(9)
        mujoco.mju_quat2Mat(out, np.asarray(quat, float))
        matrices.append(out.reshape(3, 3))
    up = matrices[1] @ matrices[0].T @ np.array([0.0, 0.0, 1.0])
    return float(np.degrees(np.arccos(np.clip(up[2], -1.0, 1.0))))


def with_contacts(episode: Episode, asset: ObjectAsset) -> Episode:
    """The episode with the points at which hand and object touch, found by MuJoCo's collision of
    the recorded positions."""
    scene = build_scene([asset], episode.scene)
    model, data = scene.model, mujoco.MjData(scene.model)
    fingers = dict(zip(scene.body_ids, (*scene.hand.body_finger, -2), strict=True))
    thing = model.body(OBJECT_BODY).id
    found: list[tuple[list[np.ndarray], list[int]]] = []
    for qpos in episode.qpos:
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_collision(model, data)
        points, finger = [], []
        for k in range(data.ncon):
            bodies = model.geom_bodyid[data.contact.geom[k]]
            other = [b for b in bodies if b not in (thing, 0)]
            if thing in bodies and other and data.contact.dist[k] < 1e-3:
                points.append(data.contact.pos[k].copy())
                finger.append(fingers[other[0]])
        found.append((points, finger))
    most = max(1, *(len(p) for p, _ in found))
    point = np.full((len(found), most, 3), np.nan, np.float32)
    whose = np.full((len(found), most), -2, np.int8)
    for t, (points, finger) in enumerate(found):
        if points:
            point[t, : len(points)], whose[t, : len(points)] = points, finger
    return replace(episode, contact_point=point, contact_finger=whose)


# --- files ---------------------------------------------------------------------------------------


def write_episodes(path: str | Path, episodes: Sequence[Episode]) -> None:
    """Write episodes of one scene. Raises DataError where the scenes differ or there is none."""
    if not episodes:
        raise DataError(f"{path}: no episodes to write")
    first = episodes[0]
    if any(e.scene != first.scene or e.control_dt != first.control_dt for e in episodes):
        raise DataError(f"{path}: episodes of several scenes; write one file for each")
    objects: list[ObjectReference] = []
    rows = []
    for e in episodes:
        known = [i for i, o in enumerate(objects) if (o.name, o.source) == _identity(e)]
        if not known:
            objects.append(e.object)
        rows.append(known[0] if known else len(objects) - 1)
    outcomes, terms, success = list(first.outcome), list(first.terms), list(first.success)
    meta = {
        "format": FORMAT,
        "dexjax": dexjax.__version__,
        "scene": to_plain(first.scene),
        "control_dt": first.control_dt,
        "objects": [
            {
                "name": o.name,
                "category": o.category,
                "source": o.source,
                "bounds": o.bounds.tolist(),
            }
            for o in objects
        ],
        "outcomes": outcomes,
        "terms": terms,
        "success": success,
    }
    pieces = [(np.asarray(p, np.float32), i) for i, o in enumerate(objects) for p in o.pieces]
    arrays: dict[str, np.ndarray] = {
        "meta": np.array(json.dumps(meta)),
        "length": np.array([len(e.qpos) for e in episodes], np.int32),
        "object": np.array(rows, np.int32),
        "outcome": np.array([[bool(e.outcome[k]) for k in outcomes] for e in episodes]),
        "qpos": _stack([e.qpos for e in episodes]),
        "goal": _stack([np.full(3, np.nan) if e.goal is None else e.goal for e in episodes]),
        "terms": _stack([_columns(e.terms, terms, len(e.qpos)) for e in episodes]),
        "success": _stack([_columns(e.success, success, len(e.qpos)) for e in episodes]),
        "piece_vertices": np.concatenate([np.zeros((0, 3), np.float32), *(p for p, _ in pieces)]),
        "piece_size": np.array([len(p) for p, _ in pieces], np.int32),
        "piece_object": np.array([i for _, i in pieces], np.int32),
    }
    for name in ("finger_force", "table_force", "contact_point"):
        values = [getattr(e, name) for e in episodes]
        if all(v is not None for v in values):
            arrays[name] = _stack(values)
    whose = [e.contact_finger for e in episodes]
    if all(w is not None for w in whose):
        # NaN fills what is unused; as an integer that is -2.
        padded = _stack([np.asarray(w, np.float32) for w in whose])
        arrays["contact_finger"] = np.where(np.isnan(padded), -2, padded).astype(np.int8)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def read_episodes(path: str | Path) -> list[Episode]:
    """All episodes of a file. Raises DataError naming the file and the field that is wrong."""
    arrays = read_npz(path)
    if "meta" not in arrays:
        raise DataError(f"{path}: no field 'meta', so it is no file of recorded episodes")
    try:
        meta = json.loads(str(arrays["meta"]))
        version = meta["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: field meta is damaged ({error!r})") from error
    if version != FORMAT:
        raise DataError(
            f"{path}: format {version!r}, this dexjax ({dexjax.__version__}) reads format {FORMAT};"
            f" it was written by dexjax {meta.get('dexjax')}: evaluate the run again"
        )
    try:
        return _decode(path, meta, arrays)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: damaged: {type(error).__name__}: {error}") from error


def _decode(path: str | Path, meta: dict[str, Any], arrays: dict[str, Any]) -> list[Episode]:
    scene = from_plain(SceneConfig, meta["scene"], f"{path}: meta.scene")
    sizes, corners = arrays["piece_size"], arrays["piece_vertices"]
    if (sizes < 4).any() or sizes.sum() != len(corners) or not np.isfinite(corners).all():
        raise DataError(f"{path}: piece_size and piece_vertices disagree, or are not finite")
    hulls = np.split(corners, np.cumsum(sizes)[:-1]) if len(sizes) else []
    objects = []
    for i, entry in enumerate(meta["objects"]):
        if not all(isinstance(entry[k], str) for k in ("name", "category", "source")):
            raise DataError(f"{path}: meta.objects[{i}]: name, category and source must be text")
        bounds = np.asarray(entry["bounds"], float)
        if bounds.shape != (2, 3) or not np.isfinite(bounds).all():
            raise DataError(f"{path}: meta.objects[{i}].bounds must be 2 x 3 finite numbers")
        own = tuple(h for h, of in zip(hulls, arrays["piece_object"], strict=True) if of == i)
        objects.append(
            ObjectReference(entry["name"], entry["category"], entry["source"], bounds, own)
        )
    episodes = []
    try:
        hand = load_hand(scene.hand)
    except DexjaxError as error:
        raise DataError(f"{path}: meta.scene.hand: {error}") from error
    nq = scene.base_dof + len(hand.joint_names) + 7
    _check_shapes(path, arrays, {"nq": nq, "fingers": len(hand.finger_names)})
    if len(arrays["length"]) == 0:
        raise DataError(f"{path}: length names no episode")
    period = float(meta["control_dt"])
    if not 0 < period < np.inf:
        raise DataError(f"{path}: meta.control_dt must be a positive time, not {period}")
    for e, length in enumerate(arrays["length"]):
        qpos = np.asarray(arrays["qpos"][e, :length], float)
        if not 0 < length <= arrays["qpos"].shape[1] or not np.isfinite(qpos).all():
            raise DataError(f"{path}: qpos of episode {e} is empty or not finite")
        rest = {
            k: arrays[k][e, :length]
            for k in ("finger_force", "table_force", "contact_point", "contact_finger")
            if k in arrays
        }
        goal = np.asarray(arrays["goal"][e], float)
        if not 0 <= arrays["object"][e] < len(objects):
            raise DataError(f"{path}: object of episode {e} does not fit meta")
        named: dict[str, dict[str, np.ndarray]] = {}
        for kind in ("terms", "success"):
            columns = arrays[kind][e, :length]
            if columns.shape[1] != len(meta[kind]):
                raise DataError(f"{path}: {kind} of episode {e} do not fit meta")
            named[kind] = {k: columns[:, i] for i, k in enumerate(meta[kind])}
        outcome = zip(meta["outcomes"], arrays["outcome"][e], strict=True)
        episodes.append(
            Episode(
                scene,
                objects[int(arrays["object"][e])],
                period,
                qpos,
                {k: bool(v) for k, v in outcome},
                named["terms"],
                named["success"],
                goal if np.isfinite(goal).all() else None,
                **rest,
            )
        )
    return episodes


def _check_shapes(
    path: str | Path, arrays: Mapping[str, np.ndarray], known: Mapping[str, int]
) -> None:
    """Raise DataError for a field whose axes are not those of `FIELDS`. known: sizes of axes."""
    sizes = {**known, "3": 3}
    for name, text in FIELDS.items():
        if name == "meta" or name not in arrays:
            continue
        axes = [a.strip() for a in text[1 : text.index(")")].split(",") if a.strip()]
        shape = arrays[name].shape
        fits = len(shape) == len(axes)
        if not fits or any(sizes.setdefault(a, n) != n for a, n in zip(axes, shape, strict=True)):
            wanted = ", ".join(str(sizes.get(a, a)) for a in axes)
            raise DataError(f"{path}: {name} has shape {shape}, not ({wanted})")
        if arrays[name].dtype.kind not in "bif":
            raise DataError(f"{path}: {name} holds {arrays[name].dtype}, not numbers")


def _columns(values: Mapping[str, np.ndarray], names: Sequence[str], length: int) -> np.ndarray:
    """(T, K) of K named lines (T,)."""
    return np.stack([values[k] for k in names], 1) if names else np.zeros((length, 0))


def _identity(episode: Episode) -> tuple[str, str]:
    return episode.object.name, episode.object.source


def _stack(values: Sequence[Any]) -> np.ndarray:
    """Arrays of one rank as one float32 array, padded with NaN."""
    arrays = [np.asarray(v, np.float32) for v in values]
    shape = np.max([a.shape for a in arrays], 0)
    out = np.full((len(arrays), *shape), np.nan, np.float32)
    for row, a in zip(out, arrays, strict=True):
        row[tuple(slice(n) for n in a.shape)] = a
    return out
