"""Volume, centre of mass, inertia and oriented box of meshes, watertight or not."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import trimesh

from dexjax.objects.asset import OrientedBox
from dexjax.objects.mesh import winding_number

VOXELS = 48  # cells along the longest side; a sphere's volume is then within 1 %


class SolidProperties(NamedTuple):
    """Of a homogeneous solid of density 1, mesh frame."""

    volume: float  # m^3
    centre: np.ndarray  # (3,) centre of mass
    inertia: np.ndarray  # (3, 3) about the centre of mass, for density 1 (m^5)
    note: str | None


def solid_properties(mesh: trimesh.Trimesh, pieces: list[np.ndarray] | None) -> SolidProperties:
    """Exact integrals over a watertight mesh; else voxels inside by winding number.

    Bodies that overlap are counted once (voxels). Sheets without an inside fall back to the
    convex pieces if given.
    """
    sound = mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0
    if sound and mesh.body_count > 1:
        sound = not _overlaps(mesh)
    if sound:
        centre = np.asarray(mesh.center_mass, np.float64)
        inertia = np.asarray(mesh.moment_inertia, np.float64) / float(mesh.density)
        if np.linalg.eigvalsh(inertia)[0] > 0:
            return SolidProperties(float(mesh.volume), centre, inertia, None)
    cells, cell = _voxels(mesh)
    if len(cells) >= 200:
        return _from_cells(cells, cell, "volume by voxels")
    if pieces:
        return _from_pieces(pieces)
    hull = trimesh.convex.convex_hull(mesh.vertices)
    return SolidProperties(
        float(hull.volume), np.asarray(hull.center_mass), np.asarray(hull.moment_inertia),
        "no inside found: volume of the convex hull",
    )  # fmt: skip


def oriented_box(mesh: trimesh.Trimesh) -> OrientedBox:
    """Minimum-volume bounding box, axes longest first, right-handed, canonical signs."""
    to_box, extents = trimesh.bounds.oriented_bounds(mesh.vertices)
    order = np.argsort(-extents, kind="stable")
    axes = to_box[:3, :3][order]
    # Sign: the largest component of each axis is positive, then right-handedness.
    axes *= np.sign(axes[np.arange(3), np.abs(axes).argmax(axis=1)])[:, None]
    if np.linalg.det(axes) < 0:
        axes[2] *= -1
    along = np.asarray(mesh.vertices) @ axes.T
    low, high = along.min(axis=0), along.max(axis=0)
    return OrientedBox(centre=((low + high) / 2) @ axes, axes=axes, half_extents=(high - low) / 2)


def _grid(mesh: trimesh.Trimesh, count: int) -> tuple[np.ndarray, np.ndarray]:
    low, high = mesh.bounds
    extents = high - low
    # Cells need not be cubes: thin sides get as many as they need, at least half as many.
    number = np.clip(np.ceil(count * extents / extents.max()), count // 2, count).astype(int)
    cell = extents / number
    axes = [low[i] + (np.arange(number[i]) + 0.5) * cell[i] for i in range(3)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3), cell


def _overlaps(mesh: trimesh.Trimesh) -> bool:
    points, _ = _grid(mesh, 24)
    winding = winding_number(mesh, points)
    inside = (winding > 0.5).sum()
    return bool((winding > 1.5).sum() > 0.01 * max(inside, 1))


def _voxels(mesh: trimesh.Trimesh) -> tuple[np.ndarray, np.ndarray]:
    points, cell = _grid(mesh, VOXELS)
    return points[winding_number(mesh, points) > 0.5], cell


def _from_cells(cells: np.ndarray, cell: np.ndarray, note: str) -> SolidProperties:
    volume = len(cells) * float(np.prod(cell))
    centre = cells.mean(axis=0)
    offset = cells - centre
    second = offset.T @ offset / len(cells) + np.diag(cell**2) / 12
    inertia = volume * (np.trace(second) * np.eye(3) - second)
    return SolidProperties(volume, centre, inertia, note)


def _from_pieces(pieces: list[np.ndarray]) -> SolidProperties:
    """Sum over convex pieces, overlaps counted twice."""
    hulls = [trimesh.convex.convex_hull(p) for p in pieces]
    volumes = np.array([h.volume for h in hulls])
    centres = np.array([h.center_mass for h in hulls])
    centre = volumes @ centres / volumes.sum()
    inertia = np.zeros((3, 3))
    for hull, volume, own in zip(hulls, volumes, centres, strict=True):
        d = own - centre
        inertia += hull.moment_inertia + volume * (d @ d * np.eye(3) - np.outer(d, d))
    return SolidProperties(
        float(volumes.sum()), centre, inertia, "no inside found: volume of the convex pieces"
    )
