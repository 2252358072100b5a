"""Our simulators' recordings as traces and back: the same numbers, the same verdicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dexjax.core.errors import ConfigError, DataError
from dexjax.parity.engines import NativeSimulator
from dexjax.parity.physx import PhysxSimulator
from dexjax.parity.probe import Probe
from dexjax.parity.probes import base_wrench, slopes, static_poses, tendon_steps
from dexjax.parity.recorded import RecordedSimulator, record_traces
from dexjax.parity.trace import read_trace
from dexjax.sim.physics import physics_preset


def probes() -> list[Probe]:
    few = [
        static_poses("gate", "wrench").take(np.arange(2)),
        tendon_steps("gate").take(np.arange(2)),
        base_wrench("gate").take(np.array([1, 9])),
        slopes("gate").take(np.array([3, 0, 5])),
    ]
    return [replace(p, name=f"{p.name}_short", ctrl=p.ctrl[:9], wrench=p.wrench[:9]) for p in few]


@pytest.mark.parametrize("name", ["native", "physx"])
def test_recordings_come_back_from_their_traces(name: str, tmp_path: Path) -> None:
    """Within float32: 1e-6 of positions, and of velocities up to 1e-5 where they were turned."""
    simulator = PhysxSimulator() if name == "physx" else NativeSimulator(physics_preset("fast"))
    try:
        simulator.settings()
    except ConfigError as error:  # no SAPIEN here
        pytest.skip(str(error))
    for probe in probes():
        files = record_traces(simulator, probe, tmp_path)
        assert len(files) == len(np.unique(probe.gravity, axis=0))
        expected = simulator.run(probe)
        found = RecordedSimulator(tmp_path).run(probe)
        for key in ("qpos", "body_pos", "body_quat", "finger_force"):
            np.testing.assert_allclose(found[key], expected[key], rtol=1e-5, atol=2e-6)
        scale = max(1.0, np.abs(expected["qvel"]).max())
        np.testing.assert_allclose(found["qvel"], expected["qvel"], atol=2e-6 * scale)
        trace = read_trace(files[0])
        assert trace.meta["source"]["simulator"] == simulator.name
        assert trace.meta["extra"]["plan_key"] == probe.key()


def test_other_frames_are_refused(tmp_path: Path) -> None:
    probe = probes()[1]
    record_traces(NativeSimulator(physics_preset("fast")), probe, tmp_path)
    longer = replace(probe, ctrl=probe.ctrl[:5], wrench=probe.wrench[:5])
    with pytest.raises(DataError, match="another version"):
        RecordedSimulator(tmp_path).run(longer)
