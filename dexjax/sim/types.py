"""The engine contract: batched over environments, full state in, full state out.

An engine holds the compiled model and the objects; everything that changes lives in `SimState`.
"""

from __future__ import annotations

from typing import Protocol

import jax
from flax import struct


@struct.dataclass
class SimState:
    """State of B simulations after a control step. Floats are float32, world frame, SI units."""

    object_id: jax.Array  # (B,) int32, row of the ObjectBank
    object_params: jax.Array  # (B, 2) object mass factor, object friction coefficient
    qpos: jax.Array  # (B, nq) hand base, fingers, object position + quaternion wxyz
    qvel: jax.Array  # (B, nv)
    warmstart: jax.Array  # (B, nv) solver warm start (part of the state: needed for exact resume)
    body_pos: jax.Array  # (B, nbody, 3) in `Scene.body_names` order; object last
    body_quat: jax.Array  # (B, nbody, 4) wxyz
    body_linvel: jax.Array  # (B, nbody, 3) of the body origin
    body_angvel: jax.Array  # (B, nbody, 3)
    finger_force: jax.Array  # (B, 5, 3) net force of the object on each finger, N
    tip_wrench: jax.Array  # (B, 5, 6) net contact force (N) and torque about the link origin (N m)
    # on each distal link
    table_force: jax.Array  # (B,) norm of the net contact force between hand and table, N
    joint_force: jax.Array  # (B, 22) actuator force in finger joint space, N m
    finite: jax.Array  # (B,) bool; False: the simulation diverged and must be reset


@struct.dataclass
class Control:
    """One control period's input."""

    ctrl: jax.Array  # (B, nu) actuator targets in model order
    wrench: jax.Array  # (B, 6) force and torque on the palm, world axes (else zeros: servo base)


class Engine(Protocol):
    """What an environment may ask of physics; callable inside `jit` and `lax.scan`."""

    num_envs: int

    def init(
        self, object_id: jax.Array, qpos: jax.Array, qvel: jax.Array, object_params: jax.Array
    ) -> SimState:
        """State of all environments at the given positions, derived quantities computed."""
        ...

    def step(self, state: SimState, control: Control) -> SimState:
        """One control period (n substeps)."""
        ...

    def reset_where(
        self,
        state: SimState,
        mask: jax.Array,
        object_id: jax.Array,
        qpos: jax.Array,
        qvel: jax.Array,
        object_params: jax.Array,
    ) -> SimState:
        """`init` for the environments in `mask`, the others untouched."""
        ...
