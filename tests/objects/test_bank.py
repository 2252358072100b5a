"""The bank: what `jit` sees equals the assets, and what does not fit is refused first."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes
import trimesh
from scipy.spatial import ConvexHull

from dexjax.core.errors import ConfigError, DataError
from dexjax.core.rotations import quat_rotate
from dexjax.objects.bank import ObjectBank, available_memory, estimate_bytes, extreme_points
from dexjax.objects.build import AssetOptions, build_asset, with_sdf
from dexjax.objects.sdf import query, query_jax


@pytest.fixture(scope="module")
def assets():
    quick = AssetOptions(sdf=False)
    shift = trimesh.transformations.translation_matrix([0.1, 0.2, 0.3])
    meshes = {"brick": shapes.box().apply_transform(shift), "pill": shapes.capsule(),
              "ball": trimesh.creation.icosphere(subdivisions=3, radius=0.04)}  # fmt: skip
    return [with_sdf(build_asset(m, name=n, category=n + "s", options=quick), 16)
            for n, m in meshes.items()]  # fmt: skip


def test_rows_equal_the_assets(assets):
    bank = ObjectBank.from_assets(assets, num_points=100)
    assert bank.names == ("brick", "pill", "ball") and bank.categories[0] == "bricks"
    assert bank.num_objects == 3 and bank.sdf_values is None
    assert all(x.dtype in (jnp.float32, jnp.int32) for x in jax.tree.leaves(bank))
    for i, asset in enumerate(assets):
        np.testing.assert_array_equal(bank.surface_points[i], asset.surface_points[:100])
        np.testing.assert_allclose(bank.mass[i], asset.mass, rtol=1e-6)
        np.testing.assert_allclose(bank.box_axes[i], asset.box.axes, atol=1e-6)
        count = int(bank.stable_count[i])
        assert count == len(asset.stable_poses.quat)
        np.testing.assert_allclose(bank.stable_quat[i, :count], asset.stable_poses.quat, atol=1e-6)
        # Padding is the first pose, with no probability.
        assert (bank.stable_quat[i, count:] == bank.stable_quat[i, 0]).all()
        assert (bank.stable_probability[i, count:] == 0).all()
        np.testing.assert_allclose(bank.mesh_origin[i], asset.mesh_origin, atol=1e-6)


def test_one_compilation_serves_all_objects(assets):
    bank = ObjectBank.from_assets(assets)
    traces = 0

    @jax.jit
    def lowest(bank: ObjectBank, ids: jax.Array, pose: jax.Array):
        nonlocal traces
        traces += 1
        points = quat_rotate(bank.stable_quat[ids, pose][:, None], bank.hull_points[ids])
        return points[..., 2].min(axis=1) + bank.stable_height[ids, pose]

    for ids in ([0, 0, 1], [2, 1, 0]):
        gap = lowest(bank, jnp.array(ids), jnp.array([0, 1, 0]))
        # Stable height puts the lowest corner on the plane; 32 of 64 vertices may miss it by
        # 12 % of the 40 mm radius at worst. The box is exact.
        assert (np.abs(gap) < 5e-3).all()
        assert np.abs(gap[np.array(ids) == 0]).max() < 1e-6
    assert traces == 1


def test_extreme_points_are_on_the_hull_and_padded(assets):
    box = extreme_points(assets[0], 32)
    assert box.shape == (32, 3) and len(np.unique(box, axis=0)) == 8
    ball = extreme_points(assets[2], 32)
    # Vertices stand out by 3 % so that the piece of 64 vertices keeps the ball's volume.
    assert np.linalg.norm(ball, axis=1) == pytest.approx(0.04, rel=0.035)
    directions = np.random.default_rng(0).normal(size=(1000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    # The bound that the docstring states: support within 12 % of a sphere's radius.
    assert (directions @ ball.T).max(axis=1).min() > 0.88 * 0.04
    assert ConvexHull(ball).volume > 0.75 * 4 / 3 * np.pi * 0.04**3


def test_distance_grids_by_object(assets):
    bank = ObjectBank.from_assets(assets, sdf=True)
    points = np.random.default_rng(0).uniform(-0.06, 0.06, (3, 50, 3)).astype(np.float32)
    value, _ = jax.vmap(query_jax)(bank.sdf_values, bank.sdf_origin, bank.sdf_spacing, points)
    for i, asset in enumerate(assets):
        np.testing.assert_allclose(value[i], query(asset.sdf, points[i]), atol=1e-6)


def test_the_estimate_is_the_size(assets):
    for sdf in (False, True):
        bank = ObjectBank.from_assets(assets, num_points=77, sdf=sdf)
        size = sum(x.nbytes for x in jax.tree.leaves(bank))
        assert estimate_bytes(assets, 77, 32, sdf) == size
    assert available_memory() is None or available_memory() > 2**20


def test_what_does_not_fit_is_refused_before_it_is_allocated(assets):
    with pytest.raises(DataError, match=r"needs .* MiB for 3 objects.*fewer objects"):
        ObjectBank.from_assets(assets, memory_limit=10_000)
    many = assets * 1  # limit just above and just below twice the need
    need = estimate_bytes(many, 64, 32, True)
    ObjectBank.from_assets(many, sdf=True, memory_limit=2 * need)
    with pytest.raises(DataError, match="no distance grids"):
        ObjectBank.from_assets(many, sdf=True, memory_limit=2 * need - 1)


def test_bad_banks_are_refused(assets):
    with pytest.raises(DataError, match="at least one"):
        ObjectBank.from_assets([])
    with pytest.raises(DataError, match="twice in this bank: brick"):
        ObjectBank.from_assets([assets[0], assets[0]])
    with pytest.raises(ConfigError, match="num_points 5000"):
        ObjectBank.from_assets(assets, num_points=5000)
    bare = build_asset(shapes.box(), name="bare", options=AssetOptions(sdf=False))
    with pytest.raises(DataError, match="1 objects have no signed distance grid"):
        ObjectBank.from_assets([*assets, bare], sdf=True)
    with pytest.raises(DataError, match="differ in size"):
        ObjectBank.from_assets([*assets, with_sdf(bare, 8)], sdf=True)
