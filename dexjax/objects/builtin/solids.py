"""Smooth solids that know their convex pieces: lofts, bodies of revolution, vessels, unions.

A solid is a stack of rings joined into a closed skin. Convex pieces are hulls of runs of rings, so
collision geometry comes from the construction and needs no decomposition. Metres throughout.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import manifold3d
import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import ConvexHull, cKDTree

MAX_PIECE_VERTICES = 64

# Facets stay triangles: twice as fast as merging coplanar ones, and flat caps cannot fail.
JOGGLED = "QJ Pp"

# Turns solids of revolution, made about z, to lie along +x.
Z_TO_X = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])


@dataclass(frozen=True)
class Solid:
    """A closed surface, the part each face belongs to, and convex pieces that cover its volume."""

    vertices: np.ndarray  # (V, 3)
    faces: np.ndarray  # (F, 3)
    parts: np.ndarray  # (F,) str
    pieces: tuple[np.ndarray, ...]  # each (n, 3)

    def moved(self, rotation: np.ndarray | None = None, offset=(0.0, 0.0, 0.0)) -> Solid:
        """The solid under x -> rotation x + offset; `rotation` (3, 3) may scale but not mirror."""
        linear = np.eye(3) if rotation is None else np.asarray(rotation, float)
        shift = np.asarray(offset, float)
        return replace(
            self,
            vertices=self.vertices @ linear.T + shift,
            pieces=tuple(p @ linear.T + shift for p in self.pieces),
        )


# --- rings ---------------------------------------------------------------------------------------


def superellipse(n: int, power: float = 2.0) -> np.ndarray:
    """Unit superellipse |x|^p + |y|^p = 1, counter-clockwise. (n, 2); p = 2 is a circle."""
    angle = np.linspace(0.0, 2.0 * np.pi, n, endpoint=False)
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([np.sign(c) * abs(c) ** (2 / power), np.sign(s) * abs(s) ** (2 / power)], 1)


def lathe(profile, n: int = 32, power: float = 2.0) -> np.ndarray:
    """Rings (K, n, 3) about z from (radius, z) rows; a `power` over 2 squares the circles."""
    profile = np.asarray(profile, float)
    unit = superellipse(n, power)
    xy = np.maximum(profile[:, None, :1], 2e-4) * unit
    return np.concatenate([xy, np.broadcast_to(profile[:, None, 1:], (*xy.shape[:2], 1))], -1)


def rounded_profile(corners, radii, arc: int = 4) -> np.ndarray:
    """Polyline with its inner corners replaced by arcs.

    corners: (K, 2); radii: (K,) fillet radius at each corner, 0 keeps it sharp (ends are kept).
    The radius is cut down where the neighbouring edges are too short. Returns (M, 2).
    """
    corners = np.asarray(corners, float)
    out = [corners[0]]
    for before, here, after, radius in zip(
        corners[:-2], corners[1:-1], corners[2:], radii[1:-1], strict=True
    ):
        u, v = before - here, after - here
        lu, lv = np.linalg.norm(u), np.linalg.norm(v)
        u, v = u / lu, v / lv
        half = 0.5 * np.arccos(np.clip(u @ v, -1.0, 1.0))
        if radius <= 0 or half > 0.49 * np.pi:
            out.append(here)
            continue
        reach = min(radius / np.tan(half), 0.49 * lu, 0.49 * lv)
        a, b = here + reach * u, here + reach * v
        # Quadratic Bezier: close to the arc, and smooth enough for the eye.
        for t in np.linspace(0.0, 1.0, arc):
            out.append((1 - t) ** 2 * a + 2 * t * (1 - t) * here + t**2 * b)
    out.append(corners[-1])
    return np.array(out)


def smooth_curve(knots, values, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Shape-preserving cubic through (knots, values): returns n knots and their values."""
    t = np.linspace(knots[0], knots[-1], n)
    return t, PchipInterpolator(knots, np.asarray(values, float))(t)


def sweep(path, half, power=2.0, n: int = 20, up=(0.0, 0.0, 1.0), cap: float = 0.5) -> np.ndarray:
    """Rings of a superellipse swept along a path.

    path: (K, 3) centres; half: (K, 2) half-widths along (side, up), where side = up x tangent.
    cap: length of the rounded ends as a fraction of the smaller half-width; 0 leaves them flat.
    power: scalar or (K,) superellipse power. Returns (K', n, 3).
    """
    path, half = np.asarray(path, float), np.asarray(half, float)
    power = np.broadcast_to(power, len(path))
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    side = np.cross(up, tangent)
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    above = np.cross(tangent, side)

    def ring(k: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
        uv = superellipse(n, power[k]) * half[k] * scale
        return path[k] + shift * tangent[k] + uv[:, :1] * side[k] + uv[:, 1:] * above[k]

    rings = [ring(k) for k in range(len(path))]
    if cap > 0:
        # Quarter-ellipse ends: ring radius sin(a), position cos(a).
        for angle in np.radians([65.0, 40.0, 15.0]):
            rings.insert(0, ring(0, np.sin(angle), -cap * half[0].min() * np.cos(angle)))
            rings.append(ring(-1, np.sin(angle), cap * half[-1].min() * np.cos(angle)))
    return np.array(rings)


# --- solids --------------------------------------------------------------------------------------


def loft(rings, part, spans=None, closed: bool = False, tolerance: float = 2e-3) -> Solid:
    """Closed solid through rings (K, n, 3) of equal winding, with flat fans at both ends.

    part: one name, or K + 1 names (start cap, K - 1 bands, end cap).
    spans: (first, last) ring of each convex piece; found greedily if omitted, so that hulls
    stick out of the skin by less than `tolerance`. closed: join the last ring to the first.
    """
    rings = np.asarray(rings, float)
    k, n, _ = rings.shape
    vertices = rings.reshape(-1, 3)
    i, j = np.arange(n), (np.arange(n) + 1) % n
    bands = k if closed else k - 1
    faces, owner = [], []
    for b in range(bands):
        lo, hi = b * n, ((b + 1) % k) * n
        faces += [np.stack([lo + i, lo + j, hi + j], 1), np.stack([lo + i, hi + j, hi + i], 1)]
        owner.append(np.full(2 * n, b + 1))
    if not closed:
        ends = np.stack([rings[0].mean(0), rings[-1].mean(0)])
        vertices = np.concatenate([vertices, ends])
        first, last = np.full(n, k * n), np.full(n, k * n + 1)
        faces += [np.stack([first, j, i], 1), np.stack([last, (k - 1) * n + i, (k - 1) * n + j], 1)]
        owner += [np.zeros(n, int), np.full(n, k)]
    faces_all = np.concatenate(faces)
    corner = vertices[faces_all]
    if np.einsum("ij,ij->", corner[:, 0], np.cross(corner[:, 1], corner[:, 2])) < 0:
        faces_all = faces_all[:, ::-1].copy()
    names = np.full(k + 1, part) if isinstance(part, str) else np.asarray(part)
    if spans is None:
        spans = _spans(rings, closed, tolerance)
    pieces = tuple(convex_piece(rings[np.arange(a, b + 1) % k].reshape(-1, 3)) for a, b in spans)
    return Solid(vertices, faces_all, names[np.concatenate(owner)], pieces)


def vessel(outer, inner, parts, wedges: int, n: int = 36, linear=None) -> Solid:
    """Hollow body of revolution about z, open at the top.

    outer: (K, 2) radius, z from the bottom's axis up to the lip; inner: (M, 2) from the rim down to
    the axis of the cavity. parts: (outside, rim, inside). linear: (3, 3) map applied at the end.
    Pieces: a bottom and `wedges` wall segments, whose inner chords are moved outwards by half
    their sagitta so that they neither fill the cavity nor leave the inner wall bare.
    """
    outer, inner = np.asarray(outer, float), np.asarray(inner, float)
    profile = np.concatenate([outer, inner])
    outside, rim, inside = parts
    # `outer` ends with the lip, so the bands on both sides of its last ring are the rim.
    names = [outside] * (len(outer) - 1) + [rim] * 2 + [inside] * len(inner)
    skin = loft(lathe(profile, n), names, spans=())
    floor = inner[-1, 1]
    wall = outer[outer[:, 1] >= floor]
    base = outer[outer[:, 1] <= floor + 1e-3]
    wall = np.concatenate([[_at(outer, floor)], wall])
    slope = (inner[1, 0] - inner[0, 0]) / (inner[1, 1] - inner[0, 1])
    straight = inner[0, 0] + slope * (inner[:, 1] - inner[0, 1])
    cavity = inner[inner[:, 0] > straight - 1e-3]  # the straight wall, without fillet and floor
    cavity = np.concatenate([cavity, [(straight[-1], floor)]])
    half = np.pi / wedges
    bias = 0.5 * (1.0 / np.cos(half) + 1.0)
    pieces = [convex_piece(lathe(np.concatenate([base, [_at(outer, floor)]]), 16).reshape(-1, 3))]
    wall, cavity = _thin(wall, 5), _thin(cavity, 4)
    for w in range(wedges):
        outer_angle = 2 * half * w + np.linspace(-half, half, 4)
        inner_angle = 2 * half * w + np.array([-half, half])
        near = np.minimum(cavity[:, 0] * bias, [0.999 * _at(outer, z)[0] for z in cavity[:, 1]])
        points = np.concatenate(
            [
                _around(wall[:, 0], wall[:, 1], outer_angle),
                _around(near, cavity[:, 1], inner_angle),
            ]
        )
        pieces.append(convex_piece(points))
    solid = replace(skin, pieces=tuple(pieces))
    return solid if linear is None else solid.moved(linear)


def unite(solids: list[Solid]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Watertight union of overlapping solids: vertices (V, 3), faces (F, 3), part of each face.

    Labels survive exactly: manifold3d reports the source face of every triangle it returns.
    """
    owners: dict[int, np.ndarray] = {}
    bodies = []
    for solid in solids:
        mesh = manifold3d.Mesh64(
            np.ascontiguousarray(solid.vertices),
            np.ascontiguousarray(solid.faces, dtype=np.uint64),
            face_id=np.arange(len(solid.faces), dtype=np.uint64),
        )
        body = manifold3d.Manifold(mesh)
        if body.status() != manifold3d.Error.NoError or body.volume() <= 0:
            raise ValueError(f"solid of part {solid.parts[0]!r} is not closed: {body.status()}")
        owners[int(body.to_mesh64().run_original_id[0])] = solid.parts
        bodies.append(body)
    union = manifold3d.Manifold.batch_boolean(bodies, manifold3d.OpType.Add)
    mesh = union.to_mesh64()
    faces = np.asarray(mesh.tri_verts, dtype=np.int32)
    parts = np.empty(len(faces), dtype=object)
    bounds = np.asarray(mesh.run_index) // 3
    for run, original in enumerate(mesh.run_original_id):
        rows = slice(int(bounds[run]), int(bounds[run + 1]))
        parts[rows] = owners[int(original)][np.asarray(mesh.face_id)[rows]]
    return _weld(np.asarray(mesh.vert_properties)[:, :3], faces, parts)


def convex_piece(points, tolerance: float = 6e-4) -> np.ndarray:
    """At most 64 points whose hull comes within `tolerance` of the hull of `points`. (n, 3).

    Starts from 26 extreme points and adds the farthest outliers, a few well-separated ones at a
    time, so simple shapes stay small.
    """
    points = np.asarray(points, float)
    points = points[ConvexHull(points, qhull_options=JOGGLED).vertices]
    if len(points) <= 12:
        return points
    grid = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3), -1).reshape(-1, 3)
    directions = grid[np.any(grid != 0, 1)]
    apart = 0.3 * np.ptp(points, axis=0).max()
    keep = list(dict.fromkeys(np.argmax(points @ directions.T, axis=0)))
    while len(keep) < MAX_PIECE_VERTICES:
        outside = _signed_distances(points, points[keep])
        chosen: list[int] = []
        for o in np.argsort(-outside):
            if outside[o] <= tolerance or len(chosen) == min(8, MAX_PIECE_VERTICES - len(keep)):
                break
            if not chosen or ((points[chosen] - points[o]) ** 2).sum(1).min() > apart**2:
                chosen.append(int(o))
        if not chosen:
            break
        keep += chosen
    return points[keep]


# --- details -------------------------------------------------------------------------------------


def _weld(vertices: np.ndarray, faces: np.ndarray, parts: np.ndarray, distance: float = 1e-5):
    """Collapse edges shorter than `distance`: readers that weld vertices must not tear the mesh."""
    pairs = cKDTree(vertices).query_pairs(distance, output_type="ndarray")
    if not len(pairs):
        return vertices.copy(), faces, parts
    size = len(vertices)
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (size, size))
    _, cluster = connected_components(graph, directed=False)
    _, first, cluster = np.unique(cluster, return_index=True, return_inverse=True)
    faces = cluster[faces].astype(np.int32)
    solid = np.all(faces != np.roll(faces, 1, axis=1), axis=1)
    faces, parts = faces[solid], parts[solid]
    # A collapsed sliver can leave two faces back to back; both go.
    key = np.sort(faces, axis=1)
    _, group, count = np.unique(key, axis=0, return_inverse=True, return_counts=True)
    single = count[group.ravel()] == 1
    return vertices[first], faces[single], parts[single]


def _signed_distances(points: np.ndarray, hull_points: np.ndarray) -> np.ndarray:
    """Largest facet distance of each point: positive outside, minus the depth inside."""
    equations = ConvexHull(hull_points, qhull_options=JOGGLED).equations
    return (points @ equations[:, :3].T + equations[:, 3]).max(1)


def _spans(rings: np.ndarray, closed: bool, tolerance: float) -> list[tuple[int, int]]:
    """Cut a ring stack greedily into runs whose hulls bury no ring vertex deeper than tolerance."""
    k = len(rings)
    last = k if closed else k - 1
    coarse = rings[:, :: max(1, rings.shape[1] // 12)]

    def fits(a: int, b: int) -> bool:
        points = coarse[np.arange(a, b + 1) % k].reshape(-1, 3)
        return -_signed_distances(points, points).min() <= tolerance

    spans, start = [], 0
    while start < last:
        if fits(start, last):
            spans.append((start, last))
            break
        good, bad = start + 1, last
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if fits(start, middle) else (good, middle)
        spans.append((start, good))
        start = good
    return spans


def _at(profile: np.ndarray, z: float) -> np.ndarray:
    """Point of a profile of rising z at height z."""
    return np.array([np.interp(z, profile[:, 1], profile[:, 0]), z])


def _thin(rows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` rows, first and last kept."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, count).round().astype(int))]


def _around(radius: np.ndarray, z: np.ndarray, angle: np.ndarray) -> np.ndarray:
    r, a = np.meshgrid(radius, angle, indexing="ij")
    h = np.broadcast_to(np.asarray(z)[:, None], r.shape)
    return np.stack([r * np.cos(a), r * np.sin(a), h], -1).reshape(-1, 3)
