"""Genuine Isaac Gym recordings: read in the right order and frames, and our kinematics follows."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dexjax.core.errors import DataError
from dexjax.hands.hand import Hand
from dexjax.hands.kinematics import forward_kinematics
from dexjax.parity.maniptrans import FINGERS, fingers, read_maniptrans
from dexjax.parity.trace import Trace
from dexjax.parity.urdf import hand_from_urdf

FOLDER = (
    Path(__file__).resolve().parents[2].parent / "shared/data/motions/isaacgym_maniptrans_inspire"
)
ROLLOUTS = (
    "carrying_whisk_failed_rollout_0",
    "flipping_pancake_failed_rollout_0",
    "lifting_floor_lamp_successful_rollout_0",
    "pouring_liquid_from_mug_successful_rollout_0",
)
SIDES = ("right", "left")
needs_recordings = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the Isaac Gym recordings are not beside the repository"
)


@pytest.fixture(scope="module")
def hands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Hand]:
    folder = tmp_path_factory.mktemp("hands")
    return {
        side: hand_from_urdf(FOLDER / f"inspire_hand_{side}.urdf", folder, fingers(side))
        for side in SIDES
    }


@pytest.fixture(scope="module")
def traces() -> dict[tuple[str, str], Trace]:
    return {(r, s): read_maniptrans(FOLDER / f"{r}.npz", s) for r in ROLLOUTS for s in SIDES}


def rotation(quat: np.ndarray) -> Rotation:
    return Rotation.from_quat(np.roll(quat, -1, -1))


def turn_rate(quat: np.ndarray, interval: float) -> np.ndarray:
    """World angular velocity (T - 1, 3) between rotations (T, 4) wxyz, by SciPy."""
    turned = rotation(quat)
    return (turned[1:] * turned[:-1].inv()).as_rotvec() / interval


@needs_recordings
@pytest.mark.parametrize("side", SIDES)
def test_our_kinematics_reproduces_every_recorded_link(hands, traces, side: str) -> None:
    """All 18 links of all frames within 10 micrometres and 1e-4 rad.

    Float32 in recording and kinematics: 2e-7 of up to 3 m from the origin, some ten times along a
    finger; the URDF's numbers have six digits."""
    hand = hands[side]
    ours = [
        traces[r, side].select("body", hand.body_names).select("joint", hand.joint_names)
        for r in ROLLOUTS
    ]
    root_pos, root_quat, joints, body_pos, body_quat = (
        np.concatenate([trace[k][:, 0] for trace in ours])
        for k in ("root_pos", "root_quat", "joint_pos", "body_pos", "body_quat")
    )
    pos, quat = jax.jit(forward_kinematics)(hand, root_pos, root_quat, joints)
    assert len(joints) == 1169
    assert np.abs(np.asarray(pos) - body_pos).max() < 10e-6
    flat = np.asarray(quat, float).reshape(-1, 4)
    angle = (rotation(flat) * rotation(body_quat.reshape(-1, 4)).inv()).magnitude()
    assert angle.max() < 1e-4
    assert np.ptp(joints, axis=0).max() > 0.2  # a hand that moves


@needs_recordings
def test_another_joint_order_would_be_seen(hands, traces) -> None:
    hand, trace = hands["right"], traces[ROLLOUTS[0], "right"]
    joints = trace["joint_pos"][:, 0]  # in the file's order
    assert list(hand.joint_names) != trace.names("joint")
    base = trace["root_pos"][:20, 0], trace["root_quat"][:20, 0]
    pos, _ = jax.jit(forward_kinematics)(hand, *base, joints[:20])
    expected = trace.select("body", hand.body_names)["body_pos"][:20, 0]
    assert np.abs(np.asarray(pos) - expected).max() > 5e-3


@needs_recordings
def test_object_motion_agrees_with_its_velocities(traces) -> None:
    """Positions against linear velocities, of the objects that move.

    A velocity is that of a frame's end and jitters in contact, so that up to 0.7 of the motion
    stays unexplained; exchanged axes leave more."""
    moving = 0
    for rollout in ROLLOUTS:
        trace = traces[rollout, "right"]
        pos, vel = trace["object_pos"][:, 0, 0], trace["object_linvel"][:, 0, 0]
        rate = np.diff(pos.astype(float), axis=0) * 60
        if np.linalg.norm(np.ptp(pos, axis=0)) < 0.05:
            continue
        moving += 1
        left = np.linalg.norm(rate - vel[1:])
        assert left < 0.7 * np.linalg.norm(rate)
        for axes in ([1, 0, 2], [0, 2, 1], [2, 1, 0]):
            assert np.linalg.norm(rate - vel[1:, axes]) > 1.05 * left
    assert moving == 3  # the object of the fourth never moves, as its source says


@needs_recordings
def test_object_turns_with_its_angular_velocity(traces) -> None:
    """The lamp, whose inertia is large; the small objects chatter at 60 Hz, and their angular
    velocities say little about the next frame. Half of its motion is explained, and nothing of it
    where quaternions are taken in the other order."""
    trace = traces["lifting_floor_lamp_successful_rollout_0", "right"]
    spin, quat = trace["object_angvel"][:, 0, 0], trace["object_quat"][:, 0, 0]
    mean = 0.5 * (spin[1:] + spin[:-1])
    left = [np.linalg.norm(turn_rate(np.roll(quat, k, -1), 1 / 60) - mean) for k in (0, -1)]
    assert left[0] < 0.6 * np.linalg.norm(mean) < np.linalg.norm(mean) < left[1]


@needs_recordings
def test_fingertip_forces_carry_the_object(traces) -> None:
    """The whisk hangs in thumb, index and middle finger: over the clip its weight presses them
    down, in world axes. Read as link axes, the same numbers would point elsewhere."""
    trace = traces[ROLLOUTS[0], "right"]
    force = trace["tip_force"][:, 0].astype(float)  # (T, 5, 3)
    total = force.sum(1).mean(0)
    assert total[2] < -1.0  # N
    assert np.linalg.norm(total[:2]) < 0.35 * abs(total[2])
    share = np.linalg.norm(force, axis=-1).mean(0)
    named = dict(zip(trace.names("tip"), share, strict=True))
    assert min(named["thumb"], named["index"], named["middle"]) > 20 * named["pinky"]
    assert trace.names("tip") == list(FINGERS)
    # Newton for the object: forces on it are the opposite ones; its mass comes out positive and
    # the world-axes reading leaves less unexplained than the link-axes one.
    vel = trace["object_linvel"][:, 0, 0].astype(float)
    need = np.gradient(vel, axis=0) * 60 + [0, 0, 9.81]
    last = trace.select("body", [f for _, f in fingers("right").values()])["body_quat"][:, 0]
    turned = rotation(last.reshape(-1, 4)).apply(force.reshape(-1, 3)).reshape(force.shape)

    def unexplained(forces: np.ndarray) -> tuple[float, float]:
        given = -forces.sum(1)
        mass = (given * need).sum() / (need**2).sum()
        return mass, np.linalg.norm(given - mass * need) / np.linalg.norm(given)

    mass, left = unexplained(force)
    assert 0.1 < mass < 0.3 and left < 0.65
    assert unexplained(turned)[1] > left + 0.1


@needs_recordings
def test_isaac_reports_velocities_of_the_centre_of_mass(traces) -> None:
    """The right palm's centre of mass (URDF) is 66 mm from the link's origin: its recorded linear
    velocity follows the centre of mass twice as closely as the origin, in every recording."""
    centre = np.array([-0.0025264, -0.066047, 0.0019598])
    for rollout in ROLLOUTS:
        trace = traces[rollout, "right"]
        origin, vel = (trace[k][:, 0].astype(float) for k in ("root_pos", "root_linvel"))
        com = origin + rotation(trace["root_quat"][:, 0]).apply(centre)
        mean = 0.5 * (vel[1:] + vel[:-1])
        misfit = [np.abs(np.diff(p, axis=0) * 60 - mean).mean() for p in (com, origin)]
        assert misfit[0] < 0.5 * misfit[1]


@needs_recordings
def test_last_row_is_left_out_and_files_are_checked(tmp_path: Path) -> None:
    path = FOLDER / f"{ROLLOUTS[0]}.npz"
    stored = dict(np.load(path))
    trace = read_maniptrans(path, "right")
    assert trace.num_steps + 2 == len(stored["q_rh"])
    # Why: the root has jumped and the links have not.
    assert np.abs(stored["state_rh"][-1] - stored["link_state_rh"][-1, 0]).max() > 0.1
    copy = tmp_path / "rollout.npz"
    for change, message in (
        (lambda d: d.pop("q_rh"), "q_rh.*missing"),
        (lambda d: d.update(dq_rh=d["dq_rh"][:, :5]), "dq_rh"),
        (lambda d: d.update(state_rh=d["state_rh"][::-1]), "not the root"),
        (lambda d: d.pop("body_names"), "body_names"),
        (lambda d: d["q_rh"].__setitem__((3, 2), np.nan), "joint_pos.*not finite"),
    ):
        broken = {k: v.copy() for k, v in stored.items()}
        change(broken)
        np.savez(copy, **broken)
        with pytest.raises(DataError, match=message):
            read_maniptrans(copy, "right")


URDF = """<robot name="two">
  <link name="palm"><inertial><mass value="1"/>
    <inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial></link>
  <link name="a"><inertial><mass value="1"/>
    <inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial></link>
  <link name="tip"/>
  <joint name="bend" type="revolute"><parent link="palm"/><child link="a"/>
    <origin xyz="0.1 0 0"/><axis xyz="0 -1 0"/><limit lower="0" upper="1" effort="1" velocity="1"/>
  </joint>
  <joint name="end" type="fixed"><parent link="a"/><child link="tip"/><origin xyz="0.05 0 0"/>
  </joint>
</robot>"""


def test_hand_from_a_urdf(tmp_path: Path) -> None:
    """One finger along x that bends towards z: places in closed form."""
    path = tmp_path / "two.urdf"
    path.write_text(URDF)
    hand = hand_from_urdf(path, tmp_path / "out", {"only": ("a", "tip")})
    pos, _ = forward_kinematics(hand, np.zeros(3), np.array([1.0, 0, 0, 0]), np.array([0.5]))
    expected = [0.1 + 0.05 * np.cos(0.5), 0, 0.05 * np.sin(0.5)]
    np.testing.assert_allclose(pos[hand.fingertip_body[0]], expected, atol=1e-6)
    np.testing.assert_allclose(hand.palm_forward, [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(hand.palm_normal, [0, 0, 1], atol=1e-6)
    with pytest.raises(DataError, match="no link 'nail'"):
        hand_from_urdf(path, tmp_path, {"only": ("a", "nail")})
    path.write_text("<mujoco/>")
    with pytest.raises(DataError, match="a URDF has <robot>"):
        hand_from_urdf(path, tmp_path, {})
    path.write_text("<robot")
    with pytest.raises(DataError, match="XML"):
        hand_from_urdf(path, tmp_path, {})
