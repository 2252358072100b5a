"""Forward kinematics of a model with free, slide and hinge joints, as one loop over its depth.

The same results as `mjx.kinematics`, whose unrolled program XLA takes seven seconds to compile for
a hand; and a step, a reset and a read-out need one each.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from flax import struct

from dexjax.core.rotations import quat_mul, quat_rotate, quat_to_matrix

_NONE, _FREE, _SLIDE, _HINGE = range(4)


@struct.dataclass
class Chain:
    """Links of at most one joint, S per path from the world and W side by side (padded): a body
    with more joints is so many links. A link's parent is in the row above."""

    parent: np.ndarray  # (S, W) column of the parent; in the first row all hang on the world
    pos: np.ndarray  # (S, W, 3) in the parent
    quat: np.ndarray  # (S, W, 4)
    kind: np.ndarray  # (S, W) _NONE, _FREE, _SLIDE or _HINGE
    axis: np.ndarray  # (S, W, 3) of the joint
    anchor: np.ndarray  # (S, W, 3)
    qpos: np.ndarray  # (S, W) index of the joint's first coordinate
    qpos0: np.ndarray  # (S, W)
    body: np.ndarray  # (nbody - 1,) flat index of the link that carries each body
    joint: np.ndarray  # (njnt,) flat index of each joint's link


def chain(model: mujoco.MjModel) -> Chain:
    """The links of a model, joints in MuJoCo's order."""
    rows: list[list[dict[str, Any]]] = []
    place = {0: (-1, 0)}  # body -> row and column of its last link
    joint_at = np.zeros((model.njnt, 2), int)
    kinds = {
        int(mujoco.mjtJoint.mjJNT_FREE): _FREE,
        int(mujoco.mjtJoint.mjJNT_SLIDE): _SLIDE,
        int(mujoco.mjtJoint.mjJNT_HINGE): _HINGE,
    }
    for body in range(1, model.nbody):
        row, column = place[int(model.body_parentid[body])]
        start, count = int(model.body_jntadr[body]), int(model.body_jntnum[body])
        offset, turn = model.body_pos[body], model.body_quat[body]
        for joint in range(start, start + count) if count else (-1,):
            link = dict(parent=column, pos=offset, quat=turn, kind=_NONE, qpos=0, qpos0=0.0,
                        axis=np.array([0.0, 0, 1]), anchor=np.zeros(3))  # fmt: skip
            if joint >= 0:
                at = int(model.jnt_qposadr[joint])
                link |= dict(kind=kinds[int(model.jnt_type[joint])], qpos=at, qpos0=model.qpos0[at],
                             axis=model.jnt_axis[joint], anchor=model.jnt_pos[joint])  # fmt: skip
            row += 1
            if row == len(rows):
                rows.append([])
            rows[row].append(link)
            column = len(rows[row]) - 1
            if joint >= 0:
                joint_at[joint] = row, column
            offset, turn = np.zeros(3), np.array([1.0, 0, 0, 0])
        place[body] = row, column
    width = max(len(r) for r in rows)
    padded = [r + [r[0]] * (width - len(r)) for r in rows]
    names = ("parent", "pos", "quat", "kind", "axis", "anchor", "qpos", "qpos0")
    arrays = {n: np.array([[link[n] for link in r] for r in padded]) for n in names}
    bodies = np.array([place[b] for b in range(1, model.nbody)])
    return Chain(
        **arrays,
        body=bodies[:, 0] * width + bodies[:, 1],
        joint=joint_at[:, 0] * width + joint_at[:, 1],
    )


def kinematics(
    model: mujoco.MjModel, links: Chain, qpos: jax.Array, body_iquat: jax.Array
) -> dict[str, jax.Array]:
    """Poses of bodies, their inertial frames and joints of one environment, by MjData's names.

    qpos (nq,), body_iquat (nbody, 4). Matrices are (n, 3, 3).
    """
    dtype = qpos.dtype
    const = lambda x: jnp.asarray(x, dtype)  # noqa: E731
    value = qpos[links.qpos] - const(links.qpos0)  # (S, W)
    free = qpos[np.minimum(links.qpos[..., None] + np.arange(7), model.nq - 1)]  # (S, W, 7)
    table = (links.parent, links.kind, value, free) + tuple(
        const(x) for x in (links.pos, links.quat, links.axis, links.anchor)
    )

    def down(carry: Any, row: Any) -> Any:
        parent, kind, value, free, offset, turn, along, at = row
        up_pos, up_quat = carry[0][parent], carry[1][parent]
        p = up_pos + quat_rotate(up_quat, offset)
        q = quat_mul(up_quat, turn)
        kind = kind[:, None]
        anchor, axis = p + quat_rotate(q, at), quat_rotate(q, along)
        half = 0.5 * jnp.where(kind == _HINGE, value[:, None], 0.0)
        q = quat_mul(q, jnp.concatenate([jnp.cos(half), along * jnp.sin(half)], 1))
        moved = p + axis * jnp.where(kind == _SLIDE, value[:, None], 0.0)
        p = jnp.where(kind == _HINGE, anchor - quat_rotate(q, at), moved)
        p = jnp.where(kind == _FREE, free[:, :3], p)
        q = _unit(jnp.where(kind == _FREE, free[:, 3:], q))
        anchor = jnp.where(kind == _FREE, p, anchor)
        axis = jnp.where(kind == _FREE, along, axis)
        return (p, q), (p, q, anchor, axis)

    width = links.parent.shape[1]
    world = jnp.zeros((width, 3), dtype), jnp.zeros((width, 4), dtype).at[:, 0].set(1.0)
    _, rows = jax.lax.scan(down, world, table)
    pos, quat, anchor, axis = (x.reshape(-1, x.shape[-1]) for x in rows)
    pos = jnp.concatenate([world[0][:1], pos[links.body]])
    quat = jnp.concatenate([world[1][:1], quat[links.body]])
    return {
        "xpos": pos,
        "xquat": quat,
        "xmat": quat_to_matrix(quat),
        "xipos": pos + quat_rotate(quat, const(model.body_ipos)),
        "ximat": quat_to_matrix(_unit(quat_mul(quat, body_iquat))),
        "xanchor": anchor[links.joint],
        "xaxis": axis[links.joint],
    }


def _unit(quat: jax.Array) -> jax.Array:
    return quat / jnp.linalg.norm(quat, axis=-1, keepdims=True)
