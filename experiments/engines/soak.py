"""Random actions for a long time on `mjx`: does a NaN escape, and how often does a step diverge?

python experiments/engines/soak.py --steps 1000000 --envs 256
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from dexjax.sim.mjx import MjxState
from envs.shadow_grasp.config import ShadowGraspConfig
from envs.shadow_grasp.make import make


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--envs", type=int, default=256)
    parser.add_argument("--objects", default="builtin:seen")
    parser.add_argument("--max-seconds", type=float, default=3600.0)
    args = parser.parse_args()
    config = replace(ShadowGraspConfig(), base_policy="none")
    env = make(config, num_envs=args.envs, engine="mjx", objects=args.objects)

    def one(carry, key):  # type: ignore[no-untyped-def]
        state, bad = carry
        action = jax.random.uniform(key, (args.envs, env.action_size), minval=-1.0, maxval=1.0)
        state = env.step(state, action)
        leaves = [x for x in jax.tree.leaves((state.obs, state.sim, state.reward))
                  if jnp.issubdtype(x.dtype, jnp.floating)]  # fmt: skip
        bad += sum((~jnp.isfinite(x)).sum() for x in leaves)
        return (state, bad), (state.metrics["contacts_dropped"] > 0).mean()

    roll = jax.jit(lambda c, k: jax.lax.scan(one, c, jax.random.split(k, 20)))
    carry = (jax.jit(env.reset)(jax.random.key(0)), jnp.zeros((), jnp.int32))
    done, began, over, key = 0, time.perf_counter(), [], jax.random.key(1)
    while done < args.steps and time.perf_counter() - began < args.max_seconds:
        carry, dropped = jax.block_until_ready(roll(carry, jax.random.fold_in(key, done)))
        done += 20 * args.envs
        over.append(float(np.mean(dropped)))
    sim = carry[0].sim
    assert isinstance(sim, MjxState)
    print(
        f"{done} control steps in {time.perf_counter() - began:.0f} s: {int(carry[1])} entries "
        f"not finite, {int(sim.divergences.sum())} steps diverged and were quarantined, "
        f"{np.mean(over):.3f} of steps had more contacts than slots"
    )


if __name__ == "__main__":
    main()
