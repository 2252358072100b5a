"""Several devices, processes and seeds give what one of each gives."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_env import PointMassEnv

from dexjax import train
from dexjax.core import checkpoint
from dexjax.core.errors import ConfigError
from dexjax.evaluate import evaluate_run
from dexjax.rl import devices, ppo
from dexjax.rl.trained import load_policy, read_settings

HERE = Path(__file__).parent
STEPS = 16 * 16
BASE = ["--env", "toy_env:spec", "--num-envs", "16", "--max-minutes", "None", "--no-evaluate"]
BASE += ["--ppo.actor-hidden", "16", "16", "--ppo.critic-hidden", "16", "16"]
BASE += ["--no-compile-cache"]
CFG = ppo.PPOConfig(actor_hidden=(16,), critic_hidden=(16,), rollout_length=8, minibatches=2)


def environment(**more):
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu", **more}


def arrays(run_dir):
    """The newest checkpoint's arrays by name, on this process's one device."""
    path = checkpoint.latest(run_dir / "checkpoints")
    _, settings = read_settings(run_dir)
    env = PointMassEnv(settings.task, settings.train.num_envs)
    like = devices.Program(env, settings.ppo, settings.train.seed, settings.train.num_seeds).like()
    return path.name, {
        jax.tree_util.keystr(p): np.asarray(
            jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        )
        for p, x in jax.tree_util.tree_leaves_with_path(checkpoint.restore(path, like))
    }


def test_eight_devices_equal_one():
    """Environments on eight devices, parameters on all: the single-device run within 1e-5.

    float32 sums over eight parts round differently, about 1e-7 per update.
    """
    done = subprocess.run(
        [sys.executable, str(HERE / "eight_devices.py")],
        env=environment(XLA_FLAGS="--xla_force_host_platform_device_count=8"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["difference"] < 1e-5
    assert found["arrays"] > 40
    assert found["obs_devices"] == 8 and found["obs_rows"] == [4] * 8
    assert found["params_replicated"]


@pytest.mark.slow
def test_eight_devices_equal_one_on_mjx():
    """The same with shadow_grasp on the `mjx` engine: parameters and the state of the world."""
    done = subprocess.run(
        [sys.executable, str(HERE / "eight_devices.py"), "mjx"],
        env=environment(XLA_FLAGS="--xla_force_host_platform_device_count=8"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    worst = max(found["params"], found["sim"]["qpos"], found["sim"]["qvel"])
    assert worst < 1e-5, found
    assert found["obs_devices"] == 8 and found["params_replicated"]


def test_seeds_equal_single_runs():
    """Seed i of a run with three is the run with that seed, up to batched products' rounding."""
    env = PointMassEnv(num_envs=16)
    many, states = devices.Program(env, CFG, 4, 3), {}
    states["many"] = many.init()
    singles = [devices.Program(env, CFG, 4 + i) for i in range(3)]
    each = [p.init() for p in singles]
    for _ in range(3):
        states["many"], metrics = many.update(states["many"], 0.0)
        each = [p.update(s, 0.0)[0] for p, s in zip(singles, each, strict=True)]
    assert metrics["loss/kl"].shape == (3,)
    for i, alone in enumerate(each):
        mine = jax.tree.map(lambda x, i=i: x[i], states["many"])
        np.testing.assert_array_equal(jax.random.key_data(mine.key), jax.random.key_data(alone.key))
        for a, b in zip(
            jax.tree.leaves((mine.params, mine.env_state.sim)),
            jax.tree.leaves((alone.params, alone.env_state.sim)),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, atol=1e-5)
    a, b = (np.asarray(s.params["actor"]["params"]["Dense_0"]["kernel"]) for s in each[:2])
    assert np.abs(a - b).max() > 0.01  # different seeds are different runs


def test_seeds_from_the_command_line(tmp_path):
    run = tmp_path / "run"
    argv = [*BASE, "--num-seeds", "3", "--seed", "7", "--run-dir", str(run)]
    assert train.main([*argv, "--max-steps", str(2 * 3 * STEPS)]) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and rows[-1]["env_steps"] == 2 * 3 * STEPS
    assert train.main(["--resume", str(run), "--max-steps", str(4 * 3 * STEPS),
                       "--no-compile-cache"]) == 0  # fmt: skip
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    each = [row[f"seed{i}/episode/success_any"] for i in range(3)]
    assert row["episode/success_any"] == pytest.approx(np.mean(each))
    half = 4.302652729911275 * np.std(each, ddof=1) / np.sqrt(3)  # Student's t, 2 degrees, 97.5 %
    assert row["interval/episode/success_any"] == pytest.approx(half, abs=1e-9)
    name, saved = arrays(run)
    assert name == "00000004"
    obs = {"policy": np.ones((2, 6), np.float32)}
    for i in range(3):
        p = load_policy(run, seed_index=i)
        np.testing.assert_array_equal(p.params["log_std"], saved[".params['log_std']"][i])
        assert ppo.policy_mean(p.cfg, p.params, p.normalizer, obs).shape == (2, 2)
    with pytest.raises(ConfigError, match="3 seeds"):
        load_policy(run, seed_index=3)
    evaluated = evaluate_run(run, episodes=16)
    seeds = evaluated["seeds"]["any"]
    assert evaluated["episodes"] == 48 and len(seeds["each"]) == 3
    assert evaluated["success"]["any"]["mean"] == pytest.approx(seeds["mean"])
    assert "mean over seeds" in (run / "evaluation.md").read_text()
    low, high = seeds["ci95"]
    t = 4.302652729911275 * np.std(seeds["each"], ddof=1) / np.sqrt(3)
    assert (low, high) == pytest.approx((seeds["mean"] - t, seeds["mean"] + t), abs=1e-9)
    stages = json.loads((run / "stages.json").read_text())["starts"]
    assert len(stages) == 2
    assert stages[0]["compile"] > 0 and stages[0]["trace"] > 0
    parts = ("import", "build", "trace", "lower", "compile", "first_update")
    # The first save (a checkpoint before the first update) is part of `first_update`.
    assert sum(stages[0][k] for k in parts) == pytest.approx(stages[0]["to_first_update"], rel=0.2)


class HostEnv(PointMassEnv):
    """Leaves XLA in every reset, inside a conditional, as an engine on the host does."""

    def reset(self, key):
        state = super().reset(key)

        def ask(x):
            shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
            return jax.pure_callback(lambda v: v, shape, x)

        return state.replace(reward=jax.lax.cond(state.done.any(), ask, lambda x: x, state.reward))


def test_devices_are_checked(monkeypatch):
    env = PointMassEnv(num_envs=6)
    assert devices.uses_host_callbacks(HostEnv(num_envs=4))
    assert not devices.uses_host_callbacks(env)
    assert devices.device_mesh(env, 1) is None
    with pytest.raises(ConfigError, match="--devices 9999"):
        devices.device_mesh(env, 9999)
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    with pytest.raises(ConfigError, match="cannot be divided among 4"):
        devices.device_mesh(env, None)
    assert devices.device_mesh(HostEnv(num_envs=4), None) is None  # one of four by default
    with pytest.raises(ConfigError, match="simulates on the host"):
        devices.device_mesh(HostEnv(num_envs=4), 4)


def test_decisions_of_one_process_are_its_own():
    assert devices.agree(0.25, 1.0) == (0.25, 1.0)
    # What several processes exchange keeps all bits: float64 travels as pairs of uint32.
    value = np.asarray([1 / 3, 15.0])
    sent = jnp.asarray(value.view(np.uint32))
    np.testing.assert_array_equal(np.asarray(sent).view(np.float64), value)


@pytest.mark.slow
def test_mjx_in_two_processes_equals_one(tmp_path):
    """shadow_grasp on `mjx`: the metrics of an update of two processes are those of one."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    base = [sys.executable, "-m", "dexjax.train", "--env", "shadow_grasp", "--engine", "mjx",
            "--num-envs", "16", "--ppo.rollout-length", "8", "--max-steps", "128",
            "--max-minutes", "None", "--no-evaluate", "--no-compile-cache"]  # fmt: skip
    joined = ["--coordinator", f"localhost:{port}", "--num-processes", "2"]
    runs = [[*joined, "--process-id", str(i), "--run-dir", str(tmp_path / "two")] for i in (0, 1)]
    runs.append(["--run-dir", str(tmp_path / "one")])
    children = [
        subprocess.Popen(
            [*base, *more], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for more in runs
    ]
    out = [c.communicate(timeout=280)[0] for c in children]
    assert [c.returncode for c in children] == [0, 0, 0], out
    one, two = (
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])
        for name in ("one", "two")
    )
    compared = [k for k in one if k.startswith(("reward", "loss/", "policy/"))]
    assert len(compared) > 8
    for k in compared:  # float32 sums over two parts round differently
        assert two[k] == pytest.approx(one[k], rel=1e-4, abs=1e-5), k


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    """Two processes on loopback train and checkpoint together; then one goes on alone."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]

    def process(index):
        return subprocess.Popen(
            [sys.executable, "-m", "dexjax.train", *BASE, "--run-dir", str(tmp_path / "two"),
             "--max-steps", str(4 * STEPS), "--checkpoint-seconds", "0",
             "--coordinator", f"localhost:{port}", "--num-processes", "2",
             "--process-id", str(index)],
            env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    children = [process(0), process(1)]
    out = [c.communicate(timeout=250)[0] for c in children]
    assert [c.returncode for c in children] == [0, 0], out
    assert "2 of 2 devices, 2 processes" in out[0]
    assert "reward" not in out[1]  # one of them talks
    rows = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(r)["iteration"] for r in rows] == [1, 2, 3, 4]
    limit = ["--max-steps", str(4 * STEPS), "--run-dir", str(tmp_path / "one")]
    assert train.main([*BASE, *limit]) == 0

    def compare():
        (name, one), (other, two) = arrays(tmp_path / "one"), arrays(tmp_path / "two")
        assert name == other and one.keys() == two.keys()
        for k in one:  # float32 sums over two parts round differently
            np.testing.assert_allclose(one[k], two[k], rtol=1e-5, atol=1e-5, err_msg=k)

    compare()
    for name in ("one", "two"):  # the number of processes is no part of a run
        more = ["--resume", str(tmp_path / name), "--max-steps", str(6 * STEPS)]
        assert train.main([*more, "--no-compile-cache"]) == 0
    compare()
