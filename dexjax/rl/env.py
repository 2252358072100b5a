"""The environment contract of the learners: batched, functional, resetting itself."""

from __future__ import annotations

from typing import Any, Protocol

import jax
from flax import struct


@struct.dataclass
class EnvState:
    """State of B environments, carried whole into checkpoints."""

    obs: dict[str, jax.Array]  # group -> (B, n): what the next action is chosen from
    final_obs: dict[str, jax.Array]  # the same before an automatic reset; equals obs where not done
    reward: jax.Array  # (B,)
    done: jax.Array  # (B,) bool: the episode ended with this step, for any reason
    truncated: jax.Array  # (B,) bool: it ended by the time limit only (subset of done): bootstrap
    terms: dict[str, jax.Array]  # reward term -> (B,), weighted, summing to reward
    metrics: dict[str, jax.Array]  # diagnostic -> (B,), of this step
    episode: dict[str, jax.Array]  # (B,) of the episode so far, valid as a result where done:
    # float 0/1 "success_any", "success_end", "success_held", "lifted", "dropped", ...;
    # "return", "length", "object_id"
    task: Any  # private to the environment
    sim: Any  # SimState of the engine
    key: jax.Array


class Env(Protocol):
    """B environments stepped together; pure, callable inside `jit` and `lax.scan`."""

    num_envs: int
    action_size: int
    observation_sizes: dict[str, int]
    episode_length: int

    def reset(self, key: jax.Array) -> EnvState:
        """Fresh episodes in all environments."""
        ...

    def step(self, state: EnvState, action: jax.Array) -> EnvState:
        """One control step, action (B, A) nominally in [-1, 1]; what ends is reset in the call.

        `metrics["finite"]` (optional, 0 or 1) marks environments whose simulation diverged.
        """
        ...
