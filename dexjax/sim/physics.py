"""Named physics presets: time step, friction cone and solver budget.

Why these numbers: docs/decisions.md, "Physics settings".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import mujoco

from dexjax.core.errors import unknown_name

_CONES = {
    "elliptic": mujoco.mjtCone.mjCONE_ELLIPTIC,
    "pyramidal": mujoco.mjtCone.mjCONE_PYRAMIDAL,
}
# PhysX link damping of the UniDexGrasp hand asset, 1/s.
LINK_DAMPING = 100.0


@dataclass(frozen=True)
class PhysicsConfig:
    """Integration and solver settings of one control period."""

    timestep: float = 1 / 120
    """Physics step in seconds."""
    substeps: int = 4
    """Physics steps in one control step."""
    cone: Literal["elliptic", "pyramidal"] = "elliptic"
    """Friction cone."""
    impratio: float = 10.0
    """Ratio of friction to normal constraint impedance; higher slips less."""
    iterations: int = 20
    """Most Newton iterations."""
    ls_iterations: int = 20
    """Most line-search iterations; fewer than 20 makes elliptic grasps explode."""
    tolerance: float = 1e-8
    """Solver stopping tolerance."""

    @property
    def control_dt(self) -> float:
        """Seconds in one control step."""
        return self.timestep * self.substeps

    def apply(self, model: mujoco.MjModel) -> None:
        """Write the settings into a compiled model."""
        opt = model.opt
        opt.timestep = self.timestep
        opt.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
        opt.cone = _CONES[self.cone]
        opt.impratio = self.impratio
        opt.iterations = self.iterations
        opt.ls_iterations = self.ls_iterations
        opt.tolerance = self.tolerance
        # Mid-phase trees differ in size per object and cannot be expanded; autoreset would hide a
        # divergence from the finite flag.
        opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_MIDPHASE
        opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET


REFERENCE = PhysicsConfig()
PHYSICS = {
    # What every reported number is measured in.
    "reference": REFERENCE,
    # For training only: half as many, longer steps, the same friction. The scripted policy holds as
    # often as in the reference, which it does not with a pyramidal cone (docs/decisions.md).
    "fast": replace(REFERENCE, timestep=1 / 60, substeps=2),
    # UniDexGrasp's 60 Hz control with two substeps.
    "unidexgrasp": replace(REFERENCE, substeps=2),
}


def physics_preset(name: str) -> PhysicsConfig:
    """The preset of that name; ConfigError with the nearest names otherwise."""
    if name not in PHYSICS:
        raise unknown_name("physics preset", name, PHYSICS)
    return PHYSICS[name]
