"""Evaluated runs as rows of a table: success, compute, circumstances."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dexjax.core.errors import DataError
from dexjax.metrics.statistics import wilson_interval
from dexjax.parity.published import Paper

SAME_SPLITS = {
    "builtin:seen": "seen",
    "builtin:unseen": "unseen_obj_seen_cat",
    "builtin:unseen_category": "unseen_obj_unseen_cat",
}
"""Our splits and the papers' that ask the same question, of other objects."""


@dataclass(frozen=True)
class Measured:
    """Success of one run on one split."""

    run: str
    split: str
    beside: str  # the papers' split; "": none
    observations: str  # "state" or "vision"
    count: int
    rate: float
    ci95: tuple[float, float]
    ci90: tuple[float, float]
    seeds: tuple[float, ...]
    seeds_ci95: tuple[float, float] | None  # of the mean over seeds, by Student's t
    compute: str
    circumstances: dict[str, Any] = field(repr=False)
    outcomes: dict[str, Any] = field(repr=False)  # per start; empty in files of older versions


def read_run(path: Path, splits: Mapping[str, str] = SAME_SPLITS) -> list[Measured]:
    """Every split of an evaluation: a run folder with evaluation.json, or such a file.

    Raises DataError naming file and field.
    """
    file = path / "evaluation.json" if path.is_dir() else path
    try:
        content = json.loads(file.read_text())
    except OSError as error:
        raise DataError(
            f"{file}: {error.strerror}; evaluate the run first: python -m dexjax.evaluate {path}"
        ) from error
    except ValueError as error:
        raise DataError(f"{file}: no valid JSON ({error}); evaluate the run again") from error
    try:
        return [
            _measured(path, content, name, summary, splits)
            for name, summary in content["splits"].items()
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{file}: no evaluation of dexjax ({type(error).__name__}: {error}); write it with "
            "python -m dexjax.evaluate"
        ) from error


def _measured(
    path: Path,
    content: Mapping[str, Any],
    name: str,
    summary: Mapping[str, Any],
    splits: Mapping[str, str],
) -> Measured:
    rate, count = float(summary["success"]["any"]["mean"]), int(summary["episodes"])
    if not (0 <= rate <= 1 and count > 0):
        raise ValueError(f"success of {rate} in {count} episodes")
    config = content["config"]
    task, learning = config.get("task", {}), config.get("ppo", {})
    physics = content.get("physics") or {}
    groups = (*learning.get("actor_obs", ()), *config.get("student_obs", ()))
    step = float(physics.get("timestep", 0)) * int(physics.get("substeps", 0))
    seeds = summary.get("seeds", {}).get("any", {})
    return Measured(
        run=str(path),
        split=name,
        beside=splits.get(name, ""),
        observations="vision" if "points" in groups else "state",
        count=count,
        rate=rate,
        ci95=wilson_interval(rate * count, count),
        ci90=wilson_interval(rate * count, count, 1.645),
        seeds=tuple(float(s) for s in seeds.get("each", ())),
        seeds_ci95=tuple(seeds["ci95"]) if "ci95" in seeds else None,
        compute=_compute(path, content),
        circumstances={
            "agent": content.get("agent"),
            "variant": task.get("variant"),
            "engine": content.get("engine") or config.get("train", {}).get("engine", "native"),
            "physics": physics,
            "control_hz": 1 / step if step else None,
            "steps": task.get("episode_length"),
            "base": task.get("scene", {}).get("base"),
            "base_policy": task.get("base_policy"),
            "trained_on": config.get("train", {}).get("objects"),
            "seed": content.get("seed"),
            "reset": {k: task.get(k) for k in ("variant", "reset", "goal_height", "scene")},
        },
        outcomes=dict(summary.get("outcomes", {})),
    )


def _compute(path: Path, content: Mapping[str, Any]) -> str:
    """What the run cost, from its checkpoint and its provenance."""
    checkpoint = content.get("checkpoint") or {}
    parts = []
    if checkpoint.get("env_steps") is not None:
        parts.append(f"{checkpoint['env_steps'] / 1e6:.3g} M steps")
    if checkpoint.get("elapsed_seconds") is not None:
        parts.append(f"{checkpoint['elapsed_seconds'] / 60:.1f} min")
    try:
        starts = json.loads((path / "provenance.json").read_text())["starts"]
        machine = starts[0]["machine"]
        parts.append(f"{machine['device']}, {machine['cpu_count']} CPU cores")
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        pass  # an evaluation given as a file has no provenance beside it
    return ", ".join(parts)


def what_differs(run: Measured, paper: Paper, objects: str = "") -> list[str]:
    """How the run's circumstances differ from the paper's, one line each.

    objects: names of our splits, where several are described together.
    """
    c = run.circumstances
    found = []
    if paper.simulator:
        physics = c["physics"]
        detail = ""
        if c["control_hz"]:
            kind = f"{physics['cone']} cone" if "cone" in physics else physics.get("solver")
            step = f"1/{1 / physics['timestep']:.0f} s"
            detail = f" ({kind}, {physics.get('substeps')} steps of {step})"
        ours = "PhysX (SAPIEN)" if c["engine"] == "physx" else f"MuJoCo, engine {c['engine']}"
        found.append(f"simulator: {ours}{detail}; theirs {paper.simulator}")
    if paper.objects:
        found.append(f"objects: {objects or run.split}; theirs {paper.objects}")
    if paper.variant and c["variant"] != paper.variant:
        base = f", {c['base']} base" if c["base"] else ""
        found.append(f"task: variant {c['variant']}{base}; theirs is our variant {paper.variant}")
    if paper.control_hz and c["control_hz"]:
        ours = f"{c['control_hz']:.0f} Hz, {c['steps']} steps"
        theirs = f"{paper.control_hz:.0f} Hz, {paper.steps} steps"
        if ours != theirs:
            found.append(f"control: {ours}; theirs {theirs}")
    if c["base_policy"] not in (None, "none", ""):
        found.append(f"learning: ours is a residual on a {c['base_policy']} policy")
    return found
