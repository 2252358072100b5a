"""The training command: limits, resume, signals, full disk, kill -9, bad input."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from toy_env import PointMassEnv

from dexjax import train
from dexjax.core import checkpoint
from dexjax.core.errors import ConfigError
from dexjax.core.progress import MetricsLog, ProgressDisplay
from dexjax.rl import devices, ppo
from dexjax.rl.registry import find_env
from dexjax.rl.trained import load_policy, read_settings

STEPS = 16 * 16  # environment steps per update below
BASE = ["--env", "toy_env:spec", "--num-envs", "16", "--max-minutes", "None", "--no-evaluate"]
BASE += ["--no-compile-cache"]  # tests leave the user's cache alone
SMALL = ["--ppo.actor-hidden", "16", "16", "--ppo.critic-hidden", "16", "16"]


def start(run_dir, updates, *more):
    limit = ["--max-steps", str(updates * STEPS), "--run-dir", str(run_dir)]
    return train.main([*BASE, *SMALL, *limit, *more])


def resume(run_dir, updates, *more):
    return train.main(["--resume", str(run_dir), "--max-steps", str(updates * STEPS),
                       "--no-compile-cache", *more])  # fmt: skip


def arrays(run_dir):
    """All arrays of the newest checkpoint as bytes."""
    path = checkpoint.latest(run_dir / "checkpoints")
    _, settings = read_settings(run_dir)
    env = PointMassEnv(settings.task, settings.train.num_envs)
    like = jax.eval_shape(lambda: ppo.init(jax.random.key(0), env, settings.ppo))
    leaves = jax.tree_util.tree_flatten_with_path(checkpoint.restore(path, like))[0]
    return path.name, {
        jax.tree_util.keystr(p): np.asarray(
            jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        ).tobytes()
        for p, x in leaves
    }


def rows(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_resumed_run_equals_uninterrupted_run(tmp_path, capsys):
    assert start(tmp_path / "whole", 6) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-2:] == [
        str(tmp_path / "whole"),
        f"python -m dexjax.evaluate {tmp_path / 'whole'}",
    ]
    assert start(tmp_path / "parts", 2) == 0
    assert resume(tmp_path / "parts", 3) == 0
    assert resume(tmp_path / "parts", 6) == 0
    name, whole = arrays(tmp_path / "whole")
    assert name == "00000006"
    assert arrays(tmp_path / "parts") == (name, whole)
    assert len(whole) > 30
    left, right = rows(tmp_path / "whole"), rows(tmp_path / "parts")
    assert [r["iteration"] for r in right] == [1, 2, 3, 4, 5, 6]
    for a, b in zip(left, right, strict=True):
        assert {k: v for k, v in a.items() if not k.startswith("time/")} == {
            k: v for k, v in b.items() if not k.startswith("time/")
        }
    assert len(json.loads((tmp_path / "parts" / "provenance.json").read_text())["starts"]) == 3


def test_run_folder_contents(tmp_path):
    run = tmp_path / "run"
    assert start(run, 2, "--seed", "5", "--task.goal-weight", "2.0") == 0
    _, settings = read_settings(run)
    assert settings.train.seed == 5 and settings.task.goal_weight == 2.0
    assert settings.ppo.actor_hidden == (16, 16)
    provenance = json.loads((run / "provenance.json").read_text())["starts"][0]
    assert provenance["versions"]["jax"] == jax.__version__
    assert "--task.goal-weight 2.0" in provenance["command"]
    row = rows(run)[-1]
    assert row["env_steps"] == 2 * STEPS
    # Reported reward terms add up to the reported reward.
    total = row["reward/goal"] + row["reward/effort"]
    assert total == pytest.approx(row["reward/total"], rel=1e-5)
    policy = load_policy(run)
    action = ppo.policy_mean(
        policy.cfg, policy.params, policy.normalizer, {"policy": np.zeros((3, 6), np.float32)}
    )
    assert action.shape == (3, 2) and policy.metadata["env"]["num_envs"] == 16


def test_time_limit_counts_from_process_start(tmp_path):
    run = tmp_path / "run"
    argv = [*BASE, *SMALL, "--run-dir", str(run), "--max-minutes", "0.05"]
    before = time.monotonic()
    assert train.main(argv, start=before - 2.0) == 0  # two of three seconds are already gone
    metadata = checkpoint.read_metadata(checkpoint.latest(run / "checkpoints"))
    assert metadata["elapsed_seconds"] > 2.0
    assert len(rows(run)) == 0 or rows(run)[-1]["time/elapsed_seconds"] - 3.0 < max(
        r["time/update_seconds"] for r in rows(run)
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_finishes_the_update_and_saves(tmp_path, monkeypatch, capsys, number):
    original = ProgressDisplay.update

    def signal_at_three(self, scalars, **kwargs):
        if scalars["time/env_steps"] == 3 * STEPS and not kwargs:
            os.kill(os.getpid(), number)
        original(self, scalars, **kwargs)

    monkeypatch.setattr(ProgressDisplay, "update", signal_at_three)
    before = signal.getsignal(number)
    assert start(tmp_path / "run", 6) == 128 + number
    assert signal.getsignal(number) is before
    out = capsys.readouterr().out
    assert f"stopped by {number.name}" in out and "--resume" in out
    assert checkpoint.latest(tmp_path / "run" / "checkpoints").name == "00000003"
    monkeypatch.setattr(ProgressDisplay, "update", original)
    assert resume(tmp_path / "run", 6) == 0
    assert start(tmp_path / "whole", 6) == 0
    assert arrays(tmp_path / "run") == arrays(tmp_path / "whole")


@pytest.mark.parametrize("where", ["metrics", "checkpoint"])
def test_full_disk_stops_with_an_intact_checkpoint(tmp_path, monkeypatch, capsys, where):
    from orbax.checkpoint import v1 as ocp

    calls = 0

    def full(original):
        def write(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls > 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "some file")
            return original(*args, **kwargs)

        return write

    owner, name = (MetricsLog, "append") if where == "metrics" else (ocp, "save")
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, full(original))
    assert start(tmp_path / "run", 6, "--checkpoint-seconds", "0") == 2
    error = capsys.readouterr().err.strip()
    assert "No space left on device" in error and len(error.splitlines()) == 1
    assert str(tmp_path / "run" / "checkpoints") in error  # says where the run can go on from
    monkeypatch.setattr(owner, name, original)
    assert resume(tmp_path / "run", 6) == 0
    assert start(tmp_path / "whole", 6) == 0
    assert arrays(tmp_path / "run") == arrays(tmp_path / "whole")


def test_out_of_memory_is_one_line(tmp_path, monkeypatch, capsys):
    """A device that cannot hold an update: what to change, and what was saved is kept."""
    run = tmp_path / "run"
    assert start(run, 1) == 0
    too_large = jax.jit(lambda: jax.numpy.zeros(2**46))
    monkeypatch.setattr(devices.Program, "update", lambda *_: too_large().block_until_ready())
    assert resume(run, 3) == 2
    err = capsys.readouterr().err
    assert "out of memory" in err.lower() and "--num-envs" in err and err.count("\n") == 1
    monkeypatch.undo()
    assert resume(run, 3) == 0


def test_evaluates_itself_at_the_end(tmp_path, monkeypatch):
    seen = []
    module = types.ModuleType("dexjax.evaluate")
    module.evaluate_run = lambda run, video: seen.append((run, video))
    monkeypatch.setitem(sys.modules, "dexjax.evaluate", module)
    assert start(tmp_path / "run", 1, "--evaluate") == 0
    assert start(tmp_path / "other", 1, "--evaluate", "--no-video") == 0
    assert seen == [(tmp_path / "run", True), (tmp_path / "other", False)]


def test_wandb_gets_every_update(tmp_path, monkeypatch, capsys):
    seen = []
    run = types.SimpleNamespace(
        define_metric=lambda *_, **__: None, log=seen.append, finish=lambda: seen.append("finished")
    )
    module = types.ModuleType("wandb")
    module.init = lambda **settings: run
    monkeypatch.setitem(sys.modules, "wandb", module)
    assert start(tmp_path / "run", 2, "--wandb", "grasping") == 0
    assert len(seen) == 3 and seen[-1] == "finished"
    assert seen[0]["env_steps"] < seen[1]["env_steps"] and "loss/kl" in seen[0]
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert start(tmp_path / "other", 2, "--wandb", "grasping") == 2
    assert "dexjax[wandb]" in capsys.readouterr().err


def test_resume_refuses_another_setup(tmp_path, capsys):
    run = tmp_path / "run"
    assert start(run, 1) == 0
    for option, field in [
        (["--ppo.gamma", "0.5"], "ppo.gamma"),
        (["--task.goal-weight", "3"], "task.goal_weight"),
        (["--num-envs", "32"], "train.num_envs"),
        (["--seed", "1"], "train.seed"),
        (["--preset", "other"], "preset"),
    ]:
        assert resume(run, 2, *option) == 2
        error = capsys.readouterr().err
        assert field in error and len(error.strip().splitlines()) == 1
    metadata_file = checkpoint.latest(run / "checkpoints") / "metadata.json"
    metadata = json.loads(metadata_file.read_text())
    metadata["env"]["hand"] = "other_hand"
    metadata_file.write_text(json.dumps(metadata))
    assert resume(run, 2) == 2
    assert "env.hand is 'other_hand'" in capsys.readouterr().err


def test_run_without_checkpoint_starts_over(tmp_path):
    """Killed before its first checkpoint: the same run from the beginning."""
    assert start(tmp_path / "whole", 2) == 0
    assert start(tmp_path / "run", 2) == 0
    for path in checkpoint.all_checkpoints(tmp_path / "run" / "checkpoints"):
        path.rename(path.with_name(f"tmp-{path.name}"))
    assert resume(tmp_path / "run", 2) == 0
    assert arrays(tmp_path / "run") == arrays(tmp_path / "whole")


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--env", "shadow_grsp"], "shadow_grasp"),
        (["--env", "no_module:spec"], "cannot be imported"),
        (["--env", "toy_env:PointMass"], "not an EnvSpec"),
        ([*BASE, "--preset", "quik"], "did you mean quick"),
        ([*BASE, "--num-envs", "0"], "--num-envs 0"),
        ([*BASE, "--max-minutes", "0.5", "--evaluate"], "eval-reserve"),
        ([*BASE, "--ppo.minibatches", "5"], "ppo.minibatches"),
        ([*BASE, "--best-metric", "sucess_end"], "success_end"),
        (["--resume", "nowhere"], "no such run folder"),
        (["--resume", "."], "config.json"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, argv, words):
    monkeypatch.chdir(tmp_path)
    assert train.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error
    assert len(error.strip().splitlines()) == 1


def test_existing_run_is_not_overwritten(tmp_path, capsys):
    assert start(tmp_path / "run", 1) == 0
    assert start(tmp_path / "run", 1) == 2
    assert "--resume" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["{", "[]", '{"env": 3}', '{"env": "toy_env:spec"}'])
def test_damaged_run_config(tmp_path, capsys, damage):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(damage)
    assert train.main(["--resume", str(run)]) == 2
    assert "config.json" in capsys.readouterr().err


def test_registry_refuses_duplicates(monkeypatch):
    import importlib.metadata

    entries = [
        importlib.metadata.EntryPoint("toy", "toy_env:spec", "dexjax.envs"),
        importlib.metadata.EntryPoint("toy", "toy_env:spec", "dexjax.envs"),
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: entries)
    assert "quick" in find_env("toy").presets  # one target, listed twice by two installers
    entries.append(importlib.metadata.EntryPoint("toy", "other:spec", "dexjax.envs"))
    with pytest.raises(ConfigError, match="registered twice"):
        find_env("toy")
    with pytest.raises(ConfigError, match="did you mean toy"):
        find_env("toi")


def process(*argv):
    """The real command in its own process and process group."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "dexjax.train", *argv],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_at_random_moments(tmp_path):
    """kill -9 at random moments, resume, until done: the bits of the uninterrupted run.

    Most of the time goes into checkpoints (one after every update), so kills often hit one.
    """
    updates, kills_wanted = 300, 8
    run, whole = tmp_path / "run", tmp_path / "whole"
    limit = ["--max-steps", str(updates * STEPS), "--checkpoint-seconds", "0"]
    done = process(*BASE, *SMALL, *limit, "--run-dir", str(whole))
    assert "dexjax.evaluate" in done.communicate(timeout=900)[0]

    def logged():
        file = run / "metrics.jsonl"
        return file.read_text().count("\n") if file.exists() else 0

    rng = random.Random(0)
    argv = [*BASE, *SMALL, *limit, "--run-dir", str(run)]
    lost = []
    while len(lost) < kills_wanted:
        child, before = process(*argv), logged()
        if lost:  # the first kill may come before there is anything to lose, others while learning
            while child.poll() is None and logged() <= before:
                time.sleep(0.02)
        else:
            while child.poll() is None and not (run / "config.json").exists():
                time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 1.5))
        if child.poll() is not None:
            break
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        saved = checkpoint.latest(run / "checkpoints")
        lost.append(logged() - (int(saved.name) if saved else 0))
        argv = ["--resume", str(run)]
    child = process(*argv)
    out = child.communicate(timeout=900)[0]
    assert child.returncode == 0, out
    assert len(lost) >= 4
    assert max(lost) <= 1  # a checkpoint follows every update
    assert arrays(run) == arrays(whole)
    assert [r["iteration"] for r in rows(run)] == list(range(1, updates + 1))
    print(f"{len(lost)} kills; updates lost: {lost}")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_a_process(tmp_path, number):
    run = tmp_path / "run"
    child = process(*BASE, *SMALL, "--run-dir", str(run))
    while child.poll() is None and not (run / "metrics.jsonl").exists():
        time.sleep(0.05)
    time.sleep(1)
    child.send_signal(number)
    out, _ = child.communicate(timeout=120)
    assert child.returncode == 128 + number, out
    assert out.strip().splitlines()[-2] == str(run)
    assert rows(run)[-1]["iteration"] == int(checkpoint.latest(run / "checkpoints").name)
