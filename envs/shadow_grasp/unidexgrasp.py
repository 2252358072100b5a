"""The published state-based task of UniDexGrasp and its descendants, observation by observation.

Source: PKU-EPIC/UniDexGrasp2, `shadow_hand_grasp`. The hand is a free body pushed at the palm. By
default its yaw is 0 and the canonical frame is the world, as in UniDexGrasp++; `task.release`
chooses what other releases do. What differs from Isaac Gym: docs/deviations.md.
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
    quat_conj,
    quat_from_euler,
    quat_from_yaw,
    quat_mul,
    quat_rotate,
    quat_rotate_inverse,
    quat_to_euler,
    quat_to_yaw,
)
from dexjax.objects.bank import ObjectBank
from dexjax.sim.scene import Scene, SceneConfig
from dexjax.sim.types import Control, SimState
from envs.shadow_grasp.config import ShadowGraspConfig
from envs.shadow_grasp.observation import Row, observe
from envs.shadow_grasp.released import HAND_POINTS, REWARD_TIP, REWARDS, TaskView
from envs.shadow_grasp.targets import Target, TargetGrasps

FORCE = 0.5 * 1e5 / 60  # N on the palm per unit of action
TORQUE = 0.1 * 1e3 / 60  # N m
FEATURE_SIZE = 64  # point-cloud autoencoder
_DROP_HEIGHT = 0.1  # m, object origin above the table at the start
_HAND_HEIGHT = 0.2  # m, hand root above the table at the start
_HAND_ROLL = 1.57  # rad: fingers along -y, palm down
_YAW_LIMIT = 3.14  # rad
_CLOUD_FIELDS = ("cloud_palm", "cloud_fingers", "cloud_hand", "cloud_lowest")


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


# --- observation ------------------------------------------------------------------------------


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1)


def _xyzw(quat: jax.Array) -> jax.Array:
    return jnp.roll(quat, -1, axis=-1)


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
    # Zero in UniDexGrasp++ and AffordDex.
    Row("hand minus target grasp", 29, 1.0, "object, m, xyzw, rad", lambda x: x.target_offset),
    Row("object feature", FEATURE_SIZE, 0.1, "autoencoder", lambda x: x.object_feature),
)
GROUPS = {"policy": POLICY_ROWS}


# --- variant ----------------------------------------------------------------------------------


@struct.dataclass
class UniDexGraspTask:
    """What the variant remembers between steps."""

    action: jax.Array  # (B, 24) last action
    yaw: jax.Array  # (B,) rad, of the frame that the policy sees and acts in
    target: Target  # zeros where the task has none


class UniDexGraspVariant:
    """Initial state, action mapping, reward and observation of UniDexGrasp and its descendants.

    object_features: (N, 64) features of the bank's objects; zeros where not given. target_grasps:
    of the same objects, where `cfg.release` uses them. Raises ConfigError for a scene with another
    base, features of another shape and a release that lacks its targets.
    """

    action_size = 24

    def __init__(
        self,
        cfg: ShadowGraspConfig,
        scene: Scene,
        bank: ObjectBank,
        object_features: ArrayLike | None = None,
        target_grasps: TargetGrasps | None = None,
    ) -> None:
        if cfg.scene.base != "wrench":
            raise ConfigError(
                f"variant 'unidexgrasp' needs scene.base 'wrench', not {cfg.scene.base!r}; "
                "start from unidexgrasp_config()"
            )
        hand, model = scene.hand, scene.model
        release = cfg.release
        wants = release.align_yaw or release.observe_target or release.reward == "unidexgrasp"
        if wants and target_grasps is None:
            raise ConfigError(
                "task.release: align_yaw, observe_target and the reward of unidexgrasp need "
                "task.release.target_grasps"
            )
        self.release, self.targets = release, target_grasps
        self.terms = REWARDS[release.reward]
        self.scene, self.bank, self.table_height = scene, bank, cfg.scene.table_height
        self.observation_sizes = {g: sum(r.size for r in rows) for g, rows in GROUPS.items()}
        limits = model.jnt_range[[model.joint(j).id for j in hand.joint_names]]
        self.lower, self.upper = (jnp.asarray(limits[:, i], jnp.float32) for i in (0, 1))
        self.actuated = np.array(hand.actuator_joint)
        self.ctrl_index = np.array([model.actuator(n).id for n in hand.actuator_names])
        self.distal = np.array(hand.fingertip_body)
        # The links' centres of mass, where PhysX reports velocities.
        self.distal_com = jnp.asarray(model.body_ipos[scene.body_ids[self.distal]], jnp.float32)
        self.point_body = np.array([scene.body_names.index(body) for body, _ in HAND_POINTS])
        self.point_offset = jnp.asarray([offset for _, offset in HAND_POINTS], jnp.float32)
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
        terms = [(k, 1.0, " ".join(str(t.__doc__).split())) for k, t in self.terms.items()]
        return GROUPS, terms

    def draw(self, key: jax.Array, object_id: jax.Array) -> Target | None:
        """The target grasp of each episode; None where the release has none."""
        return None if self.targets is None else self.targets.draw(key, object_id)

    def initial_object(
        self, keys: Sequence[jax.Array], object_id: jax.Array, drawn: Target | None
    ) -> tuple[jax.Array, jax.Array]:
        """Position (B, 3) of the centre of mass and quaternion (B, 4), about to fall.

        Mesh origin 0.1 m above the table's middle; roll and pitch of a stable pose, or as the
        object lay with the target grasp; yaw uniform. keys: three, of which two are used.
        """
        bank, num = self.bank, len(object_id)
        if drawn is None:
            pose = jax.random.categorical(keys[0], jnp.log(bank.stable_probability[object_id]))
            lying = bank.stable_quat[object_id, pose]
        else:
            lying = drawn.rest_quat
        euler = quat_to_euler(lying)
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

    def hand_start(
        self, key: jax.Array, object_quat: jax.Array, drawn: Target | None
    ) -> tuple[jax.Array, jax.Array]:
        """Root pose (B, 7) and finger joints (B, 22): always the same, but for the yaw."""
        num = len(object_quat)
        yaw = self._yaw(object_quat, drawn)
        roll = jnp.full(num, _HAND_ROLL)
        quat = quat_from_euler(jnp.stack([roll, jnp.zeros(num), yaw], 1))
        root = jnp.tile(jnp.array([0.0, 0.0, self.table_height + _HAND_HEIGHT]), (num, 1))
        return jnp.concatenate([root, quat], 1), jnp.zeros((num, len(self.lower)))

    def _yaw(self, object_quat: jax.Array, drawn: Target | None) -> jax.Array:
        """(B,) yaw of the target grasp's palm in the world, or 0."""
        if drawn is None or not self.release.align_yaw:
            return jnp.zeros(len(object_quat))
        return quat_to_yaw(quat_mul(object_quat, drawn.hand_quat))

    def start(self, base: jax.Array, sim: SimState, drawn: Target | None) -> UniDexGraspTask:
        """Task memory at the start of an episode."""
        num = len(base)
        none = Target(*(jnp.zeros((num, *shape)) for shape in ((3,), (4,), (22,), (4,), ())))
        return UniDexGraspTask(
            action=jnp.zeros((num, self.action_size)),
            yaw=self._yaw(sim.body_quat[:, -1], drawn),
            target=none if drawn is None else drawn,
        )

    # --- step -------------------------------------------------------------------------------

    def control(
        self, task: UniDexGraspTask, sim: SimState, action: jax.Array
    ) -> tuple[UniDexGraspTask, Control]:
        """Force and torque on the palm, world axes, and absolute finger targets between limits.

        The action's force and torque are in the frame turned by the task's yaw.
        """
        low, high = self.lower[self.actuated], self.upper[self.actuated]
        targets = low + 0.5 * (action[:, 6:] + 1.0) * (high - low)
        ctrl = jnp.zeros((len(action), self.scene.model.nu)).at[:, self.ctrl_index].set(targets)
        parts = FORCE * action[:, :3], TORQUE * action[:, 3:6]
        if self.release.align_yaw:
            turn = quat_from_yaw(task.yaw)
            parts = quat_rotate(turn, parts[0]), quat_rotate(turn, parts[1])
        wrench = jnp.concatenate(parts, 1)
        return task.replace(action=action), Control(ctrl=ctrl, wrench=wrench)

    def reward(
        self, task: UniDexGraspTask, sim: SimState, goal: jax.Array, start_height: jax.Array
    ) -> dict[str, jax.Array]:
        """Reward terms after the step, each (B,); their sum is the reward."""
        x = self._view(task, sim, goal)
        return {name: term(x) for name, term in self.terms.items()}

    def observe(
        self,
        task: UniDexGraspTask,
        sim: SimState,
        goal: jax.Array,
        phase: jax.Array,
        clock: jax.Array,
    ) -> dict[str, jax.Array]:
        """Observation groups; the task does not show its time (`phase`, `clock`)."""
        view = self._view(task, sim, goal)
        if not self.release.observe_target:
            view = view.replace(target_offset=jnp.zeros_like(view.target_offset))
        return observe(view, GROUPS)

    def _view(self, task: UniDexGraspTask, sim: SimState, goal: jax.Array) -> TaskView:
        scene, hand, distal = self.scene, self.scene.hand, self.distal
        palm_pos, palm_quat = sim.body_pos[:, hand.palm_body], sim.body_quat[:, hand.palm_body]
        quat, angvel = sim.body_quat[:, distal], sim.body_angvel[:, distal]
        joints = sim.qpos[:, scene.finger_qpos]
        wrench = sim.tip_wrench
        centre = palm_pos + quat_rotate(palm_quat, hand.grasp_centre)
        tip_vel = sim.body_linvel[:, distal] + jnp.cross(angvel, quat_rotate(quat, self.distal_com))
        object_pos, object_quat = self.object_origin(sim), sim.body_quat[:, -1]
        turn, turn_quat = self._into_frame(task)
        view = TaskView(
            finger_pos=(2.0 * joints - self.upper - self.lower) / (self.upper - self.lower),
            finger_vel=sim.qvel[:, scene.finger_qvel],
            finger_force=sim.joint_force,
            finger_angle=joints,
            distal_pos=turn(sim.body_pos[:, distal]),
            distal_quat=turn_quat(quat),
            distal_linvel=turn(tip_vel),
            distal_angvel=turn(angvel),
            distal_wrench=jnp.concatenate(
                [quat_rotate_inverse(quat, w) for w in (wrench[..., :3], wrench[..., 3:])], -1
            ),
            grasp_centre=turn(centre),
            hand_quat=turn_quat(palm_quat),
            object_pos=turn(object_pos),
            object_quat=turn_quat(object_quat),
            object_linvel=turn(sim.body_linvel[:, -1]),
            object_angvel=turn(sim.body_angvel[:, -1]),
            object_feature=self.object_features[sim.object_id],
            goal=turn(goal),
            action=task.action,
            object_height=task.target.rest_height,
            target_offset=self._target_offset(task, centre, palm_quat, object_pos, sim),
            table_height=self.table_height,
            hold_distances=self.release.hold_distances,
            **dict.fromkeys(_CLOUD_FIELDS, jnp.zeros(len(joints))),
        )
        if self.release.reward == "unigrasptransformer":
            view = view.replace(**self._cloud(sim, centre, quat))
        return view

    def _into_frame(
        self, task: UniDexGraspTask
    ) -> tuple[Callable[[jax.Array], jax.Array], Callable[[jax.Array], jax.Array]]:
        """How vectors (B, ..., 3) and quaternions (B, ..., 4) of the world look to the policy."""
        if not self.release.align_yaw:
            return (lambda v: v), (lambda q: q)
        back = quat_from_yaw(-task.yaw)

        def wide(x: jax.Array) -> jax.Array:
            return back.reshape(len(back), *[1] * (x.ndim - 2), 4)

        return (lambda v: quat_rotate(wide(v), v)), (lambda q: quat_mul(wide(q), q))

    def _target_offset(
        self,
        task: UniDexGraspTask,
        centre: jax.Array,
        palm_quat: jax.Array,
        object_pos: jax.Array,
        sim: SimState,
    ) -> jax.Array:
        """(B, 29) of the hand from the target grasp, mesh frame: m, xyzw, rad.

        As released, the grasp centre is compared with the target's palm.
        """
        joints = sim.qpos[:, self.scene.finger_qpos]
        if not (self.release.observe_target or self.release.reward == "unidexgrasp"):
            return jnp.zeros((len(joints), 29))
        quat, target = sim.body_quat[:, -1], task.target
        pos = quat_rotate_inverse(quat, centre - object_pos) - target.hand_pos
        turn = quat_mul(quat_mul(quat_conj(quat), palm_quat), quat_conj(target.hand_quat))
        return jnp.concatenate([pos, _xyzw(turn), joints - target.qpos], 1)

    def _cloud(
        self, sim: SimState, centre: jax.Array, distal_quat: jax.Array
    ) -> dict[str, jax.Array]:
        """Distances (B,) to the object's surface points, capped as released."""
        surface = sim.body_pos[:, -1, None] + quat_rotate(
            sim.body_quat[:, -1, None], self.bank.surface_points[sim.object_id]
        )
        along = jnp.array([0.0, 0.0, REWARD_TIP])
        tips = sim.body_pos[:, self.distal] + quat_rotate(distal_quat, along)
        body = self.point_body
        points = sim.body_pos[:, body] + quat_rotate(sim.body_quat[:, body], self.point_offset)
        probes = jnp.concatenate([centre[:, None], tips, points], 1)  # (B, 42, 3)
        square = ((probes[:, :, None] - surface[:, None]) ** 2).sum(-1)
        nearest = jnp.sqrt(square.min(-1))
        return {
            "cloud_palm": jnp.minimum(nearest[:, 0], 0.5),
            "cloud_fingers": jnp.minimum(nearest[:, 1:6].sum(1), 3.0),
            "cloud_hand": jnp.minimum(5.0 * nearest[:, 6:].mean(1), 3.0),
            "cloud_lowest": surface[..., 2].min(1),
        }
