"""UniDexGrasp++'s state-based task in plain NumPy, one environment at a time, in double precision.

Written from the published formulas alone; it shares no code with the environment, and no constant.
Raw simulator state in, the 300 observations, the reward terms and the success of one step out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# FF, MF, RF: J3 J2 J1 J0; LF: J4 J3 J2 J1 J0; TH: J4 J3 J2 J1 J0 (rad).
FINGER = [(-0.349, 0.349), (0, 1.571), (0, 1.571), (0, 1.571)]
THUMB = [(-1.047, 1.047), (0, 1.222), (-0.209, 0.209), (-0.524, 0.524), (-1.571, 0)]
LIMITS = np.array([*FINGER * 3, (0, 0.785), *FINGER, *THUMB])
DRIVEN = [0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 15, 17, 18, 19, 20, 21]  # all but the fingers' J0
DISTAL_COM = np.array([0.015, 0.015, 0.015, 0.015, 0.016])  # m along each distal link
GOAL = np.array([0.0, 0.0, 0.9])


@dataclass(frozen=True)
class Raw:
    """What the simulator knows of one environment, world frame, quaternions wxyz."""

    joints: np.ndarray  # (22,)
    joint_speeds: np.ndarray  # (22,)
    joint_forces: np.ndarray  # (22,)
    palm: tuple[np.ndarray, np.ndarray]  # position, quaternion
    distal_pos: np.ndarray  # (5, 3) FF MF RF LF TH
    distal_quat: np.ndarray  # (5, 4)
    distal_vel: np.ndarray  # (5, 3) of the link origin
    distal_spin: np.ndarray  # (5, 3)
    distal_force: np.ndarray  # (5, 3)
    distal_torque: np.ndarray  # (5, 3)
    object_com: np.ndarray  # (3,)
    object_quat: np.ndarray  # (4,)
    object_vel: np.ndarray  # (3,) of the centre of mass
    object_spin: np.ndarray  # (3,)
    mesh_origin: np.ndarray  # (3,) seen from the centre of mass, object axes
    feature: np.ndarray  # (64,)


def rotation(quat: np.ndarray) -> np.ndarray:
    """(3, 3) matrix of a quaternion."""
    w, x, y, z = quat / np.linalg.norm(quat)
    return np.array(
        [
            [w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z],
        ]
    )


def roll_pitch_yaw(matrix: np.ndarray) -> np.ndarray:
    """Angles of R = Rz(yaw) Ry(pitch) Rx(roll), each in [0, 2 pi)."""
    roll = np.arctan2(matrix[2, 1], matrix[2, 2])
    pitch = -np.arcsin(np.clip(matrix[2, 0], -1, 1))
    yaw = np.arctan2(matrix[1, 0], matrix[0, 0])
    return np.array([roll, pitch, yaw]) % (2 * np.pi)


def object_position(raw: Raw) -> np.ndarray:
    return raw.object_com + rotation(raw.object_quat) @ raw.mesh_origin


def grasp_centre(raw: Raw) -> np.ndarray:
    position, quat = raw.palm
    return position + rotation(quat) @ np.array([0.0, -0.02, 0.08])


def observation(raw: Raw, action: np.ndarray) -> np.ndarray:
    """The 300 observations; `action` is the last one, clipped (zeros after a reset)."""
    obs = np.zeros(300)
    low, high = LIMITS.T
    obs[0:22] = 2 * (raw.joints - low) / (high - low) - 1
    obs[22:44] = 0.2 * raw.joint_speeds
    obs[44:66] = 10 * raw.joint_forces
    for i in range(5):
        frame = rotation(raw.distal_quat[i])
        w, x, y, z = raw.distal_quat[i]
        com = frame[:, 2] * DISTAL_COM[i]
        at = 66 + 13 * i
        obs[at : at + 3] = raw.distal_pos[i]
        obs[at + 3 : at + 7] = x, y, z, w
        obs[at + 7 : at + 10] = raw.distal_vel[i] + np.cross(raw.distal_spin[i], com)
        obs[at + 10 : at + 13] = raw.distal_spin[i]
        obs[131 + 6 * i : 134 + 6 * i] = 10 * frame.T @ raw.distal_force[i]
        obs[134 + 6 * i : 137 + 6 * i] = 10 * frame.T @ raw.distal_torque[i]
    obs[161:164] = grasp_centre(raw)
    obs[164:167] = roll_pitch_yaw(rotation(raw.palm[1]))
    obs[167:191] = action
    obs[191:194] = object_position(raw)
    w, x, y, z = raw.object_quat
    obs[194:198] = x, y, z, w
    obs[198:201] = raw.object_vel
    obs[201:204] = 0.2 * raw.object_spin
    obs[204:207] = GOAL - object_position(raw)
    # 207:236 was the offset from a target grasp: zeros
    obs[236:300] = 0.1 * raw.feature
    return np.clip(obs, -5, 5)


def reward(raw: Raw, action: np.ndarray) -> dict[str, float]:
    """Terms of R = -0.5 d_f - d_h + F (0.9 - 2 d_g) + up + F [d_g <= 0.05] / (1 + 10 d_g)."""
    x = object_position(raw)
    d_f = 0.0
    for position, quat in zip(raw.distal_pos, raw.distal_quat, strict=True):
        d_f += np.linalg.norm(x - (position + 0.02 * rotation(quat)[:, 2]))
    d_f = min(d_f, 3.0)
    d_h = min(np.linalg.norm(x - grasp_centre(raw)), 0.5)
    d_g = np.linalg.norm(GOAL - x)
    near = d_f <= 0.6 and d_h <= 0.12
    up = 0.0
    if near and x[2] >= 0.63:
        up = 0.1 + 0.1 * action[2]
    if near and x[2] >= 0.80:
        up = 0.2
    return {
        "reach_fingers": -0.5 * d_f,
        "reach_palm": -d_h,
        "approach_goal": 0.9 - 2 * d_g if near else 0.0,
        "lift": up,
        "bonus": 1 / (1 + 10 * d_g) if near and d_g <= 0.05 else 0.0,
    }


def at_goal(raw: Raw) -> bool:
    return bool(np.linalg.norm(GOAL - object_position(raw)) <= 0.05)


def drive(action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Force and torque on the palm, world axes (6,), and targets of the 18 driven joints (rad)."""
    dt = 1 / 60
    force = action[0:3] * dt * 0.5 * 1e5
    torque = action[3:6] * dt * 0.1 * 1e3
    low, high = LIMITS[DRIVEN].T
    return np.concatenate([force, torque]), low + (action[6:24] + 1) / 2 * (high - low)
