"""Metrics to Weights & Biases, for those who ask for it (`pip install 'dexjax[wandb]'`)."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dexjax.core.errors import MissingExtraError


class WandbLog:
    """One W&B run per run folder, continued when the run is resumed.

    Without a network or a login, W&B's own settings apply (`WANDB_MODE=offline` keeps everything in
    the run folder).
    """

    def __init__(self, project: str, run_dir: Path, config: Mapping[str, Any]) -> None:
        """Raises MissingExtraError where wandb is not installed."""
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError(
                f"--wandb needs wandb ({error}); pip install 'dexjax[wandb]', or leave it out: "
                "metrics.jsonl and tensorboard/ are always written"
            ) from error
        self._run = wandb.init(
            project=project,
            name=run_dir.name,
            id=_run_id(run_dir / "wandb_id"),
            resume="allow",
            dir=str(run_dir),
            config=dict(config),
        )
        # Horizontal axis of everything, as in TensorBoard.
        self._run.define_metric("env_steps")
        self._run.define_metric("*", step_metric="env_steps")

    def append(self, env_steps: int, scalars: Mapping[str, float]) -> None:
        """One update's scalars; those that are not finite are left out."""
        finite = {k: v for k, v in scalars.items() if math.isfinite(v)}
        self._run.log({"env_steps": env_steps, **finite})

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


def _run_id(file: Path) -> str:
    """The id that this run folder has at W&B; a new one is remembered."""
    if file.is_file() and (known := file.read_text().strip()):
        return known
    fresh = uuid.uuid4().hex[:12]
    file.write_text(fresh + "\n")
    return fresh
