"""The rewards that the releases of UniDexGrasp's task pay, term by term, and what they look at.

unidexgrasp++: PKU-EPIC/UniDexGrasp2; also AffordDex and UniDexGrasp's own configuration files
(`goal_cond: False`). unidexgrasp: PKU-EPIC/UniDexGrasp with `goal_cond: True`. unigrasptransformer:
microsoft/UniGraspTransformer, `state_based_grasp` with `flag_body_dist`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from dexjax.core.rotations import quat_rotate

REWARD_TIP = 0.02  # m along a distal link: the point whose distance is rewarded
_FINGERS_NEAR, _PALM_NEAR = 0.6, 0.12  # m, summed and single distances of a holding hand
_RAISED, _HIGH = 0.03, 0.2  # m above the table, object origin
_CLEAR = 0.003  # m above where it lay: the goal-conditioned reward counts the object as raised
_AT_GOAL = 0.05  # m
_TARGET_POS, _TARGET_ANGLE, _TARGET_QPOS = 0.4, 1.0, 6.0  # |dp|_1, rad, |dq|_1 of a reached target
_CLOUD_RAISED = 0.01  # m, lowest point of the object
# UniGraspTransformer's hand before it holds (rad, our joint order), and joints it keeps straight.
_OPEN = (0.1, 0, 0.6, 0, 0, 0, 0.6, 0, -0.1, 0, 0.6, 0, 0, -0.2, 0, 0.6, 0, 0, 1.2, 0, -0.2, 0)
_DISTAL_JOINTS = (3, 7, 11, 16, 21)  # FFJ0, MFJ0, RFJ0, LFJ0, THJ0


@struct.dataclass
class TaskView:
    """What observation rows and reward terms look at. SI units, fingers in order.

    Frame: the world, or the world turned back by the hand's yaw (`release.align_yaw`).
    """

    finger_pos: jax.Array  # (B, 22) mapped to [-1, 1] by the joint limits
    finger_vel: jax.Array  # (B, 22)
    finger_force: jax.Array  # (B, 22) drive forces
    distal_pos: jax.Array  # (B, 5, 3) link origins
    distal_quat: jax.Array  # (B, 5, 4) wxyz
    distal_linvel: jax.Array  # (B, 5, 3) of the links' centres of mass
    distal_angvel: jax.Array  # (B, 5, 3)
    distal_wrench: jax.Array  # (B, 5, 6) contact force and torque, link frame
    grasp_centre: jax.Array  # (B, 3)
    hand_quat: jax.Array  # (B, 4)
    object_pos: jax.Array  # (B, 3) origin of the object's mesh
    object_quat: jax.Array  # (B, 4)
    object_linvel: jax.Array  # (B, 3) of the centre of mass
    object_angvel: jax.Array  # (B, 3)
    object_feature: jax.Array  # (B, 64)
    goal: jax.Array  # (B, 3)
    action: jax.Array  # (B, 24)
    object_height: jax.Array  # (B,) m, mesh origin above the table when the object lies
    target_offset: jax.Array  # (B, 29) of the hand from the target grasp: m, xyzw, rad
    finger_angle: jax.Array  # (B, 22) rad
    cloud_palm: jax.Array  # (B,) m, grasp centre to the nearest point of the object's surface
    cloud_fingers: jax.Array  # (B,) m, summed over the fingertips
    cloud_hand: jax.Array  # (B,) m, 5 times the mean over 36 points of the hand
    cloud_lowest: jax.Array  # (B,) m, lowest point of the object's surface
    table_height: float = struct.field(pytree_node=False)
    hold_distances: tuple[float, float] = struct.field(pytree_node=False)

    @property
    def tips(self) -> jax.Array:
        """(B, 5, 3) the points of the distal links whose distance is rewarded."""
        along = jnp.array([0.0, 0.0, REWARD_TIP])
        return self.distal_pos + quat_rotate(self.distal_quat, along)

    @property
    def fingers_distance(self) -> jax.Array:
        """(B,) d_f: distances of object origin and fingertips, summed, at most 3 m."""
        return jnp.minimum(_length(self.object_pos[:, None] - self.tips).sum(-1), 3.0)

    @property
    def palm_distance(self) -> jax.Array:
        """(B,) d_h: distance of object origin and grasp centre, at most 0.5 m."""
        return jnp.minimum(_length(self.object_pos - self.grasp_centre), 0.5)

    @property
    def goal_distance(self) -> jax.Array:
        """(B,) d_g: distance of object origin and goal."""
        return _length(self.goal - self.object_pos)

    @property
    def holding(self) -> jax.Array:
        """(B,) bool F: hand and fingers are near the object origin."""
        return (self.fingers_distance <= _FINGERS_NEAR) & (self.palm_distance <= _PALM_NEAR)

    @property
    def cloud_holding(self) -> jax.Array:
        """(B,) bool H of UniGraspTransformer: hand and palm are near the object's surface."""
        hand, palm = self.hold_distances
        return (self.cloud_hand <= hand) & (self.cloud_palm <= palm)

    @property
    def target_errors(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(B,) each: |dp|_1 (m), angle (rad) and |dq|_1 (rad) from the target grasp."""
        offset = self.target_offset
        sine = jnp.minimum(_length(offset[:, 3:6]), 1.0)
        return jnp.abs(offset[:, :3]).sum(1), 2 * jnp.arcsin(sine), jnp.abs(offset[:, 7:]).sum(1)


def _length(x: jax.Array) -> jax.Array:
    return jnp.linalg.norm(x, axis=-1)


def _closeness(x: TaskView) -> jax.Array:
    return 1.0 / (1.0 + 10.0 * x.goal_distance)


# --- UniDexGrasp++ ------------------------------------------------------------------------------


def reach_fingers(x: TaskView) -> jax.Array:
    """-0.5 d_f."""
    return -0.5 * x.fingers_distance


def reach_palm(x: TaskView) -> jax.Array:
    """-d_h."""
    return -x.palm_distance


def approach_goal(x: TaskView) -> jax.Array:
    """0.9 - 2 d_g while holding."""
    return jnp.where(x.holding, 0.9 - 2.0 * x.goal_distance, 0.0)


def _lift(x: TaskView, above: jax.Array | float) -> jax.Array:
    height = x.object_pos[:, 2] - x.table_height
    raised = jnp.where(height >= above, 0.1 + 0.1 * x.action[:, 2], 0.0)
    return jnp.where(x.holding, jnp.where(height >= _HIGH, 0.2, raised), 0.0)


def lift(x: TaskView) -> jax.Array:
    """While holding: 0.1 + 0.1 a_z from 3 cm above the table, 0.2 from 20 cm."""
    return _lift(x, _RAISED)


def bonus(x: TaskView) -> jax.Array:
    """1 / (1 + 10 d_g) while holding within 5 cm of the goal."""
    return jnp.where(x.holding & (x.goal_distance <= _AT_GOAL), _closeness(x), 0.0)


# --- UniDexGrasp, goal-conditioned ----------------------------------------------------------------


def approach_goal_at_target(x: TaskView) -> jax.Array:
    """0.9 - 2 d_g while holding with the hand near the target grasp."""
    pos, angle, qpos = x.target_errors
    reached = (pos <= _TARGET_POS) & (angle <= _TARGET_ANGLE) & (qpos <= _TARGET_QPOS)
    return jnp.where(x.holding & reached, 0.9 - 2.0 * x.goal_distance, 0.0)


def lift_off(x: TaskView) -> jax.Array:
    """While holding: 0.1 + 0.1 a_z from 3 mm above where the object lay, 0.2 from 20 cm."""
    return _lift(x, x.object_height + _CLEAR)


def bonus_anyhow(x: TaskView) -> jax.Array:
    """1 / (1 + 10 d_g) within 5 cm of the goal, holding or not."""
    return jnp.where(x.goal_distance <= _AT_GOAL, _closeness(x), 0.0)


def reach_target(x: TaskView) -> jax.Array:
    """-0.5 (0.6 |dp|_1 + 0.04 angle + 0.1 |dq|_1) of the hand from the target grasp."""
    pos, angle, qpos = x.target_errors
    return -0.5 * (0.6 * pos + 0.04 * angle + 0.1 * qpos)


# --- UniGraspTransformer --------------------------------------------------------------------------


def open_hand(x: TaskView) -> jax.Array:
    """-0.1 |q - q_open| until holding."""
    away = _length(x.finger_angle - jnp.array(_OPEN))
    return jnp.where(x.cloud_holding, 0.0, -0.1 * away)


def reach_cloud_palm(x: TaskView) -> jax.Array:
    """-d_h to the object's surface, twice that while holding."""
    return jnp.where(x.cloud_holding, -2.0, -1.0) * x.cloud_palm


def reach_cloud_fingers(x: TaskView) -> jax.Array:
    """-d_f to the object's surface while holding."""
    return jnp.where(x.cloud_holding, -x.cloud_fingers, 0.0)


def reach_cloud_hand(x: TaskView) -> jax.Array:
    """-d_b to the object's surface while holding."""
    return jnp.where(x.cloud_holding, -x.cloud_hand, 0.0)


def approach_goal_cloud(x: TaskView) -> jax.Array:
    """0.9 - 2.5 d_g while holding."""
    return jnp.where(x.cloud_holding, 0.9 - 2.5 * x.goal_distance, 0.0)


def lift_cloud(x: TaskView) -> jax.Array:
    """While holding: 0.2 + 0.2 a_z once the lowest point is 1 cm above the table; from 20 cm
    0.8 - 2 d_g."""
    height = x.cloud_lowest - x.table_height
    raised = jnp.where(height >= _CLOUD_RAISED, 0.1 + 0.1 * x.action[:, 2], 0.0)
    up = jnp.where(height >= _HIGH, 0.4 - x.goal_distance, raised)
    return jnp.where(x.cloud_holding, 2.0 * up, 0.0)


def bonus_cloud(x: TaskView) -> jax.Array:
    """1 / (1 + 10 d_g) while holding within 5 cm of the goal."""
    return jnp.where(x.cloud_holding & (x.goal_distance <= _AT_GOAL), _closeness(x), 0.0)


def straight_tips(x: TaskView) -> jax.Array:
    """-0.05 |q| of the distal joints that are bent by more than 1 rad, while holding."""
    bend = jnp.abs(x.finger_angle[:, jnp.array(_DISTAL_JOINTS)])
    return jnp.where(x.cloud_holding, -0.05 * _length(jnp.where(bend > 1.0, bend, 0.0)), 0.0)


Term = Callable[[TaskView], jax.Array]


def _named(**terms: Term) -> dict[str, Term]:
    return terms


REWARDS: dict[str, dict[str, Term]] = {
    "unidexgrasp++": _named(
        reach_fingers=reach_fingers,
        reach_palm=reach_palm,
        approach_goal=approach_goal,
        lift=lift,
        bonus=bonus,
    ),
    "unidexgrasp": _named(
        reach_fingers=reach_fingers,
        reach_palm=reach_palm,
        approach_goal=approach_goal_at_target,
        lift=lift_off,
        bonus=bonus_anyhow,
        reach_target=reach_target,
    ),
    "unigrasptransformer": _named(
        open_hand=open_hand,
        reach_palm=reach_cloud_palm,
        reach_fingers=reach_cloud_fingers,
        reach_hand=reach_cloud_hand,
        approach_goal=approach_goal_cloud,
        lift=lift_cloud,
        bonus=bonus_cloud,
        straight_tips=straight_tips,
    ),
}

# UniGraspTransformer's 36 points of the hand (utils/general_utils.py): these bodies' origins, and
# points seen from them: on the palm, 2 cm along each link, beside the little finger's metacarpal.
HAND_BODIES = (
    "palm", "ffproximal", "ffmiddle", "ffdistal", "mfproximal", "mfmiddle", "mfdistal",
    "rfknuckle", "rfmiddle", "rfdistal", "lfmetacarpal", "lfknuckle", "lfmiddle", "lfdistal",
    "thbase", "thhub", "thdistal",
)  # fmt: skip
_PALM_POINTS = (
    (0.03, -0.005, 0), (-0.03, -0.005, 0), (0, -0.005, 0.03), (0, -0.005, 0.06),
    (0.03, -0.005, 0.06), (0.015, -0.005, 0.015), (-0.03, -0.005, 0.03),
)  # fmt: skip
_WITHOUT = ("palm", "ffmiddle", "mfmiddle", "rfmiddle", "lfmiddle", "lfmetacarpal")
HAND_POINTS: tuple[tuple[str, tuple[float, float, float]], ...] = (
    *(("palm", point) for point in _PALM_POINTS),
    ("lfmetacarpal", (-0.015, 0, 0.02)),
    *((body, (0, 0, 0.02)) for body in HAND_BODIES if body not in _WITHOUT),
    *((body, (0, 0, 0)) for body in HAND_BODIES),
)
