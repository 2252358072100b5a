"""The engine equals plain `mj_step` loops bit by bit, on each object's own model."""

from __future__ import annotations

from dataclasses import replace

import mujoco
import mujoco.batch
import numpy as np
import pytest
from simple_objects import PlainLoop, Runner

from dexjax.sim.physics import PHYSICS
from dexjax.sim.scene import build_scene


def _grasping(run: Runner, rng: np.random.Generator):
    """State with each object at rest below an open hand, and a controller that closes on it."""
    q = run.qpos(height=0.1)
    at = run.scene.object_qpos
    q[:, at : at + 2] = rng.uniform(-0.02, 0.02, (run.num, 2))
    q[:, at + 2] = 0.06
    q[:, at + 3 : at + 7] = rng.normal(size=(run.num, 4))
    q[:, at + 3 : at + 7] /= np.linalg.norm(q[:, at + 3 : at + 7], axis=1, keepdims=True)
    return q


def _closing(run: Runner, state, step: int) -> np.ndarray:
    ctrl = run.control(state)
    fingers = [
        i for i in range(run.scene.model.nu) if "base" not in run.scene.model.actuator(i).name
    ]
    ctrl[:, fingers] = 0.05 * step
    ctrl[:, run.scene.model.actuator("A_base_z").id] = 0.08
    return ctrl


@pytest.mark.parametrize("name", sorted(PHYSICS))
def test_equals_plain_loop_with_contacts(scene, name):
    """30 control steps of closing on every object: state, poses and forces are the same bits."""
    physics = PHYSICS[name]
    run = Runner(scene, len(scene.object_names), physics)
    q = _grasping(run, np.random.default_rng(0))
    state = run.init(q, objects=np.arange(run.num))
    loops = [PlainLoop(scene.object_model(i), physics) for i in range(run.num)]
    for i, loop in enumerate(loops):
        loop.set(np.asarray(state.qpos[i]), np.asarray(state.qvel[i]), 0)
    contacts = 0
    for k in range(30):
        ctrl = _closing(run, state, k)
        state = run.step(state, ctrl)
        assert bool(state.finite.all())
        for i, loop in enumerate(loops):
            loop.step(ctrl[i])
            contacts += loop.data.ncon
            np.testing.assert_array_equal(state.qpos[i], loop.data.qpos)
            np.testing.assert_array_equal(state.qvel[i], loop.data.qvel)
            np.testing.assert_array_equal(state.warmstart[i], loop.data.qacc_warmstart)
            found = [np.asarray(x[i]) for x in (state.finger_force, state.tip_wrench)]
            expected = _contact_forces(scene, loop, i)
            # sums of up to 20 contact forces of some 10 N, in another order and in float32
            np.testing.assert_allclose(found[0], expected[0], atol=2e-5)
            np.testing.assert_allclose(found[1], expected[1], atol=2e-5)
            np.testing.assert_allclose(state.table_force[i], expected[2], atol=2e-5)
    assert contacts > 150 * run.num  # the comparison covered real contacts
    assert (np.abs(state.finger_force).sum((1, 2)) > 0).any()


def _contact_forces(scene, loop: PlainLoop, index: int):
    """Forces that acted during the last substep, summed over mj_contactForce in world axes:
    object on each finger (5, 3); all on each distal link with torque about its origin (5, 6);
    norm of table on hand."""
    model, data, hand = loop.model, loop.data, scene.hand
    bodies = scene.body_ids[:-1]
    finger = {int(b): f for b, f in zip(bodies, hand.body_finger, strict=True)}
    tips = {int(bodies[b]): f for f, b in enumerate(hand.fingertip_body)}
    on_finger, on_tip, table = np.zeros((5, 3)), np.zeros((5, 6)), np.zeros(3)
    for c in range(data.ncon):
        contact, local = data.contact[c], np.zeros(6)
        mujoco.mj_contactForce(model, data, c, local)
        on_second = contact.frame.reshape(3, 3).T @ local[:3]  # the normal points to geom 2
        names = [model.geom(g).name for g in contact.geom]
        pair = [int(model.geom_bodyid[g]) for g in contact.geom]
        for me, other, force in ((0, 1, -on_second), (1, 0, on_second)):
            if pair[me] not in finger:
                continue
            if pair[other] == model.body("object").id and finger[pair[me]] >= 0:
                on_finger[finger[pair[me]]] += force
            if pair[me] in tips:
                arm = contact.pos - data.xpos[pair[me]]
                on_tip[tips[pair[me]]] += np.concatenate([force, np.cross(arm, force)])
            if names[other] == "table":
                table += force
    return on_finger, on_tip, np.linalg.norm(table)


def test_equals_a_scene_with_that_object_alone(scene, assets):
    """The same bits as scenes compiled from one object each: nothing of another object is left.

    They have fewer geom slots. `stat.meaninertia`, by which the solver scales its tolerance, is
    the one number that a shared model cannot hold per object.
    """
    physics = PHYSICS["reference"]
    run = Runner(scene, len(assets), physics)
    q = _grasping(run, np.random.default_rng(1))
    state = run.init(q, objects=np.arange(run.num))
    loops = []
    for i, asset in enumerate(assets):
        model = build_scene([asset]).model
        model.stat.meaninertia = scene.model.stat.meaninertia
        loops.append(PlainLoop(model, physics))
        loops[i].set(np.asarray(state.qpos[i]), 0, 0)
    for k in range(30):
        ctrl = _closing(run, state, k)
        state = run.step(state, ctrl)
        for i, loop in enumerate(loops):
            loop.step(ctrl[i])
            np.testing.assert_array_equal(state.qpos[i], loop.data.qpos, err_msg=assets[i].name)
            np.testing.assert_array_equal(state.qvel[i], loop.data.qvel, err_msg=assets[i].name)


def test_mass_and_friction_parameters_equal_recompiled_objects(scene, assets):
    """Every model field of an environment with a mass factor and a friction coefficient is that
    of a scene compiled with the heavier object; back at (1, 1) nothing is left of it."""
    factor, friction = 2.5, 0.25  # exact in float32
    run = Runner(scene, len(assets), PHYSICS["reference"])
    objects = np.arange(run.num)
    q = run.qpos()
    run.init(q, objects=objects, params=np.tile([factor, friction], (run.num, 1)))
    heavy = build_scene(
        [replace(a, mass=factor * a.mass, inertia=factor * a.inertia) for a in assets]
    )
    geoms = np.flatnonzero(scene.model.geom_bodyid == scene.model.body("object").id)
    for i in range(run.num):
        expected = heavy.object_model(i)
        expected.geom_friction[geoms, 0] = friction
        _same_model(run.engine._batch.get_model(i), expected, assets[i].name)
    run.init(q, objects=objects[::-1])
    for i in range(run.num):
        _same_model(run.engine._batch.get_model(i), scene.object_model(run.num - 1 - i), "reset")


def _same_model(found: mujoco.MjModel, expected: mujoco.MjModel, name: str) -> None:
    for field in mujoco.batch.MODEL_FIELDS:
        a, b = getattr(found, field, None), getattr(expected, field, None)
        if isinstance(a, np.ndarray) and a.dtype.kind == "f" and not field.startswith("bvh"):
            # relative rounding of a product in double precision, and of the eigenvectors
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=f"{name} {field}")


def test_object_models_are_independent(scene):
    """Asking for one object's model changes neither the shared model nor another's."""
    before = scene.model.geom_dataid.copy()
    first, second = scene.object_model(0), scene.object_model(2)
    assert not np.array_equal(first.geom_dataid, second.geom_dataid)
    assert not np.array_equal(first.body_mass, second.body_mass)
    np.testing.assert_array_equal(scene.model.geom_dataid, before)


def test_joint_steps_equal_plain_loop(scene):
    """A step to 60 % of its range in one actuator per environment: same bits, and it arrives."""
    physics = PHYSICS["reference"]
    model = scene.model
    fingers = [i for i in range(model.nu) if "base" not in model.actuator(i).name]
    run = Runner(scene, len(fingers), physics)
    state = run.init(run.qpos())
    ctrl = run.control(state)
    targets = []
    for env, i in enumerate(fingers):
        low, high = model.actuator_ctrlrange[i]
        targets.append(low + 0.6 * (high - low))
        ctrl[env, i] = targets[-1]
    loops = [PlainLoop(scene.object_model(0), physics) for _ in fingers]
    for i, loop in enumerate(loops):
        loop.set(np.asarray(state.qpos[i]), 0, 0)
    for _ in range(30):
        state = run.step(state, ctrl)
        for i, loop in enumerate(loops):
            loop.step(ctrl[i])
            np.testing.assert_array_equal(state.qpos[i], loop.data.qpos)
    joint = model.actuator_trnid[fingers, 0]
    reached = np.asarray(state.qpos)[np.arange(run.num), model.jnt_qposadr[joint]]
    # 1 s is many time constants (damping 0.1 / kp 3 = 33 ms); gravity is compensated.
    np.testing.assert_allclose(reached, targets, atol=0.01)
