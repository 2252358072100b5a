"""Policies in closed loop: the gate G9, what its recordings are kept by, a trained policy."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dexjax.core.errors import ConfigError
from dexjax.parity.closed_loop import closed_loop, play
from dexjax.parity.engines import NativeSimulator
from dexjax.parity.gates import CLOSED_LOOP, judge_episodes
from dexjax.parity.physx import PhysxSimulator, why_unavailable
from dexjax.sim.physics import physics_preset
from dexjax.train import main as train

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))


def outcomes(success: np.ndarray) -> dict[str, np.ndarray]:
    success = success.astype(np.float32)
    return {
        "success_any": success,
        "success_held": 0.5 < success,
        "finite": np.ones((1, len(success))),
    }


def test_gate_judges_the_interval_and_not_the_mean() -> None:
    """Two rates of 80 %: equivalent when 4 % of 400 starts end differently, not shown when 40 % do;
    5 points apart: not equivalent, however many agree."""
    truth = np.arange(400) % 5 > 0
    few, many = truth.copy(), truth.copy()
    held, lost = np.flatnonzero(truth), np.flatnonzero(~truth)
    few[held[:8]], few[lost[:8]] = False, True
    many[held[:80]], many[lost[:80]] = False, True
    worse = truth.copy()
    worse[held[:20]] = False
    limit = CLOSED_LOOP.limits[0].figure
    verdicts = [judge_episodes(outcomes(truth), outcomes(x)) for x in (few, many, worse)]
    assert [v.ok for v in verdicts] == [True, False, False]
    assert [v.figures["difference"] for v in verdicts] == pytest.approx([0, 0, -5])
    # Normal approximation of the paired difference: 1.645 sqrt(discordant / starts), points.
    assert verdicts[1].figures[limit] == pytest.approx(100 * 1.645 * np.sqrt(0.4 / 400), rel=0.05)
    assert verdicts[1].figures["agree"] == pytest.approx(60)
    assert judge_episodes(outcomes(truth), None).ok is None
    assert judge_episodes(outcomes(truth[:50]), outcomes(truth[:50])).ok is None  # too few
    diverged = outcomes(truth) | {"finite": np.zeros((1, 400))}
    assert judge_episodes(outcomes(truth), diverged).ok is False


def test_recordings_are_kept_by_what_decides_them() -> None:
    case = closed_loop(4)
    key = case.key
    assert closed_loop(4).key == key
    assert replace(case, seed=1).key != key
    assert replace(case, object_id=case.object_id[::-1]).key != key
    heavier = copy.copy(case.env)
    fields = {k: 2 * v if k == "body_mass" else v for k, v in heavier.scene.object_fields.items()}
    heavier.scene = replace(heavier.scene, object_fields=fields)
    assert replace(case, env=heavier).key != key
    stiffer = copy.copy(case.env)
    model = stiffer.scene.model.__copy__()
    model.actuator_gainprm[0, 0] *= 2
    stiffer.scene = replace(stiffer.scene, model=model)
    assert replace(case, env=stiffer).key != key


def test_a_trained_run_plays_on_its_own_objects(tmp_path: Path) -> None:
    """One update leaves the scripted base nearly as it is: a can is lifted in both simulators."""
    folder = tmp_path / "run"
    arguments = ["--env", "shadow_grasp", "--objects", "builtin:seen:can_001", "--num-envs", "8"]
    arguments += ["--max-steps", "128", "--run-dir", str(folder), "--no-evaluate"]
    assert train(arguments) == 0
    case = closed_loop(4, folder)
    assert case.env.objects == ("can_001",) and "policy" in case.about
    for simulator in (PhysxSimulator(), NativeSimulator(physics_preset("physx"))):
        found = play(case, simulator)
        assert found["finite"].all() and found["lifted"].mean() >= 0.5
        again = play(case, simulator)
        assert all((found[k] == again[k]).all() for k in found)
    settings = (folder / "config.json").read_text()
    (folder / "config.json").write_text(settings.replace("shadow_grasp", "reach_line"))
    with pytest.raises(ConfigError, match="reach_line"):
        closed_loop(4, folder)
