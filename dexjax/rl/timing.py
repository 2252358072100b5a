"""Where the time of an update goes: estimates from small programs beside the training program.

Nothing can be timed inside one compiled program without slowing it down, so the policy (and, where
the engine cannot count its own seconds, the learning step) is timed alone on arrays of that size.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dexjax.rl import ppo
from dexjax.rl.env import Env


def inference_seconds(env: Env, cfg: ppo.PPOConfig, num_envs: int) -> float:
    """Seconds for the actions of one rollout of `num_envs` environments on one device."""
    params, normalizer = _ones(env, cfg)
    obs = {g: np.ones((num_envs, n), np.float32) for g, n in env.observation_sizes.items()}
    return _seconds(lambda: _act(cfg, params, normalizer, obs))


def learning_seconds(env: Env, cfg: ppo.PPOConfig, num_envs: int) -> float:
    """Seconds for one update's gradient steps on a rollout of `num_envs` on one device."""
    params, _ = _ones(env, cfg)
    shape, sizes = (cfg.rollout_length, num_envs), env.observation_sizes
    ones: Any = functools.partial(np.ones, dtype=np.float32)
    batch = ppo.Batch(
        actor_obs=ones((*shape, sum(sizes[g] for g in cfg.actor_obs))),
        critic_obs=ones((*shape, sum(sizes[g] for g in cfg.critic_obs))),
        action=ones((*shape, env.action_size)),
        mean=ones((*shape, env.action_size)),
        **{k: ones(shape) for k in ("log_prob", "value", "advantage", "target", "weight")},
    )
    return _seconds(lambda: _learn(cfg, params, batch))


@functools.partial(jax.jit, static_argnums=0)
def _act(cfg: ppo.PPOConfig, params: Any, normalizer: Any, obs: dict[str, jax.Array]) -> Any:
    def step(obs: dict[str, jax.Array], _: None) -> Any:
        mean = ppo.policy_mean(cfg, params, normalizer, obs)
        # The next step depends on this one, so that none can be left out.
        return {k: v + 1e-6 * mean.mean() for k, v in obs.items()}, None

    return jax.lax.scan(step, obs, length=cfg.rollout_length)


@functools.partial(jax.jit, static_argnums=0)
def _learn(cfg: ppo.PPOConfig, params: Any, batch: ppo.Batch) -> Any:
    state: Any = SimpleNamespace(
        params=params,
        opt_state=ppo._optimizer(cfg).init(params),
        learning_rate=jnp.float32(cfg.learning_rate),
    )
    return ppo._learn(cfg, state, batch, jax.random.key(0), jnp.float32(0))


def _ones(env: Env, cfg: ppo.PPOConfig) -> Any:
    """Parameters and normaliser of the right shapes."""
    shapes = jax.eval_shape(
        lambda: ppo.init_policy(jax.random.key(0), env.observation_sizes, env.action_size, cfg)
    )
    return jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes)


def _seconds(call: Callable[[], Any]) -> float:
    """The faster of two calls after one that compiles."""
    jax.block_until_ready(call())
    took = []
    for _ in range(2):
        began = time.perf_counter()
        jax.block_until_ready(call())
        took.append(time.perf_counter() - began)
    return min(took)
