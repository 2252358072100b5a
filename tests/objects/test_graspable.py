"""The rule for what a hand can take, on shapes whose sizes are known."""

from __future__ import annotations

import pytest
import trimesh

from dexjax.core.errors import ConfigError
from dexjax.objects.build import AssetOptions, build_asset
from dexjax.objects.graspable import why_not_graspable
from dexjax.objects.select import select_objects


def asset(mesh, **kwargs):
    return build_asset(mesh, name="x", category="x", options=AssetOptions(sdf=False), **kwargs)


@pytest.mark.parametrize(
    "extents, mass, why",
    [
        ((0.20, 0.06, 0.05), 0.5, None),
        ((0.20, 0.06, 0.05), 1.2, "1.20 kg"),
        ((0.20, 0.16, 0.05), 0.5, "16.0 cm wide"),
        ((0.20, 0.06, 0.010), 0.5, "1.0 cm high"),
    ],
)
def test_boxes(extents, mass, why):
    found = why_not_graspable(asset(trimesh.creation.box(extents), mass=mass))
    assert found is None if why is None else why in found


def test_a_wide_object_with_a_handle_is_taken_by_the_handle():
    """A disc of 24 cm is too wide; two of them on a bar are held by the bar."""
    disc = trimesh.creation.cylinder(0.12, 0.03)
    assert "wide" in why_not_graspable(asset(disc, mass=0.5))
    ends = [disc.copy().apply_translation([s * 0.2, 0, 0]) for s in (-1, 1)]
    bar = trimesh.creation.box((0.4, 0.03, 0.03))
    dumbbell = trimesh.boolean.union([*ends, bar])
    assert why_not_graspable(asset(dumbbell, mass=0.5)) is None


def test_selection_leaves_out_and_says_why(tmp_path):
    for name, extents in (("bar", (0.2, 0.05, 0.05)), ("slab", (0.3, 0.3, 0.02))):
        trimesh.creation.box(extents).export(tmp_path / f"{name}.obj")
    chosen = select_objects(f"{tmp_path}:graspable", workers=0, progress=False)
    assert [a.name for a in chosen.assets] == ["bar"]
    ((name, why),) = chosen.left_out
    assert name == "slab" and "30.0 cm wide" in why
    (tmp_path / "bar.obj").unlink()
    with pytest.raises(ConfigError, match="30.0 cm wide"):
        select_objects(f"{tmp_path}:graspable", workers=0, progress=False)
