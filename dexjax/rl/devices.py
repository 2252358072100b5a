"""The learner's programs for any number of devices, processes and seeds.

Environments are spread over a mesh of all devices, everything else is on each of them; XLA inserts
the communication. Several seeds are a leading axis of the whole training state (`vmap`).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dexjax.core.compilation import jit_with_large
from dexjax.core.errors import ConfigError
from dexjax.rl import ppo
from dexjax.rl.env import Env


def connect(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Join the processes of a distributed run; before anything else touches a device.

    None: found in the environment (SLURM, Open MPI, Kubernetes, TPU pods; JAX_COORDINATOR_ADDRESS).
    Raises ConfigError if that fails.
    """
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (ValueError, RuntimeError) as e:
        reason = str(e).splitlines()[0]
        raise ConfigError(
            f"--distributed: cannot join the other processes ({reason}); give --coordinator "
            "HOST:PORT, --num-processes N and --process-id I"
        ) from e


def is_first() -> bool:
    """Whether this process writes files and talks: one of all processes does."""
    return jax.process_index() == 0


def agree(*values: float) -> tuple[float, ...]:
    """The largest of each value over all processes: decisions that must be taken together."""
    if jax.process_count() == 1:
        return values
    gathered = multihost_utils.process_allgather(np.asarray(values, np.float64).view(np.uint32))
    return tuple(np.asarray(gathered).view(np.float64).max(0).tolist())


def device_mesh(env: Env, requested: int | None, num_seeds: int = 1) -> Mesh | None:
    """Mesh of the devices to use, None for a single one.

    requested: number of devices, None: all (an engine on the host: one). Raises ConfigError for
    an engine on the host on several devices, and for environments that cannot be divided.
    """
    processes, available = jax.process_count(), jax.device_count()
    count = available if requested is None else requested
    if not 1 <= count <= available or (processes > 1 and count != available):
        raise ConfigError(
            f"--devices {count}: must be 1 to {available}, and all in several processes"
        )
    if count == 1:
        return None
    if uses_host_callbacks(env):
        if requested is None and processes == 1:
            return None
        raise ConfigError(
            f"this engine simulates on the host and cannot be spread over {count} devices; "
            "use --engine mjx, or one process with --devices 1"
        )
    if env.num_envs % count:
        raise ConfigError(
            f"--num-envs {env.num_envs} cannot be divided among {count} devices; choose a multiple"
            " of it, or --devices"
        )
    return Mesh(np.asarray(jax.devices()[:count]), (ppo.ENV_AXIS,))


def uses_host_callbacks(env: Env) -> bool:
    """Whether the environment leaves XLA, as the `native` engine does. Traces `reset`."""
    return _has_callback(jax.make_jaxpr(env.reset)(jax.random.key(0)).jaxpr)


# What an inner `jit` closes over would stay in the program; see `jit_with_large`.
_init, _update = ppo.init.__wrapped__, ppo.update.__wrapped__


class Program:
    """`ppo.init` and `ppo.update` of one environment for `num_seeds` seeds on a mesh.

    With several seeds every array of the state and of the metrics has a leading axis for them; seed
    i is what a run with the seed `seed + i` alone does, up to rounding.
    """

    def __init__(
        self, env: Env, cfg: ppo.PPOConfig, seed: int, num_seeds: int = 1, mesh: Mesh | None = None
    ) -> None:
        self.env, self.cfg, self.seed, self.num_seeds, self.mesh = env, cfg, seed, num_seeds, mesh

    def init(self) -> ppo.TrainState:
        """The state that a run begins with."""
        with self._on_mesh():
            return self._jit_init()

    def update(
        self, state: ppo.TrainState, progress: float
    ) -> tuple[ppo.TrainState, dict[str, jax.Array]]:
        """One iteration of every seed; metrics are () or (num_seeds,)."""
        with self._on_mesh():
            return self._jit_update(state, np.float32(progress))

    def like(self) -> ppo.TrainState:
        """Shapes, types and places of the state's arrays."""
        if self.mesh is None:
            return self._shapes
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            self._shapes,
            self._shardings(),
        )

    @functools.cached_property
    def _shapes(self) -> ppo.TrainState:
        return jax.eval_shape(self._init)

    @functools.cached_property
    def _jit_init(self) -> Callable[..., Any]:
        place = self._replicated()
        return jit_with_large(self._init, place=place, out_shardings=self._shardings())

    @functools.cached_property
    def _jit_update(self) -> Callable[..., Any]:
        place = self._replicated()
        progress = jax.ShapeDtypeStruct((), np.float32)
        out = (self._shardings(), place)
        return jit_with_large(self._update, self._shapes, progress, place=place, out_shardings=out)

    def _init(self) -> ppo.TrainState:
        if self.num_seeds == 1:
            return _init(jax.random.key(self.seed), self.env, self.cfg)
        seeds = self.seed + jnp.arange(self.num_seeds)
        return jax.vmap(lambda s: _init(jax.random.key(s), self.env, self.cfg))(seeds)

    def _update(self, state: ppo.TrainState, progress: jax.Array) -> Any:
        def one(state: ppo.TrainState) -> Any:
            return _update(self.env, self.cfg, state, progress)

        return one(state) if self.num_seeds == 1 else jax.vmap(one)(state)

    def _shardings(self) -> Any:
        """Environment axes over the mesh, the rest on every device; None without a mesh."""
        if self.mesh is None:
            return None
        axis = int(self.num_seeds > 1)
        everywhere = self._replicated()
        spread = NamedSharding(self.mesh, PartitionSpec(*[None] * axis, ppo.ENV_AXIS))

        def place(x: jax.ShapeDtypeStruct) -> NamedSharding | None:
            per_env = x.ndim > axis and x.shape[axis] == self.env.num_envs
            return spread if per_env else everywhere

        state = jax.tree.map(lambda _: everywhere, self._shapes)
        return state.replace(env_state=jax.tree.map(place, self._shapes.env_state))

    def _replicated(self) -> NamedSharding | None:
        return None if self.mesh is None else NamedSharding(self.mesh, PartitionSpec())

    def _on_mesh(self) -> Any:
        return jax.set_mesh(self.mesh) if self.mesh is not None else contextlib.nullcontext()


def _has_callback(jaxpr: Any) -> bool:
    """Whether a jaxpr or one inside it calls the host."""
    for equation in jaxpr.eqns:
        if "callback" in equation.primitive.name:
            return True
        for value in jax.tree.leaves(tuple(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(value) and _has_callback(getattr(value, "jaxpr", value)):
                return True
    return False


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns")
