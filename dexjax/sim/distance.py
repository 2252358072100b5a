"""Signed distance grids of many objects in one table, read at points by trilinear or tricubic
interpolation.

Reading is bound by memory: the environments of a batch hold different objects, whose grids do not
fit in a cache together. So the values lie in bricks of 4 x 4 x 2 cells, 64 bytes, one line of the
cache: the eight corners of a cell lie in 2.3 of them on average, where rows along z need four.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

_BRICK = (4, 4, 2)


@struct.dataclass
class DistanceTable:
    """Signed distance grids of N objects; objects of one shape in several sizes share a grid."""

    values: jax.Array  # (G, cells) float16, m, in bricks; see `bricks`
    origin: jax.Array  # (G, 3) m
    spacing: jax.Array  # (G, 3) m
    grid: jax.Array  # (N,) int32 row of each object
    scale: jax.Array  # (N,) size of the object over that of its grid
    support: jax.Array  # (G, P, 3) m, corners of the convex hull, padded by repeating the first
    size: int = struct.field(pytree_node=False)  # nodes of a grid along each axis


def bricks(values: np.ndarray) -> np.ndarray:
    """A grid (n, n, n) as the float16 row (cells,) of a table, padded to whole bricks."""
    size = len(values)
    pad = _padded(size) - size
    values = np.pad(values.astype(np.float16), [(0, pad)] * 3, mode="edge")
    split = [x for side in _BRICK for x in (_padded(size) // side, side)]
    return values.reshape(split).transpose(0, 2, 4, 1, 3, 5).ravel()


def num_cells(size: int) -> int:
    """Length of `bricks` of a grid with `size` nodes along each axis."""
    return _padded(size) ** 3


def signed_distance(table: DistanceTable, object_id: jax.Array, points: jax.Array) -> jax.Array:
    """Signed distance (P,) at object-frame points (P, 3) of one object, trilinear.

    Outside the grid the value at its border plus the way there, an upper bound.
    """
    row, scale = table.grid[object_id], table.scale[object_id]
    cell, off = _cell(table, row, points / scale)
    base = jnp.minimum(cell.astype(jnp.int32), table.size - 2)
    t = cell - base
    corner = base[:, None] + np.array(list(np.ndindex(2, 2, 2)), np.int32)  # (P, 8, 3)
    v = _read(table, row, corner[..., 0], corner[..., 1], corner[..., 2], points.dtype)
    for axis in range(3):
        v = v.reshape(len(points), 2, -1)
        v = v[:, 0] + (v[:, 1] - v[:, 0]) * t[:, axis, None]
    return scale * (v[:, 0] + jnp.linalg.norm(off, axis=-1))


def rough_distance(
    table: DistanceTable, object_id: jax.Array, points: jax.Array, radius: jax.Array
) -> jax.Array:
    """`signed_distance` (P,) where it may be less than `radius` (P,), else some value above that.

    Most spheres of a hand are far from the object: one read at the nearest node shows that (the
    surface is no nearer than its value less the way to it), eight are only needed for the rest.
    """
    row, scale = table.grid[object_id], table.scale[object_id]
    cell, off = _cell(table, row, points / scale)
    node = jnp.round(cell).astype(jnp.int32)
    value = _read(table, row, node[:, 0], node[:, 1], node[:, 2], points.dtype)
    value = scale * (value + jnp.linalg.norm(off, axis=-1))
    near = value - 0.5 * scale * jnp.linalg.norm(table.spacing[row]) < radius
    fine = signed_distance(table, object_id, _or_corner(table, object_id, points, near))
    return jnp.where(near, fine, value)


def signed_distance_gradient(
    table: DistanceTable, object_id: jax.Array, points: jax.Array, wanted: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Signed distance (P,) and its gradient (P, 3) at object-frame points (P, 3), tricubic.

    Catmull-Rom splines through the nodes: continuous in the gradient too, where that of a trilinear
    interpolant jumps by 0.1 rad from cell to cell near an edge. Eight times the reads, so only
    where `wanted` (P,); elsewhere the figures of the grid's first node.
    """
    row, scale = table.grid[object_id], table.scale[object_id]
    points = _or_corner(table, object_id, points, wanted)
    cell, off = _cell(table, row, points / scale)
    base = jnp.minimum(jax.lax.stop_gradient(cell).astype(jnp.int32), table.size - 2)
    weight, slope = _spline(cell - base)  # (P, 3, 4)
    node = jnp.clip(base[:, :, None] + np.arange(-1, 3, dtype=np.int32), 0, table.size - 1)
    x, y, z = node[:, 0, :, None, None], node[:, 1, None, :, None], node[:, 2, None, None, :]
    v = _read(table, row, x, y, z, points.dtype)  # (P, 4, 4, 4)
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


def _or_corner(
    table: DistanceTable, object_id: jax.Array, points: jax.Array, wanted: jax.Array
) -> jax.Array:
    """Points, those not wanted moved to the grid's first node, whose reads cost next to nothing."""
    corner = table.scale[object_id] * table.origin[table.grid[object_id]]
    return jnp.where(wanted[:, None], points, corner)


def _cell(table: DistanceTable, row: jax.Array, points: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Grid coordinates of points (P, 3) clamped to the grid, and how far outside they were, m."""
    cell = (points - table.origin[row]) / table.spacing[row]
    inner = jnp.clip(cell, 0.0, table.size - 1.0)
    return inner, (cell - inner) * table.spacing[row]


def _spline(t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Catmull-Rom weights (..., 4) of the nodes -1, 0, 1, 2 at t in [0, 1], and their slopes."""
    t2, t3 = t * t, t * t * t
    weight = [-t + 2 * t2 - t3, 2 - 5 * t2 + 3 * t3, t + 4 * t2 - 3 * t3, t3 - t2]
    slope = [-1 + 4 * t - 3 * t2, -10 * t + 9 * t2, 1 + 8 * t - 9 * t2, 3 * t2 - 2 * t]
    return 0.5 * jnp.stack(weight, -1), 0.5 * jnp.stack(slope, -1)


def _read(
    table: DistanceTable, row: jax.Array, x: jax.Array, y: jax.Array, z: jax.Array, dtype: jnp.dtype
) -> jax.Array:
    """Values of one grid at nodes x, y, z, of shapes that broadcast."""
    (a, b, c), side = _BRICK, _padded(table.size)
    brick = ((x // a) * (side // b) + y // b) * (side // c) + z // c
    return table.values[row, brick * (a * b * c) + (x % a) * (b * c) + (y % b) * c + z % c].astype(
        dtype
    )


def _padded(size: int) -> int:
    """Nodes along an axis after padding to whole bricks."""
    return -(-size // max(_BRICK)) * max(_BRICK)
