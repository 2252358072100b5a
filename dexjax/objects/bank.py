"""All objects of a run as padded arrays for `jit`: sampling an object is indexing a row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dexjax.core.errors import ConfigError, DataError
from dexjax.objects.asset import ObjectAsset
from dexjax.objects.convex import simplify_hull

NUM_HULL_POINTS = 32


@struct.dataclass
class ObjectBank:
    """N objects, each in its own frame (origin at the centre of mass), float32, SI units.

    Padding repeats the first entry, so that any index gives a valid value.
    """

    mass: jax.Array  # (N,)
    surface_points: jax.Array  # (N, P, 3) even samples in farthest-point order
    surface_normals: jax.Array  # (N, P, 3) outward
    hull_points: jax.Array  # (N, H, 3) extreme points of the convex pieces
    box_centre: jax.Array  # (N, 3)
    box_axes: jax.Array  # (N, 3, 3) rows are unit axes, longest extent first
    box_half_extents: jax.Array  # (N, 3) descending
    stable_quat: jax.Array  # (N, S, 4) wxyz
    stable_height: jax.Array  # (N, S) centre of mass above the plane
    stable_probability: jax.Array  # (N, S) zero in the padding
    stable_count: jax.Array  # (N,) int32
    mesh_origin: jax.Array  # (N, 3) origin of the source mesh
    sdf_values: jax.Array | None  # (N, n, n, n)
    sdf_origin: jax.Array | None  # (N, 3)
    sdf_spacing: jax.Array | None  # (N, 3)
    names: tuple[str, ...] = struct.field(pytree_node=False)
    categories: tuple[str, ...] = struct.field(pytree_node=False)

    @property
    def num_objects(self) -> int:
        return len(self.names)

    @classmethod
    def from_assets(
        cls,
        assets: Sequence[ObjectAsset],
        *,
        num_points: int = 64,
        num_hull_points: int = NUM_HULL_POINTS,
        sdf: bool = False,
        memory_limit: int | None = None,
    ) -> ObjectBank:
        """Stack assets. `sdf` also stacks their distance grids (all must have one of one size).

        Raises `DataError` if the bank would take more than half of `memory_limit` (bytes;
        default: what is free on host and device), before anything is allocated.
        """
        assets = list(assets)
        if not assets:
            raise DataError("an object bank needs at least one object; was every mesh refused?")
        names = [a.name for a in assets]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise DataError(f"object names must be unique; twice in this bank: {', '.join(twice)}")
        fewest = min(len(a.surface_points) for a in assets)
        if not 1 <= num_points <= fewest:
            raise ConfigError(f"num_points {num_points} must be 1 .. {fewest}")
        if sdf:
            check_grids(assets)
        need = estimate_bytes(assets, num_points, num_hull_points, sdf)
        free = available_memory() if memory_limit is None else memory_limit
        if free is not None and need > free / 2:
            raise DataError(
                f"the object bank needs {need / 2**20:.0f} MiB for {len(assets)} objects, but "
                f"only {free / 2**20:.0f} MiB are free (half may be used); take fewer objects"
                + (", no distance grids" if sdf else "")
                + " or fewer surface points"
            )
        stack = lambda get: jnp.asarray(np.stack([get(a) for a in assets]), jnp.float32)  # noqa: E731
        poses = [a.stable_poses for a in assets]
        most = max(len(p.quat) for p in poses)
        pad = lambda x: np.concatenate([x, np.repeat(x[:1], most - len(x), axis=0)])  # noqa: E731
        f32 = lambda rows: jnp.asarray(np.stack(rows), jnp.float32)  # noqa: E731
        return cls(
            mass=stack(lambda a: a.mass),
            surface_points=stack(lambda a: a.surface_points[:num_points]),
            surface_normals=stack(lambda a: a.surface_normals[:num_points]),
            hull_points=stack(lambda a: extreme_points(a, num_hull_points)),
            box_centre=stack(lambda a: a.box.centre),
            box_axes=stack(lambda a: a.box.axes),
            box_half_extents=stack(lambda a: a.box.half_extents),
            stable_quat=f32([pad(p.quat) for p in poses]),
            stable_height=f32([pad(p.height) for p in poses]),
            stable_probability=f32([np.pad(p.probability, (0, most - len(p.quat))) for p in poses]),
            stable_count=jnp.asarray([len(p.quat) for p in poses], jnp.int32),
            mesh_origin=stack(lambda a: a.mesh_origin),
            sdf_values=stack(lambda a: a.sdf.values) if sdf else None,
            sdf_origin=stack(lambda a: a.sdf.origin) if sdf else None,
            sdf_spacing=stack(lambda a: a.sdf.spacing) if sdf else None,
            names=tuple(names),
            categories=tuple(a.category for a in assets),
        )


def extreme_points(asset: ObjectAsset, count: int = NUM_HULL_POINTS) -> np.ndarray:
    """(count, 3) vertices of the hull of the convex pieces, padded by repeating the first.

    Their lowest point stands in for the object's: exact where the hull has at most `count`
    vertices, else high by at most 12 % of the radius (spheres).
    """
    points = simplify_hull(np.concatenate(asset.pieces), count)
    return np.concatenate([points, np.repeat(points[:1], count - len(points), axis=0)])


def estimate_bytes(
    assets: Sequence[ObjectAsset], num_points: int, num_hull_points: int, sdf: bool
) -> int:
    """Bytes that `from_assets` will hold in float32."""
    poses = max(len(a.stable_poses.quat) for a in assets)
    floats = 1 + 6 * num_points + 3 * num_hull_points + 15 + 6 * poses + 1 + 3
    if sdf:
        floats += assets[0].sdf.values.size + 6  # type: ignore[union-attr]
    return 4 * floats * len(assets)


def available_memory() -> int | None:
    """Bytes free for new arrays, the smaller of host and default device; None if unknown."""
    known = []
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                known.append(int(line.split()[1]) * 1024)
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        known.append(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return min(known) if known else None


def check_grids(assets: Sequence[ObjectAsset]) -> None:
    """Raise DataError unless all assets have distance grids, of one size."""
    without = [a.name for a in assets if a.sdf is None]
    if without:
        raise DataError(
            f"{len(without)} objects have no signed distance grid ({', '.join(without[:3])}); "
            "build with AssetOptions(sdf=True) or add it with `with_sdf`"
        )
    sizes = {a.sdf.values.shape for a in assets}  # type: ignore[union-attr]
    if len(sizes) > 1:
        raise DataError(f"distance grids differ in size: {sorted(sizes)}; build all alike")
