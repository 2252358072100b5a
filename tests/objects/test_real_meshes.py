"""The real meshes beside the repository: what is built, refused, and how long it takes."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from dexjax.objects.batch import build_assets
from dexjax.objects.build import AssetOptions
from dexjax.objects.scan import scan_folder

# One each of: single hull, several pieces, sheets, normalised, labelled, thin.
SAMPLE = (
    "ycb/apple", "ycb/banana", "ycb/fork", "dexgraspbench_sample/can_be67418a",
    "contactdb_object_sim/hammer", "affordancegrasp_shapenet/knife_89f69d95",
)  # fmt: skip


def check(asset) -> None:
    """What holds of every asset, whatever its shape."""
    assert asset.mass > 0 and np.linalg.eigvalsh(asset.inertia)[0] > 0
    assert 1 <= len(asset.pieces) <= 16 and all(4 <= len(p) <= 64 for p in asset.pieces)
    assert 0.005 <= 2 * asset.box.half_extents[0] <= 1.2
    assert 1 <= len(asset.stable_poses.quat) <= 8
    assert asset.stable_poses.probability.sum() == pytest.approx(1)
    assert (asset.stable_poses.height > 0).all()
    # Pieces cover the surface: no point farther out than 4 mm or 4 % of the longest side.
    hulls = [ConvexHull(p) for p in asset.pieces]
    outside = np.min(
        [(asset.surface_points @ h.equations[:, :3].T + h.equations[:, 3]).max(axis=1)
         for h in hulls], axis=0)  # fmt: skip
    assert outside.max() < max(0.004, 0.08 * asset.box.half_extents[0]), asset.name


def test_a_sample_of_every_kind(shared, tmp_path):
    items, _ = scan_folder(shared / "data" / "objects")
    chosen = [i for i in items if i.name in SAMPLE]
    assets, report = build_assets(
        chosen, options=AssetOptions(sdf=False), workers=2, progress=False, cache_dir=tmp_path
    )
    assert report.refused == () and len(assets) == len(SAMPLE)
    for asset in assets:
        check(asset)
    found = {a.name: a for a in assets}
    assert found["ycb/apple"].mass == 0.068 and found["ycb/banana"].category == "banana"
    hammer = found["contactdb_object_sim/hammer"]
    assert set(hammer.part_names) == {"head", "handle"}
    assert len(hammer.face_parts) == len(hammer.faces)


def test_unlikely_sizes_are_refused_with_a_scale_that_works(shared, tmp_path):
    """Bullet's random shapes claim metres and are 6 to 10 m long."""
    items, _ = scan_folder(shared / "data" / "objects" / "pybullet_data")
    random = [i for i in items if i.name.startswith("random")]
    _, report = build_assets(
        random, options=AssetOptions(sdf=False), workers=0, progress=False, cache_dir=tmp_path
    )
    assert len(report.refused) == len(random) == 5
    assert all("--mesh-scale 0.01" in row.why for row in report.refused)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_meshes_build_and_load_again(shared, tmp_path):
    items, refused = scan_folder(shared / "data" / "objects")
    assert refused == [] and len(items) >= 134
    assets, report = build_assets(
        items, workers=2, progress=False, cache_dir=tmp_path, auto_scale=True
    )
    assert report.refused == ()
    for asset in assets:
        check(asset)
    # On two idle cores; the machine's other work is the tester's to weigh.
    assert report.seconds < 15 * 60
    began = time.perf_counter()
    again, second = build_assets(
        items, workers=2, progress=False, cache_dir=tmp_path, auto_scale=True
    )
    assert time.perf_counter() - began < 10
    assert {r.status for r in second.rows} == {"cached"} and len(again) == len(assets)
