"""`build_asset`: mass, frame, box, surface and labels against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import shapes
import trimesh

from dexjax.core.errors import ConfigError, DataError
from dexjax.objects.build import AssetOptions, build_asset, with_sdf
from dexjax.objects.sdf import query

QUICK = AssetOptions(sdf=False)
HULL = AssetOptions(sdf=False, max_pieces=1)  # no decomposition: seconds less per shape


def placed(mesh: trimesh.Trimesh, seed: int = 0) -> tuple[trimesh.Trimesh, np.ndarray]:
    """The mesh turned and moved; returns also the 4 x 4 matrix."""
    matrix = trimesh.transformations.random_rotation_matrix(np.random.default_rng(seed).random(3))
    matrix[:3, 3] = [0.3, -0.2, 0.1]
    return mesh.copy().apply_transform(matrix), matrix


def test_a_box_has_the_closed_forms_whatever_its_pose():
    mesh, matrix = placed(shapes.box())
    asset = build_asset(mesh, name="brick", category="box", options=QUICK)
    x, y, z = shapes.BOX
    mass = 500 * x * y * z
    assert asset.mass == pytest.approx(mass)
    inertia = mass / 12 * np.diag([y * y + z * z, x * x + z * z, x * x + y * y])
    turn = matrix[:3, :3]
    np.testing.assert_allclose(asset.inertia, turn @ inertia @ turn.T, atol=1e-9 * mass)
    # Origin at the centre of mass; mesh_origin is where the source's origin went.
    np.testing.assert_allclose(asset.vertices.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(asset.mesh_origin, -matrix[:3, 3], atol=1e-12)
    np.testing.assert_allclose(asset.box.half_extents, sorted(shapes.BOX / 2, reverse=True))
    np.testing.assert_allclose(np.abs(asset.box.axes @ turn), np.eye(3)[[2, 1, 0]], atol=1e-9)
    assert np.linalg.det(asset.box.axes) == pytest.approx(1)
    assert len(asset.pieces) == 1 and len(asset.pieces[0]) == 8 and asset.notes == ()
    assert asset.source == "mesh" and asset.name == "brick" and asset.category == "box"


def test_torus_volume_and_inertia():
    asset = build_asset(shapes.torus(), options=HULL)
    major, minor = shapes.MAJOR, shapes.MINOR
    # 192 x 96 facets: the inscribed polygon loses (2 pi / n)^2 / 6 of the area, 0.08 % in all.
    mass = 500 * 2 * np.pi**2 * major * minor**2
    assert asset.mass == pytest.approx(mass, rel=2e-3)
    axial = mass * (major**2 + 0.75 * minor**2)
    across = mass * (major**2 / 2 + 5 / 8 * minor**2)
    np.testing.assert_allclose(np.diag(asset.inertia), [across, across, axial], rtol=4e-3)


def test_surface_points_lie_on_the_surface_with_outward_normals():
    asset = build_asset(shapes.mug(), options=HULL)
    points = asset.surface_points - asset.mesh_origin
    assert points.shape == (1024, 3) and asset.surface_points.dtype == np.float32
    assert np.abs(shapes.mug_distance(points)).max() < 3e-5  # facets, see test_sdf
    assert np.linalg.norm(asset.surface_normals, axis=1) == pytest.approx(1, abs=1e-5)
    assert (shapes.mug_distance(points + 1e-3 * asset.surface_normals) > 0).all()
    # Even: 1,024 points on area A stand about sqrt(A / 1024) apart, none in a clump.
    gap = np.sqrt(asset_area(asset) / 1024)
    pair = np.linalg.norm(points[:, None] - points[None], axis=-1) + np.eye(1024)
    assert pair.min() > 0.6 * gap
    prefix = points[:64]
    nearest = np.linalg.norm(points[:, None] - prefix[None], axis=-1).min(axis=1)
    assert nearest.max() < 2.2 * np.sqrt(asset_area(asset) / 64)


def asset_area(asset) -> float:
    return trimesh.Trimesh(asset.vertices, asset.faces, process=False).area


@pytest.mark.parametrize("shape", ["sphere", "mug"])
def test_volume_without_watertightness(shape):
    """A twentieth of the triangles missing; voxels by winding number still find the volume."""
    if shape == "sphere":
        mesh = trimesh.creation.icosphere(subdivisions=4, radius=0.05)
    else:
        mesh = shapes.mug(sections=64)
    volume = mesh.volume
    rng = np.random.default_rng(0)
    # Holes of more than one triangle, so that they are not simply closed.
    middle = mesh.triangles_center
    for centre in middle[rng.integers(0, len(middle), 3)]:
        far = np.linalg.norm(mesh.triangles_center - centre, axis=1) > 0.008
        mesh.update_faces(far)
    mesh.update_faces(np.arange(len(mesh.faces)) % 50 != 0)
    asset = build_asset(mesh, options=HULL)
    assert any("voxels" in n for n in asset.notes)
    # Cells of 2 mm on a 4 mm wall; the solid sphere is within 1 %.
    assert asset.mass / 500 == pytest.approx(volume, rel=0.01 if shape == "sphere" else 0.12)


def test_overlapping_bodies_are_counted_once():
    a, b = shapes.box(), shapes.box()
    b.apply_translation([0.0, 0.0, 0.05])
    asset = build_asset(trimesh.util.concatenate([a, b]), options=QUICK)
    x, y, z = shapes.BOX
    assert asset.mass == pytest.approx(500 * x * y * (z + 0.05), rel=0.03)  # cells of 3 mm
    assert {"2 bodies joined"} <= set(asset.notes) and any("voxels" in n for n in asset.notes)


def test_an_open_sheet_falls_back_to_its_pieces():
    """A strongly curved sheet without an inside: still an object, and it says how."""
    sheet = trimesh.creation.cylinder(radius=0.05, height=0.06, sections=64)
    centre = sheet.triangles_center
    sheet.update_faces((np.abs(sheet.face_normals[:, 2]) < 0.1) & (centre[:, 0] > 0.03))
    asset = build_asset(sheet, options=QUICK)
    assert asset.mass > 0 and np.linalg.eigvalsh(asset.inertia)[0] > 0
    assert any("not watertight" in n for n in asset.notes)


def test_given_mass_and_density_and_scale():
    mesh = shapes.box()
    light, heavy = (build_asset(mesh, mass=m, options=QUICK) for m in (0.1, 0.3))
    assert (light.mass, heavy.mass) == (0.1, 0.3)
    np.testing.assert_allclose(heavy.inertia, 3 * light.inertia)
    dense = build_asset(mesh, options=AssetOptions(sdf=False, density=1000, mesh_scale=2))
    assert dense.mass == pytest.approx(1000 * 8 * np.prod(shapes.BOX))


def test_exact_pieces_are_kept_and_moved_with_the_mesh():
    mesh, _ = placed(shapes.mug(sections=64))
    left, right = mesh.vertices[:40] + 0.01, mesh.vertices[-30:]
    asset = build_asset(mesh, pieces=[left, right], options=QUICK)
    assert len(asset.pieces) == 2 and asset.source == "builtin"
    corner = {tuple(p) for p in (left + asset.mesh_origin).round(9)}
    assert all(tuple(p) in corner for p in asset.pieces[0].round(9))


def test_labels_follow_their_faces_through_repair():
    mesh = shapes.box()
    parts = (mesh.triangles_center[:, 2] > 0).astype(int)
    faces = np.concatenate([[[0, 0, 1]], mesh.faces[1:], mesh.faces[5:6]])
    labels = np.concatenate([[0], parts[1:], parts[5:6]])
    asset = build_asset(
        trimesh.Trimesh(mesh.vertices, faces, process=False), face_parts=labels,
        part_names=("low", "high"), part_affordances={"low": ("hold",)}, options=QUICK,
    )  # fmt: skip
    centre = asset.vertices[asset.faces].mean(axis=1)
    assert asset.face_parts.shape == (12,) and asset.face_parts.dtype == np.int16
    np.testing.assert_array_equal(asset.face_parts[:11], centre[:11, 2] > 0)
    assert asset.part_affordances == {"low": ("hold",)}


def test_a_file_is_its_source(tmp_path):
    path = tmp_path / "brick.stl"
    shapes.box().export(path)
    asset = build_asset(path, options=QUICK)
    assert asset.name == "brick" and asset.source == str(path)


def test_distance_grid_is_in_the_object_frame():
    mesh, _ = placed(shapes.mug(sections=64), seed=3)
    asset = with_sdf(build_asset(mesh, options=QUICK, pieces=[mesh.vertices]), 32)
    # On the surface the distance is zero, up to a third of a cell at the sharp rims (test_sdf).
    value = query(asset.sdf, asset.surface_points)
    cell = np.linalg.norm(asset.sdf.spacing)
    assert np.abs(value).mean() < 0.1 * cell and np.abs(value).max() < 0.5 * cell
    assert with_sdf(asset, 32) is asset


@pytest.mark.parametrize(
    ("keywords", "error", "words"),
    [
        ({"mass": 0.0}, DataError, "mass 0.0 kg"),
        ({"mass": 120.0}, DataError, "grams"),
        ({"mass": float("nan")}, DataError, "mass nan"),
        ({"face_parts": np.zeros(3, int), "part_names": ("a",)}, DataError, "12 faces"),
        ({"face_parts": np.ones(12, int), "part_names": ("a",)}, DataError, "part_names"),
        ({"options": AssetOptions(density=-1)}, ConfigError, "density"),
        ({"options": AssetOptions(max_pieces=99)}, ConfigError, "max_pieces"),
        ({"options": AssetOptions(concavity=0)}, ConfigError, "concavity"),
        ({"options": AssetOptions(mesh_scale=-1)}, DataError, "mesh scale"),
        ({"options": AssetOptions(mesh_scale=1000)}, DataError, "--mesh-scale"),
    ],
)
def test_bad_arguments_are_refused(keywords, error, words):
    with pytest.raises(error, match=words):
        build_asset(shapes.box(), **keywords)
