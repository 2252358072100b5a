"""Rotations in JAX: quaternions wxyz (MuJoCo's order), batched over leading axes, differentiable.

A quaternion of frame b in frame a rotates vectors from b to a, so that
`quat_mul(q_a_b, q_b_c)` is q_a_c. Euler angles are roll, pitch, yaw about the fixed x, y, z axes
(R = Rz(yaw) Ry(pitch) Rx(roll)), as in Isaac Gym and SciPy's "xyz".
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def quat_mul(a: ArrayLike, b: ArrayLike) -> Array:
    """Hamilton product of quaternions (..., 4): rotate by b first, then by a."""
    aw, ax, ay, az = _parts(a)
    bw, bx, by, bz = _parts(b)
    return jnp.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        axis=-1,
    )


def quat_conj(q: ArrayLike) -> Array:
    """Conjugate (..., 4): the inverse of a unit quaternion."""
    q = jnp.asarray(q)
    return q * jnp.array([1.0, -1.0, -1.0, -1.0], q.dtype)


def quat_normalize(q: ArrayLike) -> Array:
    """Scale to unit length (..., 4); the zero quaternion becomes the identity."""
    q = jnp.asarray(q)
    identity = jnp.array([1.0, 0.0, 0.0, 0.0], q.dtype)
    square = jnp.sum(q * q, axis=-1, keepdims=True)
    zero = square == 0.0
    return jnp.where(zero, identity, q / jnp.sqrt(jnp.where(zero, 1.0, square)))


def quat_rotate(q: ArrayLike, v: ArrayLike) -> Array:
    """Rotate vectors v (..., 3) by unit quaternions q (..., 4); leading axes broadcast."""
    q, v = jnp.asarray(q), jnp.asarray(v)
    u = q[..., 1:]
    t = 2.0 * jnp.cross(u, v)
    return v + q[..., :1] * t + jnp.cross(u, t)


def quat_rotate_inverse(q: ArrayLike, v: ArrayLike) -> Array:
    """Rotate vectors v (..., 3) by the inverse of unit quaternions q (..., 4)."""
    return quat_rotate(quat_conj(q), v)


def quat_to_matrix(q: ArrayLike) -> Array:
    """Rotation matrices (..., 3, 3) of unit quaternions (..., 4)."""
    w, x, y, z = _parts(q)
    rows = [
        jnp.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], axis=-1),
        jnp.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], axis=-1),
        jnp.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], axis=-1),
    ]
    return jnp.stack(rows, axis=-2)


def matrix_to_quat(matrix: ArrayLike) -> Array:
    """Unit quaternions (..., 4) with w >= 0 of rotation matrices (..., 3, 3).

    Of four equivalent formulas the one with the largest divisor is taken (Shepperd), so that
    precision and gradient are good at every angle.
    """
    m = jnp.asarray(matrix)
    m00, m01, m02 = m[..., 0, 0], m[..., 0, 1], m[..., 0, 2]
    m10, m11, m12 = m[..., 1, 0], m[..., 1, 1], m[..., 1, 2]
    m20, m21, m22 = m[..., 2, 0], m[..., 2, 1], m[..., 2, 2]
    # row k is 4 * q[k] * q; its length is 4 * |q[k]|
    candidates = jnp.stack(
        [
            jnp.stack([1 + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01], axis=-1),
            jnp.stack([m21 - m12, 1 + m00 - m11 - m22, m01 + m10, m02 + m20], axis=-1),
            jnp.stack([m02 - m20, m01 + m10, 1 - m00 + m11 - m22, m12 + m21], axis=-1),
            jnp.stack([m10 - m01, m02 + m20, m12 + m21, 1 - m00 - m11 + m22], axis=-1),
        ],
        axis=-2,
    )
    best = jnp.argmax(jnp.diagonal(candidates, axis1=-2, axis2=-1), axis=-1)
    q = jnp.take_along_axis(candidates, best[..., None, None], axis=-2)[..., 0, :]
    q = quat_normalize(q)
    return jnp.where(q[..., :1] < 0.0, -q, q)


def quat_from_euler(euler: ArrayLike) -> Array:
    """Quaternions (..., 4) of roll, pitch, yaw (..., 3) rad about the fixed x, y, z axes."""
    half = 0.5 * jnp.asarray(euler)
    cr, cp, cy = (jnp.cos(half[..., i]) for i in range(3))
    sr, sp, sy = (jnp.sin(half[..., i]) for i in range(3))
    return jnp.stack(
        [
            cr * cp * cy + sr * sp * sy,
            sr * cp * cy - cr * sp * sy,
            cr * sp * cy + sr * cp * sy,
            cr * cp * sy - sr * sp * cy,
        ],
        axis=-1,
    )


def quat_to_euler(q: ArrayLike) -> Array:
    """Roll, pitch, yaw (..., 3) rad about the fixed x, y, z axes; roll, yaw in (-pi, pi].

    At pitch = +-pi/2 roll and yaw are not unique; any pair with the right sum is returned.
    """
    w, x, y, z = _parts(q)
    roll = jnp.arctan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    # arctan2 of sine and cosine: arcsin alone loses half the digits near +-pi/2
    cos_pitch = jnp.hypot(1 - 2 * (x * x + y * y), 2 * (w * x + y * z))
    pitch = jnp.arctan2(2 * (w * y - x * z), cos_pitch)
    return jnp.stack([roll, pitch, quat_to_yaw(q)], axis=-1)


def quat_to_yaw(q: ArrayLike) -> Array:
    """Rotation (...) rad about the fixed z axis: the yaw of `quat_to_euler`, in (-pi, pi]."""
    w, x, y, z = _parts(q)
    return jnp.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def quat_from_yaw(yaw: ArrayLike) -> Array:
    """Quaternions (..., 4) of rotations by yaw (...) rad about the z axis."""
    half = 0.5 * jnp.asarray(yaw)
    zero = jnp.zeros_like(half)
    return jnp.stack([jnp.cos(half), zero, zero, jnp.sin(half)], axis=-1)


def quat_from_axis_angle(axis: ArrayLike, angle: ArrayLike) -> Array:
    """Quaternions (..., 4) of rotations by angle (...) rad about unit axes (..., 3)."""
    half = 0.5 * jnp.asarray(angle)[..., None]
    xyz = jnp.asarray(axis) * jnp.sin(half)
    return jnp.concatenate([jnp.broadcast_to(jnp.cos(half), (*xyz.shape[:-1], 1)), xyz], axis=-1)


def quat_from_rotvec(rotvec: ArrayLike) -> Array:
    """Quaternions (..., 4) of rotation vectors (..., 3) (axis times angle, rad)."""
    rotvec = jnp.asarray(rotvec)
    square = jnp.sum(rotvec * rotvec, axis=-1, keepdims=True)
    small = square < 1e-6  # Taylor: keeps value and gradient finite at zero
    angle = jnp.sqrt(jnp.where(small, 1.0, square))
    scale = jnp.where(small, 0.5 - square / 48.0, jnp.sin(0.5 * angle) / angle)
    w = jnp.where(small, 1.0 - square / 8.0, jnp.cos(0.5 * angle))
    return jnp.concatenate([w, scale * rotvec], axis=-1)


def quat_to_rotvec(q: ArrayLike) -> Array:
    """Rotation vectors (..., 3) (axis times angle, rad, angle <= pi) of unit quaternions."""
    q = jnp.asarray(q)
    q = jnp.where(q[..., :1] < 0.0, -q, q)
    w, u = q[..., :1], q[..., 1:]
    square = jnp.sum(u * u, axis=-1, keepdims=True)
    small = square < 1e-6
    sine = jnp.sqrt(jnp.where(small, 1.0, square))
    # arctan(s / w) / s = 1 - s^2 / 3 + ... for w = 1 - s^2 / 2 gives 2 + s^2 / 3
    scale = jnp.where(small, 2.0 + square / 3.0, 2.0 * jnp.arctan2(sine, w) / sine)
    return scale * u


def quat_angle(a: ArrayLike, b: ArrayLike) -> Array:
    """Angle (...) in [0, pi] rad of the rotation that takes a to b; gradient 0 where a = b."""
    difference = quat_mul(quat_conj(a), b)
    square = jnp.sum(difference[..., 1:] ** 2, axis=-1)
    same = square == 0.0
    sine = jnp.where(same, 0.0, jnp.sqrt(jnp.where(same, 1.0, square)))
    return 2.0 * jnp.arctan2(sine, jnp.abs(difference[..., 0]))


def random_quat(key: Array, shape: tuple[int, ...] = ()) -> Array:
    """Rotations drawn uniformly from SO(3), (*shape, 4) float32."""
    return quat_normalize(jax.random.normal(key, (*shape, 4), dtype=jnp.float32))


def _parts(q: ArrayLike) -> tuple[Array, Array, Array, Array]:
    q = jnp.asarray(q)
    return q[..., 0], q[..., 1], q[..., 2], q[..., 3]
