"""Any dexjax environment as a `brax.envs.base.Env`, so that brax's own trainers run on it.

    env = spec.make(preset.env, num_envs=512, seed=0)
    test = spec.make(preset.env, num_envs=128, seed=1, evaluation=True)
    brax.training.agents.ppo.train.train(**train_arguments(env, test), num_timesteps=1_000_000, ...)

brax wraps single environments: `vmap`, then an episode counter, then an automatic reset to a cached
first state. Ours are batched, count and reset themselves (to fresh episodes), so the adapter takes
the place of the wrapped environment: `wrap_env=False`.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dexjax.core.errors import ConfigError
from dexjax.rl.env import Env, EnvState

with contextlib.redirect_stdout(io.StringIO()):  # brax's import of MJX prints that Warp is absent
    from brax.envs.base import Env as _BraxBase
    from brax.envs.base import ObservationSize, State

_NOT_A_RESULT = ("object_id", "return", "length")


class BraxEnv(_BraxBase):
    """A batched, self-resetting brax environment; use it with `wrap_env=False`.

    Observation: the groups `actor_obs` joined, (B, n); with `critic_obs` a dict of that as "state"
    and those groups as "privileged_state" (`make_ppo_networks(value_obs_key="privileged_state")`).
    `metrics` follow brax's evaluator, which sums them over an episode: reward terms of this step as
    "reward/NAME", episode results (`success_end`, ...) at the last step and zero before.
    `info["truncation"]` marks episodes cut by the time limit, whose last step brax leaves out.
    """

    def __init__(
        self,
        env: Env,
        *,
        actor_obs: Sequence[str] = ("policy",),
        critic_obs: Sequence[str] | None = None,
    ) -> None:
        groups = (*actor_obs, *(critic_obs or ()))
        missing = [g for g in groups if g not in env.observation_sizes]
        if missing:
            raise ConfigError(
                f"observation group {missing[0]!r}: the environment has "
                f"{', '.join(env.observation_sizes)}"
            )
        self.env = env
        self.actor_obs = tuple(actor_obs)
        self.critic_obs = None if critic_obs is None else tuple(critic_obs)

    def reset(self, rng: jax.Array) -> State:
        """Fresh episodes. rng: one key per environment, as brax's trainers pass them."""
        typed = jnp.issubdtype(rng.dtype, jax.dtypes.prng_key)
        keys = rng if typed else jax.random.wrap_key_data(rng)
        if keys.shape != (self.env.num_envs,):
            raise ConfigError(
                f"reset got keys of shape {keys.shape}, but the environment is a batch of "
                f"{self.env.num_envs}: give brax wrap_env=False and as many environments "
                "(num_envs, num_eval_envs) as this batch has, per device"
            )
        state = self.env.reset(keys[0])
        return State(
            pipeline_state=_plain_key(state),
            obs=self._observe(state.obs),
            reward=state.reward,
            done=state.done.astype(jnp.float32),
            metrics=_metrics(state),
            info=_info(state),
        )

    def step(self, state: State, action: jax.Array) -> State:
        """One control step, action (B, A) in [-1, 1]; ended episodes start afresh in the call."""
        new = self.env.step(_typed_key(state.pipeline_state), action)
        return state.replace(
            pipeline_state=_plain_key(new),
            obs=self._observe(new.obs),
            reward=new.reward,
            done=new.done.astype(jnp.float32),
            metrics={**state.metrics, **_metrics(new)},  # wrappers outside add their own
            info={**state.info, **_info(new)},
        )

    @property
    def observation_size(self) -> ObservationSize:
        sizes = self.env.observation_sizes
        actor = sum(sizes[g] for g in self.actor_obs)
        if self.critic_obs is None:
            return actor
        return {
            "state": (actor,),
            "privileged_state": (sum(sizes[g] for g in self.critic_obs),),
        }

    @property
    def action_size(self) -> int:
        return self.env.action_size

    @property
    def backend(self) -> str:
        return "dexjax"

    def _observe(self, obs: dict[str, jax.Array]) -> jax.Array | dict[str, jax.Array]:
        actor = jnp.concatenate([obs[g] for g in self.actor_obs], -1)
        if self.critic_obs is None:
            return actor
        critic = jnp.concatenate([obs[g] for g in self.critic_obs], -1)
        return {"state": actor, "privileged_state": critic}


def train_arguments(env: Env, eval_env: Env | None = None, **groups: Any) -> dict[str, Any]:
    """Arguments of brax's `train` functions that depend on the environments alone.

    eval_env: batch for brax's evaluator, made with `evaluation=True` so that its episodes start
    together; default: the training environments. groups: `actor_obs`, `critic_obs` of `BraxEnv`.
    """
    test = env if eval_env is None else eval_env
    return {
        "environment": BraxEnv(env, **groups),
        "eval_env": BraxEnv(test, **groups),
        "wrap_env": False,
        "num_envs": env.num_envs * jax.device_count(),
        "num_eval_envs": test.num_envs,
        "episode_length": env.episode_length,
    }


def _metrics(state: EnvState) -> dict[str, jax.Array]:
    results = {k: v for k, v in state.episode.items() if k not in _NOT_A_RESULT}
    return {f"reward/{k}": v for k, v in state.terms.items()} | {
        k: jnp.where(state.done, v, 0.0) for k, v in results.items()
    }


def _info(state: EnvState) -> dict[str, Any]:
    """What brax's EpisodeWrapper would add: its trainers and evaluator read these by name."""
    episode = {k: v for k, v in state.episode.items() if k not in _NOT_A_RESULT}
    return {
        "steps": state.episode["length"],
        "truncation": state.truncated.astype(jnp.float32),
        "episode_done": state.done.astype(jnp.float32),
        "episode_metrics": episode
        | {"sum_reward": state.episode["return"], "length": state.episode["length"]},
    }


def _plain_key(state: EnvState) -> EnvState:
    """brax passes states through functions that do not take typed keys."""
    return state.replace(key=jax.random.key_data(state.key))  # type: ignore[attr-defined]


def _typed_key(state: EnvState) -> EnvState:
    return state.replace(key=jax.random.wrap_key_data(state.key))  # type: ignore[attr-defined]
