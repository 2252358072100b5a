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
    drive: Literal["joint", "servo"] = "joint"
    """Where joint damping acts. joint: on the joint, whatever its servo does; servo: as in PhysX
    inside the servo, whose force limit then holds for spring and damper together. The damper is
    stronger by stiffness dt / 2, which makes large steps follow the continuous motion."""
    solref: tuple[float, float] | None = None
    """Time constant (s) and damping ratio of all contacts; None: MuJoCo's."""
    solimp: tuple[float, float, float, float, float] | None = None
    """Impedance of all contacts; None: MuJoCo's."""

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
        if self.drive == "servo":
            self._damp_in_servos(model)
        if self.solref is not None:
            model.geom_solref[:] = self.solref
        if self.solimp is not None:
            model.geom_solimp[:] = self.solimp
        # Mid-phase trees differ in size per object and cannot be expanded; autoreset would hide a
        # divergence from the finite flag.
        opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_MIDPHASE
        opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET

    def _damp_in_servos(self, model: mujoco.MjModel) -> None:
        for a in range(model.nu):
            if model.actuator_trntype[a] != mujoco.mjtTrn.mjTRN_JOINT:
                continue
            dof = model.jnt_dofadr[model.actuator_trnid[a, 0]]
            half_step = 0.5 * self.timestep * model.actuator_gainprm[a, 0]
            model.actuator_biasprm[a, 2] -= model.dof_damping[dof] + half_step
            model.dof_damping[dof] = 0


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
