"""Built-in objects: sound meshes, true labels, human sizes, convex pieces that cover."""

import numpy as np
import pytest
import trimesh
from PIL import Image
from scipy.spatial import ConvexHull
from trimesh.proximity import closest_point

from dexjax.core.errors import ConfigError
from dexjax.objects.builtin import (
    AFFORDANCES,
    CATEGORIES,
    SPLITS,
    BuiltinShape,
    builtin_asset,
    builtin_assets,
    builtin_shapes,
    find_category,
    make_shape,
)
from dexjax.objects.builtin.__main__ import main
from dexjax.objects.builtin.solids import convex_piece, loft, sweep, unite

# Closed surfaces by their holes: Euler number 2 - 2 x genus. A mug without its handle's hole, or
# scissors whose loops are filled, would fail here.
GENUS = {"mug": 1, "teapot": 1, "scissors": 2}


@pytest.fixture(scope="module")
def shapes() -> dict[str, list[BuiltinShape]]:
    return {split: builtin_shapes(split) for split in SPLITS}


@pytest.fixture(scope="module")
def every(shapes) -> list[BuiltinShape]:
    return [shape for split in shapes.values() for shape in split]


def _mesh(shape: BuiltinShape, process: bool = False) -> trimesh.Trimesh:
    return trimesh.Trimesh(shape.vertices, shape.faces, process=process)


def _part_points(shape: BuiltinShape, part: str) -> np.ndarray:
    faces = shape.faces[shape.face_parts == shape.part_names.index(part)]
    return shape.vertices[np.unique(faces)]


def test_enough_of_everything(shapes, every):
    assert len(CATEGORIES) >= 14
    counts = {s: len({x.category for x in shapes[s]}) for s in SPLITS}
    assert counts["seen"] >= 10 and counts["unseen_category"] >= 3
    assert {x.category for x in every} == set(CATEGORIES)


def test_closed_meshes(every):
    for shape in every:
        # As generated, and after readers weld close vertices (trimesh: 1e-8 m).
        for mesh in (_mesh(shape), _mesh(shape, process=True)):
            assert mesh.is_watertight and mesh.is_winding_consistent, shape.name
            assert mesh.body_count == 1, shape.name
            assert mesh.euler_number == 2 - 2 * GENUS.get(shape.category, 0), shape.name
            assert mesh.volume > 2e-5, shape.name  # 20 cm3; also outward orientation
        assert len(shape.faces) < 6000, shape.name
        assert np.ptp(shape.vertices, axis=0).max() < 0.36, shape.name


def test_labels_are_complete(every):
    for shape in every:
        parts = len(shape.part_names)
        assert shape.face_parts.shape == (len(shape.faces),)
        assert set(np.unique(shape.face_parts)) == set(range(parts)), shape.name
        assert set(shape.part_affordances) == set(shape.part_names)
        # Every part of the category; ball-peen hammers have no claw.
        claw = shape.category == "hammer" and "claw" not in shape.part_names
        assert parts == len(find_category(shape.category).parts) - claw, shape.name
        named = {a for labels in shape.part_affordances.values() for a in labels}
        assert named <= set(AFFORDANCES), shape.name
        area = _mesh(shape).area_faces
        hold = [i for i, p in enumerate(shape.part_names) if "hold" in shape.part_affordances[p]]
        share = area[np.isin(shape.face_parts, hold)].sum() / area.sum()
        assert share > 0.05, f"{shape.name}: only {share:.2f} of the surface is to hold"
        for labels in shape.part_affordances.values():
            assert not {"hold", "avoid"} <= set(labels), shape.name
    everything = {a for c in CATEGORIES.values() for labels in c.parts.values() for a in labels}
    assert everything == set(AFFORDANCES)  # no word of the vocabulary is unused


def test_labels_sit_where_the_part_is(shapes):
    """Geometry that follows from what a part is, not from how it was made."""
    for shape in shapes["seen"] + shapes["unseen"] + shapes["unseen_category"]:
        mesh = _mesh(shape)
        inside = "inside" in shape.part_names
        if inside and shape.category in ("mug", "cup", "pan"):
            rows = shape.face_parts == shape.part_names.index("inside")
            centre, normal = mesh.triangles_center[rows], mesh.face_normals[rows]
            wall = np.abs(normal[:, 2]) < 0.7
            # Walls of a cavity face its axis.
            assert ((centre[wall, :2] * normal[wall, :2]).sum(1) < 0).all(), shape.name
        if shape.category in ("hammer", "screwdriver", "knife"):
            grip = shape.part_names[0]
            working = {"hammer": "face", "screwdriver": "tip", "knife": "blade"}[shape.category]
            assert _part_points(shape, grip)[:, 0].max() <= (
                _part_points(shape, working)[:, 0].min() + 0.02
            ), shape.name
    knife = make_shape("knife", 0)
    assert np.ptp(_part_points(knife, "blade")[:, 2]) < 0.004  # a blade is thin
    bottle = make_shape("bottle", 0)
    assert _part_points(bottle, "cap")[:, 2].max() == bottle.vertices[:, 2].max()


# Measured on the mesh: (category, part, axis, least, greatest full width in metres).
HUMAN_SIZES = [
    ("hammer", "grip", 1, 0.027, 0.037),
    ("hammer", "grip", 2, 0.022, 0.029),
    ("screwdriver", "handle", 1, 0.027, 0.038),
    ("knife", "handle", 1, 0.022, 0.031),
    ("knife", "handle", 2, 0.018, 0.026),
    ("pan", "handle", 1, 0.023, 0.031),
    ("mug", "body", 1, 0.070, 0.087),
    ("mug", "handle", 1, 0.011, 0.019),
    ("cup", "body", 1, 0.060, 0.081),
    ("bottle", "body", 1, 0.055, 0.078),
    ("can", "body", 1, 0.053, 0.078),
    ("box", "body", 0, 0.037, 0.063),
    ("box", "body", 1, 0.054, 0.079),
    ("spray_bottle", "neck", 1, 0.027, 0.050),
    ("drill", "grip", 1, 0.030, 0.041),
    ("flashlight", "barrel", 1, 0.027, 0.037),
    ("banana", "fruit", 2, 0.031, 0.043),
    ("spoon", "handle", 1, 0.018, 0.027),
    ("spoon", "handle", 2, 0.013, 0.020),
    ("brush", "handle", 1, 0.022, 0.031),
    ("teapot", "handle", 1, 0.012, 0.019),
    ("scissors", "loops", 2, 0.009, 0.017),
]


@pytest.mark.parametrize(("category", "part", "axis", "least", "greatest"), HUMAN_SIZES)
def test_human_sizes(every, category, part, axis, least, greatest):
    widths = [np.ptp(_part_points(s, part)[:, axis]) for s in every if s.category == category]
    assert least <= min(widths) and max(widths) <= greatest
    assert np.ptp(widths) > 1e-4  # instances differ


def test_mass_and_dimensions(every):
    for shape in every:
        assert 0.05 <= shape.mass <= 0.8, shape.name
        density = shape.mass / _mesh(shape).volume
        # From hollow or empty things modelled as solid (100) to steel with a handle (7,800).
        assert 80 < density < 7800, f"{shape.name}: {density:.0f} kg/m3"
        for key, (low, high) in find_category(shape.category).ranges.items():
            assert low <= shape.dimensions[key] <= high, f"{shape.name}.{key}"


def test_handle_holes_admit_fingers(every):
    """Between wall and handle of a mug or teapot a 18 mm finger fits, at the handle's middle."""
    for shape in every:
        if shape.category not in ("mug", "teapot"):
            continue
        handle = _part_points(shape, "handle")
        z = 0.5 * (handle[:, 2].min() + handle[:, 2].max())
        origin = np.array([[handle[:, 0].max() + 0.05, 1e-4, z]])
        hits = _mesh(shape).ray.intersects_location(origin, [[-1.0, 0, 0]])[0][:, 0]
        x = np.sort(hits)[::-1]  # outer and inner side of the handle, then the wall
        assert x[1] - x[2] > 0.018, f"{shape.name}: {1e3 * (x[1] - x[2]):.1f} mm"


def test_deterministic_and_seeded():
    for category in ("mug", "hammer", "scissors"):
        a, b, other = make_shape(category, 1), make_shape(category, 1), make_shape(category, 1, 7)
        assert a.vertices.tobytes() == b.vertices.tobytes()
        assert a.faces.tobytes() == b.faces.tobytes() and a.mass == b.mass
        assert a.face_parts.tobytes() == b.face_parts.tobytes()
        assert all(p.tobytes() == q.tobytes() for p, q in zip(a.pieces, b.pieces, strict=True))
        assert other.mass != a.mass


def test_splits_are_disjoint(shapes):
    content = {s: {x.vertices.tobytes() for x in shapes[s]} for s in SPLITS}
    names = {s: {x.name for x in shapes[s]} for s in SPLITS}
    for a in SPLITS:
        assert len(content[a]) == len(shapes[a]) == len(names[a])  # no twins within either
        for b in SPLITS:
            assert a == b or not (content[a] & content[b] or names[a] & names[b])
    kinds = {s: {x.category for x in shapes[s]} for s in SPLITS}
    assert kinds["unseen"] == kinds["seen"]
    assert not kinds["unseen_category"] & kinds["seen"]


def test_unknown_names_say_what_exists():
    with pytest.raises(ConfigError, match="unseen"):
        builtin_shapes("unseeen")
    with pytest.raises(ConfigError, match="hammer"):
        make_shape("hamer", 0)


def test_pieces_are_few_small_and_full(every):
    for shape in every:
        assert 1 <= len(shape.pieces) <= 16, shape.name
        for piece in shape.pieces:
            assert 4 <= len(piece) <= 64 and np.isfinite(piece).all(), shape.name
            hull = ConvexHull(piece)
            assert hull.volume > 1e-8, shape.name  # 10 mm3: no flat piece
            # Convex: every point lies on the hull's boundary (0.1 mm), none is wasted inside.
            depth = -(piece @ hull.equations[:, :3].T + hull.equations[:, 3]).max(1)
            assert depth.max() < 1e-4, shape.name


def coverage(shape: BuiltinShape, samples: int = 2000) -> tuple[float, float]:
    """Share of the surface within 3 mm of the pieces; greatest height of a piece above the mesh."""
    mesh = _mesh(shape)
    points, _ = trimesh.sample.sample_surface(mesh, samples, seed=0)
    hulls = [trimesh.convex.convex_hull(p) for p in shape.pieces]
    gap = np.full(len(points), np.inf)
    for hull, piece in zip(hulls, shape.pieces, strict=True):
        planes = ConvexHull(piece).equations
        inside = (points @ planes[:, :3].T + planes[:, 3]).max(1) < 0
        gap[inside] = 0.0
        near = np.flatnonzero(gap > 0)
        if len(near):
            gap[near] = np.minimum(gap[near], closest_point(hull, points[near])[1])
    shell = [trimesh.sample.sample_surface(h, 300, seed=1)[0] for h in hulls]
    shell = np.concatenate([*shell, *shape.pieces])
    out = shell[~mesh.contains(shell)]
    height = closest_point(mesh, out)[1].max() if len(out) else 0.0
    return float(np.mean(gap < 3e-3)), float(height)


@pytest.mark.parametrize("category", sorted(CATEGORIES))
def test_pieces_cover_the_mesh(category):
    share, height = coverage(make_shape(category, 0))
    assert share >= 0.98
    assert height < 4e-3


@pytest.mark.slow
def test_pieces_cover_every_mesh(every):
    bad = {s.name: c for s in every for c in [coverage(s)] if c[0] < 0.98 or c[1] >= 4e-3}
    assert not bad


def test_union_keeps_labels_of_known_bodies():
    """Two crossing bars of known volume: V = 2 abc - overlap; each face keeps its bar's name."""
    x = np.linspace(-0.05, 0.05, 5)
    half = np.tile([0.01, 0.01], (5, 1))
    square = {"power": 60.0, "n": 16, "cap": 0}
    a = loft(sweep(np.stack([x, 0 * x, 0 * x], 1), half, **square), "a")
    b = loft(sweep(np.stack([0 * x, x, 0 * x], 1), half, **square), "b")
    vertices, faces, parts = unite([a, b])
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight
    # The superellipse of power 60 lacks 2.2 % of the square's corners.
    assert mesh.volume == pytest.approx(2 * 4e-5 - 8e-6, rel=0.03)
    centre = mesh.triangles_center
    assert (np.abs(centre[parts == "a"][:, 1]) < 0.0101).all()
    assert (np.abs(centre[parts == "b"][:, 0]) < 0.0101).all()
    assert len(a.pieces) == 1 and len(a.pieces[0]) <= 20


def test_convex_piece_of_a_sphere():
    points = trimesh.creation.icosphere(4, 0.03).vertices
    piece = convex_piece(points)
    assert len(piece) <= 64
    # 64 points on a sphere: caps of 0.27 rad, so the hull lies at most r (1 - cos 0.36) inside.
    inner = ConvexHull(piece).equations[:, 3]
    assert -inner.max() > 0.03 * np.cos(0.36)


def test_assets_keep_parts_and_mass(tmp_path):
    shape = make_shape("mug", 0)
    asset = builtin_asset("mug", 0, cache_dir=tmp_path)
    again = builtin_asset("mug", 0, cache_dir=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"damaged")
    rebuilt = builtin_asset("mug", 0, cache_dir=tmp_path)
    np.testing.assert_array_equal(asset.vertices, rebuilt.vertices)
    assert asset.name == again.name == "mug_000" and asset.category == "mug"
    assert asset.source == "builtin" and asset.notes == ()  # nothing needed repair
    assert asset.mass == shape.mass and len(asset.pieces) == len(shape.pieces)
    np.testing.assert_array_equal(asset.vertices, again.vertices)
    mesh, built = _mesh(shape), trimesh.Trimesh(asset.vertices, asset.faces, process=False)
    for i in range(len(shape.part_names)):
        assert built.area_faces[asset.face_parts == i].sum() == pytest.approx(
            mesh.area_faces[shape.face_parts == i].sum(), rel=1e-4
        )
    # The frame keeps its axes and moves to the centre of mass of the hollow mug.
    np.testing.assert_allclose(asset.mesh_origin, -mesh.center_mass, atol=1e-4)


def test_sheet_shows_what_to_hold_and_avoid(tmp_path, capsys):
    out = tmp_path / "sheet.png"
    main(["sheet", str(out), "--size", "40"])
    image = np.asarray(Image.open(out)).astype(int)
    rows = -(-len(CATEGORIES) // 6)
    assert image.shape == (rows * 44 - 4, 6 * 44 - 4, 3)
    for k in range(len(CATEGORIES)):
        tile = image[k // 6 * 44 :, k % 6 * 44 :][:40, :40]
        red, green, blue = tile[..., 0], tile[..., 1], tile[..., 2]
        # Every object shows a green part: what to hold.
        assert ((green > red + 40) & (green > blue + 25)).sum() > 8
    with pytest.raises(SystemExit) as left:
        main(["sheet", str(tmp_path / "no" / "folder.png"), "--size", "8"])
    assert left.value.code == 2 and "folder.png" in capsys.readouterr().err


@pytest.mark.slow
def test_all_assets_build(tmp_path):
    for split in SPLITS:
        names = []
        assets = builtin_assets(split, cache_dir=tmp_path, progress=names.append)
        assert [a.name for a in assets] == names == [s.name for s in builtin_shapes(split)]
        for asset in assets:
            assert asset.notes == (), (asset.name, asset.notes)
            assert len(asset.stable_poses.quat) >= 1
