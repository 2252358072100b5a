"""What the hand and the object are doing: quantities that observations and rewards share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from dexjax.core.rotations import quat_rotate
from dexjax.hands import Hand
from dexjax.objects.bank import ObjectBank
from dexjax.sim.types import SimState

TOUCH_FORCE = 0.05  # N: a finger touches the object above this
GRIP_DISTANCE = 0.08  # m: farthest grasp centre of a grip
CORE_RADIUS = 0.04  # m: what counts as near the core of an object, about half a palm


@struct.dataclass
class Features:
    """Geometry and contact of B environments; world frame, SI units."""

    object_pos: jax.Array  # (B, 3) centre of mass
    object_quat: jax.Array  # (B, 4)
    object_linvel: jax.Array  # (B, 3)
    object_angvel: jax.Array  # (B, 3)
    tips: jax.Array  # (B, 5, 3)
    grasp_centre: jax.Array  # (B, 3)
    nearest: (
        jax.Array
    )  # (B, 6, 3) from each tip, then the grasp centre, to the nearest surface point
    distance: jax.Array  # (B, 6) lengths of `nearest`
    force: jax.Array  # (B, 5) object on finger, N
    box_centre: jax.Array  # (B, 3)
    box_axes: jax.Array  # (B, 3, 3) rows: half-extent vectors, longest first, pointing up
    core: jax.Array  # (B, 3) the object's own matter nearest to its centre of mass, see `_core`
    core_axis: jax.Array  # (B, 2) horizontal direction of that matter, doubled angle; see `_core`
    top: jax.Array  # (B,) highest point of the object
    bottom: jax.Array  # (B,) lowest point

    @property
    def touching(self) -> jax.Array:
        """(B, 5) which fingers touch the object."""
        return self.force > TOUCH_FORCE

    @property
    def grip(self) -> jax.Array:
        """(B,) thumb and at least one other finger touch, and the palm is near."""
        touch = self.touching
        return touch[:, 4] & touch[:, :4].any(1) & (self.distance[:, 5] < GRIP_DISTANCE)


def compute_features(sim: SimState, hand: Hand, bank: ObjectBank) -> Features:
    """Features of B environments. Fingers in the hand's order, thumb last."""
    ids = sim.object_id
    pos, quat = sim.body_pos[:, -1], sim.body_quat[:, -1]

    def to_world(points: jax.Array) -> jax.Array:
        return pos[:, None] + quat_rotate(quat[:, None], points)

    palm = hand.palm_body
    centre = sim.body_pos[:, palm] + quat_rotate(
        sim.body_quat[:, palm], jnp.asarray(hand.grasp_centre)
    )
    tip = jnp.asarray(hand.fingertip_body)
    tips = sim.body_pos[:, tip] + quat_rotate(
        sim.body_quat[:, tip], jnp.asarray(hand.fingertip_offset)
    )
    surface = to_world(bank.surface_points[ids])  # (B, P, 3)
    probes = jnp.concatenate([tips, centre[:, None]], 1)  # (B, 6, 3)
    offset = surface[:, None] - probes[:, :, None]  # (B, 6, P, 3)
    square = (offset**2).sum(-1)
    index = square.argmin(-1)
    nearest = jnp.take_along_axis(offset, index[..., None, None], 2)[:, :, 0]
    axes = quat_rotate(quat[:, None], bank.box_axes[ids] * bank.box_half_extents[ids][..., None])
    heights = to_world(bank.hull_points[ids])[..., 2]
    core, core_axis = _core(surface, pos)
    return Features(
        object_pos=pos,
        object_quat=quat,
        object_linvel=sim.body_linvel[:, -1],
        object_angvel=sim.body_angvel[:, -1],
        tips=tips,
        grasp_centre=centre,
        nearest=nearest,
        distance=jnp.sqrt(square.min(-1)),
        force=jnp.linalg.norm(sim.finger_force, axis=-1),
        box_centre=to_world(bank.box_centre[ids][:, None])[:, 0],
        box_axes=jnp.where(axes[..., 2:] < 0, -axes, axes),
        core=core,
        core_axis=core_axis,
        top=heights.max(-1),
        bottom=heights.min(-1),
    )


def _core(surface: jax.Array, centre: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where and along which direction the object can be taken near its centre of mass.

    surface (B, P, 3), centre (B, 3). The centre of mass of a bent or ring-shaped object lies beside
    it; two steps of mean shift (Gaussian of CORE_RADIUS, horizontal) lead to a part that is there.
    Returns the mean point (B, 3) and, with l1 >= l2 the eigenvalues of the horizontal covariance
    around it and a the angle of the first axis, (l1 - l2) / (l1 + l2) x (cos 2a, sin 2a) (B, 2):
    an axis has no sign, a doubled angle has none either.
    """

    def near(point: jax.Array) -> tuple[jax.Array, jax.Array]:
        offset = (surface - point[:, None])[..., :2]
        weight = jnp.exp(-0.5 * (offset**2).sum(-1) / CORE_RADIUS**2)
        return weight / jnp.maximum(weight.sum(1, keepdims=True), 1e-9), offset

    for _ in range(2):
        weight, _ = near(centre)
        centre = (weight[..., None] * surface).sum(1)
    weight, offset = near(centre)
    xx, yy, xy = (
        (weight * offset[..., i] * offset[..., j]).sum(1) for i, j in ((0, 0), (1, 1), (0, 1))
    )
    return centre, jnp.stack([xx - yy, 2 * xy], 1) / jnp.maximum(xx + yy, 1e-9)[:, None]
