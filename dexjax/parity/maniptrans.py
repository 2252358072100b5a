"""Isaac Gym rollouts of ManipTrans (two Inspire hands) as traces.

The files are `rollouts.hdf5` of ManipTrans turned into `.npz`, float32, link states as (T, 18, 13):
genuine PhysX states, 60 Hz, TGS, 2 substeps. Names and orders are ManipTrans'
(`dexhands/inspire.py`); its quaternions are xyzw.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from dexjax.core.errors import DataError
from dexjax.core.safe_io import read_npz
from dexjax.parity import schema
from dexjax.parity.trace import Trace, check_trace

FINGERS = {
    "thumb": ("thumb_proximal_base", "thumb_distal"),
    "index": ("index_proximal", "index_intermediate"),
    "middle": ("middle_proximal", "middle_intermediate"),
    "ring": ("ring_proximal", "ring_intermediate"),
    "pinky": ("pinky_proximal", "pinky_intermediate"),
}
"""First link of each finger, and the last one with a shape: whose contact force was recorded."""

_DT, _SUBSTEPS = 1 / 60, 2
_SIDES = {"right": ("rh", "R_"), "left": ("lh", "L_")}


def fingers(side: Literal["right", "left"]) -> dict[str, tuple[str, str]]:
    """`FINGERS` with the link names of one hand's URDF, as `hand_from_urdf` takes them."""
    prefix = _SIDES[side][1]
    return {k: (prefix + first, prefix + last) for k, (first, last) in FINGERS.items()}


def read_maniptrans(path: str | Path, side: Literal["right", "left"]) -> Trace:
    """One hand of a rollout and the object that it moves, as a trace of one episode.

    The last recorded row is left out: root and object are already reset there and the links not.
    `tip_force` is the net contact force on each finger's last link, world axes, N; `joint_pos`
    follows the DoF names of the file with the URDF's prefix. Rewards are left out, since the file
    does not say to which step each belongs. Raises DataError naming file and array.
    """
    source = str(path)
    stored = read_npz(path)
    short, prefix = _SIDES[side]
    names = {k: _names(stored, k, source) for k in ("body_names", "dof_names")}
    bodies, joints = len(names["body_names"]), len(names["dof_names"])
    frames = _array(stored, f"q_{short}", (None, joints), source).shape[0]

    def get(name: str, *shape: int) -> np.ndarray:
        return _array(stored, f"{name}_{short}", (frames, *shape), source)[:-1]

    root, thing = get("state", 13), get("state_manip_obj", 13)
    links = get("link_state", bodies, 13)
    if not np.array_equal(root, links[:, 0]):
        raise DataError(
            f"{source}[link_state_{short}]: the first link is not the root of state_{short}; "
            "frames or layout differ from ManipTrans' rollouts"
        )
    arrays = {
        "time": _DT * np.arange(frames - 1),
        "joint_pos": get("q", joints)[:, None],
        "joint_vel": get("dq", joints)[:, None],
        "tip_force": get("tip_force", 3 * len(FINGERS)).reshape(frames - 1, 1, len(FINGERS), 3),
        **_rigid("root", root[:, None]),
        **_rigid("body", links[:, None]),
        **_rigid("object", thing[:, None, None]),
    }
    meta = schema.new_meta(
        "policy_episode",
        simulator="isaacgym",
        version="not recorded",
        pipeline="gpu",
        dt=_DT,
        substeps=_SUBSTEPS,
        axes={
            "joint": [prefix + n for n in names["dof_names"]],
            "body": [prefix + n for n in names["body_names"]],
            "tip": list(FINGERS),
            "object": ["object"],
        },
        joint_types=["hinge"] * joints,
        tip_wrench_frame="world",
        task={"name": "ManipTrans ResDexHand", "side": side},
        arrays={
            k: {"axes": list(schema.ARRAYS[k][0]), "unit": schema.ARRAYS[k][1]} for k in arrays
        },
    )
    check_trace(meta, arrays, source)
    return Trace(meta, arrays, source)


def _rigid(name: str, state: np.ndarray) -> dict[str, np.ndarray]:
    """Pose and velocity from Isaac Gym's 13 numbers: position, xyzw, linear, angular."""
    return {
        f"{name}_pos": state[..., :3],
        f"{name}_quat": np.roll(state[..., 3:7], 1, axis=-1),
        f"{name}_linvel": state[..., 7:10],
        f"{name}_angvel": state[..., 10:13],
    }


def _names(stored: dict[str, np.ndarray], name: str, source: str) -> list[str]:
    array = stored.get(name)
    if array is None or array.ndim != 1 or array.dtype.kind != "U":
        raise DataError(f"{source}[{name}]: missing or no list of names: no ManipTrans rollout")
    return [str(n) for n in array]


def _array(
    stored: dict[str, np.ndarray], name: str, shape: tuple[Any, ...], source: str
) -> np.ndarray:
    array = stored.get(name)
    if array is None:
        raise DataError(f"{source}[{name}]: missing: no ManipTrans rollout")
    fits = array.ndim == len(shape) and all(
        n in (None, m) for n, m in zip(shape, array.shape, strict=True)
    )
    if not fits or array.shape[0] < 2:
        raise DataError(f"{source}[{name}]: shape {array.shape}; {shape} is needed")
    return array
