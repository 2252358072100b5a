"""Convex pieces that MuJoCo accepts: approximate convex decomposition, and simplified hulls."""

from __future__ import annotations

import igl
import numpy as np
import trimesh
from scipy.spatial import ConvexHull, QhullError

from dexjax.core.errors import DataError
from dexjax.objects.mesh import winding_number

MAX_PIECES = 16
MAX_PIECE_VERTICES = 64
MIN_THICKNESS = 0.001  # m; thinner pieces slip through contacts and make MuJoCo refuse the hull
NEAR_CONVEX = 1.10  # hull volume / mesh volume below which one hull is exact enough

# Chosen on the real meshes of the tests for speed: seconds per object on one core. A finer search
# (150 iterations, depth 3) took ten times longer for the same number of pieces.
COACD_SETTINGS = dict(
    mcts_iterations=20,
    mcts_nodes=8,
    mcts_max_depth=2,
    resolution=500,
    preprocess_resolution=50,
)


def convex_pieces(
    mesh: trimesh.Trimesh,
    volume: float,
    *,
    threshold: float = 0.08,
    max_pieces: int = MAX_PIECES,
    max_vertices: int = MAX_PIECE_VERTICES,
) -> tuple[list[np.ndarray], list[str]]:
    """Convex pieces (n <= max_vertices, 3) of a mesh of known volume, and notes.

    One hull if the mesh is nearly convex, else CoACD (Wei et al. 2022), concavity `threshold`
    as a part of the object's size. The same mesh gives the same pieces.
    """
    hull = convex_hull(mesh.vertices)
    if hull.volume < NEAR_CONVEX * volume or max_pieces == 1:
        return tidy_pieces([hull.points[hull.vertices]], max_vertices=max_vertices)
    import coacd

    coacd.set_log_level("error")
    parts = coacd.run_coacd(
        coacd.Mesh(np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int32)),
        threshold=threshold,
        max_convex_hull=max_pieces,
        seed=0,
        **COACD_SETTINGS,
    )
    points = [_onto_surface(np.asarray(v, np.float64), mesh) for v, _ in parts]
    if not points:  # seen on sheets whose remeshed volume vanished
        pieces, notes = tidy_pieces([mesh.vertices], max_vertices=max_vertices)
        return pieces, [*notes, "convex decomposition failed: one hull used"]
    if len(points) > max_pieces:
        volumes = [convex_hull(p).volume if _is_solid(p) else 0.0 for p in points]
        order = np.argsort(volumes)[::-1][:max_pieces]
        points = [points[i] for i in sorted(order)]
    return tidy_pieces(points, max_vertices=max_vertices)


def tidy_pieces(
    pieces: list[np.ndarray], *, max_vertices: int = MAX_PIECE_VERTICES
) -> tuple[list[np.ndarray], list[str]]:
    """Hull vertices of each piece, at most `max_vertices`, at least 1 mm thick; and notes."""
    out, thickened = [], 0
    for points in pieces:
        points = np.asarray(points, np.float64).reshape(-1, 3)
        if not np.isfinite(points).all():
            raise DataError("a convex piece has NaN vertices; build the mesh again")
        if len(points) == 0:
            continue
        simple = _keep_volume(simplify_hull(points, max_vertices), points)
        if min_thickness(simple) < MIN_THICKNESS:
            simple = simplify_hull(thicken(simplify_hull(points, max_vertices // 2)), max_vertices)
            thickened += 1
        out.append(simple)
    if not out:
        raise DataError("no convex piece has a vertex; the mesh cannot be simulated")
    what = f"{thickened} piece{'s' * (thickened > 1)} thickened to {MIN_THICKNESS * 1e3:g} mm"
    notes = [what] if thickened else []
    return out, notes


def convex_hull(points: np.ndarray) -> ConvexHull:
    """SciPy's hull; `DataError` if the points lie in a plane."""
    try:
        return ConvexHull(np.asarray(points, np.float64))
    except (QhullError, ValueError) as error:
        raise DataError("the points lie in a plane: no convex hull; give them thickness") from error


def simplify_hull(points: np.ndarray, max_vertices: int) -> np.ndarray:
    """At most `max_vertices` of the hull's vertices, greedily those farthest outside so far.

    The result's hull lies inside the given one: for a ball, 64 vertices by up to 6 % of the
    radius. Flat input comes back as it is (subsampled), for `thicken`.
    """
    try:
        hull = ConvexHull(points)
    except (QhullError, ValueError):
        return points[farthest_points(points, max_vertices)]
    corners = points[hull.vertices]
    if len(corners) <= max_vertices:
        return corners
    chosen = _first_simplex(corners)
    try:
        growing = ConvexHull(corners[chosen], incremental=True)
        while len(chosen) < max_vertices:
            outside = (corners @ growing.equations[:, :3].T + growing.equations[:, 3]).max(axis=1)
            best = int(outside.argmax())
            if best in chosen or outside[best] <= 0:
                break
            chosen.append(best)
            growing.add_points(corners[best][None])
        growing.close()
    except QhullError:
        chosen = list(farthest_points(corners, max_vertices))
    return corners[chosen]


def thicken(points: np.ndarray, thickness: float = MIN_THICKNESS) -> np.ndarray:
    """(2n, 3): the points moved by half of `thickness` either way along every thin direction."""
    points = np.asarray(points, np.float64)
    for _ in range(3):
        direction, width = _thinnest(points)
        if width >= thickness:
            break
        points = np.concatenate([points + 0.5 * thickness * direction,
                                 points - 0.5 * thickness * direction])  # fmt: skip
        if len(points) > 128:
            points = points[farthest_points(points, 128)]
    return points


def min_thickness(points: np.ndarray) -> float:
    """Smallest distance between two parallel planes that hold the points, one along a face, m."""
    return _thinnest(points)[1]


def farthest_points(points: np.ndarray, count: int, first: int | None = None) -> np.ndarray:
    """Indices (min(count, N),) in farthest-point order, from the point farthest off the mean."""
    points = np.ascontiguousarray(points)
    if first is None:
        first = int(((points - points.mean(axis=0)) ** 2).sum(axis=1).argmax())
    chosen = np.empty(min(count, len(points)), np.int64)
    chosen[0] = first
    # Expanded squares: one matrix-vector product per step instead of an (N, 3) temporary.
    centred = points - points.mean(axis=0)
    square = np.einsum("ij,ij->i", centred, centred)
    distance = np.full(len(points), np.inf)
    for i in range(1, len(chosen)):
        last = chosen[i - 1]
        np.minimum(distance, square + square[last] - 2 * (centred @ centred[last]), out=distance)
        distance[last] = -1.0
        chosen[i] = int(distance.argmax())
    return chosen


def _onto_surface(points: np.ndarray, mesh: trimesh.Trimesh) -> np.ndarray:
    """Hull vertices that lie outside the mesh, moved to its closest point.

    CoACD remeshes what is not manifold with a voxel's offset outward: up to 9 mm on a plate.
    """
    vertices = np.ascontiguousarray(mesh.vertices, np.float64)
    faces = np.ascontiguousarray(mesh.faces, np.int64)
    square, _, closest = igl.point_mesh_squared_distance(
        np.ascontiguousarray(points), vertices, faces
    )
    size = np.ptp(vertices, axis=0).max()
    limit = 2 * size / COACD_SETTINGS["preprocess_resolution"]
    off = (np.sqrt(square) > 1e-4 * size) & (np.sqrt(square) < limit)
    off[off] = winding_number(mesh, points[off]) < 0.5 if off.any() else False
    return np.where(off[:, None], closest.reshape(-1, 3), points)


def _keep_volume(simple: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The simplified hull's vertices moved outward along their normals until the volume is back.

    Spreads the error: 64 vertices of a 36 mm ball lie up to 2 mm inside it before, 1 mm to
    either side after. Nothing moves where no vertex was left out.
    """
    try:
        full, hull = ConvexHull(points), ConvexHull(simple)
    except (QhullError, ValueError):
        return simple
    lost = full.volume - hull.volume
    if lost <= 1e-9 * full.volume:
        return simple
    corner = hull.points[hull.simplices]
    side = corner[:, 1:] - corner[:, :1]
    area = np.linalg.norm(np.cross(side[:, 0], side[:, 1]), axis=1)
    normal = np.zeros_like(simple)
    for k in range(3):
        np.add.at(normal, hull.simplices[:, k], area[:, None] * hull.equations[:, :3])
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    moved = simple + normal / np.maximum(length, 1e-30) * (lost / hull.area)
    return moved


def _thinnest(points: np.ndarray) -> tuple[np.ndarray, float]:
    try:
        hull = ConvexHull(points)
    except (QhullError, ValueError):
        _, _, axes = np.linalg.svd(points - points.mean(axis=0), full_matrices=True)
        return axes[-1], float(np.ptp(points @ axes[-1]))
    corners = points[hull.vertices]
    height = -(corners @ hull.equations[:, :3].T + hull.equations[:, 3]).min(axis=0)
    best = int(height.argmin())
    return hull.equations[best, :3], float(height[best])


def _first_simplex(points: np.ndarray) -> list[int]:
    """Four points that span a volume: extremes of a line, then of a plane, then of space."""
    a = int(points[:, 0].argmin())
    b = int(((points - points[a]) ** 2).sum(axis=1).argmax())
    line = (points[b] - points[a]) / np.linalg.norm(points[b] - points[a])
    offset = points - points[a]
    aside = offset - np.outer(offset @ line, line)
    c = int((aside**2).sum(axis=1).argmax())
    normal = np.cross(points[b] - points[a], points[c] - points[a])
    d = int(np.abs(offset @ normal).argmax())
    return [a, b, c, d]


def _is_solid(points: np.ndarray) -> bool:
    try:
        ConvexHull(points)
    except (QhullError, ValueError):
        return False
    return True
