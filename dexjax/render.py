"""Pictures without OpenGL: a ray caster on Embree for triangle meshes and MuJoCo's visual geoms.

    image = render(meshes, frame_camera(meshes), 512, 512, ground=0.0)
    write_png("out.png", image)

World frame, metres, z up, quaternions wxyz. Images are (H, W, 3) uint8.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import mujoco
import numpy as np
import trimesh
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from PIL import Image, ImageDraw, ImageFont

from dexjax.core.errors import DataError

CREASE_COS = np.cos(np.radians(38.0))  # sharper edges than this are drawn sharp
SKY = np.array([0.97, 0.98, 1.0])
GROUND = np.array([0.86, 0.86, 0.85])
KEY_LIGHT = np.array([0.45, -0.55, 1.0])  # direction towards the light


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
        turn = _matrix(self.quat)
        return np.asarray(self.vertices, float) @ turn.T + np.asarray(self.position, float)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera; `fov` is the vertical field of view in degrees."""

    position: Sequence[float] | np.ndarray
    target: Sequence[float] | np.ndarray
    up: Sequence[float] | np.ndarray = (0.0, 0.0, 1.0)
    fov: float = 30.0

    def rays(self, width: int, height: int, dx=0.5, dy=0.5) -> tuple[np.ndarray, np.ndarray]:
        """Origin (3,) and directions (H * W, 3), each with length 1 along the optical axis.

        dx, dy: where in the pixel the ray passes, 0 .. 1 from its upper left corner.
        """
        origin = np.asarray(self.position, float)
        forward = np.asarray(self.target, float) - origin
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, self.up)
        right /= np.linalg.norm(right)
        top = np.cross(right, forward)
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


def render(
    meshes: Sequence[RenderMesh],
    camera: Camera,
    width: int,
    height: int,
    *,
    ground: float | None = None,
    supersample: int = 2,
    shadows: bool = True,
    background: np.ndarray | Sequence[float] = SKY,
) -> np.ndarray:
    """Shaded image (H, W, 3) uint8: sky and key light, shadows, optional ground plane z = ground.

    supersample: rays per pixel side; each has its own light direction, so shadows are soft.
    """
    scene = _Scene(meshes)
    total = np.zeros((height * width, 3), np.float32)
    count = supersample**2
    for k in range(count):
        # A rotated grid: near-horizontal and near-vertical edges both get all steps.
        col, row = k % supersample, k // supersample
        dx = (col + (row + 0.5) / supersample) / supersample
        dy = (row + (supersample - col - 0.5) / supersample) / supersample
        turn = 2 * np.pi * (k + 0.5) / count
        light = KEY_LIGHT + 0.05 * np.array([np.cos(turn), np.sin(turn), 0.0]) * (count > 1)
        light = light / np.linalg.norm(light)
        origin, rays = camera.rays(width, height, dx, dy)
        total += scene.shade(origin, rays, light, ground, shadows, np.asarray(background))
    linear = np.clip(total / count, 0.0, 1.0)
    return (255.0 * linear + 0.5).astype(np.uint8).reshape(height, width, 3)


def render_depth(
    meshes: Sequence[RenderMesh], camera: Camera, width: int, height: int
) -> np.ndarray:
    """Depth along the optical axis through the pixel centres, (H, W) float32 m; inf where empty."""
    origin, rays = camera.rays(width, height)
    hit = _Scene(meshes).cast(origin, rays)
    depth = np.where(hit["primID"] >= 0, hit["tfar"], np.inf)
    return depth.astype(np.float32).reshape(height, width)


# --- MuJoCo --------------------------------------------------------------------------------------


def model_geometry(
    model: mujoco.MjModel, groups: Iterable[int] = (0, 1, 2), *, detail: int = 3
) -> list[tuple[int, RenderMesh]]:
    """(body id, mesh in the body frame) of every visible geom in `groups`; planes are left out.

    detail: 3, or 2 for a quarter of the triangles on round shapes (small pictures, videos).
    """
    wanted, out = set(groups), []
    for g in range(model.ngeom):
        rgba = model.geom_rgba[g]
        if model.geom_matid[g] >= 0 and np.allclose(rgba, (0.5, 0.5, 0.5, 1.0)):
            rgba = model.mat_rgba[model.geom_matid[g]]  # MuJoCo's rule: the geom's own colour wins
        if int(model.geom_group[g]) not in wanted or rgba[3] == 0:
            continue
        shape = _geom_mesh(model, g, detail)
        if shape is None:
            continue
        vertices = shape[0] @ _matrix(model.geom_quat[g]).T + model.geom_pos[g]
        mesh = RenderMesh(vertices, shape[1], tuple(float(c) for c in rgba[:3]))
        out.append((int(model.geom_bodyid[g]), mesh))
    return out


def pose_geometry(
    geometry: Sequence[tuple[int, RenderMesh]], xpos: np.ndarray, xquat: np.ndarray
) -> list[RenderMesh]:
    """`model_geometry` at body poses xpos (nbody, 3), xquat (nbody, 4), as recorded per frame."""
    return [mesh.at(xpos[body], xquat[body]) for body, mesh in geometry]


def scene_meshes(
    model: mujoco.MjModel, xpos: np.ndarray, xquat: np.ndarray, groups: Iterable[int] = (0, 1, 2)
) -> list[RenderMesh]:
    """Visual geoms of a model at body poses; for many frames use `model_geometry` once."""
    return pose_geometry(model_geometry(model, groups), xpos, xquat)


def _geom_mesh(model: mujoco.MjModel, g: int, detail: int) -> tuple[np.ndarray, np.ndarray] | None:
    kind, size = mujoco.mjtGeom(model.geom_type[g]), model.geom_size[g]
    create = trimesh.creation
    if kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        mesh = create.icosphere(detail, size[0])
    elif kind == mujoco.mjtGeom.mjGEOM_ELLIPSOID:
        mesh = create.icosphere(detail).apply_scale(size)
    elif kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
        mesh = create.capsule(2 * size[1], size[0], count=[2 << detail, 3 << detail])
        mesh.vertices[:, 2] -= mesh.bounds.mean(0)[2]
    elif kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        mesh = create.cylinder(size[0], 2 * size[1], sections=32)
    elif kind == mujoco.mjtGeom.mjGEOM_BOX:
        mesh = create.box(2 * size)
    elif kind in (mujoco.mjtGeom.mjGEOM_MESH, mujoco.mjtGeom.mjGEOM_SDF):
        m = model.geom_dataid[g]
        if m < 0:
            return None
        v, f = model.mesh_vertadr[m], model.mesh_faceadr[m]
        return (
            model.mesh_vert[v : v + model.mesh_vertnum[m]].astype(float),
            model.mesh_face[f : f + model.mesh_facenum[m]],
        )
    else:
        return None
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


# --- files ---------------------------------------------------------------------------------------


def write_png(path: str | Path, image: np.ndarray) -> None:
    """Write an (H, W, 3) uint8 image."""
    try:
        Image.fromarray(_checked(image)).save(path, format="PNG", optimize=True)
    except OSError as error:
        raise DataError(f"{path}: cannot write the image: {error.strerror or error}") from error


def write_mp4(path: str | Path, frames: Iterable[np.ndarray], fps: float = 30.0) -> None:
    """Write equally large (H, W, 3) uint8 frames as H.264; odd sizes lose one row or column.

    Raises DataError where there are no frames, or frames of several sizes, or ffmpeg fails.
    """
    writer: subprocess.Popen[bytes] | None = None
    size = (0, 0)
    try:
        for frame in frames:
            frame = _checked(frame)
            height, width = (s - s % 2 for s in frame.shape[:2])  # yuv420 needs even sizes
            if writer is None:
                size = (width, height)
                writer = _start_ffmpeg(Path(path), size, fps)
            if (width, height) != size:
                raise DataError(f"{path}: frame of {width}x{height} after frames of {size}")
            assert writer.stdin is not None
            writer.stdin.write(np.ascontiguousarray(frame[:height, :width]).tobytes())
        if writer is None:
            raise DataError(f"{path}: no frames to write")
    except BrokenPipeError:
        pass  # ffmpeg has given up; its message is read below
    finally:
        message = b"" if writer is None else writer.communicate()[1]
    if writer is not None and writer.returncode:
        reason = message.decode(errors="replace").strip() or f"exit code {writer.returncode}"
        raise DataError(f"{path}: ffmpeg could not write the video ({reason[-300:]})")


def _start_ffmpeg(path: Path, size: tuple[int, int], fps: float) -> subprocess.Popen[bytes]:
    """An ffmpeg that reads raw frames. Not `imageio_ffmpeg.write_frames`: that runs Python code in
    the forked child, which may deadlock beside JAX's threads."""
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", "-f", "rawvideo"]
    command += ["-pix_fmt", "rgb24", "-s", f"{size[0]}x{size[1]}", "-r", f"{fps:.6g}", "-i", "-"]
    command += ["-an", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "17", str(path)]
    pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
    # A session of its own: Ctrl-C must not end it before its input does.
    return subprocess.Popen(command, stdin=pipe, stdout=quiet, stderr=pipe, start_new_session=True)


def grid(
    images: Sequence[np.ndarray],
    columns: int,
    labels: Sequence[str] | None = None,
    gap: int = 4,
) -> np.ndarray:
    """Equally large images in rows of `columns`, each with an optional label at its top left."""
    height, width = images[0].shape[:2]
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for k, image in enumerate(images):
        top, left = (k // columns) * (height + gap), (k % columns) * (width + gap)
        tile = _checked(image) if labels is None else label(image, labels[k])
        sheet[top : top + height, left : left + width] = tile
    return sheet


def label(image: np.ndarray, text: str, size: int = 14, at: tuple[int, int] = (6, 4)) -> np.ndarray:
    """Copy of an image with dark text at pixel (x, y)."""
    picture = Image.fromarray(_checked(image))
    ImageDraw.Draw(picture).text(at, text, (25, 25, 30), font=ImageFont.load_default(size))
    return np.asarray(picture)


def _checked(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise DataError(f"an image is (H, W, 3) uint8, not {image.shape} {image.dtype}")
    return image


# --- ray casting ---------------------------------------------------------------------------------


class _Scene:
    """All meshes as one Embree triangle soup in world coordinates."""

    def __init__(self, meshes: Sequence[RenderMesh]):
        corners, normals, colours = [], [], []
        for mesh in meshes:
            vertices = mesh.world_vertices()
            if not np.isfinite(vertices).all():
                raise DataError("a mesh to render has vertices or a pose that are not finite")
            corners.append(vertices[mesh.faces])
            normals.append(mesh.corner_normals @ _matrix(mesh.quat).T)
            colour = np.asarray(mesh.colour, float)
            colours.append(np.broadcast_to(colour, (len(mesh.faces), 3)))
        self.empty = not corners
        if self.empty:
            return
        self.corners = np.concatenate(corners).astype(np.float32)
        self.normals = np.concatenate(normals).astype(np.float32)
        self.colours = np.concatenate(colours).astype(np.float32)
        self.scene = EmbreeScene()
        # Embree keeps the buffers: the mesh object must outlive the scene's queries.
        self.mesh = TriangleMesh(self.scene, self.corners)

    def cast(self, origin: np.ndarray, rays: np.ndarray) -> dict[str, np.ndarray]:
        """Nearest hits of rays (N, 3) from one origin: primID (-1: none), tfar, u, v, Ng."""
        count = len(rays)
        if self.empty:
            return {"primID": np.full(count, -1), "tfar": np.full(count, np.inf)}
        start = np.broadcast_to(origin, rays.shape).astype(np.float32)
        return self.scene.run(start, rays.astype(np.float32), output=1)

    def shadowed(self, points: np.ndarray, light: np.ndarray) -> np.ndarray:
        if self.empty or not len(points):
            return np.zeros(len(points), bool)
        rays = np.broadcast_to(light, points.shape).astype(np.float32)
        return self.scene.run(points.astype(np.float32), rays, query="OCCLUDED") >= 0

    def shade(self, origin, rays, light, ground, shadows, background) -> np.ndarray:
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
                lit -= 0.42 * self.shadowed(points + [0, 0, 1e-4], light)
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
            dark[facing] = self.shadowed(points[facing] + 2e-4 * flat[facing], light)
            diffuse = np.where(dark, 0.0, diffuse)
        half = view + light
        half /= np.linalg.norm(half, axis=1, keepdims=True)
        gloss = np.clip(np.einsum("ij,ij->i", normal, half), 0, None) ** 40 * (diffuse > 0)
        sky = 0.42 + 0.16 * normal[:, 2]  # brighter from above
        rim = 0.10 * np.clip(np.einsum("ij,ij->i", normal, view), 0, 1)
        strength = (sky + rim + 0.55 * diffuse)[:, None]
        image[hit] = self.colours[face] * strength + 0.14 * gloss[:, None]
        return image


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


def _matrix(quat) -> np.ndarray:
    """Rotation matrix (3, 3) of a wxyz quaternion of any length."""
    out = np.empty(9)
    unit = np.asarray(quat, float)
    mujoco.mju_quat2Mat(out, unit / np.linalg.norm(unit))
    return out.reshape(3, 3)
