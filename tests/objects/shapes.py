"""Meshes with closed-form distances, volumes and inertias, for the tests of this folder."""

from __future__ import annotations

import numpy as np
import trimesh

BOX = np.array([0.04, 0.06, 0.1])  # m, side lengths
RADIUS, LENGTH = 0.02, 0.08  # capsule: radius, distance between the centres of its caps
MAJOR, MINOR = 0.05, 0.015  # torus
# Mug: outer radius, wall, height; the handle is a ring in the x-z plane around HANDLE_CENTRE.
CUP_RADIUS, CUP_WALL, CUP_HEIGHT = 0.04, 0.004, 0.09
HANDLE_CENTRE, HANDLE_MAJOR, HANDLE_MINOR = np.array([0.045, 0.0, 0.045]), 0.022, 0.006


def box() -> trimesh.Trimesh:
    return trimesh.creation.box(extents=BOX)


def capsule() -> trimesh.Trimesh:
    mesh = trimesh.creation.capsule(height=LENGTH, radius=RADIUS, count=[128, 128])
    mesh.apply_translation(-mesh.bounds.mean(axis=0))
    return mesh


def torus() -> trimesh.Trimesh:
    return trimesh.creation.torus(MAJOR, MINOR, major_sections=192, minor_sections=96)


def mug(sections: int = 256) -> trimesh.Trimesh:
    """A cup with a real inside and a ring handle with a hole; bottom at z = 0, opening up."""
    inner = CUP_RADIUS - CUP_WALL
    profile = np.array([[0, 0], [CUP_RADIUS, 0], [CUP_RADIUS, CUP_HEIGHT], [inner, CUP_HEIGHT],
                        [inner, CUP_WALL], [0, CUP_WALL]])  # fmt: skip
    cup = trimesh.creation.revolve(profile, sections=sections)
    ring = trimesh.creation.torus(HANDLE_MAJOR, HANDLE_MINOR, sections // 2, sections // 4)
    ring.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, [1, 0, 0]))
    ring.apply_translation(HANDLE_CENTRE)
    cavity = trimesh.creation.cylinder(radius=inner, height=CUP_HEIGHT, sections=sections)
    cavity.apply_translation([0, 0, CUP_WALL + CUP_HEIGHT / 2])
    handle = trimesh.boolean.difference([ring, cavity], engine="manifold")
    return trimesh.boolean.union([cup, handle], engine="manifold")


def box_distance(p: np.ndarray) -> np.ndarray:
    q = np.abs(p) - BOX / 2
    return np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(axis=-1), 0)


def capsule_distance(p: np.ndarray) -> np.ndarray:
    q = p.copy()
    q[..., 2] -= np.clip(q[..., 2], -LENGTH / 2, LENGTH / 2)
    return np.linalg.norm(q, axis=-1) - RADIUS


def torus_distance(p: np.ndarray) -> np.ndarray:
    around = np.hypot(p[..., 0], p[..., 1]) - MAJOR
    return np.hypot(around, p[..., 2]) - MINOR


def mug_distance(p: np.ndarray) -> np.ndarray:
    """Exact outside; inside the wall where the handle joins, only the sign is exact."""
    r, z = np.hypot(p[..., 0], p[..., 1]), p[..., 2]
    inner = CUP_RADIUS - CUP_WALL

    def rectangle(r0: float, r1: float, z0: float, z1: float) -> np.ndarray:
        d = np.stack([np.abs(r - (r0 + r1) / 2) - (r1 - r0) / 2,
                      np.abs(z - (z0 + z1) / 2) - (z1 - z0) / 2], -1)  # fmt: skip
        return np.linalg.norm(np.maximum(d, 0), axis=-1) + np.minimum(d.max(axis=-1), 0)

    wall = rectangle(inner, CUP_RADIUS, 0, CUP_HEIGHT)
    floor = rectangle(-CUP_RADIUS, CUP_RADIUS, 0, CUP_WALL)
    cup = np.minimum(wall, floor)
    q = p - HANDLE_CENTRE
    ring = np.hypot(np.hypot(q[..., 0], q[..., 2]) - HANDLE_MAJOR, q[..., 1]) - HANDLE_MINOR
    in_cavity = (r < inner) & (z > CUP_WALL) & (z < CUP_WALL + CUP_HEIGHT)
    # The ring's part in the cavity is cut away; seen from there only the cup is near.
    return np.where(in_cavity, cup, np.minimum(cup, ring))
