"""Run with eight forced CPU devices: the same updates on one device and on all, as JSON.

python eight_devices.py [toy | mjx]
"""

from __future__ import annotations

import json
import sys

import jax
import numpy as np
from toy_env import PointMassEnv

from dexjax.rl import devices, ppo


def main(which: str = "toy") -> None:
    if which == "mjx":
        from envs.shadow_grasp.config import ShadowGraspConfig
        from envs.shadow_grasp.make import make

        env = make(ShadowGraspConfig(), num_envs=32, engine="mjx", objects="builtin:seen")
    else:
        env = PointMassEnv(num_envs=32)
    length, updates = (8, 3) if which == "toy" else (8, 1)
    cfg = ppo.PPOConfig(
        actor_hidden=(16,),
        critic_hidden=(16,),
        rollout_length=length,
        epochs=2,
        minibatches=2,
    )
    mesh = devices.device_mesh(env, None)
    assert mesh is not None and mesh.size == jax.device_count() == 8
    states = []
    for program in (devices.Program(env, cfg, 3), devices.Program(env, cfg, 3, mesh=mesh)):
        state = program.init()
        for i in range(updates):
            state, metrics = program.update(state, 0.1 * i)
        states.append((state, metrics))
    one, eight = states

    def difference(a: jax.Array, b: jax.Array) -> float:
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        return float((np.abs(a - b) / np.maximum(np.abs(a), 1.0)).max(initial=0.0, where=a == a))

    obs = eight[0].env_state.obs["policy"]
    print(
        json.dumps(
            {
                "difference": max(jax.tree.leaves(jax.tree.map(difference, one, eight))),
                "sim": jax.tree.map(
                    difference, vars(one[0].env_state.sim), vars(eight[0].env_state.sim)
                ),
                "params": max(
                    jax.tree.leaves(jax.tree.map(difference, one[0].params, eight[0].params))
                ),
                "arrays": len(jax.tree.leaves(one)),
                "obs_devices": len({s.device for s in obs.addressable_shards}),
                "obs_rows": [s.data.shape[0] for s in obs.addressable_shards],
                "params_replicated": all(
                    x.sharding.is_fully_replicated for x in jax.tree.leaves(eight[0].params)
                ),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
