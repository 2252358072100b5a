"""What the library knows of one object. All geometry in metres, object frame: origin at the centre
of mass, axes of the source mesh."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class StablePoses:
    """Resting poses on a horizontal plane."""

    quat: np.ndarray  # (P, 4) wxyz, object to world
    height: np.ndarray  # (P,) centre of mass above the plane
    probability: np.ndarray  # (P,) sums to 1


@dataclass(frozen=True)
class SignedDistanceGrid:
    """Signed distance, negative inside, at the nodes of a regular grid."""

    values: np.ndarray  # (n, n, n) float32, index order x, y, z
    origin: np.ndarray  # (3,) object-frame position of node (0, 0, 0)
    spacing: np.ndarray  # (3,) distance between nodes


@dataclass(frozen=True)
class OrientedBox:
    """Minimum-volume bounding box."""

    centre: np.ndarray  # (3,)
    axes: np.ndarray  # (3, 3) rows are unit axes, longest extent first
    half_extents: np.ndarray  # (3,) descending


@dataclass(frozen=True)
class ObjectAsset:
    """One object, ready for simulation, learning and generation."""

    name: str
    category: str
    source: str  # "builtin", or the path the mesh was read from
    vertices: np.ndarray  # (V, 3) float64
    faces: np.ndarray  # (F, 3) int32
    pieces: tuple[np.ndarray, ...]  # convex pieces, each (n <= 64, 3) hull vertices
    surface_points: np.ndarray  # (1024, 3) float32, farthest-point order
    surface_normals: np.ndarray  # (1024, 3) float32, outward
    mass: float
    inertia: np.ndarray  # (3, 3) about the centre of mass
    box: OrientedBox
    stable_poses: StablePoses
    mesh_origin: np.ndarray  # (3,) where the source mesh's own origin lies in the object frame
    sdf: SignedDistanceGrid | None = None
    face_parts: np.ndarray | None = None  # (F,) int16 index into part_names
    part_names: tuple[str, ...] = ()
    part_affordances: dict[str, tuple[str, ...]] = field(default_factory=dict)  # part -> labels
    notes: tuple[str, ...] = ()  # what was repaired or questioned
