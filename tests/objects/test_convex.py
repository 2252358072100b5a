"""Convex pieces: few, small, thick enough, deterministic, and close to the mesh."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
import shapes
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull

from dexjax.core.errors import DataError
from dexjax.objects.convex import (
    MIN_THICKNESS,
    convex_pieces,
    farthest_points,
    min_thickness,
    simplify_hull,
    tidy_pieces,
)


def compiles(pieces) -> bool:
    """MuJoCo takes every piece as a mesh geom of a free body."""
    spec = mujoco.MjSpec()
    body = spec.worldbody.add_body()
    body.add_freejoint()
    for i, piece in enumerate(pieces):
        spec.add_mesh(name=f"p{i}", uservert=np.float32(piece).reshape(-1))
        body.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname=f"p{i}")
    return spec.compile().nmesh == len(pieces)


def test_a_nearly_convex_mesh_is_one_hull():
    for mesh in (shapes.box(), shapes.capsule()):
        pieces, notes = convex_pieces(mesh, mesh.volume)
        assert len(pieces) == 1 and len(pieces[0]) <= 64 and notes == []
    assert len(convex_pieces(shapes.box(), shapes.box().volume)[0][0]) == 8


def test_a_torus_keeps_its_hole():
    mesh = trimesh.creation.torus(shapes.MAJOR, shapes.MINOR, 48, 24)
    pieces, _ = convex_pieces(mesh, mesh.volume)
    assert 4 <= len(pieces) <= 16 and all(len(p) <= 64 for p in pieces) and compiles(pieces)
    hulls = [ConvexHull(p) for p in pieces]

    def inside(points):
        return np.any([(points @ h.equations[:, :3].T + h.equations[:, 3] <= 1e-9).all(axis=1)
                       for h in hulls], axis=0)  # fmt: skip

    rng = np.random.default_rng(0)
    axis = rng.uniform(-0.02, 0.02, (500, 3))
    assert not inside(axis[np.hypot(axis[:, 0], axis[:, 1]) < 0.02]).any()
    # Volume of the union by Monte Carlo, against 2 pi^2 R r^2. Pieces bridge the ring's curvature
    # (up to 16 chords: + a few per cent) and 64 vertices cut corners.
    points = rng.uniform([-0.07, -0.07, -0.02], [0.07, 0.07, 0.02], (40000, 3))
    volume = inside(points).mean() * 0.14 * 0.14 * 0.04
    assert volume == pytest.approx(2 * np.pi**2 * shapes.MAJOR * shapes.MINOR**2, rel=0.15)


def test_the_same_mesh_gives_the_same_pieces():
    mesh = trimesh.creation.torus(shapes.MAJOR, shapes.MINOR, 32, 16)
    first, second = (convex_pieces(mesh, mesh.volume)[0] for _ in range(2))
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@settings(max_examples=40)
@given(st.integers(4, 300), st.integers(0, 10_000), st.sampled_from([8, 32, 64]))
def test_simplified_hulls_lie_inside_and_on_the_hull(count, seed, limit):
    points = np.random.default_rng(seed).normal(size=(count, 3)) * [0.02, 0.05, 0.01]
    simple = simplify_hull(points, limit)
    full = ConvexHull(points)
    assert 4 <= len(simple) <= limit
    given_points = {tuple(p) for p in points}
    assert all(tuple(p) in given_points for p in simple)
    assert ConvexHull(simple).volume <= full.volume * (1 + 1e-9)
    if len(full.vertices) <= limit:
        assert ConvexHull(simple).volume == pytest.approx(full.volume)


def test_a_sphere_of_64_vertices_stays_within_four_per_cent():
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=1.0)
    simple = ConvexHull(simplify_hull(sphere.vertices, 64))
    # Depth of the deepest facet below the sphere; 64 evenly spread points would give 3 %.
    assert (1 + simple.equations[:, 3]).max() < 0.06
    assert simple.volume / sphere.volume > 0.88


def test_pieces_keep_the_volume_of_their_hull():
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=0.036)
    (piece,), _ = tidy_pieces([sphere.vertices])
    hull = ConvexHull(piece)
    assert len(piece) <= 64
    # First order in the lost volume (8 %): 0.5 % remains. Error: about 1 mm to either side.
    assert hull.volume == pytest.approx(sphere.volume, rel=0.01)
    assert np.linalg.norm(piece, axis=1).max() < 0.0372
    assert -hull.equations[:, 3].max() > 0.0345
    (exact,), _ = tidy_pieces([shapes.box().vertices])
    np.testing.assert_array_equal(np.sort(exact, axis=0), np.sort(shapes.box().vertices, axis=0))


def test_remeshed_pieces_are_drawn_back_onto_the_mesh():
    """Two bodies that cross are remeshed by CoACD, a voxel too thick; ours are not."""
    bars = [trimesh.creation.box(extents=e) for e in ([0.2, 0.02, 0.008], [0.02, 0.2, 0.008])]
    bars[1].apply_translation([0, 0, 0.001])  # no shared planes
    cross = trimesh.util.concatenate(bars)
    volume = 2 * 0.2 * 0.02 * 0.008 - 0.02 * 0.02 * 0.007
    pieces, _ = convex_pieces(cross, volume)
    assert 2 <= len(pieces) <= 8
    # Measured: +16 % (a piece keeps slopes at the crossing); without drawing back +54 %.
    assert sum(ConvexHull(p).volume for p in pieces) == pytest.approx(volume, rel=0.2)
    points = np.concatenate(pieces)
    assert (np.abs(points).max(axis=0) < [0.1001, 0.1001, 0.0055]).all()


@settings(max_examples=40)
@given(
    extents=st.tuples(st.floats(0, 2e-3), st.floats(0, 5e-3), st.floats(0, 0.2)),
    seed=st.integers(0, 1000),
    count=st.integers(1, 100),
)
def test_thin_pieces_become_thick_enough_for_mujoco(extents, seed, count):
    """Points, lines, sheets and slivers in any direction."""
    rng = np.random.default_rng(seed)
    turn = trimesh.transformations.random_rotation_matrix(rng.random(3))[:3, :3]
    points = rng.uniform(-0.5, 0.5, (count, 3)) * extents @ turn + rng.normal(size=3) * 0.1
    pieces, _ = tidy_pieces([points])
    assert len(pieces) == 1 and 4 <= len(pieces[0]) <= 64
    # Thickness is kept up to what cutting to 64 vertices takes off.
    assert min_thickness(pieces[0]) > 0.9 * MIN_THICKNESS
    assert compiles(pieces)


def test_farthest_points_equals_the_definition():
    points = np.random.default_rng(3).normal(size=(200, 3))
    chosen = farthest_points(points, 50)
    assert len(set(chosen)) == 50
    for i in range(1, 50):
        distance = np.linalg.norm(points[:, None] - points[chosen[:i]], axis=-1).min(axis=1)
        assert distance[chosen[i]] == pytest.approx(distance.max(), rel=1e-6)


def test_nan_pieces_are_refused():
    with pytest.raises(DataError, match="NaN"):
        tidy_pieces([np.full((8, 3), np.nan)])
