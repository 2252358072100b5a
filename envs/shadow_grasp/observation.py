"""Observation rows of the servo variant: one table of name, size, scale and frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.shadow_grasp.features import Features

OBSERVATION_LIMIT = 5.0
_FORCE_LIMIT = 5.0  # N


@struct.dataclass
class ObservationInput:
    """What an observation row may look at."""

    features: Features
    finger_pos: jax.Array  # (B, 22) mapped to [-1, 1] by the joint limits
    finger_target: jax.Array  # (B, 18) likewise
    base_pos: jax.Array  # (B, 6) x y z, yaw pitch roll
    base_vel: jax.Array  # (B, 6)
    base_target: jax.Array  # (B, 6)
    base_action: jax.Array  # (B, 6) last action on the base
    base_height: jax.Array  # (B,) grasp centre above the table
    goal: jax.Array  # (B, 3)
    table_height: jax.Array  # ()
    phase: jax.Array  # (B,) episode time, -1 to 1
    clock: jax.Array  # (B,) time since the script's attempt began, likewise
    object_mass: jax.Array  # (B,) kg
    friction: jax.Array  # (B,)


@dataclass(frozen=True)
class Row:
    """One named block of an observation vector."""

    name: str
    size: int
    scale: float
    frame: str
    value: Callable[[Any], jax.Array]


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1)


def _column(x: jax.Array) -> jax.Array:
    return x[:, None]


POLICY_ROWS: tuple[Row, ...] = (
    Row("finger joint positions", 22, 1.0, "limits to [-1, 1]", lambda x: x.finger_pos),
    Row("finger targets", 18, 1.0, "limits to [-1, 1]", lambda x: x.finger_target),
    Row("base lead, linear", 3, 10.0, "world, m", lambda x: (x.base_target - x.base_pos)[:, :3]),
    Row("base lead, angular", 3, 3.0, "rad", lambda x: (x.base_target - x.base_pos)[:, 3:]),
    Row("base height", 1, 4.0, "above table, m", lambda x: _column(x.base_height)),
    Row("base yaw, pitch, roll", 3, 1.0, "rad", lambda x: x.base_pos[:, 3:]),
    Row("tips and palm to surface", 18, 10.0, "world, m", lambda x: _flat(x.features.nearest)),
    Row("tip and palm distances", 6, 10.0, "m", lambda x: x.features.distance),
    Row(
        "box centre from grasp centre",
        3,
        10.0,
        "world, m",
        lambda x: x.features.box_centre - x.features.grasp_centre,
    ),
    Row(
        "mass centre from grasp centre",
        3,
        10.0,
        "world, m",
        lambda x: x.features.object_pos - x.features.grasp_centre,
    ),
    Row("box half axes", 9, 15.0, "world, m, pointing up", lambda x: _flat(x.features.box_axes)),
    Row(
        "core from grasp centre",
        3,
        10.0,
        "world, m",
        lambda x: x.features.core - x.features.grasp_centre,
    ),
    Row("core direction", 2, 2.0, "world, doubled angle", lambda x: x.features.core_axis),
    Row("object linear velocity", 3, 1.0, "world, m/s", lambda x: x.features.object_linvel),
    Row("object angular velocity", 3, 0.1, "world, rad/s", lambda x: x.features.object_angvel),
    Row("base linear velocity", 3, 1.0, "world, m/s", lambda x: x.base_vel[:, :3]),
    Row("base angular velocity", 3, 0.3, "rad/s", lambda x: x.base_vel[:, 3:]),
    Row("goal from object", 3, 10.0, "world, m", lambda x: x.goal - x.features.object_pos),
    Row(
        "finger forces", 5, 0.3, "N, up to 5", lambda x: jnp.minimum(x.features.force, _FORCE_LIMIT)
    ),
    Row("last base action", 6, 1.0, "", lambda x: x.base_action),
    Row("phase", 1, 1.0, "-1 start, 1 end", lambda x: _column(x.phase)),
    Row("script clock", 1, 1.0, "phase of the attempt", lambda x: _column(x.clock)),
    Row("object top", 1, 5.0, "above table, m", lambda x: _column(x.features.top - x.table_height)),
    Row(
        "object bottom",
        1,
        5.0,
        "above table, m",
        lambda x: _column(x.features.bottom - x.table_height),
    ),
)
PRIVILEGED_ROWS: tuple[Row, ...] = (
    Row("object mass", 1, 1.0, "kg", lambda x: _column(x.object_mass)),
    Row("object friction", 1, 1.0, "", lambda x: _column(x.friction)),
)
GROUPS = {"policy": POLICY_ROWS, "privileged": PRIVILEGED_ROWS}


def observe(x: Any, groups: Mapping[str, tuple[Row, ...]] = GROUPS) -> dict[str, jax.Array]:
    """Scaled and clipped observation groups, each (B, sum of row sizes).

    x: what the rows of `groups` look at; `ObservationInput` for those of this file.
    """
    return {
        group: jnp.concatenate(
            [
                jnp.clip(row.value(x) * row.scale, -OBSERVATION_LIMIT, OBSERVATION_LIMIT)
                for row in rows
            ],
            axis=1,
        )
        for group, rows in groups.items()
    }


def row_slices(group: str, groups: Mapping[str, tuple[Row, ...]] = GROUPS) -> dict[str, slice]:
    """Where each named row lies in its group's vector."""
    slices, start = {}, 0
    for row in groups[group]:
        slices[row.name] = slice(start, start + row.size)
        start += row.size
    return slices
