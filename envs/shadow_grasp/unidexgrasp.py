"""The UniDexGrasp++ variant: the published state-based task, observation by observation.

Source: PKU-EPIC/UniDexGrasp2, `shadow_hand_grasp` (also AffordDex's base task). The hand is a free
body pushed at the palm; its yaw is not aligned with a stored grasp (z_theta = 0 there), so that
its canonical frame is the world. What differs from Isaac Gym: docs/deviations.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import ArrayLike

from dexjax.core.errors import ConfigError
from dexjax.core.rotations import (
    quat_from_euler,
    quat_rotate,
    quat_rotate_inverse,
    quat_to_euler,
)
from dexjax.objects.bank import ObjectBank
from dexjax.sim.scene import Scene, SceneConfig
from dexjax.sim.types import Control, SimState
from envs.shadow_grasp.config import ShadowGraspConfig
from envs.shadow_grasp.observation import Row, observe

FORCE = 0.5 * 1e5 / 60  # N on the palm per unit of action
TORQUE = 0.1 * 1e3 / 60  # N m
FEATURE_SIZE = 64  # point-cloud autoencoder
_DROP_HEIGHT = 0.1  # m, object origin above the table at the start
_HAND_HEIGHT = 0.2  # m, hand root above the table at the start
_HAND_ROLL = 1.57  # rad: fingers along -y, palm down
_YAW_LIMIT = 3.14  # rad
_REWARD_TIP = 0.02  # m along a distal link: the point whose distance is rewarded
_FINGERS_NEAR, _PALM_NEAR = 0.6, 0.12  # m, summed and single distances of a holding hand
_RAISED, _HIGH = 0.03, 0.2  # m above the table, object origin


def unidexgrasp_config() -> ShadowGraspConfig:
    """The task as published: 60 Hz, 200 steps, wrench base, soft fingers, table top at 0.6 m."""
    return ShadowGraspConfig(
        variant="unidexgrasp",
        physics="unidexgrasp",
        scene=SceneConfig(
            base="wrench",
            coupling="tendon",
            finger_kp=1.0,
            finger_damping=0.1,
            finger_frictionloss=0.001,
            table_height=0.6,
        ),
        episode_length=200,
        goal_height=0.2,
        success_radius=0.05,
        base_policy="none",
        sampler="uniform",
    )


@struct.dataclass
class TaskView:
    """What observation rows and reward terms look at. World frame, SI units, fingers in order."""

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
    table_height: float = struct.field(pytree_node=False)

    @property
    def fingers_distance(self) -> jax.Array:
        """(B,) d_f: distances of object origin and fingertips, summed, at most 3 m."""
        along = jnp.array([0.0, 0.0, _REWARD_TIP])
        tips = self.distal_pos + quat_rotate(self.distal_quat, along)
        return jnp.minimum(_length(self.object_pos[:, None] - tips).sum(-1), 3.0)

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


def _length(x: jax.Array) -> jax.Array:
    return jnp.linalg.norm(x, axis=-1)


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1)


def _xyzw(quat: jax.Array) -> jax.Array:
    return jnp.roll(quat, -1, axis=-1)


# --- reward -----------------------------------------------------------------------------------


def reach_fingers(x: TaskView) -> jax.Array:
    """-0.5 d_f."""
    return -0.5 * x.fingers_distance


def reach_palm(x: TaskView) -> jax.Array:
    """-d_h."""
    return -x.palm_distance


def approach_goal(x: TaskView) -> jax.Array:
    """0.9 - 2 d_g while holding."""
    return jnp.where(x.holding, 0.9 - 2.0 * x.goal_distance, 0.0)


def lift(x: TaskView) -> jax.Array:
    """While holding: 0.1 + 0.1 a_z from 3 cm above the table, 0.2 from 20 cm."""
    height = x.object_pos[:, 2]
    raised = jnp.where(height >= x.table_height + _RAISED, 0.1 + 0.1 * x.action[:, 2], 0.0)
    return jnp.where(x.holding, jnp.where(height >= x.table_height + _HIGH, 0.2, raised), 0.0)


def bonus(x: TaskView) -> jax.Array:
    """1 / (1 + 10 d_g) while holding within 5 cm of the goal."""
    near = x.holding & (x.goal_distance <= 0.05)
    return jnp.where(near, 1.0 / (1.0 + 10.0 * x.goal_distance), 0.0)


TERMS: dict[str, Callable[[TaskView], jax.Array]] = {
    term.__name__: term for term in (reach_fingers, reach_palm, approach_goal, lift, bonus)
}


# --- observation ------------------------------------------------------------------------------


def _fingertips(x: TaskView) -> jax.Array:
    parts = (x.distal_pos, _xyzw(x.distal_quat), x.distal_linvel, x.distal_angvel)
    return _flat(jnp.concatenate(parts, -1))


def _hand_angles(x: TaskView) -> jax.Array:
    return jnp.mod(quat_to_euler(x.hand_quat), 2 * jnp.pi)


POLICY_ROWS: tuple[Row, ...] = (
    Row("finger joint positions", 22, 1.0, "limits to [-1, 1]", lambda x: x.finger_pos),
    Row("finger joint velocities", 22, 0.2, "rad/s", lambda x: x.finger_vel),
    Row("finger joint forces", 22, 10.0, "N m", lambda x: x.finger_force),
    Row("distal pos, quat xyzw, linvel, angvel", 65, 1.0, "world, per finger", _fingertips),
    Row("distal contact force, torque", 30, 10.0, "link, N, N m", lambda x: _flat(x.distal_wrench)),
    Row("grasp centre", 3, 1.0, "world, m", lambda x: x.grasp_centre),
    Row("hand roll, pitch, yaw", 3, 1.0, "world, rad in [0, 2 pi)", _hand_angles),
    Row("last action", 24, 1.0, "", lambda x: x.action),
    Row("object position", 3, 1.0, "world, m, mesh origin", lambda x: x.object_pos),
    Row("object quaternion", 4, 1.0, "world, xyzw", lambda x: _xyzw(x.object_quat)),
    Row("object linear velocity", 3, 1.0, "world, m/s", lambda x: x.object_linvel),
    Row("object angular velocity", 3, 0.2, "world, rad/s", lambda x: x.object_angvel),
    Row("goal from object", 3, 1.0, "world, m", lambda x: x.goal - x.object_pos),
    # UniDexGrasp's offset from a target grasp (3 + 4 + 22), always zero in UniDexGrasp++.
    Row("target grasp, unused", 29, 1.0, "", lambda x: jnp.zeros((len(x.goal), 29))),
    Row("object feature", FEATURE_SIZE, 0.1, "autoencoder", lambda x: x.object_feature),
)
GROUPS = {"policy": POLICY_ROWS}


# --- variant ----------------------------------------------------------------------------------


@struct.dataclass
class UniDexGraspTask:
    """What the variant remembers between steps."""

    action: jax.Array  # (B, 24) last action


class UniDexGraspVariant:
    """Initial state, action mapping, reward and observation of UniDexGrasp++.

    object_features: (N, 64) features of the bank's objects; zeros where not given. Raises
    ConfigError for a scene with another base and for features of another shape.
    """

    action_size = 24

    def __init__(
        self,
        cfg: ShadowGraspConfig,
        scene: Scene,
        bank: ObjectBank,
        object_features: ArrayLike | None = None,
    ) -> None:
        if cfg.scene.base != "wrench":
            raise ConfigError(
                f"variant 'unidexgrasp' needs scene.base 'wrench', not {cfg.scene.base!r}; "
                "start from unidexgrasp_config()"
            )
        hand, model = scene.hand, scene.model
        self.scene, self.bank, self.table_height = scene, bank, cfg.scene.table_height
        self.observation_sizes = {g: sum(r.size for r in rows) for g, rows in GROUPS.items()}
        limits = model.jnt_range[[model.joint(j).id for j in hand.joint_names]]
        self.lower, self.upper = (jnp.asarray(limits[:, i], jnp.float32) for i in (0, 1))
        self.actuated = np.array(hand.actuator_joint)
        self.ctrl_index = np.array([model.actuator(n).id for n in hand.actuator_names])
        self.distal = np.array(hand.fingertip_body)
        # The links' centres of mass, where PhysX reports velocities.
        self.distal_com = jnp.asarray(model.body_ipos[scene.body_ids[self.distal]], jnp.float32)
        features = np.zeros((bank.num_objects, FEATURE_SIZE))
        if object_features is not None:
            features = np.asarray(object_features)
        if features.shape != (bank.num_objects, FEATURE_SIZE):
            raise ConfigError(
                f"object_features has shape {features.shape}; one row of {FEATURE_SIZE} per "
                f"object is needed: {(bank.num_objects, FEATURE_SIZE)}"
            )
        self.object_features = jnp.asarray(features, jnp.float32)

    # --- object and goal --------------------------------------------------------------------

    def tables(self) -> tuple[dict[str, tuple[Row, ...]], list[tuple[str, float, str]]]:
        """Observation rows by group, and (name, weight, meaning) of each reward term."""
        terms = [(k, 1.0, str(term.__doc__).splitlines()[0]) for k, term in TERMS.items()]
        return GROUPS, terms

    def initial_object(
        self, keys: Sequence[jax.Array], object_id: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Position (B, 3) of the centre of mass and quaternion (B, 4), about to fall.

        Mesh origin 0.1 m above the table's middle; roll and pitch of a stable pose, yaw uniform.
        keys: three random keys, of which two are used.
        """
        bank, num = self.bank, len(object_id)
        pose = jax.random.categorical(keys[0], jnp.log(bank.stable_probability[object_id]))
        euler = quat_to_euler(bank.stable_quat[object_id, pose])
        yaw = jax.random.uniform(keys[1], (num,), minval=-_YAW_LIMIT, maxval=_YAW_LIMIT)
        quat = quat_from_euler(euler.at[:, 2].set(yaw))
        origin = jnp.array([0.0, 0.0, self.table_height + _DROP_HEIGHT])
        return origin - quat_rotate(quat, bank.mesh_origin[object_id]), quat

    def object_origin(self, sim: SimState) -> jax.Array:
        """The point of the object (B, 3) that is to reach the goal: the origin of its mesh."""
        offset = self.bank.mesh_origin[sim.object_id]
        return sim.body_pos[:, -1] + quat_rotate(sim.body_quat[:, -1], offset)

    def goal(self, start: jax.Array) -> jax.Array:
        """The goal (B, 3): always 0.3 m above the middle of the table."""
        return jnp.tile(jnp.array([0.0, 0.0, self.table_height + 0.3]), (len(start), 1))

    # --- episode start ----------------------------------------------------------------------

    def hand_start(self, key: jax.Array, num: int) -> tuple[jax.Array, jax.Array]:
        """Root pose (num, 7) and finger joints (num, 22), the same in every episode."""
        quat = quat_from_euler(jnp.array([_HAND_ROLL, 0.0, 0.0]))
        root = jnp.concatenate([jnp.array([0.0, 0.0, self.table_height + _HAND_HEIGHT]), quat])
        return jnp.tile(root, (num, 1)), jnp.zeros((num, len(self.lower)))

    def start(self, base: jax.Array) -> UniDexGraspTask:
        """Task memory at the start of an episode."""
        return UniDexGraspTask(action=jnp.zeros((len(base), self.action_size)))

    # --- step -------------------------------------------------------------------------------

    def control(
        self, task: UniDexGraspTask, sim: SimState, action: jax.Array
    ) -> tuple[UniDexGraspTask, Control]:
        """Force and torque on the palm, world axes, and absolute finger targets between limits."""
        low, high = self.lower[self.actuated], self.upper[self.actuated]
        targets = low + 0.5 * (action[:, 6:] + 1.0) * (high - low)
        ctrl = jnp.zeros((len(action), self.scene.model.nu)).at[:, self.ctrl_index].set(targets)
        wrench = jnp.concatenate([FORCE * action[:, :3], TORQUE * action[:, 3:6]], 1)
        return task.replace(action=action), Control(ctrl=ctrl, wrench=wrench)

    def reward(
        self, task: UniDexGraspTask, sim: SimState, goal: jax.Array, start_height: jax.Array
    ) -> dict[str, jax.Array]:
        """Reward terms after the step, each (B,); their sum is the reward."""
        x = self._view(task, sim, goal)
        return {name: term(x) for name, term in TERMS.items()}

    def observe(
        self,
        task: UniDexGraspTask,
        sim: SimState,
        goal: jax.Array,
        phase: jax.Array,
        clock: jax.Array,
    ) -> dict[str, jax.Array]:
        """Observation groups; the task does not show its time (`phase`, `clock`)."""
        return observe(self._view(task, sim, goal), GROUPS)

    def _view(self, task: UniDexGraspTask, sim: SimState, goal: jax.Array) -> TaskView:
        scene, hand, distal = self.scene, self.scene.hand, self.distal
        palm_pos, palm_quat = sim.body_pos[:, hand.palm_body], sim.body_quat[:, hand.palm_body]
        quat, angvel = sim.body_quat[:, distal], sim.body_angvel[:, distal]
        joints = sim.qpos[:, scene.finger_qpos]
        wrench = sim.tip_wrench
        return TaskView(
            finger_pos=(2.0 * joints - self.upper - self.lower) / (self.upper - self.lower),
            finger_vel=sim.qvel[:, scene.finger_qvel],
            finger_force=sim.joint_force,
            distal_pos=sim.body_pos[:, distal],
            distal_quat=quat,
            distal_linvel=sim.body_linvel[:, distal]
            + jnp.cross(angvel, quat_rotate(quat, self.distal_com)),
            distal_angvel=angvel,
            distal_wrench=jnp.concatenate(
                [quat_rotate_inverse(quat, w) for w in (wrench[..., :3], wrench[..., 3:])], -1
            ),
            grasp_centre=palm_pos + quat_rotate(palm_quat, hand.grasp_centre),
            hand_quat=palm_quat,
            object_pos=self.object_origin(sim),
            object_quat=sim.body_quat[:, -1],
            object_linvel=sim.body_linvel[:, -1],
            object_angvel=sim.body_angvel[:, -1],
            object_feature=self.object_features[sim.object_id],
            goal=goal,
            action=task.action,
            table_height=self.table_height,
        )
