"""UniDexGrasp and DexGraspNet readers on files in the published formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grasp_files import KEYS, random_qpos, write_dexgraspnet, write_unidexgrasp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dexjax.core.errors import DataError
from dexjax.data import dexgraspnet, unidexgrasp
from dexjax.data.records import parse_object_code
from dexjax.hands.orders import SHADOW_JOINTS, from_dexgraspnet

CAR = "sem/Car-669043a8ce40d9d78781f76a6db4ab62"
PLANE = [0.0, 0.6, 0.8, 0.03]


@pytest.mark.parametrize(
    ("text", "parts", "name"),
    [
        (CAR, ("sem", "Car", "669043a8ce40d9d78781f76a6db4ab62"), CAR),
        ("core-mug-8570d9a8", ("core", "mug", "8570d9a8"), "core/mug-8570d9a8"),
        ("core/jar-a-1", ("core", "jar-a", "1"), "core/jar-a-1"),
        (
            "ddg-gd_banana_poisson_002",
            ("ddg", "", "gd_banana_poisson_002"),
            "ddg/gd_banana_poisson_002",
        ),
        ("mujoco/A-B_C", ("mujoco", "", "A-B_C"), "mujoco/A-B_C"),
    ],
)
def test_object_codes(text: str, parts: tuple[str, str, str], name: str) -> None:
    code = parse_object_code(text)
    assert (code.source, code.category, code.instance) == parts
    assert str(code) == name and parse_object_code(name) == code


@pytest.mark.parametrize("scale", unidexgrasp.SCALES)
def test_scale_codes_round_trip(scale: float) -> None:
    assert unidexgrasp.parse_scale_code(unidexgrasp.scale_code(scale)) == pytest.approx(scale)


def test_scale_codes_refuse_the_rest() -> None:
    assert unidexgrasp.scale_code(0.06) == "006" and unidexgrasp.parse_scale_code("015") == 0.15
    for bad in ("6", "0.06", "0006", "x06", "٠٠٦"):
        with pytest.raises(DataError, match="scale code"):
            unidexgrasp.parse_scale_code(bad)
    for bad_scale in (0.065, 12.0, float("nan")):
        with pytest.raises(DataError, match="centimetres"):
            unidexgrasp.scale_code(bad_scale)


def test_unidexgrasp_grasp(tmp_path: Path) -> None:
    qpos = random_qpos(np.random.default_rng(0))
    shuffled = {key: qpos[key] for key in reversed(KEYS)}  # read by name, not by position
    path = write_unidexgrasp(tmp_path / CAR, 7, shuffled, np.float32(1 / 0.06), PLANE)
    grasp = unidexgrasp.read_grasp(path, CAR)

    assert grasp.object_code == CAR and grasp.hand == "shadow_hand" and grasp.source == str(path)
    assert grasp.object_scale == 0.06
    np.testing.assert_array_equal(grasp.qpos, [qpos[f"robot0:{n}"] for n in SHADOW_JOINTS])
    np.testing.assert_array_equal(grasp.base_pos, [qpos[f"WRJT{axis}"] for axis in "xyz"])
    rx, ry, rz = (
        Rotation.from_rotvec(qpos[f"WRJR{axis}"] * np.eye(3)[i]) for i, axis in enumerate("xyz")
    )
    expected = (rz * ry * rx).as_matrix()  # about the fixed x, then y, then z axis
    read = Rotation.from_quat(grasp.base_quat, scalar_first=True).as_matrix()
    np.testing.assert_allclose(read, expected, atol=1e-12)

    # The conversion in `dexjax.hands` is written separately; float32, hence 1e-6.
    pos, quat, joints = from_dexgraspnet(np.array(list(qpos.values())), list(qpos))
    np.testing.assert_allclose(grasp.base_pos, pos, atol=1e-6)
    np.testing.assert_allclose(abs(np.dot(grasp.base_quat, quat)), 1.0, atol=1e-6)
    np.testing.assert_allclose(grasp.qpos, joints, atol=1e-6)


@given(
    direction=st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 0.1),
    height=st.floats(0.0, 0.2),
)
def test_rest_pose_lays_the_plane_on_the_table(direction: tuple[float, ...], height: float) -> None:
    normal = np.array(direction) / np.linalg.norm(direction)
    rest = unidexgrasp.rest_pose(np.array([*normal, height]), "test")
    rotation = Rotation.from_quat(rest.quat, scalar_first=True)
    # Any point of the plane, n.x + d = 0, must come to z = 0 in the world, any direction in it
    # must stay horizontal. 1e-9 m: double precision with room for the normalisation.
    in_plane = np.linalg.svd(normal[None])[2][1:]
    points = -height * normal + 0.3 * np.vstack([np.zeros(3), in_plane])
    world = rotation.apply(points) + [0.0, 0.0, rest.height]
    np.testing.assert_allclose(world[:, 2], 0.0, atol=1e-9)
    np.testing.assert_allclose(rotation.apply(normal), [0.0, 0.0, 1.0], atol=1e-9)


def test_unidexgrasp_folder_goes_on_after_bad_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for number in range(3):
        write_unidexgrasp(tmp_path / CAR, number, random_qpos(rng), 12.5, PLANE)
    (tmp_path / CAR / "00003.npz").write_bytes(b"PK\x03\x04 cut short")
    write_unidexgrasp(tmp_path / CAR, 4, {"robot0:FFJ3": 0.1}, 12.5, PLANE)
    write_unidexgrasp(tmp_path / CAR, 5, random_qpos(rng), 0.08, PLANE)  # direct, not inverse
    write_unidexgrasp(tmp_path / CAR, 6, random_qpos(rng), 12.5, [0, 0, 2.0, 0])
    nan = random_qpos(rng) | {"WRJTx": float("nan")}
    write_unidexgrasp(tmp_path / CAR, 7, nan, 12.5, PLANE)

    grasps = unidexgrasp.read_grasps(tmp_path)
    assert [Path(g.source).name for g in grasps.grasps] == [f"0000{i}.npz" for i in range(3)]
    reasons = {Path(r.path).name: r.reason for r in grasps.refused}
    assert "damaged" in reasons["00003.npz"]
    assert "robot0:FFJ2" in reasons["00004.npz"]
    assert "inverse" in reasons["00005.npz"]
    assert "normal" in reasons["00006.npz"]
    assert "WRJTx" in reasons["00007.npz"] and "finite" in reasons["00007.npz"]
    assert len(unidexgrasp.read_grasps(tmp_path, [CAR]).grasps) == 3
    with pytest.raises(DataError, match="core/absent-1"):
        unidexgrasp.read_grasps(tmp_path, ["core/absent-1"])
    with pytest.raises(DataError, match="check the path"):
        unidexgrasp.read_grasps(tmp_path / "nowhere")


def _posedata_entry(count: int, rng: np.random.Generator) -> dict[str, Any]:
    return {
        "target_qpos": [rng.uniform(0, 1, 22) for _ in range(count)],  # lists of arrays, as stored
        "target_hand_pos": rng.uniform(-0.2, 0.2, (count, 3)),
        "target_hand_rot": Rotation.random(count, random_state=3).as_quat(),  # xyzw
        "object_euler_xy": rng.uniform(-1, 1, (count, 2)).astype(np.float32),
        "object_init_z": [np.array([0.03])] * count,
    }


@pytest.mark.parametrize("key", ["006", 0.06])
def test_posedata(key: str | float, tmp_path: Path) -> None:
    entry = _posedata_entry(4, np.random.default_rng(2))
    broken = entry | {"target_hand_rot": np.zeros((4, 4))}  # as UniDexGrasp++ overwrites it
    table = {CAR: {key: entry, 0.08: broken, 0.1: {"target_qpos": []}}, "core/mug-1": 3}
    np.save(tmp_path / "posedata.npy", table, allow_pickle=True)
    content = unidexgrasp.read_posedata(tmp_path / "posedata.npy")

    assert len(content.grasps) == 4 and len(content.refused) == 3
    assert any("unit quaternions" in refusal.reason for refusal in content.refused)
    grasp = content.grasps[2]
    assert grasp.object_scale == 0.06 and grasp.source.endswith(f"[{CAR}][{key}][2]")
    np.testing.assert_array_equal(grasp.qpos, entry["target_qpos"][2])
    x, y, z, w = entry["target_hand_rot"][2]
    assert abs(np.dot(grasp.base_quat, [w, x, y, z])) == pytest.approx(1.0)
    assert grasp.rest is not None and grasp.rest.height == pytest.approx(0.03)
    roll, pitch = entry["object_euler_xy"][2].astype(float)
    expected = Rotation.from_rotvec([0, pitch, 0]) * Rotation.from_rotvec([roll, 0, 0])
    read = Rotation.from_quat(grasp.rest.quat, scalar_first=True)
    assert (expected.inv() * read).magnitude() < 1e-7

    only = unidexgrasp.read_posedata(tmp_path / "posedata.npy", ["core/mug-1"])
    assert not only.grasps and len(only.refused) == 1
    with pytest.raises(DataError, match="core/absent-1"):
        unidexgrasp.read_posedata(tmp_path / "posedata.npy", ["core/absent-1"])


def test_dexgraspnet_grasps(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    qpos = random_qpos(rng)
    entries = [
        {"qpos": qpos, "scale": np.float32(0.06), "qpos_st": random_qpos(rng)},
        {"qpos": random_qpos(rng), "scale": 12.5},  # inverse, as UniDexGrasp has it
        {"qpos": [0.0] * 28, "scale": 0.06},
        "no grasp",
    ]
    path = write_dexgraspnet(tmp_path / "core-mug-8570d9a8.npy", entries)
    content = dexgraspnet.read_grasps(path)
    (grasp,) = content.grasps
    assert grasp.object_code == "core/mug-8570d9a8" and grasp.object_scale == 0.06
    assert grasp.rest is None and grasp.source == f"{path}[0]"
    np.testing.assert_array_equal(grasp.qpos, [qpos[f"robot0:{n}"] for n in SHADOW_JOINTS])
    assert [refusal.path for refusal in content.refused] == [f"{path}[{i}]" for i in (1, 2, 3)]
    assert "inverse" in content.refused[0].reason

    np.save(tmp_path / "numbers.npy", np.zeros(3))
    folder = dexgraspnet.read_grasps(tmp_path)
    assert len(folder.grasps) == 1 and len(folder.refused) == 4
    with pytest.raises(DataError, match="expected grasps"):
        dexgraspnet.read_grasps(tmp_path / "numbers.npy")
    with pytest.raises(DataError, match="no .npy files"):
        (tmp_path / "empty").mkdir()
        dexgraspnet.read_grasps(tmp_path / "empty")


def test_mesh_folders(tmp_path: Path) -> None:
    unidex, dgn = tmp_path / "meshdatav3_scaled", tmp_path / "meshdata"
    for name in ("decomposed.obj", "decomposed_006.obj", "decomposed_015.obj", "coacd_006.urdf"):
        (unidex / CAR / "coacd").mkdir(parents=True, exist_ok=True)
        (unidex / CAR / "coacd" / name).touch()
    (unidex / "core/mug-1/coacd").mkdir(parents=True)
    (unidex / "core/mug-1/coacd/decomposed.obj").touch()
    (unidex / "core/jar-2/coacd").mkdir(parents=True)

    listed = unidexgrasp.list_meshes(unidex)
    assert [(m.object_code, m.object_scale) for m in listed.meshes] == [
        ("core/mug-1", None),
        (CAR, 0.06),
        (CAR, 0.15),
    ]
    assert [Path(r.path).parent.name for r in listed.refused] == ["jar-2"]
    # Scaled files are metric already; multiplying them again is the usual mistake.
    assert unidexgrasp.find_mesh(unidex, CAR, 0.06).vertex_scale == 1.0
    unscaled = unidexgrasp.find_mesh(unidex, CAR, 0.08)
    assert unscaled.path.name == "decomposed.obj" and unscaled.vertex_scale == 0.08
    with pytest.raises(DataError, match="jar-2"):
        unidexgrasp.find_mesh(unidex, "core/jar-2", 0.08)
    with pytest.raises(DataError, match="meshdatav3_scaled"):
        unidexgrasp.list_meshes(tmp_path / "nowhere")

    (dgn / "sem-Bottle-43/coacd").mkdir(parents=True)
    (dgn / "sem-Bottle-43/coacd/decomposed.obj").touch()
    (dgn / "ddg-banana/coacd").mkdir(parents=True)
    meshes = dexgraspnet.list_meshes(dgn)
    assert [(m.object_code, m.object_scale) for m in meshes.meshes] == [("sem/Bottle-43", None)]
    assert len(meshes.refused) == 1


VALUES = st.one_of(
    st.none(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.floats(), max_size=5),
    st.dictionaries(st.sampled_from(KEYS), st.floats() | st.text(max_size=2), max_size=28),
    st.fixed_dictionaries({key: st.floats(-2, 2) for key in KEYS}),
    st.lists(st.lists(st.floats(), max_size=3), max_size=3),
)
POSE_KEYS = [
    *("target_qpos", "target_hand_pos", "target_hand_rot", "object_euler_xy", "object_init_z")
]


def _fuzz(tmp: Path, qpos: Any, scale: Any, plane: Any, table: Any) -> None:
    """Any contents give grasps with finite values, refusals, or a DataError."""
    found = []
    path = tmp / "fuzz.npy"
    np.save(path, np.array([{"qpos": qpos, "scale": scale}], dtype=object), allow_pickle=True)
    (tmp / "sem-Car-1.npy").write_bytes(path.read_bytes())
    found += dexgraspnet.read_grasps(tmp / "sem-Car-1.npy").grasps
    holders = []
    for value in (qpos, scale, plane):
        holder = np.empty((), dtype=object)
        holder[()] = value
        holders.append(holder)
    np.savez(tmp / "fuzz.npz", qpos=holders[0], scale=holders[1], plane=holders[2])
    try:
        found.append(unidexgrasp.read_grasp(tmp / "fuzz.npz", CAR))
    except DataError as error:
        assert "fuzz.npz" in str(error)
    holder = np.empty((), dtype=object)
    holder[()] = table
    np.save(path, holder, allow_pickle=True)
    try:
        found += unidexgrasp.read_posedata(path).grasps
    except DataError as error:
        assert "fuzz.npy" in str(error)
    for grasp in found:
        assert grasp.qpos.shape == (22,) and np.isfinite(grasp.qpos).all()
        assert np.linalg.norm(grasp.base_quat) == pytest.approx(1.0)
        assert 0.0 < grasp.object_scale < 1.0


FUZZ = {
    "qpos": VALUES,
    "scale": VALUES,
    "plane": VALUES | st.just(PLANE),
    "table": VALUES
    | st.dictionaries(
        st.text(max_size=4) | st.just(CAR),
        VALUES
        | st.dictionaries(
            st.sampled_from(["006", "6", 0.06, 12.5]),
            VALUES | st.fixed_dictionaries({key: VALUES for key in POSE_KEYS}),
            max_size=2,
        ),
        max_size=2,
    ),
}


@given(**FUZZ)
@settings(max_examples=50)
def test_any_contents(qpos: Any, scale: Any, plane: Any, table: Any, tmp_path_factory: Any) -> None:
    _fuzz(tmp_path_factory.getbasetemp(), qpos, scale, plane, table)


@pytest.mark.slow
@given(**FUZZ)
@settings(max_examples=1000)
def test_any_contents_1000(
    qpos: Any, scale: Any, plane: Any, table: Any, tmp_path_factory: Any
) -> None:
    _fuzz(tmp_path_factory.getbasetemp(), qpos, scale, plane, table)
