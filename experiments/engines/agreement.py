"""Do `native` and `mjx` grasp alike? The same scripted grasps on real meshes, lifted and held.

    python experiments/engines/agreement.py FOLDER:name,name,... --episodes 8 --json FILE

For each object and engine: share of episodes held to the end, slip (how far the object moved in the
palm's frame from the middle of the lift to its end) and creep (the same while held, mm/s).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dexjax.core.rotations import quat_rotate_inverse
from envs.shadow_grasp.config import ShadowGraspConfig
from envs.shadow_grasp.make import make


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("objects")
    parser.add_argument("--episodes", type=int, default=8)
    parser.add_argument("--physics", default="reference")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = {e: _run(e, args.objects, args.episodes, args.physics) for e in ("native", "mjx")}
    print(f"{'object':28s} held native  held mjx   slip mm n / m    creep mm/s n / m")
    for i, name in enumerate(results["native"]["names"]):
        n, m = ({k: v[i] for k, v in results[e].items()} for e in ("native", "mjx"))
        print(
            f"{name:28s} {n['held']:11.2f} {m['held']:9.2f} {n['slip']:8.1f} /{m['slip']:6.1f}"
            f" {n['creep']:9.2f} /{m['creep']:6.2f}"
        )
    n, m = (np.array(results[e]["outcome"]) for e in ("native", "mjx"))
    print(f"held: native {n.mean():.3f}, mjx {m.mean():.3f}; the same episode ends alike in "
          f"{(n == m).mean():.3f} of {n.size}")  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


def _run(engine: str, objects: str, episodes: int, physics: str) -> dict[str, list]:
    """Scripted episodes of every object, all at once."""
    config = replace(ShadowGraspConfig(), physics=physics)
    probe = make(config, num_envs=1, engine=engine, objects=objects)
    count = len(probe.objects)
    env = make(config, num_envs=count * episodes, engine=engine, objects=objects)
    env.stagger = False
    ids = jnp.repeat(jnp.arange(count), episodes)
    state = jax.jit(env.reset)(jax.random.key(0), ids)
    zero = jnp.zeros((env.num_envs, env.action_size))
    step = jax.jit(lambda s: env.step(s, zero))
    palm = env.scene.body_names.index("palm")
    places, heights = [], []
    for _ in range(env.episode_length):
        state = step(state)
        sim = state.sim
        arm = sim.body_pos[:, -1] - sim.body_pos[:, palm]
        places.append(np.asarray(quat_rotate_inverse(sim.body_quat[:, palm], arm)))
        heights.append(np.asarray(sim.body_pos[:, -1, 2]))
        if bool(state.done.all()):
            break
    held = np.asarray(state.episode["success_end"]) > 0.5
    path = np.array(places[:-1])  # the last one belongs to the next episode
    rate = 1 / env.control_dt
    end, second = len(path), round(rate)
    slip = 1000 * np.linalg.norm(path[end - second] - path[end - 2 * second], axis=1)
    creep = 1000 * np.linalg.norm(path[end - 1] - path[end - second], axis=1) / (second / rate)

    def mean(values: np.ndarray) -> list[float]:
        rows = np.where(held, values, np.nan).reshape(count, episodes)
        return [float(np.nanmean(r)) if np.isfinite(r).any() else float("nan") for r in rows]

    return {
        "names": list(env.objects),
        "held": held.reshape(count, episodes).mean(1).tolist(),
        "slip": mean(slip),
        "creep": mean(creep),
        "outcome": held.reshape(count, episodes).tolist(),
    }


if __name__ == "__main__":
    main()
