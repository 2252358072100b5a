"""What a large bank costs on `mjx`: memory of the grids, and step time against how many there are.

    python experiments/engines/scale.py --objects 1 100 3200 --envs 64

Every environment holds another row of the bank. The rows are copies of one object in separate
memory, so that the physics is the same and only the reads differ.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from dexjax.core.compilation import jit_with_large
from dexjax.objects.builtin import builtin_asset
from dexjax.sim.mjx import MjxEngine
from dexjax.sim.mjx_scene import build_mjx_scene, table_bytes
from dexjax.sim.physics import physics_preset
from dexjax.sim.types import Control


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 100, 3200])
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--physics", default="fast")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    scene = build_mjx_scene([builtin_asset("mug", 0, sdf=True)])
    calls, memory = {}, {}
    for count in args.objects:
        base = scene.table
        rows = np.arange(count)
        table = base.replace(
            values=jnp.asarray(np.repeat(np.asarray(base.values), count, axis=0)),
            origin=jnp.repeat(base.origin, count, axis=0),
            spacing=jnp.repeat(base.spacing, count, axis=0),
            support=jnp.repeat(base.support, count, axis=0),
            grid=jnp.asarray(rows, jnp.int32),
            scale=jnp.ones(count),
        )
        fields = {k: np.repeat(v, count, axis=0) for k, v in scene.object_fields.items()}
        names = tuple(f"mug_{i}" for i in rows)
        many = replace(scene, table=table, object_names=names, object_fields=fields)
        memory[count] = table_bytes(table)
        calls[count] = _call(many, args.envs, args.physics)
    times: dict[int, list[float]] = {count: [] for count in calls}
    for _ in range(args.repeats):  # in turns, so that other work on the machine meets all alike
        for count, (step, state, control) in calls.items():
            began = time.perf_counter()
            jax.block_until_ready(step(state, control))
            times[count].append(time.perf_counter() - began)
    first = statistics.median(times[args.objects[0]])
    for count, seconds in times.items():
        median = statistics.median(seconds)
        print(
            f"{count:6d} objects: {memory[count] / 2**20:8.1f} MiB, control step of {args.envs} "
            f"environments {1000 * median:.2f} ms, {median / first:.3f} of the first"
        )


def _call(scene, num: int, physics: str):  # type: ignore[no-untyped-def]
    """A compiled control step and a state in which the hand touches the object."""
    engine = MjxEngine(scene, num, physics_preset(physics))
    qpos = jnp.tile(jnp.asarray(scene.model.qpos0, jnp.float32), (num, 1)).at[:, 2].set(0.09)
    at = scene.object_qpos
    qpos = qpos.at[:, at : at + 7].set(jnp.array([0.0, 0.0, 0.05, 1.0, 0.0, 0.0, 0.0]))
    rng = np.random.default_rng(0)
    ids = jnp.asarray(rng.integers(0, len(scene.object_names), num), jnp.int32)
    state = engine.init(ids, qpos, jnp.zeros((num, scene.model.nv)), jnp.ones((num, 2)))
    ctrl = jnp.zeros((num, scene.model.nu)).at[:, :22].set(0.6)
    ctrl = ctrl.at[:, scene.model.actuator("A_base_z").id].set(0.09)
    control = Control(ctrl, jnp.zeros((num, 6)))
    step = jit_with_large(engine.step, state, control)
    for _ in range(10):
        state = step(state, control)
    return step, jax.block_until_ready(state), control


if __name__ == "__main__":
    main()
