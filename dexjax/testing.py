"""Checks for environments and engines of other packages: do they keep the contract?

Each raises AssertionError with what is wrong; call them from a test.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dexjax.rl.env import Env, EnvState
from dexjax.sim.types import Control, Engine, SimState

_RESULTS = ("success_any", "success_end", "return", "length")


def check_env(env: Env, *, steps: int | None = None, seed: int = 0) -> None:
    """Create, reset and step an environment with random actions and check `dexjax.rl.env.Env`.

    Shapes, types, finite numbers; terms that sum to the reward; done, truncated, final_obs and
    episode statistics; equal keys give equal bits; huge actions are clipped; works in `lax.scan`.
    steps: control steps to run (default: one more than an episode).
    """
    num, steps = env.num_envs, env.episode_length + 1 if steps is None else steps
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    key = jax.random.key(seed)
    state = reset(key)
    _check_state(env, state)
    _require(not bool(state.done.any()), "no environment may be done right after reset")
    _require(_same(state, reset(key)), "reset with the same key gives different states")
    other = reset(jax.random.key(seed + 1))
    _require(not _same(state.obs, other.obs), "reset ignores its key: two keys, same observations")

    first, ended = state, np.zeros(num, bool)
    layout = _layout(state)
    for k in range(steps):
        action = jax.random.uniform(
            jax.random.fold_in(key, k), (num, env.action_size), minval=-1.0, maxval=1.0
        )
        last, state = state, step(state, action)
        found = _layout(state)
        _require(found == layout, f"step changes structure, shape or type: {layout} -> {found}")
        _check_state(env, state)
        _check_transition(env, last, state)
        ended |= np.asarray(state.done)
    if steps >= env.episode_length:
        _require(bool(ended.all()), "an environment did not end within `episode_length` steps")

    action = jnp.full((num, env.action_size), 0.5).at[:, ::2].set(-1.0)
    _require(_same(step(first, action), step(first, action)), "step is not deterministic")
    # Not at 1: a residual may have to outweigh the base action that it is added to.
    far, farther = step(first, 1e3 * action), step(first, 1e6 * action)
    _require(_same(far, farther), "actions are not clipped: larger ones do ever more")
    rolled, _ = jax.jit(
        lambda s: jax.lax.scan(lambda c, _: (env.step(c, action), None), s, length=3)
    )(first)
    _check_state(env, rolled)


def _check_state(env: Env, state: EnvState) -> None:
    """Shapes, types and finite numbers of one state."""
    num = env.num_envs
    for name in ("obs", "final_obs"):
        groups = getattr(state, name)
        sizes = {g: x.shape for g, x in groups.items()}
        expected = {g: (num, n) for g, n in env.observation_sizes.items()}
        _require(sizes == expected, f"{name} has shapes {sizes}, observation_sizes say {expected}")
        for group, x in groups.items():
            _require(x.dtype == jnp.float32, f"{name}[{group!r}] is {x.dtype}, not float32")
            _finite(x, f"{name}[{group!r}]")
    for name, dtype in (("reward", jnp.float32), ("done", jnp.bool_), ("truncated", jnp.bool_)):
        x = getattr(state, name)
        _require(x.shape == (num,), f"{name} has shape {x.shape}, not ({num},)")
        _require(x.dtype == dtype, f"{name} is {x.dtype}, not {jnp.dtype(dtype)}")
        _finite(x, name)
    for name in ("terms", "metrics", "episode"):
        for key, x in getattr(state, name).items():
            _require(x.shape == (num,), f"{name}[{key!r}] has shape {x.shape}, not ({num},)")
            _finite(x, f"{name}[{key!r}]")
    missing = [k for k in _RESULTS if k not in state.episode]
    _require(not missing, f"episode statistics lack {', '.join(missing)}")
    for key, x in state.episode.items():
        if key.startswith("success"):
            _require(bool(((x == 0) | (x == 1)).all()), f"episode[{key!r}] must be 0 or 1")


def _check_transition(env: Env, last: EnvState, state: EnvState) -> None:
    """What one step must have done."""
    done, truncated = np.asarray(state.done), np.asarray(state.truncated)
    _require(not (truncated & ~done).any(), "truncated without done")
    total = sum(np.asarray(x, np.float64) for x in state.terms.values())
    _require(
        bool(np.allclose(total, state.reward, rtol=1e-4, atol=1e-5)),
        "reward terms do not sum to the reward",
    )
    same = np.ones(env.num_envs, bool)
    for group, x in state.obs.items():
        same &= (np.asarray(x) == np.asarray(state.final_obs[group])).all(1)
    _require(bool(same[~done].all()), "final_obs differs from obs where the episode goes on")
    _require(not same[done].any(), "obs equals final_obs where the episode ended: no reset?")
    begun = ~np.asarray(last.done)
    length = np.asarray(state.episode["length"])
    _require(bool((length[~begun] == 1).all()), "episode length does not restart after done")
    _require(bool((length <= env.episode_length).all()), "an episode outlasts episode_length")
    before = np.where(begun, last.episode["return"], 0.0)
    _require(
        bool(np.allclose(state.episode["return"], before + state.reward, rtol=1e-4, atol=1e-4)),
        "episode return is not the sum of its rewards",
    )


def check_engine(
    engine: Engine,
    object_id: jax.Array,
    qpos: jax.Array,
    qvel: jax.Array,
    control: Control,
    *,
    steps: int = 5,
) -> None:
    """Step an engine from the given start, (B, ...), and check `dexjax.sim.types.Engine`.

    Shapes and finite numbers; purity: equal input gives equal bits whatever was called in between;
    one environment's control, reset or NaN does not touch another; nothing is compiled twice.
    """
    num = engine.num_envs
    _require(num >= 2, "checking that environments are independent needs at least 2 of them")
    step, reset = jax.jit(engine.step), jax.jit(engine.reset_where)
    params = jnp.ones((num, 2), jnp.float32)
    start = jax.jit(engine.init)(object_id, qpos, qvel, params)
    _check_sim(engine, start)
    _require(_same(start.qpos, jnp.asarray(qpos, jnp.float32)), "init changes the positions")

    layout, state = _layout(start), start
    for _ in range(steps):
        state = step(state, control)
        _require(_layout(state) == layout, "step changes structure, shape or type of SimState")
        _check_sim(engine, state)
    again = start
    for _ in range(steps):
        step(state, control)  # another state in between must leave no trace
        again = step(again, control)
    _require(_same(again, state), "step is not a function of its input alone")

    first = jnp.arange(num) == 0
    moved = replace(control, ctrl=control.ctrl.at[0].add(0.1))
    _require(
        _same(_rows(step(start, moved), ~first), _rows(step(start, control), ~first)),
        "one environment's control changes another environment",
    )
    back = reset(state, first, object_id, qpos, qvel, params)
    _require(_same(_rows(back, first), _rows(start, first)), "reset_where is not init in the mask")
    _require(_same(_rows(back, ~first), _rows(state, ~first)), "reset_where touches others")
    none = reset(state, jnp.zeros(num, bool), object_id, qpos, qvel, params)
    _require(_same(none, state), "reset_where with an empty mask changes the state")

    broken = step(state.replace(qvel=state.qvel.at[0].set(jnp.nan)), control)
    _require(not bool(broken.finite[0]), "a NaN velocity is not flagged in `finite`")
    _require(bool(broken.finite[1:].all()), "one NaN makes other environments not finite")
    for name in SimState.__dataclass_fields__:
        _finite(getattr(broken, name), f"{name} after a divergence")
    sound = step(state, control)
    _require(_same(_rows(broken, ~first), _rows(sound, ~first)), "a NaN changes another one")
    repaired = reset(broken, first, object_id, qpos, qvel, params)
    _require(bool(repaired.finite.all()), "reset_where does not clear `finite`")
    sizes = tuple(f._cache_size() for f in (step, reset))  # type: ignore[attr-defined]
    _require(sizes == (1, 1), f"step and reset_where were compiled {sizes} times, not once")


def _check_sim(engine: Engine, state: SimState) -> None:
    for name in SimState.__dataclass_fields__:
        x = getattr(state, name)
        _require(x.shape[0] == engine.num_envs, f"{name} has shape {x.shape}")
        _require(x.dtype != jnp.float64, f"{name} is float64")
        _finite(x, name)
    _require(bool(state.finite.all()), "the given start diverges")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _finite(x: jax.Array, name: str) -> None:
    bad = ~np.isfinite(np.asarray(x))
    _require(not bad.any(), f"{name} has {bad.sum()} entries that are not finite")


def _rows(tree: Any, mask: jax.Array) -> Any:
    keep = np.flatnonzero(mask)
    return jax.tree.map(lambda x: x[keep], tree)


def _plain(x: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)


def _same(a: Any, b: Any) -> bool:
    """Bitwise equality of two pytrees."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(_plain(x), _plain(y)) for x, y in pairs)


def _layout(tree: Any) -> tuple[Any, tuple[Any, ...]]:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((x.shape, x.dtype) for x in leaves)
