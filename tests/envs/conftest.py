"""A small shadow_grasp: three built-in objects, few environments."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dexjax.objects.bank import ObjectBank
from dexjax.objects.builtin import builtin_asset
from dexjax.objects.sampler import UniformSampler
from dexjax.sim.native import NativeEngine
from dexjax.sim.physics import physics_preset
from dexjax.sim.scene import build_scene
from envs.shadow_grasp.config import ShadowGraspConfig
from envs.shadow_grasp.env import ShadowGrasp

sys.path.append(str(Path(__file__).parents[1] / "rl"))  # the point mass environment


@pytest.fixture(scope="session")
def assets() -> list:
    return [builtin_asset(c, i) for c, i in (("can", 0), ("box", 2), ("mug", 0))]


@pytest.fixture(scope="session")
def scene(assets):
    return build_scene(assets)


@pytest.fixture(scope="session")
def make_env(assets, scene):
    """make_env(num_envs, stagger=..., physics=..., **config changes); no base policy by default."""

    def make(num_envs: int, *, stagger: bool = False, physics: str = "fast", **changes):
        cfg = replace(ShadowGraspConfig(physics=physics, base_policy="none"), **changes)
        settings = physics_preset(physics)
        return ShadowGrasp(
            cfg,
            scene,
            ObjectBank.from_assets(assets),
            UniformSampler(len(assets)),
            NativeEngine(scene, num_envs, settings, threads=2),
            control_dt=settings.control_dt,
            stagger=stagger,
        )

    return make
