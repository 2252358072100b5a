"""Probes P0 to P5: kinematics, joint steps, tendon, base wrench, drops and slopes.

`half` tells data for calibration from data for gates: other random numbers, never the same trial.
Squeezing and lifting (P6) is in `grasps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal

import mujoco
import numpy as np
import trimesh

from dexjax.objects.asset import ObjectAsset
from dexjax.objects.build import AssetOptions, build_asset
from dexjax.objects.builtin import builtin_asset
from dexjax.parity.physx import cooked
from dexjax.parity.probe import EARTH, Probe
from dexjax.sim.scene import SceneConfig, build_scene, coupled_joints

Half = Literal["calibration", "gate"]
SEED = {"calibration": 1000, "gate": 2000}
FORCE, TORQUE = 833.3, 1.667  # N, N m: one unit of UniDexGrasp action
PALM_DOWN = (np.sqrt(0.5), np.sqrt(0.5), 0.0, 0.0)
_AWAY = SceneConfig()
_FAR = (2.0, 0.0)  # where the object waits in probes of the hand alone, m


@lru_cache(maxsize=1)
def probe_box() -> ObjectAsset:
    """The box of the slopes: 8 x 8 x 4 cm."""
    return box((0.08, 0.08, 0.04), "box")


def box(extents: Sequence[float], name: str) -> ObjectAsset:
    """A homogeneous box, m."""
    options = AssetOptions(max_pieces=1, sdf=False)
    return build_asset(trimesh.creation.box(extents=extents), name=name, options=options)


def static_poses(half: Half, base: Literal["servo", "wrench"]) -> Probe:
    """P0: random poses of all joints and the base; no time passes."""
    rng = np.random.default_rng(SEED[half])
    probe = hold(SceneConfig(base=base), [probe_box()], 32, frames=0, name=f"P0_{base}")
    scene = probe.scene
    lower, upper = np.asarray(scene.hand.lower), np.asarray(scene.hand.upper)
    probe.qpos[:, scene.finger_qpos] = rng.uniform(lower, upper, (32, len(lower)))
    probe.qpos[:, :3] += rng.uniform(-0.3, 0.3, (32, 3))
    if base == "servo":
        probe.qpos[:, 3:6] = rng.uniform(-1.5, 1.5, (32, 3))
    else:
        quat = rng.normal(size=(32, 4))
        probe.qpos[:, 3:7] = quat / np.linalg.norm(quat, axis=1, keepdims=True)
    return probe


def joint_steps(half: Half, kind: Literal["soft", "stiff"]) -> Probe:
    """P1: one joint's target jumps by 50 % and 100 % of its range, 1 s, base held.

    soft: UniDexGrasp's gains (1 N m/rad), stiff: those of the servo environment (3 N m/rad).
    Gate: from the pose nearest to zero, every joint. Calibration: random poses, random jumps.
    `info`: joint, index into the hand's joints.
    """
    config = SceneConfig(finger_kp=1.0 if kind == "soft" else 3.0)
    rng = np.random.default_rng(SEED[half] + 1)
    probe = hold(config, [probe_box()], 44, frames=60, name=f"P1_{kind}")
    scene = probe.scene
    lower, upper = np.asarray(scene.hand.lower), np.asarray(scene.hand.upper)
    start = np.tile(np.clip(0.0, lower, upper), (44, 1))
    share = np.repeat([0.5, 1.0], 22)
    if half == "calibration":
        start = rng.uniform(lower + 0.2 * (upper - lower), upper - 0.2 * (upper - lower), (44, 22))
        share = rng.uniform(0.3, 1.0, 44)
    far = np.where(upper - start > start - lower, upper, lower)
    joint = np.tile(np.arange(22), 2)
    rows = np.arange(44)
    target = start.copy()
    target[rows, joint] += share * (far - start)[rows, joint]
    probe.qpos[:, scene.finger_qpos] = start
    _set_targets(probe, target)
    names = [f"{scene.hand.joint_names[j]} {s:.0%}" for j, s in zip(joint, share, strict=True)]
    return _finished(probe, names, joint=joint)


def tendon_steps(half: Half) -> Probe:
    """P2: the middle joint (J1) of one finger steps, the distal joint (J0) follows by its tendon.

    UniDexGrasp's gains, base held, 1 s. `info`: joint, the follower's index.
    """
    config = SceneConfig(coupling="tendon", finger_kp=1.0)
    rng = np.random.default_rng(SEED[half] + 2)
    probe = hold(config, [probe_box()], 8, frames=60, name="P2")
    scene = probe.scene
    pairs = [(f, lead) for f, lead in coupled_joints(scene.hand)] * 2
    lead, follow = (np.array([scene.hand.joint_names.index(p[k]) for p in pairs]) for k in (1, 0))
    start = np.zeros((8, 22))
    share = np.repeat([0.5, 1.0], 4)
    if half == "calibration":
        share = rng.uniform(0.2, 1.0, 8)
        both = rng.uniform(0.0, 0.5, 8)
        start[np.arange(8), lead], start[np.arange(8), follow] = both, both
    target = start.copy()
    target[np.arange(8), lead] += share * (np.asarray(scene.hand.upper)[lead] - start[0, lead])
    probe.qpos[:, scene.finger_qpos] = start
    _set_targets(probe, target)
    labels = [f"{p[1]} {s:.0%}" for p, s in zip(pairs, share, strict=True)]
    return _finished(probe, labels, joint=follow)


def base_wrench(half: Half) -> Probe:
    """P3: force or torque on the palm of the free hand for 0.5 s, then none for 0.5 s.

    Gate: along and about each axis, a tenth and all of a unit of action. Calibration: random.
    `info`: turning, 1 for torques.
    """
    config = SceneConfig(base="wrench", coupling="tendon", finger_kp=1.0)
    rng = np.random.default_rng(SEED[half] + 3)
    probe = hold(config, [probe_box()], 12, frames=60, name="P3")
    scale = np.repeat([FORCE, TORQUE], 3)
    unit = np.concatenate([0.1 * np.eye(6), np.eye(6)])
    if half == "calibration":
        unit = np.where(np.arange(12)[:, None] % 2, rng.uniform(-1, 1, (12, 6)), 0)
        unit[::2, 3:] = rng.uniform(-1, 1, (6, 3))
    probe.wrench[:30] = unit * scale
    names = ("x", "y", "z", "roll", "pitch", "yaw")
    labels = [f"{names[i % 6]} {'10 %' if i < 6 else '100 %'}" for i in range(12)]
    return _finished(probe, labels, turning=(np.abs(unit[:, 3:]).sum(1) > 0).astype(float))


def flat_drops(half: Half) -> Probe:
    """P4: objects fall 0.1 m onto the table, lying as they will rest, 2 s.

    Built-in objects of other instances and yaw in the two halves. `info`: rest, expected height.
    """
    categories = ("box", "can", "mug", "hammer", "pan", "drill", "cup", "spray_bottle")
    instance = 2 if half == "gate" else 5
    assets = [cooked(builtin_asset(c, instance, sdf=False)) for c in categories]
    probe = hold(_AWAY, assets, len(assets), frames=120, name="P4")
    rng = np.random.default_rng(SEED[half] + 4)
    park_hand(probe)
    at = probe.scene.object_qpos
    for i, asset in enumerate(assets):
        best = int(np.argmax(asset.stable_poses.probability))
        yaw = rng.uniform(-np.pi, np.pi)
        turn = np.array([np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)])
        probe.qpos[i, at + 3 : at + 7] = _product(turn, asset.stable_poses.quat[best])
        turned = trimesh.transformations.quaternion_matrix(asset.stable_poses.quat[best])[:3, :3]
        rest = -(np.concatenate(asset.pieces) @ turned.T)[:, 2].min()
        probe.qpos[i, at : at + 3] = 0, 0, rest + 0.1
    return _finished(probe, categories, rest=probe.qpos[:, at + 2] - 0.1)


def slopes(half: Half) -> Probe:
    """P5: a box on a table whose gravity is tilted, 1 s.

    `info`: angle (deg), friction, slides (1: at least 8 deg beyond the friction angle, 0: at least
    1.5 deg within).
    """
    cases = {
        "gate": [(15, 0.5), (20, 0.5), (25, 0.5), (35, 0.5), (45, 0.5), (35, 0.2), (42, 1.0)],
        "calibration": [
            (10, 0.3),
            (15, 0.3),
            (28, 0.3),
            (25, 0.6),
            (29, 0.6),
            (45, 0.6),
            (36, 0.8),
        ],
    }[half]
    probe = hold(_AWAY, [probe_box()], len(cases), frames=60, name="P5")
    park_hand(probe)
    angle, friction = np.array(cases, float).T
    at = probe.scene.object_qpos
    probe.qpos[:, at : at + 2] = 0
    probe.object_params[:, 1] = friction
    tilt = np.deg2rad(angle)
    probe.gravity[:] = -EARTH[2] * np.stack([np.sin(tilt), 0 * tilt, -np.cos(tilt)], 1)
    beyond = angle - np.rad2deg(np.arctan(friction))
    assert ((beyond >= 8) | (beyond <= -1.5)).all()
    labels = [f"{a:g} deg, friction {m:g}" for a, m in cases]
    return _finished(
        probe, labels, angle=angle, friction=friction, slides=(beyond > 0).astype(float)
    )


def park_hand(probe: Probe) -> None:
    """Hold the servo hand 1.5 m above the table and 2 m aside, in place."""
    probe.qpos[:, 0], probe.qpos[:, 2] = -2.0, probe.config.table_height + 1.5
    _set_targets(probe, probe.qpos[:, probe.scene.finger_qpos])


def hold(
    config: SceneConfig, assets: Sequence[ObjectAsset], trials: int, frames: int, name: str
) -> Probe:
    """A probe in which everything rests: hand high up with straight fingers, object far away.

    Its arrays are to be changed in place.
    """
    assets = tuple(assets)
    scene = build_scene(assets, config)
    model = scene.model
    qpos = np.tile(model.qpos0, (trials, 1))
    qpos[:, 2] = config.table_height + 0.6
    if config.base == "wrench":
        qpos[:, 3:7] = PALM_DOWN
    lower, upper = np.asarray(scene.hand.lower), np.asarray(scene.hand.upper)
    qpos[:, scene.finger_qpos] = np.clip(0.0, lower, upper)
    object_id = np.arange(trials) % len(assets)
    at = scene.object_qpos
    for i, k in enumerate(object_id):
        pose = assets[k].stable_poses
        height = config.table_height + pose.height[0]
        qpos[i, at : at + 7] = [*_FAR, height, *pose.quat[0]]
    probe = Probe(
        name=name,
        config=config,
        assets=assets,
        object_id=object_id,
        object_params=np.ones((trials, 2)),
        qpos=qpos,
        qvel=np.zeros((trials, model.nv)),
        ctrl=np.zeros((frames, trials, model.nu)),
        wrench=np.zeros((frames, trials, 6)),
        gravity=np.tile(EARTH, (trials, 1)),
        labels=tuple(str(i) for i in range(trials)),
    )
    _set_targets(probe, qpos[:, scene.finger_qpos])
    return probe


def _set_targets(probe: Probe, fingers: np.ndarray) -> None:
    """Targets in all frames: fingers (B, 22) in hand order, the base where it starts."""
    probe.ctrl[:] = targets(probe, fingers, probe.qpos)


def targets(probe: Probe, fingers: np.ndarray, base: np.ndarray) -> np.ndarray:
    """(B, nu) actuator targets from finger joint angles (B, 22) and base coordinates (B, >= 6).

    Joints without an actuator have no target.
    """
    scene, model = probe.scene, probe.scene.model
    qpos = np.zeros((len(fingers), model.nq))
    qpos[:, scene.finger_qpos] = fingers
    if probe.config.base == "servo":
        qpos[:, :6] = base[:, :6]
    return qpos[:, model.jnt_qposadr[model.actuator_trnid[:, 0]]]


def _finished(probe: Probe, labels: Sequence[str], **info: np.ndarray) -> Probe:
    return replace(probe, labels=tuple(labels), info=info)


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out = np.zeros(4)
    mujoco.mju_mulQuat(out, a, b)
    return out
