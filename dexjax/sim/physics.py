"""Named physics presets: time step, friction cone and solver budget.

Why these numbers: docs/decisions.md, "Physics settings".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import mujoco

from dexjax.core.errors import ConfigError, unknown_name

_CONES = {
    "elliptic": mujoco.mjtCone.mjCONE_ELLIPTIC,
    "pyramidal": mujoco.mjtCone.mjCONE_PYRAMIDAL,
}
_HARD = (0.99, 0.999, 0.0005, 0.5, 2.0)  # impedance of hard joint limits
# PhysX link damping of the UniDexGrasp hand asset, 1/s.
LINK_DAMPING = 100.0


@dataclass(frozen=True)
class LinkDrag:
    """How the wrench base is damped: see `PhysicsConfig.link_drag`."""

    coefficient: float  # 1/s, of the velocity of every link
    share: float  # of the applied wrench that acts
    every: int  # both act in every so-many-th step of a control period, the first one included


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
    tendon: Literal["mujoco", "physx"] = "mujoco"
    """Law of the fixed tendons: MuJoCo's limit, which pulls both joints, or PhysX's, which only
    moves the one without a motor (`dexjax.sim.followers`)."""
    link_damping_step: float | None = None
    """Step in seconds of the PhysX simulation whose wrench base is imitated; its speed depends on
    it. None: this one's."""
    solref: tuple[float, float] | None = None
    """Time constant (s) and damping ratio of all contacts; None: MuJoCo's."""
    solimp: tuple[float, float, float, float, float] | None = None
    """Impedance of all contacts; None: MuJoCo's."""
    hard_limits: bool = False
    """Joint limits that give by hundredths of a degree under full servo force, not by degrees."""

    @property
    def control_dt(self) -> float:
        """Seconds in one control step."""
        return self.timestep * self.substeps

    def in_period(self, seconds: float) -> PhysicsConfig:
        """The settings with as many steps as fill a control period. Raises ConfigError where it
        does not consist of whole steps."""
        return replace(self, substeps=whole_steps(seconds, self.timestep))

    def link_drag(self) -> LinkDrag:
        """The drag of PhysX link damping on the wrench base, for our step.

        One PhysX step h takes 100 h of every link's velocity and lets 1 - 100 h of the applied
        wrench act (docs/parity.md, "Base"). With smaller steps both come as one push in the first
        step of each h, so that forces inside the hand meet the same drag. Raises ConfigError where
        h is no multiple of our step, or a control period none of h.
        """
        step = self.link_damping_step or self.timestep
        every = round(step / self.timestep)
        if every < 1 or self.substeps % every or abs(every * self.timestep / step - 1) > 1e-6:
            raise ConfigError(
                f"physics: link_damping_step {step:g} s does not consist of whole steps of "
                f"{self.timestep:g} s, or the control period ({self.substeps} steps) not of it"
            )
        coefficient = min(LINK_DAMPING, 1 / step)
        return LinkDrag(every * coefficient, every * (1 - coefficient * step), every)

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
        if self.tendon == "physx":
            model.tendon_limited[:] = 0  # the engines apply the law
        if self.solref is not None:
            model.geom_solref[:] = self.solref
        if self.solimp is not None:
            model.geom_solimp[:] = self.solimp
        if self.hard_limits:
            model.jnt_solref[:], model.jnt_solimp[:] = (2 * self.timestep, 1.0), _HARD
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


def whole_steps(seconds: float, timestep: float, kind: str = "whole steps") -> int:
    """How many physics steps fill a control period. ConfigError where they do not."""
    steps = round(seconds / timestep)
    if steps < 1 or abs(steps * timestep / seconds - 1) > 1e-6:
        raise ConfigError(
            f"physics: a control period of {seconds:g} s does not consist of {kind} of "
            f"{timestep:g} s"
        )
    return steps


REFERENCE = PhysicsConfig()
_PHYSX = replace(
    REFERENCE,
    timestep=1 / 240,
    substeps=4,
    impratio=2.0,
    drive="servo",
    tendon="physx",
    link_damping_step=1 / 120,
    solref=(1 / 60, 1.0),
    solimp=(0.92, 0.97, 0.001, 0.5, 2.0),
    hard_limits=True,
)
PHYSICS = {
    # What numbers are measured in unless another preset is named beside them.
    "reference": REFERENCE,
    # For training only: half as many, longer steps, the same friction. For the scripted policy it
    # is easier than the reference; a pyramidal cone is harder (docs/decisions.md).
    "fast": replace(REFERENCE, timestep=1 / 60, substeps=2),
    # UniDexGrasp's 60 Hz control with two substeps.
    "unidexgrasp": replace(REFERENCE, substeps=2),
    # Nearest to PhysX 5 as UniDexGrasp runs it (60 Hz, two steps, 8 iterations), found by
    # experiments/parity/calibrate.py; docs/parity.md.
    "physx": _PHYSX,
    # The same against PhysX with 50 iterations and 1/480 s, which slips less. Line searches
    # of 20 iterations would end too early.
    "physx_converged": replace(
        _PHYSX, impratio=10.0, solimp=(0.95, 0.99, 0.001, 0.5, 2.0), ls_iterations=50
    ),
}


def physics_preset(name: str) -> PhysicsConfig:
    """The preset of that name; ConfigError with the nearest names otherwise."""
    if name not in PHYSICS:
        raise unknown_name("physics preset", name, PHYSICS)
    return PHYSICS[name]
