"""Run folders: where a run keeps its resolved settings, versions, metrics and checkpoints.

- `config.json`: resolved settings
- `provenance.json`: versions, git revision, machine and command, one entry per (re)start
- `metrics.jsonl`: one line per update; `tensorboard/`: the same for TensorBoard
- `checkpoints/`: see `dexjax.core.checkpoint`
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from dexjax.core.errors import ConfigError, DataError

_PACKAGES = ("jax", "jaxlib", "mujoco", "mujoco-mjx", "numpy", "flax", "optax", "brax")


def new_run_dir(run_dir: Path | None, name: str) -> Path:
    """Create `run_dir`, or a dated folder `runs/<date>_<name>`; never one that holds a run."""
    if run_dir is None:
        stem = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{name}"
        for suffix in ("", *(f"_{i}" for i in range(2, 100))):
            path = Path("runs") / f"{stem}{suffix}"
            try:
                path.mkdir(parents=True)
                return path
            except FileExistsError:
                continue
    assert run_dir is not None
    if (run_dir / "config.json").exists():
        raise ConfigError(
            f"{run_dir} already holds a run; continue it with --resume {run_dir} "
            "or choose another --run-dir"
        )
    if run_dir.exists() and not run_dir.is_dir():
        raise ConfigError(f"--run-dir {run_dir} is a file; choose a folder")
    run_dir.mkdir(parents=True, exist_ok=True)
    return run_dir


def write_config(run_dir: Path, config: dict[str, Any]) -> None:
    """Store the resolved settings (JSON values)."""
    write_json(run_dir / "config.json", config)


def read_config(run_dir: Path) -> dict[str, Any]:
    """Settings of a run. Raises DataError if the folder holds no run or the file is broken."""
    if not run_dir.is_dir():
        raise DataError(f"{run_dir}: no such run folder; runs are kept under runs/ by default")
    file = run_dir / "config.json"
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError:
        raise DataError(f"{run_dir}: holds no config.json, so it is not a run folder") from None
    except (OSError, ValueError) as e:
        raise DataError(f"{file}: cannot be read ({e})") from e
    if not isinstance(config, dict):
        raise DataError(f"{file}: expected a table of settings")
    return config


def record_start(run_dir: Path, command: str, seed: int) -> None:
    """Append versions, git revision, machine and command of this (re)start to provenance.json."""
    file = run_dir / "provenance.json"
    try:
        starts = json.loads(file.read_text())["starts"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        starts = []
    starts.append(
        {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": command,
            "seed": seed,
            "git_revision": git_revision(),
            "versions": versions(),
            "machine": {
                "platform": platform.platform(),
                "cpu_count": os.cpu_count(),
                "device": _device(),
            },
        }
    )
    write_json(file, {"starts": starts})


def versions() -> dict[str, str]:
    """Versions of dexjax, Python and the packages that numbers depend on."""
    import dexjax

    found = {"dexjax": dexjax.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def git_revision() -> str:
    """Commit of the checkout that dexjax is imported from, `-dirty` if changed; else `unknown`."""
    root = Path(__file__).resolve().parents[2]

    def git(*args: str) -> str:
        command = ["git", "-C", str(root), *args]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        # An installed copy may lie inside some other repository: that one's commit says nothing.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return "unknown"
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def write_json(file: Path, content: Any) -> None:
    """Write atomically: readers see the old file or the new one."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _device() -> str:
    import jax

    device = jax.devices()[0]
    return f"{jax.device_count()} x {device.device_kind} ({device.platform})"
