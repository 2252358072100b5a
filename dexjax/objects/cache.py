"""Assets on disk: one .npz per (content, options, format), written atomically, never unpickled."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import trimesh

from dexjax.core.errors import DataError
from dexjax.core.folders import user_cache_dir
from dexjax.objects.asset import ObjectAsset, OrientedBox, SignedDistanceGrid, StablePoses
from dexjax.objects.build import AssetOptions, build_asset, with_sdf

FORMAT = 4  # raise when the file layout or any building step changes its result


class Loaded(NamedTuple):
    """An asset and where it came from."""

    asset: ObjectAsset
    status: str  # "cached", "built", "rebuilt: <why>"


def default_cache_dir() -> Path:
    """$XDG_CACHE_HOME/dexjax/objects, else ~/.cache/dexjax/objects; read at each call."""
    return user_cache_dir("objects")


def load_or_build(
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
    cache_dir: str | Path | None = None,
) -> Loaded:
    """`build_asset` through the cache. Names and labels of the call win over the stored ones.

    A file that is damaged or of another format is built again, and the status says so.
    """
    directory = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    key = content_key(mesh, options, pieces=pieces, face_parts=face_parts, mass=mass)
    file = directory / f"{key}.npz"
    status = "built"
    path = None if isinstance(mesh, trimesh.Trimesh) else Path(mesh)
    if file.exists():
        try:
            asset = read_asset(file, sdf=options.sdf)
        except DataError as error:
            status = f"rebuilt: {error}"
        else:
            if options.sdf and asset.sdf is None:
                asset = with_sdf(asset)
                write_asset(asset, file)
            labels = {k: tuple(v) for k, v in (part_affordances or {}).items()}
            return Loaded(
                replace(
                    asset,
                    name=name or (path.stem if path else "object"),
                    category=category,
                    source=str(path) if path else asset.source,
                    part_names=tuple(part_names),
                    part_affordances=labels,
                ),
                "cached",
            )
    asset = build_asset(
        mesh, name=name, category=category, options=options, pieces=pieces,
        face_parts=face_parts, part_names=part_names, part_affordances=part_affordances, mass=mass,
    )  # fmt: skip
    write_asset(asset, file)
    return Loaded(asset, status)


def content_key(
    mesh: trimesh.Trimesh | str | Path,
    options: AssetOptions,
    *,
    pieces: Sequence[np.ndarray] | None = None,
    face_parts: np.ndarray | None = None,
    mass: float | None = None,
) -> str:
    """Hex name of the cache file: what determines the asset, except its names.

    A file counts by its bytes (not its path), a mesh by its vertices and faces. The format is
    not part of it, so that a file of another version is found, named and replaced; nor is the
    distance grid, which is added to the file when it is first asked for.
    """
    digest = hashlib.sha256()

    def add(label: str, data: bytes) -> None:
        digest.update(f"{label}:{len(data)}:".encode())
        digest.update(data)

    if isinstance(mesh, trimesh.Trimesh):
        add("vertices", np.ascontiguousarray(mesh.vertices, np.float64).tobytes())
        add("faces", np.ascontiguousarray(mesh.faces, np.int64).tobytes())
    else:
        path = Path(mesh)
        try:
            add(f"file{path.suffix.lower()}", path.read_bytes())
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    what = {k: v for k, v in asdict(options).items() if k != "sdf"}
    add("options", json.dumps(what, sort_keys=True).encode())
    add("mass", repr(None if mass is None else float(mass)).encode())
    for piece in pieces or ():
        add("piece", np.ascontiguousarray(piece, np.float64).tobytes())
    add("pieces", str(pieces is not None).encode())
    if face_parts is not None:
        add("parts", np.ascontiguousarray(face_parts, np.int64).tobytes())
    return digest.hexdigest()[:40]


def write_asset(asset: ObjectAsset, file: Path) -> None:
    """Write one asset; readers and other writers see the old file or the whole new one."""
    meta = {
        "format": FORMAT,
        "name": asset.name,
        "category": asset.category,
        "source": asset.source,
        "mass": asset.mass,
        "part_names": asset.part_names,
        "part_affordances": asset.part_affordances,
        "notes": asset.notes,
        "piece_sizes": [len(p) for p in asset.pieces],
    }
    arrays = {
        "meta": np.frombuffer(json.dumps(meta).encode(), np.uint8),
        "vertices": asset.vertices,
        "faces": asset.faces,
        "pieces": np.concatenate(asset.pieces),
        "surface_points": asset.surface_points,
        "surface_normals": asset.surface_normals,
        "inertia": asset.inertia,
        "box_centre": asset.box.centre,
        "box_axes": asset.box.axes,
        "box_half_extents": asset.box.half_extents,
        "stable_quat": asset.stable_poses.quat,
        "stable_height": asset.stable_poses.height,
        "stable_probability": asset.stable_poses.probability,
        "mesh_origin": asset.mesh_origin,
    }
    if asset.sdf is not None:
        arrays |= {
            "sdf_values": asset.sdf.values,
            "sdf_origin": asset.sdf.origin,
            "sdf_spacing": asset.sdf.spacing,
        }
    if asset.face_parts is not None:
        arrays["face_parts"] = asset.face_parts
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=file.parent, prefix=".writing-", suffix=".tmp", delete=False
        ) as handle:
            temporary = Path(handle.name)
            handle.write(buffer.getbuffer())
        os.replace(temporary, file)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise DataError(
            f"{file.parent}: the object cache cannot be written ({error.strerror or error}); "
            "free some space or choose another folder"
        ) from error


def is_current(file: Path) -> bool:
    """Whether a cache file exists and is of this format, without reading its arrays."""
    try:
        with np.load(file, allow_pickle=False) as data:
            return json.loads(data["meta"].tobytes())["format"] == FORMAT
    except Exception:  # whatever is wrong with it, `read_asset` will say
        return False


def read_asset(file: str | Path, *, sdf: bool = True) -> ObjectAsset:
    """Read one asset, its distance grid only if `sdf`.

    Raises `DataError` if the file is damaged or of another format.
    """
    file = Path(file)
    try:
        with np.load(file, allow_pickle=False) as data:
            arrays = {k: data[k] for k in data.files if sdf or not k.startswith("sdf_")}
        meta = json.loads(arrays.pop("meta").tobytes())
        found = meta["format"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, TypeError,
            NotImplementedError, MemoryError) as error:  # fmt: skip
        kind = type(error).__name__
        raise DataError(f"{file}: damaged cache file ({kind}); delete it") from error
    if found != FORMAT:
        raise DataError(f"{file}: cache format {found}, this version writes {FORMAT}; delete it")
    try:
        asset = _from_arrays(meta, arrays)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{file}: damaged cache file ({error}); delete it") from error
    _check_shapes(asset, file)
    return asset


def _from_arrays(meta: dict, arrays: dict[str, np.ndarray]) -> ObjectAsset:
    sdf = None
    if "sdf_values" in arrays:
        sdf = SignedDistanceGrid(arrays["sdf_values"], arrays["sdf_origin"], arrays["sdf_spacing"])
    return ObjectAsset(
        name=meta["name"],
        category=meta["category"],
        source=meta["source"],
        vertices=arrays["vertices"],
        faces=arrays["faces"],
        pieces=tuple(np.split(arrays["pieces"], np.cumsum(meta["piece_sizes"])[:-1])),
        surface_points=arrays["surface_points"],
        surface_normals=arrays["surface_normals"],
        mass=float(meta["mass"]),
        inertia=arrays["inertia"],
        box=OrientedBox(arrays["box_centre"], arrays["box_axes"], arrays["box_half_extents"]),
        stable_poses=StablePoses(
            arrays["stable_quat"], arrays["stable_height"], arrays["stable_probability"]
        ),
        mesh_origin=arrays["mesh_origin"],
        sdf=sdf,
        face_parts=arrays.get("face_parts"),
        part_names=tuple(meta["part_names"]),
        part_affordances={k: tuple(v) for k, v in meta["part_affordances"].items()},
        notes=tuple(meta["notes"]),
    )


def _check_shapes(asset: ObjectAsset, file: Path) -> None:
    """A cheap guard: a file that passes the zip checksums but was written by something else."""
    poses = len(asset.stable_poses.quat)
    expected = (
        (asset.vertices, (len(asset.vertices), 3)),
        (asset.faces, (len(asset.faces), 3)),
        (asset.surface_points, (len(asset.surface_points), 3)),
        (asset.surface_normals, (len(asset.surface_points), 3)),
        (asset.inertia, (3, 3)),
        (asset.box.axes, (3, 3)),
        (asset.stable_poses.quat, (poses, 4)),
        (asset.stable_poses.height, (poses,)),
        (asset.mesh_origin, (3,)),
    )
    sound = all(array.shape == shape for array, shape in expected) and poses > 0
    sound = sound and all(np.isfinite(array).all() for array, _ in expected)
    sound = sound and asset.mass > 0 and all(p.ndim == 2 and len(p) > 3 for p in asset.pieces)
    if not sound:
        raise DataError(f"{file}: damaged cache file (wrong shapes or NaN); delete it")
