"""Closed-loop episodes: one policy from the same starts in each simulator (gate G9).

What differs between two rows is the physics alone: same task, observations, starts, and the convex
hulls that PhysX keeps.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dexjax.core.errors import ConfigError
from dexjax.evaluate import Agent, check_fits, plan, policy_agent, run_episodes, simple_agent
from dexjax.objects.build import with_sdf
from dexjax.parity.engines import MjxSimulator, NativeSimulator
from dexjax.parity.physx import PhysxSimulator
from dexjax.parity.physx_engine import PhysxEngine
from dexjax.parity.probe import Recording, Simulator
from dexjax.rl.registry import find_env, find_preset
from dexjax.rl.trained import load_policy, read_settings
from dexjax.sim.native import NativeEngine

NAME = "P9"
RECORDED = ("success_any", "success_end", "success_held", "lifted")


@dataclass(frozen=True, eq=False)
class ClosedLoop:
    """E episodes of one agent; `env` is made for PhysX and gets the engine of each simulator."""

    env: Any
    agent: Agent
    object_id: np.ndarray  # (E,)
    about: str
    seed: int = 0

    def key(self) -> str:
        """Digest of task, objects, policy and the code that turns states into actions."""
        here = Path(__file__).parents[2]
        files = [Path(__file__), here / "dexjax" / "evaluate.py", here / "dexjax" / "parity"]
        files += [here / "envs" / "shadow_grasp", here / "dexjax" / "rl"]
        digest = hashlib.sha256(repr((self.env.cfg, self.about, self.seed)).encode())
        for path in files:
            for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
                digest.update(file.read_bytes())
        for array in (self.object_id, *jax.tree.leaves(self.agent.params)):
            digest.update(np.asarray(array).tobytes())
        for asset in self.env.assets:
            digest.update(asset.name.encode() + asset.vertices.tobytes())
        return digest.hexdigest()


def closed_loop(
    episodes: int, run: Path | None = None, objects: str = "builtin:seen", seed: int = 0
) -> ClosedLoop:
    """Episodes of a run's policy (its mean action), or of `shadow_grasp`'s scripted policy, spread
    evenly over the objects. Raises ConfigError for runs of other environments."""
    if run is None:
        spec = find_env("shadow_grasp")
        task = find_preset(spec, "quick").env
    else:
        spec, settings = read_settings(run)
        task = settings.task
        if settings.env != "shadow_grasp":
            raise ConfigError(f"{run}: closed-loop episodes need a run of shadow_grasp")
    env: Any = spec.make(
        task, num_envs=episodes, engine="physx", objects=objects, seed=seed, evaluation=True
    )
    if run is None:
        agent, about = simple_agent("scripted", env), "the scripted policy"
    else:
        policy = load_policy(run, "latest")
        check_fits(policy, env)
        agent, about = policy_agent(policy), f"the policy {policy.checkpoint}"
    ids = plan(len(env.objects), episodes, episodes)[0]
    return ClosedLoop(env, agent, ids, f"{about} on {objects}", seed)


def plays(simulator: Simulator) -> bool:
    """Whether a simulator can run a policy; a recording cannot."""
    return isinstance(simulator, PhysxSimulator | NativeSimulator | MjxSimulator)


def play(case: ClosedLoop, simulator: Simulator) -> Recording:
    """Outcomes (E,) by the names of `RECORDED`, and `finite` (1, E)."""
    env = _on(case, simulator)
    key = jax.random.key(case.seed)

    @jax.jit
    def episodes(params: Any, object_id: jax.Array) -> dict[str, jax.Array]:
        agent = Agent(case.agent.name, case.agent.act, params)
        return run_episodes(env, agent, key, object_id)[0]

    found = episodes(case.agent.params, jnp.asarray(case.object_id, jnp.int32))
    recording = {k: np.asarray(found[k], np.float32) for k in RECORDED}
    return recording | {"finite": 1 - np.asarray(found["diverged"], np.float32)[None]}


def _on(case: ClosedLoop, simulator: Simulator) -> Any:
    """The environment with a simulator's engine and the task's control period."""
    made, count = case.env, len(case.object_id)
    env = copy.copy(made)
    if isinstance(simulator, PhysxSimulator):
        env.engine = PhysxEngine(made.scene, count, made.engine.physics, simulator.config)
        return env
    assert isinstance(simulator, NativeSimulator | MjxSimulator)
    physics = simulator.physics.in_period(made.control_dt)
    if isinstance(simulator, NativeSimulator):
        env.engine = NativeEngine(made.scene, count, physics, threads=2)
        return env
    from dexjax.sim.mjx import MjxEngine
    from dexjax.sim.mjx_scene import build_mjx_scene

    scene = build_mjx_scene([with_sdf(a) for a in made.assets], made.scene.config)
    env.scene, env.engine = scene, MjxEngine(scene, count, physics)
    return env
