"""Writes grasps in the published file formats, so that the readers can be tested without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dexjax.hands.orders import SHADOW_JOINTS

KEYS = (
    *(f"robot0:{name}" for name in SHADOW_JOINTS),
    *("WRJRx", "WRJRy", "WRJRz", "WRJTx", "WRJTy", "WRJTz"),
)


def random_qpos(rng: np.random.Generator) -> dict[str, float]:
    """28 named values in plausible ranges."""
    values = [*rng.uniform(0, 1, 22), *rng.uniform(-1.5, 1.5, 3), *rng.uniform(-0.2, 0.2, 3)]
    return dict(zip(KEYS, map(float, values), strict=True))


def write_unidexgrasp(folder: Path, number: int, qpos: Any, scale: Any, plane: Any) -> Path:
    """datasetv4.1/<code>/NNNNN.npz; `scale` as stored: the inverse."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number:05d}.npz"
    np.savez(path, qpos=np.array(qpos), scale=np.array(scale), plane=np.array(plane))
    return path


def write_dexgraspnet(path: Path, entries: list[Any]) -> Path:
    """dataset/<code>.npy: an object array of dicts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.empty(len(entries), dtype=object)
    array[:] = entries
    np.save(path, array, allow_pickle=True)
    return path
