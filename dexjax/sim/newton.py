"""MuJoCo's constraint problem for one environment, solved by Newton's method.

The same convex problem as MuJoCo and MJX solve (elliptic friction cones of three dimensions, dry
friction, limits): minimise over the acceleration a

    (a - a_smooth)' M (a - a_smooth) / 2 + sum of costs of J a - a_ref.

MJX's own solver carries out all `ls_iterations` of every line search in every environment and
builds (rows x rows) matrices; this one stops when it has converged and uses that cones are 3 x 3
blocks.
Derivatives come from the optimality condition, so no loop is differentiated.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

LS_TOLERANCE = 0.1  # of the slope at the start of a line search


@struct.dataclass
class Problem:
    """One environment's constraint problem; r joint rows of which the first f are dry friction, c
    contacts. Inactive rows have zero Jacobian and reference."""

    mass: jax.Array  # (nv, nv)
    force: jax.Array  # (nv,) smooth force: M a_smooth
    jac: jax.Array  # (r, nv)
    stiffness: jax.Array  # (r,) D
    reference: jax.Array  # (r,) a_ref
    loss: jax.Array  # (r,) dry friction force, 0 for limits
    contact_jac: jax.Array  # (c, 3, nv) normal, two tangents
    contact_stiffness: jax.Array  # (c, 3)
    contact_reference: jax.Array  # (c, 3)
    friction: jax.Array  # (c,) coefficient
    cone: jax.Array  # (c,) its value in the regularised cone: friction / sqrt(impratio)
    num_loss: int = struct.field(pytree_node=False)  # f
    several: tuple[int, ...] = struct.field(pytree_node=False)  # joint rows of more than one dof


def row_force(p: Problem, x: jax.Array) -> jax.Array:
    """(r,) force of the joint rows at x = J a - a_ref."""
    free = -p.stiffness * x
    lossy = jnp.clip(free, -p.loss, p.loss)
    first = jnp.arange(x.shape[0]) < p.num_loss
    return jnp.where(first, lossy, jnp.where(x < 0, free, 0.0))


def _zones(p: Problem, x: jax.Array) -> tuple[jax.Array, ...]:
    """u (c, 3), T (c,) safe to divide by, and the bottom and middle zone of the cones at x (c, 3).

    MuJoCo's `mj_constraintUpdate`: bottom is sticking (quadratic), middle slipping, top no force.
    """
    u = x * jnp.stack([p.cone, p.friction, p.friction], -1)
    square = (u[:, 1:] ** 2).sum(-1)
    moving = square > 0
    t = jnp.where(moving, jnp.sqrt(jnp.where(moving, square, 1.0)), 0.0)
    n = u[:, 0]
    bottom = jnp.where(moving, p.cone * n + t <= 0, n < 0)
    middle = moving & (n < p.cone * t) & ~bottom
    return u, jnp.where(moving, t, 1.0), bottom, middle


def contact_force(p: Problem, x: jax.Array) -> jax.Array:
    """(c, 3) contact forces in the contact frames at x = J a - a_ref, (c, 3)."""
    u, t, bottom, middle = _zones(p, x)
    dm = p.contact_stiffness[:, 0] / (p.cone**2 * (1 + p.cone**2))
    normal = -dm * (u[:, 0] - p.cone * t) * p.cone
    tangent = (-normal / t * p.friction)[:, None] * u[:, 1:]
    sliding = jnp.concatenate([normal[:, None], tangent], -1)
    sticking = -p.contact_stiffness * x
    return jnp.where(bottom[:, None], sticking, jnp.where(middle[:, None], sliding, 0.0))


def _curvature(p: Problem, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Second derivatives of the cost: (r,) of the rows, (c, 3, 3) of the contacts."""
    first = jnp.arange(x.shape[0]) < p.num_loss
    active = jnp.where(first, jnp.abs(x) * p.stiffness <= p.loss, x < 0)
    u, t, bottom, middle = _zones(p, y)
    mu, n = p.cone, u[:, 0]
    dm = p.contact_stiffness[:, 0] / (mu**2 * (1 + mu**2))
    e = u[:, 1:] / t[:, None]
    block = mu * n / t
    tangent = (mu**2 - block)[:, None, None] * jnp.eye(2) + block[:, None, None] * (
        e[:, :, None] * e[:, None, :]
    )
    cross = -mu[:, None] * e
    top = jnp.concatenate([jnp.ones_like(n)[:, None, None], cross[:, None, :]], -1)
    low = jnp.concatenate([cross[:, :, None], tangent], -1)
    scale = jnp.stack([mu, p.friction, p.friction], -1)
    sliding = jnp.concatenate([top, low], 1) * dm[:, None, None]
    sliding = sliding * scale[:, :, None] * scale[:, None, :]
    sticking = p.contact_stiffness[:, :, None] * jnp.eye(3)
    blocks = jnp.where(
        bottom[:, None, None], sticking, jnp.where(middle[:, None, None], sliding, 0.0)
    )
    return jnp.where(active, p.stiffness, 0.0), blocks


def residuals(p: Problem, a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """J a - a_ref of joint rows (r,) and contacts (c, 3)."""
    return p.jac @ a - p.reference, p.contact_jac @ a - p.contact_reference


def _gradient(p: Problem, a: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    nv = a.shape[0]
    pull = p.jac.T @ row_force(p, x)
    pull += p.contact_jac.reshape(-1, nv).T @ contact_force(p, y).reshape(-1)
    return p.mass @ a - p.force - pull


def _factor(p: Problem, x: jax.Array, y: jax.Array) -> jax.Array:
    """Cholesky factor of the Hessian where the residuals are x and y."""
    rows, blocks = _curvature(p, x, y)
    nv = p.mass.shape[0]
    contact = p.contact_jac.reshape(-1, nv)
    hessian = p.mass + contact.T @ (blocks @ p.contact_jac).reshape(-1, nv)
    several = list(p.several)
    single = jnp.ones(rows.shape[0]).at[jnp.asarray(several, jnp.int32)].set(0.0)
    hessian += jnp.diag((rows * single) @ (p.jac * p.jac))
    if several:
        jac = p.jac[np.array(several)]
        hessian += (jac.T * rows[np.array(several)]) @ jac
    return jax.scipy.linalg.cho_factor(hessian)[0]


def solve(
    p: Problem, start: jax.Array, iterations: int, ls_iterations: int, tolerance: float
) -> tuple[jax.Array, jax.Array]:
    """Acceleration (nv,) that minimises the problem, and the number of Newton steps taken.

    start: (nv,) a first guess. tolerance: stop after the step that is expected to lower the cost by
    less than this times the trace of the inertia, MuJoCo's scale. Differentiable in `p` by the
    implicit function theorem.
    """
    p_, start = jax.lax.stop_gradient((p, start))
    best, count = _newton(p_, start, iterations, ls_iterations, tolerance)
    return _implicit(p, best), count


@jax.custom_jvp
def _implicit(p: Problem, a: jax.Array) -> jax.Array:
    """`a`, with the derivative of the minimiser with respect to the problem."""
    return a


@_implicit.defjvp
def _implicit_jvp(primals, tangents):
    p, a = primals
    _, moved = jax.jvp(lambda q: _gradient(q, a, *residuals(q, a)), (p,), (tangents[0],))
    factor = _factor(p, *residuals(p, a))
    return a, -jax.scipy.linalg.cho_solve((factor, False), moved)


@struct.dataclass
class _State:
    a: jax.Array  # (nv,)
    x: jax.Array  # (r,) residuals at a
    y: jax.Array  # (c, 3)
    done: jax.Array
    count: jax.Array


def _newton(
    p: Problem, start: jax.Array, iterations: int, ls_iterations: int, tolerance: float
) -> tuple[jax.Array, jax.Array]:
    small = tolerance * jnp.trace(p.mass)

    def step(s: _State) -> _State:
        gradient = _gradient(p, s.a, s.x, s.y)
        search = -jax.scipy.linalg.cho_solve((_factor(p, s.x, s.y), False), gradient)
        dx, dy = p.jac @ search, p.contact_jac @ search
        expected = -0.5 * gradient @ search
        alpha = _line_search(
            p, s, gradient @ search, search @ (p.mass @ search), dx, dy, ls_iterations
        )
        done = (expected < small) | ~jnp.isfinite(expected)
        return _State(
            a=s.a + alpha * search,
            x=s.x + alpha * dx,
            y=s.y + alpha * dy,
            done=done,
            count=s.count + 1,
        )

    init = _State(start, *residuals(p, start), jnp.array(False), jnp.array(0))
    final = jax.lax.while_loop(lambda s: ~s.done & (s.count < iterations), step, init)
    return final.a, final.count


def _line_search(
    p: Problem,
    s: _State,
    start: jax.Array,
    mass: jax.Array,
    dx: jax.Array,
    dy: jax.Array,
    iterations: int,
) -> jax.Array:
    """Step along the search direction at which the convex cost is least: Newton's method in one
    dimension, kept between points where the cost is known to fall and to rise.

    start: slope at 0. mass: curvature of the inertial cost. dx, dy: residuals per unit of step.
    """
    scale = jnp.stack([p.cone, p.friction, p.friction], -1)
    u, v = s.y * scale, dy * scale
    uu, uv, vv = (u[:, 1:] ** 2).sum(-1), (u[:, 1:] * v[:, 1:]).sum(-1), (v[:, 1:] ** 2).sum(-1)
    stick0, stick1 = (p.contact_stiffness * s.y * dy).sum(-1), (p.contact_stiffness * dy**2).sum(-1)
    dm = p.contact_stiffness[:, 0] / (p.cone**2 * (1 + p.cone**2))
    first_rows = jnp.arange(dx.shape[0]) < p.num_loss

    def slope(alpha: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Slope and curvature of the constraint cost."""
        x = s.x + alpha * dx
        free = p.stiffness * x
        active = jnp.where(first_rows, jnp.abs(free) <= p.loss, x < 0)
        force = jnp.where(active, free, jnp.where(first_rows, jnp.sign(x) * p.loss, 0.0))
        n = u[:, 0] + alpha * v[:, 0]
        square = uu + alpha * (2 * uv + alpha * vv)
        moving = square > 0
        t = jnp.where(moving, jnp.sqrt(jnp.where(moving, square, 1.0)), 0.0)
        bottom = jnp.where(moving, p.cone * n + t <= 0, n < 0)
        middle = moving & (n < p.cone * t) & ~bottom
        t = jnp.where(moving, t, 1.0)
        t1 = (uv + alpha * vv) / t
        t2 = (vv - t1 * t1) / t
        excess, rate = n - p.cone * t, v[:, 0] - p.cone * t1
        first = jnp.where(
            bottom, stick0 + alpha * stick1, jnp.where(middle, dm * excess * rate, 0.0)
        )
        second = jnp.where(
            bottom,
            stick1,
            jnp.where(middle, dm * (rate * rate - excess * p.cone * t2), 0.0),
        )
        first = first.sum() + (force * dx).sum()
        second = second.sum() + (jnp.where(active, p.stiffness, 0.0) * dx * dx).sum()
        return first, second

    # At 0 both slopes are known; their difference is the inertial one.
    inertial = start - slope(jnp.zeros_like(start))[0]
    enough = LS_TOLERANCE * jnp.abs(start)

    def narrow(carry: Any) -> Any:
        alpha, low, high, _, count = carry
        first, second = slope(alpha)
        first, second = first + inertial + alpha * mass, second + mass
        low, high = jnp.where(first < 0, alpha, low), jnp.where(first < 0, high, alpha)
        newton = alpha - first / second
        middle = jnp.where(jnp.isfinite(high), 0.5 * (low + high), 2 * alpha)
        done = jnp.abs(first) <= enough
        following = jnp.where((newton > low) & (newton < high), newton, middle)
        return jnp.where(done, alpha, following), low, high, done, count + 1

    one = jnp.ones_like(start)
    init = (one, 0 * one, jnp.inf * one, jnp.array(False), jnp.array(0))
    return jax.lax.while_loop(lambda c: ~c[3] & (c[4] < iterations), narrow, init)[0]
