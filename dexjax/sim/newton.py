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
from flax import struct


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


def _cost(p: Problem, x: jax.Array, y: jax.Array) -> jax.Array:
    """Constraint cost at row residuals x (r,) and contact residuals y (c, 3)."""
    quadratic = 0.5 * p.stiffness * x * x
    bound = p.loss / p.stiffness
    linear = p.loss * (jnp.abs(x) - 0.5 * bound)
    first = jnp.arange(x.shape[0]) < p.num_loss
    rows = jnp.where(
        first,
        jnp.where(jnp.abs(x) > bound, linear, quadratic),
        jnp.where(x < 0, quadratic, 0.0),
    )
    u, t, bottom, middle = _zones(p, y)
    dm = p.contact_stiffness[:, 0] / (p.cone**2 * (1 + p.cone**2))
    slide = 0.5 * dm * (u[:, 0] - p.cone * t) ** 2
    stick = 0.5 * (p.contact_stiffness * y * y).sum(-1)
    return rows.sum() + jnp.where(bottom, stick, jnp.where(middle, slide, 0.0)).sum()


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


def _gradient(p: Problem, a: jax.Array) -> jax.Array:
    x, y = residuals(p, a)
    pull = p.jac.T @ row_force(p, x) + _transposed(p.contact_jac, contact_force(p, y))
    return p.mass @ a - p.force - pull


def _transposed(jac: jax.Array, force: jax.Array) -> jax.Array:
    nv = jac.shape[-1]
    return jac.reshape(-1, nv).T @ force.reshape(-1)


def _factor(p: Problem, a: jax.Array) -> jax.Array:
    """Cholesky factor of the Hessian at a."""
    x, y = residuals(p, a)
    rows, blocks = _curvature(p, x, y)
    nv = p.mass.shape[0]
    weighted = (blocks @ p.contact_jac).reshape(-1, nv)
    hessian = p.mass + (p.jac.T * rows) @ p.jac + p.contact_jac.reshape(-1, nv).T @ weighted
    return jax.scipy.linalg.cho_factor(hessian)[0]


def solve(
    p: Problem, start: jax.Array, iterations: int, ls_iterations: int, tolerance: float
) -> tuple[jax.Array, jax.Array]:
    """Acceleration (nv,) that minimises the problem, and the number of Newton steps taken.

    start: (nv,) a first guess. Differentiable in `p` by the implicit function theorem.
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
    _, moved = jax.jvp(lambda q: _gradient(q, a), (p,), (tangents[0],))
    return a, -jax.scipy.linalg.cho_solve((_factor(p, a), False), moved)


@struct.dataclass
class _State:
    a: jax.Array
    cost: jax.Array
    done: jax.Array
    count: jax.Array


def _total(p: Problem, a: jax.Array, smooth: jax.Array) -> jax.Array:
    """Cost up to a constant; smooth = M a_smooth. Written with the difference to keep digits."""
    return 0.5 * a @ (p.mass @ a) - a @ smooth + _cost(p, *residuals(p, a))


def _newton(
    p: Problem, start: jax.Array, iterations: int, ls_iterations: int, tolerance: float
) -> tuple[jax.Array, jax.Array]:
    scale = 1.0 / jnp.trace(p.mass)
    eps = jnp.finfo(p.mass.dtype).eps

    def step(s: _State) -> _State:
        gradient = _gradient(p, s.a)
        search = -jax.scipy.linalg.cho_solve((_factor(p, s.a), False), gradient)
        alpha = _line_search(p, s.a, search, gradient, ls_iterations)
        a = s.a + alpha * search
        cost = _total(p, a, p.force)
        gain = s.cost - cost
        better = gain > 0
        # Below what float32 resolves of the cost, further steps change nothing.
        small = gain * scale < tolerance
        small |= gain < 4 * eps * jnp.abs(cost)
        small |= jnp.linalg.norm(gradient) * scale < tolerance
        return _State(
            a=jnp.where(better, a, s.a),
            cost=jnp.where(better, cost, s.cost),
            done=small,
            count=s.count + 1,
        )

    init = _State(start, _total(p, start, p.force), jnp.array(False), jnp.array(0))
    final = jax.lax.while_loop(lambda s: ~s.done & (s.count < iterations), step, init)
    return final.a, final.count


def _line_search(
    p: Problem, a: jax.Array, search: jax.Array, gradient: jax.Array, iterations: int
) -> jax.Array:
    """Step along `search` at which the convex cost is least: Newton in one dimension, kept between
    the points where the slope is known to fall and to rise."""
    x, y = residuals(p, a)
    dx, dy = p.jac @ search, p.contact_jac @ search
    mass_slope, mass_curve = search @ (p.mass @ a - p.force), search @ (p.mass @ search)

    def slope(alpha: jax.Array) -> tuple[jax.Array, jax.Array]:
        xa, ya = x + alpha * dx, y + alpha * dy
        rows, blocks = _curvature(p, xa, ya)
        first = mass_slope + alpha * mass_curve - dx @ row_force(p, xa)
        first -= (dy * contact_force(p, ya)).sum()
        second = mass_curve + dx @ (rows * dx) + jnp.einsum("ci,cij,cj->", dy, blocks, dy)
        return first, second

    start = gradient @ search
    enough = 1e-3 * jnp.abs(start)

    def narrow(s: Any) -> Any:
        alpha, low, high, _, count = s
        first, second = slope(alpha)
        low, high = jnp.where(first < 0, alpha, low), jnp.where(first < 0, high, alpha)
        newton = alpha - first / second
        middle = jnp.where(jnp.isfinite(high), 0.5 * (low + high), 2 * alpha)
        inside = (newton > low) & (newton < high)
        done = jnp.abs(first) <= enough
        following = jnp.where(inside, newton, middle)
        return jnp.where(done, alpha, following), low, high, done, count + 1

    one = jnp.ones_like(start)
    init = (one, 0 * one, jnp.inf * one, jnp.array(False), jnp.array(0))
    return jax.lax.while_loop(lambda s: ~s[3] & (s[4] < iterations), narrow, init)[0]
