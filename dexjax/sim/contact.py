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

CAPSULE_DIP = 0.0005  # m: how far the spheres of a capsule fall short of it between two centres
BOX_SPACING = 0.012  # m between the spheres of a box


@struct.dataclass
class DistanceTable:
    """Signed distance grids of N objects; objects of one shape in several sizes share a grid."""

    values: jax.Array  # (G, n, n, n) float16, m
    origin: jax.Array  # (G, 3) m
    spacing: jax.Array  # (G, 3) m
    grid: jax.Array  # (N,) int32 row of each object
    scale: jax.Array  # (N,) size of the object over that of its grid
    support: jax.Array  # (G, P, 3) m, corners of the convex hull, padded by repeating the first


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


def signed_distance(table: DistanceTable, object_id: jax.Array, points: jax.Array) -> jax.Array:
    """Signed distance (P,) at object-frame points (P, 3) of one object, trilinear.

    Outside the grid the value at its border plus the way there, an upper bound.
    """
    row, scale = table.grid[object_id], table.scale[object_id]
    cell, off = _cell(table, row, points / scale)
    base = jnp.minimum(cell.astype(jnp.int32), table.values.shape[1] - 2)
    t = cell - base
    corner = base[:, None] + np.array(list(np.ndindex(2, 2, 2)), np.int32)  # (P, 8, 3)
    v = table.values[row, corner[..., 0], corner[..., 1], corner[..., 2]].astype(points.dtype)
    for axis in range(3):
        v = v.reshape(len(points), 2, -1)
        v = v[:, 0] + (v[:, 1] - v[:, 0]) * t[:, axis, None]
    return scale * (v[:, 0] + jnp.linalg.norm(off, axis=-1))


def signed_distance_gradient(
    table: DistanceTable, object_id: jax.Array, points: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Signed distance (P,) and its gradient (P, 3) at object-frame points (P, 3), tricubic.

    Catmull-Rom splines through the nodes: continuous in the gradient too, where that of a trilinear
    interpolant jumps by 0.1 rad from cell to cell near an edge. Eight times the reads.
    """
    row, scale = table.grid[object_id], table.scale[object_id]
    size = table.values.shape[1]
    cell, off = _cell(table, row, points / scale)
    base = jnp.minimum(jax.lax.stop_gradient(cell).astype(jnp.int32), size - 2)
    weight, slope = _spline(cell - base)  # (P, 3, 4)
    node = jnp.clip(base[:, :, None] + np.arange(-1, 3, dtype=np.int32), 0, size - 1)
    x, y, z = node[:, 0, :, None, None], node[:, 1, None, :, None], node[:, 2, None, None, :]
    v = table.values[row, x, y, z].astype(points.dtype)  # (P, 4, 4, 4)
    vz, dz = (jnp.einsum("pxyz,pz->pxy", v, w[:, 2]) for w in (weight, slope))
    vy, dy = (jnp.einsum("pxy,py->px", vz, w[:, 1]) for w in (weight, slope))
    vzy = jnp.einsum("pxy,py->px", dz, weight[:, 1])
    value = (vy * weight[:, 0]).sum(-1)
    gradient = jnp.stack(
        [(vy * slope[:, 0]).sum(-1), (dy * weight[:, 0]).sum(-1), (vzy * weight[:, 0]).sum(-1)], -1
    )
    gradient = jnp.where(off == 0, gradient / table.spacing[row], 0.0)
    square = (off**2).sum(-1)
    beyond = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    gradient = gradient + off / jnp.where(beyond > 0, beyond, 1.0)[:, None]
    return scale * (value + beyond), gradient


def _cell(table: DistanceTable, row: jax.Array, points: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Grid coordinates of points (P, 3) clamped to the grid, and how far outside they were, m."""
    cell = (points - table.origin[row]) / table.spacing[row]
    inner = jnp.clip(cell, 0.0, table.values.shape[1] - 1.0)
    return inner, (cell - inner) * table.spacing[row]


def _spline(t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Catmull-Rom weights (..., 4) of the nodes -1, 0, 1, 2 at t in [0, 1], and their slopes."""
    t2, t3 = t * t, t * t * t
    weight = [-t + 2 * t2 - t3, 2 - 5 * t2 + 3 * t3, t + 4 * t2 - 3 * t3, t3 - t2]
    slope = [-1 + 4 * t - 3 * t2, -10 * t + 9 * t2, 1 + 8 * t - 9 * t2, 3 * t2 - 2 * t]
    return 0.5 * jnp.stack(weight, -1), 0.5 * jnp.stack(slope, -1)


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
    rough = jax.lax.stop_gradient(signed_distance(table, object_id, (centre - origin) @ turn))
    dist = rough - shape.radius
    chosen = jnp.take_along_axis(
        jnp.asarray(shape.group), jnp.argmin(dist[shape.group], axis=1)[:, None], axis=1
    )[:, 0]
    _, best = jax.lax.top_k(-dist[chosen], slots[0])
    kept = chosen[best]
    dropped = jnp.maximum((dist[chosen] < 0).sum() - slots[0], 0)
    centre, radius = centre[kept], jnp.asarray(shape.radius)[kept]
    value, slope = signed_distance_gradient(table, object_id, (centre - origin) @ turn)
    norm = jnp.sqrt((slope**2).sum(-1, keepdims=True) + 1e-12)
    outward, dist = (slope / norm) @ turn.T, value - radius
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
    """Up to `count` support points among points (P, 3): the one farthest in each direction among
    those below the table top, each once."""
    height = points[:, 2] - table_height
    angle = 2 * np.pi * (np.arange(count) + 0.5) / count
    direction = jnp.asarray(np.stack([np.cos(angle), np.sin(angle)]), points.dtype)
    middle = points[:, :2].mean(0)
    reach = jnp.where((height < 0)[:, None], (points[:, :2] - middle) @ direction, -jnp.inf)
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
