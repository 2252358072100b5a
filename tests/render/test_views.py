"""Six views of a mesh against closed forms of spheres, boxes and capsules."""

import time

import numpy as np
import pytest
import trimesh

from dexjax.render import (
    CARDINAL,
    RayScene,
    RenderMesh,
    cardinal_cameras,
    cardinal_views,
    visible_points,
)


def _mesh(shape: trimesh.Trimesh, **pose) -> RenderMesh:
    return RenderMesh(np.asarray(shape.vertices), np.asarray(shape.faces), **pose)


BALL = trimesh.creation.icosphere(5, 0.05)
BOX = trimesh.creation.box((0.10, 0.06, 0.02))


def test_cameras_see_the_whole_sphere_and_stand_on_the_axes():
    centre = np.array([0.3, -0.2, 0.1])
    views = cardinal_views(_mesh(BALL, position=centre), 200)
    assert [v.name for v in views] == list(CARDINAL)
    for view, side in zip(views, CARDINAL.values(), strict=True):
        # Three radii away.
        np.testing.assert_allclose(view.camera.position, centre + 0.15 * np.array(side), atol=1e-9)
        rows, cols = np.nonzero(view.face >= 0)
        # 95 % of 200 pixels, less at most one pixel on each side.
        assert 188 <= np.ptp(rows) + 1 <= 190 and 188 <= np.ptp(cols) + 1 <= 190
        # A disc: area of the ellipse pi/4 w h to 1 % (outline pixels).
        assert (view.face >= 0).sum() == pytest.approx(np.pi / 4 * 190**2, rel=0.01)


def test_depth_is_that_of_the_sphere():
    for view in cardinal_views(_mesh(BALL), 64):
        origin, rays = view.camera.rays(64, 64)
        a, b = (rays**2).sum(1), rays @ origin
        disc = b**2 - a * (origin @ origin - 0.05**2)
        inside = disc > 2e-5 * a
        expected = (-b - np.sqrt(np.maximum(disc, 0))) / a
        # The polyhedron lies at most 0.04 % of the radius inside the sphere; obliquely x 10.
        np.testing.assert_allclose(view.depth.ravel()[inside], expected[inside], atol=3e-4)
        assert np.isinf(view.depth.ravel()[disc < 0]).all()
        # The nearest point is two radii away.
        assert view.depth.min() == pytest.approx(0.10, abs=1e-4)


def test_points_lie_on_the_surface_and_project_back():
    mesh = _mesh(BOX, position=(0.1, 0.2, 0.3), quat=(0.9, 0.2, -0.3, 0.1))
    for view in cardinal_views(mesh, 96):
        points, pixels = view.points()
        world = trimesh.Trimesh(mesh.world_vertices(), mesh.faces)
        distance = trimesh.proximity.closest_point_naive(world, points[::50])[1]
        assert distance.max() < 1e-6  # float32 depth of 0.2 m
        uv, depth = view.camera.project(points, 96, 96)
        np.testing.assert_allclose(uv[:, ::-1], pixels + 0.5, atol=1e-3)
        np.testing.assert_allclose(depth, view.depth[pixels[:, 0], pixels[:, 1]], rtol=1e-6)


def test_faces_and_labels_of_a_box():
    """Each side sees one face: its two triangles, labelled by the normal's axis and sign."""
    labels = np.array([3 * (n.sum() < 0) + np.abs(n).argmax() for n in BOX.face_normals])
    for view, side in zip(cardinal_views(_mesh(BOX), 128), CARDINAL.values(), strict=True):
        normal = np.array(side)
        expected = 3 * (normal.sum() < 0) + np.abs(normal).argmax()
        segmentation = view.segmentation(labels)
        assert set(np.unique(segmentation)) == {-1, expected}
        assert ((segmentation >= 0) == np.isfinite(view.depth)).all()
        # Area of the rectangle at its depth, in pixels; an outline of half a pixel.
        width, height = BOX.extents[normal == 0]
        near = 3 * 0.5 * np.linalg.norm(BOX.extents) - 0.5 * BOX.extents[normal != 0][0]
        scale = 64 / np.tan(np.radians(view.camera.fov / 2)) / near
        w, h = width * scale, height * scale
        assert (segmentation >= 0).sum() == pytest.approx(w * h, abs=w + h)


def test_visible_part_of_a_sphere_is_the_cap():
    """From distance d a point of a sphere is seen where its angle to the axis is below acos(R/d):
    70.53 degrees at three radii; and six such caps leave corners that no camera sees."""
    mesh = _mesh(BALL)
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(4000, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    # Points of the polyhedron: the sphere's lie up to 0.02 mm outside it.
    points, _, faces = BALL.nearest.on_surface(0.05 * normals)
    cameras = cardinal_cameras(mesh)
    seen = visible_points(mesh, points, cameras, BALL.face_normals[faces])
    for row, side in zip(seen, CARDINAL.values(), strict=True):
        cosine = normals @ np.array(side)
        clear = abs(cosine - 1 / 3) > 0.05  # a facet spans 2 degrees
        np.testing.assert_array_equal(row[clear], (cosine > 1 / 3)[clear])
    # Corners of the cube of directions: |n_i| all below 1/3 is impossible, so all are seen.
    assert seen.any(0).all()


def test_thin_plate_is_seen_from_one_side_only():
    """Where depth comparison with a loose tolerance sees both sides of a blade, rays do not."""
    plate = trimesh.creation.box((0.1, 0.1, 0.0005))
    mesh = _mesh(plate)
    points, faces = trimesh.sample.sample_surface(plate, 2000, seed=1)
    normals = plate.face_normals[faces]
    seen = visible_points(mesh, points, cardinal_cameras(mesh))  # without normals
    names = list(CARDINAL)
    top = normals[:, 2] > 0.5
    bottom = normals[:, 2] < -0.5
    assert seen[names.index("+z"), top].all() and not seen[names.index("+z"), bottom].any()
    assert seen[names.index("-z"), bottom].all() and not seen[names.index("-z"), top].any()


def test_occlusion_by_another_part():
    """A ball behind a wall: exactly the points in the wall's shadow are hidden."""
    wall = trimesh.creation.box((0.01, 0.04, 0.04))
    wall.apply_translation((0.1, 0.0, 0.0))
    both = trimesh.util.concatenate([BALL, wall])
    camera = cardinal_cameras(_mesh(both))[0]  # on +x
    points, faces = trimesh.sample.sample_surface(BALL, 3000, seed=2)
    normals = BALL.face_normals[faces]
    seen = RayScene([_mesh(both)]).visible(points, camera, normals)
    facing = ((np.asarray(camera.position) - points) * normals).sum(1) > 0
    # Where the sight line passes the wall's front and back planes.
    through = []
    for x in (0.095, 0.105):
        t = (camera.position[0] - x) / (camera.position[0] - points[:, 0])
        through.append(np.asarray(camera.position) + t[:, None] * (points - camera.position))
    extent = [np.abs(p[:, 1:]).max(1) for p in through]
    hidden = np.minimum(*extent) < 0.02
    edge = np.abs(np.minimum(*extent) - 0.02) < 1e-5
    grazing = np.abs(((np.asarray(camera.position) - points) * normals).sum(1)) < 2e-3
    clear = ~edge & ~grazing
    assert hidden[clear & facing].sum() > 100
    np.testing.assert_array_equal(seen[clear], (facing & ~hidden)[clear])


def test_images_are_not_dark_from_any_side():
    for view in cardinal_views(_mesh(BOX), 48):
        inside = view.face >= 0
        assert 60 < view.colour[inside].mean() < 245
        assert (view.colour[~inside] == 255).all()


def test_empty_and_backwards():
    """Nothing to hit: all empty; points behind the camera have negative depth."""
    camera = cardinal_cameras(_mesh(BOX))[0]
    depth, face = RayScene([]).depth_and_faces(camera, 8, 6)
    assert np.isinf(depth).all() and (face == -1).all() and depth.shape == (6, 8)
    _, behind = camera.project(np.array([[10.0, 0.0, 0.0]]), 8, 6)
    assert behind[0] < 0
    scene = RayScene([_mesh(BOX), _mesh(BALL)])
    assert np.bincount(scene.face_mesh).tolist() == [len(BOX.faces), len(BALL.faces)]


def test_six_views_take_less_than_two_seconds():
    """Two seconds of two cores are four of processor time, whatever else runs on the machine."""
    began = time.process_time()
    views = cardinal_views(_mesh(trimesh.creation.icosphere(5, 0.05)), 512)  # 20,480 triangles
    assert time.process_time() - began < 4.0
    assert len(views) == 6 and views[0].colour.shape == (512, 512, 3)
