"""PhysX as an engine of environments: policies run in closed loop on what Isaac Gym simulates with.

For evaluation: one thread, one PhysX scene per environment, far slower than the engines that train.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from dexjax.core.errors import ConfigError
from dexjax.parity.physx import PhysxConfig, World
from dexjax.sim.native import NativeEngine
from dexjax.sim.physics import PhysicsConfig, whole_steps
from dexjax.sim.scene import Scene

# Each takes one of the 1,024 thread keys of a process.
_MOST_SCENES = 900


class PhysxEngine(NativeEngine):
    """`num_envs` simulations in PhysX (SAPIEN); see `dexjax.sim.types.Engine`.

    Kinematics, initial states and bookkeeping are those of `native`. A scene goes on from the state
    in which it was left; any other state starts a new scene, without what PhysX remembers of its
    contacts. So a step is a function of its input up to that memory. Contact forces are the normal
    parts alone: SAPIEN reports no friction.
    """

    def __init__(
        self,
        scene: Scene,
        num_envs: int,
        physics: PhysicsConfig,
        config: PhysxConfig | None = None,
    ) -> None:
        """physics: only its control period counts. Raises ConfigError where that is no multiple of
        PhysX's step, for too many environments, or without SAPIEN."""
        if num_envs > _MOST_SCENES:
            raise ConfigError(
                f"{num_envs} environments: a process can have about {_MOST_SCENES} PhysX scenes"
            )
        super().__init__(scene, num_envs, physics, threads=1)
        config = config or PhysxConfig()
        steps = whole_steps(physics.control_dt, config.timestep, "PhysX steps")
        self.config = replace(config, substeps=steps)
        self._worlds: list[tuple[tuple[float, ...], World] | None] = [None] * num_envs
        size = scene.model.nq + scene.model.nv
        self._left = np.full((num_envs, size), np.nan, np.float32)

    def _host_forward(
        self,
        mask: np.ndarray,
        object_id: np.ndarray,
        params: np.ndarray,
        qpos: np.ndarray,
        qvel: np.ndarray,
    ) -> tuple[np.ndarray, ...]:
        for i in map(int, np.flatnonzero(mask)):
            self._worlds[i] = None  # a process can have few, and this one has ended
        return super()._host_forward(mask, object_id, params, qpos, qvel)

    def _host_step(
        self,
        object_id: np.ndarray,
        params: np.ndarray,
        qpos: np.ndarray,
        qvel: np.ndarray,
        warmstart: np.ndarray,
        ctrl: np.ndarray,
        wrench: np.ndarray,
    ) -> tuple[np.ndarray, ...]:
        qpos, qvel, ctrl, wrench = (np.asarray(x) for x in (qpos, qvel, ctrl, wrench))
        object_id, params = np.asarray(object_id), np.asarray(params)
        count = self.num_envs
        fingers = len(self.scene.hand.finger_names)
        finger, tip = np.zeros((count, fingers, 3)), np.zeros((count, fingers, 6))
        table, drive = np.zeros(count), np.zeros((count, self.model.nv))
        alive = np.isfinite(np.concatenate([qpos, qvel, ctrl, wrench], 1)).all(1)
        with self._lock:
            began = time.perf_counter()
            self._qpos[:], self._qvel[:], self._warmstart[:] = qpos, qvel, 0
            for i in map(int, np.flatnonzero(alive)):
                world = self._world(i, int(object_id[i]), params[i], qpos[i], qvel[i])
                world.step(ctrl[i], wrench[i])
                row = world.record()
                self._qpos[i], self._qvel[i] = row["qpos"], row["qvel"]
                finger[i], table[i] = row["finger_force"], row["table_force"]
                tip[i] = world.tip_wrenches()
                drive[i] = world.drive_forces(row["qpos"], row["qvel"])
                alive[i] = row["finite"]
            out = self._outcome(alive, object_id, qpos, qvel, ctrl)
            self._left[:] = np.concatenate(out[:2], 1)
            self._left[~alive] = np.nan
            forces = (finger, tip, table, drive[:, self.scene.finger_qvel])
            for given, found in zip(out[7:11], forces, strict=True):  # theirs instead of MuJoCo's
                given[alive] = found[alive]
            self.seconds += time.perf_counter() - began
            return out

    def _world(
        self, i: int, object_id: int, params: np.ndarray, qpos: np.ndarray, qvel: np.ndarray
    ) -> World:
        """The scene of environment i in the given state."""
        holds = (object_id, *map(float, params))
        known = self._worlds[i]
        if known and known[0] == holds and (self._left[i] == np.concatenate([qpos, qvel])).all():
            return known[1]
        self._worlds[i] = known = None  # frees the old scene first
        world = World(self.scene, self.config, object_id, params, self.model.opt.gravity)
        world.set_state(qpos, qvel)
        self._worlds[i] = (holds, world)
        return world
