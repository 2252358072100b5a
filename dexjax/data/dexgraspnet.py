"""DexGraspNet files.

    meshdata/<code>/coacd/decomposed.obj   normalised: metres after multiplying by a grasp's scale
    dataset/<code>.npy                     object array of {qpos, scale (direct), ...}, no table

`<code>` is "<source>-<category>-<instance>"; records carry it as "<source>/<category>-<instance>",
as UniDexGrasp writes it.
"""

from __future__ import annotations

from pathlib import Path

from dexjax.core.errors import DataError
from dexjax.core.safe_io import read_npy
from dexjax.data.records import (
    Grasp,
    GraspSet,
    MeshFile,
    MeshSet,
    Refusal,
    number,
    parse_object_code,
    shadow_grasp,
)


def read_grasps(path: str | Path) -> GraspSet:
    """All grasps of one `dataset/<code>.npy`, or of every such file in a folder.

    Each entry's `scale` is direct (0.06 m per mesh unit). Files of a folder and entries of a file
    that cannot be read are refused by name and the rest goes on; a single file that cannot be read
    at all, and a folder without files, raise DataError.
    """
    path = Path(path)
    if not path.is_dir():
        return _read_file(path)
    files = sorted(path.glob("*.npy"))
    if not files:
        raise DataError(f"{path}: no .npy files; give the data set's `dataset` folder")
    grasps: list[Grasp] = []
    refused: list[Refusal] = []
    for file in files:
        try:
            content = _read_file(file)
        except DataError as error:
            refused.append(Refusal(str(file), str(error)))
        else:
            grasps.extend(content.grasps)
            refused.extend(content.refused)
    return GraspSet(tuple(grasps), tuple(refused))


def list_meshes(root: str | Path) -> MeshSet:
    """The normalised mesh of every object under a `meshdata` folder, ordered by code."""
    meshes: list[MeshFile] = []
    refused: list[Refusal] = []
    for folder in sorted(Path(root).glob("*/coacd")):
        mesh = folder / "decomposed.obj"
        try:
            code = str(parse_object_code(folder.parent.name))
        except DataError as error:
            refused.append(Refusal(str(folder), str(error)))
            continue
        if mesh.is_file():
            meshes.append(MeshFile(code, None, mesh))
        else:
            refused.append(Refusal(str(folder), "no decomposed.obj"))
    if not meshes and not refused:
        raise DataError(f"{root}: no <object>/coacd folder; give the data set's `meshdata` folder")
    return MeshSet(tuple(meshes), tuple(refused))


def _read_file(path: Path) -> GraspSet:
    entries = read_npy(path)
    if entries.ndim != 1 or entries.dtype != object:
        raise DataError(f"{path}: {entries.dtype} array of shape {entries.shape}, expected grasps")
    code = str(parse_object_code(path.stem))
    grasps: list[Grasp] = []
    refused: list[Refusal] = []
    for index, entry in enumerate(entries):
        source = f"{path}[{index}]"
        try:
            if not isinstance(entry, dict) or not {"qpos", "scale"} <= set(entry):
                raise DataError(f"{source}: no qpos and scale")
            scale = number(entry["scale"], f"{source}: scale")
            if not 0.0 < scale < 1.0:
                raise DataError(
                    f"{source}: scale {scale} is not in (0, 1) m; "
                    "UniDexGrasp files store the inverse: use dexjax.data.unidexgrasp"
                )
            grasps.append(
                shadow_grasp(
                    entry["qpos"],
                    object_code=code,
                    object_scale=round(scale, 6),  # stored in single precision: 0.05999999
                    source=source,
                )
            )
        except DataError as error:
            refused.append(Refusal(source, str(error)))
    return GraspSet(tuple(grasps), tuple(refused))
