"""Evaluation: exact numbers on a task with known outcomes, then the real environment."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dexjax import evaluate
from dexjax.core import checkpoint
from dexjax.core.errors import ConfigError, DataError
from dexjax.metrics.episodes import SUFFIX, read_episodes
from dexjax.rl import ppo
from dexjax.rl.env import EnvState
from dexjax.rl.registry import EnvSpec, Preset, TrainConfig
from dexjax.rl.trained import RunSettings, load_policy, write_settings

# --- a task whose outcome is known ---------------------------------------------------------------


@dataclass(frozen=True)
class CountingConfig:
    """Object i ends after i + 2 steps, succeeds where i is even, earns i + action per step."""

    observations: int = 3


class Counting:
    """Objects in the order of a text such as "a+b+c"; new episodes get object 0."""

    action_size = 2
    episode_length = 12

    def __init__(self, config, num_envs, objects):
        self.num_envs, self.objects = num_envs, tuple(objects.split("+"))
        self.observation_sizes = {"policy": config.observations}

    def reset(self, key, object_id=None):
        zero = jnp.zeros(self.num_envs)
        noise = jax.random.normal(key, (self.num_envs, self.observation_sizes["policy"]))
        results = ("success_any", "success_end", "success_held", "return", "length")
        ids = zero.astype(jnp.int32) if object_id is None else object_id
        return EnvState(
            obs={"policy": noise},
            final_obs={"policy": noise},
            reward=zero,
            done=zero > 0,
            truncated=zero > 0,
            terms={},
            metrics={},
            episode={k: zero for k in results} | {"object_id": ids},
            task=(jnp.zeros(self.num_envs, jnp.int32), ids),
            sim=None,
            key=key,
        )

    def step(self, state, action):
        clock, ids = state.task
        clock = clock + 1
        done = clock >= ids + 2
        reward = action.sum(-1) + ids
        total = jnp.where(clock == 1, 0.0, state.episode["return"]) + reward
        even = (ids % 2 == 0).astype(jnp.float32)
        results = {f"success_{k}": even * done for k in ("any", "end", "held")}
        return state.replace(
            reward=reward,
            done=done,
            truncated=done,
            episode=results
            | {"return": total, "length": clock.astype(jnp.float32), "object_id": ids},
            task=(jnp.where(done, 0, clock), jnp.where(done, 0, ids)),
        )


def make(config, *, num_envs, engine, objects, seed, evaluation=False):
    assert evaluation
    return Counting(config, num_envs, objects)


LEARNER = ppo.PPOConfig(actor_hidden=(8,), critic_hidden=(8,))
TRAIN = TrainConfig(num_envs=4, objects="a+b+c+d+e", best_metric="success_end")
spec = EnvSpec(
    presets={"quick": Preset(CountingConfig(), LEARNER, TRAIN)},
    make=make,
    eval_splits=("a+b+c+d+e", "f+g+h"),
)
NAME = f"{__name__}:spec"


@given(st.integers(1, 700), st.integers(1, 1500))
def test_plan_is_even_and_large_enough(objects, episodes):
    ids = evaluate.plan(objects, evaluate.batch_size(episodes), episodes)
    counts = np.bincount(ids.ravel(), minlength=objects)
    assert ids.size >= episodes and counts.min() >= 1 and np.ptp(counts) <= 1
    assert ids.shape[1] <= 512
    assert ids.size < max(episodes, objects) + ids.shape[1]  # no superfluous batch


def test_first_episode_of_each_environment_counts():
    env = Counting(CountingConfig(), 10, "a+b+c+d+e")
    ids = jnp.arange(10) % 5
    agent = evaluate.Agent("one", lambda params, state, key: jnp.full((10, 2), 0.5))
    results, positions = evaluate.run_episodes(env, agent, jax.random.key(0), ids)
    assert positions is None
    np.testing.assert_array_equal(results["object_id"], ids)
    np.testing.assert_array_equal(results["length"], ids + 2)
    np.testing.assert_array_equal(results["success_any"], ids % 2 == 0)
    np.testing.assert_allclose(results["return"], (1.0 + ids) * (ids + 2))


def test_agent_numbers_are_exact(tmp_path, capsys):
    file = tmp_path / "new" / "zero.json"
    result = evaluate.evaluate_agent("zero", NAME, episodes=600, json_file=file)
    assert json.loads(file.read_text()) == result
    assert list(result["splits"]) == list(spec.eval_splits)
    first, second = result["splits"].values()
    assert first["episodes"] == 600 and second["episodes"] == 600
    assert first["success"]["any"]["mean"] == pytest.approx(3 / 5)  # objects 0, 2, 4 of 5
    assert second["success"]["held"]["mean"] == pytest.approx(2 / 3)
    assert result["success"] == first["success"]  # the first split at the top
    assert list(first["per_object"]) == ["b", "d", "a", "c", "e"]  # failures, then by return
    assert first["per_object"]["d"]["return"]["mean"] == pytest.approx(3 * 5)
    assert {"versions", "config", "seed", "physics"} <= set(result)
    printed = capsys.readouterr().out
    assert "| a+b+c+d+e |" in printed and "0.600 [0.560, 0.638]" in printed
    assert "### a+b+c+d+e" in file.with_suffix(".md").read_text()
    assert "0.600 [0.560, 0.638]" in file.with_suffix(".html").read_text()


def test_random_agent_depends_on_the_seed_alone():
    def returns(seed, splits):
        result = evaluate.evaluate_agent("random", NAME, objects=splits, episodes=8, seed=seed)
        return result["splits"]["f+g+h"]["return"]["mean"]

    assert returns(1, ["f+g+h"]) == returns(1, ["a+b", "f+g+h"])  # whatever else is evaluated
    assert returns(1, ["f+g+h"]) != returns(2, ["f+g+h"])


# --- trained runs --------------------------------------------------------------------------------


def save_run(run_dir, train=TRAIN, scores=(0.9, 0.1)):
    """A run folder with one checkpoint per score, of differently initialised policies."""
    settings = RunSettings(NAME, "quick", CountingConfig(), LEARNER, train)
    run_dir.mkdir(parents=True, exist_ok=True)
    write_settings(run_dir, settings)
    env = Counting(CountingConfig(), 4, train.objects)
    cfg = replace(LEARNER, rollout_length=4)
    described = {
        "hand": None,
        "observation_sizes": env.observation_sizes,
        "action_size": env.action_size,
    }
    for step, score in enumerate(scores):
        state = ppo.init(jax.random.key(step), env, cfg)
        # Outputs are tiny at the start; larger ones tell the two policies apart.
        state = state.replace(params=jax.tree.map(lambda x: 3 * x + 0.1, state.params))
        checkpoint.save(
            run_dir / "checkpoints", step, state, metadata={"env": described}, score=score
        )
    return run_dir


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("runs") / "run")


def test_run_is_evaluated_with_its_mean_action(run_dir):
    result = evaluate.evaluate_run(run_dir, objects=["a+b"], episodes=2, seed=5)
    (file,) = run_dir.glob("evaluation_a_b_*.json")  # not that of the default objects
    assert json.loads(file.read_text()) == result
    file.unlink()
    # By hand: observations stay as drawn at reset, so each step adds the same action.
    policy = load_policy(run_dir)
    env = Counting(CountingConfig(), 2, "a+b")
    key = jax.random.fold_in(jax.random.key(5), evaluate.zlib.crc32(b"a+b"))
    start, _ = jax.random.split(jax.random.fold_in(key, 0))
    obs = env.reset(start, jnp.array([0, 1])).obs
    action = ppo.policy_mean(policy.cfg, policy.params, policy.normalizer, obs)
    expected = (np.asarray(action).sum(-1) + [0, 1]) * [2, 3]
    assert result["return"]["mean"] == pytest.approx(expected.mean(), rel=1e-5)


def test_same_seed_same_numbers(run_dir):
    twice = [evaluate.evaluate_run(run_dir, episodes=6) for _ in range(2)]
    for result in twice:
        for summary in result["splits"].values():
            del summary["seconds"]
        del result["seconds"]
    assert twice[0] == twice[1]


def test_default_splits_follow_the_training_objects(run_dir, tmp_path):
    own = save_run(tmp_path / "own", replace(TRAIN, objects="x+y"))
    assert list(evaluate.evaluate_run(own, episodes=2)["splits"]) == ["x+y"]
    assert list(evaluate.evaluate_run(run_dir, episodes=2)["splits"]) == list(spec.eval_splits)


def test_last_or_best_checkpoint(run_dir):
    last = evaluate.evaluate_run(run_dir, objects=["a"], episodes=1)
    best = evaluate.evaluate_run(run_dir, objects=["a"], episodes=1, checkpoint="best")
    assert last["checkpoint"]["name"] == "00000001"
    assert best["checkpoint"]["name"] == "00000000"  # score 0.9
    assert last["return"]["mean"] != best["return"]["mean"]


def test_unusable_runs_are_named(tmp_path, run_dir, capsys):
    with pytest.raises(DataError, match="no such run folder"):
        evaluate.evaluate_run(tmp_path / "nothing")
    empty = save_run(tmp_path / "empty", scores=())
    with pytest.raises(DataError, match=r"no checkpoint yet.*--resume"):
        evaluate.evaluate_run(empty)
    other = save_run(tmp_path / "other")
    wide = RunSettings(NAME, "quick", CountingConfig(observations=7), LEARNER, TRAIN)
    write_settings(other, wide)
    with pytest.raises(DataError, match=r"observation_sizes is .*3.*now has .*7"):
        evaluate.evaluate_run(other)
    with pytest.raises(ConfigError, match="--episodes 0"):
        evaluate.evaluate_run(run_dir, episodes=0)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give a run folder, or --agent"),
        (["somewhere", "--agent", "zero"], "not both"),
        (["--agent", "zero", "--env", "shadow_grap"], "shadow_grasp"),
        (["--agent", "zero", "--env", NAME, "--preset", "quik"], "quick"),
        (["--agent", "scripted", "--env", NAME], "no scripted policy"),
    ],
)
def test_command_line_errors(argv, message, capsys):
    assert evaluate.main(argv) == 2
    assert message in capsys.readouterr().err


def test_command_line_evaluates(run_dir, tmp_path, capsys):
    file = tmp_path / "copy.json"
    argv = [str(run_dir), "--objects", "a+b", "c", "--episodes", "4", "--json", str(file)]
    assert evaluate.main(argv) == 0
    assert list(json.loads(file.read_text())["splits"]) == ["a+b", "c"]
    (stored,) = run_dir.glob("evaluation_a_b_c_*.json")
    assert file.read_text() == stored.read_text()


# --- the grasp environment -----------------------------------------------------------------------


def test_unknown_objects_give_the_nearest_names():
    with pytest.raises(ConfigError, match="unseen"):
        evaluate.evaluate_agent("zero", objects=["builtin:unsen"])
    with pytest.raises(ConfigError, match="mug_001"):
        evaluate.evaluate_agent("zero", objects=["builtin:seen:mug_01"])


def test_scripted_grasps_of_two_objects(tmp_path):
    """The script lifts most mugs and boxes; doing nothing lifts none."""
    objects = ["builtin:seen:mug_000,box_000"]
    file = tmp_path / "scripted.json"
    result = evaluate.evaluate_agent("scripted", objects=objects, episodes=8, json_file=file)
    assert set(result["success"]) == {"any", "end", "held"}
    assert set(result["per_object"]) == {"mug_000", "box_000"}
    assert result["length"]["mean"] == 90  # nothing diverged: all episodes ran to the time limit
    assert result["lifted"]["mean"] >= 0.5
    assert result["physics"]["cone"] == "elliptic" and result["physics"]["impratio"] == 10
    assert file.with_suffix(".png").stat().st_size > 10_000
    assert file.with_suffix(".mp4").stat().st_size > 10_000
    assert "<img" in file.with_suffix(".html").read_text()
    recorded = read_episodes(file.with_suffix(SUFFIX))
    assert {e.object.name for e in recorded} == {"mug_000", "box_000"}
    grasp = next(e for e in recorded if e.outcome["lifted"])
    assert grasp.qpos[-1, -5] > grasp.qpos[0, -5] + 0.05  # height of the object
    # Success so far: what was at some step stays, and the last row is the episode's.
    for e in recorded:
        assert (np.diff(e.success["success_any"]) >= 0).all()
        assert all(bool(v[-1]) == e.outcome[k] for k, v in e.success.items())
    # It touches the object before it lifts it, and the fingers feel it.
    assert (grasp.contact_finger > -2).any() and np.abs(grasp.finger_force).max() > 0.1
    assert sum(result["endings"].values()) == 8

    file = tmp_path / "idle.json"
    idle = evaluate.evaluate_agent("zero", objects=objects, episodes=2, json_file=file, video=False)
    assert idle["lifted"]["mean"] == idle["success"]["any"]["mean"] == 0
    assert not file.with_suffix(".mp4").exists()
    assert "<img" not in file.with_suffix(".html").read_text()
    for episode in read_episodes(file.with_suffix(SUFFIX)):
        # The terms of all steps add up to the episode's return; sums of 90 float32 rows.
        total = sum(float(v.sum()) for v in episode.terms.values())
        expected = idle["per_object"][episode.object.name]["return"]["mean"]
        assert total == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert episode.ending == "missed" and len(episode.qpos) == 90


def test_other_evaluations_of_a_run_have_files_of_their_own():
    """PhysX as engine and the preset of that name are two; none of them is the run's own."""
    asked = itertools.product((None, ["a"], ["a", "b"]), (None, "physx"), (None, "physx", "fast"))
    names = [evaluate._stem(*one) for one in asked]
    assert len(set(names)) == len(names) == 18 and names[0] == "evaluation"
    assert "evaluation_engine_physx" in names and "evaluation_physics_physx" in names
