"""Hand kinematics against C MuJoCo, geometry by its properties, errors by their messages."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from hand_references import random_postures

import mjcf
from dexjax import hands
from dexjax.core.errors import ConfigError, DataError
from dexjax.core.rotations import quat_from_rotvec, quat_mul, quat_rotate, quat_to_matrix

NAMES = ["shadow", "leap"]
IDENTITY = jnp.array([1.0, 0.0, 0.0, 0.0])


@pytest.fixture(scope="module", params=NAMES)
def hand(request) -> hands.Hand:
    return hands.load_hand(request.param)


def compiled(hand: hands.Hand) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(str(mjcf.path(f"{hand.name}_hand.xml")))


def random_states(hand: hands.Hand, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    pos = rng.uniform(-0.5, 0.5, (count, 3))
    quat = rng.normal(size=(count, 4))
    quat /= np.linalg.norm(quat, axis=-1, keepdims=True)
    return pos, quat, random_postures(compiled(hand), count)


def mujoco_states(model, pos, quat, qpos):
    data = mujoco.MjData(model)
    for p, q, joints in zip(pos, quat, qpos, strict=True):
        data.qpos[:] = np.concatenate([p, q, joints])
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        yield data


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("x64", [False, True])
def test_forward_kinematics_is_mujocos(name, x64):
    """In float64 to rounding (1e-12). In float32 a chain of 8 bodies adds up errors of 6e-8 per
    operation on lengths under 1 m: below 1e-6 m, and 2e-6 for matrix entries."""
    with jax.enable_x64(x64):
        hand = hands.load_hand(name, dtype=jnp.float64 if x64 else jnp.float32)
        states = random_states(hand, 200)
        dtype = jnp.float64 if x64 else jnp.float32
        arguments = [jnp.asarray(x, dtype) for x in states]
        pos, quat = jax.jit(hands.forward_kinematics)(hand, *arguments)
        tips = jax.jit(hands.fingertips)(hand, *arguments)
        assert pos.dtype == dtype
        matrix = np.asarray(quat_to_matrix(quat))
    model = compiled(hand)
    tolerance = 1e-12 if x64 else 1e-6
    sites = [model.site(f"{finger}_tip").id for finger in hand.finger_names]
    for i, data in enumerate(mujoco_states(model, *states)):
        np.testing.assert_allclose(pos[i], data.xpos[1:], atol=tolerance)
        np.testing.assert_allclose(matrix[i], data.xmat[1:].reshape(-1, 3, 3), atol=2 * tolerance)
        np.testing.assert_allclose(tips[i], data.site_xpos[sites], atol=tolerance)


def test_fingertip_jacobian_is_mujocos(hand):
    """mj_jacSite; float32 against float64, entries below 1 (m/rad and 1): 2e-6."""
    states = random_states(hand, 20)
    arguments = (jnp.asarray(x, jnp.float32) for x in states)
    jacobian = jax.jit(hands.fingertip_jacobian)(hand, *arguments)
    assert jacobian.shape == (20, len(hand.finger_names), 6, hand.num_joints)
    model = compiled(hand)
    linear, angular = np.zeros((3, model.nv)), np.zeros((3, model.nv))
    for i, data in enumerate(mujoco_states(model, *states)):
        for k, finger in enumerate(hand.finger_names):
            mujoco.mj_jacSite(model, data, linear, angular, model.site(f"{finger}_tip").id)
            expected = np.concatenate([linear, angular])[:, 6:]
            np.testing.assert_allclose(jacobian[i, k], expected, atol=2e-6)


def test_autodiff_agrees_with_the_geometric_jacobian(hand):
    pos, quat, qpos = (jnp.asarray(x[0], jnp.float32) for x in random_states(hand, 1))
    by_autodiff = jax.jit(jax.jacobian(hands.fingertips, argnums=3))(hand, pos, quat, qpos)
    geometric = jax.jit(hands.fingertip_jacobian)(hand, pos, quat, qpos)[:, :3]
    np.testing.assert_allclose(by_autodiff, geometric, atol=2e-6)


def test_batches_broadcast(hand):
    qpos = jnp.zeros((4, 1, hand.num_joints))
    pos, quat = jax.eval_shape(hands.forward_kinematics, hand, jnp.zeros((5, 3)), IDENTITY, qpos)
    assert pos.shape == (4, 5, len(hand.body_names), 3)
    assert quat.shape == (4, 5, len(hand.body_names), 4)


def test_keypoints_move_rigidly_with_the_base(hand):
    turn, shift = quat_from_rotvec(jnp.array([0.3, -1.0, 0.7])), jnp.array([0.1, 0.2, -0.3])
    qpos = hand.postures["open"]
    keypoints = jax.jit(hands.keypoints)
    at_origin = keypoints(hand, jnp.zeros(3), IDENTITY, qpos)
    moved = keypoints(hand, shift, quat_mul(turn, IDENTITY), qpos)
    np.testing.assert_allclose(moved, quat_rotate(turn, at_origin) + shift, atol=1e-6)


def test_shadow_keypoints_are_a_human_hand():
    """21 points in MANO's order with bones of human size; tips are the fingertips."""
    hand = hands.load_hand("shadow")
    assert hand.keypoint_names == hands.KEYPOINT_NAMES and len(hand.keypoint_names) == 21
    points = hands.keypoints(hand, jnp.zeros(3), IDENTITY, hand.postures["rest"])
    tips = hands.fingertips(hand, jnp.zeros(3), IDENTITY, hand.postures["rest"])
    thumb_first = [hand.finger_names.index(f) for f in ("th", "ff", "mf", "rf", "lf")]
    np.testing.assert_array_equal(points[4::4], tips[np.array(thumb_first)])
    chains = points[1:].reshape(5, 4, 3)
    bones = np.linalg.norm(np.diff(chains, axis=1), axis=-1)
    np.testing.assert_allclose(bones[1:], [[0.045, 0.025, 0.026]] * 4, atol=1e-6)
    np.testing.assert_allclose(bones[0], [0.038, 0.032, 0.0275], atol=1e-6)
    # right hand: palm faces -y, fingers +z, thumb and index on the +x side
    assert chains[1, 0, 0] > chains[2, 0, 0] > chains[3, 0, 0] > chains[4, 0, 0]
    assert chains[0, 3, 0] > 0.05


def test_leap_lacks_the_little_finger_only():
    hand = hands.load_hand("leap")
    missing = set(hands.KEYPOINT_NAMES) - set(hand.keypoint_names)
    assert missing == {f"little_{p}" for p in ("base", "mid", "far", "tip")}


def test_grasp_centre_is_unidexgrasps():
    hand = hands.load_hand("shadow")
    body_pos, body_quat = hands.forward_kinematics(hand, jnp.zeros(3), IDENTITY, jnp.zeros(22))
    centre = hands.grasp_centre(hand, body_pos, body_quat)
    np.testing.assert_allclose(centre, [0.0, -0.02, 0.08], atol=1e-7)


def test_palm_axes(hand):
    """Closing the fingers moves their tips along the palm normal; straight they point forward."""
    fingertips = jax.jit(hands.fingertips)
    rest = fingertips(hand, jnp.zeros(3), IDENTITY, hand.postures["rest"])
    power = fingertips(hand, jnp.zeros(3), IDENTITY, hand.postures["power"])
    long_fingers = np.array([i for i, f in enumerate(hand.finger_names) if f != "th"])
    assert np.all((power - rest)[long_fingers] @ hand.palm_normal > 0.03)
    roots = [b for b, f in zip(hand.body_names, hand.body_finger, strict=True) if f < 0]
    assert roots == ["hand_mount", "palm"]
    assert np.all(rest[long_fingers] @ hand.palm_forward > 0.1)
    assert abs(float(hand.palm_normal @ hand.palm_forward)) < 1e-6


def test_coupling_lies_in_the_tendons_dead_band():
    """All 18 targets anywhere in their range: |0.00705 J0 - 0.00805 J1| <= 1e-3 unless J0 is at
    its stop, and driven joints get exactly their target."""
    hand = hands.load_hand("shadow")
    assert (hand.num_joints, hand.num_actuators) == (22, 18)
    low, high = hands.joint_to_actuated(hand, hand.lower), hands.joint_to_actuated(hand, hand.upper)
    target = jax.random.uniform(jax.random.key(0), (500, 18), minval=low, maxval=high)
    qpos = hands.actuated_to_joint(hand, target)
    np.testing.assert_array_equal(hands.joint_to_actuated(hand, qpos), target)
    stop = 0
    for finger in ("FF", "MF", "RF", "LF"):
        dip = qpos[:, hand.joint_names.index(f"{finger}J0")]
        pip = qpos[:, hand.joint_names.index(f"{finger}J1")]
        slack = np.abs(0.00705 * dip - 0.00805 * pip)
        at_stop = np.isclose(dip, 1.571)
        assert np.all(slack[~at_stop] < 1e-6)
        stop += at_stop.sum()
    assert 0 < stop < 1000


def test_fully_actuated_hand_is_not_coupled():
    hand = hands.load_hand("leap")
    qpos = jnp.linspace(0.0, 0.3, 16)
    np.testing.assert_array_equal(hands.actuated_to_joint(hand, qpos), qpos)


def test_postures_are_within_limits_and_of_use(hand):
    assert {"rest", "open", "power", "pinch", "tripod"} <= set(hand.postures)
    for name, qpos in hand.postures.items():
        assert np.all(qpos >= hand.lower - 1e-6) and np.all(qpos <= hand.upper + 1e-6), name
    fingertips = jax.jit(hands.fingertips)
    tips = {n: fingertips(hand, jnp.zeros(3), IDENTITY, q) for n, q in hand.postures.items()}
    thumb, index = hand.finger_names.index("th"), 0
    gap = {n: float(jnp.linalg.norm(t[thumb] - t[index])) for n, t in tips.items()}
    assert gap["pinch"] < 0.05 < gap["open"]
    np.testing.assert_array_equal(hand.postures["rest"], 0.0)


def surface_points(geom, rng, count=400) -> np.ndarray:
    """Random points in and on a collision geom, body frame."""
    if geom.shape == "box":
        local = rng.uniform(-1, 1, (count, 3))
        local[: count // 2] /= np.abs(local[: count // 2]).max(axis=-1, keepdims=True)  # faces
        local[:8] = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T  # corners
        local = local * np.array(geom.size)
    else:
        half = geom.size[1] if geom.shape == "capsule" else 0.0
        direction = rng.normal(size=(count, 3))
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        z = np.where(np.abs(direction[:, 2]) < 0.1, rng.uniform(-half, half, count), 0.0)
        z = np.where(z == 0.0, half * np.sign(direction[:, 2]), z)
        direction[np.abs(direction[:, 2]) < 0.1, 2] = 0.0
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        local = geom.size[0] * direction + z[:, None] * np.array([0.0, 0.0, 1.0])
    return np.asarray(quat_rotate(jnp.array(geom.quat), local)) + np.array(geom.pos)


def test_collision_spheres_cover_and_do_not_stick_out(hand):
    spheres = hands.collision_spheres(hand)
    assert len(spheres.radius) < 1000
    rng = np.random.default_rng(0)
    for index, geom in enumerate(hand.collision_geoms):
        mine = spheres.geom == index
        centre, radius = spheres.centre[mine], spheres.radius[mine]
        assert np.all(spheres.body[mine] == geom.body)
        points = surface_points(geom, rng)
        depth = np.linalg.norm(points[:, None] - centre, axis=-1) - radius
        interior_missing = geom.shape == "box"  # a hollow box is covered on its surface
        surface = depth[: len(points) // 2] if interior_missing else depth
        assert surface.min(axis=-1).max() < 1e-6, geom.name
        excess = 0.0042 if geom.shape == "box" else 0.001
        outward = rng.normal(size=(300, 3))
        outward /= np.linalg.norm(outward, axis=-1, keepdims=True)
        rim = (centre[:, None] + radius[:, None, None] * outward).reshape(-1, 3)
        assert distance_outside(geom, rim).max() < excess + 1e-6, geom.name


def distance_outside(geom, points) -> np.ndarray:
    """Signed distance of body-frame points to a box or capsule, by its closed form."""
    inverse = np.array(geom.quat) * [1, -1, -1, -1]
    local = np.array(quat_rotate(jnp.array(inverse), points - np.array(geom.pos)))
    if geom.shape == "box":
        beyond = np.abs(local) - np.array(geom.size)
        return np.linalg.norm(np.maximum(beyond, 0), axis=-1) + np.minimum(beyond.max(-1), 0)
    half = geom.size[1] if geom.shape == "capsule" else 0.0
    local[:, 2] -= np.clip(local[:, 2], -half, half)
    return np.linalg.norm(local, axis=-1) - geom.size[0]


def test_contact_candidates_lie_on_the_surface(hand):
    candidates = hands.contact_candidates(hand)
    start = 0
    for patch in hand.candidate_patches:
        geom = next(g for g in hand.collision_geoms if g.name == patch.geom)
        mine = slice(start, start + patch.rows * patch.columns)
        start = mine.stop
        point, normal = candidates.point[mine], candidates.normal[mine]
        assert np.all(candidates.body[mine] == geom.body)
        np.testing.assert_allclose(np.linalg.norm(normal, axis=-1), 1.0, atol=1e-6)
        np.testing.assert_allclose(distance_outside(geom, point), 0.0, atol=1e-6)
        # the normal is the gradient of the distance
        np.testing.assert_allclose(distance_outside(geom, point + 1e-3 * normal), 1e-3, atol=1e-6)
        assert np.all(normal @ np.array(patch.direction) > 0.2)
    assert start == len(candidates.point)
    assert set(np.unique(candidates.finger)) >= set(range(len(hand.finger_names)))


def test_thumb_and_fingers_face_each_other_in_a_pinch(hand):
    """The candidates' normals are on the inner side: opposed between thumb and index."""
    candidates = hands.contact_candidates(hand)
    _, quat = hands.forward_kinematics(hand, jnp.zeros(3), IDENTITY, hand.postures["pinch"])
    world = np.asarray(quat_rotate(quat[candidates.body], candidates.normal))
    at_tip = np.isin(candidates.body, hand.fingertip_body)
    thumb = candidates.finger == hand.finger_names.index("th")
    mean = [world[at_tip & (candidates.finger == 0)].mean(0), world[at_tip & thumb].mean(0)]
    mean = [v / np.linalg.norm(v) for v in mean]
    assert mean[0] @ mean[1] < -0.5


def test_hand_is_a_jit_argument_and_loads_inside_a_trace():
    @jax.jit
    def tip_height(qpos):
        hand = hands.load_hand("shadow")
        return hands.fingertips(hand, jnp.zeros(3), IDENTITY, qpos)[0, 2]

    np.testing.assert_allclose(tip_height(jnp.zeros(22)), 0.095 + 0.045 + 0.025 + 0.026, atol=1e-6)
    leaves = jax.tree.leaves(hands.load_hand("shadow"))
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)


def test_unknown_hand_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean shadow"):
        hands.load_hand("shadwo")
    assert hands.hand_names() == ("leap", "shadow")


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('tip = "ff_tip"', 'tip = "ff_tpi"', "fingers.ff.tip"),
        ('root = "thbase"', 'root = "thumb"', "fingers.th.root"),
        ('wrist = "palm"', 'hand = "palm"', "keypoints.hand"),
        ("normal = [0.0, -1.0, 0.0]", "normal = [0.0, 0.0, 0.0]", "palm.normal"),
        ("FFJ2 = 0.3", "FFJ2 = 30.0", "postures.open.FFJ2"),
        ("FFJ2 = 0.3", "", "postures.open"),
        ('"palm_col0"', '"palm_col9"', "contact_candidates"),
        ("columns = 2", "", "contact_candidates"),
        ("[palm]", "[plam]", "palm"),
        ("[palm]", "[palm", "cannot be read"),
    ],
)
def test_errors_name_file_and_field(tmp_path, old, new, field):
    text = mjcf.path("shadow_hand.toml").read_text()
    assert old in text
    (tmp_path / "mine_hand.xml").write_text(mjcf.path("shadow_hand.xml").read_text())
    (tmp_path / "mine_hand.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match="mine_hand.toml") as raised:
        hands.load_hand(tmp_path / "mine_hand.xml")
    assert field in str(raised.value)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('<freejoint name="base"/>', "", "freejoint"),
        ('<position name="A_FFJ2" class="shadow" joint="FFJ2"', '<motor joint="FFJ3"', "FFJ2"),
        (' type="box" pos="0.011 0 0.038"', ' type="ellipsoid" pos="0.011 0 0.038"', "palm_col0"),
        ("</mujoco>", "", "MuJoCo cannot read"),
    ],
)
def test_unfit_mjcf_is_refused(tmp_path, old, new, problem):
    text = mjcf.path("shadow_hand.xml").read_text()
    assert old in text
    (tmp_path / "mine_hand.xml").write_text(text.replace(old, new, 1))
    (tmp_path / "mine_hand.toml").write_text(mjcf.path("shadow_hand.toml").read_text())
    with pytest.raises(DataError, match="mine_hand.xml") as raised:
        hands.load_hand(tmp_path / "mine_hand.xml")
    assert problem in str(raised.value)
