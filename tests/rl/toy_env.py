"""A point mass that must be pushed to a goal: a pure JAX environment that follows the contract.

Known answer: a proportional-derivative law reaches and holds the goal, so a learner must too.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from dexjax.rl.env import EnvState
from dexjax.rl.ppo import PPOConfig
from dexjax.rl.registry import EnvSpec, Preset, TrainConfig

DT = 0.1  # s
GOAL_RADIUS = 0.1  # m


@struct.dataclass
class PointMass:
    pos: jax.Array  # (B, 2) m
    vel: jax.Array  # (B, 2) m/s
    goal: jax.Array  # (B, 2) m


@dataclass(frozen=True)
class PointMassConfig:
    """Options of the toy task."""

    episode_length: int = 40
    """Control steps per episode."""
    goal_weight: float = 1.0
    """Weight of the distance term."""


@dataclass(frozen=True)  # equal configurations are equal, so tests share compiled programs
class PointMassEnv:
    """2 actions (acceleration, m/s2 in +-1), 6 + 2 observations, time limit only."""

    config: PointMassConfig = PointMassConfig()
    num_envs: int = 64

    action_size = 2

    @property
    def observation_sizes(self) -> dict[str, int]:
        return {"policy": 6, "privileged": 2}

    @property
    def episode_length(self) -> int:
        return self.config.episode_length

    def reset(self, key: jax.Array) -> EnvState:
        key, key_sim, key_phase = jax.random.split(key, 3)
        sim = self._sample(key_sim)
        zero = jnp.zeros(self.num_envs)
        obs = self._observe(sim)
        return EnvState(
            obs=obs,
            final_obs=obs,
            reward=zero,
            done=zero > 0,
            truncated=zero > 0,
            terms={"goal": zero, "effort": zero},
            metrics={"distance": zero, "finite": zero + 1},
            episode={"success_any": zero, "success_end": zero, "return": zero, "length": zero},
            task=jax.random.randint(key_phase, (self.num_envs,), 0, self.episode_length),
            sim=sim,
            key=key,
        )

    def step(self, state: EnvState, action: jax.Array) -> EnvState:
        key, key_sim = jax.random.split(state.key)
        force = jnp.clip(action, -1, 1)
        vel = state.sim.vel + DT * force
        sim = state.sim.replace(pos=state.sim.pos + DT * vel, vel=vel)
        distance = jnp.linalg.norm(sim.goal - sim.pos, axis=-1)
        terms = {
            "goal": -self.config.goal_weight * distance,
            "effort": -0.01 * jnp.sum(jnp.square(force), -1),
        }
        reward = terms["goal"] + terms["effort"]
        inside = (distance < GOAL_RADIUS).astype(jnp.float32)
        begun = jnp.where(state.done, 0.0, 1.0)  # statistics restart after a finished episode
        episode = {
            "success_any": jnp.maximum(begun * state.episode["success_any"], inside),
            "success_end": inside,
            "return": begun * state.episode["return"] + reward,
            "length": begun * state.episode["length"] + 1,
        }
        clock = state.task + 1
        done = clock >= self.episode_length
        final_obs = self._observe(sim)
        fresh = self._sample(key_sim)
        sim = jax.tree.map(lambda new, old: jnp.where(done[:, None], new, old), fresh, sim)
        return EnvState(
            obs=self._observe(sim),
            final_obs=final_obs,
            reward=reward,
            done=done,
            truncated=done,
            terms=terms,
            metrics={"distance": distance, "finite": jnp.ones(self.num_envs)},
            episode=episode,
            task=jnp.where(done, 0, clock),
            sim=sim,
            key=key,
        )

    def _sample(self, key: jax.Array) -> PointMass:
        pos, goal = jax.random.uniform(key, (2, self.num_envs, 2), minval=-1.0, maxval=1.0)
        return PointMass(pos=pos, vel=jnp.zeros_like(pos), goal=goal)

    def _observe(self, sim: PointMass) -> dict[str, jax.Array]:
        return {
            "policy": jnp.concatenate([sim.pos, sim.vel, sim.goal], -1),
            "privileged": sim.goal - sim.pos,
        }


def _make(
    config: PointMassConfig,
    *,
    num_envs: int,
    engine: str,
    objects: str,
    seed: int,
    evaluation: bool = False,
) -> PointMassEnv:
    return PointMassEnv(config, num_envs)


_LEARNER = PPOConfig(actor_hidden=(64, 64), critic_hidden=(64, 64), reward_scale=0.2)

spec = EnvSpec(
    presets={
        "quick": Preset(
            env=PointMassConfig(),
            ppo=_LEARNER,
            train=TrainConfig(num_envs=64, best_metric="success_end"),
        )
    },
    make=_make,
)
