"""Points spread evenly over a mesh, with outward normals."""

from __future__ import annotations

import numpy as np
import trimesh

from dexjax.objects.convex import farthest_points
from dexjax.objects.mesh import winding_number

OVERSAMPLING = 8


def surface_points(mesh: trimesh.Trimesh, count: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """Points (count, 3) float32 in farthest-point order and outward unit normals (count, 3).

    Any prefix is an even sample. On meshes that are not watertight, points buried inside are
    left out and normals are turned by winding numbers. The same mesh gives the same points.
    """
    rng = np.random.default_rng(0)
    points, normals = _uniform(mesh, OVERSAMPLING * count, rng)
    if not mesh.is_watertight or mesh.body_count > 1:
        step = 1e-3 * np.ptp(mesh.vertices, axis=0).max()
        ahead = winding_number(mesh, points + step * normals)
        behind = winding_number(mesh, points - step * normals)
        normals = np.where((ahead > behind)[:, None], -normals, normals)
        seen = np.minimum(ahead, behind) < 0.5
        if seen.sum() >= count:
            points, normals = points[seen], normals[seen]
    chosen = farthest_points(points, count)
    return points[chosen].astype(np.float32), normals[chosen].astype(np.float32)


def _uniform(
    mesh: trimesh.Trimesh, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Area-uniform samples; stratified over the cumulated area, so small faces get their share."""
    corner = np.asarray(mesh.vertices)[np.asarray(mesh.faces)]
    cross = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    double_area = np.linalg.norm(cross, axis=1)
    cumulated = np.cumsum(double_area)
    where = (np.arange(count) + rng.random(count)) / count * cumulated[-1]
    face = np.minimum(np.searchsorted(cumulated, where, side="right"), len(corner) - 1)
    u, v = rng.random((2, count))
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    a, b, c = corner[face].transpose(1, 0, 2)
    points = a + u[:, None] * (b - a) + v[:, None] * (c - a)
    return points, cross[face] / np.maximum(double_area[face], 1e-30)[:, None]
