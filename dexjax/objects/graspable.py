"""Which objects a hand of human size can take from a table, judged by shape and mass alone."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from dexjax.objects.asset import ObjectAsset

MAX_WIDTH = 0.11  # m between thumb and fingers of the open Shadow hand
MIN_HEIGHT = 0.015  # m above the table that fingers can get hold of
MAX_MASS = 1.0  # kg
_PALM = 0.06  # m along which the fingers close
_DIRECTIONS = 36


def why_not_graspable(asset: ObjectAsset) -> str | None:
    """Why a hand cannot take the object from a table, None if it can.

    The rule: at most 1 kg; and in resting poses that come with probability 1/2 or more, some
    palm-long section through the centre of mass is at most 11 cm wide and the object at least
    1.5 cm high.
    """
    if asset.mass > MAX_MASS:
        return f"{asset.mass:.2f} kg is more than {MAX_MASS:g} kg"
    poses = asset.stable_poses
    size = np.array([_section(asset, quat) for quat in poses.quat])  # (P, 2) width, height
    wide, flat = size[:, 0] > MAX_WIDTH, size[:, 1] < MIN_HEIGHT
    if poses.probability[~wide & ~flat].sum() >= 0.5:
        return None
    width, height = size[poses.probability.argmax()]
    if poses.probability[wide].sum() >= poses.probability[flat].sum():
        return f"mostly lies {100 * width:.1f} cm wide, more than {100 * MAX_WIDTH:g} cm"
    return f"mostly lies {100 * height:.1f} cm high, less than {100 * MIN_HEIGHT:g} cm"


def _section(asset: ObjectAsset, quat: np.ndarray) -> tuple[float, float]:
    """Least width, m, over horizontal directions of a section one palm long, and the height."""
    points = Rotation.from_quat(quat, scalar_first=True).apply(asset.surface_points)
    angles = np.linspace(0, np.pi, _DIRECTIONS, endpoint=False)
    along, across = np.cos(angles), np.sin(angles)
    t = points[:, :1] * along + points[:, 1:2] * across  # (N, D) along the palm
    w = points[:, 1:2] * along - points[:, :1] * across
    # The centre of mass may lie beside the object: the section is where the object is next to it.
    inside = np.abs(t) <= _PALM / 2
    low, high = (np.where(inside, w, s * np.inf) for s in (1, -1))
    width = (high.max(0) - low.min(0))[inside.any(0)].min()
    return float(width), float(np.ptp(points[:, 2]))
