"""A third party's environment: a point on a line is pushed to the origin by its velocity."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dexjax.rl.env import EnvState
from dexjax.rl.ppo import PPOConfig
from dexjax.rl.registry import EnvSpec, Preset, TrainConfig


@dataclass(frozen=True)
class ReachLineConfig:
    """Options of the task."""

    radius: float = 0.1
    """Distance from the origin that counts as success, m."""


@dataclass(frozen=True)
class ReachLine:
    """1 action (velocity), 1 observation (position); the time limit ends episodes."""

    config: ReachLineConfig
    num_envs: int
    action_size = 1
    episode_length = 20

    @property
    def observation_sizes(self) -> dict[str, int]:
        return {"policy": 1}

    def reset(self, key: jax.Array) -> EnvState:
        key, start = jax.random.split(key)
        zero = jnp.zeros(self.num_envs)
        position = jax.random.uniform(start, (self.num_envs, 1), minval=-1.0, maxval=1.0)
        obs = {"policy": position}
        episode = dict.fromkeys(("success_any", "success_end", "return", "length"), zero)
        return EnvState(
            obs=obs,
            final_obs=obs,
            reward=zero,
            done=zero > 0,
            truncated=zero > 0,
            terms={"distance": zero},
            metrics={},
            episode=episode,
            task=jnp.zeros(self.num_envs, jnp.int32),
            sim=position,
            key=key,
        )

    def step(self, state: EnvState, action: jax.Array) -> EnvState:
        key, start = jax.random.split(state.key)
        position = state.sim + 0.1 * jnp.clip(action, -1, 1)
        distance = jnp.abs(position[:, 0])
        begun = jnp.where(state.done, 0.0, 1.0)
        inside = (distance < self.config.radius).astype(jnp.float32)
        episode = {
            "success_any": jnp.maximum(begun * state.episode["success_any"], inside),
            "success_end": inside,
            "return": begun * state.episode["return"] - distance,
            "length": begun * state.episode["length"] + 1,
        }
        clock = state.task + 1
        done = clock >= self.episode_length
        fresh = jax.random.uniform(start, position.shape, minval=-1.0, maxval=1.0)
        new = jnp.where(done[:, None], fresh, position)
        return EnvState(
            obs={"policy": new},
            final_obs={"policy": position},
            reward=-distance,
            done=done,
            truncated=done,
            terms={"distance": -distance},
            metrics={},
            episode=episode,
            task=jnp.where(done, 0, clock),
            sim=new,
            key=key,
        )


def _make(config: ReachLineConfig, *, num_envs: int, **_: object) -> ReachLine:
    return ReachLine(config, num_envs)


spec = EnvSpec(
    presets={
        "quick": Preset(
            ReachLineConfig(),
            PPOConfig(actor_hidden=(32,), critic_hidden=(32,)),
            TrainConfig(num_envs=16, best_metric="success_end", evaluate=False),
        )
    },
    make=_make,
)
