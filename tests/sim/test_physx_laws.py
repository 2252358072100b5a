"""The laws of the physics preset `physx`, each against its formula. That they are PhysX's is shown
in tests/parity."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
import trimesh

from dexjax.core.errors import ConfigError
from dexjax.objects.build import AssetOptions, build_asset
from dexjax.sim.followers import followers
from dexjax.sim.physics import LINK_DAMPING, PHYSICS, PhysicsConfig, physics_preset
from dexjax.sim.scene import Scene, SceneConfig, build_scene

PHYSX = physics_preset("physx")


@pytest.fixture(scope="module")
def scene() -> Scene:
    box = trimesh.creation.box(extents=[0.05, 0.05, 0.05])
    asset = build_asset(box, name="box", options=AssetOptions(max_pieces=1, sdf=False))
    return build_scene([asset], SceneConfig(coupling="tendon"))


def applied(scene: Scene, physics: PhysicsConfig) -> mujoco.MjModel:
    model = scene.model.__copy__()
    physics.apply(model)
    return model


@pytest.mark.parametrize("every", [1, 2, 4])
def test_link_drag_leaves_what_one_physx_step_leaves(every: int) -> None:
    step = 1 / 120
    physics = PhysicsConfig(timestep=step / every, substeps=2 * every, link_damping_step=step)
    drag = physics.link_drag()
    assert drag.every == every
    speed, force = 0.7, 3.0  # per mass
    speed += physics.timestep * (drag.share * force - drag.coefficient * speed)
    left = 1 - LINK_DAMPING * step  # the rest of the steps adds nothing
    assert speed == pytest.approx(left * 0.7 + step * left * force, rel=1e-12)


def test_link_drag_stops_a_slow_simulation() -> None:
    """Steps longer than 1 / damping: PhysX clamps the coefficient, and nothing moves."""
    assert PhysicsConfig(timestep=1 / 60).link_drag().share == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("step", "substeps"), [(1 / 100, 4), (1 / 120, 3), (1 / 480, 4)])
def test_link_drag_refuses_steps_that_do_not_fit(step: float, substeps: int) -> None:
    with pytest.raises(ConfigError, match="link_damping_step"):
        PhysicsConfig(timestep=1 / 240, substeps=substeps, link_damping_step=step).link_drag()


def test_follower_force(scene: Scene) -> None:
    """One finger's joints at hand-computed tendon lengths; NumPy and JAX agree."""
    law = followers(scene.model)
    assert len(law.limit) == 4
    names = [scene.model.dof_jntid[law.dof[:, 0]], scene.model.dof_jntid[law.dof[:, 1]]]
    joints = [[scene.model.joint(j).name for j in part] for part in names]
    assert joints == [[f"{f}J0" for f in ("FF", "MF", "RF", "LF")],
                      [f"{f}J1" for f in ("FF", "MF", "RF", "LF")]]  # fmt: skip
    qpos, qvel = np.zeros(scene.model.nq), np.zeros(scene.model.nv)
    assert (law.force(qpos, qvel) == 0).all()
    qpos[law.qpos[:, 1]] = [0.1, 0.5, 0.5, 0.5]  # 0.1 rad is within the dead band
    qpos[law.qpos[2, 0]] = 1.0
    qvel[law.dof[3, 0]] = 2.0
    force = law.force(qpos, qvel)
    beyond = -0.00805 * 0.5 + 0.001
    above = 0.00705 * 1.0 - 0.00805 * 0.5 - 0.001
    expected = [0, -30 * beyond / 0.00705, -30 * above / 0.00705, -30 * beyond / 0.00705 - 0.2]
    np.testing.assert_allclose(force, expected, rtol=1e-12, atol=1e-15)
    in_jax = law.force(jnp.asarray(qpos), jnp.asarray(qvel))
    np.testing.assert_allclose(in_jax, expected, rtol=1e-5)


def test_other_tendons_are_refused(scene: Scene) -> None:
    model = scene.model.__copy__()
    model.actuator_trnid[:, 0] = 0  # nothing drives J1
    with pytest.raises(ConfigError, match="T_FFJ1c"):
        followers(model)


def test_servo_drive_limits_spring_and_damper_together(scene: Scene) -> None:
    """A joint that runs away from its target: with damping on the joint it is braked by more than
    the force limit, as a drive it is not."""
    torque = {}
    for drive in ("joint", "servo"):
        model = applied(scene, replace(PHYSX, drive=drive))
        data = mujoco.MjData(model)
        dof = model.joint("FFJ2").dofadr[0]
        data.qpos[model.joint("FFJ2").qposadr[0]], data.qvel[dof] = 1.0, 20.0
        mujoco.mj_forward(model, data)
        torque[drive] = data.qfrc_actuator[dof] + data.qfrc_damper[dof]
    limit = 0.9
    assert torque["servo"] == pytest.approx(-limit)
    assert torque["joint"] == pytest.approx(-limit - 0.1 * 20)


def test_servo_drive_is_the_same_below_the_limit(scene: Scene) -> None:
    """Damping moves into the servo; only half a step of stiffness is added to it."""
    for name in ("FFJ2", "THJ0"):
        before = applied(scene, replace(PHYSX, drive="joint"))
        after = applied(scene, PHYSX)
        dof, actuator = before.joint(name).dofadr[0], before.actuator(f"A_{name}").id
        stiffness = before.actuator_gainprm[actuator, 0]
        damping = before.dof_damping[dof]
        assert after.dof_damping[dof] == 0
        added = -after.actuator_biasprm[actuator, 2] - damping
        assert added == pytest.approx(stiffness * PHYSX.timestep / 2)


def test_other_presets_keep_mujoco_laws() -> None:
    """Figures reported so far were measured in these."""
    for name in ("reference", "fast", "unidexgrasp"):
        preset = PHYSICS[name]
        assert (preset.drive, preset.tendon, preset.solref, preset.hard_limits) == (
            "joint", "mujoco", None, False,
        )  # fmt: skip
        assert preset.link_drag().every == 1
