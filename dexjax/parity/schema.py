"""What a trace may hold: known arrays with their axes and units, and the metadata's fields.

A trace is one `.npz`: arrays of plain numbers, and `__meta__`, a JSON object as bytes (uint8).
`docs/parity.md` has the format in words; the recorder for Isaac Gym writes it without this module.
"""

from __future__ import annotations

from typing import Any

FORMAT = "dexjax.trace"
VERSION = 1
META_KEY = "__meta__"

STATE, STEP, ENV = "state", "step", "env"
"""Axes without names: N + 1 states around N steps, and episodes side by side."""

NAMED_AXES = ("joint", "actuator", "body", "tip", "object", "action", "observation", "term")
"""Axes whose entries have names, listed in order in the metadata's `axes`."""

UNITS = {
    "length": "m",
    "angle": "rad",
    "mass": "kg",
    "time": "s",
    "force": "N",
    "torque": "N m",
}

JOINT_UNIT = "rad or m"  # by the joint's type
_STATE_OF_JOINTS = (STATE, ENV, "joint")
_STATE_OF_BODIES = (STATE, ENV, "body")
_STATE_OF_OBJECTS = (STATE, ENV, "object")

ARRAYS: dict[str, tuple[tuple[str | int, ...], str]] = {
    # State before the first step and after every step; poses and velocities in the world frame.
    "time": ((STATE,), "s"),
    "joint_pos": (_STATE_OF_JOINTS, JOINT_UNIT),
    "joint_vel": (_STATE_OF_JOINTS, "rad/s or m/s"),
    "joint_force": (_STATE_OF_JOINTS, "N m or N"),
    "root_pos": ((STATE, ENV, 3), "m"),
    "root_quat": ((STATE, ENV, 4), "1"),
    "root_linvel": ((STATE, ENV, 3), "m/s"),
    "root_angvel": ((STATE, ENV, 3), "rad/s"),
    "body_pos": ((*_STATE_OF_BODIES, 3), "m"),
    "body_quat": ((*_STATE_OF_BODIES, 4), "1"),
    "body_linvel": ((*_STATE_OF_BODIES, 3), "m/s"),
    "body_angvel": ((*_STATE_OF_BODIES, 3), "rad/s"),
    "object_pos": ((*_STATE_OF_OBJECTS, 3), "m"),
    "object_quat": ((*_STATE_OF_OBJECTS, 4), "1"),
    "object_linvel": ((*_STATE_OF_OBJECTS, 3), "m/s"),
    "object_angvel": ((*_STATE_OF_OBJECTS, 3), "rad/s"),
    "contact_force": ((*_STATE_OF_BODIES, 3), "N"),  # net, on each body, world frame
    "object_contact_force": ((*_STATE_OF_OBJECTS, 3), "N"),
    "tip_force": ((STATE, ENV, "tip", 3), "N"),  # in `tip_wrench_frame`
    "tip_torque": ((STATE, ENV, "tip", 3), "N m"),
    "goal_pos": ((STATE, ENV, 3), "m"),
    "observation": ((STATE, ENV, "observation"), "1"),
    # What was done in each step, and what came of it.
    "action_raw": ((STEP, ENV, "action"), "1"),  # as the policy gave it
    "action": ((STEP, ENV, "action"), "1"),  # after clipping and smoothing
    "target": ((STEP, ENV, "actuator"), JOINT_UNIT),
    "applied_force": ((STEP, ENV, 3), "N"),  # on `wrench_body`, in `wrench_frame`
    "applied_torque": ((STEP, ENV, 3), "N m"),
    "reward": ((STEP, ENV), "1"),
    "reward_terms": ((STEP, ENV, "term"), "1"),
    "success": ((STEP, ENV), "bool"),
    "reset": ((STEP, ENV), "bool"),
    # Once per episode.
    "object_id": ((ENV,), "index"),
    "object_scale": ((ENV,), "m"),
}


def after_steps(axes: tuple[str | int, ...]) -> list[str | int] | None:
    """Axes of a state array of which only the rows after each step exist; None: must be whole.

    Simulators on a GPU know the bodies' poses only after a step.
    """
    return [STEP, *axes[1:]] if axes[0] == STATE and len(axes) > 1 else None


PARAMETER = "param_"
"""Prefix of a probe's own per-episode numbers; axes (env, ...) and unit stand in the metadata."""

QUATERNIONS = ("root_quat", "body_quat", "object_quat")

# Field: (type, required). Numbers are int or float; what is not listed is refused.
META: dict[str, tuple[tuple[type, ...], bool]] = {
    "format": ((str,), True),
    "version": ((int,), True),
    "probe": ((str,), True),
    "repeat": ((int,), True),
    "source": ((dict,), True),
    "task": ((dict, type(None)), False),
    "units": ((dict,), True),
    "quaternion": ((str,), True),
    "velocity_point": ((str,), True),
    "tip_wrench_frame": ((str,), False),
    "wrench_frame": ((str,), False),
    "wrench_body": ((str,), False),
    "gravity": ((list,), True),
    "dt": ((int, float), True),
    "substeps": ((int,), True),
    "interval": ((int, float), True),
    "solver": ((dict,), True),
    "axes": ((dict,), True),
    "joint_types": ((list,), False),
    "properties": ((dict,), True),
    "arrays": ((dict,), True),
    "assets": ((dict,), False),
    "extra": ((dict,), False),
}

CHOICES: dict[str, tuple[str, ...]] = {
    "quaternion": ("wxyz", "xyzw"),
    "velocity_point": ("centre of mass", "link origin", "unknown"),
    "tip_wrench_frame": ("world", "link"),
    "wrench_frame": ("world", "link"),
}

SOURCE_FIELDS = ("simulator", "version", "pipeline")
PROPERTY_AXES = ("joint", "actuator", "body", "object", "tendon", "shape")


def new_meta(
    probe: str,
    *,
    simulator: str,
    version: str,
    dt: float,
    substeps: int,
    axes: dict[str, list[str]],
    pipeline: str = "cpu",
    quaternion: str = "wxyz",
    velocity_point: str = "centre of mass",
    **more: Any,
) -> dict[str, Any]:
    """Metadata of a trace recorded once per control step `dt` (s); `more` are further fields.

    `arrays` is filled in by `write_trace`. Recording every substep: give `interval=dt / substeps`.
    """
    meta: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "probe": probe,
        "repeat": 0,
        "source": {"simulator": simulator, "version": version, "pipeline": pipeline},
        "units": dict(UNITS),
        "quaternion": quaternion,
        "velocity_point": velocity_point,
        "gravity": [0.0, 0.0, -9.81],
        "dt": dt,
        "substeps": substeps,
        "interval": dt,
        "solver": {},
        "axes": axes,
        "properties": {},
    }
    return meta | more
