"""The task of UniDexGrasp's releases in plain NumPy, recomputed from traced states.

Written from the published formulas (sources in docs/parity.md); it shares no code and no constant
with the environment, so that a trace of Isaac Gym and one of ours meet the same third party.
Arrays are (T, B, ...): after each step of each episode; quaternions wxyz.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dexjax.core.errors import DataError, unknown_name
from dexjax.parity.trace import Trace

TOLERANCE = 1e-4
JOINTS = (
    "FFJ3", "FFJ2", "FFJ1", "FFJ0", "MFJ3", "MFJ2", "MFJ1", "MFJ0", "RFJ3", "RFJ2", "RFJ1", "RFJ0",
    "LFJ4", "LFJ3", "LFJ2", "LFJ1", "LFJ0", "THJ4", "THJ3", "THJ2", "THJ1", "THJ0",
)  # fmt: skip
DRIVEN = tuple(j for j in JOINTS if j[2:] != "J0" or j == "THJ0")
TIPS = ("ffdistal", "mfdistal", "rfdistal", "lfdistal", "thdistal")
ROWS: dict[str, slice] = {
    "joint positions": slice(0, 22),
    "joint velocities": slice(22, 44),
    "joint forces": slice(44, 66),
    "fingertip states": slice(66, 131),
    "fingertip force-torque": slice(131, 161),
    "grasp centre": slice(161, 164),
    "hand angles": slice(164, 167),
    "last action": slice(167, 191),
    "object pose": slice(191, 198),
    "object velocity": slice(198, 204),
    "goal minus object": slice(204, 207),
    "target grasp": slice(207, 236),
    "object feature": slice(236, 300),
}


@dataclass(frozen=True)
class Release:
    """What a release does differently; `trace` parameters hold the numbers that it drew."""

    reward: str  # "plain", "goal" or "cloud"
    observe_target: bool = False
    observation: bool = True  # the 300 numbers above
    hold: tuple[float, float] = (0.0, 0.0)  # m_f, m_h of the cloud reward


RELEASES = {
    "unidexgrasp++": Release("plain"),
    "afforddex": Release("plain"),
    "unidexgrasp": Release("plain", observe_target=True),
    "unidexgrasp-goal": Release("goal", observe_target=True),
    "unigrasptransformer": Release("cloud", observation=False, hold=(0.2, 0.04)),
    "unigrasptransformer-universal": Release("cloud", observation=False, hold=(0.3, 0.06)),
}


@dataclass(frozen=True)
class Recomputed:
    """What the formulas give for a trace."""

    observation: np.ndarray | None  # (T, B, 300), not clipped
    terms: dict[str, np.ndarray]  # (T, B)
    success: np.ndarray  # (T, B) at the goal now or earlier in the episode
    target: np.ndarray  # (T, B, 18) in the order of DRIVEN
    force: np.ndarray  # (T, B, 3) N, world
    torque: np.ndarray  # (T, B, 3) N m


def find_release(name: str) -> Release:
    """A release by name; ConfigError with the nearest names otherwise."""
    if name not in RELEASES:
        raise unknown_name("release", name, RELEASES)
    return RELEASES[name]


# --- comparison ----------------------------------------------------------------------------------


def task_errors(trace: Trace, release: Release) -> dict[str, float]:
    """Largest difference of every recorded quantity and the recomputed one, by name.

    Observations are compared as policies see them, clipped to +-5; hand angles on the circle.
    Raises DataError where the trace lacks what the formulas need, or has nothing to compare.
    """
    found = recompute(trace, release)
    errors: dict[str, float] = {}
    if found.observation is not None and "observation" in trace:
        recorded = trace.after("observation")
        if recorded.shape[-1] != 300:
            raise DataError(
                f"{trace.source}[observation]: {recorded.shape[-1]} numbers; this release has 300"
            )
        for name, rows in ROWS.items():
            difference = _clipped(recorded[..., rows]) - _clipped(found.observation[..., rows])
            if name == "hand angles":
                difference = _on_circle(recorded[..., rows], found.observation[..., rows])
            errors[f"observation: {name}"] = _largest(difference)
    if "reward_terms" in trace:
        names = trace.names("term")
        for name, value in found.terms.items():
            if name not in names:
                raise DataError(f"{trace.source}: reward term {name!r} was not recorded")
            recorded = trace["reward_terms"][..., names.index(name)]
            errors[f"reward term: {name}"] = _largest(recorded - value)
    if "reward" in trace:
        errors["reward"] = _largest(trace["reward"] - np.sum(list(found.terms.values()), 0))
    if "success" in trace:
        errors["success"] = float((trace["success"] != found.success).mean())
    if "target" in trace:
        recorded = trace.select("actuator", DRIVEN)["target"]
        errors["action: joint targets"] = _largest(recorded - found.target)
    for name, values in (("applied_force", found.force), ("applied_torque", found.torque)):
        if name in trace:  # relative: 833 N in float32
            scale = max(1.0, float(np.abs(values).max()))
            errors[f"action: {name} (relative)"] = _largest(trace[name] - values) / scale
    if not errors:
        raise DataError(f"{trace.source}: no observation, reward or action was recorded")
    return errors


def report(trace: Trace, release_name: str) -> tuple[str, bool]:
    """Text of `task_errors`, and whether all are within the tolerance."""
    errors = task_errors(trace, find_release(release_name))
    lines = [f"{trace.source}: {trace.num_envs} episodes x {trace.num_steps} steps, {release_name}"]
    for name, error in errors.items():
        verdict = "" if error <= TOLERANCE else f"  FAILS {TOLERANCE:g}"
        lines.append(f"  {name:38s} {error:10.2e}{verdict}")
    return "\n".join(lines), max(errors.values()) <= TOLERANCE


def _clipped(x: np.ndarray) -> np.ndarray:
    return np.clip(x.astype(float), -5, 5)


def _on_circle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Difference of angles in [0, 2 pi), which the policy sees clipped at 5: 0 and just below 2 pi
    are one angle, and which it is hangs on the last bit."""
    straight = _clipped(a) - _clipped(b)
    seam = [np.where(x < 1, x, np.minimum(x - 2 * np.pi, 0)) for x in (a, b)]
    near_seam = (np.minimum(a % (2 * np.pi), -a % (2 * np.pi)) < 0.01) | (a >= 5)
    near_seam &= (np.minimum(b % (2 * np.pi), -b % (2 * np.pi)) < 0.01) | (b >= 5)
    clipped_away = (a == 5) | (b == 5)  # recorded after the clip: no more is known
    around = np.where(clipped_away, 0.0, seam[0] - seam[1])
    return np.where(near_seam, around, straight)


def _largest(x: np.ndarray) -> float:
    return float(np.abs(x).max()) if x.size else 0.0


# --- formulas ------------------------------------------------------------------------------------


def recompute(trace: Trace, release: Release) -> Recomputed:
    """Observations, reward terms, success and controls of every step of a trace."""
    trace = trace.select("joint", JOINTS)
    x = _state(trace)
    raw = trace["action_raw"] if "action_raw" in trace else trace["action"]
    action = np.clip(raw.astype(float), -1, 1)  # in the frame that the policy sees
    yaw = _parameter(trace, "z_theta", ())
    force, torque, target = _controls(trace, action, yaw)
    success = np.maximum.accumulate(x.goal_distance <= 0.05, axis=0)
    terms = {"plain": _plain, "goal": _goal, "cloud": _cloud}[release.reward](
        trace, x, action, release
    )
    observation = _observation(trace, x, action, yaw, release) if release.observation else None
    return Recomputed(observation, terms, success, target, force, torque)


@dataclass(frozen=True)
class _State:
    """Quantities that observations and rewards share, world frame."""

    joints: np.ndarray
    palm_quat: np.ndarray
    centre: np.ndarray  # grasp centre
    link_pos: np.ndarray  # (T, B, 5, 3) distal links
    link_quat: np.ndarray
    tips: np.ndarray  # 2 cm along them
    object_pos: np.ndarray
    object_quat: np.ndarray
    goal: np.ndarray

    @property
    def goal_distance(self) -> np.ndarray:
        return np.linalg.norm(self.goal - self.object_pos, axis=-1)


def _state(trace: Trace) -> _State:
    palm = trace.select("body", ["palm"])
    palm_pos, palm_quat = palm.after("body_pos")[:, :, 0], palm.after("body_quat")[:, :, 0]
    palm_pos, palm_quat = palm_pos.astype(float), palm_quat.astype(float)
    links = trace.select("body", TIPS)
    link_pos, link_quat = (links.after(k).astype(float) for k in ("body_pos", "body_quat"))
    goal = trace.after("goal_pos").astype(float)
    return _State(
        joints=trace.after("joint_pos").astype(float),
        palm_quat=palm_quat,
        centre=palm_pos + _turn(palm_quat, [0, -0.02, 0.08]),
        link_pos=link_pos,
        link_quat=link_quat,
        tips=link_pos + _turn(link_quat, [0, 0, 0.02]),
        object_pos=trace.after("object_pos")[:, :, 0].astype(float),
        object_quat=trace.after("object_quat")[:, :, 0].astype(float),
        goal=goal,
    )


def _controls(
    trace: Trace, action: np.ndarray, yaw: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Force, torque (world) and joint targets of actions in [-1, 1]."""
    dt = float(trace.meta["dt"])
    turn = np.broadcast_to(_about_z(yaw), (*action.shape[:2], 4))
    force = _turn(turn, action[..., 0:3] * dt * 0.5 * 1e5)
    torque = _turn(turn, action[..., 3:6] * dt * 0.1 * 1e3)
    low, high = _limits(trace)
    rows = [JOINTS.index(j) for j in DRIVEN]
    target = low[rows] + (action[..., 6:24] + 1) / 2 * (high - low)[rows]
    return force, torque, target


def _observation(
    trace: Trace, x: _State, action: np.ndarray, yaw: np.ndarray, release: Release
) -> np.ndarray:
    steps, envs = x.joints.shape[:2]
    obs = np.zeros((steps, envs, 300))
    low, high = _limits(trace)
    obs[..., 0:22] = (2 * x.joints - high - low) / (high - low)
    obs[..., 22:44] = 0.2 * trace.after("joint_vel")
    obs[..., 44:66] = 10 * trace.after("joint_force")
    # Seen from a frame turned by the hand's yaw about the world's z axis.
    back = np.broadcast_to(_about_z(-yaw), (steps, envs, 4))
    links = trace.select("body", TIPS)
    tips = trace.select("tip", TIPS)
    for i in range(5):
        at = 66 + 13 * i
        obs[..., at : at + 3] = _turn(back, x.link_pos[:, :, i])
        obs[..., at + 3 : at + 7] = _xyzw(_product(back, x.link_quat[:, :, i]))
        obs[..., at + 7 : at + 10] = _turn(back, links.after("body_linvel")[:, :, i])
        obs[..., at + 10 : at + 13] = _turn(back, links.after("body_angvel")[:, :, i])
        at = 131 + 6 * i
        obs[..., at : at + 3] = 10 * tips.after("tip_force")[:, :, i]
        obs[..., at + 3 : at + 6] = 10 * tips.after("tip_torque")[:, :, i]
    obs[..., 161:164] = _turn(back, x.centre)
    root = trace.after("root_quat").astype(float)
    obs[..., 164:167] = _angles(_product(back, root))
    obs[..., 167:191] = action
    obs[..., 191:194] = _turn(back, x.object_pos)
    obs[..., 194:198] = _xyzw(_product(back, x.object_quat))
    obs[..., 198:201] = _turn(back, trace.after("object_linvel")[:, :, 0])
    obs[..., 201:204] = 0.2 * _turn(back, trace.after("object_angvel")[:, :, 0])
    obs[..., 204:207] = _turn(back, x.goal - x.object_pos)
    if release.observe_target:
        position, rotation, joints = _from_target(trace, x)
        obs[..., 207:236] = np.concatenate([position, _xyzw(rotation), joints], -1)
    obs[..., 236:300] = 0.1 * _parameter(trace, "visual_feature", (64,))
    return obs


def _from_target(trace: Trace, x: _State) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hand minus target grasp: position, rotation (wxyz) in the object's frame, and joints."""
    target = np.roll(_parameter(trace, "target_hand_rot", (4,)), 1, axis=-1)
    away = _conjugate(x.object_quat)
    position = _turn(away, x.centre - x.object_pos) - _parameter(trace, "target_hand_pos", (3,))
    target = np.broadcast_to(target, x.palm_quat.shape)
    rotation = _product(_product(away, x.palm_quat), _conjugate(target))
    return position, rotation, x.joints - _parameter(trace, "target_qpos", (22,))


def _near(x: _State) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """d_f, d_h (capped) and F of the rewards that measure to the object's origin."""
    d_f = np.linalg.norm(x.object_pos[:, :, None] - x.tips, axis=-1).sum(-1)
    d_f = np.where(d_f >= 3.0, 3.0, d_f)
    d_h = np.linalg.norm(x.object_pos - x.centre, axis=-1)
    d_h = np.where(d_h >= 0.5, 0.5, d_h)
    return d_f, d_h, (d_f <= 0.6) & (d_h <= 0.12)


def _up(x: _State, action: np.ndarray, near: np.ndarray, above: np.ndarray | float) -> np.ndarray:
    height = x.object_pos[..., 2]
    up = np.where((height >= above) & near, 0.1 + 0.1 * action[..., 2], 0.0)
    return np.where((height >= 0.80) & near, 0.2, up)


def _plain(trace: Trace, x: _State, action: np.ndarray, release: Release) -> dict[str, np.ndarray]:
    d_f, d_h, near = _near(x)
    d_g = x.goal_distance
    return {
        "reach_fingers": -0.5 * d_f,
        "reach_palm": -1.0 * d_h,
        "approach_goal": np.where(near, 0.9 - 2 * d_g, 0.0),
        "lift": _up(x, action, near, 0.63),
        "bonus": np.where(near & (d_g <= 0.05), 1 / (1 + 10 * d_g), 0.0),
    }


def _goal(trace: Trace, x: _State, action: np.ndarray, release: Release) -> dict[str, np.ndarray]:
    d_f, d_h, near = _near(x)
    d_g = x.goal_distance
    position, rotation, joints = _from_target(trace, x)
    dp = np.abs(position).sum(-1)
    angle = 2 * np.arcsin(np.minimum(np.linalg.norm(rotation[..., 1:], axis=-1), 1))
    dq = np.abs(joints).sum(-1)
    reached = (dp <= 0.4) & (angle <= 1.0) & (dq <= 6.0)
    resting = _parameter(trace, "object_init_z", ())
    return {
        "reach_fingers": -0.5 * d_f,
        "reach_palm": -1.0 * d_h,
        "approach_goal": np.where(near & reached, 0.9 - 2 * d_g, 0.0),
        "lift": _up(x, action, near, resting + 0.6 + 0.003),
        "bonus": np.where(d_g <= 0.05, 1 / (1 + 10 * d_g), 0.0),
        "reach_target": -0.5 * (0.6 * dp + 0.04 * angle + 0.1 * dq),
    }


def _cloud(trace: Trace, x: _State, action: np.ndarray, release: Release) -> dict[str, np.ndarray]:
    """Distances to points on the object, `param_object_points` (B, P, 3) in its frame."""
    points = trace["param_object_points"].astype(float)
    cloud = x.object_pos[:, :, None] + _turn(x.object_quat[:, :, None], points[None])

    def nearest(places: np.ndarray) -> np.ndarray:
        """(T, B, n) from places (T, B, n, 3), a few at a time: there are many points."""
        columns = [
            np.sqrt(((places[:, :, i, None] - cloud) ** 2).sum(-1).min(-1))
            for i in range(places.shape[2])
        ]
        return np.stack(columns, -1)

    d_h = np.minimum(nearest(x.centre[:, :, None])[..., 0], 0.5)
    d_f = np.minimum(nearest(x.tips).sum(-1), 3.0)
    body = nearest(_hand_points(trace))
    d_b = np.minimum(body.sum(-1) * 5 / body.shape[-1], 3.0)
    near = (d_b <= release.hold[0]) & (d_h <= release.hold[1])
    d_g = x.goal_distance
    lowest = cloud[..., 2].min(-1)
    up = np.where(lowest >= 0.61, 0.1 + 0.1 * action[..., 2], 0.0)
    up = np.where(lowest >= 0.80, 0.2 + (0.2 - d_g), up)
    ready = [0.1, 0, 0.6, 0, 0, 0, 0.6, 0, -0.1, 0, 0.6, 0, 0, -0.2, 0, 0.6, 0, 0, 1.2, 0, -0.2, 0]
    ends = np.abs(x.joints[..., [3, 7, 11, 16, 21]])
    bend = np.linalg.norm(ends * (ends > 1), axis=-1)
    return {
        "open_hand": np.where(near, 0, -0.1 * np.linalg.norm(x.joints - ready, axis=-1)),
        "reach_palm": np.where(near, -2 * d_h, -d_h),
        "reach_fingers": np.where(near, -d_f, 0),
        "reach_hand": np.where(near, -d_b, 0),
        "approach_goal": np.where(near, -0.5 * d_g + (0.9 - 2 * d_g), 0),
        "lift": np.where(near, 2 * up, 0),
        "bonus": np.where(near & (d_g <= 0.05), 1 / (1 + 10 * d_g), 0),
        "straight_tips": np.where(near, -0.05 * bend, 0),
    }


# Bodies 1, 3, 4, 5, 7, 8, 9, 10, 12, 13, 14, 15, 17, 18, 19, 21, 23 of the release's hand.
_SEVENTEEN = (
    "palm", "ffproximal", "ffmiddle", "ffdistal", "mfproximal", "mfmiddle", "mfdistal",
    "rfknuckle", "rfmiddle", "rfdistal", "lfmetacarpal", "lfknuckle", "lfmiddle", "lfdistal",
    "thbase", "thhub", "thdistal",
)  # fmt: skip
_ON_PALM = ((3, 0), (-3, 0), (0, 3), (0, 6), (3, 6), (1.5, 1.5), (-3, 3))  # x, z in cm; y -0.5


def _hand_points(trace: Trace) -> np.ndarray:
    """(T, B, 36, 3) world."""
    part = trace.select("body", _SEVENTEEN)
    pos, quat = part.after("body_pos").astype(float), part.after("body_quat").astype(float)
    found = []
    for n in range(len(_SEVENTEEN)):
        if n == 0:
            offsets = [[x / 100, -0.005, z / 100] for x, z in _ON_PALM]
        elif n == 10:
            offsets = [[-0.015, 0, 0.02]]
        elif n in (2, 5, 8, 12):
            offsets = []
        else:
            offsets = [[0, 0, 0.02]]
        found += [pos[:, :, n] + _turn(quat[:, :, n], o) for o in offsets]
    return np.concatenate([np.stack(found, 2), pos], 2)


def _limits(trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    return trace.property("joint", "lower"), trace.property("joint", "upper")


def _parameter(trace: Trace, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A number per episode (B, ...), zeros where it was not recorded."""
    key = f"param_{name}"
    if key not in trace:
        return np.zeros((trace.num_envs, *shape))
    return trace[key].astype(float).reshape(trace.num_envs, *shape)


# --- rotations -----------------------------------------------------------------------------------


def _turn(quat: np.ndarray, vector: np.ndarray | list[float]) -> np.ndarray:
    """Vectors in the world of quaternions (..., 4)."""
    v = np.asarray(vector, float)
    w, u = quat[..., :1], quat[..., 1:]
    shape = np.broadcast_shapes(u.shape, v.shape)
    u, v = np.broadcast_to(u, shape), np.broadcast_to(v, shape)
    return v + 2 * w * np.cross(u, v) + 2 * np.cross(u, np.cross(u, v))


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    w = a[..., :1] * b[..., :1] - (a[..., 1:] * b[..., 1:]).sum(-1, keepdims=True)
    v = a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:] + np.cross(a[..., 1:], b[..., 1:])
    return np.concatenate([w, v], -1)


def _conjugate(quat: np.ndarray) -> np.ndarray:
    return quat * np.array([1, -1, -1, -1])


def _xyzw(quat: np.ndarray) -> np.ndarray:
    return np.concatenate([quat[..., 1:], quat[..., :1]], -1)


def _about_z(angle: np.ndarray) -> np.ndarray:
    zero = np.zeros_like(angle)
    return np.stack([np.cos(angle / 2), zero, zero, np.sin(angle / 2)], -1)


def _angles(quat: np.ndarray) -> np.ndarray:
    """Roll, pitch, yaw of R = Rz Ry Rx, each in [0, 2 pi), as isaacgym's get_euler_xyz."""
    w, x, y, z = np.moveaxis(quat, -1, 0)
    roll = np.arctan2(2 * (w * x + y * z), w * w - x * x - y * y + z * z)
    pitch = np.arcsin(np.clip(2 * (w * y - z * x), -1, 1))
    yaw = np.arctan2(2 * (w * z + x * y), w * w + x * x - y * y - z * z)
    return np.stack([roll, pitch, yaw], -1) % (2 * np.pi)
