"""Train a policy: `python -m dexjax.train --env shadow_grasp --preset quick`.

A thin loop around `ppo.update`: settings, run folder, checkpoints, progress, signals, evaluation.
"""

from __future__ import annotations

import time

_PROCESS_START = time.monotonic()  # before the slow imports: `--max-minutes` counts from here

import argparse  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402
import os  # noqa: E402
import shlex  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, Generic, TypeVar  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402
import tyro  # noqa: E402
from rich.console import Console  # noqa: E402

from dexjax.core import checkpoint, runs  # noqa: E402
from dexjax.core.compilation import CompileClock, use_cache  # noqa: E402
from dexjax.core.config import first_difference, to_plain  # noqa: E402
from dexjax.core.errors import ConfigError, DataError, DexjaxError, unknown_name  # noqa: E402
from dexjax.core.progress import MetricsLog, ProgressDisplay, mean_interval  # noqa: E402
from dexjax.core.wandb_log import WandbLog  # noqa: E402
from dexjax.rl import devices, ppo, timing  # noqa: E402
from dexjax.rl.env import Env  # noqa: E402
from dexjax.rl.registry import EnvSpec, TrainConfig, find_env, find_preset  # noqa: E402
from dexjax.rl.trained import RunSettings, read_settings, write_settings  # noqa: E402

_DEFAULT_ENV, _DEFAULT_PRESET = "shadow_grasp", "quick"

# Settings that a resumed run may change: limits and bookkeeping, nothing that it computes with.
_CHANGEABLE = (
    "max_minutes",
    "max_steps",
    "eval_reserve_seconds",
    "evaluate",
    "checkpoint_seconds",
    "keep_checkpoints",
    "best_metric",
)

Task = TypeVar("Task")


@dataclass(frozen=True)
class Launch:
    """Where a run executes; no part of its settings, so free to change when it is resumed."""

    devices: int | None = None
    """Devices to spread the environments over; None: all (one if the engine runs on the host)."""
    distributed: bool = False
    """One of several processes of the same run, found through the cluster's environment (SLURM,
    Open MPI, Kubernetes, TPU pods) or the three options below. Needs --run-dir on a shared disk."""
    coordinator: str | None = None
    """HOST:PORT of process 0; implies --distributed."""
    num_processes: int | None = None
    """Number of processes."""
    process_id: int | None = None
    """Number of this process, from 0."""
    compile_cache: bool = True
    """Keep compiled programs in the user's cache folder."""
    video: bool = True
    """Draw episodes of the final evaluation: video, pictures in its report."""
    wandb: str | None = None
    """Also log to this Weights & Biases project (extra `wandb`)."""


@dataclass(frozen=True)
class Command(Generic[Task]):
    """Train a policy with PPO, evaluate it, and leave everything in a run folder.

    Defaults below are those of the chosen --env and --preset; give these two first to see others.
    """

    task: Task
    """Settings of the environment."""
    ppo: ppo.PPOConfig
    """Settings of the learner."""
    train: tyro.conf.OmitArgPrefixes[TrainConfig]
    launch: tyro.conf.OmitArgPrefixes[Launch]
    env: str = _DEFAULT_ENV
    """Environment: a name from the entry-point group `dexjax.envs`, or module:attribute."""
    preset: str = _DEFAULT_PRESET
    """Named settings of that environment."""
    run_dir: Path | None = None
    """Folder for results; default: a dated folder under runs/."""
    resume: Path | None = None
    """Continue the run in this folder; only limits may be changed."""


def main(argv: Sequence[str] | None = None, start: float | None = None) -> int:
    """Command line entry; returns the exit code (2: unusable input, 130/143: stopped by signal)."""
    start = time.monotonic() if start is None else start
    argv = sys.argv[1:] if argv is None else argv
    try:
        spec, settings, run_dir, resumed, launch = parse(argv)
        command = shlex.join(["python", "-m", "dexjax.train", *argv])
        return run(
            spec, settings, run_dir, resumed=resumed, start=start, command=command, launch=launch
        )
    except DexjaxError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except OSError as e:
        if not checkpoint.is_storage_failure(e):
            raise
        print(f"error: cannot write {e.filename or 'to disk'}: {e.strerror}", file=sys.stderr)
        return 2
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise
        print(
            f"error: the device ran out of memory ({str(e).splitlines()[0]}). Use fewer "
            "--num-envs, --num-seeds or --objects, more --ppo.minibatches, or more --devices; "
            "what was saved can be resumed",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("\nstopped by SIGINT", file=sys.stderr)
        return 130


def parse(argv: Sequence[str]) -> tuple[EnvSpec, RunSettings, Path | None, bool, Launch]:
    """Environment, settings, run folder (None: choose one), whether to resume, and where.

    Two stages: --env, --preset and --resume choose the defaults from which the rest is typed.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--env")
    first.add_argument("--preset")
    first.add_argument("--resume", type=Path)
    chosen, _ = first.parse_known_args(argv)

    stored = None
    if chosen.resume is not None:
        spec, stored = read_settings(chosen.resume)
        base = stored
    else:
        env, preset = chosen.env or _DEFAULT_ENV, chosen.preset or _DEFAULT_PRESET
        spec = find_env(env)
        found = find_preset(spec, preset)
        base = RunSettings(env, preset, task=found.env, ppo=found.ppo, train=found.train)

    typed: Any = Command[type(base.task)]  # type: ignore[misc]
    command = tyro.cli(
        typed,
        args=list(argv),
        prog="python -m dexjax.train",
        default=Command(base.task, base.ppo, base.train, Launch(), base.env, base.preset),
    )
    settings = RunSettings(command.env, command.preset, command.task, command.ppo, command.train)
    if stored is None:
        return spec, settings, command.run_dir, False, command.launch
    _check_unchanged(chosen.resume, to_plain(stored), to_plain(settings))
    if command.run_dir not in (None, chosen.resume):
        raise ConfigError("--run-dir: a resumed run stays in its folder; leave this option out")
    return spec, settings, chosen.resume, True, command.launch


def run(
    spec: EnvSpec,
    settings: RunSettings,
    run_dir: Path | None,
    *,
    resumed: bool,
    start: float,
    command: str,
    launch: Launch = Launch(),  # noqa: B008  frozen
) -> int:
    """Train until a limit or a signal, save, evaluate. Returns the exit code."""
    cfg = settings.train
    _check_limits(cfg)
    if launch.distributed or launch.coordinator is not None:
        if run_dir is None:
            raise ConfigError("--distributed: name one folder for all processes with --run-dir")
        devices.connect(launch.coordinator, launch.num_processes, launch.process_id)
    first = devices.is_first()
    if launch.compile_cache:
        use_cache()
    if first:
        if not resumed:
            name = f"{settings.env.replace(':', '.')}_{settings.preset}_seed{cfg.seed}"
            run_dir = runs.new_run_dir(run_dir, name)
        assert run_dir is not None
        write_settings(run_dir, settings)
        runs.record_start(run_dir, command, cfg.seed)
    assert run_dir is not None
    wandb = None
    if launch.wandb is not None and first:
        wandb = WandbLog(launch.wandb, run_dir, to_plain(settings))

    stages = {"import": time.monotonic() - start}
    began = time.monotonic()
    env = spec.make(
        settings.task,
        num_envs=cfg.num_envs,
        engine=cfg.engine,
        objects=cfg.objects,
        seed=cfg.seed,
    )
    stages["build"] = time.monotonic() - began
    mesh = devices.device_mesh(env, launch.devices)
    program = devices.Program(env, settings.ppo, cfg.seed, cfg.num_seeds, mesh)
    title = f"{settings.env} / {settings.preset}"
    with ProgressDisplay(title, None if first else Console(quiet=True)) as display:
        if hasattr(env, "report"):
            display.report(env.report())
        if jax.device_count() > 1:
            display.message(
                f"{mesh.size if mesh else 1} of {jax.device_count()} devices, "
                f"{jax.process_count()} processes"
            )
        stopped_by = _train(program, settings, run_dir, resumed, start, stages, display, wandb)
        last = checkpoint.latest(run_dir / "checkpoints")
        if stopped_by is not None:
            name = signal.Signals(stopped_by).name
            display.message(
                f"stopped by {name}; saved {last}. Continue with:\n"
                f"python -m dexjax.train --resume {shlex.quote(str(run_dir))}"
            )
    interrupted = False
    if stopped_by is None and cfg.evaluate and jax.process_count() == 1:
        from dexjax.evaluate import evaluate_run

        try:
            evaluate_run(run_dir, video=launch.video)
        except KeyboardInterrupt:
            interrupted = True
            print("evaluation stopped by SIGINT; the trained policy is saved")
    if first:  # a distributed run is evaluated by one process, afterwards, with this command
        print(run_dir)
        print(f"python -m dexjax.evaluate {shlex.quote(str(run_dir))}", flush=True)
    if stopped_by is not None:
        return 128 + stopped_by
    return 130 if interrupted else 0


def _train(
    program: devices.Program,
    settings: RunSettings,
    run_dir: Path,
    resumed: bool,
    start: float,
    stages: dict[str, float],
    display: ProgressDisplay,
    wandb: WandbLog | None = None,
) -> int | None:
    """The loop. Returns the signal that ended it, None if a limit did. Saves in any case."""
    cfg, env, first_process = settings.train, program.env, devices.is_first()
    steps_per_update = settings.ppo.rollout_length * env.num_envs * cfg.num_seeds
    began = time.monotonic()
    clock = CompileClock()
    with clock:
        state, elapsed_before = _initial_state(program, settings, run_dir, resumed, display)
    iteration = first = int(np.max(jax.device_get(state.iteration)))
    if cfg.best_metric not in state.stats.total:
        raise unknown_name("statistic for --best-metric", cfg.best_metric, state.stats.total)

    def elapsed() -> float:
        return elapsed_before + time.monotonic() - start

    def save() -> None:
        if hasattr(env, "save_divergences") and jax.process_count() == 1:
            env.save_divergences(run_dir / "diverged.npz", state.env_state.sim)
        total, count = jax.device_get((state.stats.total[cfg.best_metric], state.stats.count))
        score = float(np.mean(total / np.maximum(count, 1.0)))  # over seeds
        enough = float(np.min(count)) >= 0.5 * settings.ppo.stats_window
        checkpoint.save(
            run_dir / "checkpoints",
            iteration,
            state,
            metadata={
                "config": to_plain(settings),
                "env": describe(env),
                "versions": runs.versions(),
                "env_steps": iteration * steps_per_update,
                "elapsed_seconds": elapsed(),
            },
            score=score if enough else None,
            keep=cfg.keep_checkpoints,
        )

    if _progress(cfg, iteration * steps_per_update, elapsed()) >= 1 and resumed:
        display.message("this run has reached its limits; raise --max-minutes or --max-steps")
    log = MetricsLog(run_dir, iteration) if first_process else None
    saved_at, saved_iteration = -math.inf, None
    update_seconds = 0.0  # of a typical update, running mean
    split = _TimeSplit(program)
    scalars: dict[str, float] = {}
    with _Signals() as stop:
        while True:
            env_steps = iteration * steps_per_update
            no_time = _progress(cfg, env_steps, elapsed() + update_seconds) >= 1
            # What depends on clocks and signals is decided by all processes together.
            fraction, ending, stopped_by, due = devices.agree(
                _progress(cfg, env_steps, elapsed()),
                float(no_time or stop.received is not None),
                float(stop.received or 0),
                float(time.monotonic() - saved_at >= cfg.checkpoint_seconds),
            )
            if (ending or due) and iteration != saved_iteration:
                save()
                saved_at, saved_iteration = time.monotonic(), iteration
            if ending:
                break
            before, sim_before = time.monotonic(), getattr(env, "sim_seconds", 0.0)
            if iteration == first:
                with clock:
                    state, metrics = program.update(state, fraction)
                    scalars = _scalars(metrics)
                stages |= clock.seconds()
                compiled = stages["trace"] + stages["lower"] + stages["compile"]
                stages["first_update"] = time.monotonic() - began - compiled
                stages["to_first_update"] = time.monotonic() - start
                display.message(_stages_line(stages, clock.cache_hits))
                if first_process:
                    _record_stages(run_dir, stages, clock.cache_hits)
            else:
                state, metrics = program.update(state, fraction)
                scalars = _scalars(metrics)
            seconds = time.monotonic() - before
            simulated = getattr(env, "sim_seconds", 0.0) - sim_before
            if iteration == first + 1:
                update_seconds = 0.0  # the first update was mostly compilation
            update_seconds += (seconds - update_seconds) * (0.1 if update_seconds else 1.0)
            iteration += 1
            env_steps += steps_per_update
            rate = steps_per_update / update_seconds
            scalars |= {
                "time/progress": min(_progress(cfg, env_steps, elapsed()), 1.0),
                "time/elapsed_seconds": elapsed(),
                "time/eta_seconds": _seconds_left(cfg, env_steps, elapsed(), rate),
                "time/env_steps": float(env_steps),
                "time/update_seconds": seconds,
                "time/steps_per_second": rate,
                **(split.fractions(seconds, simulated) if iteration > first + 1 else {}),
            }
            try:
                if log is not None:
                    log.append(iteration, env_steps, scalars)
            except OSError as e:
                raise checkpoint.storage_error(run_dir / "checkpoints", e) from e
            if wandb is not None:
                try:
                    wandb.append(env_steps, scalars)
                except OSError as e:  # the network: no reason to end a run
                    display.message(f"Weights & Biases was not reached ({e}); training goes on")
                    wandb = None
            display.update(scalars)
        if scalars:
            display.update(scalars, last=True)
        if log is not None:
            log.close()
        if wandb is not None:
            wandb.close()
    return int(stopped_by) or None


def _scalars(metrics: dict[str, jax.Array]) -> dict[str, float]:
    """Metrics as numbers. Of several seeds: the mean, a 95 % interval's half width for episode
    statistics (`interval/...`), and each seed's success rates."""
    found = {k: np.asarray(v) for k, v in jax.device_get(metrics).items()}
    scalars = {}
    for name, value in found.items():
        if value.ndim == 0:
            scalars[name] = float(value)
            continue
        scalars[name], half = mean_interval(value)
        if name.startswith("episode/"):
            scalars[f"interval/{name}"] = half
        if name.startswith("episode/success"):
            scalars |= {f"seed{i}/{name}": float(v) for i, v in enumerate(value)}
    return scalars


class _TimeSplit:
    """Shares of an update's time. The engine's own seconds where it counts them (the rest beside
    inference is learning); else learning is estimated too, and the rest is simulation."""

    def __init__(self, program: devices.Program) -> None:
        self._program = program
        self._inference: float | None = None
        self._learning = math.nan

    def fractions(self, seconds: float, simulated: float) -> dict[str, float]:
        if self._inference is None:
            env, cfg = self._program.env, self._program.cfg
            mesh, seeds = self._program.mesh, self._program.num_seeds
            rows = env.num_envs // (mesh.size if mesh else 1)
            self._inference = timing.inference_seconds(env, cfg, rows * seeds)
            if not simulated and seeds == 1 and mesh is None:  # else it would not be comparable
                self._learning = timing.learning_seconds(env, cfg, rows)
        inference = min(self._inference / seconds, 1.0)
        if simulated:
            simulation = simulated / seconds
            learning = max(1.0 - simulation - inference, 0.0)
        else:
            learning = min(self._learning / seconds, 1.0)
            simulation = max(1.0 - learning - inference, 0.0)  # NaN where not estimated
        return {
            "time/simulation_fraction": simulation,
            "time/inference_fraction": inference,
            "time/learning_fraction": learning,
        }


def _stages_line(stages: dict[str, float], cache_hits: int) -> str:
    names = ("import", "build", "trace", "lower", "compile", "first_update")
    parts = [f"{name.replace('_', ' ')} {stages[name]:.1f} s" for name in names]
    return (
        f"first update after {stages['to_first_update']:.1f} s: {', '.join(parts)} "
        f"({cache_hits} programs from the cache)"
    )


def _record_stages(run_dir: Path, stages: dict[str, float], cache_hits: int) -> None:
    """Append this start's seconds to stages.json."""
    file = run_dir / "stages.json"
    try:
        starts = json.loads(file.read_text())["starts"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        starts = []
    rounded = {k: round(v, 3) for k, v in stages.items()}
    runs.write_json(file, {"starts": [*starts, {**rounded, "cache_hits": cache_hits}]})


def _initial_state(
    program: devices.Program,
    settings: RunSettings,
    run_dir: Path,
    resumed: bool,
    display: ProgressDisplay,
) -> tuple[ppo.TrainState, float]:
    """Fresh or restored state, and the seconds that the run has already used."""
    path = checkpoint.latest(run_dir / "checkpoints") if resumed else None
    if path is None:
        if resumed:
            display.message(f"{run_dir} has no checkpoint yet: starting from the beginning")
        return program.init(), 0.0
    metadata = checkpoint.read_metadata(path)
    _check_unchanged(path, metadata["config"], to_plain(settings))
    difference = first_difference(metadata["env"], describe(program.env))
    if difference:
        field, saved, here = difference
        raise DataError(f"checkpoint {path}: env.{field} is {saved!r}, but here it is {here!r}")
    display.message(f"continuing from {path}")
    return checkpoint.restore(path, program.like()), float(metadata["elapsed_seconds"])


def describe(env: Env) -> dict[str, Any]:
    """What a checkpoint depends on: sizes, and the hand and objects if the environment has any."""
    return {
        "hand": getattr(env, "hand", None),
        "objects": to_plain(getattr(env, "objects", None)),
        "observation_sizes": dict(env.observation_sizes),
        "action_size": env.action_size,
        "num_envs": env.num_envs,
        "episode_length": env.episode_length,
    }


class _Signals:
    """Remembers SIGINT or SIGTERM while active; a second one acts at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _frame: object) -> None:
        self.received = number
        for n, handler in self._previous.items():
            signal.signal(n, handler)
        # Not `print`: the signal may have interrupted one, and streams are not reentrant.
        os.write(
            2, f"\n{signal.Signals(number).name}: finishing this update, then saving\n".encode()
        )


def _progress(cfg: TrainConfig, env_steps: int, elapsed: float) -> float:
    """Part of the run that is over: the larger of the step and the time fraction."""
    fraction = 0.0
    if cfg.max_steps is not None:
        fraction = env_steps / cfg.max_steps
    if cfg.max_minutes is not None:
        fraction = max(fraction, elapsed / _time_budget(cfg))
    return fraction


def _time_budget(cfg: TrainConfig) -> float:
    """Seconds for everything before the final evaluation."""
    assert cfg.max_minutes is not None
    return 60 * cfg.max_minutes - (cfg.eval_reserve_seconds if cfg.evaluate else 0.0)


def _seconds_left(cfg: TrainConfig, env_steps: int, elapsed: float, rate: float) -> float:
    """Time until the first limit is reached, NaN without limits."""
    left = []
    if cfg.max_steps is not None:
        left.append((cfg.max_steps - env_steps) / rate)
    if cfg.max_minutes is not None:
        left.append(_time_budget(cfg) - elapsed)
    return max(min(left), 0.0) if left else math.nan


def _check_limits(cfg: TrainConfig) -> None:
    checks: list[tuple[str, Callable[[Any], bool], str]] = [
        ("num_envs", lambda v: v >= 1, "must be at least 1"),
        ("num_seeds", lambda v: v >= 1, "must be at least 1"),
        ("max_steps", lambda v: v is None or v >= 1, "must be at least 1"),
        ("max_minutes", lambda v: v is None or v > 0, "must be positive"),
        ("checkpoint_seconds", lambda v: v >= 0, "must not be negative"),
        ("keep_checkpoints", lambda v: v >= 1, "must be at least 1"),
    ]
    for field, holds, rule in checks:
        value = getattr(cfg, field)
        if not holds(value):
            raise ConfigError(f"--{field.replace('_', '-')} {value}: {rule}")
    if cfg.max_minutes is not None and _time_budget(cfg) <= 0:
        raise ConfigError(
            f"--max-minutes {cfg.max_minutes:g} leaves nothing beside --eval-reserve-seconds "
            f"{cfg.eval_reserve_seconds:g}; raise the first, lower the second or --no-evaluate"
        )


def _check_unchanged(source: Path, stored: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise DataError if settings differ in more than what a resumed run may change."""

    def fixed(plain: dict[str, Any]) -> dict[str, Any]:
        train = {k: v for k, v in plain["train"].items() if k not in _CHANGEABLE}
        train.setdefault("num_seeds", 1)  # checkpoints of older versions do not have it
        return {**plain, "train": train}

    difference = first_difference(fixed(stored), fixed(now))
    if difference:
        field, before, here = difference
        raise DataError(
            f"{source}: made with {field} = {before!r}, but {here!r} is asked for now; "
            "leave it as it was, or start a new run without --resume"
        )


if __name__ == "__main__":
    sys.exit(main(start=_PROCESS_START))
