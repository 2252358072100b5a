"""Signed distance grids: built from meshes with libigl, queried in NumPy and JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING

import igl
import numpy as np
import trimesh
from scipy import ndimage

from dexjax.objects.asset import SignedDistanceGrid
from dexjax.objects.mesh import winding_number

if TYPE_CHECKING:
    import jax

RESOLUTION = 64
MARGIN = 0.01  # m of grid around the object, plus 5 % of its size


def signed_distance_grid(mesh: trimesh.Trimesh, resolution: int = RESOLUTION) -> SignedDistanceGrid:
    """Signed distance (m, negative inside) at resolution^3 nodes around the mesh.

    Distance to the triangles is exact; the sign is the fast winding number (Barill et al. 2018),
    so holes, overlapping bodies and stray sheets do no harm. Spacing differs per axis.
    """
    low, high = np.asarray(mesh.bounds, np.float64)
    margin = MARGIN + 0.05 * (high - low).max()
    origin = low - margin
    spacing = (high - low + 2 * margin) / (resolution - 1)
    axes = [origin[i] + spacing[i] * np.arange(resolution) for i in range(3)]
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    vertices = np.ascontiguousarray(mesh.vertices, np.float64)
    faces = np.ascontiguousarray(mesh.faces, np.int64)
    square, _, _ = igl.point_mesh_squared_distance(nodes, vertices, faces)
    distance = np.sqrt(np.maximum(square, 0.0)).reshape((resolution,) * 3)
    inside = _inside(mesh, nodes.reshape(resolution, resolution, resolution, 3), distance, spacing)
    return SignedDistanceGrid(
        values=np.where(inside, -distance, distance).astype(np.float32),
        origin=origin,
        spacing=spacing,
    )


def _inside(
    mesh: trimesh.Trimesh, nodes: np.ndarray, distance: np.ndarray, spacing: np.ndarray
) -> np.ndarray:
    """Winding number above one half, at every node near the surface and once per far region.

    Two neighbouring nodes farther from the surface than their spacing lie on the same side, so a
    connected region of such nodes needs one winding number: five times faster than all nodes.
    """
    far = distance > spacing.max()
    region, count = ndimage.label(far)
    inside = np.zeros(distance.shape, bool)
    near = ~far
    inside[near] = winding_number(mesh, nodes[near]) > 0.5
    if count:
        # On a mesh with holes the winding number is surest far from the surface.
        where = ndimage.maximum_position(distance, region, np.arange(1, count + 1))
        probe = np.array([nodes[tuple(w)] for w in where])
        verdict = np.concatenate([[False], winding_number(mesh, probe) > 0.5])
        inside |= verdict[region] & far
    return inside


def query(grid: SignedDistanceGrid, points: np.ndarray) -> np.ndarray:
    """(...,) trilinear signed distance in NumPy at object-frame points (..., 3).

    Outside the grid: the value at the nearest grid point plus the distance to it, an upper bound.
    """
    points = np.asarray(points, np.float64)
    n = np.array(grid.values.shape)
    cell = (points - grid.origin) / grid.spacing
    inner = np.clip(cell, 0, n - 1)
    beyond = np.linalg.norm((cell - inner) * grid.spacing, axis=-1)
    base = np.minimum(inner.astype(int), n - 2)
    t = inner - base
    value = np.zeros(points.shape[:-1])
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(np.array(corner) == 1, t, 1 - t), axis=-1)
        index = base + np.array(corner)
        value += weight * grid.values[index[..., 0], index[..., 1], index[..., 2]]
    return value + beyond


def query_jax(
    values: jax.Array, origin: jax.Array, spacing: jax.Array, points: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Trilinear signed distance (...,) and its gradient (..., 3) at object-frame points (..., 3).

    values (n, n, n), origin and spacing (3,). The gradient is the exact one of the interpolant
    (outside the grid: of the upper bound in `query`); it is not normalised.
    """
    import jax.numpy as jnp

    n = jnp.array(values.shape)
    cell = (points - origin) / spacing
    inner = jnp.clip(cell, 0, n - 1)
    off = (cell - inner) * spacing
    square = (off**2).sum(-1)
    beyond = jnp.sqrt(jnp.where(square > 0, square, 1.0)) * (square > 0)
    base = jnp.minimum(inner.astype(jnp.int32), n - 2)
    t = inner - base
    x, y, z = base[..., 0], base[..., 1], base[..., 2]
    v = [[[values[x + i, y + j, z + k] for k in (0, 1)] for j in (0, 1)] for i in (0, 1)]
    tx, ty, tz = t[..., 0], t[..., 1], t[..., 2]
    mix = lambda a, b, s: a + (b - a) * s  # noqa: E731
    vz = [[mix(v[i][j][0], v[i][j][1], tz) for j in (0, 1)] for i in (0, 1)]
    vy = [mix(vz[i][0], vz[i][1], ty) for i in (0, 1)]
    value = mix(vy[0], vy[1], tx)
    dz = [[v[i][j][1] - v[i][j][0] for j in (0, 1)] for i in (0, 1)]
    gradient = (
        jnp.stack(
            [
                vy[1] - vy[0],
                mix(vz[0][1] - vz[0][0], vz[1][1] - vz[1][0], tx),
                mix(mix(dz[0][0], dz[0][1], ty), mix(dz[1][0], dz[1][1], ty), tx),
            ],
            axis=-1,
        )
        / spacing
    )
    # A clamped coordinate no longer moves the interpolant; the way back to the grid does.
    gradient = jnp.where(cell == inner, gradient, 0.0)
    gradient = gradient + off / jnp.where(beyond > 0, beyond, 1.0)[..., None]
    return value + beyond, gradient
