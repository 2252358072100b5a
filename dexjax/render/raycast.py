"""Pictures, depth and triangle numbers by casting rays with Embree: no OpenGL, no display."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from dexjax.core.errors import DataError
from dexjax.render.scene import Camera, RenderMesh, rotation_matrix

SKY = np.array([0.97, 0.98, 1.0])
GROUND = np.array([0.86, 0.86, 0.85])
KEY_LIGHT = np.array([0.45, -0.55, 1.0])  # direction towards the light


def render(
    meshes: Sequence[RenderMesh], camera: Camera, width: int, height: int, **options: Any
) -> np.ndarray:
    """`RayScene(meshes).image(...)`: a shaded image (H, W, 3) uint8."""
    return RayScene(meshes).image(camera, width, height, **options)


def render_depth(
    meshes: Sequence[RenderMesh], camera: Camera, width: int, height: int
) -> np.ndarray:
    """Depth along the optical axis through the pixel centres, (H, W) float32 m; inf where empty."""
    return RayScene(meshes).depth_and_faces(camera, width, height)[0]


class Renderer(Protocol):
    """What draws meshes: `RayScene` everywhere, `dexjax.render.opengl.GLScene` with OpenGL."""

    def image(self, camera: Camera, width: int, height: int) -> np.ndarray:
        """Shaded image (H, W, 3) uint8."""
        ...

    def depth_and_meshes(
        self, camera: Camera, width: int, height: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Depth along the optical axis (H, W) m and number of the mesh (H, W); inf, -1: empty."""
        ...


class RayScene:
    """All meshes as one Embree triangle soup in world coordinates; made once, seen by many cameras.

    Triangles are numbered through all meshes in their order; `face_mesh` (F,) says whose they are.
    """

    def __init__(self, meshes: Sequence[RenderMesh]):
        corners, normals, colours = [], [], []
        for mesh in meshes:
            vertices = mesh.world_vertices()
            if not np.isfinite(vertices).all():
                raise DataError("a mesh to render has vertices or a pose that are not finite")
            corners.append(vertices[mesh.faces])
            normals.append(mesh.corner_normals @ rotation_matrix(mesh.quat).T)
            colour = np.asarray(mesh.colour, float)
            colours.append(np.broadcast_to(colour, (len(mesh.faces), 3)))
        counts = [len(c) for c in corners]
        self.face_mesh = np.repeat(np.arange(len(counts)), counts)
        self.empty = not sum(counts)
        if self.empty:
            return
        self.corners = np.concatenate(corners).astype(np.float32)
        self.normals = np.concatenate(normals).astype(np.float32)
        self.colours = np.concatenate(colours).astype(np.float32)
        self.scene = EmbreeScene()
        # Embree keeps the buffers: the mesh object must outlive the scene's queries.
        self.mesh = TriangleMesh(self.scene, self.corners)

    def image(
        self,
        camera: Camera,
        width: int,
        height: int,
        *,
        ground: float | None = None,
        supersample: int = 2,
        shadows: bool = True,
        background: np.ndarray | Sequence[float] = SKY,
        light: np.ndarray | Sequence[float] = KEY_LIGHT,
    ) -> np.ndarray:
        """Shaded image (H, W, 3) uint8: sky and key light, shadows; ground: height of a plane.

        supersample: rays per pixel side; each has its own light direction, so shadows are soft.
        light: direction towards the key light, world frame.
        """
        total = np.zeros((height * width, 3), np.float32)
        count = supersample**2
        for k in range(count):
            # A rotated grid: near-horizontal and near-vertical edges both get all steps.
            col, row = k % supersample, k // supersample
            dx = (col + (row + 0.5) / supersample) / supersample
            dy = (row + (supersample - col - 0.5) / supersample) / supersample
            turn = 2 * np.pi * (k + 0.5) / count
            offset = 0.05 * np.array([np.cos(turn), np.sin(turn), 0.0]) * (count > 1)
            toward = np.asarray(light, float) + offset
            toward = toward / np.linalg.norm(toward)
            origin, rays = camera.rays(width, height, dx, dy)
            total += self._shade(origin, rays, toward, ground, shadows, np.asarray(background))
        linear = np.clip(total / count, 0.0, 1.0)
        return (255.0 * linear + 0.5).astype(np.uint8).reshape(height, width, 3)

    def depth_and_faces(
        self, camera: Camera, width: int, height: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Depth along the optical axis (H, W) float32 m and triangle number (H, W) int32, through
        the pixel centres; inf and -1 where empty."""
        origin, rays = camera.rays(width, height)
        hit = self.cast(origin, rays)
        depth = np.where(hit["primID"] >= 0, hit["tfar"], np.inf).astype(np.float32)
        faces = hit["primID"].astype(np.int32)
        return depth.reshape(height, width), faces.reshape(height, width)

    def depth_and_meshes(
        self, camera: Camera, width: int, height: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `depth_and_faces`, with the number of the mesh instead of the triangle's."""
        depth, faces = self.depth_and_faces(camera, width, height)
        return depth, np.append(self.face_mesh, -1).astype(np.int32)[faces]

    def visible(
        self,
        points: np.ndarray,
        camera: Camera,
        normals: np.ndarray | None = None,
        tolerance: float = 1e-4,
    ) -> np.ndarray:
        """(N,) bool: nothing lies between the camera and surface points (N, 3), world frame.

        One exact ray per point, whether or not the image would show it. tolerance: how far before
        the point the ray may end, as part of its length. With outward normals (N, 3), points that
        face away are not visible either, however thin the wall.
        """
        origin = np.asarray(camera.position, float)
        rays = np.asarray(points, float) - origin
        hit = self.cast(origin, rays)
        seen = (hit["primID"] < 0) | (hit["tfar"] >= 1.0 - tolerance)
        if normals is not None:
            seen &= np.einsum("ij,ij->i", np.asarray(normals, float), rays) < 0
        return seen

    def cast(self, origin: np.ndarray, rays: np.ndarray) -> dict[str, np.ndarray]:
        """Nearest hits of rays (N, 3) from one origin: primID (-1: none), tfar, u, v, Ng."""
        count = len(rays)
        if self.empty:
            return {"primID": np.full(count, -1), "tfar": np.full(count, np.inf)}
        start = np.broadcast_to(origin, rays.shape).astype(np.float32)
        return self.scene.run(start, rays.astype(np.float32), output=1)

    def _shadowed(self, points: np.ndarray, light: np.ndarray) -> np.ndarray:
        if self.empty or not len(points):
            return np.zeros(len(points), bool)
        rays = np.broadcast_to(light, points.shape).astype(np.float32)
        return self.scene.run(points.astype(np.float32), rays, query="OCCLUDED") >= 0

    def _shade(self, origin, rays, light, ground, shadows, background) -> np.ndarray:
        """Colours (N, 3) 0 .. 1 of primary rays."""
        image = np.broadcast_to(background, rays.shape).astype(np.float32).copy()
        found = self.cast(origin, rays)
        distance = np.where(found["primID"] >= 0, found["tfar"], np.inf)
        if ground is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                reach = (ground - origin[2]) / rays[:, 2]
            floor = np.flatnonzero((reach > 0) & (reach < distance) & np.isfinite(reach))
            points = origin + reach[floor, None] * rays[floor]
            lit = np.ones(len(floor), np.float32)
            if shadows:
                lit -= 0.42 * self._shadowed(points + [0, 0, 1e-4], light)
            # The plane fades into the background with distance, so it has no visible edge.
            fade = np.exp(-((reach[floor] / (4.0 * np.linalg.norm(origin) + 1e-6)) ** 2))[:, None]
            image[floor] = fade * GROUND * lit[:, None] + (1 - fade) * background
            distance[floor] = -1.0  # hidden below: no mesh hit is shaded there
        hit = np.flatnonzero((found["primID"] >= 0) & (distance > 0))
        if not len(hit):
            return image
        face = found["primID"][hit]
        u, v = found["u"][hit, None], found["v"][hit, None]
        corner = self.normals[face]
        normal = (1 - u - v) * corner[:, 0] + u * corner[:, 1] + v * corner[:, 2]
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-12
        view = -rays[hit] / np.linalg.norm(rays[hit], axis=1, keepdims=True)
        flat = np.cross(
            self.corners[face, 1] - self.corners[face, 0],
            self.corners[face, 2] - self.corners[face, 0],
        )
        flat /= np.linalg.norm(flat, axis=1, keepdims=True) + 1e-20
        away = np.einsum("ij,ij->i", flat, view) < 0  # back faces of open meshes
        normal[away] *= -1
        flat[away] *= -1
        points = origin + found["tfar"][hit, None] * rays[hit]
        diffuse = np.clip(normal @ light, 0, None)
        if shadows:
            facing = (flat @ light > 0) & (diffuse > 0)
            dark = np.ones(len(hit), bool)
            dark[facing] = self._shadowed(points[facing] + 2e-4 * flat[facing], light)
            diffuse = np.where(dark, 0.0, diffuse)
        half = view + light
        half /= np.linalg.norm(half, axis=1, keepdims=True)
        gloss = np.clip(np.einsum("ij,ij->i", normal, half), 0, None) ** 40 * (diffuse > 0)
        sky = 0.42 + 0.16 * normal[:, 2]  # brighter from above
        rim = 0.10 * np.clip(np.einsum("ij,ij->i", normal, view), 0, 1)
        strength = (sky + rim + 0.55 * diffuse)[:, None]
        image[hit] = self.colours[face] * strength + 0.14 * gloss[:, None]
        return image
