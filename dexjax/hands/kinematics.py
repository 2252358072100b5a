"""Where the parts of a hand are: forward kinematics, fingertips, keypoints, Jacobians, coupling.

Pure, batched over leading axes (base pose and qpos broadcast), differentiable. The base pose is
that of body 0 (the mount with the floating base) in the world.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from dexjax.core.rotations import quat_from_axis_angle, quat_mul, quat_rotate
from dexjax.hands.hand import Hand


def forward_kinematics(
    hand: Hand, base_pos: ArrayLike, base_quat: ArrayLike, qpos: ArrayLike
) -> tuple[Array, Array]:
    """World pose of every body: positions (..., nbody, 3) m, quaternions (..., nbody, 4).

    base_pos: (..., 3), base_quat: (..., 4) wxyz unit, qpos: (..., njoint) rad. Body i is
    `hand.body_names[i]`, which is body i + 1 of the MJCF compiled alone.
    """
    base_pos, base_quat, qpos = jnp.asarray(base_pos), jnp.asarray(base_quat), jnp.asarray(qpos)
    batch = jnp.broadcast_shapes(base_pos.shape[:-1], base_quat.shape[:-1], qpos.shape[:-1])

    # pose of each body in its parent's frame; a welded body reads the zero appended to qpos
    padded = jnp.concatenate([qpos, jnp.zeros_like(qpos[..., :1])], axis=-1)
    angle = padded[..., np.array(hand.body_joint)]
    turn = quat_from_axis_angle(hand.joint_axis, angle)
    local_quat = quat_mul(hand.body_quat, turn)
    shift = hand.joint_anchor - quat_rotate(turn, hand.joint_anchor)
    local_pos = hand.body_pos + quat_rotate(hand.body_quat, shift)

    # bodies of equal depth at once: as many steps as the longest finger has links
    pos = [jnp.broadcast_to(base_pos, (*batch, 3))[..., None, :]]
    quat = [jnp.broadcast_to(base_quat, (*batch, 4))[..., None, :]]
    levels = _levels(hand.body_parent)
    for above, level in zip(levels[:-1], levels[1:], strict=True):
        parent = np.array([above.index(hand.body_parent[body]) for body in level])
        level_pos, level_quat = (
            local_pos[..., np.array(level), :],
            local_quat[..., np.array(level), :],
        )
        parent_quat = quat[-1][..., parent, :]
        pos.append(pos[-1][..., parent, :] + quat_rotate(parent_quat, level_pos))
        quat.append(quat_mul(parent_quat, level_quat))
    order = np.argsort(np.concatenate(levels))
    return (
        jnp.concatenate(pos, axis=-2)[..., order, :],
        jnp.concatenate(quat, axis=-2)[..., order, :],
    )


def fingertips(hand: Hand, base_pos: ArrayLike, base_quat: ArrayLike, qpos: ArrayLike) -> Array:
    """World positions (..., nfinger, 3) m of the fingertips, in the order of finger_names."""
    pos, quat = forward_kinematics(hand, base_pos, base_quat, qpos)
    return body_points(pos, quat, hand.fingertip_body, hand.fingertip_offset)


def keypoints(hand: Hand, base_pos: ArrayLike, base_quat: ArrayLike, qpos: ArrayLike) -> Array:
    """World positions (..., nkeypoint, 3) m of `hand.keypoint_names`.

    A five-fingered hand has the 21 of `KEYPOINT_NAMES`: wrist, then thumb, index, middle, ring,
    little, each from base to tip. A hand with fewer fingers lacks those of the missing ones.
    """
    pos, quat = forward_kinematics(hand, base_pos, base_quat, qpos)
    return body_points(pos, quat, hand.keypoint_body, hand.keypoint_offset)


def grasp_centre(hand: Hand, body_pos: Array, body_quat: Array) -> Array:
    """World position (..., 3) m of the grasp centre, from forward_kinematics' body poses."""
    return body_points(body_pos, body_quat, (hand.palm_body,), hand.grasp_centre[None])[..., 0, :]


def body_points(
    body_pos: Array, body_quat: Array, body: tuple[int, ...] | np.ndarray, offset: ArrayLike
) -> Array:
    """World positions (..., n, 3) of points given by body index (n,) and offset (n, 3) in it."""
    index = np.asarray(body)
    return body_pos[..., index, :] + quat_rotate(body_quat[..., index, :], offset)


def fingertip_jacobian(
    hand: Hand, base_pos: ArrayLike, base_quat: ArrayLike, qpos: ArrayLike
) -> Array:
    """Geometric Jacobians (..., nfinger, 6, njoint), world axes, base held still.

    Rows 0:3 are the velocity of the fingertip (m/s), 3:6 the angular velocity of its body
    (rad/s), per rad/s of each joint: MuJoCo's mj_jac.
    """
    pos, quat = forward_kinematics(hand, base_pos, base_quat, qpos)
    tips = body_points(pos, quat, hand.fingertip_body, hand.fingertip_offset)
    bodies = np.array([hand.body_joint.index(joint) for joint in range(hand.num_joints)])
    # a joint's axis is not moved by its own rotation, so the child's frame gives it
    axis = quat_rotate(quat[..., bodies, :], hand.joint_axis[bodies])  # (..., njoint, 3)
    anchor = body_points(pos, quat, bodies, hand.joint_anchor[bodies])
    arm = tips[..., :, None, :] - anchor[..., None, :, :]  # (..., nfinger, njoint, 3)
    axis = jnp.broadcast_to(axis[..., None, :, :], arm.shape)
    moves = np.array(
        [[body in _chain(hand, tip) for body in bodies] for tip in hand.fingertip_body]
    )
    columns = jnp.concatenate([jnp.cross(axis, arm), axis], axis=-1) * moves[..., None]
    return jnp.swapaxes(columns, -1, -2)


def actuated_to_joint(hand: Hand, target: ArrayLike) -> Array:
    """Joint positions (..., njoint) of actuator targets (..., nactuator), rad.

    Joints without a motor follow theirs by the ratio of the tendon (Shadow: J0 = 1.1418 J1, the
    centre of the tendon's dead band of +-0.14 rad); the result is clipped to the limits.
    """
    target = jnp.asarray(target)[..., np.array(hand.joint_actuator)]
    return jnp.clip(hand.coupling_ratio * target, hand.lower, hand.upper)


def joint_to_actuated(hand: Hand, qpos: ArrayLike) -> Array:
    """Positions (..., nactuator) of the driven joints, out of all joints (..., njoint)."""
    return jnp.asarray(qpos)[..., np.array(hand.actuator_joint)]


def limits(hand: Hand) -> tuple[Array, Array]:
    """Lower and upper joint limits, (njoint,) rad each."""
    return hand.lower, hand.upper


def _levels(parent: tuple[int, ...]) -> list[list[int]]:
    """Body indices grouped by depth."""
    depth: list[int] = []
    for p in parent:
        depth.append(0 if p < 0 else depth[p] + 1)
    return [[b for b, d in enumerate(depth) if d == level] for level in range(max(depth) + 1)]


def _chain(hand: Hand, body: int) -> set[int]:
    """The body and all its ancestors."""
    chain = set()
    while body >= 0:
        chain.add(body)
        body = hand.body_parent[body]
    return chain
