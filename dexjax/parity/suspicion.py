"""Traces that contradict themselves: degrees for radians, xyzw for wxyz, joints in another order.

Positions and velocities of a trace say the same thing twice. What the metadata declares is refused
only where the data fit it badly and fit one known mistake well, so that contacts, filtered
velocities or a hand that never moves raise no alarm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dexjax.core.errors import DataError
from dexjax.parity import schema

_BAD, _GOOD = 0.5, 0.1  # relative error of a reading that is refused, and of one that explains
_SLOW = 1e-3  # rad/s: slower motion says nothing


def check_plausible(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray], source: str) -> None:
    """Raise DataError where units or orders are refuted by the trace's own numbers."""
    interval = float(meta["interval"])
    if "joint_pos" in arrays and "joint_vel" in arrays:
        pos, vel = _same_rows(arrays["joint_pos"], arrays["joint_vel"])
        _check_joints(pos, vel, meta, interval, source)
    if "joint_pos" in arrays:
        _check_limits(arrays["joint_pos"], meta, source)
    for name in schema.QUATERNIONS:
        spin = name.replace("quat", "angvel")
        if name in arrays and spin in arrays:
            quat, turning = _same_rows(arrays[name], arrays[spin])
            _check_order(name, quat, turning, meta["quaternion"], interval, source)


def _same_rows(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both without a first row that only one of them has."""
    rows = min(len(a), len(b))
    return a[len(a) - rows :], b[len(b) - rows :]


def _check_joints(
    pos: np.ndarray, vel: np.ndarray, meta: Mapping[str, Any], interval: float, source: str
) -> None:
    if pos.shape[0] < 4 or not pos.size:
        return
    joints = pos.shape[-1]
    rate = np.diff(pos.astype(float), axis=0).reshape(-1, joints) / interval
    # A velocity is that of the state; the difference is the mean of the step between two.
    mean = (0.5 * (vel[1:].astype(float) + vel[:-1])).reshape(-1, joints)
    moves = np.linalg.norm(rate, axis=0) > _SLOW * math.sqrt(len(rate))
    if not moves.any():
        return
    scale = np.linalg.norm(rate[:, moves])
    if np.linalg.norm((rate - mean)[:, moves]) < _BAD * scale:
        return
    for factor, what in (
        (math.degrees(1), "joint_pos is in degrees"),
        (math.radians(1), "joint_vel is in degrees per second"),
    ):
        if np.linalg.norm((rate - factor * mean)[:, moves]) < _GOOD * scale:
            raise DataError(f"{source}: {what}, judged by its velocities; rad are needed")
    # Another order: each moving joint's rate is another joint's velocity.
    error = ((rate[:, :, None] - mean[:, None, :]) ** 2).sum(0)  # (position, velocity)
    best = error.argmin(1)
    chosen = error[np.arange(joints), best][moves].sum()
    if (best != np.arange(joints))[moves].any() and math.sqrt(chosen) < _GOOD * scale:
        names = meta["axes"]["joint"]
        first = int(np.flatnonzero(moves & (best != np.arange(joints)))[0])
        raise DataError(
            f"{source}: joint_pos and joint_vel are in different orders: the positions of "
            f"{names[first]!r} move with the velocities of {names[best[first]]!r}; write both in "
            "the order of meta.axes.joint"
        )


def _check_limits(pos: np.ndarray, meta: Mapping[str, Any], source: str) -> None:
    table = meta["properties"].get("joint", {})
    if not {"lower", "upper"} <= set(table) or not pos.size:
        return
    try:
        low = np.array([-np.inf if v is None else v for v in table["lower"]], float)
        high = np.array([np.inf if v is None else v for v in table["upper"]], float)
    except (TypeError, ValueError) as error:
        raise DataError(f"{source}: meta.properties.joint.lower, upper: {error}") from error
    if low.shape != pos.shape[-1:] or high.shape != low.shape:
        raise DataError(
            f"{source}: meta.properties.joint.lower, upper: {low.shape} and {high.shape} numbers "
            f"for {pos.shape[-1]} joints; write one of each per joint, null for none"
        )
    if (low > high).any():
        at = meta["axes"]["joint"][int((low > high).argmax())]
        raise DataError(f"{source}: meta.properties.joint: lower limit of {at!r} is above upper")
    flat = pos.reshape(-1, pos.shape[-1]).astype(float)
    # Limits are soft in every solver, hence a margin of their whole range and 0.5.
    span = np.where(np.isfinite(high - low), high - low, np.inf)
    over = np.maximum(flat - high, low - flat).max(0) - np.maximum(span, 0.5)
    if (over > 0).any():
        joint = int(over.argmax())
        raise DataError(
            f"{source}[joint_pos]: {meta['axes']['joint'][joint]!r} reaches "
            f"{flat[:, joint].min():.4g} to {flat[:, joint].max():.4g}, but its limits are "
            f"{low[joint]:.4g} and {high[joint]:.4g}: degrees, or another joint order"
        )


def _check_order(
    name: str, quat: np.ndarray, spin: np.ndarray, order: str, interval: float, source: str
) -> None:
    if quat.shape[0] < 4 or not quat.size:
        return
    quat, spin = quat.astype(float), spin.astype(float)
    mean = 0.5 * (spin[1:] + spin[:-1])
    scale = float(np.linalg.norm(mean))
    if scale < 0.05 * math.sqrt(mean[..., 0].size):
        return

    def misfit(order: str) -> float:
        q = np.roll(quat, 1, -1) if order == "xyzw" else quat
        return float(np.linalg.norm(_turn_rate(q[:-1], q[1:], interval) - mean)) / scale

    other = "xyzw" if order == "wxyz" else "wxyz"
    if misfit(order) > _BAD and misfit(other) < _GOOD:
        raise DataError(
            f"{source}[{name}]: the quaternions turn with the angular velocities as {other}, not "
            f"as {order}; set meta.quaternion to {other!r}"
        )


def _turn_rate(first: np.ndarray, second: np.ndarray, interval: float) -> np.ndarray:
    """World angular velocity (..., 3) from one unit quaternion wxyz to the next."""
    w1, v1 = first[..., :1], first[..., 1:]
    w2, v2 = second[..., :1], second[..., 1:]
    w = w2 * w1 + (v2 * v1).sum(-1, keepdims=True)
    v = w1 * v2 - w2 * v1 - np.cross(v2, v1)
    sine = np.linalg.norm(v, axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, np.abs(w))
    ratio = np.where(sine > 1e-9, angle / np.maximum(sine, 1e-9), 2.0)
    return np.sign(np.where(w == 0, 1.0, w)) * ratio * v / interval
