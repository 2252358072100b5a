"""What the readers return: grasps, mesh files, and what had to be refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from dexjax.core.errors import DataError
from dexjax.hands.orders import DEXGRASPNET_NAMES, UNIDEXGRASP

SHADOW_HAND = "shadow_hand"
_JOINT_KEYS = UNIDEXGRASP.names  # in our order
_TRANSLATION_KEYS, _ROTATION_KEYS = DEXGRASPNET_NAMES[22:25], DEXGRASPNET_NAMES[25:]


@dataclass(frozen=True, eq=False)
class RestPose:
    """An object lying on a table whose top is z = 0; the yaw is arbitrary."""

    quat: np.ndarray  # (4,) wxyz, mesh frame to world
    height: float  # of the mesh frame's origin above the table, m


@dataclass(frozen=True, eq=False)
class Grasp:
    """One static grasp of one object.

    The object frame is the frame of the source mesh, scaled to metres by `object_scale`; an
    `ObjectAsset` has its origin elsewhere: add its `mesh_origin` to `base_pos`.
    """

    hand: str
    object_code: str  # "sem/Car-<hash>": source, category, instance
    object_scale: float  # metres per unit of the normalised mesh (its half size)
    base_pos: np.ndarray  # (3,) palm origin in the object frame, m
    base_quat: np.ndarray  # (4,) wxyz, palm to object frame
    qpos: np.ndarray  # (22,) rad, `dexjax.hands.orders.SHADOW_JOINTS`
    source: str  # the file, and the entry in it
    rest: RestPose | None = None  # how the object lay when the grasp was made, where known


@dataclass(frozen=True)
class MeshFile:
    """A mesh on disk: metric vertices are the file's vertices times `vertex_scale`."""

    object_code: str
    object_scale: float | None  # None: the file is normalised, any scale may be chosen
    path: Path
    vertex_scale: float = 1.0


@dataclass(frozen=True)
class Refusal:
    """Something that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class GraspSet:
    """All grasps that could be read, and all files and entries that could not."""

    grasps: tuple[Grasp, ...]
    refused: tuple[Refusal, ...]


@dataclass(frozen=True)
class MeshSet:
    """All meshes that were found, and all folders that hold none."""

    meshes: tuple[MeshFile, ...]
    refused: tuple[Refusal, ...]


@dataclass(frozen=True)
class ObjectCode:
    """The parts of an object's name in UniDexGrasp and DexGraspNet."""

    source: str  # core, sem, ddg, mujoco
    category: str  # "" where the source has none
    instance: str  # ShapeNet hash, or the whole name

    def __str__(self) -> str:
        name = f"{self.category}-{self.instance}" if self.category else self.instance
        return f"{self.source}/{name}"


def parse_object_code(text: str) -> ObjectCode:
    """Split "sem/Car-<hash>" (UniDexGrasp) or "sem-Car-<hash>" (DexGraspNet).

    Only `core` and `sem` (ShapeNet) name a category; `ddg/gd_banana_poisson_002` does not.
    """
    source, slash, name = text.partition("/")
    if not slash:
        source, _, name = text.partition("-")
    if not source or not name:
        raise DataError(f"object code {text!r}: expected <source>/<name>, as in sem/Car-669043a8")
    category, dash, instance = name.rpartition("-")
    if source in ("core", "sem") and dash and category and instance:
        return ObjectCode(source, category, instance)
    return ObjectCode(source, "", name)


def shadow_grasp(
    qpos: Any, *, object_code: str, object_scale: float, source: str, rest: RestPose | None = None
) -> Grasp:
    """A grasp from the 28 named values that both data sets store.

    qpos: mapping of robot0:FFJ3 .. robot0:THJ0 (rad), WRJTx..z (m, palm origin in the object
    frame) and WRJRx..z (rad, about the fixed x, y, z axes in this order). Raises DataError naming
    `source` and the key that is missing or not finite.
    """
    if not object_scale > 0:  # after rounding to the digits that files keep
        raise DataError(f"{source}: the object's scale is below a micrometre")
    if not isinstance(qpos, Mapping):
        raise DataError(f"{source}: qpos is a {type(qpos).__name__}, not a table of joints")
    values = {}
    for key in (*_JOINT_KEYS, *_TRANSLATION_KEYS, *_ROTATION_KEYS):
        if key not in qpos:
            raise DataError(f"{source}: qpos has no {key}; not a Shadow Hand grasp")
        values[key] = number(qpos[key], f"{source}: qpos[{key}]")
    rotation = Rotation.from_euler("xyz", [values[key] for key in _ROTATION_KEYS])
    return Grasp(
        hand=SHADOW_HAND,
        object_code=object_code,
        object_scale=object_scale,
        base_pos=np.array([values[key] for key in _TRANSLATION_KEYS]),
        base_quat=rotation.as_quat(canonical=True, scalar_first=True),
        qpos=np.array([values[key] for key in _JOINT_KEYS]),
        source=source,
        rest=rest,
    )


def number(value: Any, what: str) -> float:
    """A finite float from a number or an array of one; `what` names it in the DataError."""
    return float(vector(value, (), what))


def vector(value: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    """A finite float array of exactly this shape (arrays of one element count as scalars)."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what}: not numbers ({type(value).__name__})") from error
    if shape == () and array.size == 1:
        array = array.reshape(())
    if array.shape != shape:
        raise DataError(f"{what}: shape {array.shape}, expected {shape}")
    if not np.isfinite(array).all():
        raise DataError(f"{what}: not finite")
    return array
