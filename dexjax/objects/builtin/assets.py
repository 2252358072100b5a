"""Built-in shapes as cached `ObjectAsset`s."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trimesh

from dexjax.objects.asset import ObjectAsset
from dexjax.objects.build import AssetOptions
from dexjax.objects.builtin.catalogue import BuiltinShape
from dexjax.objects.builtin.splits import builtin_shapes
from dexjax.objects.cache import load_or_build


def asset_of(
    shape: BuiltinShape, sdf: bool = False, cache_dir: str | Path | None = None
) -> ObjectAsset:
    """The asset of one shape, from the cache if it was built before.

    Its mesh frame is kept (axes), its origin moves to the centre of mass. sdf: also the grid.
    """
    return load_or_build(
        trimesh.Trimesh(shape.vertices, shape.faces, process=False),
        name=shape.name,
        category=shape.category,
        options=AssetOptions(sdf=sdf),
        pieces=shape.pieces,
        face_parts=shape.face_parts,
        part_names=shape.part_names,
        part_affordances=shape.part_affordances,
        mass=shape.mass,
        cache_dir=cache_dir,
    ).asset


def builtin_assets(
    split: str,
    *,
    seed: int = 0,
    sdf: bool = False,
    cache_dir: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[ObjectAsset]:
    """Assets of the split `seen`, `unseen` or `unseen_category`, in the order of `builtin_shapes`.

    sdf: build the signed distance grids too (slower). progress: called with each finished name.
    """
    assets = []
    for shape in builtin_shapes(split, seed):
        assets.append(asset_of(shape, sdf, cache_dir))
        if progress is not None:
            progress(shape.name)
    return assets
