"""Contacts of a hand with one of many objects by signed distance, and of both with the table.

The hand is a set of spheres; the object a signed distance grid (for the hand) and a set of hull
points (for the table). Shapes are static, the number of contacts is too, and which object an
environment holds is an index: one compilation serves any number of objects.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dexjax.hands import Hand
from dexjax.hands.geometry import collision_spheres
from dexjax.hands.hand import CollisionGeom
from dexjax.sim.distance import DistanceTable, rough_distance, signed_distance_gradient

CAPSULE_DIP = 0.0005  # m: how far the spheres of a capsule fall short of it between two centres
BOX_SPACING = 0.012  # m between the spheres of a box


@struct.dataclass
class HandShape:
    """Collision shape of a hand, fixed to bodies of the model; NumPy, constant in `jit`."""

    centre: np.ndarray  # (S, 3) m, body frame: the spheres that touch objects
    radius: np.ndarray  # (S,)
    body: np.ndarray  # (S,) model body
    group: np.ndarray  # (C, W) spheres of each patch (padded by repeats), of which one may touch
    foot: np.ndarray  # (F, 3) m, body frame: what may touch the table: capsule ends, box corners
    foot_radius: np.ndarray  # (F,)
    foot_body: np.ndarray  # (F,)


@struct.dataclass
class Contacts:
    """K possible contacts of one environment, world frame. Inactive where dist >= 0."""

    dist: jax.Array  # (K,) m, negative: penetration
    pos: jax.Array  # (K, 3) midway between the surfaces
    normal: jax.Array  # (K, 3) from body 1 to body 2
    body1: jax.Array  # (K,) int32 model body; 0 is the world with the table
    body2: jax.Array  # (K,)


def hand_shape(hand: Hand, model_body: Sequence[int]) -> HandShape:
    """Spheres, patches and table points of a hand whose body b is `model_body[b]`.

    Capsules: spheres of their own radius, so close that they fall short by at most CAPSULE_DIP;
    each half is a patch. Boxes: inscribed spheres on a grid; each quarter is a patch.
    """
    fine = collision_spheres(hand, capsule_excess=CAPSULE_DIP)
    centre, radius, body, groups, feet, foot_radius, foot_body = [], [], [], [], [], [], []
    start = 0
    for index, geom in enumerate(hand.collision_geoms):
        bodies = model_body[geom.body]
        if geom.shape == "box":
            points, patch, r = _box_spheres(geom)
            corners = _placed(geom, _corners(np.array(geom.size)))
            feet.append(corners)
            foot_radius += [0.0] * len(corners)
        else:
            points = np.asarray(fine.centre[fine.geom == index], np.float64)
            r = geom.size[0]
            patch = np.arange(len(points)) * 2 // len(points)
            feet.append(points[[0, -1]])
            foot_radius += [r, r]
        centre.append(points)
        radius += [r] * len(points)
        body += [bodies] * len(points)
        foot_body += [bodies] * len(feet[-1])
        groups += [start + np.flatnonzero(patch == p) for p in np.unique(patch)]
        start += len(points)
    widest = max(len(g) for g in groups)
    return HandShape(
        centre=np.concatenate(centre).astype(np.float32),
        radius=np.array(radius, np.float32),
        body=np.array(body, np.int32),
        group=np.stack([np.pad(g, (0, widest - len(g)), mode="edge") for g in groups]),
        foot=np.concatenate(feet).astype(np.float32),
        foot_radius=np.array(foot_radius, np.float32),
        foot_body=np.array(foot_body, np.int32),
    )


def find_contacts(
    shape: HandShape,
    table: DistanceTable,
    object_id: jax.Array,
    xpos: jax.Array,
    xmat: jax.Array,
    object_body: int,
    table_height: float,
    slots: tuple[int, int, int],
) -> tuple[Contacts, jax.Array]:
    """Contacts of one environment, and how many more there were than slots.

    xpos (nbody, 3), xmat (nbody, 3, 3). slots: hand with object, hand with table, object with
    table. In each patch of the hand the deepest sphere may touch; the deepest patches are kept.
    """
    origin, turn = xpos[object_body], xmat[object_body]
    centre = xpos[shape.body] + (xmat[shape.body] @ shape.centre[..., None])[..., 0]
    local = jax.lax.stop_gradient((centre - origin) @ turn)
    # A spline may be lower than the trilinear value between two nodes, but by less than a cell.
    slack = table.scale[object_id] * table.spacing[table.grid[object_id]].max()
    radius = jnp.asarray(shape.radius)
    dist = rough_distance(table, object_id, local, radius + slack) - radius
    chosen = jnp.take_along_axis(
        jnp.asarray(shape.group), jnp.argmin(dist[shape.group], axis=1)[:, None], axis=1
    )[:, 0]
    _, best = jax.lax.top_k(-dist[chosen], slots[0])
    kept = chosen[best]
    dropped = jnp.maximum((dist[chosen] < 0).sum() - slots[0], 0)
    centre, radius, near = centre[kept], radius[kept], dist[kept] < slack
    value, slope = signed_distance_gradient(table, object_id, (centre - origin) @ turn, near)
    norm = jnp.sqrt((slope**2).sum(-1, keepdims=True) + 1e-12)
    outward, dist = (slope / norm) @ turn.T, jnp.where(near, value - radius, slack)
    on_object = Contacts(
        dist=dist,
        pos=centre - outward * (radius + 0.5 * dist)[:, None],
        normal=-outward,
        body1=jnp.asarray(shape.body)[kept],
        body2=jnp.full(slots[0], object_body, jnp.int32),
    )

    foot = xpos[shape.foot_body] + (xmat[shape.foot_body] @ shape.foot[..., None])[..., 0]
    height = foot[:, 2] - shape.foot_radius - table_height
    _, low = jax.lax.top_k(-height, slots[1])
    dropped = dropped + jnp.maximum((height < 0).sum() - slots[1], 0)
    hand_down = _on_table(
        foot[low, :2], height[low], jnp.asarray(shape.foot_body)[low], table_height
    )

    scale = table.scale[object_id]
    points = origin + scale * table.support[table.grid[object_id]] @ turn.T
    object_down = _support(points, object_body, table_height, slots[2])
    parts = (on_object, hand_down, object_down)
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts), dropped


def _support(points: jax.Array, body: int, table_height: float, count: int) -> Contacts:
    """Up to `count` support points among points (P, 3) below the table top, each once: in each
    direction the one of the greatest depth times reach, the moment with which it could hold against
    tipping. The farthest alone are shallow ones on a rounded edge: a bottle would sink by
    millimetres until its flanks carry it. Reach is from the middle of what is below."""
    height = points[:, 2] - table_height
    angle = 2 * np.pi * (np.arange(count) + 0.5) / count
    direction = jnp.asarray(np.stack([np.cos(angle), np.sin(angle)]), points.dtype)
    depth = jnp.maximum(-height, 0.0)
    below = (height < 0).astype(points.dtype)
    middle = below @ points[:, :2] / jnp.maximum(below.sum(), 1.0)
    moment = depth[:, None] * ((points[:, :2] - middle) @ direction)
    reach = jnp.where((height < 0)[:, None], moment, -jnp.inf)
    chosen = jnp.where((height < 0).any(), jnp.argmax(reach, axis=0), jnp.argmin(height))
    chosen = jnp.broadcast_to(chosen, (count,))
    again = jnp.tril(chosen[:, None] == chosen[None], -1).any(1)
    dist = jnp.where(again, 1.0, height[chosen])
    return _on_table(points[chosen, :2], dist, jnp.full(count, body, jnp.int32), table_height)


def _on_table(
    horizontal: jax.Array, dist: jax.Array, body: jax.Array, table_height: float
) -> Contacts:
    z = table_height + 0.5 * dist
    up = jnp.zeros((len(dist), 3)).at[:, 2].set(1.0)
    return Contacts(
        dist=dist,
        pos=jnp.concatenate([horizontal, z[:, None]], axis=1),
        normal=up,
        body1=jnp.zeros_like(body),
        body2=body,
    )


def _box_spheres(geom: CollisionGeom) -> tuple[np.ndarray, np.ndarray, float]:
    """Inscribed spheres of a box on a grid no wider than BOX_SPACING, and the quarter of each."""
    half = np.array(geom.size)
    radius = half.min()
    room = half - radius
    counts = np.ceil(2 * room / BOX_SPACING).astype(int) + 1
    axes = [
        np.linspace(-r, r, n) if n > 1 else np.zeros(1) for r, n in zip(room, counts, strict=True)
    ]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    quarter = (points > 1e-9) @ np.array([1, 2, 4])
    return _placed(geom, points), quarter, float(radius)


def _corners(half: np.ndarray) -> np.ndarray:
    return half * (2.0 * np.array(list(np.ndindex(2, 2, 2))) - 1.0)


def _placed(geom: CollisionGeom, points: np.ndarray) -> np.ndarray:
    """Points of the geom's frame in its body's."""
    w, u = geom.quat[0], np.array(geom.quat[1:])
    t = 2.0 * np.cross(u, points)
    return np.array(geom.pos) + points + w * t + np.cross(u, t)
