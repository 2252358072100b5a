"""UniDexGrasp and UniDexGrasp++ files: meshes by scale, grasps with their table plane, posedata.

    meshdatav3_scaled/<code>/coacd/decomposed_<scale code>.obj   already in metres
    datasetv4.1/<code>/<number>.npz                              qpos, scale (inverse), plane
    datasetv4.1_posedata.npy                                     the same for all objects

`<code>` is "<source>/<category>-<instance>". Split lists are read by `dexjax.data.splits`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from dexjax.core.errors import DataError
from dexjax.core.safe_io import read_npy, read_npz
from dexjax.data.records import (
    SHADOW_HAND,
    Grasp,
    GraspSet,
    MeshFile,
    MeshSet,
    Refusal,
    RestPose,
    number,
    parse_object_code,
    shadow_grasp,
    vector,
)

SCALES = (0.06, 0.08, 0.10, 0.12, 0.15)
"""Published object scales: metres per unit of a mesh of bounding radius about 1."""

_SCALED_MESH = re.compile(r"decomposed_(\d{3})\.obj")


def scale_code(scale: float) -> str:
    """The three digits that file names use for a scale: 0.06 -> "006"."""
    centimetres = scale * 100
    if not (0 < centimetres < 1000 and abs(centimetres - round(centimetres)) < 1e-4):
        raise DataError(f"scale {scale}: file names hold whole centimetres up to 9.99 m only")
    return f"{round(centimetres):03d}"


def parse_scale_code(code: str) -> float:
    """The scale of three digits: "006" -> 0.06."""
    if not re.fullmatch(r"[0-9]{3}", code):
        raise DataError(f"scale code {code!r}: expected three digits, as in 006")
    return int(code) / 100


def list_meshes(root: str | Path) -> MeshSet:
    """All scaled meshes under a `meshdatav3_scaled` folder, ordered by code and scale.

    An object of which only the normalised mesh exists is listed once, with scale None; an object
    folder without a mesh is refused by name. Raises DataError where there is no object at all.
    """
    meshes: list[MeshFile] = []
    refused: list[Refusal] = []
    for folder in sorted(Path(root).glob("*/*/coacd")):
        code = f"{folder.parent.parent.name}/{folder.parent.name}"
        scaled = [
            MeshFile(code, parse_scale_code(match[1]), path)
            for path in sorted(folder.glob("decomposed_*.obj"))
            if (match := _SCALED_MESH.fullmatch(path.name))
        ]
        normalised = folder / "decomposed.obj"
        if scaled:
            meshes.extend(scaled)
        elif normalised.is_file():
            meshes.append(MeshFile(code, None, normalised))
        else:
            refused.append(Refusal(str(folder), "no decomposed.obj or decomposed_<scale>.obj"))
    if not meshes and not refused:
        raise DataError(f"{root}: no <source>/<object>/coacd folder; give meshdatav3_scaled itself")
    return MeshSet(tuple(meshes), tuple(refused))


def find_mesh(root: str | Path, object_code: str, scale: float) -> MeshFile:
    """The mesh of one object at one scale: its own file, or the normalised mesh to be scaled."""
    folder = Path(root) / object_code / "coacd"
    scaled = folder / f"decomposed_{scale_code(scale)}.obj"
    if scaled.is_file():
        return MeshFile(object_code, scale, scaled)
    normalised = folder / "decomposed.obj"
    if normalised.is_file():
        return MeshFile(object_code, scale, normalised, vertex_scale=scale)
    raise DataError(f"{folder}: neither {scaled.name} nor {normalised.name}; check the code")


def read_grasp(path: str | Path, object_code: str) -> Grasp:
    """One grasp of `datasetv4.1/<code>/<number>.npz`.

    `scale` in the file is the inverse (12.5 means 0.08); `plane` (a, b, c, d) is the table in the
    metric object frame, the object on the side where ax + by + cz + d >= 0.
    """
    content = read_npz(path)
    for key in ("qpos", "scale", "plane"):
        if key not in content:
            raise DataError(f"{path}: no field {key!r}; not a UniDexGrasp grasp")
    inverse = number(content["scale"], f"{path}: scale")
    if inverse <= 1.0:
        raise DataError(
            f"{path}: scale {inverse} is not an inverse (12.5 means 0.08 m); "
            "DexGraspNet files store it directly: use dexjax.data.dexgraspnet"
        )
    qpos = content["qpos"]
    return shadow_grasp(
        qpos.item() if qpos.shape == () else qpos,
        object_code=str(parse_object_code(object_code)),
        object_scale=round(1.0 / inverse, 6),  # stored in single precision: 16.666668
        source=str(path),
        rest=rest_pose(vector(content["plane"], (4,), f"{path}: plane"), str(path)),
    )


def read_grasps(root: str | Path, object_codes: Collection[str] | None = None) -> GraspSet:
    """All grasps under a `datasetv4.1` folder, or those of some objects.

    A file that cannot be read is refused by name and the rest goes on. Raises DataError where
    there is no grasp file at all, or none of an object that was asked for.
    """
    root = Path(root)
    found = sorted({path.parent for path in root.glob("*/*/*.npz")})
    folders = found if object_codes is None else [root / code for code in sorted(object_codes)]
    if not folders or (missing := set(folders) - set(found)):
        missing_names = ", ".join(str(folder) for folder in sorted(missing)) if folders else root
        raise DataError(f"{missing_names}: no <source>/<object>/<number>.npz; check the path")
    grasps: list[Grasp] = []
    refused: list[Refusal] = []
    for folder in folders:
        code = f"{folder.parent.name}/{folder.name}"
        for path in sorted(folder.glob("*.npz")):
            try:
                grasps.append(read_grasp(path, code))
            except DataError as error:
                refused.append(Refusal(str(path), str(error)))
    return GraspSet(tuple(grasps), tuple(refused))


def read_posedata(path: str | Path, object_codes: Collection[str] | None = None) -> GraspSet:
    """All grasps of `datasetv4.1_posedata.npy`, or those of some objects.

    The file holds {code: {scale: {target_qpos (N, 22) FFJ3 .. THJ0, target_hand_pos (N, 3),
    target_hand_rot (N, 4) xyzw, object_euler_xy (N, 2), object_init_z (N,)}}}; scale is 0.06 or
    "006". An (object, scale) that is malformed is refused by name and the rest goes on.
    """
    table = read_npy(path)
    content = table.item() if table.shape == () else table
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}, not a table of objects")
    grasps: list[Grasp] = []
    refused: list[Refusal] = []
    for code, by_scale in content.items():
        if object_codes is not None and code not in object_codes:
            continue
        if not isinstance(by_scale, dict):
            refused.append(Refusal(f"{path}[{code}]", f"a {type(by_scale).__name__}, not scales"))
            continue
        for scale, entry in by_scale.items():
            where = f"{path}[{code}][{scale}]"
            try:
                grasps.extend(_posedata_entry(code, scale, entry, where))
            except DataError as error:
                refused.append(Refusal(where, str(error)))
    if object_codes is not None and (missing := set(object_codes) - set(content)):
        raise DataError(f"{path}: no object {', '.join(sorted(missing))}; check the codes")
    return GraspSet(tuple(grasps), tuple(refused))


def rest_pose(plane: np.ndarray, source: str) -> RestPose:
    """How the object lies on the table `plane` (a, b, c, d): (a, b, c) turned up, at height d.

    The rows of the rotation are an orthonormal frame of the plane. The released code forgets to
    normalise two of them, which tilts the object by up to 10 degrees (docs/deviations.md).
    """
    normal, offset = plane[:3], float(plane[3])
    length = float(np.linalg.norm(normal))
    if abs(length - 1.0) > 1e-3:
        raise DataError(f"{source}: plane normal has length {length:.4f}, expected 1")
    normal = normal / length
    a, b, c = normal
    second = np.array([-b, a, 0.0]) if c * c <= 0.5 else np.array([-c, 0.0, a])
    second /= np.linalg.norm(second)
    rotation = Rotation.from_matrix(np.stack([np.cross(second, normal), second, normal]))
    return RestPose(rotation.as_quat(canonical=True, scalar_first=True), offset / length)


def _posedata_entry(code: Any, scale: Any, entry: Any, where: str) -> list[Grasp]:
    widths = {"target_qpos": 22, "target_hand_pos": 3, "target_hand_rot": 4, "object_euler_xy": 2}
    keys = (*widths, "object_init_z")
    if not isinstance(code, str) or not isinstance(entry, dict) or set(keys) - set(entry):
        raise DataError(f"{where}: expected a table of {', '.join(keys)}")
    metres = parse_scale_code(scale) if isinstance(scale, str) else number(scale, f"{where}: scale")
    if not 1e-6 <= metres < 1.0:
        raise DataError(f"{where}: scale {metres} is not in (0, 1) m")
    for key in keys:
        if not isinstance(entry[key], (list, tuple)) and np.ndim(entry[key]) == 0:
            raise DataError(f"{where}[{key}]: a {type(entry[key]).__name__}, not a list")
    count = len(entry["target_qpos"])
    if count == 0:
        return []
    columns = {
        key: vector(entry[key], (count, width), f"{where}[{key}]") for key, width in widths.items()
    }
    heights = [number(z, f"{where}[object_init_z]") for z in entry["object_init_z"]]
    if len(heights) != count:
        raise DataError(f"{where}[object_init_z]: {len(heights)} values for {count} grasps")
    norms = np.linalg.norm(columns["target_hand_rot"], axis=1)
    if (np.abs(norms - 1.0) > 1e-3).any():
        raise DataError(f"{where}[target_hand_rot]: not unit quaternions")
    return [
        Grasp(
            hand=SHADOW_HAND,
            object_code=str(parse_object_code(code)),
            object_scale=round(metres, 6),
            base_pos=columns["target_hand_pos"][row],
            base_quat=_wxyz(Rotation.from_quat(columns["target_hand_rot"][row])),
            qpos=columns["target_qpos"][row],
            source=f"{where}[{row}]",
            rest=RestPose(
                _wxyz(Rotation.from_euler("xy", columns["object_euler_xy"][row])),
                heights[row],
            ),
        )
        for row in range(count)
    ]


def _wxyz(rotation: Rotation) -> np.ndarray:
    return rotation.as_quat(canonical=True, scalar_first=True)
