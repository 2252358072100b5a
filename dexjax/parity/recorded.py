"""Traces of a plan as a simulator of probes: what was recorded elsewhere meets the same gates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mujoco
import numpy as np

from dexjax.core.errors import DataError
from dexjax.parity import schema
from dexjax.parity.plan import WRENCH_BODY, joint_targets, joint_types, moving_joints
from dexjax.parity.probe import FRAME, Probe, Recording, Simulator
from dexjax.parity.trace import Trace, read_trace, write_trace


class RecordedSimulator:
    """Returns the recordings that another simulator made of a plan (`isaac_recorder.py probes`).

    folder: its `--out`; repeat: which of its repeats. Raises DataError where a probe is missing or
    was recorded for another version of the plan.
    """

    def __init__(self, folder: str | Path, repeat: int = 0, name: str = "isaac") -> None:
        self.folder, self.repeat, self.name = Path(folder), repeat, name

    def settings(self) -> dict:
        """Contents of the traces of this repeat."""
        files = sorted(self.folder.glob(f"*_r{self.repeat}.npz"))
        return {"simulator": self.name, "traces": {f.name: read_trace(f).digest() for f in files}}

    def run(self, probe: Probe) -> Recording:
        """The recording of a probe, all trials."""
        files = sorted(self.folder.glob(f"{probe.name}_g*_r{self.repeat}.npz"))
        if not files:
            raise DataError(
                f"{self.folder}: no trace of probe {probe.name!r}, repeat {self.repeat}; record it "
                f"with isaac_recorder.py probes PLAN --only {probe.name}"
            )
        return recording_from_traces(probe, [read_trace(f) for f in files])


def record_traces(simulator: Simulator, probe: Probe, folder: str | Path) -> list[Path]:
    """Run a probe in one of our simulators and write its traces, as the Isaac recorder does.

    One file per direction of gravity, repeat 0: every simulator here repeats itself bit by bit.
    """
    recording = simulator.run(probe)
    files = []
    _, first, group = np.unique(probe.gravity, axis=0, return_index=True, return_inverse=True)
    for g in range(len(first)):
        rows = np.flatnonzero(group == g)
        meta, arrays = _as_trace(simulator, probe, recording, rows)
        path = Path(folder) / f"{probe.name}_g{g}_r0.npz"
        write_trace(path, meta, arrays)
        files.append(path)
    return files


def _as_trace(
    simulator: Simulator, probe: Probe, recording: Recording, rows: np.ndarray
) -> tuple[dict, dict[str, np.ndarray]]:
    """Metadata and arrays of the chosen trials. Velocities are those of centres of mass."""
    scene, model = probe.scene, probe.scene.model
    joints = moving_joints(scene)
    names = [model.joint(j).name for j in joints]
    qpos, qvel = recording["qpos"][:, rows], recording["qvel"][:, rows]
    pos, quat = recording["body_pos"][:, rows], recording["body_quat"][:, rows]
    at, vat = scene.object_qpos, scene.object_qvel
    thing = qpos[..., at + 3 : at + 7]
    hand = len(scene.hand.body_names)
    arrays = {
        "time": FRAME * np.arange(len(qpos)),
        "joint_pos": qpos[..., model.jnt_qposadr[joints]],
        "joint_vel": qvel[..., model.jnt_dofadr[joints]],
        "body_pos": pos[:, :, :hand],
        "body_quat": quat[:, :, :hand],
        "root_pos": pos[:, :, 0],
        "root_quat": quat[:, :, 0],
        "object_pos": qpos[:, :, None, at : at + 3],
        "object_quat": thing[:, :, None],
        "object_linvel": qvel[:, :, None, vat : vat + 3],
        "object_angvel": _rotate(thing, qvel[..., vat + 3 : vat + 6])[:, :, None],
        "target": joint_targets(probe)[:, rows],
        "applied_force": probe.wrench[:, rows, :3],
        "applied_torque": probe.wrench[:, rows, 3:],
        "param_trial": rows.astype(np.int32),
        "param_gravity": probe.gravity[rows],
        "param_friction": probe.object_params[rows, 1],
        "tip_force": recording["finger_force"][:, rows],
    }
    if probe.config.base == "wrench":
        spin = _rotate(quat[:, :, 0], qvel[..., 3:6])
        arm = _rotate(quat[:, :, 0], model.body_ipos[scene.body_ids[0]])
        arrays["root_angvel"] = spin
        arrays["root_linvel"] = qvel[..., :3] + np.cross(spin, arm)
    arrays = {k: v.astype(np.float32) if v.dtype.kind == "f" else v for k, v in arrays.items()}
    settings = simulator.settings()
    meta = schema.new_meta(
        probe.name,
        simulator=simulator.name,
        version=str(settings.get("simulator", "")),
        dt=FRAME,
        substeps=int(settings.get("substeps", 1)),
        axes={
            "joint": names,
            "actuator": names,
            "body": list(scene.hand.body_names),
            "object": ["object"],
            "tip": list(scene.hand.finger_names),
        },
        tip_wrench_frame="world",
        joint_types=joint_types(scene),
        wrench_frame="world",
        wrench_body=WRENCH_BODY,
        solver=settings,
        gravity=[float(g) for g in probe.gravity[rows[0]]],
        arrays={
            "param_trial": {"axes": ["env"], "unit": "index"},
            "param_gravity": {"axes": ["env", 3], "unit": "m/s^2"},
            "param_friction": {"axes": ["env"], "unit": "1"},
        },
        extra={
            "plan_key": probe.key(),
            "labels": [probe.labels[i] for i in rows],
            "tip_force": "of the object on the whole finger",
        },
    )
    return meta, arrays


def recording_from_traces(probe: Probe, traces: Sequence[Trace]) -> Recording:
    """What another simulator recorded of a probe, as our own simulators return it.

    traces: those of one repeat; together they hold every trial once (`param_trial`). Row 0 is the
    probe's own start. Velocities of a free hand are moved from its centre of mass to its origin.
    Poses of the hand's bodies are the recorded ones, after the steps; of row 0 ours plus what the
    first recorded row is off ours, so that differing kinematics shows. finger_force is the net
    contact force on each finger, whatever it touches; table_force is not known: NaN.
    Raises DataError for traces of another probe.
    """
    trial = np.concatenate([t["param_trial"] for t in traces]).astype(int)
    for trace in traces:
        if trace.meta.get("extra", {}).get("plan_key") != probe.key():
            raise DataError(
                f"{trace.source}: recorded for another version of probe {probe.name!r}; write the "
                "plan again (python -m dexjax.parity plan) and record it"
            )
        if trace.num_steps not in (probe.num_frames, max(1, probe.num_frames)):
            raise DataError(
                f"{trace.source}: {trace.num_steps} frames; {max(1, probe.num_frames)} are needed"
            )
    if sorted(trial.tolist()) != list(range(probe.num_trials)):
        raise DataError(
            f"{traces[0].source}: trials {sorted(trial.tolist())} of probe {probe.name!r}; each of "
            f"0 to {probe.num_trials - 1} is needed once"
        )
    rows = max(t.num_steps for t in traces) + 1
    qpos, qvel = (np.tile(x, (rows, 1, 1)) for x in (probe.qpos, probe.qvel))
    force = np.zeros((rows, probe.num_trials, len(probe.scene.hand.finger_names), 3))
    for trace in traces:
        _fill(probe, trace, qpos, qvel, force)
    pos, quat = _bodies(probe, qpos)
    for trace in traces:
        _replace_bodies(probe, trace, pos, quat)
    keep = probe.num_frames + 1  # a probe without time was recorded for one frame
    return {
        "qpos": qpos[:keep].astype(np.float32),
        "qvel": qvel[:keep].astype(np.float32),
        "body_pos": pos[:keep].astype(np.float32),
        "body_quat": quat[:keep].astype(np.float32),
        "finger_force": force[:keep].astype(np.float32),
        "table_force": np.full((keep, probe.num_trials), np.nan, np.float32),
        "finite": np.ones((keep, probe.num_trials), np.float32),
    }


def _fill(
    probe: Probe, trace: Trace, qpos: np.ndarray, qvel: np.ndarray, force: np.ndarray
) -> None:
    """Coordinates, velocities and finger forces of one trace's trials, after each step."""
    scene, model = probe.scene, probe.scene.model
    rows = trace["param_trial"].astype(int)
    joints = moving_joints(scene)
    part = trace.select("joint", [model.joint(j).name for j in joints])
    qpos[1:, rows[:, None], model.jnt_qposadr[joints]] = part.after("joint_pos")
    qvel[1:, rows[:, None], model.jnt_dofadr[joints]] = part.after("joint_vel")
    if probe.config.base == "wrench":
        quat, spin = trace.after("root_quat"), trace.after("root_angvel")
        arm = _rotate(quat, model.body_ipos[scene.body_ids[0]])
        qpos[1:, rows, :3], qpos[1:, rows, 3:7] = trace.after("root_pos"), quat
        qvel[1:, rows, :3] = trace.after("root_linvel") - np.cross(spin, arm)
        qvel[1:, rows, 3:6] = _rotate(quat, spin, inverse=True)
    at, vat = scene.object_qpos, scene.object_qvel
    quat = trace.after("object_quat")[:, :, 0]
    qpos[1:, rows, at : at + 3] = trace.after("object_pos")[:, :, 0]
    qpos[1:, rows, at + 3 : at + 7] = quat
    qvel[1:, rows, vat : vat + 3] = trace.after("object_linvel")[:, :, 0]
    qvel[1:, rows, vat + 3 : vat + 6] = _rotate(
        quat, trace.after("object_angvel")[:, :, 0], inverse=True
    )
    hand = scene.hand
    if "contact_force" not in trace:
        force[1:, rows] = trace.select("tip", hand.finger_names).after("tip_force")
        return
    contact = trace.select("body", hand.body_names).after("contact_force")
    finger = np.array(hand.body_finger)
    for f in range(len(hand.finger_names)):
        force[1:, rows, f] = contact[:, :, finger == f].sum(2)


def _bodies(probe: Probe, qpos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Body poses at the coordinates (rows, B, nq), by MuJoCo's kinematics."""
    scene = probe.scene
    data = mujoco.MjData(scene.model)
    shape = (*qpos.shape[:2], len(scene.body_ids))
    pos, quat = np.zeros((*shape, 3)), np.zeros((*shape, 4))
    for t, i in np.ndindex(qpos.shape[:2]):
        data.qpos[:] = qpos[t, i]
        mujoco.mj_kinematics(scene.model, data)
        pos[t, i], quat[t, i] = data.xpos[scene.body_ids], data.xquat[scene.body_ids]
    return pos, quat


def _replace_bodies(probe: Probe, trace: Trace, pos: np.ndarray, quat: np.ndarray) -> None:
    rows = trace["param_trial"].astype(int)
    part = trace.select("body", probe.scene.hand.body_names)
    found, turned = part.after("body_pos").astype(float), part.after("body_quat").astype(float)
    bodies = slice(0, found.shape[2])
    if trace.meta["arrays"]["body_pos"]["axes"][0] == schema.STATE:
        pos[0, rows, bodies], quat[0, rows, bodies] = part["body_pos"][0], part["body_quat"][0]
        pos[1:, rows, bodies], quat[1:, rows, bodies] = found, turned
        return
    pos[0, rows, bodies] += found[0] - pos[1, rows, bodies]
    turn = _multiply(turned[0], _conjugate(quat[1, rows, bodies]))
    quat[0, rows, bodies] = _multiply(turn, quat[0, rows, bodies])
    pos[1:, rows, bodies], quat[1:, rows, bodies] = found, turned


def _conjugate(quat: np.ndarray) -> np.ndarray:
    return quat * [1.0, -1.0, -1.0, -1.0]


def _multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Products of quaternions wxyz, broadcast."""
    w = a[..., :1] * b[..., :1] - (a[..., 1:] * b[..., 1:]).sum(-1, keepdims=True)
    v = a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:] + np.cross(a[..., 1:], b[..., 1:])
    return np.concatenate([w, v], -1)


def _rotate(quat: np.ndarray, vector: np.ndarray, inverse: bool = False) -> np.ndarray:
    v = -quat[..., 1:] if inverse else quat[..., 1:]
    twice = 2 * np.cross(v, np.broadcast_to(vector, v.shape))
    return vector + quat[..., :1] * twice + np.cross(v, twice)
