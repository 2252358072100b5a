"""Any dexjax environment as a `gymnasium.vector.VectorEnv`, with NumPy, JAX or torch arrays.

    envs = gymnasium.make_vec(
        "dexjax.interop.gymnasium:dexjax/shadow_grasp-v0", num_envs=256, preset="quick"
    )

Importing this module registers every environment of the entry-point group `dexjax.envs`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dexjax.core.errors import ConfigError, MissingExtraError, unknown_name
from dexjax.rl.env import Env, EnvState
from dexjax.rl.registry import find_env, find_preset

try:
    import gymnasium
    from gymnasium.vector import AutoresetMode, VectorEnv
    from gymnasium.vector.utils import batch_space
except ImportError as e:
    raise MissingExtraError("gymnasium is not installed: pip install 'dexjax[gym]'") from e

_RESULT_TYPES = ("numpy", "jax", "torch")


class GymnasiumEnv(VectorEnv):
    """All environments of `env`, stepped by one compiled call.

    Observations are the groups `obs` joined, (B, n); actions (B, A) in [-1, 1], in any of the array
    types. Ended episodes start afresh in the same step (`AutoresetMode.SAME_STEP`):
    `infos["final_obs"]` (B, n) is the observation before that, valid where `infos["_final_obs"]`,
    and `infos["final_info"]["episode"]` holds return, length and results (`success_end`, ...).

    output: `numpy` (arrays that may be written to), `jax`, or `torch` (DLPack: no copy, on a GPU no
    way through the host; as JAX arrays never change, nor must these tensors).
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}

    def __init__(
        self, env: Env, *, output: str = "numpy", obs: Sequence[str] = ("policy",), seed: int = 0
    ) -> None:
        if output not in _RESULT_TYPES:
            raise unknown_name("output", output, _RESULT_TYPES)
        missing = [g for g in obs if g not in env.observation_sizes]
        if missing:
            known = ", ".join(env.observation_sizes)
            raise ConfigError(f"observation group {missing[0]!r}: the environment has {known}")
        self.env, self.output = env, output
        self.num_envs = env.num_envs
        size = sum(env.observation_sizes[g] for g in obs)
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (env.action_size,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        # Gymnasium's own wrappers look here to convert.
        self.metadata = self.metadata | {"jax": output == "jax", "torch": output == "torch"}

        def join(groups: dict[str, jax.Array]) -> jax.Array:
            return jnp.concatenate([groups[g] for g in obs], -1)

        def reset(seed: jax.Array) -> tuple[EnvState, jax.Array]:
            state = env.reset(jax.random.key(seed))
            return state, join(state.obs)

        def step(state: EnvState, action: jax.Array) -> tuple[EnvState, dict[str, Any]]:
            new = env.step(state, action)
            return new, {
                "obs": join(new.obs),
                "final_obs": join(new.final_obs),
                "reward": new.reward,
                "terminated": new.done & ~new.truncated,
                "truncated": new.truncated,
                "done": new.done,
                "episode": new.episode,
            }

        self._reset, self._step = jax.jit(reset), jax.jit(step)
        self._seed, self._state = seed, None
        self._convert = _converter(output)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Fresh episodes in all environments; without a seed, others than before."""
        if options and "reset_mask" in options:
            raise ConfigError("reset_mask: environments reset themselves; reset() resets all")
        super().reset(seed=seed)
        if seed is None and self._state is None:
            super().reset(seed=self._seed)
        drawn = self.np_random.integers(2**31)
        self._state, obs = self._reset(np.uint32(drawn))
        return self._convert(obs), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One control step of all environments. Raises ConfigError before the first reset."""
        if self._state is None:
            raise ConfigError("step before reset: call reset() first")
        self._state, out = self._step(self._state, _to_jax(actions))
        converted = {k: self._convert(v) for k, v in out.items() if k != "episode"}
        infos: dict[str, Any] = {}
        done = np.asarray(out["done"])
        if done.any():
            mask = converted["done"]
            results = {k: self._convert(v) for k, v in out["episode"].items()}
            results |= {"r": results["return"], "l": results["length"]}  # gymnasium's names
            infos = {
                "final_obs": converted["final_obs"],
                "_final_obs": mask,
                "final_info": {"episode": results, "_episode": self._convert(out["done"])},
                "_final_info": self._convert(out["done"]),
            }
        names = ("obs", "reward", "terminated", "truncated")
        obs, reward, terminated, truncated = (converted[k] for k in names)
        return obs, reward, terminated, truncated, infos


def make(
    name: str,
    *,
    num_envs: int,
    preset: str | None = None,
    output: str = "numpy",
    obs: Sequence[str] = ("policy",),
    engine: str | None = None,
    objects: str | None = None,
    seed: int = 0,
) -> GymnasiumEnv:
    """An environment of the group `dexjax.envs` by name; defaults are those of its preset."""
    spec = find_env(name)
    chosen = find_preset(spec, preset or next(iter(spec.presets)))
    env = spec.make(
        chosen.env,
        num_envs=num_envs,
        engine=engine or chosen.train.engine,
        objects=objects or chosen.train.objects,
        seed=seed,
    )
    return GymnasiumEnv(env, output=output, obs=obs, seed=seed)


def _converter(output: str) -> Callable[[jax.Array], Any]:
    if output == "jax":
        return lambda x: x
    if output == "numpy":
        return np.array  # a copy: callers write into what they were given
    try:
        import torch
    except ImportError as e:
        raise MissingExtraError("output 'torch' needs PyTorch: pip install torch") from e
    return torch.from_dlpack


def _to_jax(x: Any) -> jax.Array:
    """Actions of any array type; tensors by DLPack, without a copy."""
    if hasattr(x, "detach"):
        x = x.detach().contiguous()
    if hasattr(x, "__dlpack__") and not isinstance(x, jax.Array | np.ndarray):
        x = jax.dlpack.from_dlpack(x)
    # JAX may read NumPy memory after this call has returned.
    return jnp.asarray(np.array(x, np.float32) if isinstance(x, np.ndarray) else x, jnp.float32)


def _register() -> None:
    for point in importlib.metadata.entry_points(group="dexjax.envs"):
        name = f"dexjax/{point.name}-v0"
        if name not in gymnasium.registry:
            gymnasium.register(
                name, vector_entry_point=f"{__name__}:make", kwargs={"name": point.name}
            )


_register()
