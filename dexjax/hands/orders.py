"""Joint orders and sign conventions of other data sets of the Shadow Hand, named once.

Our own order is that of UniDexGrasp's simulation (FF, MF, RF, LF, TH, from base to tip; MJCF names
without "robot0:"). Readers convert at the border; nothing else knows about other orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from dexjax.core.errors import DataError
from dexjax.core.rotations import quat_from_euler, quat_to_euler


def _joints(finger: str, first: int, last: int = 0) -> tuple[str, ...]:
    return tuple(f"{finger}J{i}" for i in range(first, last - 1, -1))


SHADOW_JOINTS = (
    *_joints("FF", 3),
    *_joints("MF", 3),
    *_joints("RF", 3),
    *_joints("LF", 4),
    *_joints("TH", 4),
)


@dataclass(frozen=True)
class JointOrder:
    """How a source lists the 22 finger joints: `ours = sign * theirs[index]`."""

    source: str
    names: tuple[str, ...]  # the source's names, in its order
    index: tuple[int, ...]  # for each of SHADOW_JOINTS its place in `names`
    sign: tuple[int, ...]  # -1 where the source's axis points the other way

    def to_ours(self, qpos: ArrayLike) -> Array:
        """(..., 22) in the source's order and signs to ours."""
        qpos = jnp.asarray(qpos)
        return qpos[..., np.array(self.index)] * jnp.array(self.sign, qpos.dtype)

    def from_ours(self, qpos: ArrayLike) -> Array:
        """(..., 22) in our order to the source's order and signs."""
        qpos = jnp.asarray(qpos)
        return (qpos * jnp.array(self.sign, qpos.dtype))[..., np.argsort(self.index)]


UNIDEXGRASP = JointOrder(
    source="UniDexGrasp",
    names=tuple(f"robot0:{joint}" for joint in SHADOW_JOINTS),
    index=tuple(range(len(SHADOW_JOINTS))),
    sign=(1,) * len(SHADOW_JOINTS),
)

# ManipTrans' URDF counts joints from 1 and sorts the fingers by name; FFJ4, MFJ4 (abduction) turn
# about -y and the last two thumb joints about our -y. Its thumb base lies 0.42 mm beside ours.
_MANIPTRANS_NAMES = (
    *_joints("FF", 4, 1),
    *_joints("LF", 5, 1),
    *_joints("MF", 4, 1),
    *_joints("RF", 4, 1),
    *_joints("TH", 5, 1),
)
MANIPTRANS = JointOrder(
    source="ManipTrans",
    names=_MANIPTRANS_NAMES,
    index=tuple(_MANIPTRANS_NAMES.index(f"{j[:3]}{int(j[3]) + 1}") for j in SHADOW_JOINTS),
    sign=tuple(-1 if j in ("FFJ3", "MFJ3", "THJ1", "THJ0") else 1 for j in SHADOW_JOINTS),
)

# Hand pose in the object frame; angles about the fixed x, y, z axes (transforms3d "sxyz")
_DEXGRASPNET_BASE = ("WRJTx", "WRJTy", "WRJTz", "WRJRx", "WRJRy", "WRJRz")
DEXGRASPNET_NAMES = (*UNIDEXGRASP.names, *_DEXGRASPNET_BASE)


def from_dexgraspnet(qpos: ArrayLike, names: Sequence[str]) -> tuple[Array, Array, Array]:
    """Base position (..., 3) m, base quaternion (..., 4) and joints (..., 22) in our order.

    qpos: (..., 28) with its names in any order, as in DexGraspNet's and UniDexGrasp's grasp files
    (hand in the object frame). Raises DataError if a name is missing, unknown or repeated.
    """
    qpos = jnp.asarray(qpos)
    names = list(names)
    if sorted(names) != sorted(DEXGRASPNET_NAMES):
        wrong = sorted(set(names) ^ set(DEXGRASPNET_NAMES)) or "a repeated name"
        raise DataError(f"grasp qpos: needs the 28 names of DexGraspNet once each; check {wrong}")
    if qpos.shape[-1] != len(names):
        raise DataError(f"grasp qpos: shape {qpos.shape} does not end in {len(names)}")
    columns = np.array([names.index(name) for name in DEXGRASPNET_NAMES])
    joints, pos, euler = jnp.split(qpos[..., columns], [22, 25], axis=-1)
    return pos, quat_from_euler(euler), UNIDEXGRASP.to_ours(joints)


def to_dexgraspnet(base_pos: ArrayLike, base_quat: ArrayLike, qpos: ArrayLike) -> Array:
    """(..., 28) in the order of DEXGRASPNET_NAMES; the inverse of `from_dexgraspnet`."""
    base_pos, base_quat, qpos = jnp.asarray(base_pos), jnp.asarray(base_quat), jnp.asarray(qpos)
    return jnp.concatenate(
        [UNIDEXGRASP.from_ours(qpos), base_pos, quat_to_euler(base_quat)], axis=-1
    )
