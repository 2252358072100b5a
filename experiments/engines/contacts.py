"""How many contacts must `mjx` keep? Scripted grasps of the same episodes with different numbers.

    python experiments/engines/contacts.py FOLDER:name,name,... --kept 4 8 12 16 24 42

For each number of contacts of the hand with the object: episodes held, those that end as with the
largest number, control steps in which contacts were dropped, and the time of a step while holding.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dexjax.sim.mjx import SLOTS, MjxEngine
from envs.shadow_grasp.config import ShadowGraspConfig
from envs.shadow_grasp.make import make


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("objects")
    parser.add_argument("--kept", type=int, nargs="+", default=[4, 8, 12, 16, 24, 42])
    parser.add_argument("--episodes", type=int, default=8)
    parser.add_argument("--physics", default="reference")
    args = parser.parse_args()
    rows = {k: _run(k, args.objects, args.episodes, args.physics) for k in args.kept}
    times: dict[int, list[float]] = {k: [] for k in rows}
    for _ in range(15):  # in turns, so that other work on the machine meets all alike
        for k, row in rows.items():
            began = time.perf_counter()
            jax.block_until_ready(row["step"](row["state"]))
            times[k].append(time.perf_counter() - began)
    most = rows[max(rows)]["held"]
    for k, row in rows.items():
        print(
            f"{k:3d} contacts: held {row['held'].mean():.3f}, ends as with {max(rows)} in "
            f"{(row['held'] == most).mean():.3f} of {most.size} episodes; contacts dropped in "
            f"{row['dropped']:.4f} of control steps; {1000 * statistics.median(times[k]):.1f} ms"
        )


def _run(kept: int, objects: str, episodes: int, physics: str) -> dict[str, Any]:
    """Scripted episodes of every object, all at once."""
    config = replace(ShadowGraspConfig(), physics=physics)
    probe = make(config, num_envs=1, engine="mjx", objects=objects)
    count = len(probe.objects)
    env = make(config, num_envs=count * episodes, engine="mjx", objects=objects)
    env.engine = MjxEngine(
        env.scene, env.num_envs, env.engine.physics, slots=(kept, SLOTS[1], SLOTS[2])
    )
    env.stagger = False
    state = jax.jit(env.reset)(jax.random.key(0), jnp.repeat(jnp.arange(count), episodes))
    zero = jnp.zeros((env.num_envs, env.action_size))
    step = jax.jit(lambda s: env.step(s, zero))
    dropped, holding = [], state
    for t in range(env.episode_length):
        state = step(state)
        dropped.append(np.asarray(state.sim.contacts_dropped > 0).mean())
        if t == env.episode_length // 2:
            holding = state
        if bool(state.done.all()):
            break
    held = np.asarray(state.episode["success_end"]) > 0.5
    return {"held": held, "dropped": float(np.mean(dropped)), "step": step, "state": holding}


if __name__ == "__main__":
    main()
