"""Meshes at poses and pinhole cameras. World frame, metres, z up, quaternions wxyz."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import mujoco
import numpy as np

CREASE_COS = np.cos(np.radians(38.0))  # sharper edges than this are drawn sharp


@dataclass(frozen=True, eq=False)
class RenderMesh:
    """A coloured triangle mesh at a pose."""

    vertices: np.ndarray  # (V, 3) local frame
    faces: np.ndarray  # (F, 3)
    colour: np.ndarray | Sequence[float] = (0.7, 0.7, 0.72)  # (3,) or (F, 3), 0 .. 1
    position: np.ndarray | Sequence[float] = (0.0, 0.0, 0.0)
    quat: np.ndarray | Sequence[float] = (1.0, 0.0, 0.0, 0.0)

    @cached_property
    def corner_normals(self) -> np.ndarray:
        """(F, 3, 3) smooth normals at the corners of each face, sharp across creases; local."""
        return _corner_normals(np.asarray(self.vertices, float), np.asarray(self.faces))

    def at(self, position, quat) -> RenderMesh:
        """The same geometry at another pose; the normals are shared, not computed again."""
        moved = replace(self, position=position, quat=quat)
        moved.__dict__["corner_normals"] = self.corner_normals
        return moved

    def world_vertices(self) -> np.ndarray:
        """(V, 3) world frame."""
        turn = rotation_matrix(self.quat)
        return np.asarray(self.vertices, float) @ turn.T + np.asarray(self.position, float)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera; `fov` is the vertical field of view in degrees."""

    position: Sequence[float] | np.ndarray
    target: Sequence[float] | np.ndarray
    up: Sequence[float] | np.ndarray = (0.0, 0.0, 1.0)
    fov: float = 30.0

    def axes(self) -> np.ndarray:
        """(3, 3) rows: unit vectors to the right, to the top and forward, world frame."""
        forward = np.asarray(self.target, float) - np.asarray(self.position, float)
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, self.up)
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(right, forward), forward])

    def project(self, points: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Where world points (N, 3) appear: column and row (N, 2), depth along the axis (N,).

        Pixel (i, j) covers columns j .. j + 1 and rows i .. i + 1; depth <= 0 is behind the camera.
        """
        local = (np.asarray(points, float) - np.asarray(self.position, float)) @ self.axes().T
        scale = 0.5 * height / np.tan(0.5 * np.radians(self.fov))
        with np.errstate(divide="ignore", invalid="ignore"):
            column = 0.5 * width + scale * local[:, 0] / local[:, 2]
            row = 0.5 * height - scale * local[:, 1] / local[:, 2]
        return np.stack([column, row], 1), local[:, 2]

    def rays(self, width: int, height: int, dx=0.5, dy=0.5) -> tuple[np.ndarray, np.ndarray]:
        """Origin (3,) and directions (H * W, 3), each with length 1 along the optical axis.

        dx, dy: where in the pixel the ray passes, 0 .. 1 from its upper left corner.
        """
        origin, (right, top, forward) = np.asarray(self.position, float), self.axes()
        scale = 2.0 * np.tan(0.5 * np.radians(self.fov)) / height
        x = (np.arange(width) + dx - 0.5 * width) * scale
        y = (0.5 * height - np.arange(height) - dy) * scale
        plane = x[None, :, None] * right + y[:, None, None] * top
        return origin, (forward + plane).reshape(-1, 3)


def frame_camera(
    meshes: Sequence[RenderMesh],
    azimuth: float = -60.0,
    elevation: float = 30.0,
    fov: float = 30.0,
    aspect: float = 1.0,
    margin: float = 1.08,
) -> Camera:
    """Camera that just sees all meshes. azimuth, elevation: degrees of the camera from the centre.

    aspect: width over height of the image.
    """
    points = np.concatenate([m.world_vertices() for m in meshes])
    a, e = np.radians([azimuth, elevation])
    back = np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])
    up = np.array([0.0, 0.0, 1.0]) if abs(back[2]) < 0.999 else np.array([0.0, 1.0, 0.0])
    right = np.cross(up, back)
    right /= np.linalg.norm(right)
    top = np.cross(back, right)
    slope = np.tan(0.5 * np.radians(fov)) / margin
    target = 0.5 * (points.min(0) + points.max(0))
    for _ in range(3):  # centre the projection, then step back until every point is inside
        local = points - target
        x, y, z = local @ right, local @ top, local @ back
        distance = max((z + abs(x) / (slope * aspect)).max(), (z + abs(y) / slope).max())
        u, v = x / (distance - z), y / (distance - z)
        shift = 0.5 * distance * np.array([u.min() + u.max(), v.min() + v.max()])
        target = target + shift[0] * right + shift[1] * top
    return Camera(target + distance * back, target, up, fov)


def rotation_matrix(quat) -> np.ndarray:
    """Rotation matrix (3, 3) of a wxyz quaternion of any length."""
    out = np.empty(9)
    unit = np.asarray(quat, float)
    mujoco.mju_quat2Mat(out, unit / np.linalg.norm(unit))
    return out.reshape(3, 3)


def _corner_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Mean, at each corner, of the faces around it that bend less than a crease.

    Weighted by the corner's angle: area weights would favour one side of thin triangles.
    """
    _, weld = np.unique(np.round(vertices, 7), axis=0, return_inverse=True)
    shared = weld.ravel()[faces].ravel()  # (3F,) welded vertex of each corner
    edges = vertices[faces]
    unit = np.cross(edges[:, 1] - edges[:, 0], edges[:, 2] - edges[:, 0])
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-30)
    ahead, behind = np.roll(edges, -1, 1) - edges, np.roll(edges, 1, 1) - edges  # (F, 3, 3)
    opening = np.arctan2(
        np.linalg.norm(np.cross(ahead, behind), axis=-1), np.einsum("fci,fci->fc", ahead, behind)
    )
    weighted = (opening[..., None] * unit[:, None]).reshape(-1, 3)  # (3F, 3)
    order = np.argsort(shared, kind="stable")
    owner = order // 3  # face of each corner, grouped by vertex
    _, start, size = np.unique(shared[order], return_index=True, return_counts=True)
    # All pairs of corners at the same vertex.
    per_corner = np.repeat(size, size)
    first = np.repeat(np.arange(len(order)), per_corner)
    step = np.arange(len(first)) - np.repeat(np.cumsum(per_corner) - per_corner, per_corner)
    second = np.repeat(np.repeat(start, size), per_corner) + step
    near = np.einsum("ij,ij->i", unit[owner[first]], unit[owner[second]]) > CREASE_COS
    normals = np.zeros((len(order), 3))
    for axis in range(3):
        normals[:, axis] = np.bincount(
            first[near], weighted[order[second[near]], axis], minlength=len(order)
        )
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.where(length > 1e-20, normals / np.maximum(length, 1e-20), unit[owner])
    out = np.empty_like(normals)
    out[order] = normals
    return out.reshape(-1, 3, 3)


def quaternion(matrix: np.ndarray) -> np.ndarray:
    """Unit wxyz quaternion (4,) of a rotation matrix (3, 3)."""
    out = np.empty(4)
    mujoco.mju_mat2Quat(out, np.ascontiguousarray(matrix, float).ravel())
    return out
