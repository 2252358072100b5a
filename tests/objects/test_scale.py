"""A scaled asset equals the asset built from the scaled mesh."""

from __future__ import annotations

import numpy as np
import pytest
import shapes

from dexjax.core.errors import ConfigError
from dexjax.objects.build import AssetOptions, build_asset, with_sdf
from dexjax.objects.scale import scaled
from dexjax.objects.sdf import query
from dexjax.objects.select import check_objects, select_objects


def test_scaled_asset_equals_scaled_mesh():
    options = AssetOptions(sdf=False)
    mesh, factor = shapes.capsule(), 1.3
    small = with_sdf(build_asset(mesh, name="pill", category="pill", options=options), 24)
    mesh = shapes.capsule().apply_scale(factor)
    large = with_sdf(build_asset(mesh, name="pill", category="pill", options=options), 24)
    ours = scaled(small, factor)
    assert ours.name == "pill@1.3" and ours.category == "pill"
    np.testing.assert_allclose(ours.mass, large.mass, rtol=1e-6)
    np.testing.assert_allclose(ours.inertia, large.inertia, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(ours.vertices, large.vertices, atol=1e-9)
    np.testing.assert_allclose(ours.box.half_extents, large.box.half_extents, rtol=1e-5)
    # Resting heights come from dropping in simulation, at most a fraction of a millimetre apart.
    assert min(ours.stable_poses.height) == pytest.approx(min(large.stable_poses.height), abs=5e-4)
    # Inside the grids, whose 24 nodes differ by the margin in where they lie on the shape.
    points = ours.surface_points + np.random.default_rng(0).normal(0, 3e-3, (1024, 3))
    np.testing.assert_allclose(query(ours.sdf, points), query(large.sdf, points), atol=3e-4)
    inside = np.einsum("nd,nd->n", ours.surface_points - ours.box.centre, ours.surface_normals)
    assert (inside > 0).mean() > 0.95  # normals still point outwards
    assert scaled(small, 1.0) is small


def test_selection_by_scale():
    chosen = select_objects("builtin:seen:box_000,mug_000@0.8,1+builtin:seen:knife_000")
    names = [a.name for a in chosen.assets]
    assert len(names) == 5 and len(set(names)) == 5
    light, box = chosen.assets[:2]
    assert light.name == f"{box.name}@0.8" and light.mass == pytest.approx(0.512 * box.mass)


@pytest.mark.parametrize("text, word", [("@0.8,x", "factors"), ("@0", "0.1"), ("@nan", "0.1")])
def test_bad_factors(text, word):
    with pytest.raises(ConfigError, match=word):
        select_objects("builtin:seen:box_000" + text)


@pytest.mark.parametrize("text", ["builtin:sen", "builtin:seen:mug_9", "nosuchfolder", "{}:cub"])
def test_unknown_objects_are_found_without_building(text, tmp_path):
    shapes.box().export(tmp_path / "cube.obj")
    check_objects(f"builtin:seen@0.5+builtin:seen:mug_000+{tmp_path}:cube+{tmp_path}:graspable")
    with pytest.raises(ConfigError):
        check_objects(f"builtin:seen+{text.format(tmp_path)}")
