"""`mjx` follows the PhysX laws as `native` does, and so passes the same gates."""

from __future__ import annotations

import numpy as np
import pytest

from dexjax.parity import probes
from dexjax.parity.engines import MjxSimulator, NativeSimulator
from dexjax.parity.gates import GATES, judge
from dexjax.parity.physx import PhysxSimulator, why_unavailable
from dexjax.sim.physics import physics_preset

pytestmark = [
    pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable())),
    pytest.mark.slow,  # compiles two programs
]


def test_tendon_and_base_against_physx_and_native() -> None:
    cases = {p.name: p for p in (probes.tendon_steps("gate"), probes.base_wrench("gate"))}
    physics = physics_preset("physx")
    reference = {n: PhysxSimulator().run(p) for n, p in cases.items()}
    mjx = MjxSimulator(physics, cases.values())
    tested = {n: mjx.run(p) for n, p in cases.items()}
    for gate in GATES:
        if gate.name in ("G2", "G3"):
            verdict = judge(gate, cases, reference, tested)
            assert verdict.ok, verdict.figures
    native = NativeSimulator(physics)
    for name, probe in cases.items():
        # float32 against float64 over one second; no contact amplifies the difference
        difference = np.abs(tested[name]["qpos"] - native.run(probe)["qpos"]).max()
        assert difference < 2e-3, (name, difference)
