"""Rotations against SciPy (float64) and by their properties. Float32 has 6e-8 relative error per
operation; a few dozen operations on numbers near 1 stay below 2e-6, the tolerance used here."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from dexjax.core import rotations as rot

TOLERANCE = 2e-6
# |rotvec| <= 1.75 sqrt(3) < pi; XLA flushes subnormal numbers to zero
FLOATS = st.floats(-1.75, 1.75, width=32, allow_subnormal=False)


def scipy_rotation(q: np.ndarray) -> Rotation:
    return Rotation.from_quat(q, scalar_first=True)


def same_rotation(a, b, tolerance: float = TOLERANCE) -> None:
    """Equal up to sign."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    sign = np.sign(np.sum(a * b, axis=-1, keepdims=True))
    np.testing.assert_allclose(a, sign * b, atol=tolerance)


@pytest.fixture
def quats() -> np.ndarray:
    return np.asarray(rot.random_quat(jax.random.key(0), (500,)))


def test_product_and_rotation_are_scipys(quats):
    a, b = quats[:250], quats[250:]
    same_rotation(
        rot.quat_mul(a, b), (scipy_rotation(a) * scipy_rotation(b)).as_quat(scalar_first=True)
    )
    v = np.random.default_rng(0).normal(size=(250, 3)).astype(np.float32)
    np.testing.assert_allclose(rot.quat_rotate(a, v), scipy_rotation(a).apply(v), atol=5e-6)
    np.testing.assert_allclose(
        rot.quat_rotate_inverse(a, v), scipy_rotation(a).inv().apply(v), atol=5e-6
    )


def test_matrix_both_ways(quats):
    matrix = scipy_rotation(quats).as_matrix()
    np.testing.assert_allclose(rot.quat_to_matrix(quats), matrix, atol=TOLERANCE)
    same_rotation(rot.matrix_to_quat(matrix.astype(np.float32)), quats)


@pytest.mark.parametrize("axis", np.concatenate([np.eye(3), np.ones((1, 3)) / np.sqrt(3)]))
@pytest.mark.parametrize("angle", [0.0, 1e-4, 1.0, np.pi - 1e-4, np.pi])
def test_matrix_to_quat_at_every_branch(axis, angle):
    q = rot.quat_from_axis_angle(axis.astype(np.float32), np.float32(angle))
    matrix = Rotation.from_rotvec(axis * angle).as_matrix().astype(np.float32)
    same_rotation(rot.matrix_to_quat(matrix), q)
    assert np.all(np.isfinite(jax.jacobian(rot.matrix_to_quat)(jnp.asarray(matrix))))


def test_euler_both_ways(quats):
    euler = scipy_rotation(quats).as_euler("xyz")
    same_rotation(rot.quat_from_euler(euler.astype(np.float32)), quats)
    # near pitch = +-pi/2 roll and yaw are ill conditioned, so compare the rotations there
    well = np.abs(euler[:, 1]) < 1.4
    assert well.sum() > 400
    difference = np.asarray(rot.quat_to_euler(quats))[well] - euler[well]
    wrapped = (difference + np.pi) % (2 * np.pi) - np.pi
    np.testing.assert_allclose(wrapped, 0.0, atol=2e-5)
    same_rotation(rot.quat_from_euler(rot.quat_to_euler(quats)), quats, 1e-5)


def test_yaw(quats):
    np.testing.assert_array_equal(rot.quat_to_yaw(quats), rot.quat_to_euler(quats)[:, 2])
    yaw = np.linspace(-3.1, 3.1, 50).astype(np.float32)
    np.testing.assert_allclose(rot.quat_to_yaw(rot.quat_from_yaw(yaw)), yaw, atol=TOLERANCE)


def test_axis_angle_and_angle(quats):
    rotvec = scipy_rotation(quats).as_rotvec()
    angle = np.linalg.norm(rotvec, axis=-1)
    axis = rotvec / angle[:, None]
    same_rotation(
        rot.quat_from_axis_angle(axis.astype(np.float32), angle.astype(np.float32)), quats
    )
    identity = jnp.array([1.0, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(rot.quat_angle(identity, quats), angle, atol=1e-5)
    np.testing.assert_allclose(rot.quat_angle(quats, -quats), 0.0, atol=1e-5)
    # the angle has a kink at 0; its gradient there must at least not poison a loss
    assert np.all(np.isfinite(jax.grad(rot.quat_angle)(identity, identity)))


@settings(deadline=None, max_examples=100)
@given(arrays(np.float32, (3,), elements=FLOATS))
@example(np.zeros(3, np.float32))
@example(np.full(3, 1e-4, np.float32))
@example(np.full(3, 5.8e-4, np.float32))  # either side of the Taylor branch
@example(np.full(3, 1.2e-3, np.float32))
def test_rotvec_round_trip_is_finite_with_gradient(rotvec):
    q = rot.quat_from_rotvec(rotvec)
    expected = Rotation.from_rotvec(rotvec.astype(np.float64)).as_quat(scalar_first=True)
    same_rotation(q, expected)
    np.testing.assert_allclose(rot.quat_to_rotvec(q), rotvec, atol=3e-6)
    jacobian = jax.jacobian(lambda r: rot.quat_to_rotvec(rot.quat_from_rotvec(r)))(rotvec)
    np.testing.assert_allclose(jacobian, np.eye(3), atol=2e-3)


def test_normalize():
    q = jnp.array([[0.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    expected = [[1, 0, 0, 0], [1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]]
    np.testing.assert_allclose(rot.quat_normalize(q), expected, atol=1e-7)
    assert np.all(np.isfinite(jax.jacobian(rot.quat_normalize)(q[0])))


def test_random_quat_is_uniform():
    """Haar measure: mean rotated vector 0, second moment 1/3; 20,000 draws, 5 sigma = 0.02."""
    q = rot.random_quat(jax.random.key(1), (20_000,))
    x = np.asarray(rot.quat_rotate(q, jnp.array([1.0, 0.0, 0.0])))
    np.testing.assert_allclose(x.mean(0), 0.0, atol=0.021)
    np.testing.assert_allclose(np.cov(x.T), np.eye(3) / 3, atol=0.012)
    angle = np.asarray(rot.quat_angle(jnp.array([1.0, 0.0, 0.0, 0.0]), q))
    # E[angle] of the Haar measure is pi / 2 + 2 / pi
    assert abs(angle.mean() - (np.pi / 2 + 2 / np.pi)) < 0.025


def test_batch_axes_broadcast():
    q = rot.random_quat(jax.random.key(2), (4, 1))
    v = jnp.ones((5, 3))
    assert rot.quat_rotate(q, v).shape == (4, 5, 3)
    assert rot.quat_mul(q, rot.random_quat(jax.random.key(3), (5,))).shape == (4, 5, 4)
