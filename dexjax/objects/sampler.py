"""Which object the next episode gets: pure samplers, injected into environments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct

from dexjax.core.errors import ConfigError


class ObjectSampler(Protocol):
    """Draws rows of an `ObjectBank`. State is a pytree; all functions work inside `jit`."""

    def init(self) -> Any:
        """The state before any episode."""
        ...

    def sample(self, state: Any, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Object ids of the given shape, int32."""
        ...

    def update(self, state: Any, ids: jax.Array, success: jax.Array, mask: jax.Array) -> Any:
        """The state after the episodes in `mask` (bool) ended with `success` (0 or 1).

        ids, success and mask have one shape, any number of axes.
        """
        ...


@dataclass(frozen=True)
class UniformSampler:
    """Every object equally often."""

    num_objects: int

    def __post_init__(self) -> None:
        _check_count(self.num_objects)

    def init(self) -> tuple[()]:
        return ()

    def sample(self, state: tuple[()], key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jax.random.randint(key, shape, 0, self.num_objects, jnp.int32)

    def update(
        self, state: tuple[()], ids: jax.Array, success: jax.Array, mask: jax.Array
    ) -> tuple[()]:
        return state


@dataclass(frozen=True)
class FailureWeightedSampler:
    """Objects in proportion to their recent failure rate, never less than `floor` of uniform.

    P(i) = floor / N + (1 - floor) f_i / sum f, f_i = 1 - moving average of success; it starts
    at 0 for all, so the first draws are uniform.
    """

    num_objects: int
    floor: float = 0.2
    memory: float = 50.0  # episodes of one object after which its past counts 1/e

    def __post_init__(self) -> None:
        _check_count(self.num_objects)
        if not 0 <= self.floor <= 1 or self.memory <= 0:
            raise ConfigError(f"floor {self.floor} must be 0 .. 1 and memory {self.memory} > 0")

    def init(self) -> jax.Array:
        return jnp.zeros(self.num_objects, jnp.float32)  # (N,) success rate

    def probabilities(self, state: jax.Array) -> jax.Array:
        """(N,) the distribution that `sample` draws from."""
        failure = 1.0 - state + 1e-6  # all solved: uniform, not 0 / 0
        return self.floor / self.num_objects + (1 - self.floor) * failure / failure.sum()

    def sample(self, state: jax.Array, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        # Inverse of the cumulated distribution: O(draws log N), where categorical's Gumbel
        # noise is O(draws N).
        cumulated = jnp.cumsum(self.probabilities(state))
        draw = jax.random.uniform(key, shape) * cumulated[-1]
        ids = jnp.searchsorted(cumulated, draw, side="right")
        return jnp.minimum(ids, self.num_objects - 1).astype(jnp.int32)

    def update(
        self, state: jax.Array, ids: jax.Array, success: jax.Array, mask: jax.Array
    ) -> jax.Array:
        count, mean = _per_object(self.num_objects, ids, success, mask)
        return state + (1.0 - jnp.exp(-count / self.memory)) * (mean - state)


@struct.dataclass
class CurriculumState:
    """How many objects of the order are open, and the success among them."""

    open_count: jax.Array  # () int32
    success: jax.Array  # () moving average since the set last grew
    episodes: jax.Array  # () since the set last grew


@dataclass(frozen=True)
class CurriculumSampler:
    """Uniform over a growing prefix of `order`: opens `grow` more when success passes `threshold`.

    After each growth at least `min_episodes` episodes per open object must end before the next.
    """

    order: tuple[int, ...]  # object ids, first to be learned first
    start: int = 1
    grow: int = 1
    threshold: float = 0.7
    min_episodes: float = 4.0  # per open object

    def __post_init__(self) -> None:
        _check_count(len(self.order))
        if len(set(self.order)) != len(self.order) or min(self.order) < 0:
            raise ConfigError("curriculum order must hold different object ids, none negative")
        if not 1 <= self.start <= len(self.order) or self.grow < 1:
            raise ConfigError(
                f"curriculum start {self.start} must be 1 .. {len(self.order)}, "
                f"grow {self.grow} at least 1"
            )

    def init(self) -> CurriculumState:
        return CurriculumState(
            open_count=jnp.int32(self.start), success=jnp.float32(0), episodes=jnp.float32(0)
        )

    def sample(self, state: CurriculumState, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        place = jax.random.randint(key, shape, 0, state.open_count, jnp.int32)
        return jnp.asarray(self.order, jnp.int32)[place]

    def update(
        self, state: CurriculumState, ids: jax.Array, success: jax.Array, mask: jax.Array
    ) -> CurriculumState:
        ended = mask.astype(jnp.float32).sum()
        successes = jnp.where(mask, success, 0.0).astype(jnp.float32).sum()
        needed = self.min_episodes * state.open_count.astype(jnp.float32)
        episodes = state.episodes + ended
        # A plain mean at first, then a moving average over about `needed` episodes.
        rate = jnp.where(ended > 0, ended / jnp.maximum(jnp.minimum(episodes, needed), ended), 0.0)
        mean = successes / jnp.maximum(ended, 1.0)
        rated = state.success + rate * (mean - state.success)
        passed = (rated >= self.threshold) & (episodes >= needed)
        return CurriculumState(
            open_count=jnp.where(
                passed, jnp.minimum(state.open_count + self.grow, len(self.order)), state.open_count
            ).astype(jnp.int32),
            success=jnp.where(passed, 0.0, rated),
            episodes=jnp.where(passed, 0.0, episodes),
        )


def _per_object(
    num_objects: int, ids: jax.Array, success: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(N,) number of masked episodes and their mean success (0 where there is none)."""
    ids, mask = ids.reshape(-1), mask.reshape(-1)
    won = jnp.where(mask, success.reshape(-1), 0.0).astype(jnp.float32)
    count = jnp.zeros(num_objects, jnp.float32).at[ids].add(mask.astype(jnp.float32))
    total = jnp.zeros(num_objects, jnp.float32).at[ids].add(won)
    return count, total / jnp.maximum(count, 1.0)


def _check_count(count: int) -> None:
    if count < 1:
        raise ConfigError("an object sampler needs at least one object")
