"""P6: objects are squeezed between palm, fingers and thumb, lifted by 0.25 m and held.

A scripted power grasp from the side, the same for all: the hand starts around the standing object,
closes, lifts and holds. Shape, size, mass (0.05 to 0.8 kg), friction (0.3 to 1), closure and the
place of the hand are drawn, so that about half of the grasps fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

import mujoco
import numpy as np
import trimesh

from dexjax.hands import Hand
from dexjax.objects.asset import ObjectAsset
from dexjax.objects.build import AssetOptions, build_asset
from dexjax.objects.builtin import builtin_asset
from dexjax.parity.physx import cooked
from dexjax.parity.probe import FRAME, Probe, Recording
from dexjax.parity.probes import SEED, Half, box, hold, targets
from dexjax.sim.physics import LINK_DAMPING
from dexjax.sim.scene import SceneConfig

FRAMES = 192  # 3.2 s
CLOSED, LIFT, TOP = 60, 72, 120  # frames: fingers at their targets; lift begins and ends
HEIGHT, SUCCESS = 0.25, 0.2  # m the hand is lifted; that a held object is lifted
WINDOW = 10  # frames of a re-synchronised comparison
_SHAPES = 8  # per kind and half
_MESHES = ("bottle", "can", "mug", "cup", "spray_bottle", "flashlight", "box", "drill")
_GAP = 0.003  # m between palm and object at the start
_PALM = 0.009  # m from the palm's surface to the grasp centre


def squeeze_lift(
    half: Half,
    trials: int,
    *,
    base: Literal["servo", "wrench"] = "servo",
    objects: Sequence[ObjectAsset] | None = None,
) -> Probe:
    """Grasps of boxes, capsules and built-in meshes in equal shares, or of `objects` in turn.

    servo: base and distal joints have servos, gains of the servo environment. wrench: UniDexGrasp's
    free hand, lifted by a constant force, J0 led by tendons, soft gains; lighter objects.
    `info`: kind (0 box, 1 capsule, 2 mesh), start height of the object.
    """
    rng = np.random.default_rng(SEED[half] + (6 if base == "servo" else 8))
    if objects is None:
        assets, poses = _objects(half)
        kind = np.arange(trials) % 3
        object_id = kind * _SHAPES + rng.integers(_SHAPES, size=trials)
    else:
        assets = tuple(cooked(a) for a in objects)
        poses = [_standing(a) for a in assets]
        kind = np.full(trials, 2)
        object_id = np.arange(trials) % len(assets)
    config, heaviest = SceneConfig(), 0.8
    if base == "wrench":
        config, heaviest = SceneConfig(base="wrench", coupling="tendon", finger_kp=1.0), 0.4
    probe = hold(config, assets, trials, FRAMES, "P6" if base == "servo" else "P6_wrench")
    probe = replace(probe, object_id=object_id)
    scene = probe.scene
    mass = np.exp(rng.uniform(np.log(0.05), np.log(heaviest), trials))
    probe.object_params[:, 0] = mass / np.array([assets[k].mass for k in object_id])
    probe.object_params[:, 1] = rng.uniform(0.3, 1.0, trials)
    at = scene.object_qpos
    place = np.zeros((trials, 6))
    for i, k in enumerate(object_id):
        quat, low, high = poses[k]
        probe.qpos[i, at : at + 3] = 0.0, 0.0, -low[2]
        probe.qpos[i, at + 3 : at + 7] = quat
        height = high[2] - low[2]
        place[i, 0] = low[0] + _PALM - _GAP - rng.uniform(0, 0.004)
        place[i, 1] = 0.5 * (low[1] + high[1]) + rng.uniform(0.02, 0.045)
        place[i, 2] = max(0.06, 0.5 * height + rng.uniform(-0.025, 0.01))
        place[i, 4] = -np.pi / 2  # palm towards +x, index finger and thumb up
    if base == "servo":
        probe.qpos[:, :6] = place
    else:
        _place_free_hand(probe, place[:, :3])
    closure = rng.uniform(0.75, 1.2, trials)
    start, closed = (
        np.stack([_posture(scene.hand, c) for c in cs]) for cs in (0 * closure, closure)
    )
    probe.qpos[:, scene.finger_qpos] = start
    for t in range(FRAMES):
        share = min(1.0, (t + 1) / CLOSED)
        up = HEIGHT * np.clip((t + 1 - LIFT) / (TOP - LIFT), 0, 1)
        lifted = place + [0, 0, up, 0, 0, 0]
        probe.ctrl[t] = targets(probe, start + share * (closed - start), lifted)
    if base == "wrench":
        hand = scene.model.body_mass[scene.body_ids[:-1]].sum()
        speed = HEIGHT / ((TOP - LIFT) * FRAME)
        left = 1 - LINK_DAMPING / 120  # of the force, at PhysX's steps of 1/120 s
        probe.wrench[LIFT:TOP, :, 2] = speed * LINK_DAMPING * hand / left
    labels = [
        f"{assets[k].name} {m:.2f} kg, friction {f:.2f}, closure {c:.2f}"
        for k, m, f, c in zip(object_id, mass, probe.object_params[:, 1], closure, strict=True)
    ]
    info = {"kind": kind.astype(float), "height": probe.qpos[:, at + 2].copy()}
    return replace(probe, labels=tuple(labels), info=info)


def _place_free_hand(probe: Probe, grasp_centre: np.ndarray) -> None:
    """Palm towards +x, index finger up, grasp centre at (B, 3); in place."""
    half = np.sqrt(0.5)
    quat = np.zeros(4)
    mujoco.mju_mulQuat(quat, np.array([half, 0, -half, 0]), np.array([half, half, 0, 0]))
    arm = np.zeros(3)
    centre = np.asarray(probe.scene.hand.grasp_centre, np.float64)
    mujoco.mju_rotVecQuat(arm, centre, quat)
    probe.qpos[:, :3], probe.qpos[:, 3:7] = grasp_centre - arm, quat


def held(probe: Probe, recording: Recording) -> np.ndarray:
    """(B,) whether the object is lifted at the end."""
    return np.asarray(recording["body_pos"][-1, :, -1, 2] - probe.info["height"] > SUCCESS)


def windows(probe: Probe, reference: Recording) -> Probe:
    """Pieces of `WINDOW` frames that start from the reference's states: while closing on the
    object (from frame 36), and while holding it up (from frame 132) where the reference does.

    `info`: holding (1: the second kind).
    """
    pieces = _pieces(probe, reference)
    parts = [_window(probe, reference, rows, begin) for rows, begin in pieces]
    join: dict[str, Any] = {
        n: np.concatenate([getattr(p, n) for p in parts], axis)
        for n, axis in (
            ("object_id", 0), ("object_params", 0), ("qpos", 0), ("qvel", 0), ("ctrl", 1),
            ("wrench", 1), ("gravity", 0),
        )
    }  # fmt: skip
    holding = np.repeat([0.0, 1.0], [len(rows) for rows, _ in pieces])
    labels = sum((p.labels for p in parts), ())
    return replace(parts[0], name="P6_windows", labels=labels, info={"holding": holding}, **join)


def window_recording(probe: Probe, reference: Recording) -> Recording:
    """What the reference itself did in the windows, for one that cannot be started again."""
    pieces = _pieces(probe, reference)
    return {
        name: np.concatenate(
            [values[begin : begin + WINDOW + 1, rows] for rows, begin in pieces], 1
        )
        for name, values in reference.items()
    }


def _pieces(probe: Probe, reference: Recording) -> list[tuple[np.ndarray, int]]:
    """(trials, first frame) of both kinds of window."""
    return [(np.arange(probe.num_trials), 36), (np.flatnonzero(held(probe, reference)), 132)]


def _window(probe: Probe, reference: Recording, rows: np.ndarray, begin: int) -> Probe:
    part = probe.take(rows)
    return replace(
        part,
        qpos=reference["qpos"][begin, rows].astype(np.float64),
        qvel=reference["qvel"][begin, rows].astype(np.float64),
        ctrl=part.ctrl[begin : begin + WINDOW],
        wrench=part.wrench[begin : begin + WINDOW],
        info={},
    )


@lru_cache(maxsize=4)
def _objects(
    half: Half,
) -> tuple[tuple[ObjectAsset, ...], list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Boxes, capsules and meshes; for each its standing orientation and bounds in it."""
    rng = np.random.default_rng(SEED[half] + 7)
    assets = []
    for i in range(_SHAPES):
        extents = [*rng.uniform(0.03, 0.06, 2), rng.uniform(0.1, 0.16)]
        assets.append(box(extents, f"box_{i}"))
    options = AssetOptions(max_pieces=1, sdf=False)
    for i in range(_SHAPES):
        radius, length = rng.uniform(0.022, 0.038), rng.uniform(0.07, 0.1)
        mesh = trimesh.creation.capsule(height=length, radius=radius, count=[12, 12])
        solid = _flat_foot(mesh, mesh.bounds[0, 2] + 0.25 * radius)
        assets.append(build_asset(solid, name=f"capsule_{i}", options=options))
    instance = 3 if half == "gate" else 6
    assets += [builtin_asset(name, instance, sdf=False) for name in _MESHES]
    assets = [cooked(a) for a in assets]
    return tuple(assets), [_standing(a) for a in assets]


def _flat_foot(mesh: trimesh.Trimesh, height: float) -> trimesh.Trimesh:
    """What of a convex mesh lies above z = `height`, so that it stands."""
    points = mesh.vertices
    a, b = points[mesh.edges_unique].transpose(1, 0, 2)
    cut = (a[:, 2] < height) != (b[:, 2] < height)
    a, b = a[cut], b[cut]
    crossing = a + ((height - a[:, 2]) / (b[:, 2] - a[:, 2]))[:, None] * (b - a)
    return trimesh.convex.convex_hull(np.concatenate([points[points[:, 2] >= height], crossing]))


def _standing(asset: ObjectAsset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The tallest of the likely stable poses: orientation, lowest and highest corner."""
    best = None
    points = np.concatenate(asset.pieces)
    for quat, chance in zip(asset.stable_poses.quat, asset.stable_poses.probability, strict=True):
        turned = points @ trimesh.transformations.quaternion_matrix(quat)[:3, :3].T
        low, high = turned.min(0), turned.max(0)
        tall = chance > 0.01 and high[0] - low[0] < 0.09
        if best is None or (tall and high[2] - low[2] > best[2][2] - best[1][2]):
            best = (quat, low, high)
    assert best is not None
    return best


def _posture(hand: Hand, closure: float) -> np.ndarray:
    """Finger joints (22,) from open (0) to closed (1): found by random search on calibration data,
    in MuJoCo, for the most grasps held."""
    full = {"J2": 1.3, "J1": 1.18, "J0": 1.18, "J3": 0.0, "J4": 0.0}
    thumb = {"THJ4": 0.0, "THJ3": 1.1, "THJ2": -0.1, "THJ1": 0.1, "THJ0": -0.75}
    angles = np.zeros(hand.num_joints)
    for j, name in enumerate(hand.joint_names):
        if name.startswith("TH"):
            angles[j] = closure * thumb[name]
        else:
            angles[j] = closure * full[name[2:]]
    return np.clip(angles, np.asarray(hand.lower), np.asarray(hand.upper))
