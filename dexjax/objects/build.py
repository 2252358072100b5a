"""One mesh to one `ObjectAsset`: repair, mass, convex pieces, surface, stable poses, distances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import trimesh

from dexjax.core.errors import ConfigError, DataError
from dexjax.objects.asset import ObjectAsset
from dexjax.objects.convex import MAX_PIECES, convex_pieces, tidy_pieces
from dexjax.objects.mesh import clean_mesh, load_raw
from dexjax.objects.sdf import RESOLUTION, signed_distance_grid
from dexjax.objects.stable import stable_poses
from dexjax.objects.surface import surface_points
from dexjax.objects.volume import oriented_box, solid_properties

DENSITY = 500.0  # kg/m^3, the density of UniDexGrasp's objects
NUM_SURFACE_POINTS = 1024
MAX_MASS = 50.0  # kg: a larger one is a wrong unit of mass


@dataclass(frozen=True)
class AssetOptions:
    """What is built for an object; all but `sdf` is part of the cache key."""

    mesh_scale: float = 1.0
    """Factor from the file's unit to metres."""
    density: float = DENSITY
    """kg/m^3, where no mass is given."""
    max_pieces: int = MAX_PIECES
    """At most this many convex pieces (1: the convex hull)."""
    concavity: float = 0.08
    """CoACD threshold: finer decomposition below, coarser above."""
    sdf: bool = True
    """Also the signed distance grid (1 MiB and a third of a second per object)."""


def build_asset(
    mesh: trimesh.Trimesh | str | Path,
    *,
    name: str | None = None,
    category: str = "",
    options: AssetOptions = AssetOptions(),  # noqa: B008  frozen
    pieces: Sequence[np.ndarray] | None = None,
    face_parts: np.ndarray | None = None,
    part_names: Sequence[str] = (),
    part_affordances: Mapping[str, Sequence[str]] | None = None,
    mass: float | None = None,
) -> ObjectAsset:
    """Build an asset from a mesh or mesh file, without the cache (see `load_or_build`).

    pieces: exact convex pieces (each (n, 3), mesh frame) instead of CoACD's. face_parts: (F,)
    index into part_names per face of the input; closed holes take a neighbour's. mass: kg.
    Raises `DataError` naming the mesh, the fault and the remedy.
    """
    if isinstance(mesh, trimesh.Trimesh):
        source = "builtin" if pieces is not None else "mesh"
        name = name or "object"
        where, raw = name, mesh
    else:
        source = where = str(mesh)
        name = name or Path(mesh).stem
        raw = load_raw(Path(mesh))
    _check_inputs(raw, where, face_parts, part_names, mass, options)
    clean, notes, source_face = clean_mesh(raw, scale=options.mesh_scale, where=where)
    said = list(notes)

    given = None if pieces is None else [np.asarray(p) * options.mesh_scale for p in pieces]
    solid = solid_properties(clean, given)
    if given is None:
        hulls, more = convex_pieces(
            clean, solid.volume, threshold=options.concavity, max_pieces=options.max_pieces
        )
        if solid.note and "hull" in solid.note:
            solid = solid_properties(clean, hulls)
    else:
        hulls, more = tidy_pieces(given)
    said += more
    if solid.note:
        said.append(solid.note)
    if mass is None:
        mass = options.density * solid.volume
    inertia = solid.inertia * (mass / solid.volume)

    centred = trimesh.Trimesh(clean.vertices - solid.centre, clean.faces, process=False)
    hulls = [p - solid.centre for p in hulls]
    points, normals = surface_points(centred, NUM_SURFACE_POINTS)
    poses, drop_notes = stable_poses(hulls, mass, inertia)
    said += drop_notes
    asset = ObjectAsset(
        name=name,
        category=category,
        source=source,
        vertices=np.asarray(centred.vertices, np.float64),
        faces=np.asarray(centred.faces, np.int32),
        pieces=tuple(hulls),
        surface_points=points,
        surface_normals=normals,
        mass=float(mass),
        inertia=inertia,
        box=oriented_box(centred),
        stable_poses=poses,
        mesh_origin=-solid.centre,
        face_parts=None if face_parts is None else _carry_parts(face_parts, source_face, centred),
        part_names=tuple(part_names),
        part_affordances={k: tuple(v) for k, v in (part_affordances or {}).items()},
        notes=tuple(said),
    )
    return with_sdf(asset) if options.sdf else asset


def with_sdf(asset: ObjectAsset, resolution: int = RESOLUTION) -> ObjectAsset:
    """The same asset with its signed distance grid (as it is if it has one)."""
    if asset.sdf is not None and asset.sdf.values.shape[0] == resolution:
        return asset
    mesh = trimesh.Trimesh(asset.vertices, asset.faces, process=False)
    return replace(asset, sdf=signed_distance_grid(mesh, resolution))


def _check_inputs(
    raw: trimesh.Trimesh,
    where: str,
    face_parts: np.ndarray | None,
    part_names: Sequence[str],
    mass: float | None,
    options: AssetOptions,
) -> None:
    if mass is not None and not (np.isfinite(mass) and 0 < mass <= MAX_MASS):
        raise DataError(f"{where}: mass {mass} kg is not in (0, {MAX_MASS:g}]; is it in grams?")
    if not (np.isfinite(options.density) and options.density > 0):
        raise ConfigError(f"density {options.density} must be positive (kg/m^3)")
    if not 1 <= options.max_pieces <= MAX_PIECES:
        raise ConfigError(f"max_pieces {options.max_pieces} must be 1 .. {MAX_PIECES}")
    if not 0.01 <= options.concavity <= 1.0:
        raise ConfigError(f"concavity {options.concavity} must be 0.01 .. 1 (CoACD threshold)")
    if face_parts is not None:
        face_parts = np.asarray(face_parts)
        if face_parts.shape != (len(raw.faces),):
            raise DataError(
                f"{where}: face_parts has shape {face_parts.shape}, the mesh {len(raw.faces)} "
                "faces; labels must be per face, in the file's order"
            )
        if face_parts.min() < 0 or face_parts.max() >= len(part_names):
            raise DataError(
                f"{where}: face_parts holds {face_parts.min()} .. {face_parts.max()}, "
                f"but {len(part_names)} part_names are given"
            )


def _carry_parts(
    face_parts: np.ndarray, source_face: np.ndarray, mesh: trimesh.Trimesh
) -> np.ndarray:
    """Part of each clean face; a face that closed a hole takes that of the nearest old face."""
    parts = np.asarray(face_parts)[np.maximum(source_face, 0)]
    new = np.flatnonzero(source_face < 0)
    if len(new):
        centres = mesh.triangles_center
        old = np.flatnonzero(source_face >= 0)
        for i in new:
            parts[i] = parts[old[((centres[old] - centres[i]) ** 2).sum(axis=1).argmin()]]
    return parts.astype(np.int16)
