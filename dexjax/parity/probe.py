"""A probe: one experiment given by its scene, initial states and inputs, for any simulator.

Simulators under test and the reference run the same `Probe` and return the same `Recording`, one
row per control frame of 1/60 s; how many physics steps are in a frame is the simulator's matter.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol

import mujoco
import numpy as np

from dexjax.objects.asset import ObjectAsset
from dexjax.sim.scene import Scene, SceneConfig, build_scene

FRAME = 1 / 60  # s, control period of every probe: UniDexGrasp's
EARTH = (0.0, 0.0, -9.81)

# (T + 1, B, ...) per name, float32; row 0 is the initial state. World frame, SI, quaternions wxyz.
# qpos, qvel: MuJoCo's coordinates; body_pos, body_quat: bodies in `Scene.body_names` order;
# finger_force: (5, 3) of the object on each finger; table_force: () of the hand and the table;
# finite: () 1 where nothing diverged.
Recording = dict[str, np.ndarray]
RECORDED = ("qpos", "qvel", "body_pos", "body_quat", "finger_force", "table_force", "finite")


@dataclass(frozen=True, eq=False)
class Probe:
    """B trials of T frames in one kind of scene; each trial has its own object and state."""

    name: str
    config: SceneConfig
    assets: tuple[ObjectAsset, ...]
    object_id: np.ndarray  # (B,) index into assets
    object_params: np.ndarray  # (B, 2) mass factor, friction coefficient
    qpos: np.ndarray  # (B, nq)
    qvel: np.ndarray  # (B, nv)
    ctrl: np.ndarray  # (T, B, nu) actuator targets
    wrench: np.ndarray  # (T, B, 6) on the palm, world axes; wrench base only
    gravity: np.ndarray  # (B, 3)
    labels: tuple[str, ...] = ()
    info: dict[str, np.ndarray] = field(default_factory=dict)  # what the metric needs, (B, ...)

    @property
    def num_trials(self) -> int:
        return len(self.object_id)

    @property
    def num_frames(self) -> int:
        return len(self.ctrl)

    @property
    def scene(self) -> Scene:
        """The scene as the `native` engine has it."""
        return _scene(self.assets, self.config)

    def take(self, rows: np.ndarray) -> Probe:
        """The probe with these trials only."""
        rows = np.asarray(rows)
        return replace(
            self,
            object_id=self.object_id[rows],
            object_params=self.object_params[rows],
            qpos=self.qpos[rows],
            qvel=self.qvel[rows],
            ctrl=self.ctrl[:, rows],
            wrench=self.wrench[:, rows],
            gravity=self.gravity[rows],
            labels=tuple(self.labels[i] for i in np.arange(self.num_trials)[rows]),
            info={k: v[rows] for k, v in self.info.items()},
        )

    def key(self) -> str:
        """Digest of everything that a simulation depends on."""
        digest = hashlib.sha256(json.dumps(asdict(self.config), sort_keys=True).encode())
        arrays = [
            model_bytes(self.scene.model), self.object_id, self.object_params, self.qpos, self.qvel,
            self.ctrl, self.wrench, self.gravity,
        ]  # fmt: skip
        for asset in self.assets:
            arrays += [*asset.pieces, np.array([asset.mass]), asset.inertia]
        for array in arrays:
            digest.update(repr((array.shape, array.dtype.str)).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def model_bytes(model: mujoco.MjModel) -> np.ndarray:
    """A compiled model as bytes, for digests."""
    found = np.zeros(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, found)
    return found


class Simulator(Protocol):
    """Anything that runs probes."""

    name: str

    def run(self, probe: Probe) -> Recording: ...

    def settings(self) -> dict:
        """Everything but the probe that its recordings depend on, for JSON."""
        ...


_SCENES: dict[tuple, tuple[tuple[ObjectAsset, ...], Scene]] = {}


def _scene(assets: tuple[ObjectAsset, ...], config: SceneConfig) -> Scene:
    """Scenes are kept with their assets, which hold arrays and cannot be hashed by content."""
    key = (tuple(id(a) for a in assets), config)
    if key not in _SCENES:
        _SCENES[key] = (assets, build_scene(assets, config))
    return _SCENES[key][1]
