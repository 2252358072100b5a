r"""How fast physics, environment, inference and learning are, measured side by side.

    python experiments/benchmarks/throughput.py --engines native mjx --envs 256 1024 \
        --objects 1 3200 --json throughput.json

The raw engine is measured beside it: `mujoco.batch` on the same objects for `native`; for `mjx` a
bare `mjx.step` of the same hand with one box and as many contact slots. Every stage starts from the
same states: objects in the scripted grasp. Stages take turns, so that a busy machine slows all of
them alike; medians are reported. Each row has its own process, so that peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import mujoco.batch
import numpy as np

from dexjax.hands import load_hand
from dexjax.objects.asset import ObjectAsset
from dexjax.objects.bank import ObjectBank
from dexjax.objects.builtin import builtin_assets
from dexjax.objects.sampler import UniformSampler
from dexjax.objects.scale import scaled
from dexjax.objects.select import select_objects
from dexjax.rl import ppo
from dexjax.sim.native import NativeEngine
from dexjax.sim.physics import PHYSICS, PhysicsConfig, physics_preset
from dexjax.sim.scene import OBJECT_BODY, Scene, SceneConfig, build_scene, hand_spec
from dexjax.sim.types import Control, SimState
from envs.shadow_grasp import spec
from envs.shadow_grasp.env import ShadowGrasp

_WARM_UP = 35  # control steps of the script after which the fingers have closed
_BOX = (0.03, 0.03, 0.05)  # half extents, m, of the object of a bare `mjx.step`
COLUMNS = {
    "engine": "engine",
    "envs": "envs",
    "objects": "objects",
    "raw_physics_steps_per_s": "raw engine, physics steps/s",
    "physics_steps_per_s": "engine in jit, physics steps/s",
    "engine_over_raw": "engine / raw",
    "env_over_raw": "environment / raw",
    "env_steps_per_s": "environment, control steps/s",
    "scripted_env_steps_per_s": "environment, script goes on to lift",
    "inference_steps_per_s": "with inference",
    "train_steps_per_s": "with learning",
    "compile_s": "compile s",
    "peak_memory_mib": "peak MiB",
}


def measure(args: argparse.Namespace, name: str, num: int, objects: str) -> dict[str, Any]:
    """All stages of engine `name` with `num` environments: one row of the table."""
    load_before = os.getloadavg()
    assets = select(objects, sdf=name == "mjx")
    preset = spec.presets["quick"]
    physics = physics_preset(args.physics).in_period(preset.env.control_dt)
    engine: Any
    if name == "native":
        engine = NativeEngine(
            build_scene(assets, preset.env.scene), num, physics, threads=args.threads
        )
    else:
        from dexjax.sim.mjx import MjxEngine
        from dexjax.sim.mjx_scene import build_mjx_scene

        engine = MjxEngine(build_mjx_scene(assets, preset.env.scene), num, physics)
    scene = engine.scene
    bank, sampler = ObjectBank.from_assets(assets), UniformSampler(len(assets))

    def make(base: str) -> ShadowGrasp:
        config = replace(preset.env, base_policy=base)
        return ShadowGrasp(
            config, scene, bank, sampler, engine, control_dt=physics.control_dt, stagger=True
        )

    env, scripted = make("none"), make("scripted")
    began = time.perf_counter()
    train_state = ppo.init(jax.random.key(0), env, preset.ppo)
    update = ppo.update.lower(env, preset.ppo, train_state, 0.0).compile()
    compile_s = time.perf_counter() - began

    zero = jnp.zeros((num, env.action_size))
    roll_script = _roller(lambda s: scripted.step(s, zero), args.steps)

    def act(state):
        mean = ppo.policy_mean(preset.ppo, train_state.params, train_state.normalizer, state.obs)
        noise = jax.random.normal(jax.random.fold_in(state.key, 1), mean.shape)
        return env.step(state, mean + jnp.exp(train_state.params["log_std"]) * noise)

    roll_policy = _roller(act, args.steps)
    start = _grasping(scripted)
    sim, control = start.sim, _control(scripted, start)
    if name == "native":
        raw = _raw(scene, engine.model, sim, control, physics.substeps, num, args)
    else:
        slots = sum(engine.slots)
        raw = _raw_mjx(preset.env.scene, physics, slots, sim, control, args.steps)

    def repeat(carry: SimState) -> SimState:  # always from the same state, as `raw`
        return engine.step(sim.replace(qpos=sim.qpos + 0 * carry.qpos), control)

    def repeat_env(carry: Any) -> Any:  # likewise
        again = start.replace(sim=sim.replace(qpos=sim.qpos + 0 * carry.sim.qpos))
        return scripted.step(again, zero)

    roll_engine, roll_env = _roller(repeat, args.steps), _roller(repeat_env, args.steps)
    ready = train_state.replace(env_state=start)

    stages: dict[str, Callable[[], Any]] = {
        "raw_physics_steps_per_s": raw,
        "physics_steps_per_s": lambda: roll_engine(sim),
        "env_steps_per_s": lambda: roll_env(start),
        "scripted_env_steps_per_s": lambda: roll_script(start),
        "inference_steps_per_s": lambda: roll_policy(start),
        "train_steps_per_s": lambda: update(ready, 0.0),
    }
    steps = dict.fromkeys(stages, num * args.steps)
    steps["raw_physics_steps_per_s"] *= physics.substeps
    steps["physics_steps_per_s"] *= physics.substeps
    steps["train_steps_per_s"] = num * preset.ppo.rollout_length
    wall, cpu = _take_turns(stages, args.repeats)
    rates = {k: steps[k] / statistics.median(wall[k]) for k in stages}

    def over_raw(seconds: dict[str, list[float]], stage: str) -> float:
        pairs = zip(seconds["raw_physics_steps_per_s"], seconds[stage], strict=True)
        return statistics.median(raw / other for raw, other in pairs)

    return {
        "engine": name,
        "envs": num,
        "objects": len(assets),
        **rates,
        "engine_over_raw": over_raw(wall, "physics_steps_per_s"),
        "env_over_raw": over_raw(wall, "env_steps_per_s"),
        "engine_over_raw_cpu_time": over_raw(cpu, "physics_steps_per_s"),
        "compile_s": compile_s,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "conditions": {
            "physics": args.physics,
            "selection": objects,
            "timestep": physics.timestep,
            "substeps": physics.substeps,
            "cone": physics.cone,
            "impratio": physics.impratio,
            "iterations": physics.iterations,
            "ls_iterations": physics.ls_iterations,
            "most_pieces": max(len(a.pieces) for a in assets),
            "contact_slots": list(getattr(engine, "slots", ())),
            "threads": args.threads,
            "dtype": "float64" if name == "native" else "float32",
            "rollout_length": preset.ppo.rollout_length,
            "epochs": preset.ppo.epochs,
            "policy_hidden": list(preset.ppo.actor_hidden),
            "control_steps_per_timing": args.steps,
            "repeats": args.repeats,
            "device": jax.devices()[0].device_kind,
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "load_average_before": load_before,
            "load_average_after": os.getloadavg(),
            "versions": {
                "jax": jax.__version__,
                "mujoco": mujoco.__version__,
                "python": platform.python_version(),
            },
        },
    }


def select(objects: str, *, sdf: bool) -> list[ObjectAsset]:
    """Objects of a selection; for a number that many built-in ones, repeated in other sizes."""
    if not objects.isdigit():
        return select_objects(objects, sdf=sdf, progress=False).assets
    count = int(objects)
    basis = [a for s in ("seen", "unseen", "unseen_category") for a in builtin_assets(s, sdf=sdf)]
    factors = [1.0, *np.linspace(0.8, 1.2, 1 + count // len(basis)).round(4)]
    return [scaled(a, float(f)) for f in dict.fromkeys(factors) for a in basis][:count]


def _roller(step: Callable[[Any], Any], length: int) -> Callable[[Any], Any]:
    """Compiled: `length` steps in `lax.scan`."""
    return jax.jit(
        lambda state: jax.lax.scan(lambda s, _: (step(s), None), state, length=length)[0]
    )


def _grasping(env: ShadowGrasp) -> Any:
    """Environments that started together, in the middle of the scripted grasp."""
    env.stagger = False
    zero = jnp.zeros((env.num_envs, env.action_size))
    state = jax.jit(env.reset)(jax.random.key(1))
    return _roller(lambda s: env.step(s, zero), _WARM_UP)(state)


def _control(env: ShadowGrasp, state: Any) -> Control:
    """The script's control in this state."""
    return jax.jit(lambda s: env.variant.control(s.task.task, s.sim, env.base_action(s))[1])(state)


def _raw(
    scene: Scene,
    model: mujoco.MjModel,
    sim: SimState,
    control: Control,
    substeps: int,
    num: int,
    args: argparse.Namespace,
) -> Callable[[], None]:
    """The same control step by `mujoco.batch` alone, outside JAX."""
    batch = mujoco.batch.Batch(model, num, args.threads)
    objects = np.asarray(sim.object_id)
    for name, values in scene.object_fields.items():
        batch.expand(name)[:] = values[objects]
    pairs = [
        (batch.bind(name), np.asarray(values, np.float64))
        for name, values in (
            ("qpos", sim.qpos),
            ("qvel", sim.qvel),
            ("qacc_warmstart", sim.warmstart),
            ("ctrl", control.ctrl),
        )
    ]

    def run() -> None:
        for _ in range(args.steps):
            for row, value in pairs:
                row[:] = value
            batch.step(nstep=substeps)

    return run


def _raw_mjx(
    config: SceneConfig,
    physics: PhysicsConfig,
    slots: int,
    sim: SimState,
    control: Control,
    steps: int,
) -> Callable[[], Any]:
    """The same control steps by `mjx.step` alone: a box as object, at most `slots` contacts."""
    from mujoco import mjx

    scene = hand_spec(config, load_hand(config.hand), visual=False)
    for sensor in list(scene.sensors):  # of kinds that MJX lacks
        scene.delete(sensor)
    body = scene.body(OBJECT_BODY)
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX, size=_BOX, mass=0.3, contype=2, conaffinity=1, priority=1
    )
    scene.add_numeric(name="max_contact_points", size=1, data=[slots])
    model = scene.compile()
    physics.apply(model)
    compiled = mjx.put_model(model)
    data = mjx.make_data(compiled)
    batch = jax.vmap(lambda q, v, u: data.replace(qpos=q, qvel=v, ctrl=u))(
        sim.qpos, sim.qvel, control.ctrl
    )

    def control_step(state: Any) -> Any:
        def substep(d: Any, _: Any) -> tuple[Any, None]:
            return jax.vmap(mjx.step, in_axes=(None, 0))(compiled, d), None

        after = jax.lax.scan(substep, state, length=physics.substeps)[0]
        # From the same state again, as the stages beside it.
        return after.replace(qpos=batch.qpos + 0 * after.qpos, qvel=batch.qvel)

    roll = _roller(control_step, steps)
    return lambda: roll(batch).qpos


def _take_turns(
    stages: dict[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Wall-clock and CPU seconds of each stage, one of each per turn; the first turn compiles."""
    wall: dict[str, list[float]] = {k: [] for k in stages}
    cpu: dict[str, list[float]] = {k: [] for k in stages}
    for turn in range(repeats + 1):
        for name, stage in stages.items():
            began, began_cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready(stage())
            if turn:
                wall[name].append(time.perf_counter() - began)
                cpu[name].append(time.process_time() - began_cpu)
    return wall, cpu


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown table of the rows, with their conditions below."""
    lines = ["| " + " | ".join(COLUMNS.values()) + " |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        cells = []
        for key in COLUMNS:
            value = row[key]
            if isinstance(value, float):
                value = f"{value:.2f}" if key.endswith("over_raw") else f"{value:,.0f}"
            cells.append(str(value))
        lines.append("| " + " | ".join(cells) + " |")
    c = rows[0]["conditions"]
    loads = ", ".join(f"{r['conditions']['load_average_before'][0]:.1f}" for r in rows)
    ratios = ", ".join(f"{r['engine_over_raw_cpu_time']:.2f}" for r in rows)
    lines += [
        "",
        f"built-in objects or {c['selection']} of up to {c['most_pieces']} convex pieces; "
        f"{c['timestep']:.5f} s x {c['substeps']} substeps, {c['cone']} cone, impratio "
        f"{c['impratio']:g}, {c['iterations']}/{c['ls_iterations']} iterations; {c['threads']} "
        f"threads on {c['cpu']} ({c['cores']} cores), JAX on {c['device']}; load average {loads}; "
        f"policy {c['policy_hidden']}, {c['epochs']} epochs over rollouts of "
        f"{c['rollout_length']} control steps; medians of {c['repeats']} turns; engine / raw in "
        f"CPU time {ratios}.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--engines", nargs="+", default=["native"], choices=("native", "mjx"))
    parser.add_argument("--envs", type=int, nargs="+", default=[256, 512])
    parser.add_argument(
        "--objects", nargs="+", default=["builtin:seen"], help="selections, or how many built-ins"
    )
    parser.add_argument("--physics", default="fast", choices=sorted(PHYSICS))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=16, help="control steps per timing")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write all rows here")
    args = parser.parse_args()
    wanted = [(e, n, o) for e in args.engines for n in args.envs for o in args.objects]
    if len(wanted) == 1:
        rows = [measure(args, *wanted[0])]
    else:
        rows = [row for one in wanted for row in _in_own_process(args, *one)]
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


def _in_own_process(
    args: argparse.Namespace, engine: str, num: int, objects: str
) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, __file__, "--engines", engine, "--envs", str(num)]
        command += ["--objects", objects, "--json", str(file)]
        for name in ("physics", "threads", "steps", "repeats"):
            command += [f"--{name}", str(getattr(args, name))]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads(file.read_text())


if __name__ == "__main__":
    main()
