"""`check_engine` on the native engine, and on broken ones that it must refuse."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from simple_objects import Runner

from dexjax.sim.physics import PHYSICS
from dexjax.sim.types import Control
from dexjax.testing import check_engine


def _inputs(run: Runner):
    """Objects between the open fingers, a control that closes them."""
    q = run.qpos(height=0.12)
    q[:, run.scene.object_qpos + 2] = 0.05
    state = run.init(q, objects=np.arange(run.num) % len(run.scene.object_names))
    ctrl = run.control(state) + np.float32(0.1)
    control = Control(jnp.asarray(ctrl), jnp.full((run.num, 6), 5.0))
    return state.object_id, state.qpos, state.qvel, control


@pytest.mark.parametrize("which", ["scene", "wrench_scene", "tendon_scene"])
def test_native_keeps_the_contract(which, request):
    run = Runner(request.getfixturevalue(which), 5, PHYSICS["fast"])
    check_engine(run.engine, *_inputs(run))


class _Broken:
    """An engine with one fault."""

    def __init__(self, engine, fault):
        self.engine, self.fault, self.calls = engine, fault, 0
        self.num_envs, self.init = engine.num_envs, engine.init

    def reset_where(self, state, mask, *args):
        if self.fault == "reset":
            mask = jnp.ones_like(mask)
        return self.engine.reset_where(state, mask, *args)

    def step(self, state, control):
        if self.fault == "memory":  # hidden state: the result depends on the number of calls
            count = jax.pure_callback(self._count, jax.ShapeDtypeStruct((), np.float32))
            control = control.replace(ctrl=control.ctrl + 1e-3 * count)
        if self.fault == "mixed":
            control = control.replace(ctrl=control.ctrl + control.ctrl.mean())
        new = self.engine.step(state, control)
        if self.fault == "flag":
            new = new.replace(finite=jnp.ones_like(new.finite))
        if self.fault == "type":
            new = new.replace(qpos=new.qpos.astype(jnp.float16))
        return new

    def _count(self):
        self.calls += 1
        return np.float32(self.calls)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("reset", "touches others"),
        ("memory", "input alone"),
        ("mixed", "another environment"),
        ("flag", "not flagged"),
        ("type", "changes structure"),
    ],
)
def test_check_engine_finds_faults(scene, fault, message):
    run = Runner(scene, 3, PHYSICS["fast"])
    with pytest.raises(AssertionError, match=message):
        check_engine(_Broken(run.engine, fault), *_inputs(run))
