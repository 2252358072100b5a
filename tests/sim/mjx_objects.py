"""Objects with exact distance grids, and an engine of `mjx` to run step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import trimesh
from simple_objects import box_asset

from dexjax.objects.asset import ObjectAsset, SignedDistanceGrid
from dexjax.sim.mjx import MjxEngine, MjxState
from dexjax.sim.mjx_scene import MjxScene
from dexjax.sim.physics import PhysicsConfig
from dexjax.sim.types import Control

PLATE, BALL, ROD = (0.04, 0.04, 0.02), 0.035, (0.02, 0.05)  # m: half sizes; radius; r, half length


def with_grid(asset: ObjectAsset, distance: Callable, half: np.ndarray) -> ObjectAsset:
    """The asset with a 64^3 grid of a distance (..., 3) -> (...,), 1.5 cm beyond `half`."""
    low = -np.asarray(half, np.float64) - 0.015
    spacing = -2 * low / 63
    axes = [low[i] + spacing[i] * np.arange(64) for i in range(3)]
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    return replace(asset, sdf=SignedDistanceGrid(distance(nodes).astype(np.float32), low, spacing))


def box_distance(half: tuple[float, float, float]) -> Callable:
    def distance(p: np.ndarray) -> np.ndarray:
        q = np.abs(p) - np.array(half)
        return np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(-1), 0)

    return distance


def box(name: str, half: tuple[float, float, float], mass: float) -> ObjectAsset:
    return with_grid(box_asset(name, half, mass), box_distance(half), np.array(half))


def ball(name: str = "ball", mass: float = 0.1) -> ObjectAsset:
    """Sphere of radius BALL; its hull for the table is a fine polyhedron."""
    base = box_asset(name, (BALL,) * 3, mass)
    points = trimesh.creation.icosphere(2, BALL).vertices
    asset = replace(base, pieces=(np.asarray(points),), inertia=np.eye(3) * 0.4 * mass * BALL**2)
    return with_grid(asset, lambda p: np.linalg.norm(p, axis=-1) - BALL, np.full(3, BALL))


def rod(name: str = "rod", mass: float = 0.1) -> ObjectAsset:
    """Capsule along z."""
    r, h = ROD

    def distance(p: np.ndarray) -> np.ndarray:
        z = np.abs(p[..., 2]) - h
        return np.hypot(np.linalg.norm(p[..., :2], axis=-1), np.maximum(z, 0)) - r

    half = np.array([r, r, h + r])
    return with_grid(box_asset(name, tuple(half), mass), distance, half)


class MjxRunner:
    """A small engine with compiled calls on NumPy inputs."""

    def __init__(self, scene: MjxScene, num: int, physics: PhysicsConfig) -> None:
        self.scene, self.num = scene, num
        self.engine = MjxEngine(scene, num, physics)
        self.init_jit, self.step_jit = jax.jit(self.engine.init), jax.jit(self.engine.step)

    def init(self, qpos, qvel=None, objects=None, params=None) -> MjxState:
        nv = self.scene.model.nv
        qvel = np.zeros((self.num, nv)) if qvel is None else qvel
        objects = np.zeros(self.num) if objects is None else objects
        params = np.ones((self.num, 2)) if params is None else params
        f32 = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
        return self.init_jit(jnp.asarray(objects, jnp.int32), f32(qpos), f32(qvel), f32(params))

    def step(self, state: MjxState, ctrl, wrench=None) -> MjxState:
        wrench = np.zeros((self.num, 6)) if wrench is None else wrench
        return self.step_jit(
            state, Control(jnp.asarray(ctrl, jnp.float32), jnp.asarray(wrench, jnp.float32))
        )
