"""The `mjx` engine against the contract, C MuJoCo and the `native` engine."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mjx_objects import MjxRunner, box
from simple_objects import Runner

from dexjax.core.errors import ConfigError
from dexjax.objects.builtin import builtin_asset
from dexjax.sim import _mjx_layout as layout
from dexjax.sim.mjx import MjxEngine
from dexjax.sim.mjx_scene import build_mjx_scene
from dexjax.sim.physics import REFERENCE
from dexjax.sim.scene import SceneConfig, build_scene
from dexjax.sim.types import Control
from dexjax.testing import check_engine

NUM = 5
PLATE = (0.04, 0.04, 0.02)


@pytest.fixture(scope="module")
def assets():
    return [box("plate", PLATE, 0.128), builtin_asset("mug", 0, sdf=True)]


@pytest.fixture(scope="module")
def run(assets):
    return MjxRunner(build_mjx_scene(assets), NUM, REFERENCE)


@pytest.fixture(scope="module")
def native(assets):
    return Runner(build_scene(assets), NUM, REFERENCE)


def test_keeps_the_contract(run, native):
    q = native.qpos(height=0.12)
    q[:, run.scene.object_qpos + 2] = 0.05
    objects = np.arange(NUM) % 2
    state = run.init(q, objects=objects)
    ctrl = native.control(state) + np.float32(0.1)
    control = Control(jnp.asarray(ctrl), jnp.full((NUM, 6), 5.0))
    check_engine(run.engine, state.object_id, state.qpos, state.qvel, control)


def test_joint_steps_and_a_base_at_its_force_limit_follow_native(run, native):
    """Servo steps of all joints in free air, 10 control steps: within 1e-4 of C MuJoCo in float64.

    One environment's base target is half a metre away, so that its servo saturates.
    """
    q = native.qpos(height=0.6)
    q[:, run.scene.object_qpos : run.scene.object_qpos + 3] = [0.5, 0.5, 0.0201]
    a, b = run.init(q), native.init(q)
    ctrl = native.control(b)
    ctrl[:, :22] += np.linspace(0.1, 0.8, NUM)[:, None]
    ctrl[1, run.scene.model.actuator("A_base_x").id] = 0.5
    for _ in range(10):
        a, b = run.step(a, ctrl), native.step(b, ctrl)
    tolerances = {"qpos": 1e-4, "body_pos": 1e-4, "body_quat": 1e-4, "joint_force": 1e-3}
    for name, tolerance in (tolerances | {"body_linvel": 2e-3, "body_angvel": 2e-2}).items():
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=tolerance, err_msg=name)


def test_free_fall_and_rest(run, native):
    """A spinning object falls as in C MuJoCo; dropped ones come to rest on the table without
    gaining energy."""
    q, v = native.qpos(height=1.0), np.zeros((NUM, run.scene.model.nv))
    at, vat = run.scene.object_qpos, run.scene.object_qvel
    q[:, at : at + 3] = [0.5, 0, 0.5]
    q[3:, at + 2] = 0.05
    v[:3, vat : vat + 6] = [0.1, -0.2, 0.5, 2.0, -3.0, 4.0]
    factors = np.stack([[1.0, 0.5, 2.0, 1.0, 1.0], np.ones(NUM)], 1)
    objects = [0, 1, 1, 0, 1]
    a, b = run.init(q, v, objects, factors), native.init(q, v, np.array(objects), factors)
    ctrl, energy = native.control(b), []
    for k in range(30):
        a = run.step(a, ctrl)
        if k < 6:
            b = native.step(b, ctrl)
            np.testing.assert_allclose(a.qpos[:3, at : at + 3], b.qpos[:3, at : at + 3], atol=1e-5)
            # C's implicitfast treats the gyroscopic torque of free bodies implicitly; MJX's does
            # not (nor C's Euler, from which this engine differs by 3e-6): 2e-3 after 0.2 s.
            np.testing.assert_allclose(a.qpos[:3, at + 3 :], b.qpos[:3, at + 3 :], atol=2e-3)
        speed = np.asarray(a.body_linvel)[3:, -1]
        energy.append(9.81 * np.asarray(a.qpos)[3:, at + 2] + 0.5 * (speed**2).sum(1))
    energy = np.array(energy)
    # Without spin in the sum: a bounce may turn spin to speed, but little of it.
    assert (energy.max(0) <= 9.81 * 0.05 + 1e-3).all()
    assert np.abs(np.asarray(a.body_linvel)[3:, -1]).max() < 0.02
    assert float(a.qpos[3, at + 2]) == pytest.approx(PLATE[2], abs=5e-4)


@pytest.mark.slow
def test_incline(run, native):
    """On tilted gravity the plate slides by g (sin a - mu cos a) t^2 / 2 or stays."""
    engine = MjxEngine(run.scene, NUM, REFERENCE)
    a = np.radians(25.0)
    gravity = jnp.asarray(9.81 * np.array([np.sin(a), 0, -np.cos(a)]), jnp.float32)
    engine._mjx = engine._mjx.replace(opt=engine._mjx.opt.replace(gravity=gravity))
    step = jax.jit(
        lambda s, c: jax.lax.scan(lambda s, _: (engine.step(s, c), None), s, length=30)[0]
    )
    friction = np.array([0.2, 0.3, 0.35, 0.8, 1.0])
    q = native.qpos(height=0.5)
    at = run.scene.object_qpos
    q[:, at : at + 3] = [0, 0, 0.02]
    state = run.init(q, params=np.stack([np.ones(NUM), friction], 1))
    ctrl = jnp.asarray(native.control(state))
    state = step(state, Control(ctrl, jnp.zeros((NUM, 6))))
    moved = np.asarray(state.qpos)[:, at]
    ideal = np.maximum(0.5 * 9.81 * (np.sin(a) - friction * np.cos(a)), 0)
    slides = ideal > 0
    # The tolerances of the same test of `native`.
    assert (np.abs(moved[~slides]) < 1e-3).all(), moved
    np.testing.assert_allclose(moved[slides], ideal[slides], rtol=0.02, atol=2e-3)


def test_forces_of_an_object_on_the_fingers(run, native):
    """The plate lies on the upturned hand: the force on palm and fingers is its weight."""
    q = native.qpos(height=0.3)
    q[:, 5] = np.pi
    state = run.init(q)
    tips = np.asarray(state.body_pos)[0, list(run.scene.hand.fingertip_body)][:4]
    at = run.scene.object_qpos
    q[:, at : at + 3] = [tips[:, 0].mean(), tips[:, 1].min() - 0.005, tips[:, 2].max() + 0.03]
    factors = np.linspace(0.5, 1.5, NUM)
    params = np.stack([factors, np.ones(NUM)], 1)
    a, b = run.init(q, params=params), native.init(q, params=params)
    ctrl, mine, theirs = native.control(b), [], []
    for k in range(40):
        a, b = run.step(a, ctrl), native.step(b, ctrl)
        if k >= 30:
            mine.append(np.asarray(a.finger_force).sum(1))
            theirs.append(np.asarray(b.finger_force).sum(1))
    weight = -factors * 0.128 * 9.81
    np.testing.assert_allclose(np.mean(theirs, 0)[:, 2], weight, rtol=0.05)
    np.testing.assert_allclose(np.mean(mine, 0)[:, 2], weight, rtol=0.05)
    tips_carry = np.asarray(a.tip_wrench)[:, :, 2].sum(1)
    np.testing.assert_allclose(tips_carry, np.asarray(b.tip_wrench)[:, :, 2].sum(1), atol=0.1)


def test_a_diverged_environment_is_quarantined_and_written(run, native, tmp_path):
    q = native.qpos()
    state = run.init(q)
    ctrl = native.control(state)
    broken = run.step(state.replace(qvel=state.qvel.at[2].set(jnp.nan)), ctrl)
    np.testing.assert_array_equal(broken.finite, np.arange(NUM) != 2)
    np.testing.assert_array_equal(broken.divergences, np.arange(NUM) == 2)
    np.testing.assert_array_equal(broken.qpos[2], state.qpos[2])
    after = run.step(broken, ctrl)
    assert bool(after.finite.all()) and int(after.divergences[2]) == 1
    run.engine.save_divergences(after, tmp_path / "diverged.npz")
    saved = np.load(tmp_path / "diverged.npz")
    assert int(saved["count"]) == 1
    np.testing.assert_array_equal(saved["qpos"][0], state.qpos[2])


@pytest.mark.slow
def test_gradient_through_ten_control_steps(run, native):
    """d (finger and object positions) / d (targets): finite, equal to central differences."""
    q = native.qpos(height=0.6)
    at = run.scene.object_qpos
    q[:, at : at + 3] = [0.5, 0.5, 0.0199]
    state = run.init(q)
    base = jnp.asarray(native.control(state))

    def loss(delta: jax.Array) -> jax.Array:
        control = Control(base.at[:, :22].add(delta), jnp.zeros((NUM, 6)))
        end, _ = jax.lax.scan(lambda s, _: (run.engine.step(s, control), None), state, length=10)
        return (end.body_pos[:, :-1] ** 2).sum() + 10 * end.qpos[:, at + 2].sum()

    delta = jnp.linspace(0.1, 0.3, 22)
    gradient = np.asarray(jax.jit(jax.grad(loss))(delta))
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 1e-2
    value = jax.jit(loss)
    for k in (1, 2, 5, 9, 15):
        step = jnp.zeros(22).at[k].set(2e-2)
        difference = float(value(delta + step) - value(delta - step)) / 4e-2
        # float32 sums of 140 squares: differences are good to about 1e-3.
        assert gradient[k] == pytest.approx(difference, rel=0.03, abs=3e-3), k


@pytest.mark.slow
@pytest.mark.parametrize("coupling", ["servo", "tendon"])
def test_wrench_base_follows_native(assets, coupling):
    """A free hand pushed on its palm, with PhysX's link damping, tendons and dry friction."""
    config = SceneConfig(base="wrench", coupling=coupling, finger_frictionloss=0.001)
    physics = replace(REFERENCE, substeps=2)
    mine = MjxRunner(build_mjx_scene(assets[:1], config), 2, physics)
    theirs = Runner(build_scene(assets[:1], config), 2, physics)
    q = theirs.qpos(height=0.4)
    at = mine.scene.object_qpos
    q[:, at : at + 3] = [0.5, 0, 0.0199]
    a, b = mine.init(q), theirs.init(q)
    ctrl = theirs.control(b) + np.float32(0.3)
    wrench = np.array([[20.0, -10, 5, 1, 0.5, -1], [0, 0, 30, 0, 2, 0]], np.float32)
    for _ in range(10):
        a, b = mine.step(a, ctrl, wrench), theirs.step(b, ctrl, wrench)
    np.testing.assert_allclose(a.qpos, b.qpos, atol=5e-4)
    np.testing.assert_allclose(a.body_linvel, b.body_linvel, atol=5e-3)


def test_what_does_not_fit_is_said(run, monkeypatch, assets):
    with pytest.raises(ConfigError, match="build_mjx_scene"):
        MjxEngine(build_scene(assets[:1]), 2, REFERENCE)
    with pytest.raises(ConfigError, match="pyramidal"):
        MjxEngine(run.scene, 2, replace(REFERENCE, cone="pyramidal"))
    monkeypatch.setattr(layout.importlib.metadata, "version", lambda name: "9.9.9")
    with pytest.raises(ConfigError, match=r"mujoco 9\.9\.9"):
        layout.check_versions()
