"""A folder of meshes to a list of things to build: names, units, masses and part labels."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from dexjax.core.errors import DataError
from dexjax.core.safe_io import read_npz
from dexjax.objects.mesh import MESH_SUFFIXES, NORMALISED_SCALE

UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001, "in": 0.0254, "inch": 0.0254}


@dataclass(frozen=True)
class BuildItem:
    """One object to build: a mesh file or a mesh in memory, and what is known of it."""

    name: str
    mesh: Path | trimesh.Trimesh
    category: str = ""
    scale: float | None = None  # to metres; None: the options' mesh_scale
    mass: float | None = None  # kg
    pieces: tuple[np.ndarray, ...] | None = None  # exact convex pieces, mesh frame
    face_parts: np.ndarray | None = None
    part_names: tuple[str, ...] = ()
    part_affordances: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def find_meshes(folder: str | Path) -> list[Path]:
    """All mesh files below `folder`, sorted; a folder with a `mesh.*` counts as one object.

    In such a folder (and below it) other mesh files are parts or convex pieces of that object.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the folder that holds the meshes")
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in MESH_SUFFIXES and p.is_file())
    owners = {p.parent for p in files if p.stem == "mesh"}
    out = []
    for path in files:
        above = {path.parent, *path.parent.parents} & owners
        if not above or (path.stem == "mesh" and above == {path.parent}):
            out.append(path)
    if not out:
        raise DataError(
            f"{root}: no mesh in this folder or below it; known: {', '.join(MESH_SUFFIXES)}"
        )
    return out


def scan_folder(
    folder: str | Path, *, mesh_scale: float | None = None
) -> tuple[list[BuildItem], list[tuple[str, str]]]:
    """Items of all meshes below `folder`, and (name, fault) of those whose side files are broken.

    Beside a mesh, `meta.json` may give `category`, `unit`, `mass_kg`, and `face_parts.npz` the
    arrays `face_part` (F,) and `part_names`. `mesh_scale` replaces the unit for all meshes.
    """
    root = Path(folder)
    items, refused = [], []
    for path in find_meshes(root):
        relative = path.relative_to(root)
        name = relative.parent if path.stem == "mesh" else relative.with_suffix("")
        label = name.as_posix() if name.as_posix() != "." else root.resolve().name
        try:
            items.append(_item(label, path, mesh_scale))
        except DataError as error:
            refused.append((label, str(error)))
    seen: dict[str, Path | trimesh.Trimesh] = {}
    for item in items:  # cup.obj beside cup.stl
        if item.name in seen:
            refused.append((item.name, f"{item.mesh}: same name as {seen[item.name]}; rename one"))
        else:
            seen[item.name] = item.mesh
    return [i for i in items if seen[i.name] is i.mesh], refused


def _item(name: str, path: Path, mesh_scale: float | None) -> BuildItem:
    meta = _read_meta(path.parent / "meta.json") if path.stem == "mesh" else {}
    scale, notes = mesh_scale, []
    if scale is None and "unit" in meta:
        scale, note = unit_scale(meta["unit"], path.parent / "meta.json")
        notes += [note] if note else []
    face_parts: np.ndarray | None = None
    part_names: tuple[str, ...] = ()
    parts_file = path.parent / "face_parts.npz"
    if path.stem == "mesh" and parts_file.exists():
        face_parts, part_names = _read_parts(parts_file)
    mass = meta.get("mass_kg")
    if mass is not None and (isinstance(mass, bool) or not isinstance(mass, int | float)):
        raise DataError(f"{path.parent / 'meta.json'}: mass_kg {mass!r} must be a number in kg")
    return BuildItem(
        name=name,
        mesh=path,
        category=str(meta.get("category", "")),
        scale=scale,
        mass=mass,
        face_parts=face_parts,
        part_names=part_names,
        notes=tuple(notes),
    )


def unit_scale(unit: Any, where: Path | str) -> tuple[float, str | None]:
    """Factor to metres for a unit's name, and a note where it is a choice and not a fact."""
    text = str(unit).strip().lower()
    if text in UNITS:
        return UNITS[text], None
    if text.startswith(("normalised", "normalized", "unit")):
        return NORMALISED_SCALE, (
            f"normalised mesh scaled by {NORMALISED_SCALE:g} (middle of DexGraspNet's scales; "
            "--mesh-scale for another)"
        )
    raise DataError(f"{where}: unit {unit!r} is unknown; known: {', '.join(UNITS)}, normalised")


def _read_meta(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable JSON ({error}); repair or remove it") from error
    if not isinstance(meta, dict):
        raise DataError(f"{path}: must hold an object {{...}}, not {type(meta).__name__}")
    return meta


def _read_parts(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    data = read_npz(path)
    missing = {"face_part", "part_names"} - data.keys()
    if missing:
        raise DataError(f"{path}: lacks {', '.join(sorted(missing))}; found {sorted(data)}")
    labels = data["face_part"]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{path}: face_part must be one integer per face, not {labels.dtype}")
    return labels.astype(np.int64), tuple(str(n) for n in data["part_names"].reshape(-1))
