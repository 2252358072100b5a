"""The `native` engine: C MuJoCo on a thread pool, one host callback per control step.

Pure by construction: every call writes the full state of all simulations and reads it back, so the
same input gives the same output at any thread count and in any order of calls. What the engine
keeps between calls (which object each slot holds) is only a cache.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
import mujoco.batch
import numpy as np

from dexjax.sim.divergence import MAX_POSITION, MAX_SPEED, DivergenceLog
from dexjax.sim.followers import followers
from dexjax.sim.physics import PhysicsConfig
from dexjax.sim.scene import OBJECT_BODY, Scene
from dexjax.sim.types import Control, SimState

_FINITE_ROWS = ("qpos", "qvel", "qacc_warmstart")


class NativeEngine:
    """`num_envs` simulations of one scene; see `dexjax.sim.types.Engine`."""

    def __init__(
        self, scene: Scene, num_envs: int, physics: PhysicsConfig, *, threads: int | None = None
    ) -> None:
        self.scene = scene
        self.num_envs = num_envs
        self.physics = physics
        self.divergences = DivergenceLog()
        self.seconds = 0.0  # wall-clock time spent in physics so far
        model = scene.model.__copy__()
        physics.apply(model)
        self.model = model
        self._lock = threading.Lock()
        threads = threads or os.cpu_count() or 1
        self._batch = mujoco.batch.Batch(model, num_envs, threads)
        bind = self._batch.bind
        self._qpos, self._qvel, self._ctrl = bind("qpos"), bind("qvel"), bind("ctrl")
        self._warmstart, self._xfrc = bind("qacc_warmstart"), bind("xfrc_applied")
        self._sensor, self._force = bind("sensordata"), bind("qfrc_actuator")
        self._contact_xpos = bind("xpos")  # body positions at the time of the sensors
        self._kinematics = _Kinematics(model, num_envs, threads)
        self._loaded = np.full(num_envs, -1)
        self._loaded_params = np.ones((num_envs, 2))
        self._fields = dict(scene.object_fields)  # model field -> (objects, ...)
        self._rows = {k: self._batch.expand(k) for k in self._fields}  # field -> (num_envs, ...)
        self._followers = followers(model) if physics.tendon == "physx" and model.ntendon else None
        if self._followers:
            self._applied = bind("qfrc_applied")
        self._wrench_base = scene.config.base == "wrench"
        if self._wrench_base:
            self._drag = physics.link_drag()
            hand = np.array([i for i in range(1, model.nbody) if model.body(i).name != OBJECT_BODY])
            self._hand_bodies = hand
        self._palm = model.body(scene.hand.body_names[scene.hand.palm_body]).id
        self._sensor_slices = {
            model.sensor(i).name: slice(
                model.sensor_adr[i], model.sensor_adr[i] + model.sensor_dim[i]
            )
            for i in range(model.nsensor)
        }
        self._shapes = self._output_shapes()

    # --- contract ---------------------------------------------------------------------------

    def init(
        self, object_id: jax.Array, qpos: jax.Array, qvel: jax.Array, object_params: jax.Array
    ) -> SimState:
        """State of all environments at the given positions, derived quantities computed."""
        mask = jnp.ones(self.num_envs, bool)
        warmstart = jnp.zeros_like(qvel)
        out = jax.pure_callback(
            self._host_forward,
            self._shapes,
            mask,
            object_id,
            object_params,
            qpos,
            qvel,
            vmap_method="sequential",  # seeds take turns: every call brings the full state
        )
        return SimState(object_id, object_params, qpos, qvel, warmstart, *out[3:])

    def step(self, state: SimState, control: Control) -> SimState:
        """One control period: `physics.substeps` steps of C MuJoCo."""
        out = jax.pure_callback(
            self._host_step,
            self._shapes,
            state.object_id,
            state.object_params,
            state.qpos,
            state.qvel,
            state.warmstart,
            control.ctrl,
            control.wrench,
            vmap_method="sequential",
        )
        return SimState(state.object_id, state.object_params, *out)

    def reset_where(
        self,
        state: SimState,
        mask: jax.Array,
        object_id: jax.Array,
        qpos: jax.Array,
        qvel: jax.Array,
        object_params: jax.Array,
    ) -> SimState:
        """`init` for the environments in `mask`; no host call where the mask is empty."""

        def pick(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(mask.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        def reset(state: SimState) -> SimState:
            out = jax.pure_callback(
                self._host_forward,
                self._shapes,
                mask,
                object_id,
                object_params,
                qpos,
                qvel,
                vmap_method="sequential",
            )
            new = SimState(object_id, object_params, qpos, qvel, jnp.zeros_like(qvel), *out[3:])
            return jax.tree.map(pick, new, state)

        return jax.lax.cond(mask.any(), reset, lambda s: s, state)

    def save_divergences(self, state: SimState, path: Path) -> None:
        """Write the last states before each divergence to an .npz, if there were any.

        They are kept on the host; `mjx` keeps them in `state`.
        """
        self.divergences.save(path)

    # --- host side --------------------------------------------------------------------------

    def _output_shapes(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        n, m, nb = self.num_envs, self.model, len(self.scene.body_ids)
        fingers = len(self.scene.hand.finger_names)
        shapes: list[tuple[tuple[int, ...], type]] = [
            ((n, m.nq), np.float32),
            ((n, m.nv), np.float32),
            ((n, m.nv), np.float32),
            ((n, nb, 3), np.float32),
            ((n, nb, 4), np.float32),
            ((n, nb, 3), np.float32),
            ((n, nb, 3), np.float32),
            ((n, fingers, 3), np.float32),
            ((n, fingers, 6), np.float32),
            ((n,), np.float32),
            ((n, len(self.scene.finger_qvel)), np.float32),
            ((n,), np.bool_),
        ]
        return tuple(jax.ShapeDtypeStruct(s, d) for s, d in shapes)

    def _load_objects(self, ids: np.ndarray, object_id: np.ndarray, params: np.ndarray) -> None:
        """Write the model fields of the simulations whose object or parameters changed."""
        changed = (self._loaded[ids] != object_id) | (self._loaded_params[ids] != params).any(1)
        if not changed.any():
            return
        sims, objects, factors = ids[changed], object_id[changed], params[changed]
        for name, rows in self._rows.items():
            rows[sims] = self._fields[name][objects]
        if (factors != 1).any() or (self._loaded_params[sims] != 1).any():
            self._scale(sims, factors)
        self._loaded[sims], self._loaded_params[sims] = objects, factors

    def _scale(self, sims: np.ndarray, factors: np.ndarray) -> None:
        """Apply per-environment mass factor and friction coefficient to the object's rows."""
        body = self.model.body(OBJECT_BODY).id
        dofs = slice(self.scene.object_qvel, self.scene.object_qvel + 6)
        geoms = np.flatnonzero(self.model.geom_bodyid == body)
        mass, friction = factors[:, 0], factors[:, 1]
        for name in ("body_mass", "body_subtreemass", "body_inertia"):
            rows = self._expanded(name)
            rows[sims, body] = rows[sims, body] * mass.reshape(-1, *[1] * (rows.ndim - 2))
        for name, part in (("body_invweight0", body), ("dof_invweight0", dofs)):
            rows = self._expanded(name)
            rows[sims, part] = rows[sims, part] / mass[:, None]
        rows = self._expanded("dof_M0")
        rows[sims, dofs] = rows[sims, dofs] * mass[:, None]
        world = self._expanded("body_mass")[sims].sum(1)
        self._expanded("body_subtreemass")[sims, 0] = world
        self._expanded("geom_friction")[sims[:, None], geoms[None], 0] = friction[:, None]

    def _expanded(self, name: str) -> np.ndarray:
        if name not in self._rows:
            self._rows[name] = self._batch.expand(name)
            base = getattr(self.model, name)
            self._fields[name] = np.broadcast_to(
                base.copy(), (len(self.scene.object_names), *base.shape)
            )
        return self._rows[name]

    def _host_forward(
        self,
        mask: np.ndarray,
        object_id: np.ndarray,
        params: np.ndarray,
        qpos: np.ndarray,
        qvel: np.ndarray,
    ) -> tuple[np.ndarray, ...]:
        """Derived quantities at a given state for the simulations in `mask`, no contact forces."""
        with self._lock:
            ids = np.flatnonzero(np.asarray(mask)).astype(np.int32)
            self._load_objects(ids, np.asarray(object_id)[ids], np.asarray(params)[ids])
            self._qpos[ids], self._qvel[ids] = np.asarray(qpos)[ids], np.asarray(qvel)[ids]
            out = self._read(np.ones(self.num_envs, bool), ids)
            for forces in out[7:11]:
                forces[...] = 0
            return out

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
        with self._lock:
            began = time.perf_counter()
            self._load_objects(
                np.arange(self.num_envs, dtype=np.int32), np.asarray(object_id), np.asarray(params)
            )
            self._qpos[:], self._qvel[:] = qpos, qvel
            self._warmstart[:], self._ctrl[:] = warmstart, ctrl
            if self._wrench_base:
                alive = self._wrench_steps(np.asarray(wrench))
            else:
                alive = self._steps(self.physics.substeps)
            out = self._outcome(alive, object_id, qpos, qvel, ctrl)
            self.seconds += time.perf_counter() - began
            return out

    def _outcome(
        self,
        alive: np.ndarray,
        object_id: np.ndarray,
        qpos: np.ndarray,
        qvel: np.ndarray,
        ctrl: np.ndarray,
    ) -> tuple[np.ndarray, ...]:
        """What `_read` gives after a control step from (qpos, qvel), with simulations that diverged
        put in quarantine and without forces. alive: (N,), of which nothing is known yet; in place.
        """
        alive &= np.isfinite(self._batch.state).all(1)
        with np.errstate(invalid="ignore"):
            alive &= (np.abs(self._qvel) < MAX_SPEED).all(1)
            alive &= (np.abs(self._qpos) < MAX_POSITION).all(1)
        if alive.all():
            return self._read(alive)
        self._quarantine(~alive, object_id, qpos, qvel, ctrl)
        out = self._read(alive)
        for forces in out[7:11]:
            forces[~alive] = 0
        return out

    def _steps(self, count: int) -> np.ndarray:
        """Physics steps of all simulations; returns (N,) which of them MuJoCo did not complain of.

        The others are stepped whatever happens to one.
        """
        alive = np.ones(self.num_envs, bool)
        law = self._followers
        for _ in range(count if law else 1):
            if law:
                self._applied[:, law.dof[:, 0]] = law.force(self._qpos, self._qvel)
            try:
                with _quiet():
                    self._batch.step(nstep=1 if law else count)
            except mujoco.batch.SimulationError as error:
                alive[error.ids] = False
        return alive

    def _quarantine(
        self,
        dead: np.ndarray,
        object_id: np.ndarray,
        qpos: np.ndarray,
        qvel: np.ndarray,
        ctrl: np.ndarray,
    ) -> None:
        """Log diverged simulations and put them at rest where the control step began, or at the
        model's initial position if that was not finite either."""
        qpos, qvel, ctrl = np.asarray(qpos), np.asarray(qvel), np.asarray(ctrl)
        for i in np.flatnonzero(dead):
            self.divergences.add(object_id=object_id[i], qpos=qpos[i], qvel=qvel[i], ctrl=ctrl[i])
            sound = (np.abs(qpos[i]) < MAX_POSITION).all()  # False where NaN
            self._qpos[i] = qpos[i] if sound else self.model.qpos0
        self._qvel[dead], self._warmstart[dead] = 0, 0

    def _wrench_steps(self, wrench: np.ndarray) -> np.ndarray:
        """Substeps under PhysX link damping c: drag -c m v on every link, and external wrench
        scaled by 1 - c dt (facts measured on PhysX 5; docs/decisions.md). Returns as `_steps`."""
        drag = self._drag
        bodies, model = self._hand_bodies, self.model
        mass = model.body_mass[bodies][None, :, None]
        inertia = model.body_inertia[bodies]
        alive = np.ones(self.num_envs, bool)
        for k in range(self.physics.substeps):
            self._xfrc[:] = 0
            if k % drag.every:
                alive &= self._steps(1)
                continue
            view = self._kinematics.update(self._qpos, self._qvel)
            angular, linear = view.velocity(bodies, view.xipos[:, bodies])
            rot = view.ximat[:, bodies].reshape(self.num_envs, -1, 3, 3)
            local = np.einsum("nbji,nbj->nbi", rot, angular) * inertia
            self._xfrc[:, bodies, :3] = -drag.coefficient * mass * linear
            self._xfrc[:, bodies, 3:] = -drag.coefficient * np.einsum("nbij,nbj->nbi", rot, local)
            self._xfrc[:, self._palm] += drag.share * wrench
            alive &= self._steps(1)
        return alive

    def _read(self, alive: np.ndarray, which: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
        """Copies of everything in SimState after its object id and parameters; body poses and
        velocities are valid for the simulations `which` only (None: all)."""
        ids, f32 = self.scene.body_ids, np.float32
        view = self._kinematics.update(self._qpos, self._qvel, which)
        position = view.xpos[:, ids]
        angular, linear = view.velocity(ids, position)
        sensor, part = self._sensor.astype(f32), self._sensor_slices
        fingers = self.scene.hand.finger_names
        # MuJoCo reports the force of the first named object on the second.
        force = -np.stack([sensor[:, part[f"force_{f}"]] for f in fingers], 1)
        net = np.stack([sensor[:, part[f"wrench_{f}"]] for f in fingers], 1)
        tips = ids[list(self.scene.hand.fingertip_body)]
        arm = net[..., 6:] - self._contact_xpos[:, tips]
        torque = net[..., 3:6] + np.cross(arm, net[..., :3])
        wrench = -np.concatenate([net[..., :3], torque], -1, dtype=f32, casting="same_kind")
        table = np.linalg.norm(sensor[:, part["force_table"]], axis=1)
        return (
            self._qpos.astype(f32),
            self._qvel.astype(f32),
            self._warmstart.astype(f32),
            position.astype(f32),
            view.xquat[:, ids].astype(f32),
            linear.astype(f32),
            angular.astype(f32),
            force,
            wrench,
            table,
            self._force[:, self.scene.finger_qvel].astype(f32),
            alive,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep MuJoCo from printing each divergence and from appending to MUJOCO_LOG.TXT in the
    current folder; the divergence log has them."""
    before = mujoco.MjLogConfig.get()
    quiet = mujoco.MjLogConfig.get()
    quiet.logto_console = quiet.logto_file = False
    quiet.set()
    try:
        yield
    finally:
        before.set()


class _Kinematics:
    """Body poses and velocities at given positions: MuJoCo's forward stages without contacts.

    Asking the stepping batch for them (`stage=VEL`) would find all contacts and build their
    constraints once more per control step: 6 to 11 % of its time, against 2 % here. No forces:
    they do not change velocities.
    """

    def __init__(self, model: mujoco.MjModel, num_envs: int, threads: int) -> None:
        model = model.__copy__()
        for unused in ("CONSTRAINT", "SENSOR", "ACTUATION", "SPRING", "DAMPER", "GRAVITY"):
            model.opt.disableflags |= getattr(mujoco.mjtDisableBit, f"mjDSBL_{unused}")
        self._batch = mujoco.batch.Batch(model, num_envs, threads)
        self._root = model.body_rootid.copy()
        bind = self._batch.bind
        self._qpos, self._qvel = bind("qpos"), bind("qvel")
        self.xpos, self.xquat = bind("xpos"), bind("xquat")
        self.xipos, self.ximat = bind("xipos"), bind("ximat")
        self._cvel, self._com = bind("cvel"), bind("subtree_com")

    def update(
        self, qpos: np.ndarray, qvel: np.ndarray, which: np.ndarray | None = None
    ) -> _Kinematics:
        """Poses and velocities at (N, nq), (N, nv), until the next call; of simulations `which`
        only if given. Those that are not finite get some value."""
        self._qpos[:], self._qvel[:] = qpos, qvel
        with contextlib.suppress(mujoco.batch.SimulationError), _quiet():
            self._batch.forward(which, stage=mujoco.mjtStage.mjSTAGE_VEL.value)
        return self

    def velocity(self, bodies: np.ndarray, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Angular velocity of `bodies` and linear velocity of a world point on each, (N, b, 3)."""
        cvel = self._cvel[:, bodies]
        angular, arm = cvel[..., :3], point - self._com[:, self._root[bodies]]
        return angular, cvel[..., 3:] + np.cross(angular, arm)
