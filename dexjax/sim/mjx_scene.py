"""The scene of the `mjx` engine: the hand's model without object geometry, and every object as a
distance grid, support points and inertia."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from dexjax.core.errors import ConfigError, DataError
from dexjax.hands import load_hand
from dexjax.objects.asset import ObjectAsset
from dexjax.objects.bank import available_memory, check_grids
from dexjax.objects.convex import simplify_hull
from dexjax.sim.distance import DistanceTable, bricks, num_cells
from dexjax.sim.scene import (
    OBJECT_BODY,
    Scene,
    SceneConfig,
    fill_object,
    hand_spec,
    make_scene,
    principal_inertia,
)

NUM_SUPPORT = 128  # points of the convex hull that may touch the table


@dataclass(frozen=True)
class MjxScene(Scene):
    """A scene whose objects are data: any number of them in one compiled program."""

    table: DistanceTable
    thin: tuple[tuple[str, str], ...]  # (name, reason) of objects that the grid hardly resolves


def build_mjx_scene(
    objects: Sequence[ObjectAsset],
    config: SceneConfig | None = None,
    *,
    memory_limit: int | None = None,
) -> MjxScene:
    """The scene for a bank of objects, each with its distance grid.

    Objects `NAME@FACTOR` that are NAME in another size share its grid. Raises ConfigError without
    objects, DataError where grids are missing or would take more than half of `memory_limit`
    (bytes; default: what is free on host and device).
    """
    config = config or SceneConfig()
    if not objects:
        raise ConfigError("a scene needs at least one object; the object list is empty")
    hand = load_hand(config.hand)
    spec = hand_spec(config, hand, visual=False)
    fill_object(spec, objects[0], [], 0)
    for sensor in list(spec.sensors):
        spec.delete(sensor)
    for geom in spec.geoms:  # contacts come from `dexjax.sim.contact`
        geom.contype = geom.conaffinity = 0
    model = spec.compile()
    scene = make_scene(
        model, config, hand, tuple(a.name for a in objects), _inertias(model, objects)
    )
    shared = {f.name: getattr(scene, f.name) for f in fields(Scene)}
    return MjxScene(
        **shared, table=distance_table(objects, memory_limit), thin=tuple(_thin(objects))
    )


def distance_table(
    objects: Sequence[ObjectAsset], memory_limit: int | None = None
) -> DistanceTable:
    """Grids of all objects in half precision, one per shape; see `build_mjx_scene`."""
    check_grids(objects)
    row, scale, kept = _shared_shapes(objects)
    size = len(kept[0].sdf.values)  # type: ignore[union-attr]
    need = len(kept) * 2 * num_cells(size)
    free = available_memory() if memory_limit is None else memory_limit
    if free is not None and need > free / 2:
        raise DataError(
            f"the distance grids of {len(kept)} shapes ({len(objects)} objects) need "
            f"{need / 2**20:.0f} MiB, but only {free / 2**20:.0f} MiB are free (half may be used); "
            "take fewer shapes (sizes of one shape, FOLDER:names@0.8,1,1.2, share a grid) or "
            "coarser grids: a grid of half the resolution takes an eighth"
        )
    values = np.empty((len(kept), num_cells(size)), np.float16)
    for i, asset in enumerate(kept):
        values[i] = bricks(asset.sdf.values)  # type: ignore[union-attr]
    return DistanceTable(
        values=jnp.asarray(values),
        origin=jnp.asarray([a.sdf.origin for a in kept], jnp.float32),  # type: ignore[union-attr]
        spacing=jnp.asarray([a.sdf.spacing for a in kept], jnp.float32),  # type: ignore[union-attr]
        grid=jnp.asarray(row, jnp.int32),
        scale=jnp.asarray(scale, jnp.float32),
        support=jnp.asarray(np.stack([_support_points(a) for a in kept]), jnp.float32),
        size=size,
    )


def table_bytes(table: DistanceTable) -> int:
    """Bytes that the table holds on the device."""
    return sum(x.nbytes for x in jax.tree.leaves(table))


def _shared_shapes(
    objects: Sequence[ObjectAsset],
) -> tuple[list[int], list[float], list[ObjectAsset]]:
    """For each object the row of its shape and its size over that shape's; one object per shape.

    Names only suggest which objects may be one shape: the grids must agree to 1e-5.
    """
    row: list[int] = []
    scale: list[float] = []
    kept: list[ObjectAsset] = []
    candidates: dict[str, list[int]] = {}
    for asset in objects:
        mine = asset.sdf
        base = asset.name.rpartition("@")[0] or asset.name
        assert mine is not None
        for k in candidates.get(base, []):
            other = kept[k].sdf
            assert other is not None
            factor = float(mine.spacing[0] / other.spacing[0])
            same = np.allclose(mine.spacing, factor * other.spacing, rtol=1e-5)
            same &= np.allclose(mine.origin, factor * other.origin, rtol=1e-5, atol=1e-7)
            if same and np.allclose(mine.values, factor * other.values, rtol=1e-5, atol=1e-7):
                row.append(k)
                scale.append(factor)
                break
        else:
            candidates.setdefault(base, []).append(len(kept))
            row.append(len(kept))
            scale.append(1.0)
            kept.append(asset)
    return row, scale, kept


def _support_points(asset: ObjectAsset) -> np.ndarray:
    points = simplify_hull(np.concatenate(asset.pieces), NUM_SUPPORT)
    return np.concatenate([points, np.repeat(points[:1], NUM_SUPPORT - len(points), axis=0)])


def _thin(objects: Sequence[ObjectAsset]) -> list[tuple[str, str]]:
    """Objects whose walls the grid cannot show: nowhere a full cell of depth inside."""
    found = []
    for asset in objects:
        assert asset.sdf is not None
        depth, cell = -float(asset.sdf.values.min()), float(asset.sdf.spacing.max())
        if depth < 0.5 * cell:
            found.append(
                (
                    asset.name,
                    f"at most {2000 * depth:.1f} mm thick, grid cells are {1000 * cell:.1f} mm: "
                    "fingers may pass through; use a finer grid or engine 'native'",
                )
            )
    return found


def _inertias(model: mujoco.MjModel, objects: Sequence[ObjectAsset]) -> dict[str, np.ndarray]:
    """Model fields in which the objects' models differ, (objects, *field shape).

    What MuJoCo's compiler derives for a free body whose frame is at its centre of mass: inverse
    weights are 1 / m and the mean of 1 / I.
    """
    body = model.body(OBJECT_BODY).id
    joint = model.joint("object_joint").id
    dof = int(model.jnt_dofadr[joint])
    names = ("body_mass", "body_inertia", "body_iquat", "body_invweight0", "dof_invweight0")
    rows = {n: np.repeat(getattr(model, n)[None], len(objects), axis=0) for n in names}
    for i, asset in enumerate(objects):
        principal, quat = principal_inertia(asset)
        weight = np.array([1 / asset.mass, (1 / principal).mean()])
        rows["body_mass"][i, body] = asset.mass
        rows["body_inertia"][i, body] = principal
        rows["body_iquat"][i, body] = quat
        rows["body_invweight0"][i, body] = weight
        rows["dof_invweight0"][i, dof : dof + 6] = np.repeat(weight, 3)
    return rows
