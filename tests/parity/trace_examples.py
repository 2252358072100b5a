"""A small trace of motion that is right by construction: joints on sine waves, a turning object."""

from __future__ import annotations

from typing import Any

import numpy as np

from dexjax.parity import schema

JOINTS = ["FFJ3", "FFJ2", "FFJ1", "slide_z"]
STEPS, ENVS, DT = 30, 3, 1 / 60


def turning(spin: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Quaternions (T, B, 4) wxyz: constant spin (B, 3) from a tilted start."""
    rate = np.linalg.norm(spin, axis=-1)
    half = 0.5 * times[:, None] * rate
    axis = spin / rate[:, None]
    turn = np.concatenate([np.cos(half)[..., None], np.sin(half)[..., None] * axis], -1)
    start = np.array([0.5, 0.5, -0.5, 0.5])
    w, v = turn[..., :1], turn[..., 1:]
    return np.concatenate(
        [
            w * start[0] - (v * start[1:]).sum(-1, keepdims=True),
            w * start[1:] + start[0] * v + np.cross(v, start[1:]),
        ],
        -1,
    )


def example(quaternion: str = "wxyz") -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Metadata and arrays of a valid trace."""
    times = DT * np.arange(STEPS + 1)
    rng = np.random.default_rng(0)
    phase = rng.uniform(0, 6, (ENVS, 4))
    speed = np.array([2.0, 3.0, 5.0, 4.0])
    angle = speed * times[:, None, None] + phase
    spin = rng.normal(size=(ENVS, 3)) * 3
    quat = turning(spin, times)[:, :, None]
    arrays = {
        "time": times,
        "joint_pos": 0.3 * np.sin(angle),
        "joint_vel": 0.3 * speed * np.cos(angle),
        "object_pos": rng.normal(size=(STEPS + 1, ENVS, 1, 3)),
        "object_quat": np.roll(quat, -1, -1) if quaternion == "xyzw" else quat,
        "object_angvel": np.broadcast_to(spin[None, :, None], (STEPS + 1, ENVS, 1, 3)),
        "action": rng.uniform(-1, 1, (STEPS, ENVS, 2)),
        "reward_terms": rng.normal(size=(STEPS, ENVS, 2)),
        "success": np.zeros((STEPS, ENVS), bool),
        "object_id": np.arange(ENVS),
        "param_friction": np.full(ENVS, 0.5),
    }
    arrays = {k: v.astype(np.float32) if v.dtype.kind == "f" else v for k, v in arrays.items()}
    meta = schema.new_meta(
        "joint_steps",
        simulator="none",
        version="1",
        dt=DT,
        substeps=2,
        axes={
            "joint": list(JOINTS),
            "object": ["box"],
            "action": ["a", "b"],
            "term": ["reach", "lift"],
        },
        quaternion=quaternion,
        joint_types=["hinge", "hinge", "hinge", "slide"],
        properties={"joint": {"lower": [-0.4] * 4, "upper": [0.4] * 3 + [None]}},
        arrays={"param_friction": {"axes": ["env"], "unit": "1"}},
    )
    return meta, arrays
