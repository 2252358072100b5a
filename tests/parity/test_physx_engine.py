"""PhysX as an engine of environments: the same motion as the reference of the probes, its forces,
and what becomes of states that it did not leave."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from dexjax.core.errors import ConfigError
from dexjax.evaluate import main
from dexjax.parity import grasps
from dexjax.parity.physx import PhysxSimulator, why_unavailable
from dexjax.parity.physx_engine import PhysxEngine
from dexjax.parity.probe import FRAME, Probe
from dexjax.sim.physics import REFERENCE, PhysicsConfig
from dexjax.sim.types import Control

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))

FRAMES = REFERENCE.in_period(FRAME)


@pytest.fixture(scope="module")
def probe() -> Probe:
    return grasps_in_float32("servo")


def grasps_in_float32(base: Literal["servo", "wrench"]) -> Probe:
    """Grasps of the gates G8 and G8b, as an engine is told them."""
    made = grasps.squeeze_lift("gate", 12, base=base)
    names = ("qpos", "qvel", "object_params", "ctrl", "wrench")
    return replace(made, **{k: np.float32(getattr(made, k)).astype(float) for k in names})


def start(probe: Probe) -> tuple[jax.Array, ...]:
    rows = (probe.qpos, probe.qvel, probe.object_params)
    return jnp.asarray(probe.object_id), *(jnp.asarray(x, jnp.float32) for x in rows)


def control(probe: Probe, frame: int) -> Control:
    return Control(*(jnp.asarray(x[frame], jnp.float32) for x in (probe.ctrl, probe.wrench)))


@pytest.mark.parametrize("base", ["servo", "wrench"])
def test_is_the_reference_of_the_probes(base: Literal["servo", "wrench"]) -> None:
    """Open loop, whole grasps with lifting: bit by bit what the probes' reference does."""
    probe = grasps_in_float32(base)
    truth = PhysxSimulator().run(probe)
    engine = PhysxEngine(probe.scene, probe.num_trials, FRAMES)
    step, states = jax.jit(engine.step), [engine.init(*start(probe))]
    for k in range(probe.num_frames):
        states.append(step(states[-1], control(probe, k)))
    for name in ("qpos", "qvel", "finger_force", "table_force"):
        found = np.stack([np.asarray(getattr(s, name)) for s in states])
        np.testing.assert_array_equal(found[1:], truth[name][1:], err_msg=name)
    found = np.stack([np.asarray(s.body_pos) for s in states])
    assert np.abs(found - truth["body_pos"]).max() < 1e-5  # MuJoCo's kinematics: gate G0
    assert grasps.held(probe, truth).any()


def test_forces_are_in_balance(probe: Probe) -> None:
    """Against smooth objects too heavy to move, a finger's last drive carries the torque of the
    contacts on its link: tip wrench and drive force are right, also in sign and frame. Smooth,
    because SAPIEN's contacts report no friction."""
    smooth = replace(probe, object_params=np.tile([1e4, 0.0], (probe.num_trials, 1)))
    engine = PhysxEngine(smooth.scene, smooth.num_trials, FRAMES)
    step, state = jax.jit(engine.step), engine.init(*start(smooth))
    states = []
    for k in range(grasps.CLOSED + 40):
        state = step(state, control(smooth, min(k, grasps.CLOSED)))
        states.append(state)
    model, hand = probe.scene.model, probe.scene.hand
    data, left = mujoco.MjData(model), []
    for finger, name in enumerate(("FFJ0", "MFJ0", "RFJ0", "LFJ0", "THJ0")):
        joint, order = model.joint(name), hand.joint_names.index(name)
        torque, drive, speed = (np.zeros((20, probe.num_trials)) for _ in range(3))
        for k, found in enumerate(states[-20:]):
            drive[k] = found.joint_force[:, order]
            speed[k] = np.abs(found.qvel[:, joint.dofadr[0]])
            for b in range(probe.num_trials):
                data.qpos[:] = found.qpos[b]
                mujoco.mj_kinematics(model, data)
                axis = data.xmat[joint.bodyid[0]].reshape(3, 3) @ joint.axis
                torque[k, b] = axis @ np.asarray(found.tip_wrench[b, finger, 3:], float)
        pressing = (np.abs(drive.mean(0)) > 0.1) & (speed.max(0) < 0.2)
        left += list((torque + drive).mean(0)[pressing] / np.abs(drive.mean(0)[pressing]))
    # 8 iterations leave some per cent, also in the mean over 20 frames; more where a finger slips.
    assert len(left) >= 8
    assert np.median(np.abs(left)) < 0.05 and np.max(np.abs(left)) < 0.3


def test_another_state_starts_anew(probe: Probe) -> None:
    """Above the table nothing touches, so that a step depends on its input alone; an object that
    changes is another one."""
    engine = PhysxEngine(probe.scene, probe.num_trials, FRAMES)
    object_id, qpos, qvel, params = start(probe)
    high = qpos.at[:, probe.scene.object_qpos + 2].add(1.0)
    first = engine.init(object_id, high, qvel, params)
    one = engine.step(first, control(probe, 0))
    two = engine.step(one, control(probe, 1))
    again = engine.step(first, control(probe, 0))
    np.testing.assert_array_equal(again.qpos, one.qpos)
    np.testing.assert_allclose(engine.step(one, control(probe, 1)).qpos, two.qpos, atol=1e-6)
    mask = jnp.arange(probe.num_trials) == 3
    mixed = engine.reset_where(two, mask, jnp.roll(object_id, 1), qpos, qvel, params)
    np.testing.assert_array_equal(mixed.qpos[3], qpos[3])
    np.testing.assert_array_equal(mixed.qpos[4:], two.qpos[4:])
    assert int(mixed.object_id[3]) == int(object_id[2])


def test_a_nan_stays_where_it_is(probe: Probe) -> None:
    engine = PhysxEngine(probe.scene, probe.num_trials, FRAMES)
    state = engine.init(*start(probe))
    good = control(probe, 0)
    bad = replace(good, ctrl=good.ctrl.at[0, 0].set(jnp.nan))
    after = engine.step(state, bad)
    assert np.asarray(after.finite).tolist() == [False] + [True] * (probe.num_trials - 1)
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(after))
    alone = PhysxEngine(probe.scene, probe.num_trials, FRAMES).step(state, good)
    np.testing.assert_array_equal(after.qpos[1:], alone.qpos[1:])
    assert engine.divergences.count == 1
    # It goes on from where it was put.
    assert np.asarray(engine.step(after, good).finite).all()


def test_period_must_consist_of_steps(probe: Probe) -> None:
    with pytest.raises(ConfigError, match=r"0\.005 s does not consist of PhysX steps"):
        PhysxEngine(probe.scene, 1, PhysicsConfig(timestep=0.005, substeps=1))
    with pytest.raises(ConfigError, match="about 900"):  # the interpreter would die beyond 1,015
        PhysxEngine(probe.scene, 1000, FRAMES)


def test_scenes_end_with_their_episodes(probe: Probe) -> None:
    """Or several evaluations of one process would run out of them."""
    engine = PhysxEngine(probe.scene, probe.num_trials, FRAMES)
    state = engine.step(engine.init(*start(probe)), control(probe, 0))
    mask = jnp.arange(probe.num_trials) < 5
    engine.reset_where(state, mask, *start(probe)).qpos.block_until_ready()
    assert [w is None for w in engine._worlds] == np.asarray(mask).tolist()


def test_evaluation_in_physx(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The script lifts a box in PhysX as it does in MuJoCo, and the file says where it was."""
    file = tmp_path / "scripted.json"
    arguments = ["--agent", "scripted", "--objects", "builtin:seen:can_001", "--episodes", "4"]
    assert main([*arguments, "--engine", "physx", "--json", str(file), "--no-video"]) == 0
    result = json.loads(file.read_text())
    assert result["engine"] == "physx" and result["physics"]["solver"] == "tgs"
    assert result["physics"]["substeps"] == 4  # 30 Hz control
    assert result["success"]["any"]["mean"] >= 0.75
    assert main([*arguments, "--engine", "physx", "--physics", "fast"]) == 2
    assert "own physics" in capsys.readouterr().err
    assert main([*arguments, "--physics", "slow"]) == 2
    assert "slow" in capsys.readouterr().err


def test_training_in_physx_is_refused() -> None:
    from envs.shadow_grasp import spec

    with pytest.raises(ConfigError, match="dexjax.evaluate RUN --engine physx"):
        spec.make(spec.presets["quick"].env, num_envs=2, engine="physx")
