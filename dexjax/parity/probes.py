"""Probes P0 to P5: kinematics, joint steps, tendon, base wrench, drops and slopes.

`half` tells data for calibration from data for gates: other random numbers, never the same trial.
Squeezing and lifting (P6) is in `grasps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal

import numpy as np
import trimesh

from dexjax.objects.asset import ObjectAsset
from dexjax.objects.build import AssetOptions, build_asset
from dexjax.parity.probe import EARTH, Probe
from dexjax.sim.scene import SceneConfig, build_scene

Half = Literal["calibration", "gate"]
_SEED = {"calibration": 1000, "gate": 2000}
FORCE, TORQUE = 833.3, 1.667  # N, N m: one unit of UniDexGrasp action
PALM_DOWN = (np.sqrt(0.5), np.sqrt(0.5), 0.0, 0.0)
_FAR = (2.0, 0.0)  # where the object waits in probes of the hand alone, m


@lru_cache(maxsize=1)
def probe_box() -> ObjectAsset:
    """The box of the slopes: 8 x 8 x 4 cm."""
    return box((0.08, 0.08, 0.04), "box")


def box(extents: Sequence[float], name: str, density: float = 500.0) -> ObjectAsset:
    """A homogeneous box, m."""
    options = AssetOptions(max_pieces=1, sdf=False, density=density)
    return build_asset(trimesh.creation.box(extents=extents), name=name, options=options)


def static_poses(half: Half, base: Literal["servo", "wrench"]) -> Probe:
    """P0: random poses of all joints and the base; no time passes."""
    rng = np.random.default_rng(_SEED[half])
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
    rng = np.random.default_rng(_SEED[half] + 1)
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
