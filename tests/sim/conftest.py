"""Scenes shared by the tests of the engine."""

from __future__ import annotations

import pytest
from simple_objects import box_asset, dumbbell_asset

from dexjax.objects.builtin import builtin_asset
from dexjax.sim.scene import Scene, SceneConfig, build_scene

BOX = (0.04, 0.04, 0.02)  # m, half sizes: the box of the incline probe


@pytest.fixture(scope="session")
def assets() -> list:
    """A box, three pieces with closed forms, and built-in objects of up to 12 pieces."""
    return [
        box_asset("plate", BOX, 0.128),
        dumbbell_asset("dumbbell", 0.2),
        builtin_asset("mug", 0),
        builtin_asset("hammer", 1),
        builtin_asset("banana", 0),
    ]


@pytest.fixture(scope="session")
def scene(assets) -> Scene:
    return build_scene(assets)


@pytest.fixture(scope="session")
def tendon_scene(assets) -> Scene:
    return build_scene(assets[:1], SceneConfig(coupling="tendon"))


@pytest.fixture(scope="session")
def wrench_scene(assets) -> Scene:
    return build_scene(assets[:2], SceneConfig(base="wrench"))
