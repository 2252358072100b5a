"""Same input, same bits: at any thread count, in any order of calls, after any object change."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from simple_objects import Runner, differing

from dexjax.sim.physics import PHYSICS
from dexjax.sim.types import Control

NUM = 12


def _start(run: Runner, seed: int):
    """Random objects and postures in contact, and a random control."""
    rng = np.random.default_rng(seed)
    scene = run.scene
    q = run.qpos(height=0.12)
    at = scene.object_qpos
    q[:, at : at + 2] = rng.uniform(-0.03, 0.03, (run.num, 2))
    q[:, at + 2] = 0.06
    q[:, at + 3 : at + 7] = rng.normal(size=(run.num, 4))
    q[:, at + 3 : at + 7] /= np.linalg.norm(q[:, at + 3 : at + 7], axis=1, keepdims=True)
    params = rng.uniform(0.5, 1.5, (run.num, 2))
    params[::2] = 1
    state = run.init(q, objects=rng.integers(0, len(scene.object_names), run.num), params=params)
    ctrl = run.control(state) + rng.uniform(-0.2, 0.6, (run.num, scene.model.nu))
    wrench = rng.uniform(-20, 20, (run.num, 6)).astype(np.float32)
    return state, ctrl, wrench if scene.config.base == "wrench" else 0 * wrench


def _roll(run: Runner, state, ctrl, wrench, steps: int = 12):
    for _ in range(steps):
        state = run.step(state, ctrl, wrench)
    return state


@pytest.mark.parametrize("which", ["scene", "wrench_scene"])
def test_thread_count_changes_nothing(which, request):
    scene = request.getfixturevalue(which)
    ends = []
    for threads in (1, 2, 3):
        run = Runner(scene, NUM, PHYSICS["reference"], threads)
        ends.append(_roll(run, *_start(run, 0)))
    assert bool(ends[0].finite.all())
    assert differing(ends[0], ends[1]) == [] and differing(ends[0], ends[2]) == []


@pytest.mark.parametrize("which", ["scene", "wrench_scene"])
def test_other_calls_in_between_change_nothing(which, request):
    """Steps of another trajectory, resets and repetitions leave no trace."""
    run = Runner(request.getfixturevalue(which), NUM, PHYSICS["fast"])
    state, ctrl, wrench = _start(run, 1)
    other, other_ctrl, other_wrench = _start(run, 2)
    expected = _roll(run, state, ctrl, wrench)
    for _ in range(12):
        state = run.step(state, ctrl, wrench)
        other = run.step(other, other_ctrl, other_wrench)
        run.reset_jit(
            other,
            np.arange(NUM) % 3 == 0,
            state.object_id,
            other.qpos,
            other.qvel,
            2 * np.asarray(other.object_params),
        )
    assert differing(state, expected) == []
    again = run.step(state, ctrl, wrench)
    assert differing(again, run.step(state, ctrl, wrench)) == []


def test_the_place_in_the_batch_changes_nothing(scene):
    """Environments in another order give the same rows in that order."""
    run = Runner(scene, NUM, PHYSICS["reference"])
    state, ctrl, wrench = _start(run, 3)
    order = np.random.default_rng(0).permutation(NUM)
    expected = jax.tree.map(lambda x: x[order], _roll(run, state, ctrl, wrench))
    shuffled = jax.tree.map(lambda x: x[order], state)
    assert differing(_roll(run, shuffled, ctrl[order], wrench[order]), expected) == []


def test_object_change_at_reset_equals_a_fresh_engine_without_recompiling(scene):
    """After resets to other objects, masses and friction in some environments, they go on like in
    a new engine, and the others like before; nothing is compiled again."""
    physics = PHYSICS["reference"]
    run = Runner(scene, NUM, physics)
    state, ctrl, wrench = _start(run, 4)
    state = _roll(run, state, ctrl, wrench, 3)
    rng = np.random.default_rng(5)
    for _ in range(4):
        compiled = (run.step_jit._cache_size(), run.reset_jit._cache_size())
        mask = rng.random(NUM) < 0.5
        fresh = Runner(scene, NUM, physics)
        new, _, _ = _start(fresh, int(rng.integers(100)))
        before = state
        state = run.reset_jit(state, mask, new.object_id, new.qpos, new.qvel, new.object_params)
        mixed = jax.tree.map(lambda a, b: np.where(_wide(mask, a), a, b), new, before)  # noqa: B023
        assert differing(state, mixed) == []
        state = _roll(run, state, ctrl, wrench, 5)
        assert differing(state, _roll(fresh, mixed, ctrl, wrench, 5)) == []
        assert compiled[0] == run.step_jit._cache_size() == 1
        assert run.reset_jit._cache_size() <= max(1, compiled[1])


def _wide(mask: np.ndarray, like) -> np.ndarray:
    return mask.reshape(-1, *[1] * (np.ndim(like) - 1))


def test_scan_equals_single_calls(scene):
    """Inside `jit(lax.scan)` the engine gives the bits of separate calls."""
    run = Runner(scene, NUM, PHYSICS["fast"])
    state, ctrl, wrench = _start(run, 6)
    expected = _roll(run, state, ctrl, wrench, 8)

    @jax.jit
    def scan(state, control):
        return jax.lax.scan(lambda s, _: (run.engine.step(s, control), None), state, length=8)[0]

    control = Control(np.asarray(ctrl, np.float32), wrench)
    assert differing(scan(state, control), expected) == []


def test_init_reports_no_forces_and_current_poses(scene):
    """`init` computes poses and velocities at the given state; forces start at zero."""
    run = Runner(scene, NUM, PHYSICS["reference"])
    state, ctrl, wrench = _start(run, 7)
    _roll(run, state, ctrl, wrench, 5)  # leaves forces in the engine's buffers
    again, _, _ = _start(run, 7)
    assert differing(state, again) == []
    at = scene.object_qpos
    np.testing.assert_array_equal(state.body_pos[:, -1], state.qpos[:, at : at + 3])
    for name in ("finger_force", "tip_wrench", "table_force", "joint_force", "warmstart"):
        assert (np.asarray(getattr(state, name)) == 0).all(), name
