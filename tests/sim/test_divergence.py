"""Simulations that blow up are caught, logged, put back and kept away from all others."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from simple_objects import Runner, box_asset, differing

from dexjax.sim.native import DivergenceLog
from dexjax.sim.physics import PHYSICS
from dexjax.sim.scene import SceneConfig, build_scene
from dexjax.sim.types import SimState

NUM = 8
BAD = (1, 4)  # environments that are harmed


@pytest.fixture(scope="module", params=["servo", "wrench"])
def run(request) -> Runner:
    scene = build_scene([box_asset("a", (0.03, 0.03, 0.03), 0.1)], SceneConfig(base=request.param))
    return Runner(scene, NUM, PHYSICS["unidexgrasp"])


def _start(run: Runner):
    q = run.qpos(height=0.3)
    at = run.scene.object_qpos
    q[:, at + 2] = 0.031
    state = run.init(q)
    return state, run.control(state), np.zeros((NUM, 6), np.float32)


def _harm(run: Runner, kind: str):
    state, ctrl, wrench = _start(run)
    bad = list(BAD)
    field, value = kind.split()
    number = {"nan": np.nan, "inf": np.inf, "huge": 1e12}[value]
    if field == "ctrl":
        ctrl[bad, 3] = number
    elif field == "wrench":
        wrench[bad, 1] = number
    elif field == "quat":
        q = np.array(state.qpos)
        q[bad, run.scene.object_qpos + 3] = number
        state = state.replace(qpos=jnp.asarray(q))
    else:
        x = np.array(getattr(state, field))
        x[bad, -1] = number
        state = state.replace(**{field: jnp.asarray(x)})
    return state, ctrl, wrench


@pytest.mark.parametrize(
    "kind",
    [
        "qvel nan", "qvel inf", "qvel huge", "qpos nan", "qpos inf", "quat nan", "quat huge",
        "warmstart nan", "ctrl nan", "ctrl inf", "wrench nan", "wrench huge",
    ],
)  # fmt: skip
def test_bad_simulations_are_quarantined(run, kind):
    """Flagged, finite at rest, logged; the other environments do not differ in one bit."""
    if kind.startswith("wrench") and run.scene.config.base == "servo":
        pytest.skip("a servoed base takes no wrench")
    clean = run.step(*_start(run))
    assert bool(clean.finite.all())
    before = run.engine.divergences.count
    state = run.step(*_harm(run, kind))
    bad = np.zeros(NUM, bool)
    bad[list(BAD)] = True
    for name in SimState.__dataclass_fields__:
        values = np.asarray(getattr(state, name))
        assert np.isfinite(values).all(), name
        np.testing.assert_array_equal(values[~bad], np.asarray(getattr(clean, name))[~bad], name)
        assert (np.abs(values.astype(float)) < 1e6).all(), name
    if np.asarray(state.finite).all():
        # MuJoCo itself clamps or ignores some of these; then the motion must be sound.
        assert kind in ("ctrl inf", "ctrl huge", "warmstart nan", "quat huge"), kind
        assert run.engine.divergences.count == before
        return
    np.testing.assert_array_equal(np.asarray(state.finite), ~bad)
    assert run.engine.divergences.count == before + len(BAD)
    assert (np.asarray(state.qvel)[bad] == 0).all()
    for name in ("finger_force", "tip_wrench", "table_force", "joint_force"):
        assert (np.asarray(getattr(state, name))[bad] == 0).all(), name


def test_a_quarantined_simulation_can_go_on(run):
    """From the quarantined state the next step is finite again, and repeatable."""
    state = run.step(*_harm(run, "qvel nan"))
    _, ctrl, wrench = _start(run)
    after = run.step(state, ctrl, wrench)
    assert bool(after.finite.all())
    again = run.step(state, ctrl, wrench)
    assert differing(after, again) == []


def test_nothing_is_printed_or_written_to_the_current_folder(run, tmp_path, monkeypatch, capfd):
    """MuJoCo would print each divergence and append to MUJOCO_LOG.TXT."""
    monkeypatch.chdir(tmp_path)
    state = run.step(*_harm(run, "qvel nan"))
    assert not bool(state.finite.all())
    assert list(tmp_path.iterdir()) == []
    assert "WARNING" not in "".join(capfd.readouterr())


def test_log_keeps_the_last_and_saves_them(run, tmp_path):
    log = DivergenceLog(keep=3)
    run.engine.divergences = log
    for _ in range(3):
        run.step(*_harm(run, "qvel nan"))
    assert log.count == 6 and len(log.entries) == 3
    file = tmp_path / "divergences.npz"
    log.save(file)
    with np.load(file, allow_pickle=False) as saved:
        assert int(saved["count"]) == 6
        assert saved["qpos"].shape == (3, run.scene.model.nq)
        assert np.isnan(saved["qvel"][:, -1]).all()  # the state that led to it, as it came in
        assert saved["ctrl"].shape == (3, run.scene.model.nu)
        assert saved["object_id"].tolist() == [0, 0, 0]


def test_an_empty_log_writes_nothing(tmp_path):
    DivergenceLog().save(tmp_path / "none.npz")
    assert not (tmp_path / "none.npz").exists()


def test_reset_repairs_a_diverged_environment(run):
    state = run.step(*_harm(run, "qpos nan"))
    start, ctrl, wrench = _start(run)
    mask = ~np.asarray(state.finite)
    state = run.reset_jit(state, mask, start.object_id, start.qpos, start.qvel, start.object_params)
    assert bool(state.finite.all())
    rows = np.flatnonzero(mask)
    np.testing.assert_array_equal(state.body_pos[rows], start.body_pos[rows])
    assert bool(run.step(state, ctrl, wrench).finite.all())
