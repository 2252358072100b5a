"""All that dexjax knows of MJX's private layout, in one place and for one version of MJX.

MJX finds contacts between pairs of geoms that are fixed when it compiles. Here its model has no
such pair: the engine finds the contacts itself (`dexjax.sim.contact`), and needs the stages of an
MJX step one by one and the arrays that MJX keeps private.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from flax import struct

from dexjax.core.errors import ConfigError

SUPPORTED = "3.17.0"  # of mujoco and mujoco-mjx: what the tests of this file ran on


def check_versions() -> None:
    """Raise ConfigError unless mujoco and mujoco-mjx are the version this file was written for."""
    found = {}
    for package in ("mujoco", "mujoco-mjx"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    if any(version != SUPPORTED for version in found.values()):
        got = ", ".join(f"{k} {v}" for k, v in found.items())
        raise ConfigError(
            f"engine 'mjx' uses private parts of MJX {SUPPORTED}, but finds {got}; install with "
            f"pip install mujoco=={SUPPORTED} mujoco-mjx=={SUPPORTED}, or use --engine native"
        )
    major = tuple(int(x) for x in jax.__version__.split(".")[:2])
    if major == (0, 10):
        raise ConfigError(
            f"jax {jax.__version__} hangs in batched Cholesky factorisations on small machines; "
            "install with pip install 'jax>=0.9.2,!=0.10.*'"
        )


check_versions()

with contextlib.redirect_stdout(io.StringIO()):  # prints where Warp, which is not used, is missing
    from mujoco import mjx

from mujoco.mjx._src import constraint, forward, smooth  # noqa: E402


@struct.dataclass
class Rows:
    """Constraint rows that are not contacts, in the order: dry friction, then limits (>= 0)."""

    jacobian: jax.Array  # (r, nv)
    stiffness: jax.Array  # (r,) inverse of the regulariser R: D in MuJoCo's equations
    reference: jax.Array  # (r,) reference acceleration
    friction_loss: jax.Array  # (r,) largest force of a dry friction row; 0 elsewhere


def put_model(model: mujoco.MjModel) -> mjx.Model:
    """The MJX model of a scene without contact pairs, in dense matrices."""
    return mjx.put_model(model, device=_device(), impl="jax")


def make_data(model: mjx.Model) -> mjx.Data:
    """Empty data of one simulation."""
    return mjx.make_data(model, device=_device(), impl="jax")


def _device() -> jax.Device:
    """One of this process; MJX's own default is the first of all, which may be another's."""
    return jax.local_devices()[0]


def position_stage(model: mjx.Model, data: mjx.Data, poses: dict[str, jax.Array]) -> mjx.Data:
    """Everything that follows from the poses of bodies and joints, except contacts."""
    data = smooth.com_pos(model, data.replace(**poses))
    data = smooth.tendon(model, data)
    data = smooth.crb(model, data)
    data = smooth.factor_m(model, data)
    return smooth.transmission(model, data)


def pose_stage(model: mjx.Model, data: mjx.Data, poses: dict[str, jax.Array]) -> mjx.Data:
    """Only body poses and velocities."""
    return smooth.com_vel(model, smooth.com_pos(model, data.replace(**poses)))


def velocity_stage(model: mjx.Model, data: mjx.Data) -> mjx.Data:
    """Everything that follows from qvel and ctrl; smooth acceleration included."""
    data = forward.fwd_velocity(model, data)
    data = forward.fwd_actuation(model, data)
    return forward.fwd_acceleration(model, data)


def joint_rows(model: mjx.Model, data: mjx.Data) -> Rows:
    """Dry friction and limits of joints and tendons, from MJX itself."""
    data = constraint.make_constraint(model, data)
    impl = data._impl
    return Rows(impl.efc_J, impl.efc_D, impl.efc_aref, impl.efc_frictionloss)


def num_friction_rows(model: mjx.Model) -> int:
    """How many of `joint_rows` are dry friction."""
    impl = model._impl
    return int(np.sum(impl.dof_hasfrictionloss) + np.sum(impl.tendon_hasfrictionloss))


def tendon_rows(model: mjx.Model) -> tuple[int, ...]:
    """Which of `joint_rows` belong to tendons and so to several degrees of freedom."""
    impl = model._impl
    dofs = int(np.sum(impl.dof_hasfrictionloss))
    first = range(dofs, num_friction_rows(model))
    start = num_friction_rows(model) + int(np.sum(model.jnt_limited))
    return (*first, *range(start, start + int(np.sum(model.tendon_limited))))


def mass_matrix(data: mjx.Data) -> jax.Array:
    """(nv, nv) joint-space inertia."""
    return data._impl.M


def integrate(model: mjx.Model, data: mjx.Data) -> mjx.Data:
    """One time step from `qacc`, implicit in the damping of joints, tendons and servos.

    MuJoCo's implicitfast. MJX 3.17 also damps a servo at its force limit, where more speed changes
    no force; C MuJoCo does not, nor does this.
    """
    impl = data._impl
    gain = model.actuator_biasprm[:, 2]
    low, high = model.actuator_forcerange[:, 0], model.actuator_forcerange[:, 1]
    at_limit = (data.actuator_force <= low) | (data.actuator_force >= high)
    gain = jnp.where(model.actuator_forcelimited & at_limit, 0.0, gain)
    derivative = (impl.actuator_moment.T * gain) @ impl.actuator_moment
    derivative -= jnp.diag(model.dof_damping)
    if model.ntendon:
        derivative -= (impl.ten_J.T * model.tendon_damping) @ impl.ten_J
    factor = jax.scipy.linalg.cho_factor(impl.M - model.opt.timestep * derivative)
    force = data.qfrc_smooth + data.qfrc_constraint
    return forward._advance(model, data, data.act_dot, jax.scipy.linalg.cho_solve(factor, force))


def impedance(
    model: mjx.Model, solref: jax.Array, solimp: jax.Array, depth: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Stiffness, damping and impedance of a constraint at signed distance `depth`."""
    return constraint._kbi(model, solref, solimp, depth)
