"""Our engines as simulators of probes: the very classes that training and evaluation use."""

from __future__ import annotations

from dataclasses import asdict, replace

import jax.numpy as jnp
import mujoco
import numpy as np

from dexjax.parity.probe import FRAME, RECORDED, Probe, Recording
from dexjax.sim.native import NativeEngine
from dexjax.sim.physics import PhysicsConfig
from dexjax.sim.types import Control, SimState


class NativeSimulator:
    """`NativeEngine` with a physics preset, its steps filling frames of 1/60 s."""

    def __init__(self, physics: PhysicsConfig, name: str = "native", threads: int = 1) -> None:
        self.physics = in_frames(physics)
        self.name, self._threads = name, threads

    def settings(self) -> dict:
        """Versions and settings that a recording depends on."""
        return {"simulator": f"native, mujoco {mujoco.__version__}", **asdict(self.physics)}

    def run(self, probe: Probe) -> Recording:
        """All trials; those of one direction of gravity together."""
        directions, group = np.unique(probe.gravity, axis=0, return_inverse=True)
        parts, order = [], []
        for k in range(len(directions)):
            rows = np.flatnonzero(group == k)
            parts.append(self._run(probe.take(rows), directions[k]))
            order.append(rows)
        inverse = np.argsort(np.concatenate(order))
        return {n: np.concatenate([p[n] for p in parts], 1)[:, inverse] for n in RECORDED}

    def _run(self, probe: Probe, gravity: np.ndarray) -> Recording:
        model = probe.scene.model.__copy__()
        model.opt.gravity = gravity
        scene = replace(probe.scene, model=model)
        engine = NativeEngine(scene, probe.num_trials, self.physics, threads=self._threads)
        state = engine.init(
            jnp.asarray(probe.object_id, jnp.int32),
            jnp.asarray(probe.qpos, jnp.float32),
            jnp.asarray(probe.qvel, jnp.float32),
            jnp.asarray(probe.object_params, jnp.float32),
        )
        rows = [_row(state)]
        for ctrl, wrench in zip(probe.ctrl, probe.wrench, strict=True):
            control = Control(jnp.asarray(ctrl, jnp.float32), jnp.asarray(wrench, jnp.float32))
            state = engine.step(state, control)
            rows.append(_row(state))
        return {k: np.stack([r[k] for r in rows]) for k in RECORDED}


def in_frames(physics: PhysicsConfig) -> PhysicsConfig:
    """The settings with as many steps as fill one frame."""
    return replace(physics, substeps=round(FRAME / physics.timestep))


def _row(state: SimState) -> Recording:
    return {k: np.asarray(getattr(state, k)).astype(np.float32) for k in RECORDED}
