"""Surfaces of a hand as points and spheres: collision spheres and contact candidates. Plain NumPy
from static data, so that the results are constants inside jit; poses come from `kinematics`."""

from __future__ import annotations

import itertools

import numpy as np
from flax import struct

from dexjax.hands.hand import CandidatePatch, CollisionGeom, Hand


@struct.dataclass
class CollisionSpheres:
    """Spheres fixed to the bodies of a hand."""

    centre: np.ndarray  # (n, 3) m, body frame
    radius: np.ndarray  # (n,) m
    body: np.ndarray  # (n,) index into Hand.body_names
    geom: np.ndarray  # (n,) index into Hand.collision_geoms


@struct.dataclass
class ContactCandidates:
    """Points on the inner side of a hand at which grasps may touch."""

    point: np.ndarray  # (n, 3) m, body frame, on the collision surface
    normal: np.ndarray  # (n, 3) unit, body frame, out of the hand
    body: np.ndarray  # (n,) index into Hand.body_names
    finger: np.ndarray  # (n,) index into Hand.finger_names, -1 on the palm


def collision_spheres(
    hand: Hand, capsule_excess: float = 0.001, box_excess: float = 0.0042
) -> CollisionSpheres:
    """Spheres whose union covers every collision capsule, sphere and box.

    The excess arguments (m) bound how far a sphere sticks out of its geom; smaller means more
    spheres. Capsules: spheres of radius R at spacing d cover radius r where R^2 = r^2 + (d/2)^2.
    Boxes: the circumscribed spheres of a grid of cells, those wholly inside left out.
    """
    parts = [
        _box_spheres(geom, box_excess)
        if geom.shape == "box"
        else _capsule_spheres(geom, capsule_excess)
        for geom in hand.collision_geoms
    ]
    counts = [len(radius) for _, radius in parts]
    return CollisionSpheres(
        centre=np.concatenate([centre for centre, _ in parts]).astype(np.float32),
        radius=np.concatenate([radius for _, radius in parts]).astype(np.float32),
        body=np.repeat([geom.body for geom in hand.collision_geoms], counts),
        geom=np.repeat(np.arange(len(parts)), counts),
    )


def contact_candidates(hand: Hand) -> ContactCandidates:
    """The points and outward normals that the patches of the hand's TOML file describe."""
    geoms = {geom.name: geom for geom in hand.collision_geoms}
    points, normals, body = [], [], []
    for patch in hand.candidate_patches:
        geom = geoms[patch.geom]
        on_geom = _box_patch if geom.shape == "box" else _capsule_patch
        point, normal = on_geom(geom, patch)
        points.append(point)
        normals.append(normal)
        body.append(np.full(len(point), geom.body))
    bodies = np.concatenate(body)
    return ContactCandidates(
        point=np.concatenate(points).astype(np.float32),
        normal=np.concatenate(normals).astype(np.float32),
        body=bodies,
        finger=np.array(hand.body_finger)[bodies],
    )


def _capsule_spheres(geom: CollisionGeom, excess: float) -> tuple[np.ndarray, np.ndarray]:
    radius = geom.size[0]
    length = 2.0 * geom.size[1] if geom.shape == "capsule" else 0.0
    spacing = 2.0 * np.sqrt((radius + excess) ** 2 - radius**2)
    count = int(np.ceil(length / spacing)) + 1
    z = np.linspace(-0.5 * length, 0.5 * length, count)
    gap = length / max(count - 1, 1)
    centre = np.stack([np.zeros(count), np.zeros(count), z], axis=-1)
    return _to_body(geom, centre), np.full(count, np.hypot(radius, 0.5 * gap))


def _box_spheres(geom: CollisionGeom, excess: float) -> tuple[np.ndarray, np.ndarray]:
    half = np.array(geom.size)
    cells = np.ones(3, int)
    side = 2.0 * half
    # a cell's circumscribed sphere sticks out most through the faces that are nearest its centre
    while np.linalg.norm(side) - side.min() > 2.0 * excess:
        cells[np.argmax(side)] += 1
        side = 2.0 * half / cells
    radius = 0.5 * float(np.linalg.norm(side))
    kept = [
        (np.array(cell) + 0.5) * side - half
        for cell in itertools.product(*(range(n) for n in cells))
        if any(c in (0, n - 1) for c, n in zip(cell, cells, strict=True))
    ]
    return _to_body(geom, np.array(kept)), np.full(len(kept), radius)


def _capsule_patch(geom: CollisionGeom, patch: CandidatePatch) -> tuple[np.ndarray, np.ndarray]:
    """Rows evenly spaced on the surface along the cylinder, away from the body's origin, and on
    over the far hemisphere by the angle over_tip; columns over +-spread about the direction."""
    radius, half = geom.size[0], geom.size[1] if geom.shape == "capsule" else 0.0
    z_axis = _rotate(geom, np.array([0.0, 0.0, 1.0]))
    z_axis = z_axis if z_axis @ np.array(geom.pos) >= 0.0 else -z_axis
    direction = np.array(patch.direction)
    inner = direction - z_axis * (direction @ z_axis)
    inner /= np.linalg.norm(inner)
    angles = patch.spread * _centred(patch.columns)[:, None]
    around = np.cos(angles) * inner + np.sin(angles) * np.cross(z_axis, inner)  # (columns, 3)
    length = 2.0 * half + radius * patch.over_tip
    s = 0.5 * length * (1.0 + _centred(patch.rows))[:, None]  # (rows, 1) along the surface
    polar = np.maximum(s - 2.0 * half, 0.0) / radius
    centre = np.array(geom.pos) + (np.minimum(s, 2.0 * half) - half) * z_axis  # (rows, 3)
    normal = np.cos(polar)[:, None] * around + np.sin(polar)[:, None] * z_axis
    return (centre[:, None] + radius * normal).reshape(-1, 3), normal.reshape(-1, 3)


def _box_patch(geom: CollisionGeom, patch: CandidatePatch) -> tuple[np.ndarray, np.ndarray]:
    """A grid on the face that looks most in the direction; rows along the longer side."""
    axes = np.stack([_rotate(geom, axis) for axis in np.eye(3)])  # rows: box axes, body frame
    along = axes @ np.array(patch.direction)
    face = int(np.argmax(np.abs(along)))
    normal = np.sign(along[face]) * axes[face]
    long, short = sorted({0, 1, 2} - {face}, key=lambda i: -geom.size[i])
    u = patch.spread * geom.size[long] * _centred(patch.rows)
    v = patch.spread * geom.size[short] * _centred(patch.columns)
    grid = u[:, None, None] * axes[long] + v[None, :, None] * axes[short]
    point = np.array(geom.pos) + geom.size[face] * normal + grid.reshape(-1, 3)
    return point, np.broadcast_to(normal, point.shape)


def _centred(count: int) -> np.ndarray:
    """`count` values spread evenly over [-1, 1]; 0 alone if one."""
    return np.linspace(-1.0, 1.0, count) if count > 1 else np.zeros(1)


def _rotate(geom: CollisionGeom, vector: np.ndarray) -> np.ndarray:
    w, u = geom.quat[0], np.array(geom.quat[1:])
    t = 2.0 * np.cross(u, vector)
    return vector + w * t + np.cross(u, t)


def _to_body(geom: CollisionGeom, points: np.ndarray) -> np.ndarray:
    return np.array(geom.pos) + np.stack([_rotate(geom, p) for p in points])
