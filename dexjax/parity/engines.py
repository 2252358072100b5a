"""Our engines as simulators of probes: the very classes that training and evaluation use."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from dexjax.objects.asset import ObjectAsset
from dexjax.parity.probe import FRAME, RECORDED, Probe, Recording
from dexjax.sim.native import NativeEngine
from dexjax.sim.physics import PhysicsConfig
from dexjax.sim.scene import SceneConfig
from dexjax.sim.types import Control, SimState

_MJX_BATCH = 32  # environments of one compiled program; trials are filled up to it


class NativeSimulator:
    """`NativeEngine` with a physics preset, its steps filling frames of 1/60 s."""

    def __init__(self, physics: PhysicsConfig, name: str = "native", threads: int = 1) -> None:
        self.physics = physics.in_period(FRAME)
        self.name, self._threads = name, threads

    def settings(self) -> dict:
        """Versions and settings that a recording depends on."""
        return {"simulator": f"native, mujoco {mujoco.__version__}", **asdict(self.physics)}

    def run(self, probe: Probe) -> Recording:
        """All trials; those of one direction of gravity together."""
        directions, group = np.unique(probe.gravity, axis=0, return_inverse=True)
        rows = [np.flatnonzero(group == k) for k in range(len(directions))]
        parts = [self._run(probe.take(r), g) for r, g in zip(rows, directions, strict=True)]
        inverse = np.argsort(np.concatenate(rows))
        return {n: np.concatenate([p[n] for p in parts], 1)[:, inverse] for n in RECORDED}

    def _run(self, probe: Probe, gravity: np.ndarray) -> Recording:
        model = probe.scene.model.__copy__()
        model.opt.gravity = gravity
        scene = replace(probe.scene, model=model)
        engine = NativeEngine(scene, probe.num_trials, self.physics, threads=self._threads)
        return _frames(probe, engine.init, engine.step)


class MjxSimulator:
    """`MjxEngine` with a physics preset. Objects are distance grids of the probe's meshes, which
    PhysX and `native` have as convex pieces."""

    def __init__(self, physics: PhysicsConfig, probes: Iterable[Probe], name: str = "mjx") -> None:
        """probes: those that will be run; one program is compiled for each kind of scene."""
        self.physics = physics.in_period(FRAME)
        self.name = name
        self._assets: dict[SceneConfig, list[ObjectAsset]] = {}
        for probe in probes:
            assets = self._assets.setdefault(probe.config, [])
            assets += [a for a in probe.assets if not any(a is b for b in assets)]
        self._programs: dict[SceneConfig, tuple[Callable, Callable]] = {}

    def settings(self) -> dict:
        """Versions and settings that a recording depends on."""
        simulator = f"mjx {mujoco.__version__}, jax {jax.__version__}"
        return {"simulator": simulator, **asdict(self.physics)}

    def run(self, probe: Probe) -> Recording:
        """All trials in batches of one size, so that a scene is compiled once."""
        init, step = self._compiled(probe.config)
        known = self._assets[probe.config]
        row = np.array([next(i for i, b in enumerate(known) if b is a) for a in probe.assets])
        probe = replace(probe, object_id=row[probe.object_id])
        parts = []
        for start in range(0, probe.num_trials, _MJX_BATCH):
            rows = np.arange(start, min(start + _MJX_BATCH, probe.num_trials))
            part = probe.take(np.resize(rows, _MJX_BATCH))
            gravity = jnp.asarray(part.gravity, jnp.float32)
            recording = _frames(
                part, init, lambda state, control, g=gravity: step(g, state, control)
            )
            parts.append({n: v[:, : len(rows)] for n, v in recording.items()})
        return {n: np.concatenate([p[n] for p in parts], 1) for n in RECORDED}

    def _compiled(self, config: SceneConfig) -> tuple[Callable, Callable]:
        if config not in self._programs:
            from dexjax.objects.build import with_sdf
            from dexjax.sim.mjx import MjxEngine
            from dexjax.sim.mjx_scene import build_mjx_scene

            scene = build_mjx_scene([with_sdf(a) for a in self._assets[config]], config)
            engine = MjxEngine(scene, _MJX_BATCH, self.physics)

            def step(gravity: jax.Array, state: SimState, control: Control) -> SimState:
                """One frame; gravity (3,) of each environment is data, so that all directions
                share one program."""

                def one(g: jax.Array, state: SimState, control: Control) -> SimState:
                    tilted = copy.copy(engine)
                    model = engine._mjx
                    tilted._mjx = model.replace(opt=model.opt.replace(gravity=g))
                    single = tilted.step(*jax.tree.map(lambda x: x[None], (state, control)))
                    return jax.tree.map(lambda x: x[0], single)

                return jax.vmap(one)(gravity, state, control)

            self._programs[config] = (jax.jit(engine.init), jax.jit(step))
        return self._programs[config]


def _frames(probe: Probe, init: Callable, step: Callable) -> Recording:
    """Run an engine through all frames of a probe."""
    state = init(
        jnp.asarray(probe.object_id, jnp.int32),
        jnp.asarray(probe.qpos, jnp.float32),
        jnp.asarray(probe.qvel, jnp.float32),
        jnp.asarray(probe.object_params, jnp.float32),
    )
    rows = [_row(state)]
    for ctrl, wrench in zip(probe.ctrl, probe.wrench, strict=True):
        control = Control(jnp.asarray(ctrl, jnp.float32), jnp.asarray(wrench, jnp.float32))
        state = step(state, control)
        rows.append(_row(state))
    return {k: np.stack([r[k] for r in rows]) for k in RECORDED}


def _row(state: SimState) -> Recording:
    return {k: np.asarray(getattr(state, k)).astype(np.float32) for k in RECORDED}
