"""The PhysX reference: closed forms that it must meet, and our engine against it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from dexjax.objects.builtin import builtin_asset
from dexjax.parity import probes
from dexjax.parity.engines import NativeSimulator
from dexjax.parity.gates import GATES, judge
from dexjax.parity.physx import PhysxSimulator, cooked, why_unavailable
from dexjax.parity.probe import Probe
from dexjax.parity.run import gate_probes
from dexjax.sim.physics import physics_preset
from dexjax.sim.scene import SceneConfig

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))
GATE = {g.name: g for g in GATES}


def on_table(frames: int) -> Probe:
    """A box of 8 x 8 x 4 cm at rest on the table."""
    return probes.hold(SceneConfig(), [probes.probe_box()], 1, frames, "rest")


def test_free_fall_and_rest() -> None:
    probe = on_table(30)
    at = probe.scene.object_qpos
    still = PhysxSimulator().run(probe)
    # PhysX's speculative contacts keep a resting box within a micrometre.
    assert np.abs(still["qpos"][:, 0, at : at + 3] - still["qpos"][0, 0, at : at + 3]).max() < 1e-5
    probe.qpos[0, at + 2] += 1.0
    fall = PhysxSimulator().run(probe)["qpos"][:26, 0, at + 2]
    steps = 2 * np.arange(26)  # it lands after frame 27
    # symplectic Euler: after n steps g dt^2 n (n + 1) / 2, float32 at 1 m
    expected = fall[0] - 9.81 / 120**2 * steps * (steps + 1) / 2
    np.testing.assert_allclose(fall, expected, atol=2e-6)


def test_repeats_are_bitwise_equal() -> None:
    probe = probes.joint_steps("gate", "soft").take(np.array([3, 30]))
    first, second = PhysxSimulator().run(probe), PhysxSimulator().run(probe)
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


def test_same_kinematics_as_mujoco() -> None:
    """G0, and that it can fail: a joint off by 1 mrad moves fingertips by far more than 10 um."""
    cases = {p.name: p for p in (probes.static_poses("gate", b) for b in ("servo", "wrench"))}
    simulator = NativeSimulator(physics_preset("reference"))
    reference = {n: PhysxSimulator().run(p) for n, p in cases.items()}
    tested = {n: simulator.run(p) for n, p in cases.items()}
    assert judge(GATE["G0"], cases, reference, tested).ok
    moved = cases["P0_servo"]
    moved.qpos[:, moved.scene.finger_qpos[2]] += 1e-3
    tested["P0_servo"] = simulator.run(moved)
    assert not judge(GATE["G0"], cases, reference, tested).ok


def test_joint_steps_need_damping_in_the_servo() -> None:
    """G1: PhysX's force limit holds for spring and damper together. Damping on the joint is off
    by tens of mrad at any step size, so that the gate tells the two apart."""
    cases = {p.name: p for p in (probes.joint_steps("gate", k) for k in ("soft", "stiff"))}
    reference = {n: PhysxSimulator().run(p) for n, p in cases.items()}
    small = replace(physics_preset("reference"), timestep=1 / 240)
    verdicts = {
        drive: judge(
            GATE["G1"],
            cases,
            reference,
            {n: NativeSimulator(replace(small, drive=drive)).run(p) for n, p in cases.items()},
        )
        for drive in ("servo", "joint")
    }
    assert verdicts["servo"].ok, verdicts["servo"].figures
    assert not verdicts["joint"].passed["max"]
    assert verdicts["joint"].passed["steady"]


def test_hulls_lose_volume_once_and_stay() -> None:
    """PhysX merges nearly coplanar faces: what `cooked` leaves must be what it keeps, or the two
    simulators would have other shapes. Without it, a hammer's pieces differ by up to a tenth."""
    asset = builtin_asset("hammer", 2, sdf=False)
    first = cooked(asset)
    second = cooked(first)
    left = []
    for before, after, again in zip(asset.pieces, first.pieces, second.pieces, strict=True):
        np.testing.assert_array_equal(np.unique(after, axis=0), np.unique(again, axis=0))
        left.append(ConvexHull(after).volume / ConvexHull(before).volume)
    assert max(left) <= 1 + 1e-6
    assert 0.9 < min(left) < 0.95


@pytest.mark.slow
def test_as_many_grasps_hold() -> None:
    """G8 and G8b with all their grasps: the calibrated preset agrees with PhysX in at least 85 %,
    without a shift. The gates can fail: of `fast`, whose base cannot be moved, no grasp holds."""
    all_cases = gate_probes(False)
    cases = {n: all_cases[n] for n in ("P6", "P6_wrench")}
    reference = {n: PhysxSimulator().run(p) for n, p in cases.items()}
    calibrated = NativeSimulator(physics_preset("physx"), threads=2)
    tested = {n: calibrated.run(p) for n, p in cases.items()}
    for gate in ("G8", "G8b"):
        verdict = judge(GATE[gate], cases, reference, tested)
        assert verdict.ok, verdict.figures
    tested["P6_wrench"] = NativeSimulator(physics_preset("fast")).run(cases["P6_wrench"])
    assert not judge(GATE["G8b"], cases, reference, tested).ok
