"""A run on disk: its settings and its policy, as evaluation, viewing and distillation need them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax

from dexjax.core import checkpoint, runs
from dexjax.core.config import from_plain, to_plain
from dexjax.core.errors import ConfigError, DataError
from dexjax.rl import ppo
from dexjax.rl.registry import EnvSpec, TrainConfig, find_env, find_preset


@dataclass(frozen=True)
class RunSettings:
    """The resolved settings of a run, as stored in config.json."""

    env: str
    preset: str
    task: Any  # the environment's configuration
    ppo: ppo.PPOConfig
    train: TrainConfig


@dataclass(frozen=True)
class Policy:
    """A trained policy: `ppo.policy_mean(p.cfg, p.params, p.normalizer, obs)` acts.

    Its actor is the running average over updates (`PPOConfig.average_decay`), not the last one.
    """

    cfg: ppo.PPOConfig
    params: dict[str, Any]
    normalizer: Any
    checkpoint: Path
    metadata: dict[str, Any]  # of the checkpoint: step, score, env, ...


def write_settings(run_dir: Path, settings: RunSettings) -> None:
    """Store the settings as config.json."""
    runs.write_config(run_dir, to_plain(settings))


def read_settings(run_dir: Path) -> tuple[EnvSpec, RunSettings]:
    """The environment and settings of a run. Raises DataError naming file and field."""
    plain = runs.read_config(run_dir)
    where = str(run_dir / "config.json")
    for name in ("env", "preset"):
        if not isinstance(plain.get(name), str):
            raise DataError(f"{where}: field {name} is missing or no text")
    spec = find_env(plain["env"])
    task_type = type(find_preset(spec, plain["preset"]).env)
    settings = RunSettings(
        env=plain["env"],
        preset=plain["preset"],
        task=from_plain(task_type, plain.get("task"), f"{where}: task"),
        ppo=from_plain(ppo.PPOConfig, plain.get("ppo"), f"{where}: ppo"),
        train=from_plain(TrainConfig, plain.get("train"), f"{where}: train"),
    )
    return spec, settings


def load_policy(
    run_dir: Path, which: Literal["latest", "best"] = "latest", seed_index: int = 0
) -> Policy:
    """The policy of a run's newest or best checkpoint. Raises DataError if there is none.

    Needs neither the environment nor its size: shapes come from the checkpoint's metadata.
    seed_index: which of the policies of a run with `--num-seeds`; ConfigError if there is no such.
    """
    where = str(run_dir / "config.json")
    config = runs.read_config(run_dir)
    cfg = from_plain(ppo.PPOConfig, config.get("ppo"), f"{where}: ppo")
    num_seeds = from_plain(TrainConfig, config.get("train"), f"{where}: train").num_seeds
    if not 0 <= seed_index < num_seeds:
        raise ConfigError(f"{run_dir}: has {num_seeds} seeds, no number {seed_index}; from 0 on")
    directory = run_dir / "checkpoints"
    path = checkpoint.best(directory) if which == "best" else None
    path = path or checkpoint.latest(directory)
    if path is None:
        raise DataError(f"{run_dir}: has no checkpoint yet; continue it with --resume {run_dir}")
    metadata = checkpoint.read_metadata(path)
    sizes, action_size = (metadata["env"][k] for k in ("observation_sizes", "action_size"))
    params, normalizer = jax.eval_shape(
        lambda: ppo.init_policy(jax.random.key(0), sizes, action_size, cfg)
    )
    like = {"params": params, "average_actor": params["actor"]}
    like |= {} if normalizer is None else {"normalizer": normalizer}
    if num_seeds == 1:
        loaded = checkpoint.restore(path, like)
    else:
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct((num_seeds, *x.shape), x.dtype), like)
        loaded = jax.tree.map(lambda x: x[seed_index], checkpoint.restore(path, like))
    params = loaded["params"] | {"actor": loaded["average_actor"]}
    return Policy(cfg, params, loaded.get("normalizer"), path, metadata)
