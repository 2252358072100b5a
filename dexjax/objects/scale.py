"""The same object larger or smaller, without building it again."""

from __future__ import annotations

from dataclasses import replace

from dexjax.core.errors import ConfigError
from dexjax.objects.asset import ObjectAsset, OrientedBox, SignedDistanceGrid, StablePoses


def scaled(asset: ObjectAsset, factor: float) -> ObjectAsset:
    """`asset` times `factor` about its centre of mass, of the same density, named `NAME@FACTOR`.

    Its distance grid, if any, shares the values' memory only where the factor is 1. Raises
    ConfigError unless 0.1 <= factor <= 10.
    """
    if not 0.1 <= factor <= 10:  # also NaN
        raise ConfigError(
            f"object {asset.name}: scale {factor:g} is not within 0.1 .. 10; these factors vary an "
            "object, other units are what --mesh-scale is for"
        )
    if factor == 1:
        return asset
    f, box, sdf, poses = factor, asset.box, asset.sdf, asset.stable_poses
    return replace(
        asset,
        name=f"{asset.name}@{factor:g}",
        vertices=f * asset.vertices,
        pieces=tuple(f * piece for piece in asset.pieces),
        surface_points=(f * asset.surface_points).astype(asset.surface_points.dtype),
        mass=f**3 * asset.mass,
        inertia=f**5 * asset.inertia,
        box=OrientedBox(f * box.centre, box.axes, f * box.half_extents),
        stable_poses=StablePoses(poses.quat, f * poses.height, poses.probability),
        mesh_origin=f * asset.mesh_origin,
        sdf=sdf
        and SignedDistanceGrid(
            (f * sdf.values).astype(sdf.values.dtype), f * sdf.origin, f * sdf.spacing
        ),
    )
