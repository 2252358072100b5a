"""Measure a policy: `python -m dexjax.evaluate RUN`, or `--agent scripted` without any run.

Deterministic episodes, in reference physics unless told otherwise, spread evenly over the objects;
tables on screen, numbers in JSON, pictures of some episodes beside it. The same seed gives the same
numbers.
"""

from __future__ import annotations

import collections
import re
import shlex
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from dexjax.core import checkpoint as checkpoints
from dexjax.core import runs
from dexjax.core.compilation import use_cache
from dexjax.core.config import to_plain
from dexjax.core.errors import ConfigError, DexjaxError
from dexjax.metrics.episodes import (
    OBJECT_QPOS,
    SUFFIX,
    Episode,
    ObjectReference,
    ending,
    with_contacts,
    write_episodes,
)
from dexjax.metrics.replay import choose_episodes, write_pictures
from dexjax.metrics.report import write_report
from dexjax.metrics.statistics import outcomes, per_object, summarise
from dexjax.metrics.tables import category_table, markdown_table, object_table, split_table
from dexjax.rl.env import Env
from dexjax.rl.episodes import (
    OUTCOME_NUMBERS,
    Agent,
    batch_size,
    check_fits,
    plan,
    policy_agent,
    run_episodes,
    simple_agent,
)
from dexjax.rl.registry import EnvSpec, find_env, find_preset
from dexjax.rl.trained import load_policy, read_settings

EPISODES = 512
_PICTURED = 6  # episodes in the pictures, all splits together
_RECORDED = 24  # episodes in the file of recorded ones, all splits together
_WORST = 8  # objects per split in the table on screen

AgentName = Literal["zero", "random", "scripted"]


@dataclass(frozen=True)
class Command:
    """Evaluate a trained run, or an agent that needs no training, and print markdown tables."""

    run: tyro.conf.Positional[Path | None] = None
    """Run folder of `dexjax.train`; evaluation.json, .md, .html (the report), .mp4, .png and
    .episodes.npz are written into it, with --objects under a name that tells which."""
    objects: tuple[str, ...] = ()
    """Objects, each entry one split (same texts as in dexjax.train); default: those of the task."""
    episodes: int = EPISODES
    """Episodes per split at least; as many for each object, or one more."""
    engine: Literal["native", "mjx", "physx"] | None = None
    """Another engine than the run was trained on; physx: PhysX 5 through SAPIEN, extra parity."""
    physics: str | None = None
    """Another physics preset than the task's for evaluations; physx has its own physics."""
    agent: AgentName | None = None
    """Instead of a run: no action, uniform random actions, or the task's scripted policy."""
    env: str = "shadow_grasp"
    """Environment of --agent."""
    preset: str = "quick"
    """Settings of that environment."""
    checkpoint: Literal["last", "best"] = "last"
    """Which checkpoint of the run. `last` by default: `best` was chosen by a noisy training
    statistic, so its own score is biased upwards and means little in other physics."""
    seed: int = 0
    """Seed of initial states and of the random agent."""
    json: Path | None = None
    """Write the numbers to this file too (with --agent: and pictures beside it)."""
    video: bool = True
    """Draw some episodes."""
    compile_cache: bool = True
    """Keep compiled programs in the user's cache folder."""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry; returns the exit code (2: unusable input)."""
    args = tyro.cli(Command, args=argv, prog="python -m dexjax.evaluate")
    objects = args.objects or None
    if args.compile_cache:
        use_cache()
    try:
        if args.run is not None and args.agent is not None:
            raise ConfigError("give a run folder or --agent, not both")
        if args.run is not None:
            evaluate_run(
                args.run, objects=objects, episodes=args.episodes, checkpoint=args.checkpoint,
                seed=args.seed, json_file=args.json, video=args.video, engine=args.engine,
                physics=args.physics,
            )  # fmt: skip
        elif args.agent is not None:
            evaluate_agent(
                args.agent, args.env, args.preset, objects=objects, episodes=args.episodes,
                seed=args.seed, json_file=args.json, video=args.video, engine=args.engine,
                physics=args.physics,
            )  # fmt: skip
        else:
            raise ConfigError("nothing to evaluate: give a run folder, or --agent scripted")
    except DexjaxError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except OSError as e:
        if not checkpoints.is_storage_failure(e):
            raise
        print(f"error: cannot write {e.filename or 'a file'}: {e.strerror}", file=sys.stderr)
        return 2
    return 0


def evaluate_run(
    run_dir: Path,
    *,
    objects: Sequence[str] | None = None,
    episodes: int = EPISODES,
    checkpoint: Literal["last", "best"] = "last",
    seed: int = 0,
    json_file: Path | None = None,
    video: bool = True,
    engine: str | None = None,
    physics: str | None = None,
) -> dict[str, Any]:
    """Evaluate a run's policy (its mean action); returns what evaluation.json holds.

    Of a run with several seeds all are evaluated on the same episodes; figures are of all of them
    together, and `seeds` has each one's success with the mean's interval.

    objects: one text per split; default: the environment's splits if the run was trained on one of
    them, else what it was trained on, in evaluation.json; others are written beside it. engine,
    physics: instead of the run's, also written beside it. Raises DataError for a folder without a
    checkpoint, ConfigError for unknown objects, engines and presets.
    """
    run_dir = Path(run_dir)
    spec, settings = read_settings(run_dir)
    which: Literal["best", "latest"] = "best" if checkpoint == "best" else "latest"
    policy = load_policy(run_dir, which)
    num_seeds = getattr(settings.train, "num_seeds", 1)
    others = [load_policy(run_dir, which, i) for i in range(1, num_seeds)]
    trained_on = settings.train.objects
    default = spec.eval_splits if trained_on in spec.eval_splits else (trained_on,)
    head = {
        "run": str(run_dir),
        "agent": "policy",
        "checkpoint": {
            "name": policy.checkpoint.name,
            "chosen": checkpoint,
            **{k: policy.metadata.get(k) for k in ("env_steps", "elapsed_seconds")},
        },
        "config": to_plain(settings),
    }

    def agent_for(env: Env) -> Agent:
        check_fits(policy, env)
        more = tuple(policy_agent(p).params for p in others)
        return replace(policy_agent(policy), other_seeds=more)

    title = f"{run_dir}, {checkpoint} checkpoint {policy.checkpoint.name}"
    title += "".join(f", {x}" for x in (engine, physics) if x)
    file = run_dir / f"{_stem(objects, engine, physics)}.json"
    return _evaluate(
        spec, _in_physics(settings.task, engine, physics), engine or settings.train.engine,
        agent_for, objects or default, episodes, seed, head, title, [file, json_file], video,
    )  # fmt: skip


def evaluate_agent(
    agent: AgentName,
    env: str = "shadow_grasp",
    preset: str = "quick",
    *,
    objects: Sequence[str] | None = None,
    episodes: int = EPISODES,
    seed: int = 0,
    json_file: Path | None = None,
    video: bool = True,
    engine: str | None = None,
    physics: str | None = None,
) -> dict[str, Any]:
    """Evaluate an agent that needs no training; files are written only with `json_file`."""
    spec = find_env(env)
    found = find_preset(spec, preset)
    config = {"env": env, "preset": preset, "task": to_plain(found.env)}
    head = {"run": None, "agent": agent, "checkpoint": None, "config": config}
    default = spec.eval_splits or (found.train.objects,)
    title = ", ".join(filter(None, (f"agent {agent}", f"{env} / {preset}", engine, physics)))
    return _evaluate(
        spec, _in_physics(found.env, engine, physics), engine or found.train.engine,
        lambda e: simple_agent(agent, e), objects or default, episodes, seed, head, title,
        [json_file], video,
    )  # fmt: skip


def _in_physics(task: Any, engine: str | None, physics: str | None) -> Any:
    """The task with a physics preset for evaluations."""
    if not physics:
        return task
    if engine == "physx":
        raise ConfigError("--physics: the engine physx has its own physics; leave one of them away")
    if not hasattr(task, "evaluation_physics"):
        raise ConfigError("--physics: this environment has no choice of physics")
    return replace(task, evaluation_physics=physics)


def _stem(
    objects: Sequence[str] | None, engine: str | None = None, physics: str | None = None
) -> str:
    """Name of the files of an evaluation on chosen objects, or on the default ones."""
    start = "evaluation"
    start += f"_engine_{engine}" if engine else ""
    start += f"_physics_{physics}" if physics else ""
    if not objects:
        return start
    text = " ".join(objects)
    words = "_".join(re.findall(r"[A-Za-z0-9]+", text))
    return f"{start}_{words[-40:].strip('_')}_{zlib.crc32(text.encode()):08x}"


# --- episodes ------------------------------------------------------------------------------------


def _evaluate_split(
    env: Env, agent: Agent, ids: np.ndarray, key: jax.Array, pictured: int, recorded: int
) -> tuple[dict[str, Any], list[Episode], int]:
    """Summary of one split (all seeds together and each), the recorded episodes, and how many of
    them, the first ones, are for the pictures."""
    names = getattr(env, "objects", None)

    @jax.jit  # a fresh function: its compiled program is freed with the environment
    def batch(params: Any, key: jax.Array, object_id: jax.Array | None) -> Any:
        return run_episodes(env, Agent(agent.name, agent.act, params), key, object_id)

    every: list[dict[str, np.ndarray]] = []
    endings: collections.Counter[str] = collections.Counter()
    record: Any = None
    for params in (agent.params, *agent.other_seeds):
        parts = []
        for i, row in enumerate(ids):
            chosen = None if names is None else jnp.asarray(row, jnp.int32)
            results, recording = batch(params, jax.random.fold_in(key, i), chosen)
            parts.append({k: np.asarray(v) for k, v in results.items()})
            if recording is not None:
                endings.update(_endings(parts[-1], np.asarray(recording["qpos"])))
                if record is None:
                    record = jax.tree.map(np.asarray, recording)
        every.append({k: np.concatenate([p[k] for p in parts]) for k in parts[0]})
    first = {k: v[: ids.shape[1]] for k, v in every[0].items()}
    episodes = {k: np.concatenate([e[k] for e in every]) for k in first}
    summary = summarise(episodes)
    if len(every) > 1:
        summary["seeds"] = _seed_summary([summarise(e) for e in every])
    summary["outcomes"] = outcomes(episodes)
    if names is None:
        return summary, [], 0
    assets = getattr(env, "assets", ())
    summary["per_object"] = per_object(episodes, names, [a.category for a in assets])
    summary["left_out"] = [list(pair) for pair in getattr(env, "left_out", ())]
    if record is None or not assets or not recorded:
        return summary, [], 0
    summary["endings"] = dict(endings.most_common())
    order = [names.index(n) for n in summary["per_object"]]  # worst first
    shown = choose_episodes(first, order, pictured) if pictured else []
    kinds = _endings(first, record["qpos"])
    typical = [kinds.index(k) for k in endings if k in kinds]  # one of each
    kept = list(dict.fromkeys([*shown, *typical, *choose_episodes(first, order, recorded)]))
    kept = kept[: max(recorded, len(shown))]
    return summary, [_episode(env, first, record, b) for b in kept], len(shown)


def _endings(results: dict[str, np.ndarray], qpos: np.ndarray) -> list[str]:
    """How each of B episodes ended. qpos: (T, B, nq)."""
    found = []
    for b, length in enumerate(results["length"]):
        outcome = {k: v[b] > 0.5 for k, v in results.items() if k not in OUTCOME_NUMBERS}
        path = qpos[: max(int(length), 1), b, OBJECT_QPOS]
        found.append(ending(outcome, path[0], path[-1]))
    return found


def _episode(env: Any, results: dict[str, np.ndarray], record: Any, b: int) -> Episode:
    """Episode b of a recording."""
    length = max(int(results["length"][b]), 1)
    asset = env.assets[int(results["object_id"][b])]
    steps = {k: record[k][:length, b] for k in ("qpos", "finger_force", "table_force")}
    episode = Episode(
        scene=env.scene.config,
        object=ObjectReference.of(asset),
        control_dt=env.control_dt,
        outcome={k: bool(v[b] > 0.5) for k, v in results.items() if k not in OUTCOME_NUMBERS},
        terms={k: v[:length, b] for k, v in record["terms"].items()},
        success={k: v[:length, b] for k, v in record["success"].items()},
        goal=record["goal"][0, b] if "goal" in record else None,
        **steps,
    )
    return with_contacts(episode, asset)


def _seed_summary(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Success of each seed, their mean, and its 95 % interval over seeds (Student's t)."""
    from dexjax.core.progress import mean_interval

    found = {}
    for name in summaries[0]["success"]:
        rates = [s["success"][name]["mean"] for s in summaries]
        mean, half = mean_interval(np.asarray(rates))
        found[name] = {"each": rates, "mean": mean, "ci95": [mean - half, mean + half]}
    return found


def _evaluate(
    spec: EnvSpec,
    task: Any,
    engine: str,
    agent_for: Callable[[Env], Agent],
    splits: Sequence[str],
    episodes: int,
    seed: int,
    head: dict[str, Any],
    title: str,
    files: Sequence[Path | None],
    video: bool,
) -> dict[str, Any]:
    """All splits, tables, files. The first of `files` names the pictures beside it."""
    if episodes < 1:
        raise ConfigError(f"--episodes {episodes}: must be at least 1")
    for name in splits:  # all of them, before any is evaluated
        if spec.check_objects is not None:
            spec.check_objects(name)
    began = time.monotonic()
    summaries: dict[str, Any] = {}
    drawn: list[Episode] = []
    others: list[Episode] = []
    physics = None
    written = [Path(f) for f in files if f is not None]
    draw = video and bool(written)
    for name in dict.fromkeys(splits):
        since = time.monotonic()
        env = spec.make(
            task, num_envs=batch_size(episodes), engine=engine, objects=name, seed=seed,
            evaluation=True,
        )  # fmt: skip
        ids = plan(len(getattr(env, "objects", ())) or 1, env.num_envs, episodes)
        # Each split has its own random numbers, whatever else is evaluated with it.
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
        pictured, recorded = (max(n // len(splits), 1) for n in (_PICTURED, _RECORDED))
        summary, kept, shown = _evaluate_split(
            env, agent_for(env), ids, key, pictured * draw, recorded * bool(written)
        )
        summary["seconds"] = round(time.monotonic() - since, 2)
        summaries[name] = summary
        drawn, others = drawn + kept[:shown], others + kept[shown:]
        simulator = getattr(env, "engine", None)
        physics = getattr(simulator, "config", None) or getattr(simulator, "physics", None)
        print(f"evaluated {name}: {summary['episodes']} episodes, {summary['seconds']:.0f} s")
    first = next(iter(summaries.values()))
    result = {
        **first,
        "splits": summaries,
        **head,
        "seed": seed,
        "engine": engine,
        "physics": to_plain(physics),
        "seconds": round(time.monotonic() - began, 2),
        "versions": {**runs.versions(), "git_revision": runs.git_revision()},
    }
    for file in written:
        file.parent.mkdir(parents=True, exist_ok=True)
        runs.write_json(file, result)
        file.with_suffix(".md").write_text(report(title, summaries) + "\n")
    print("\n" + report(title, summaries, _WORST) + "\n")
    if drawn or others:
        write_episodes(written[0].with_suffix(SUFFIX), [*drawn, *others])
    if written:
        run_dir = Path(head["run"]) if head["run"] else None
        file = written[0].with_suffix(".html")
        recorded_ones = [*drawn, *others] if draw else []
        write_report(file, f"Evaluation: {title}", result, recorded_ones, run_dir)
    if drawn:
        since = time.monotonic()
        pictures = write_pictures(drawn, written[0].with_suffix(""))
        took = time.monotonic() - since
        print(f"drew {', '.join(shlex.quote(str(p)) for p in pictures)} in {took:.0f} s")
    print(f"{', '.join(map(str, written)) or 'evaluated'}: {time.monotonic() - began:.0f} s")
    return result


def report(title: str, splits: dict[str, Any], most: int | None = None) -> str:
    """Markdown: all splits, then categories and objects of each (`most` worst ones, or all)."""
    parts = [f"## Evaluation: {title}", split_table(splits)]
    rows = [
        [name, f"success {k}", " ".join(f"{v:.3f}" for v in found["each"]),
         f"{found['mean']:.3f} [{found['ci95'][0]:.2f}, {found['ci95'][1]:.2f}]"]
        for name, summary in splits.items()
        for k, found in summary.get("seeds", {}).items()
    ]  # fmt: skip
    if rows:
        parts.append(markdown_table(["objects", "", "each seed", "mean over seeds"], rows))
    for name, summary in splits.items():
        objects = summary.get("per_object")
        if not objects:
            continue
        shown = min(len(objects), most or len(objects))
        parts += [f"### {name}", category_table(objects)] if most is None else []
        parts.append(f"#### {name}: {shown} worst of {len(objects)} objects")
        parts.append(object_table(objects, most))
        for left, why in summary.get("left_out", ()):
            parts.append(f"left out {left}: {why}")
    return "\n\n".join(p for p in parts if p)


if __name__ == "__main__":
    sys.exit(main())
