"""Joint orders of other data sets, checked by kinematics and by round trips."""

from __future__ import annotations

import csv
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dexjax import hands
from dexjax.core.errors import DataError
from dexjax.core.rotations import quat_rotate
from dexjax.hands import orders

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
IDENTITY = jnp.array([1.0, 0.0, 0.0, 0.0])


def test_our_order_is_the_mjcfs():
    hand = hands.load_hand("shadow")
    assert hand.joint_names == orders.SHADOW_JOINTS
    assert orders.UNIDEXGRASP.names[0] == "robot0:FFJ3"


@pytest.mark.parametrize("order", [orders.UNIDEXGRASP, orders.MANIPTRANS])
def test_round_trip(order):
    qpos = jax.random.uniform(jax.random.key(0), (7, 22))
    np.testing.assert_array_equal(order.to_ours(order.from_ours(qpos)), qpos)
    np.testing.assert_array_equal(order.from_ours(order.to_ours(qpos)), qpos)
    assert sorted(order.index) == list(range(22))


def test_maniptrans_names():
    theirs = jnp.arange(22.0)
    ours = dict(zip(orders.SHADOW_JOINTS, orders.MANIPTRANS.to_ours(theirs), strict=True))
    place = orders.MANIPTRANS.names.index
    assert ours["RFJ2"] == place("RFJ3") and ours["LFJ4"] == place("LFJ5")
    assert ours["FFJ3"] == -place("FFJ4") and ours["THJ0"] == -place("THJ1")


def test_maniptrans_fingertips_are_ours():
    """Forward kinematics of ManipTrans' URDF, from its published link table, with converted joints.

    Index, middle and ring finger are the same mechanism. Its thumb base is 0.42 mm off ours, and
    its little metacarpal's axis lies 0.18 degrees and up to 1 mm off: 2 mm at that tip. A wrong
    sign or order gives centimetres."""
    tolerance = {"ff": 1e-6, "mf": 1e-6, "rf": 1e-6, "lf": 2e-3, "th": 5e-4}
    table = DATA / "hands" / "_facts" / "shadow_maniptrans_right_woarm.csv"
    if not table.is_file():
        pytest.skip(f"ManipTrans' link table is not at {table}")
    with table.open() as file:
        rows = list(csv.DictReader(file))
    hand, fingertips = hands.load_hand("shadow"), jax.jit(hands.fingertips)
    rng = np.random.default_rng(0)
    for _ in range(20):
        qpos = rng.uniform(hand.lower, hand.upper).astype(np.float32)
        theirs = dict(
            zip(orders.MANIPTRANS.names, np.asarray(orders.MANIPTRANS.from_ours(qpos)), strict=True)
        )
        pose = {"palm": (np.zeros(3), Rotation.identity())}
        for row in rows:
            if row["parent"] not in pose:
                continue  # links before the palm
            pos, turn = pose[row["parent"]]
            origin = np.array([float(row[k]) for k in ("ox", "oy", "oz")])
            rpy = [float(row[k]) for k in ("orx_or_qw", "ory_or_qx", "orz_or_qy")]
            axis = np.array([float(row[k]) for k in ("ax", "ay", "az")])
            angle = float(theirs.get(row["joint"], 0.0))
            frame = turn * Rotation.from_euler("xyz", rpy)
            pose[row["child"]] = (
                pos + turn.apply(origin),
                frame * Rotation.from_rotvec(axis * angle),
            )
        tips = fingertips(hand, jnp.zeros(3), IDENTITY, qpos)
        for finger, tip in zip(hand.finger_names, tips, strict=True):
            assert np.linalg.norm(pose[f"{finger}tip"][0] - tip) < tolerance[finger], finger


def test_dexgraspnet_round_trip_in_any_order():
    rng = np.random.default_rng(0)
    names = list(orders.DEXGRASPNET_NAMES)
    qpos = rng.uniform(-1.2, 1.2, (9, 28)).astype(np.float32)  # |pitch| < pi / 2
    pos, quat, joints = orders.from_dexgraspnet(qpos, names)
    np.testing.assert_allclose(orders.to_dexgraspnet(pos, quat, joints), qpos, atol=2e-6)
    shuffle = rng.permutation(28)
    again = orders.from_dexgraspnet(qpos[:, shuffle], [names[i] for i in shuffle])
    for a, b in zip((pos, quat, joints), again, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(pos, qpos[:, 22:25])
    expected = Rotation.from_euler("xyz", qpos[:, 25:]).as_matrix()
    vector = np.array([0.3, -0.4, 0.5], np.float32)
    np.testing.assert_allclose(quat_rotate(quat, vector), expected @ vector, atol=2e-6)


@pytest.mark.parametrize("folder", ["dexgraspnet_sample", "unidexgrasp_dfc_sample"])
def test_real_grasp_files_read(folder):
    files = sorted((DATA / "grasps" / folder).rglob("*.npz"))
    if not files:
        pytest.skip(f"no grasp files in {DATA / 'grasps' / folder}")
    hand = hands.load_hand("shadow")
    with np.load(files[0]) as data:
        pos, quat, joints = orders.from_dexgraspnet(data["qpos"], data["joint_names"].tolist())
    assert joints.shape[1:] == (22,)
    # optimised grasps press against the limits, a few go beyond by up to 0.6 rad; a wrong order
    # would put flexion values (up to 1.6) on abduction joints (0.35)
    assert np.mean((joints > hand.lower - 0.1) & (joints < hand.upper + 0.1)) > 0.98
    assert np.all(joints > hand.lower - 0.6) and np.all(joints < hand.upper + 0.6)
    np.testing.assert_allclose(np.linalg.norm(quat, axis=-1), 1.0, atol=1e-6)
    # the hand is at the object, whose frame this is: fingertips within 20 cm of its origin
    tips = jax.jit(hands.fingertips)(hand, pos, quat, joints)
    assert np.linalg.norm(tips, axis=-1).max() < 0.2


def test_wrong_names_are_refused():
    names = list(orders.DEXGRASPNET_NAMES)
    with pytest.raises(DataError, match="WRJTx"):
        orders.from_dexgraspnet(np.zeros(28), [*names[:22], "base_x", *names[23:]])
    with pytest.raises(DataError, match="repeated"):
        orders.from_dexgraspnet(np.zeros(29), [*names, names[0]])
    with pytest.raises(DataError, match="27"):
        orders.from_dexgraspnet(np.zeros(27), names)
