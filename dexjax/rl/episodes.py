"""Whole episodes of an agent, one in each environment: what evaluations are made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dexjax.core.errors import ConfigError, DataError
from dexjax.rl import ppo
from dexjax.rl.env import Env, EnvState
from dexjax.rl.trained import Policy

_ENVS_PER_BATCH = 512
OUTCOME_NUMBERS = ("return", "length", "object_id")  # of an episode; all else is an outcome, 0 or 1


@dataclass(frozen=True)
class Agent:
    """Something that acts: act(params, state, key) -> (B, A)."""

    name: str
    act: Callable[[Any, EnvState, jax.Array], jax.Array]
    params: Any = None
    other_seeds: tuple[Any, ...] = ()  # further params, of a run with several seeds


def simple_agent(name: str, env: Env) -> Agent:
    """The agent `zero`, `random` or `scripted`. ConfigError if the environment has no script."""

    # Of a residual task, what the agent does replaces the base policy too.
    whole = getattr(env, "learned_action", lambda state, wanted: wanted)

    def zero(_: Any, state: EnvState, key: jax.Array) -> jax.Array:
        return whole(state, jnp.zeros((env.num_envs, env.action_size)))

    def random(_: Any, state: EnvState, key: jax.Array) -> jax.Array:
        shape = (env.num_envs, env.action_size)
        return whole(state, jax.random.uniform(key, shape, minval=-1, maxval=1))

    def scripted(_: Any, state: EnvState, key: jax.Array) -> jax.Array:
        return whole(state, env.scripted_action(state))

    if name == "scripted" and not hasattr(env, "scripted_action"):
        raise ConfigError("--agent scripted: this environment has no scripted policy; use zero")
    return Agent(name, {"zero": zero, "random": random, "scripted": scripted}[name])


def policy_agent(policy: Policy) -> Agent:
    """The mean action of a trained policy."""

    def act(params: Any, state: EnvState, key: jax.Array) -> jax.Array:
        return ppo.policy_mean(policy.cfg, params["params"], params["normalizer"], state.obs)

    return Agent("policy", act, {"params": policy.params, "normalizer": policy.normalizer})


def check_fits(policy: Policy, env: Env) -> None:
    """Raise DataError if the policy was trained for another hand or other observations."""
    here = {
        "hand": getattr(env, "hand", None),
        "observation_sizes": dict(env.observation_sizes),
        "action_size": env.action_size,
    }
    for field, value in here.items():
        if policy.metadata["env"].get(field) != value:
            raise DataError(
                f"checkpoint {policy.checkpoint}: env.{field} is "
                f"{policy.metadata['env'].get(field)!r}, but the environment now has {value!r}; "
                "evaluate it with the version of dexjax that trained it"
            )


def batch_size(episodes: int) -> int:
    """Environments simulated together: `episodes` in equal batches of at most 512."""
    return math.ceil(episodes / math.ceil(episodes / _ENVS_PER_BATCH))


def plan(num_objects: int, num_envs: int, episodes: int) -> np.ndarray:
    """Object ids (batches, num_envs): at least `episodes` and one per object, evenly spread."""
    batches = math.ceil(max(episodes, num_objects) / num_envs)
    return (np.arange(batches * num_envs) % num_objects).reshape(batches, num_envs)


def run_episodes(
    env: Env, agent: Agent, key: jax.Array, object_id: jax.Array | None
) -> tuple[dict[str, jax.Array], Any]:
    """One episode in each environment: its results (B,) and what was recorded, each (T, B, ...).

    Row t of the recording is the state in which action t was chosen, and the reward terms of that
    action. None for an environment without a `scene`.
    """
    key_reset, key_act = jax.random.split(key)
    state = env.reset(key_reset) if object_id is None else env.reset(key_reset, object_id)  # type: ignore[call-arg]
    over = jnp.zeros(env.num_envs, bool)

    def step(carry: tuple[EnvState, Any, jax.Array], key: jax.Array) -> tuple[Any, Any]:
        state, results, over = carry
        after = env.step(state, agent.act(agent.params, state, key))
        ends = after.done & ~over
        results = jax.tree.map(lambda new, old: jnp.where(ends, new, old), after.episode, results)
        return (after, results, over | ends), _record(env, state, after)

    keys = jax.random.split(key_act, env.episode_length)
    (_, results, _), recorded = jax.lax.scan(step, (state, state.episode, over), keys)
    return results, recorded


def _record(env: Env, state: EnvState, after: EnvState) -> Any:
    if not hasattr(env, "scene"):
        return None
    sim = state.sim
    goal = {"goal": env.goal(state)} if hasattr(env, "goal") else {}
    forces = {"finger_force": sim.finger_force, "table_force": sim.table_force}
    success = {k: v for k, v in after.episode.items() if k.startswith("success_")}
    return {"qpos": sim.qpos, "terms": after.terms, "success": success, **forces, **goal}
