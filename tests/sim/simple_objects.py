"""Objects with closed-form mass properties, and a thin wrapper to run an engine step by step."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from dexjax.objects.asset import ObjectAsset, OrientedBox, StablePoses
from dexjax.sim.native import NativeEngine
from dexjax.sim.physics import PhysicsConfig
from dexjax.sim.scene import Scene
from dexjax.sim.types import Control, SimState


def box_asset(name: str, half: tuple[float, float, float], mass: float) -> ObjectAsset:
    """A homogeneous box, half sizes in m, axes along the object frame."""
    x, y, z = half
    corners = np.array(list(itertools.product((-x, x), (-y, y), (-z, z))))
    inertia = mass / 3 * np.diag([y * y + z * z, x * x + z * z, x * x + y * y])
    return _asset(name, [corners], mass, inertia, z, np.array(half))


def dumbbell_asset(name: str, mass: float) -> ObjectAsset:
    """Two cubes of 4 cm joined by a bar of 2 x 2 x 8 cm: three convex pieces, stands on end."""

    def cuboid(half: tuple[float, float, float], z: float) -> np.ndarray:
        return np.array(list(itertools.product(*[(-h, h) for h in half]))) + [0, 0, z]

    cube, bar = (0.02, 0.02, 0.02), (0.01, 0.01, 0.04)
    pieces = [cuboid(cube, 0.06), cuboid(bar, 0), cuboid(cube, -0.06)]
    volumes = np.array([0.04**3, 0.02**2 * 0.08, 0.04**3])
    m = mass * volumes / volumes.sum()
    inertia = np.zeros((3, 3))
    for mi, h, z in zip(m, (cube, bar, cube), (0.06, 0.0, -0.06), strict=True):
        a, b, c = np.square(h)
        inertia += mi / 3 * np.diag([b + c, a + c, a + b]) + mi * np.diag([z * z, z * z, 0])
    return _asset(name, pieces, mass, inertia, 0.08, np.array([0.02, 0.02, 0.08]))


def _asset(
    name: str,
    pieces: list[np.ndarray],
    mass: float,
    inertia: np.ndarray,
    height: float,
    half: np.ndarray,
) -> ObjectAsset:
    order = np.argsort(-half)
    points = np.random.default_rng(0).permutation(np.repeat(np.concatenate(pieces), 8, 0))
    return ObjectAsset(
        name=name,
        category="simple",
        source="test",
        vertices=np.concatenate(pieces),
        faces=np.zeros((0, 3), np.int32),
        pieces=tuple(pieces),
        surface_points=points.astype(np.float32),
        surface_normals=np.tile(np.float32([0, 0, 1]), (len(points), 1)),
        mass=mass,
        inertia=inertia,
        box=OrientedBox(np.zeros(3), np.eye(3)[order], half[order]),
        stable_poses=StablePoses(np.array([[1.0, 0, 0, 0]]), np.array([height]), np.ones(1)),
        mesh_origin=np.zeros(3),
    )


class Runner:
    """An engine with compiled calls on NumPy inputs; rows are environments."""

    def __init__(self, scene: Scene, num: int, physics: PhysicsConfig, threads: int = 2) -> None:
        self.scene, self.num, self.physics = scene, num, physics
        self.engine = NativeEngine(scene, num, physics, threads=threads)
        self.init_jit = jax.jit(self.engine.init)
        self.step_jit = jax.jit(self.engine.step)
        self.reset_jit = jax.jit(self.engine.reset_where)

    def qpos(self, height: float = 0.6) -> np.ndarray:
        """(num, nq) open hand at `height`, objects standing on the table at the origin."""
        q = np.tile(self.scene.model.qpos0, (self.num, 1))
        q[:, 2] = height
        at = self.scene.object_qpos
        q[:, at : at + 7] = [0, 0, 0.3, 1, 0, 0, 0]
        return q

    def init(
        self,
        qpos: np.ndarray,
        qvel: np.ndarray | None = None,
        objects: np.ndarray | None = None,
        params: np.ndarray | None = None,
    ) -> SimState:
        """Initial state; at rest, object 0 with its own mass and friction 1 unless given."""
        qvel = np.zeros((self.num, self.scene.model.nv)) if qvel is None else qvel
        objects = np.zeros(self.num) if objects is None else objects
        params = np.ones((self.num, 2)) if params is None else params
        return self.init_jit(
            jnp.asarray(objects, jnp.int32),
            jnp.asarray(qpos, jnp.float32),
            jnp.asarray(qvel, jnp.float32),
            jnp.asarray(params, jnp.float32),
        )

    def control(self, state: SimState, **targets: np.ndarray | float) -> np.ndarray:
        """(num, nu) targets that hold the hand where `state` has it, with some set by name."""
        model = self.scene.model
        ctrl = np.zeros((self.num, model.nu), np.float32)
        for i in range(model.nu):
            joint = model.actuator_trnid[i, 0]
            ctrl[:, i] = np.asarray(state.qpos)[:, model.jnt_qposadr[joint]]
        for name, value in targets.items():
            ctrl[:, model.actuator(f"A_{name}").id] = value
        return ctrl

    def step(self, state: SimState, ctrl: np.ndarray, wrench: np.ndarray | None = None) -> SimState:
        wrench = np.zeros((self.num, 6), np.float32) if wrench is None else wrench
        return self.step_jit(state, Control(jnp.asarray(ctrl, jnp.float32), jnp.asarray(wrench)))


class PlainLoop:
    """The same simulation of one environment by `mj_step` alone, on the object's own model."""

    def __init__(self, model: mujoco.MjModel, physics: PhysicsConfig) -> None:
        physics.apply(model)
        self.model, self.data, self.physics = model, mujoco.MjData(model), physics

    def set(self, qpos: np.ndarray, qvel: np.ndarray, warmstart: np.ndarray) -> None:
        self.data.qpos, self.data.qvel, self.data.qacc_warmstart = qpos, qvel, warmstart

    def step(self, ctrl: np.ndarray) -> None:
        """One control step; then the state is rounded to float32, as SimState holds it."""
        data = self.data
        data.ctrl = ctrl
        for _ in range(self.physics.substeps):
            mujoco.mj_step(self.model, data)
        for field in (data.qpos, data.qvel, data.qacc_warmstart):
            field[:] = field.astype(np.float32)


def differing(a: object, b: object) -> list[str]:
    """Names of the SimState fields that are not bitwise equal."""
    names = list(SimState.__dataclass_fields__)
    return [
        n
        for n in names
        if not np.array_equal(
            np.asarray(getattr(a, n)), np.asarray(getattr(b, n)), equal_nan=n != "finite"
        )
    ]
