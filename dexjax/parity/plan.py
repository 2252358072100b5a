"""Probes for another simulator to run: a folder of plain files. The way back is in `recorded`.

`write_plan` writes each probe's initial states, targets, wrenches and drives as `.npz`, the hand as
MJCF and the objects as URDFs with convex pieces; `isaac_recorder.py` reads it with NumPy alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from dexjax.core.errors import DataError
from dexjax.objects.asset import ObjectAsset
from dexjax.parity.probe import FRAME, Probe
from dexjax.sim.followers import DAMPING, STIFFNESS
from dexjax.sim.physics import LINK_DAMPING
from dexjax.sim.scene import OBJECT_BODY, Scene

FORMAT, VERSION = "dexjax.plan", 1
WRENCH_BODY = "palm"
# The release's tendons (UniDexGrasp, shadow_hand_grasp.py).
_TENDON = {"limit_stiffness": STIFFNESS, "damping": DAMPING}


def write_plan(probes: Sequence[Probe], folder: str | Path) -> list[Path]:
    """Write a plan of these probes; returns its files, one per probe."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [_write_probe(probe, folder) for probe in probes]


def _write_probe(probe: Probe, folder: Path) -> Path:
    scene, model = probe.scene, probe.scene.model
    at = scene.object_qpos
    joints = moving_joints(scene)
    names = [model.joint(j).name for j in joints]
    driven = np.isin(joints, model.actuator_trnid[: model.nu, 0])
    urdfs, index = _write_objects(probe, folder)
    free = probe.config.base == "wrench"
    root = np.tile([0, 0, 0, 1, 0, 0, 0], (probe.num_trials, 1))
    arrays = {
        "joint_pos": probe.qpos[:, model.jnt_qposadr[joints]],
        "root_pose": probe.qpos[:, :7] if free else root,  # position, quaternion wxyz
        "object_pose": probe.qpos[:, at : at + 7],
        "object_index": index,
        "friction": probe.object_params[:, 1],
        "gravity": probe.gravity,
        "target": joint_targets(probe),
        "wrench": probe.wrench,
    }
    meta = {
        "format": FORMAT,
        "version": VERSION,
        "probe": probe.name,
        "key": probe.key(),
        "hand": _write_hand(scene, folder),
        "floating": free,
        "link_damping": LINK_DAMPING if free else 0.0,
        "tendon": _TENDON if probe.config.coupling == "tendon" else None,
        "dt": FRAME,
        "table_height": probe.config.table_height,
        "joints": names,
        "joint_types": joint_types(scene),
        "drives": _drives(model, joints, driven),
        "wrench_body": WRENCH_BODY,
        "tips": [scene.body_names[b] for b in scene.hand.fingertip_body],
        "objects": urdfs,
        "labels": list(probe.labels),
    }
    path = folder / f"{probe.name}.npz"
    text = np.frombuffer(json.dumps(meta, allow_nan=False).encode(), np.uint8)
    floats = {k: v.astype(np.float32) if v.dtype.kind == "f" else v for k, v in arrays.items()}
    np.savez_compressed(path, allow_pickle=False, __meta__=text, **floats)
    return path


def joint_targets(probe: Probe) -> np.ndarray:
    """(T, B, joints) targets of `moving_joints`; 0 for those without an actuator."""
    model, joints = probe.scene.model, moving_joints(probe.scene)
    found = np.zeros((probe.num_frames, probe.num_trials, len(joints)), np.float32)
    for a in range(model.nu):
        found[..., joints.index(int(model.actuator_trnid[a, 0]))] = probe.ctrl[..., a]
    return found


def moving_joints(scene: Scene) -> list[int]:
    """MuJoCo's joints that a plan names: slides and hinges, base first, then fingers in order."""
    model = scene.model
    base = [
        j for j in range(model.njnt) if model.joint(j).name.startswith("base_") and _moves(model, j)
    ]
    return base + [model.joint(n).id for n in scene.hand.joint_names]


def joint_types(scene: Scene) -> list[str]:
    """ "hinge" or "slide" for each of `moving_joints`."""
    return ["hinge" if _is_hinge(scene.model, j) else "slide" for j in moving_joints(scene)]


def _moves(model: mujoco.MjModel, j: int) -> bool:
    return _is_hinge(model, j) or bool(model.jnt_type[j] == mujoco.mjtJoint.mjJNT_SLIDE)


def _is_hinge(model: mujoco.MjModel, j: int) -> bool:
    return bool(model.jnt_type[j] == mujoco.mjtJoint.mjJNT_HINGE)


def _range(model: mujoco.MjModel, j: int) -> np.ndarray:
    """Limits; far ones for a joint without, since not every importer reads `limited`."""
    return model.jnt_range[j] if model.jnt_limited[j] else np.array([-10.0, 10.0])


def _drives(model: mujoco.MjModel, joints: list[int], driven: np.ndarray) -> dict[str, list[float]]:
    """Gains of the PD drives: MuJoCo's joint damping is part of the drive, as in the PhysX
    reference, so that a force limit clamps proportional and derivative part together."""
    stiffness, damping, effort = (np.zeros(len(joints)) for _ in range(3))
    dofs = [int(model.jnt_dofadr[j]) for j in joints]
    damping[:] = model.dof_damping[dofs]
    for a in range(model.nu):
        k = joints.index(int(model.actuator_trnid[a, 0]))
        stiffness[k] = model.actuator_gainprm[a, 0]
        damping[k] -= model.actuator_biasprm[a, 2]
        effort[k] = model.actuator_forcerange[a, 1]
    effort[~driven] = 1e4  # only damps
    return {
        "stiffness": stiffness.tolist(),
        "damping": damping.tolist(),
        "effort": effort.tolist(),
        "armature": model.dof_armature[dofs].tolist(),
        "friction": model.dof_frictionloss[dofs].tolist(),
    }


# --- files ---------------------------------------------------------------------------------------


def _write_objects(probe: Probe, folder: Path) -> tuple[list[str], np.ndarray]:
    """One URDF for each object and mass that occurs; which of them each trial has."""
    urdfs: list[str] = []
    index = np.zeros(probe.num_trials, np.int32)
    for i, (k, mass) in enumerate(zip(probe.object_id, probe.object_params[:, 0], strict=True)):
        name = _write_object(probe.assets[int(k)], float(mass), folder / "objects")
        if name not in urdfs:
            urdfs.append(name)
        index[i] = urdfs.index(name)
    return [f"objects/{u}" for u in urdfs], index


def _write_object(asset: ObjectAsset, factor: float, folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    key = hashlib.sha256(b"".join(np.ascontiguousarray(p).tobytes() for p in asset.pieces))
    stem = f"{asset.name}_{key.hexdigest()[:8]}"
    collisions = []
    for n, vertices in enumerate(asset.pieces):
        file = folder / f"{stem}_{n}.obj"
        if not file.exists():
            file.write_text(_hull(np.asarray(vertices)))
        collisions.append(
            f'<collision><geometry><mesh filename="{file.name}"/></geometry></collision>'
        )
    inertia = factor * np.asarray(asset.inertia)
    full = dict(zip(("ixx", "ixy", "ixz", "iyy", "iyz", "izz"), _upper(inertia), strict=True))
    moments = " ".join(f'{k}="{v:.9g}"' for k, v in full.items())
    name = f"{stem}_{factor * asset.mass:.6g}kg.urdf"
    (folder / name).write_text(
        f'<robot name="object"><link name="object"><inertial><origin xyz="0 0 0"/>'
        f'<mass value="{factor * asset.mass:.9g}"/><inertia {moments}/></inertial>'
        f"{''.join(collisions)}</link></robot>\n"
    )
    return name


def _upper(inertia: np.ndarray) -> list[float]:
    """The six numbers of an inertia given as three moments or as a matrix."""
    matrix = np.diag(inertia) if inertia.shape == (3,) else inertia
    return [float(matrix[i, j]) for i in range(3) for j in range(i, 3)]


def _hull(vertices: np.ndarray) -> str:
    """Wavefront text of the convex hull, m, object frame."""
    import trimesh

    hull = trimesh.convex.convex_hull(vertices)
    lines = [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in hull.vertices]
    lines += [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in hull.faces]
    return "\n".join(lines) + "\n"


def _write_hand(scene: Scene, folder: Path) -> str:
    """The hand of the compiled scene as plain MJCF, with what importers other than MuJoCo's read:
    bodies, inertias, joints, boxes and capsules, fixed tendons."""
    settings = json.dumps(asdict(scene.config), sort_keys=True).encode()
    name = f"hand_{hashlib.sha256(settings).hexdigest()[:8]}.xml"
    model = scene.model
    first = next(b for b in range(1, model.nbody) if model.body(b).name != OBJECT_BODY)
    hand = _body(model, first)
    if scene.config.base == "servo":  # its joints hang on a link that importers can hold fixed
        held = '<inertial pos="0 0 0" mass="1" diaginertia="0.01 0.01 0.01"/>'
        hand = f'<body name="base">{held}{hand}</body>'
    text = [
        '<mujoco model="hand"><compiler angle="radian"/><worldbody>',
        hand,
        "</worldbody>",
        _tendons(model),
        "</mujoco>",
    ]
    (folder / name).write_text("".join(text) + "\n")
    return name


def _body(model: mujoco.MjModel, b: int) -> str:
    parts = [
        f'<body name="{model.body(b).name}" pos="{_row(model.body_pos[b])}" '
        f'quat="{_row(model.body_quat[b])}">',
        f'<inertial pos="{_row(model.body_ipos[b])}" quat="{_row(model.body_iquat[b])}" '
        f'mass="{model.body_mass[b]:.9g}" diaginertia="{_row(model.body_inertia[b])}"/>',
    ]
    for j in range(model.body_jntadr[b], model.body_jntadr[b] + model.body_jntnum[b]):
        if _moves(model, j):
            parts.append(
                f'<joint name="{model.joint(j).name}" '
                f'type="{"hinge" if _is_hinge(model, j) else "slide"}" '
                f'pos="{_row(model.jnt_pos[j])}" axis="{_row(model.jnt_axis[j])}" '
                f'limited="true" range="{_row(_range(model, j))}"/>'
            )
    for g in range(model.body_geomadr[b], model.body_geomadr[b] + model.body_geomnum[b]):
        if model.geom_contype[g] or model.geom_conaffinity[g]:
            kind = mujoco.mjtGeom(model.geom_type[g])
            shape = kind.name.removeprefix("mjGEOM_").lower()
            if shape not in ("box", "capsule", "sphere"):
                raise DataError(f"geom {model.geom(g).name!r}: {shape} is not written to a plan")
            count = {"box": 3, "capsule": 2, "sphere": 1}[shape]
            parts.append(
                f'<geom type="{shape}" size="{_row(model.geom_size[g, :count])}" '
                f'pos="{_row(model.geom_pos[g])}" quat="{_row(model.geom_quat[g])}"/>'
            )
    children = [c for c in range(b + 1, model.nbody) if model.body_parentid[c] == b]
    return "".join([*parts, *(_body(model, c) for c in children), "</body>"])


def _tendons(model: mujoco.MjModel) -> str:
    found = []
    for t in range(model.ntendon):
        rows = range(model.tendon_adr[t], model.tendon_adr[t] + model.tendon_num[t])
        if any(model.wrap_type[r] != mujoco.mjtWrap.mjWRAP_JOINT for r in rows):
            continue
        joints = "".join(
            f'<joint joint="{model.joint(int(model.wrap_objid[r])).name}" '
            f'coef="{model.wrap_prm[r]:.9g}"/>'
            for r in rows
        )
        limits = f'limited="true" range="{_row(model.tendon_range[t])}"'
        found.append(f'<fixed name="{model.tendon(t).name}" {limits}>{joints}</fixed>')
    return f"<tendon>{''.join(found)}</tendon>" if found else ""


def _row(values: Any) -> str:
    return " ".join(f"{float(v):.9g}" for v in values)
