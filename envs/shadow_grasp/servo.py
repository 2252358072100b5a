"""The servo variant: velocity commands to a position-servoed base, absolute finger targets."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dexjax.core.rotations import quat_from_yaw, quat_mul
from dexjax.objects.bank import ObjectBank
from dexjax.sim.scene import BASE_DOFS, Scene, coupled_joints
from dexjax.sim.types import Control, SimState
from envs.shadow_grasp.config import ShadowGraspConfig
from envs.shadow_grasp.features import compute_features
from envs.shadow_grasp.observation import GROUPS, ObservationInput, Row, observe
from envs.shadow_grasp.reward import TERMS, RewardInput, reward_terms


@struct.dataclass
class ServoTask:
    """What the servo variant remembers between steps."""

    base_target: jax.Array  # (B, 6)
    finger_target: jax.Array  # (B, 18) rad
    action: jax.Array  # (B, 24) last action


class ServoVariant:
    """Initial state, action mapping, reward and observation of the servo variant."""

    action_size = 24

    def __init__(
        self, cfg: ShadowGraspConfig, scene: Scene, bank: ObjectBank, control_dt: float
    ) -> None:
        self.cfg, self.scene, self.bank, self.control_dt = cfg, scene, bank, control_dt
        hand, model = scene.hand, scene.model
        self.observation_sizes = {g: sum(r.size for r in rows) for g, rows in GROUPS.items()}
        limits = model.jnt_range[[model.joint(j).id for j in hand.joint_names]]
        self.lower, self.upper = (jnp.asarray(limits[:, i], jnp.float32) for i in (0, 1))
        self.actuated = np.array(hand.actuator_joint)
        self.open = jnp.asarray(hand.postures["open"], jnp.float32)
        self.ctrl_index = self._ctrl_layout()
        self.base_vmax = jnp.asarray(np.repeat(cfg.action.base_speed, 3), jnp.float32)
        self.base_lead = jnp.asarray(np.repeat(cfg.action.base_lead, 3), jnp.float32)
        table, (reach, top) = cfg.scene.table_height, cfg.action.workspace
        yaw, tilt = cfg.action.angle_limit
        self.base_low = jnp.array([-reach, -reach, table, -yaw, -tilt, -tilt])
        self.base_high = jnp.array([reach, reach, table + top, yaw, tilt, tilt])

    def _ctrl_layout(self) -> dict[str, np.ndarray]:
        """Actuator indices: base, driven fingers, and followers with the joint they copy."""
        model, hand = self.scene.model, self.scene.hand
        names = [model.actuator(i).name.removeprefix("A_") for i in range(model.nu)]
        actuated = [hand.joint_names[j] for j in hand.actuator_joint]
        pairs = [(names.index(f), actuated.index(j)) for f, j in coupled_joints(hand) if f in names]
        return {
            "base": np.array([names.index(n) for n in BASE_DOFS]),
            "finger": np.array([names.index(n) for n in actuated]),
            "follower": np.array([p[0] for p in pairs], int),
            "leader": np.array([p[1] for p in pairs], int),
        }

    # --- object and goal --------------------------------------------------------------------

    def draw(self, key: jax.Array, object_id: jax.Array) -> None:
        """What an episode is given besides its initial state: nothing."""

    def initial_object(
        self, keys: Sequence[jax.Array], object_id: jax.Array, drawn: object
    ) -> tuple[jax.Array, jax.Array]:
        """Position (B, 3) of the centre of mass and quaternion (B, 4) at rest on the table.

        keys: three random keys.
        """
        bank, num, most = self.bank, len(object_id), self.cfg.reset.object_xy
        pose = jax.random.categorical(keys[0], jnp.log(bank.stable_probability[object_id]))
        yaw = jax.random.uniform(keys[1], (num,), minval=-jnp.pi, maxval=jnp.pi)
        quat = quat_mul(quat_from_yaw(yaw), bank.stable_quat[object_id, pose])
        xy = jax.random.uniform(keys[2], (num, 2), minval=-most, maxval=most)
        height = bank.stable_height[object_id, pose] + self.cfg.scene.table_height + 1e-3
        return jnp.concatenate([xy, height[:, None]], 1), quat

    def object_origin(self, sim: SimState) -> jax.Array:
        """The point of the object (B, 3) that is to reach the goal: its centre of mass."""
        return sim.body_pos[:, -1]

    def goal(self, start: jax.Array) -> jax.Array:
        """Goal (B, 3) of episodes whose object started at (B, 3)."""
        return start + jnp.array([0.0, 0.0, self.cfg.goal_height])

    def tables(self) -> tuple[dict[str, tuple[Row, ...]], list[tuple[str, float, str]]]:
        """Observation rows by group, and (name, weight, meaning) of each reward term."""
        weights = self.cfg.reward
        return GROUPS, [
            (name, weights.scale * getattr(weights, name), str(term.__doc__).splitlines()[0])
            for name, term in TERMS.items()
        ]

    # --- episode start ----------------------------------------------------------------------

    def hand_start(
        self, key: jax.Array, object_quat: jax.Array, drawn: object
    ) -> tuple[jax.Array, jax.Array]:
        """Base coordinates (B, 6) and finger joints (B, 22) at the start of an episode."""
        reset, num = self.cfg.reset, len(object_quat)
        k1, k2 = jax.random.split(key)
        xy = jax.random.uniform(k1, (num, 2), minval=-reset.hand_xy, maxval=reset.hand_xy)
        z = jnp.full((num, 1), self.cfg.scene.table_height + reset.hand_height)
        angle = jax.random.uniform(k2, (num, 3), minval=-reset.hand_angle, maxval=reset.hand_angle)
        return jnp.concatenate([xy, z, angle], 1), jnp.tile(self.open, (num, 1))

    def start(self, base: jax.Array, sim: SimState, drawn: object) -> ServoTask:
        """Task memory at the start of an episode with the base at (B, 6)."""
        num = base.shape[0]
        return ServoTask(
            base_target=base,
            finger_target=jnp.tile(self.open[self.actuated], (num, 1)),
            action=jnp.zeros((num, 24)),
        )

    # --- step -------------------------------------------------------------------------------

    def control(
        self, task: ServoTask, sim: SimState, action: jax.Array
    ) -> tuple[ServoTask, Control]:
        """New targets from an action in [-1, 1]: base velocity, then absolute finger positions
        (0 is the open posture, +-1 the limits)."""
        base = sim.qpos[:, :6]
        target = task.base_target + action[:, :6] * self.base_vmax * self.control_dt
        target = jnp.clip(target, base - self.base_lead, base + self.base_lead)
        target = jnp.clip(target, self.base_low, self.base_high)
        rest, low, high = (x[self.actuated] for x in (self.open, self.lower, self.upper))
        a = action[:, 6:]
        wanted = rest + jnp.where(a > 0, a * (high - rest), a * (rest - low))
        fingers = task.finger_target + self.cfg.action.finger_smoothing * (
            wanted - task.finger_target
        )
        ctrl = jnp.zeros((action.shape[0], self.scene.model.nu))
        index = self.ctrl_index
        ctrl = ctrl.at[:, index["base"]].set(target).at[:, index["finger"]].set(fingers)
        ctrl = ctrl.at[:, index["follower"]].set(fingers[:, index["leader"]])
        task = task.replace(base_target=target, finger_target=fingers, action=action)
        return task, Control(ctrl=ctrl, wrench=jnp.zeros((action.shape[0], 6)))

    def reward(
        self, task: ServoTask, sim: SimState, goal: jax.Array, start_height: jax.Array
    ) -> dict[str, jax.Array]:
        """Weighted reward terms after the step."""
        return reward_terms(
            RewardInput(
                features=compute_features(sim, self.scene.hand, self.bank),
                action=task.action,
                base_velocity=sim.qvel[:, :3],
                start_height=start_height,
                goal=goal,
            ),
            self.cfg,
        )

    def observe(
        self,
        task: ServoTask,
        sim: SimState,
        goal: jax.Array,
        phase: jax.Array,
        clock: jax.Array,
    ) -> dict[str, jax.Array]:
        """Observation groups; phase of the episode and of the script's attempt (B,) in [-1, 1]."""
        features = compute_features(sim, self.scene.hand, self.bank)
        low, high = self.lower, self.upper
        finger = sim.qpos[:, self.scene.finger_qpos]
        low18, high18 = low[self.actuated], high[self.actuated]
        base_height = features.grasp_centre[:, 2] - self.cfg.scene.table_height
        return observe(
            ObservationInput(
                features=features,
                finger_pos=2 * (finger - low) / (high - low) - 1,
                finger_target=2 * (task.finger_target - low18) / (high18 - low18) - 1,
                base_pos=sim.qpos[:, :6],
                base_vel=sim.qvel[:, :6],
                base_target=task.base_target,
                base_action=task.action[:, :6],
                base_height=base_height,
                goal=goal,
                table_height=jnp.asarray(self.cfg.scene.table_height),
                phase=phase,
                clock=clock,
                object_mass=self.bank.mass[sim.object_id] * sim.object_params[:, 0],
                friction=sim.object_params[:, 1],
            )
        )
