"""Built-in shapes as cached `ObjectAsset`s."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import trimesh

from dexjax.core.errors import DataError, unknown_name
from dexjax.objects.asset import ObjectAsset
from dexjax.objects.build import AssetOptions, build_asset
from dexjax.objects.builtin.splits import SPLITS, make_shape
from dexjax.objects.cache import default_cache_dir, read_asset, write_asset


def builtin_asset(
    category: str,
    instance: int,
    *,
    seed: int = 0,
    sdf: bool = False,
    cache_dir: str | Path | None = None,
) -> ObjectAsset:
    """Asset of one built-in instance, from the cache if it was built before.

    The shape's axes are kept, its origin moves to the centre of mass. sdf: also the distance grid.
    The cache key is the recipe (generator sources, names, seed, options), so a cached object costs
    one file read and no geometry.
    """
    options = AssetOptions(sdf=sdf)
    recipe = json.dumps([_sources(), category, instance, seed, asdict(options)], sort_keys=True)
    folder = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    file = folder / f"builtin-{hashlib.sha256(recipe.encode()).hexdigest()[:32]}.npz"
    if file.exists():
        try:
            return read_asset(file)
        except DataError:  # damaged, or of another format: built again below
            pass
    shape = make_shape(category, instance, seed)
    asset = build_asset(
        trimesh.Trimesh(shape.vertices, shape.faces, process=False),
        name=shape.name,
        category=shape.category,
        options=options,
        pieces=shape.pieces,
        face_parts=shape.face_parts,
        part_names=shape.part_names,
        part_affordances=shape.part_affordances,
        mass=shape.mass,
    )
    write_asset(asset, file)
    return asset


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
    if split not in SPLITS:
        raise unknown_name("built-in object split", split, SPLITS)
    assets = []
    for category in SPLITS[split].categories:
        for instance in SPLITS[split].instances:
            asset = builtin_asset(category, instance, seed=seed, sdf=sdf, cache_dir=cache_dir)
            assets.append(asset)
            if progress is not None:
                progress(asset.name)
    return assets


@functools.cache
def _sources() -> str:
    """Digest of the generators' source files: a changed generator never meets its old objects."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
