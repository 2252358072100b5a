"""PhysX as an engine of environments: policies run in closed loop on what Isaac Gym simulates with.

For evaluation: one thread, one PhysX scene per environment, far slower than the engines that train.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from dexjax.core.errors import ConfigError
from dexjax.parity.physx import PhysxConfig, World
from dexjax.sim.divergence import MAX_POSITION, MAX_SPEED
from dexjax.sim.native import NativeEngine
from dexjax.sim.physics import PhysicsConfig
from dexjax.sim.scene import OBJECT_BODY, Scene

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
        steps = physics.control_dt / config.timestep
        if abs(steps - round(steps)) > 1e-6 or steps < 0.5:
            raise ConfigError(
                f"physics: a control period of {physics.control_dt:g} s does not consist of PhysX "
                f"steps of {config.timestep:g} s"
            )
        self.config = replace(config, substeps=round(steps))
        self._worlds: list[tuple[tuple[float, ...], World] | None] = [None] * num_envs
        model = scene.model
        self._left = np.full((num_envs, model.nq + model.nv), np.nan, np.float32)

    def _host_forward(
        self,
        mask: np.ndarray,
        object_id: np.ndarray,
        params: np.ndarray,
        qpos: np.ndarray,
        qvel: np.ndarray,
    ) -> tuple[np.ndarray, ...]:
        for i in map(int, np.flatnonzero(mask)):
            self._worlds[i] = None  # a scene takes megabytes, and this one has ended
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
                tip[i], drive[i] = (
                    world.tip_wrenches(),
                    world.drive_forces(row["qpos"], row["qvel"]),
                )
                alive[i] = row["finite"]
            with np.errstate(invalid="ignore"):
                alive &= (np.abs(self._qvel) < MAX_SPEED).all(1)
                alive &= (np.abs(self._qpos) < MAX_POSITION).all(1)
            self._left[:] = np.concatenate([self._qpos, self._qvel], 1)
            if not alive.all():
                self._quarantine(~alive, object_id, qpos, qvel, ctrl)
                self._left[~alive] = np.nan
            out = self._read(alive)
            forces = (finger, tip, table, drive[:, self.scene.finger_qvel])
            for given, found in zip(out[7:11], forces, strict=True):
                given[...] = np.where(alive.reshape(-1, *[1] * (found.ndim - 1)), found, 0)
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
        model = self.scene.object_model(object_id)
        body = model.body(OBJECT_BODY).id
        model.body_mass[body] *= params[0]
        model.body_inertia[body] *= params[0]
        world = World(model, self.scene, self.config, float(params[1]), model.opt.gravity)
        world.set_state(qpos, qvel)
        self._worlds[i] = (holds, world)
        return world
