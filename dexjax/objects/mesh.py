"""Mesh files to clean triangle meshes: safe reading, repair, and questions about the unit.

Only the named file is read: material and texture references are ignored, nothing is unpickled,
executed or downloaded.
"""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any, NamedTuple

import igl
import numpy as np
import trimesh

from dexjax.core.errors import DataError

MESH_SUFFIXES = (".obj", ".stl", ".ply", ".glb", ".off")
MAX_FILE_BYTES = 1 << 29  # 512 MiB: far above any object of a hand, below a denial of service
MAX_FACES = 2_000_000
MAX_EXTENT = 1.0  # m
MIN_EXTENT = 0.005  # m
NORMALISED_SCALE = 0.1  # m per unit: the middle of DexGraspNet's five scales 0.06 .. 0.15


class MeshReading(NamedTuple):
    """A clean mesh in metres, what was repaired, and the file's face behind each face."""

    mesh: trimesh.Trimesh
    notes: tuple[str, ...]
    source_face: np.ndarray  # (F,) int32 index into the faces of the file (-1: filled hole)


def read_mesh(path: str | Path, scale: float = 1.0) -> MeshReading:
    """Read, scale and repair one mesh file (OBJ, STL, PLY, GLB, OFF; scenes are joined).

    Raises `DataError` with file, fault and remedy for anything that cannot become an object.
    """
    path = Path(path)
    return clean_mesh(load_raw(path), scale=scale, where=str(path))


def load_raw(path: Path) -> trimesh.Trimesh:
    """The triangles of a file as they are, faces in file order, instances of a scene joined."""
    suffix = path.suffix.lower()
    if suffix not in MESH_SUFFIXES:
        raise DataError(f"{path}: not a mesh file; known: {', '.join(MESH_SUFFIXES)}")
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise DataError(
                f"{path}: {size / 2**20:.0f} MiB is more than the limit of "
                f"{MAX_FILE_BYTES >> 20} MiB; simplify the mesh first"
            )
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not data.strip():
        raise DataError(f"{path}: the file is empty; export the mesh again")
    # No resolver: loaders that look for materials or buffers beside the file find none.
    extra: dict[str, Any] = {} if suffix in (".stl", ".off") else {"skip_materials": True}
    loud = logging.getLogger("trimesh")
    level = loud.level
    loud.setLevel(logging.CRITICAL)  # trimesh prints tracebacks of tolerated faults
    try:
        scene = trimesh.load_scene(
            io.BytesIO(data), file_type=suffix[1:], resolver=None, process=False, **extra
        )
        parts = [p for p in scene.dump() if isinstance(p, trimesh.Trimesh) and len(p.faces)]
    except Exception as error:  # trimesh's loaders raise almost anything on broken bytes
        raise DataError(
            f"{path}: not a readable {suffix[1:].upper()} mesh "
            f"({type(error).__name__}: {str(error)[:80]}); export it again"
        ) from error
    finally:
        loud.setLevel(level)
    if not parts:
        raise DataError(f"{path}: holds no triangles; export the mesh with faces")
    vertices, faces, start = [], [], 0
    for part in parts:
        vertices.append(np.asarray(part.vertices, np.float64).reshape(-1, 3))
        faces.append(np.asarray(part.faces, np.int64).reshape(-1, 3) + start)
        low, high = faces[-1].min(), faces[-1].max()
        if low < start or high >= start + len(vertices[-1]):
            raise DataError(f"{path}: a face names a vertex that does not exist; export it again")
        start += len(vertices[-1])
    return trimesh.Trimesh(np.concatenate(vertices), np.concatenate(faces), process=False)


def clean_mesh(mesh: trimesh.Trimesh, *, scale: float = 1.0, where: str = "mesh") -> MeshReading:
    """Repair a mesh and check its size; `where` names it in messages.

    Joins equal vertices, drops degenerate and duplicate faces, closes holes, makes winding
    consistent and outward. Raises `DataError` if NaN, empty, flat, or of an unlikely size.
    """
    vertices = np.asarray(mesh.vertices, np.float64)
    faces = np.asarray(mesh.faces, np.int64)
    if len(faces) == 0 or len(vertices) == 0:
        raise DataError(f"{where}: holds no triangles; export the mesh with faces")
    if len(faces) > MAX_FACES:
        raise DataError(f"{where}: {len(faces)} faces, the limit is {MAX_FACES}; simplify it")
    if not (np.isfinite(scale) and scale > 0):
        raise DataError(f"{where}: mesh scale {scale} must be a positive number")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise DataError(f"{where}: a face names a vertex that does not exist; export it again")
    used = np.unique(faces)
    bad = int((~np.isfinite(vertices[used]).all(axis=1)).sum())
    if bad:
        raise DataError(
            f"{where}: {bad} of {len(used)} vertices are NaN or infinite; export it again"
        )
    with np.errstate(over="ignore"):
        vertices = np.where(np.isfinite(vertices), vertices, 0.0) * scale
        extents = np.ptp(vertices[used], axis=0)
    check_extents(extents, where)
    _check_flat(vertices[used], extents, where)
    return _repair(vertices, faces, where)


def check_extents(extents: np.ndarray, where: str) -> None:
    """Refuse an object longer than 1 m or shorter than 5 mm; the message proposes a scale."""
    longest = float(np.max(extents))
    if MIN_EXTENT <= longest <= MAX_EXTENT:
        return
    proposal = propose_scale(longest)
    if proposal is None:
        raise DataError(
            f"{where}: longest side {longest:.3g} m is no size for a hand and no usual unit "
            f"explains it; rescale the mesh to {MIN_EXTENT:g} .. {MAX_EXTENT:g} m"
        )
    factor, unit = proposal
    raise DataError(
        f"{where}: longest side {longest:.4g} m is no size for a hand; it looks like {unit}: "
        f"try --mesh-scale {factor:g} ({longest * factor:.3g} m)"
    )


def propose_scale(longest: float) -> tuple[float, str] | None:
    """Likely factor to metres and the unit it means, for a mesh that is not in metres."""
    if 1.0 < longest <= 2.001:  # radius 1 about the origin, as DexGraspNet and ShapeNet have it
        return NORMALISED_SCALE, "a mesh normalised to the unit sphere"
    for factor, unit in ((0.01, "centimetres"), (0.001, "millimetres"), (0.0254, "inches"),
                         (1000.0, "kilometres"), (1e-6, "micrometres")):  # fmt: skip
        if 0.02 <= longest * factor <= 0.5:
            return factor, unit
    return None


def _check_flat(points: np.ndarray, extents: np.ndarray, where: str) -> None:
    """Refuse meshes whose points lie in a plane or on a line, however it is turned."""
    spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False) / np.sqrt(len(points))
    if len(points) < 4 or spread[-1] < 1e-4 * extents.max():
        raise DataError(
            f"{where}: the mesh is flat (all vertices in one plane); give it a thickness "
            "or remove it"
        )


def _repair(vertices: np.ndarray, faces: np.ndarray, where: str) -> MeshReading:
    notes: list[str] = []
    source = np.arange(len(faces))
    # Tolerance 1e-5 of the size: exporters write seams and STL corners with that much noise.
    grid = np.round(vertices / (1e-5 * np.ptp(vertices[np.unique(faces)], axis=0).max()))
    _, first, inverse = np.unique(grid, axis=0, return_index=True, return_inverse=True)
    vertices, faces = vertices[first], inverse.reshape(-1)[faces]

    corner = vertices[faces]  # (F, 3, 3)
    area = 0.5 * np.linalg.norm(
        np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1
    )
    distinct = (faces != np.roll(faces, 1, axis=1)).all(axis=1)
    # A sliver of zero area that joins three distinct vertices is kept: dropping it opens a hole.
    if not distinct.all():
        notes.append(f"{_count((~distinct).sum(), 'degenerate face')} dropped")
        faces, source, area = faces[distinct], source[distinct], area[distinct]
    if len(faces) == 0 or area.sum() <= 0:
        raise DataError(f"{where}: no triangle has an area; export the mesh again")
    _, keep = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    if len(keep) < len(faces):
        notes.append(f"{_count(len(faces) - len(keep), 'duplicate face')} dropped")
        keep.sort()
        faces, source = faces[keep], source[keep]

    used, faces = np.unique(faces, return_inverse=True)
    mesh = trimesh.Trimesh(vertices[used], faces.reshape(-1, 3), process=False)
    if not mesh.is_winding_consistent:
        trimesh.repair.fix_winding(mesh)
        notes.append("winding made consistent")
    filled = _fill_holes(mesh)
    if filled:
        notes.append(f"{_count(filled, 'hole')} closed")
        source = np.concatenate([source, np.full(len(mesh.faces) - len(source), -1)])
    flipped, bodies = _turn_outward(mesh)
    if flipped:
        notes.append(f"{_count(flipped, 'inverted body')} turned outward")
    if bodies > 1:
        notes.append(f"{bodies} bodies joined")
    if not mesh.is_watertight:
        notes.append("not watertight")
    mesh = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)  # no stale caches
    return MeshReading(mesh, tuple(notes), source.astype(np.int32))


def _count(number: int, what: str) -> str:
    if number == 1:
        return f"1 {what}"
    return f"{number} {what[:-1]}ies" if what.endswith("y") else f"{number} {what}s"


def _fill_holes(mesh: trimesh.Trimesh, max_edges: int = 64) -> int:
    """Close missing triangles, and boundary loops that span at most a tenth of the object.

    Larger openings (a cup modelled as a sheet) are left: closing them would change the shape.
    """
    edges = mesh.edges
    _, inverse, count = np.unique(
        np.sort(edges, axis=1), axis=0, return_inverse=True, return_counts=True
    )
    boundary = edges[count[inverse.reshape(-1)] == 1]
    follow: dict[int, int] = {}
    for a, b in boundary:
        if int(b) in follow:  # two loops touch in a vertex: not a simple hole
            follow[int(b)] = -1
        else:
            follow[int(b)] = int(a)  # the patch runs against the edge
    limit = 0.1 * np.ptp(mesh.vertices, axis=0).max()
    new_faces: list[list[int]] = []
    seen: set[int] = set()
    holes = 0
    for start in follow:
        if start in seen:
            continue
        loop: list[int] = []
        node = start
        while node in follow and node not in seen and len(loop) <= len(follow):
            seen.add(node)
            loop.append(node)
            node = follow[node]
        if node != start or not 3 <= len(loop) <= max_edges:
            continue
        if len(loop) > 3 and np.ptp(mesh.vertices[loop], axis=0).max() > limit:
            continue
        new_faces += [[loop[0], loop[i], loop[i + 1]] for i in range(1, len(loop) - 1)]
        holes += 1
    if new_faces:
        mesh.faces = np.concatenate([mesh.faces, new_faces])
    return holes


def _turn_outward(mesh: trimesh.Trimesh) -> tuple[int, int]:
    """Turn bodies of negative volume outward, cavities excepted; returns (turned, bodies)."""
    label = trimesh.graph.connected_component_labels(
        mesh.face_adjacency, node_count=len(mesh.faces)
    )
    bodies = int(label.max()) + 1
    faces = np.array(mesh.faces)
    corner = mesh.vertices[faces] - mesh.vertices.mean(axis=0)
    volume = np.bincount(
        label, np.einsum("ij,ij->i", corner[:, 0], np.cross(corner[:, 1], corner[:, 2])) / 6.0
    )
    turned = 0
    for body in np.flatnonzero(volume < 0):
        mine = label == body
        if bodies > 1 and np.abs(volume).max() > abs(volume[body]):
            # An inner wall of a hollow object points inward on purpose.
            probe = corner[mine].mean(axis=(0, 1))[None] + mesh.vertices.mean(axis=0)
            others = np.ascontiguousarray(faces[~mine])
            if float(_winding(mesh.vertices, others, probe)[0]) > 0.5:
                continue
        faces[mine] = faces[mine][:, ::-1]
        turned += 1
    if turned:
        mesh.faces = faces
    return turned, bodies


def _winding(vertices: np.ndarray, faces: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Generalised winding numbers (Barill et al. 2018): 1 inside, 0 outside, soft at holes."""
    return np.atleast_1d(
        igl.fast_winding_number(
            np.ascontiguousarray(vertices, np.float64),
            np.ascontiguousarray(faces, np.int64),
            np.ascontiguousarray(points, np.float64),
        )
    )


def winding_number(mesh: trimesh.Trimesh, points: np.ndarray) -> np.ndarray:
    """(N,) generalised winding number of `mesh` at `points` (N, 3)."""
    return _winding(mesh.vertices, mesh.faces, points)
