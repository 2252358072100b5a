"""Reading and repairing meshes: every format, every fault, one clear message each."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from dexjax.core.errors import DataError
from dexjax.objects.mesh import clean_mesh, load_raw, propose_scale, read_mesh


def box(extents=(0.04, 0.06, 0.1)) -> trimesh.Trimesh:
    return trimesh.creation.box(extents=extents)


@pytest.mark.parametrize("suffix", ["obj", "stl", "ply", "glb", "off"])
def test_every_format_gives_the_same_solid(tmp_path, suffix):
    path = tmp_path / f"box.{suffix}"
    box().export(path)
    mesh, notes, source = read_mesh(path)
    # STL and GLB store float32: 1e-7 relative per coordinate.
    assert mesh.is_watertight and mesh.volume == pytest.approx(0.04 * 0.06 * 0.1, rel=1e-5)
    assert len(mesh.vertices) == 8 and len(mesh.faces) == 12
    assert notes == () and sorted(source) == list(range(12))


def test_scene_instances_are_joined(tmp_path):
    scene = trimesh.Scene()
    scene.add_geometry(box((0.05,) * 3), geom_name="a")
    shift = trimesh.transformations.translation_matrix([0.2, 0, 0])
    scene.graph.update("copy", geometry="a", matrix=shift)
    path = tmp_path / "two.glb"
    path.write_bytes(scene.export(file_type="glb"))
    mesh, notes, _ = read_mesh(path)
    assert mesh.extents == pytest.approx([0.25, 0.05, 0.05], rel=1e-5)
    assert mesh.volume == pytest.approx(2 * 0.05**3, rel=1e-5)
    assert "2 bodies joined" in notes


def test_material_and_texture_references_are_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = tmp_path / "in"
    folder.mkdir()
    text = "mtllib ../outside/evil.mtl\nusemtl a\n" + box().export(file_type="obj")
    (folder / "a.obj").write_text(text)
    # A fifo would block for ever if anything opened it.
    import os

    os.mkfifo(outside / "evil.mtl")
    assert read_mesh(folder / "a.obj").mesh.is_watertight


def faulty(kind: str) -> trimesh.Trimesh:
    mesh = box()
    vertices, faces = mesh.vertices.copy(), mesh.faces.copy()
    if kind == "nan":
        vertices[3, 1] = np.nan
    elif kind == "infinite":
        vertices[0, 0] = np.inf
    elif kind == "flat":
        turn = trimesh.transformations.random_rotation_matrix(np.array([0.1, 0.6, 0.3]))[:3, :3]
        vertices = (vertices * [1, 1, 0]) @ turn
    elif kind == "line":
        vertices = vertices * [0, 0, 1]
    elif kind == "point":
        vertices = vertices * 0
    elif kind == "no faces":
        faces = np.empty((0, 3), int)
    elif kind == "millimetres":
        vertices = vertices * 1000
    elif kind == "centimetres":
        vertices = vertices * 100
    elif kind == "unit sphere":
        vertices = vertices / np.linalg.norm(vertices, axis=1).max()
    elif kind == "gigantic":
        vertices = vertices * 1e9
    elif kind == "tiny":
        vertices = vertices * 1e-3
    return trimesh.Trimesh(vertices, faces, process=False)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nan", ["1 of 8 vertices", "NaN"]),
        ("infinite", ["1 of 8 vertices", "infinite"]),
        ("flat", ["flat", "thickness"]),
        ("line", ["flat"]),
        ("point", ["longest side 0 m"]),
        ("no faces", ["no triangles"]),
        ("millimetres", ["100 m", "millimetres", "--mesh-scale 0.001"]),
        ("centimetres", ["10 m", "centimetres", "--mesh-scale 0.01"]),
        ("unit sphere", ["unit sphere", "--mesh-scale 0.1"]),
        ("gigantic", ["rescale"]),
        ("tiny", ["0.0001 m", "--mesh-scale 1000"]),
    ],
)
def test_a_faulty_mesh_gets_one_message_with_the_remedy(kind, words):
    with pytest.raises(DataError) as error:
        clean_mesh(faulty(kind), where="cup.obj")
    message = str(error.value)
    assert message.startswith("cup.obj: ") and "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.obj", b"", "empty"),
        ("a.obj", b"hello world\n", "a.obj"),
        ("a.stl", b"solid x\nfacet normal", "a.stl"),
        ("a.ply", b"ply\nformat binary_little_endian 1.0\nelement vertex 99999999999\n", "a.ply"),
        ("a.glb", b"glTF\x02\x00\x00\x00\xff\xff\xff\xff", "a.glb"),
        ("a.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n", "a.off"),
        ("a.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "a.obj"),
        ("a.xyz", b"1 2 3", "not a mesh file"),
    ],
)
def test_a_broken_file_gets_one_message(tmp_path, name, data, words):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError, match=words) as error:
        read_mesh(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="gone.obj"):
        read_mesh(tmp_path / "gone.obj")


def test_repairs_restore_the_solid_and_are_noted():
    good = trimesh.creation.icosphere(subdivisions=2, radius=0.05)
    faces = good.faces.copy()
    rng = np.random.default_rng(1)
    turned = rng.random(len(faces)) < 0.3
    faces[turned] = faces[turned][:, ::-1]
    faces = np.concatenate([faces[1:], faces[5:9], [[3, 3, 7]]])  # hole, duplicates, degenerate
    mesh, notes, source = clean_mesh(trimesh.Trimesh(good.vertices, faces, process=False))
    assert mesh.is_watertight and mesh.volume == pytest.approx(good.volume, rel=1e-9)
    text = "; ".join(notes)
    assert "1 degenerate" in text and "4 duplicate" in text and "1 hole closed" in text
    assert "winding" in text
    assert (source == -1).sum() == 1
    # Each face is still the file's face: same three corners.
    kept = source >= 0
    was = np.sort(good.vertices[faces[source[kept]]].reshape(-1, 9).round(9), axis=1)
    now = np.sort(mesh.vertices[mesh.faces[kept]].reshape(-1, 9).round(9), axis=1)
    np.testing.assert_allclose(now, was)


def test_an_inverted_mesh_is_turned_and_a_cavity_is_kept():
    outer = trimesh.creation.icosphere(subdivisions=3, radius=0.05)
    inner = trimesh.creation.icosphere(subdivisions=3, radius=0.03)
    inner.invert()
    hollow = trimesh.util.concatenate([outer, inner])
    mesh, notes, _ = clean_mesh(hollow)
    assert mesh.volume == pytest.approx(hollow.volume) and "inverted" not in "".join(notes)
    outer_volume = outer.volume
    outer.invert()
    mesh, notes, _ = clean_mesh(outer)
    assert mesh.volume == pytest.approx(outer_volume) and "1 inverted body" in "".join(notes)


def test_a_large_opening_is_left_open():
    cup = trimesh.creation.cylinder(radius=0.04, height=0.1, sections=32)
    cup.update_faces(cup.face_normals[:, 2] < 0.9)
    mesh, notes, _ = clean_mesh(cup)
    assert not mesh.is_watertight and any("not watertight" in n for n in notes)


@given(st.floats(1e-7, 1e7))
def test_a_proposed_scale_leads_to_an_accepted_size(longest):
    proposal = propose_scale(longest)
    if proposal is not None and not 0.005 <= longest <= 1.0:
        assert 0.005 <= longest * proposal[0] <= 1.0


@settings(max_examples=30, deadline=None)
@given(
    extents=st.tuples(*[st.floats(0.006, 0.9)] * 3),
    shift=st.tuples(*[st.floats(-2, 2)] * 3),
    seed=st.integers(0, 1000),
)
def test_cleaning_keeps_a_sound_mesh(extents, shift, seed):
    """Any turned, shifted box with shuffled faces and split vertices comes back whole."""
    rng = np.random.default_rng(seed)
    mesh = box(extents)
    if np.linalg.norm(extents) > 1:  # turned, it could be longer than allowed
        matrix = np.eye(4)
    else:
        matrix = trimesh.transformations.random_rotation_matrix(rng.random(3))
    matrix[:3, 3] = shift
    mesh.apply_transform(matrix)
    faces = mesh.faces[rng.permutation(12)]
    soup = trimesh.Trimesh(mesh.vertices[faces].reshape(-1, 3), np.arange(36).reshape(-1, 3),
                           process=False)  # fmt: skip
    clean, notes, source = clean_mesh(soup)
    assert clean.is_watertight and notes == ()
    assert clean.volume == pytest.approx(np.prod(extents), rel=1e-6)
    assert sorted(source) == list(range(12))


SEEDS = {s: box().export(file_type=s) for s in ("obj", "stl", "ply", "glb", "off")}


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(
    suffix=st.sampled_from(sorted(SEEDS)),
    edits=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=0, max_size=6)), max_size=6),
    cut=st.floats(0, 1),
)
def test_fuzzed_files_end_in_a_mesh_or_a_data_error(tmp_path_factory, suffix, edits, cut):
    data = SEEDS[suffix]
    data = bytearray(data.encode() if isinstance(data, str) else data)
    for place, patch in edits:
        at = int(place * len(data))
        data[at : at + len(patch)] = patch
    if cut < 0.3:
        data = data[: int(cut / 0.3 * len(data))]
    path = tmp_path_factory.getbasetemp() / f"fuzz.{suffix}"
    path.write_bytes(bytes(data))
    try:
        mesh, _, source = read_mesh(path)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert np.isfinite(mesh.vertices).all() and len(mesh.faces) == len(source) > 0
        assert load_raw(path).faces.shape[1] == 3
