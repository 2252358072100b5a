"""The grasp environment: episodes, success, resets; the task variant supplies the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import ArrayLike

from dexjax.core.errors import ConfigError, DataError
from dexjax.objects.asset import ObjectAsset
from dexjax.objects.bank import ObjectBank
from dexjax.objects.sampler import ObjectSampler
from dexjax.rl.env import EnvState
from dexjax.rl.ppo import policy_mean
from dexjax.rl.trained import Policy, load_policy
from dexjax.sim.scene import Scene
from dexjax.sim.types import Engine, SimState
from envs.shadow_grasp.config import ShadowGraspConfig
from envs.shadow_grasp.features import compute_features
from envs.shadow_grasp.script import ScriptConfig, next_step, scripted_action
from envs.shadow_grasp.servo import ServoVariant
from envs.shadow_grasp.targets import TargetGrasps
from envs.shadow_grasp.unidexgrasp import UniDexGraspVariant

_LIFTED = 0.05  # m above the start
_OUT_OF_REACH = 0.5  # m from the start, horizontally
_DROP = 0.05  # m below the highest point reached


@struct.dataclass
class Episode:
    """What the environment remembers of the running episodes."""

    step: jax.Array  # (B,) int32 control steps done
    script_step: jax.Array  # (B,) int32 control step of the script's current attempt
    goal: jax.Array  # (B, 3)
    start: jax.Array  # (B, 3) object position at reset (the variant says of which point)
    inside: jax.Array  # (B,) int32 consecutive steps at the goal
    highest: jax.Array  # (B,) m above the start
    task: Any  # memory of the task variant
    sampler: object


class ShadowGrasp:
    """`num_envs` grasp episodes; see `dexjax.rl.env.Env`.

    `stagger` starts the first episodes at random steps, so that resets spread over time; leave it
    off to measure. `object_features` (N, 64) and `target_grasps`: see `UniDexGraspVariant`, which
    alone uses them.
    """

    def __init__(
        self,
        cfg: ShadowGraspConfig,
        scene: Scene,
        bank: ObjectBank,
        sampler: ObjectSampler,
        engine: Engine,
        *,
        control_dt: float,
        stagger: bool = True,
        object_features: ArrayLike | None = None,
        target_grasps: TargetGrasps | None = None,
    ) -> None:
        self.cfg, self.scene, self.bank, self.engine = cfg, scene, bank, engine
        self.sampler, self.stagger = sampler, stagger
        self.num_envs = engine.num_envs
        self.variant: ServoVariant | UniDexGraspVariant
        if cfg.variant == "servo":
            self.variant = ServoVariant(cfg, scene, bank, control_dt)
        else:
            self.variant = UniDexGraspVariant(cfg, scene, bank, object_features, target_grasps)
        self.action_size = self.variant.action_size
        self.observation_sizes = self.variant.observation_sizes
        self.episode_length = cfg.episode_length
        self.hold_steps = round(cfg.hold_seconds / control_dt)
        self.control_dt = control_dt
        self.script = ScriptConfig()
        self.base_policy: Policy | None = None
        if cfg.base_policy == "policy":
            self.base_policy = _load_base_policy(cfg, self.observation_sizes, self.action_size)
        self.left_out: list[tuple[str, str]] = []  # objects that could not be used, and why
        self.questioned: list[tuple[str, str]] = []  # objects that the engine represents badly
        self.assets: tuple[ObjectAsset, ...] = ()  # by object id, for pictures

    @property
    def hand(self) -> str:
        """Name of the hand."""
        return self.cfg.scene.hand

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of the objects, by object id."""
        return self.scene.object_names

    @property
    def sim_seconds(self) -> float:
        """Wall-clock seconds spent in physics so far."""
        return self.engine.seconds

    def save_divergences(self, path: Path, sim: SimState) -> None:
        """Write the last states before each divergence, if the engine noted any. sim: now."""
        if hasattr(self.engine, "save_divergences"):
            self.engine.save_divergences(sim, path)

    def report(self) -> str:
        """Tables of the task: observation rows, reward terms, what was left out."""
        groups, terms = self.variant.tables()
        lines = [
            f"{len(self.objects)} objects, {self.num_envs} environments, {self.episode_length} "
            f"control steps of {1000 * self.control_dt:.1f} ms, "
            f"base policy: {self.cfg.base_policy}"
        ]
        for group, rows in groups.items():
            lines.append(f"observation {group!r}: {sum(r.size for r in rows)} numbers")
            lines += [f"  {r.name:32s}{r.size:4d}  x {r.scale:<6g} {r.frame}" for r in rows]
        lines.append("reward terms (weight per control step)")
        lines += [f"  {name:20s}{weight:8g}  {meaning}" for name, weight, meaning in terms]
        lines += [f"left out: {name}: {reason}" for name, reason in self.left_out]
        lines += [f"questioned: {name}: {reason}" for name, reason in self.questioned]
        return "\n".join(lines)

    # --- contract ---------------------------------------------------------------------------

    def reset(self, key: jax.Array, object_id: jax.Array | None = None) -> EnvState:
        """Fresh episodes in all environments, of given objects (B,) or of sampled ones."""
        key, k_object, k_pose, k_step = jax.random.split(key, 4)
        sampler = self.sampler.init()
        if object_id is None:
            object_id = self.sampler.sample(sampler, k_object, (self.num_envs,))
        qpos, qvel, params, drawn = self._initial_state(k_pose, object_id)
        sim = self.engine.init(object_id, qpos, qvel, params)
        episode = self._start(sim, sampler, drawn)
        if self.stagger:
            step = jax.random.randint(k_step, (self.num_envs,), 0, self.episode_length)
            episode = episode.replace(step=step, script_step=step)
        zeros = jnp.zeros(self.num_envs)
        obs = self._observe(episode, sim)
        names = self._reward(episode, sim)
        return EnvState(
            obs=obs,
            final_obs=obs,
            reward=zeros,
            done=zeros > 0,
            truncated=zeros > 0,
            terms={k: zeros for k in names},
            metrics=self._metrics(sim, episode),
            episode=self._empty_result(object_id),
            task=episode,
            sim=sim,
            key=key,
        )

    def step(self, state: EnvState, action: jax.Array) -> EnvState:
        """One control step; ended episodes are replaced by fresh ones in the same call."""
        key, k_object, k_pose = jax.random.split(state.key, 3)
        action = self._combine(state, action)
        task, control = self.variant.control(state.task.task, state.sim, action)
        sim = self.engine.step(state.sim, control)

        episode = self._advance(state.task.replace(task=task), sim)
        terms = self._reward(episode, sim)
        terms = {k: jnp.where(sim.finite, v, 0.0) for k, v in terms.items()}
        reward = jnp.sum(jnp.stack(list(terms.values())), 0)
        result = self._result(state.episode, episode, sim, reward)
        timeout = episode.step >= self.episode_length
        done = timeout | ~sim.finite
        # Of a diverged simulation, also one that was given a NaN action, nothing may be learned.
        final_obs = jax.tree.map(
            lambda x: jnp.where(sim.finite[:, None], x, 0.0), self._observe(episode, sim)
        )

        sampler = self.sampler.update(
            episode.sampler, sim.object_id, result["success_end"] > 0.5, done
        )
        episode = episode.replace(sampler=sampler)
        metrics = self._metrics(sim, episode)

        def restart(_: None) -> tuple[SimState, Episode, dict[str, jax.Array]]:
            object_id = self.sampler.sample(sampler, k_object, (self.num_envs,))
            qpos, qvel, params, drawn = self._initial_state(k_pose, object_id)
            fresh_sim = self.engine.reset_where(sim, done, object_id, qpos, qvel, params)
            fresh = self._start(fresh_sim, sampler, drawn)
            mixed = jax.tree.map(
                lambda a, b: jnp.where(done.reshape(-1, *[1] * (a.ndim - 1)), a, b),
                fresh.replace(sampler=None),
                episode.replace(sampler=None),
            ).replace(sampler=sampler)
            return fresh_sim, mixed, self._observe(mixed, fresh_sim)

        sim, episode, obs = jax.lax.cond(
            done.any(), restart, lambda _: (sim, episode, final_obs), None
        )
        return EnvState(
            obs=obs,
            final_obs=final_obs,
            reward=reward,
            done=done,
            truncated=timeout & done & (metrics["finite"] > 0.5),
            terms=terms,
            metrics=metrics,
            episode=result,
            task=episode,
            sim=sim,
            key=key,
        )

    def restarted(self, state: EnvState, sim: SimState, drawn: Any) -> EnvState:
        """`state` with episodes that begin at `sim`, given what the variant draws (or None)."""
        episode = self._start(sim, state.task.sampler, drawn)
        obs = self._observe(episode, sim)
        return state.replace(task=episode, sim=sim, obs=obs, final_obs=obs)

    # --- parts ------------------------------------------------------------------------------

    def _combine(self, state: EnvState, action: jax.Array) -> jax.Array:
        """Base action + scale x learned action, or the learned action alone."""
        if self.cfg.base_policy != "none":
            action = self.base_action(state) + self.cfg.residual_scale * action
        return jnp.clip(action, -1.0, 1.0)

    def base_action(self, state: EnvState) -> jax.Array:
        """Action (B, A) of the base policy in this state: zero, the script, or a frozen run."""
        if self.base_policy is not None:
            frozen = self.base_policy
            mean = policy_mean(frozen.cfg, frozen.params, frozen.normalizer, state.obs)
            return jnp.clip(mean, -1.0, 1.0)
        if self.cfg.base_policy == "none":
            return jnp.zeros((self.num_envs, self.action_size))
        return self.scripted_action(state)

    def learned_action(self, state: EnvState, wanted: jax.Array) -> jax.Array:
        """The action for `step` with which the environment does `wanted` (B, A), base included."""
        if self.cfg.base_policy == "none":
            return wanted
        return (wanted - self.base_action(state)) / self.cfg.residual_scale

    def goal(self, state: EnvState) -> jax.Array:
        """Where the object shall be, (B, 3) world."""
        return state.task.goal

    def scripted_action(self, state: EnvState) -> jax.Array:
        """The script's action (B, 24) in this state; ConfigError where the base has no servos."""
        if not isinstance(self.variant, ServoVariant):
            raise ConfigError(
                f"the scripted policy drives a servoed base; variant {self.cfg.variant!r} has none"
            )
        episode = state.task
        return scripted_action(
            compute_features(state.sim, self.scene.hand, self.bank),
            episode.task.base_target,
            state.sim.qpos[:, :6],
            episode.goal,
            episode.script_step,
            self.scene.hand,
            self.variant.base_vmax,
            self.cfg.scene.table_height,
            self.script,
        )

    def _initial_state(
        self, key: jax.Array, object_id: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, Any]:
        """qpos (B, nq), qvel (B, nv), object parameters (B, 2) and what the variant draws."""
        reset, num = self.cfg.reset, self.num_envs
        *k_object, k_hand, k_mass, k_friction = jax.random.split(key, 6)
        drawn = self.variant.draw(jax.random.fold_in(k_hand, 1), object_id)
        pos, quat = self.variant.initial_object(k_object, object_id, drawn)
        base, fingers = self.variant.hand_start(k_hand, quat, drawn)

        scene = self.scene
        qpos = jnp.zeros((num, scene.model.nq))
        qpos = qpos.at[:, : scene.config.base_dof].set(base)
        qpos = qpos.at[:, scene.finger_qpos].set(fingers)
        at = scene.object_qpos
        qpos = qpos.at[:, at : at + 3].set(pos).at[:, at + 3 : at + 7].set(quat)
        qvel = jnp.zeros((num, scene.model.nv))
        low, high = jnp.log(jnp.asarray(reset.mass_range))
        mass = jnp.exp(jax.random.uniform(k_mass, (num,), minval=low, maxval=high))
        low, high = reset.friction_range
        friction = jax.random.uniform(k_friction, (num,), minval=low, maxval=high)
        return qpos, qvel, jnp.stack([mass, friction], 1), drawn

    def _start(self, sim: SimState, sampler: object, drawn: Any) -> Episode:
        zero = jnp.zeros(self.num_envs, jnp.int32)
        start = self.variant.object_origin(sim)
        return Episode(
            step=zero,
            script_step=zero,
            goal=self.variant.goal(start),
            start=start,
            inside=zero,
            highest=jnp.zeros(self.num_envs),
            task=self.variant.start(sim.qpos[:, : self.scene.config.base_dof], sim, drawn),
            sampler=sampler,
        )

    def _advance(self, episode: Episode, sim: SimState) -> Episode:
        position = self.variant.object_origin(sim)
        at_goal = jnp.linalg.norm(episode.goal - position, axis=-1) <= self.cfg.success_radius
        height = position[:, 2] - episode.start[:, 2]
        features = compute_features(sim, self.scene.hand, self.bank)
        return episode.replace(
            step=episode.step + 1,
            script_step=next_step(episode.script_step, features, height, self.script),
            inside=jnp.where(at_goal, episode.inside + 1, 0),
            highest=jnp.maximum(episode.highest, height),
        )

    def _reward(self, episode: Episode, sim: SimState) -> dict[str, jax.Array]:
        return self.variant.reward(episode.task, sim, episode.goal, episode.start[:, 2])

    def _observe(self, episode: Episode, sim: SimState) -> dict[str, jax.Array]:
        phase, clock = (
            2.0 * step / self.episode_length - 1.0 for step in (episode.step, episode.script_step)
        )
        return self.variant.observe(episode.task, sim, episode.goal, phase, clock)

    def _metrics(self, sim: SimState, episode: Episode) -> dict[str, jax.Array]:
        """Diagnostics of this step, each (B,)."""
        features = compute_features(sim, self.scene.hand, self.bank)
        position = self.variant.object_origin(sim)
        dropped = getattr(sim, "contacts_dropped", None)  # not every engine has slots to run out of
        return ({} if dropped is None else {"contacts_dropped": dropped}) | {
            "grip": features.grip.astype(jnp.float32),
            "at_goal": (episode.inside > 0).astype(jnp.float32),
            "height": position[:, 2] - episode.start[:, 2],
            "goal_distance": jnp.linalg.norm(episode.goal - position, axis=-1),
            "finite": sim.finite.astype(jnp.float32),
        }

    def _empty_result(self, object_id: jax.Array) -> dict[str, jax.Array]:
        zeros = jnp.zeros(self.num_envs)
        names: tuple[str, ...] = ("success_any", "success_end", "success_held", "lifted", "dropped")
        names += ("out_of_reach", "table_contact", "diverged", "return", "length")
        return {k: zeros for k in names} | {"object_id": object_id}

    def _result(
        self, last: dict[str, jax.Array], episode: Episode, sim: SimState, reward: jax.Array
    ) -> dict[str, jax.Array]:
        """Episode statistics so far; final where the episode is done. Each (B,) float32."""
        first = episode.step == 1
        old = {k: jnp.where(first, 0.0, v) for k, v in last.items() if k != "object_id"}
        position = self.variant.object_origin(sim)
        height = position[:, 2] - episode.start[:, 2]
        away = jnp.linalg.norm((position - episode.start)[:, :2], axis=-1)
        at_goal = episode.inside > 0

        def latch(name: str, now: jax.Array) -> jax.Array:
            return jnp.maximum(old[name], now.astype(jnp.float32))

        return {
            "success_any": latch("success_any", at_goal),
            "success_end": (at_goal & sim.finite).astype(jnp.float32),
            "success_held": ((episode.inside >= self.hold_steps) & sim.finite).astype(jnp.float32),
            "lifted": latch("lifted", height > _LIFTED),
            "dropped": (
                (episode.highest > _LIFTED) & (height < episode.highest - _DROP) & ~at_goal
            ).astype(jnp.float32),
            "out_of_reach": (away > _OUT_OF_REACH).astype(jnp.float32),
            "table_contact": latch("table_contact", sim.table_force > 1.0),
            "diverged": latch("diverged", ~sim.finite),
            "return": old["return"] + reward,
            "length": episode.step.astype(jnp.float32),
            "object_id": sim.object_id,
        }


def _load_base_policy(
    cfg: ShadowGraspConfig, observation_sizes: dict[str, int], action_size: int
) -> Policy:
    """The frozen policy of the run `cfg.base_checkpoint`; DataError where it fits another task."""
    if not cfg.base_checkpoint:
        raise ConfigError("base_policy is 'policy': name its run with --task.base-checkpoint RUN")
    policy = load_policy(Path(cfg.base_checkpoint))
    made = policy.metadata["env"]
    for field, here in (("observation_sizes", observation_sizes), ("action_size", action_size)):
        if made[field] != here:
            raise DataError(
                f"{cfg.base_checkpoint}: its {field} is {made[field]}, this task's is {here}; "
                "a base policy must come from the same task variant and hand"
            )
    return policy
