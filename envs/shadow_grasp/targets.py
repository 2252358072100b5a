"""Target grasps of objects: what UniDexGrasp's releases draw at the start of each episode.

A file holds the grasps of all objects: `names` (N,), and for each of M grasps `object` (M,) row of
names, `hand_pos` (M, 3) m and `hand_quat` (M, 4) wxyz of the palm in the mesh frame, `qpos` (M, 22)
rad, `rest_quat` (M, 4) and `rest_height` (M,) m of the mesh origin as the object lay on its table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dexjax.core.errors import DataError
from dexjax.core.safe_io import read_npz
from dexjax.data.records import Grasp

_FIELDS = {"hand_pos": (3,), "hand_quat": (4,), "qpos": (22,), "rest_quat": (4,), "rest_height": ()}


@struct.dataclass
class Target:
    """The grasp drawn in each of B episodes."""

    hand_pos: jax.Array  # (B, 3) m, mesh frame
    hand_quat: jax.Array  # (B, 4) wxyz, palm to mesh frame
    qpos: jax.Array  # (B, 22) rad
    rest_quat: jax.Array  # (B, 4) how the object lay; its yaw means nothing
    rest_height: jax.Array  # (B,) m, mesh origin above the table


@struct.dataclass
class TargetGrasps:
    """Grasps of N objects, padded to the most that one has."""

    hand_pos: jax.Array  # (N, G, 3)
    hand_quat: jax.Array  # (N, G, 4)
    qpos: jax.Array  # (N, G, 22)
    rest_quat: jax.Array  # (N, G, 4)
    rest_height: jax.Array  # (N, G)
    count: jax.Array  # (N,) int32

    def draw(self, key: jax.Array, object_id: jax.Array) -> Target:
        """One grasp of each object (B,), all equally likely."""
        share = jax.random.uniform(key, object_id.shape)
        row = jnp.minimum(
            (share * self.count[object_id]).astype(jnp.int32), self.count[object_id] - 1
        )
        return Target(**{k: getattr(self, k)[object_id, row] for k in _FIELDS})


def read_targets(path: str | Path, names: Sequence[str]) -> TargetGrasps:
    """The grasps of these objects. DataError naming file and field where any object has none."""
    arrays = read_npz(path)
    missing = [k for k in ("names", "object", *_FIELDS) if k not in arrays]
    if missing:
        raise DataError(f"{path}: field {missing[0]} is missing; write it with write_targets")
    owner = np.asarray(arrays["object"])
    known = [str(n) for n in arrays["names"]]
    if owner.ndim != 1 or owner.dtype.kind not in "iu":
        raise DataError(f"{path}[object]: {owner.dtype} {owner.shape}; integers (M,) are needed")
    if len(owner) and not (0 <= owner.min() and owner.max() < len(known)):
        raise DataError(f"{path}[object]: rows beyond the {len(known)} names")
    for name, shape in _FIELDS.items():
        array = arrays[name]
        if array.shape != (len(owner), *shape) or not np.isfinite(array).all():
            raise DataError(
                f"{path}[{name}]: shape {array.shape}; finite numbers {(len(owner), *shape)} are "
                "needed"
            )
    for name in ("hand_quat", "rest_quat"):
        if np.abs(np.linalg.norm(arrays[name], axis=-1) - 1).max(initial=0) > 1e-3:
            raise DataError(f"{path}[{name}]: not unit quaternions")
    rows = [
        np.flatnonzero(owner == known.index(n)) if n in known else np.zeros(0, int) for n in names
    ]
    lacking = [n for n, r in zip(names, rows, strict=True) if not len(r)]
    if lacking:
        raise DataError(f"{path}: no grasp of {len(lacking)} objects, first {lacking[0]!r}")
    most = max(len(r) for r in rows)
    padded = np.stack([np.resize(r, most) for r in rows])
    return TargetGrasps(
        **{k: jnp.asarray(arrays[k][padded], jnp.float32) for k in _FIELDS},
        count=jnp.asarray([len(r) for r in rows], jnp.int32),
    )


def write_targets(path: str | Path, grasps: Mapping[str, Sequence[Grasp]]) -> None:
    """Write the grasps of objects by name (`dexjax.data.unidexgrasp` reads them).

    DataError for a grasp without a rest pose: UniDexGrasp draws the object's tilt with the grasp.
    """
    listed = [(i, g) for i, found in enumerate(grasps.values()) for g in found]
    for _, grasp in listed:
        if grasp.rest is None:
            raise DataError(f"{grasp.source}: no rest pose; DexGraspNet's files have none")
    column = {
        "hand_pos": [g.base_pos for _, g in listed],
        "hand_quat": [g.base_quat for _, g in listed],
        "qpos": [g.qpos for _, g in listed],
        "rest_quat": [g.rest.quat for _, g in listed if g.rest],
        "rest_height": [g.rest.height for _, g in listed if g.rest],
    }
    arrays: dict[str, np.ndarray] = {
        k: np.array(v, np.float32).reshape(-1, *_FIELDS[k]) for k, v in column.items()
    }
    arrays["names"] = np.array(list(grasps))
    arrays["object"] = np.array([i for i, _ in listed], np.int32)
    np.savez_compressed(path, allow_pickle=False, **arrays)
