"""A mesh from six sides: colour, depth, triangle numbers, and what each side sees of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dexjax.render.raycast import RayScene
from dexjax.render.scene import Camera, RenderMesh

# Name of each view: where the camera stands.
CARDINAL: dict[str, tuple[int, int, int]] = {
    "+x": (1, 0, 0),
    "-x": (-1, 0, 0),
    "+y": (0, 1, 0),
    "-y": (0, -1, 0),
    "+z": (0, 0, 1),
    "-z": (0, 0, -1),
}
_DISTANCE = 3.0  # of the camera from the centre, bounding radii
_FILL = 0.95  # part of the image's height that the bounding sphere covers


@dataclass(frozen=True, eq=False)
class View:
    """What one camera sees. Images are (H, W), row 0 at the top."""

    name: str
    camera: Camera
    colour: np.ndarray  # (H, W, 3) uint8
    depth: np.ndarray  # (H, W) float32 along the optical axis, m; inf where empty
    face: np.ndarray  # (H, W) int32 triangle of the mesh, -1 where empty

    def segmentation(self, face_labels: np.ndarray) -> np.ndarray:
        """(H, W) label of the triangle in each pixel, from labels (F,); -1 where empty."""
        labels = np.append(np.asarray(face_labels), -1)
        return labels[self.face]

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """World points (N, 3) in the pixels that are not empty, and those pixels (N, 2): row,
        column."""
        height, width = self.depth.shape
        origin, rays = self.camera.rays(width, height)
        pixels = np.argwhere(self.face >= 0)
        depth = self.depth[pixels[:, 0], pixels[:, 1], None]
        return origin + depth * rays.reshape(height, width, 3)[pixels[:, 0], pixels[:, 1]], pixels


def cardinal_cameras(mesh: RenderMesh) -> list[Camera]:
    """Six cameras along the world axes, in the order of `CARDINAL`, three bounding radii away.

    Upwards in the image is +z, seen along z it is +y. The sphere about the middle of the bounding
    box that holds all vertices fills 95 % of the image's height.
    """
    vertices = mesh.world_vertices()[np.unique(np.asarray(mesh.faces))]
    centre = 0.5 * (vertices.min(0) + vertices.max(0))
    radius = float(np.linalg.norm(vertices - centre, axis=1).max())
    fov = 2 * np.degrees(np.arctan(np.tan(np.arcsin(1 / _DISTANCE)) / _FILL))
    return [
        Camera(
            centre + _DISTANCE * radius * np.array(side),
            centre,
            (0.0, 1.0, 0.0) if side[2] else (0.0, 0.0, 1.0),
            float(fov),
        )
        for side in CARDINAL.values()
    ]


def cardinal_views(mesh: RenderMesh, size: int = 512, *, supersample: int = 1) -> list[View]:
    """The mesh from +x, -x, +y, -y, +z, -z, square images of `size` pixels on white.

    The light stands beside the camera, so that no side is in the dark.
    """
    scene = RayScene([mesh])
    views = []
    for name, camera in zip(CARDINAL, cardinal_cameras(mesh), strict=True):
        depth, face = scene.depth_and_faces(camera, size, size)
        right, top, forward = camera.axes()
        colour = scene.image(
            camera,
            size,
            size,
            supersample=supersample,
            background=(1.0, 1.0, 1.0),
            light=-forward + 0.35 * right + 0.5 * top,
        )
        views.append(View(name, camera, colour, depth, face))
    return views


def visible_points(
    mesh: RenderMesh,
    points: np.ndarray,
    cameras: Sequence[Camera],
    normals: np.ndarray | None = None,
) -> np.ndarray:
    """(cameras, N) bool: which points (N, 3) of the mesh's surface each camera sees.

    Exact rays, world frame; normals (N, 3) also exclude points on the far side of thin walls.
    """
    scene = RayScene([mesh])
    return np.stack([scene.visible(points, camera, normals) for camera in cameras])
