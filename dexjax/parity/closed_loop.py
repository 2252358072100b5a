"""Closed-loop episodes: one policy from the same starts in each simulator (gate G9).

Two rows have the same task, starts and convex hulls, those that PhysX keeps, and differ in physics;
besides, PhysX's contact forces lack friction, which the policy may observe, and `mjx` has distance
grids of the meshes instead of hulls.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dexjax.core.errors import ConfigError
from dexjax.objects.build import with_sdf
from dexjax.parity.engines import MjxSimulator, NativeSimulator
from dexjax.parity.physx import PhysxSimulator
from dexjax.parity.physx_engine import PhysxEngine
from dexjax.parity.probe import Recording, Simulator, model_bytes
from dexjax.rl.episodes import Agent, check_fits, plan, policy_agent, run_episodes, simple_agent
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

    @cached_property
    def key(self) -> str:
        """Digest of model, objects, starts and policy, and of the code that plays them."""
        env, digest = self.env, hashlib.sha256(repr((self.env.cfg, self.seed)).encode())
        digest.update(model_bytes(env.scene.model).tobytes())
        # The starts hold what was drawn, observed and looked up for each episode.
        start = jax.jit(env.reset)(jax.random.key(self.seed), jnp.asarray(self.object_id))
        frozen = env.base_policy.params if env.base_policy else ()
        parts = (start.replace(key=()), env.scene.object_fields, self.agent.params, frozen)
        for array in jax.tree.leaves(parts):
            digest.update(np.asarray(array).tobytes())
        package = Path(__file__).parents[2]
        task = sorted((package / "envs" / "shadow_grasp").glob("*.py"))
        played = [Path(__file__), Path(__file__).with_name("physx_engine.py")]
        for file in (*task, *played, package / "dexjax" / "rl" / "episodes.py"):
            digest.update(file.read_bytes())
        return digest.hexdigest()


def closed_loop(episodes: int, run: Path | None = None, seed: int = 0) -> ClosedLoop:
    """Episodes of a run's policy (its mean action; seed 0 of several) on the objects it was trained
    on, or of `shadow_grasp`'s scripted policy on the built-in ones, spread evenly over the objects.

    Raises ConfigError for runs of other environments.
    """
    if run is None:
        spec = find_env("shadow_grasp")
        preset = find_preset(spec, "quick")
        task, objects = preset.env, preset.train.objects
    else:
        spec, settings = read_settings(run)
        task, objects = settings.task, settings.train.objects
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
