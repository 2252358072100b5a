"""Builds the environment from its configuration: objects, scene, engine, task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from dexjax.core.errors import ConfigError, DataError, unknown_name
from dexjax.core.safe_io import read_npz
from dexjax.objects.asset import ObjectAsset
from dexjax.objects.bank import ObjectBank
from dexjax.objects.sampler import FailureWeightedSampler, UniformSampler
from dexjax.objects.select import check_objects, select_objects
from dexjax.rl.ppo import quick, unidexgrasp
from dexjax.rl.registry import EnvSpec, Preset, TrainConfig
from dexjax.sim.native import NativeEngine
from dexjax.sim.physics import PhysicsConfig, physics_preset
from dexjax.sim.scene import SceneConfig, build_scene
from envs.shadow_grasp.config import ShadowGraspConfig
from envs.shadow_grasp.env import ShadowGrasp
from envs.shadow_grasp.targets import TargetGrasps, read_targets
from envs.shadow_grasp.unidexgrasp import FEATURE_SIZE, unidexgrasp_config

ENGINES = ("native", "mjx", "physx", "auto")
SAMPLERS = {"uniform": UniformSampler, "failure": FailureWeightedSampler}


def make(
    config: ShadowGraspConfig,
    *,
    num_envs: int,
    engine: str = "native",
    objects: str = "builtin:seen",
    seed: int = 0,
    evaluation: bool = False,
) -> ShadowGrasp:
    """The environment with `num_envs` copies.

    objects: see `dexjax.objects.select`. engine: `native`, `mjx`, `auto` (`mjx` on GPU and TPU), or
    `physx` to evaluate in PhysX (`dexjax.parity.physx_engine`), on the hulls that PhysX keeps.
    evaluation: physics of evaluations, all convex pieces and episodes that start together. Raises
    ConfigError for unknown engines and objects.
    """
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    if engine == "auto":
        engine = "native" if jax.default_backend() == "cpu" else "mjx"
    if engine == "physx" and not evaluation:
        raise ConfigError(
            "engine physx is for evaluations (one thread, no GPU); train with native or mjx, then "
            "python -m dexjax.evaluate RUN --engine physx"
        )
    selection = select_objects(objects, sdf=engine == "mjx")
    # Both, so that a name that is wrong is found before the training and not after it.
    training, measuring = (
        physics_preset(name).in_period(config.control_dt)
        for name in (config.physics, config.evaluation_physics or config.reference_physics)
    )
    physics = measuring if evaluation else training
    simulator, questioned = _simulator(engine, selection.assets, config.scene, num_envs, physics)
    env = ShadowGrasp(
        config,
        simulator.scene,
        _bank(config, selection.assets),
        SAMPLERS[config.sampler](len(selection.assets)),
        simulator,
        control_dt=physics.control_dt,
        stagger=not evaluation,
        object_features=_object_features(config, selection.assets),
        target_grasps=_target_grasps(config, selection.assets),
    )
    env.left_out = selection.left_out
    env.questioned = questioned
    env.assets = tuple(selection.assets)
    return env


def _simulator(
    engine: str,
    assets: Sequence[ObjectAsset],
    config: SceneConfig,
    num_envs: int,
    physics: PhysicsConfig,
) -> tuple[Any, list[tuple[str, str]]]:
    """The engine, and (name, reason) of objects that it represents badly."""
    if engine == "native":
        return NativeEngine(build_scene(assets, config), num_envs, physics), []
    if engine == "physx":
        from dexjax.parity.physx import cooked
        from dexjax.parity.physx_engine import PhysxEngine

        scene = build_scene([cooked(a) for a in assets], config)
        return PhysxEngine(scene, num_envs, physics), []
    from dexjax.sim.mjx import MjxEngine  # imports MJX, which takes a second
    from dexjax.sim.mjx_scene import build_mjx_scene

    scene = build_mjx_scene(assets, config)
    return MjxEngine(scene, num_envs, physics), list(scene.thin)


def _object_features(config: ShadowGraspConfig, assets: Sequence[ObjectAsset]) -> np.ndarray | None:
    """(N, 64) features of the objects from the configured file, None where none is configured."""
    path = config.object_features
    if not path:
        return None
    if config.variant != "unidexgrasp":
        raise ConfigError("--task.object-features: only the unidexgrasp variant observes features")
    arrays = read_npz(path)
    missing = [k for k in ("names", "features") if k not in arrays]
    if missing:
        raise DataError(f"{path}: field {missing[0]} is missing; names (N,), features (N, 64)")
    names, features = arrays["names"], np.asarray(arrays["features"])
    if features.shape != (len(names), FEATURE_SIZE) or not np.isfinite(features).all():
        raise DataError(
            f"{path}: features of shape {features.shape}; finite numbers of shape "
            f"{(len(names), FEATURE_SIZE)} are needed, one row per name"
        )
    rows = {str(name): row for name, row in zip(names, features, strict=True)}
    lacking = [a.name for a in assets if a.name not in rows]
    if lacking:
        raise DataError(
            f"{path}: no features of {len(lacking)} objects, first {lacking[0]!r}; add them to "
            "`names`, or train on objects that have some"
        )
    return np.stack([rows[a.name] for a in assets])


def _bank(config: ShadowGraspConfig, assets: Sequence[ObjectAsset]) -> ObjectBank:
    """UniGraspTransformer's reward measures to 1024 points of the object, all others to fewer."""
    if config.release.reward == "unigrasptransformer":
        return ObjectBank.from_assets(assets, num_points=1024)
    return ObjectBank.from_assets(assets)


def _target_grasps(config: ShadowGraspConfig, assets: Sequence[ObjectAsset]) -> TargetGrasps | None:
    path = config.release.target_grasps
    if not path:
        return None
    if config.variant != "unidexgrasp":
        raise ConfigError("--task.release.target-grasps: only the unidexgrasp variant has targets")
    return read_targets(path, [a.name for a in assets])


spec = EnvSpec(
    presets={
        "quick": Preset(ShadowGraspConfig(), quick(), TrainConfig()),
        "scratch": Preset(
            ShadowGraspConfig(base_policy="none"),
            replace(quick(), actor_out_gain=0.01, init_std=(0.3,) * 6 + (0.4,) * 18),
            TrainConfig(max_minutes=30.0),
        ),
        "unidexgrasp": Preset(
            unidexgrasp_config(),
            unidexgrasp(),
            TrainConfig(num_envs=1000, max_minutes=None, max_steps=10_000 * 8 * 1000),
        ),
    },
    make=make,
    check_objects=check_objects,
    eval_splits=("builtin:seen", "builtin:unseen", "builtin:unseen_category"),
)
