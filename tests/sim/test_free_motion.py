"""Motion without contact against closed forms and MuJoCo's own velocities."""

from __future__ import annotations

import mujoco
import numpy as np
from simple_objects import Runner

from dexjax.sim.physics import PHYSICS, REFERENCE


def test_free_fall_is_semi_implicit_euler(scene):
    """z_n = z_0 + v_0 n h - g h^2 n (n + 1) / 2 exactly; ballistic x."""
    run = Runner(scene, len(scene.object_names), REFERENCE)
    q, v = run.qpos(height=0.9), np.zeros((run.num, scene.model.nv))
    at, vat = scene.object_qpos, scene.object_qvel
    q[:, at : at + 3] = [0.3, 0.3, 2.5]
    v[:, vat : vat + 3] = [0.2, -0.1, 1.0]
    state = run.init(q, v, np.arange(run.num))
    ctrl = run.control(state)
    h, g = REFERENCE.timestep, 9.81
    for k in range(1, 13):
        state = run.step(state, ctrl)
        n = k * REFERENCE.substeps
        t = n * h
        expected = [0.3 + 0.2 * t, 0.3 - 0.1 * t, 2.5 + t - g * h * h * n * (n + 1) / 2]
        # float32 rounds positions near 2.5 m to 1.2e-7 and velocities to 2e-7 per control step
        np.testing.assert_allclose(state.body_pos[:, -1], [expected] * run.num, atol=5e-6)
        np.testing.assert_allclose(
            state.body_linvel[:, -1], [[0.2, -0.1, 1 - g * t]] * run.num, atol=5e-6
        )


def test_spin_about_a_principal_axis_is_constant(scene):
    """The box turns about its z axis by w t; the reported angular velocity is in world axes."""
    run = Runner(scene, 1, REFERENCE)
    q, v = run.qpos(), np.zeros((1, scene.model.nv))
    at, vat = scene.object_qpos, scene.object_qvel
    half = np.sqrt(0.5)
    q[:, at : at + 7] = [0.3, 0, 2.5, half, half, 0, 0]  # body z axis along world -y
    v[:, vat + 5] = 4.0
    state = run.init(q, v)
    for _ in range(10):
        state = run.step(state, run.control(state))
    t = 10 * REFERENCE.control_dt
    # The 0.1 mrad tilt of the inertia frame lets the axis wander by that order.
    np.testing.assert_allclose(state.body_angvel[0, -1], [0, -4, 0], atol=2e-3)
    turned = np.zeros(4)
    mujoco.mju_mulQuat(
        turned, np.array([half, half, 0, 0]), np.array([np.cos(2 * t), 0, 0, np.sin(2 * t)])
    )
    assert abs(np.dot(turned, np.asarray(state.body_quat[0, -1]))) > 1 - 1e-5


def test_body_velocities_are_mujocos(scene):
    """Linear velocity of each body's origin and angular velocity, as mj_objectVelocity."""
    rng = np.random.default_rng(0)
    run = Runner(scene, 4, PHYSICS["fast"])
    q = run.qpos()
    q[:, :28] += rng.uniform(0, 0.3, (4, 28))
    state = run.init(q, rng.normal(size=(4, scene.model.nv)))
    after = run.step(state, run.control(state))
    model = scene.object_model(0)
    data = mujoco.MjData(model)
    for now in (state, after):
        for i in range(4):
            data.qpos, data.qvel = now.qpos[i], now.qvel[i]
            mujoco.mj_forward(model, data)
            for b, body in enumerate(scene.body_ids):
                found = np.zeros(6)
                mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_XBODY, body, found, 0)
                # float32 rounding of the state moves velocities of some m/s by 1e-6
                np.testing.assert_allclose(now.body_angvel[i, b], found[:3], atol=1e-5)
                np.testing.assert_allclose(now.body_linvel[i, b], found[3:], atol=1e-5)
                np.testing.assert_allclose(now.body_pos[i, b], data.xpos[body], atol=1e-6)


def test_energy_does_not_grow_without_actuation(assets):
    """Kinetic + potential energy of a tumbling drop and of a hand that coasts against it."""
    from dexjax.sim.scene import build_scene

    scene = build_scene(assets)
    scene.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_ACTUATION
    run = Runner(scene, 2 * len(assets), REFERENCE)
    rng = np.random.default_rng(1)
    q = run.qpos(height=0.35)
    at = scene.object_qpos
    q[:, at : at + 3] = [0, 0, 0.2]
    q[:, at + 3 : at + 7] = rng.normal(size=(run.num, 4))
    q[:, at + 3 : at + 7] /= np.linalg.norm(q[:, at + 3 : at + 7], axis=1, keepdims=True)
    v = 0.5 * rng.normal(size=(run.num, scene.model.nv))
    objects = np.arange(run.num) % len(assets)
    state = run.init(q, v, objects)
    ctrl = np.zeros((run.num, scene.model.nu))
    before = _energy(scene, state, objects)
    start = before.copy()
    for _ in range(45):
        state = run.step(state, ctrl)
        now = _energy(scene, state, objects)
        assert bool(state.finite.all())
        # Soft contacts store a little energy and give it back: 5 % of the start, or 10 mJ.
        assert (now <= before + np.maximum(0.05 * start, 0.01)).all(), (now - before).max()
        assert (now <= start * 1.02).all()
        before = now
    assert (before < 0.8 * start).all()  # contacts and joint damping have taken some


def _energy(scene, state, objects) -> np.ndarray:
    """J. The hand's weight is compensated, so only the object has potential energy."""
    total = []
    for i, index in enumerate(objects):
        model = scene.object_model(int(index))
        data = mujoco.MjData(model)
        data.qpos, data.qvel = state.qpos[i], state.qvel[i]
        mujoco.mj_forward(model, data)
        mujoco.mj_energyVel(model, data)
        mass = model.body("object").mass[0]
        total.append(data.energy[1] + 9.81 * mass * data.body("object").xpos[2])
    return np.array(total)
