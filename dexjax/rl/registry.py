"""Environments by name, and what training needs to know of each."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dexjax.core.errors import ConfigError, unknown_name
from dexjax.rl.env import Env
from dexjax.rl.ppo import PPOConfig

_GROUP = "dexjax.envs"


@dataclass(frozen=True)
class TrainConfig:
    """Size and limits of a run."""

    seed: int = 0
    """Seed of everything random in the run."""
    num_seeds: int = 1
    """Train this many seeds in one program: `seed`, `seed` + 1, ..."""
    num_envs: int = 512
    """Environments simulated together."""
    engine: str = "native"
    """Physics engine."""
    objects: str = "builtin:seen"
    """Objects to train on; the environment says which names it knows."""
    max_minutes: float | None = 10.0
    """Wall-clock budget of the whole run from process start, final evaluation included."""
    max_steps: int | None = None
    """Stop after this many environment steps (of all environments together)."""
    eval_reserve_seconds: float = 90.0
    """Part of `max_minutes` that is kept free for the final evaluation."""
    evaluate: bool = True
    """Evaluate the policy at the end."""
    checkpoint_seconds: float = 30.0
    """Time between checkpoints; what a killed process loses at most."""
    keep_checkpoints: int = 3
    """Checkpoints kept, besides the best one."""
    best_metric: str = "success_held"
    """Running episode statistic that chooses the best checkpoint."""


@dataclass(frozen=True)
class Preset:
    """A named combination of settings; every field can be overridden on the command line."""

    env: Any
    """Configuration of the environment, a frozen dataclass (`--task.*`)."""
    ppo: PPOConfig
    """Constants of the learner (`--ppo.*`)."""
    train: TrainConfig
    """Size and limits of the run."""


@dataclass(frozen=True)
class EnvSpec:
    """What an entry point of the group `dexjax.envs` refers to.

    make(env_config, *, num_envs, engine, objects, seed, evaluation=False) -> Env; `evaluation`
    asks for the physics that reported numbers are measured in and for episodes that start together.

    The environment may also have `hand` (str) and `objects` (names), which checkpoints remember and
    compare; with `objects`, `reset(key, object_id)` takes chosen ones; `sim_seconds`, seconds spent
    in physics so far; `report() -> str`, printed before training; `scripted_action(state)`, what a
    scripted agent does, and `learned_action(state, wanted)`, the action that makes a residual
    environment do `wanted`; `scene` and `assets`, from which episodes are recorded and drawn, and
    `goal(state)` (B, 3), recorded with them; `left_out`, (name, reason) of objects that could not
    be used; `save_divergences(path, sim)`, called with checkpoints where one process does all.
    """

    presets: dict[str, Preset]
    make: Callable[..., Env]
    check_objects: Callable[[str], None] | None = None
    """Raises for a text that `make` would not understand as `objects`, at once."""
    eval_splits: tuple[str, ...] = ()
    """Objects to evaluate on, by default, after training on one of them; other runs: their own."""


def find_env(name: str) -> EnvSpec:
    """The environment registered as `name`, or at `module:attribute`.

    Raises ConfigError with the nearest names, for duplicates, and for what is no EnvSpec.
    """
    if ":" in name:
        spec = _import(name)
    else:
        entries = importlib.metadata.entry_points(group=_GROUP)
        found = {e.value: e for e in entries if e.name == name}  # one target listed twice is fine
        if not found:
            known = {e.name for e in entries}
            if not known:
                raise ConfigError(
                    f"unknown environment {name!r}: none is registered; install dexjax "
                    "(pip install -e .) so that its entry points are known"
                )
            raise unknown_name("environment", name, known)
        if len(found) > 1:
            raise ConfigError(
                f"environment {name!r} is registered twice: {', '.join(sorted(found))}; "
                "uninstall one or name it as module:attribute"
            )
        (spec,) = (e.load() for e in found.values())
    if not isinstance(spec, EnvSpec):
        raise ConfigError(f"environment {name!r} is a {type(spec).__name__}, not an EnvSpec")
    return spec


def find_preset(spec: EnvSpec, name: str) -> Preset:
    """A preset by name. Raises ConfigError with the nearest names."""
    if name not in spec.presets:
        raise unknown_name("preset", name, spec.presets)
    return spec.presets[name]


def _import(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as e:
        raise ConfigError(f"environment {name!r} cannot be imported: {e}") from e
