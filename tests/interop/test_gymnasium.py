"""The gymnasium adapter, judged by gymnasium's own checks and wrappers."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra: pip install 'dexjax[gym]'")

from gymnasium.utils import env_checker, passive_env_checker  # noqa: E402

from dexjax.core.errors import ConfigError  # noqa: E402
from dexjax.interop.gymnasium import GymnasiumEnv  # noqa: E402
from tests.rl.toy_env import PointMassConfig, PointMassEnv  # noqa: E402

LENGTH, NUM = 12, 8


@pytest.fixture(scope="module")
def envs():
    toy = PointMassEnv(PointMassConfig(episode_length=LENGTH), num_envs=NUM)
    return GymnasiumEnv(toy, obs=("policy", "privileged"))


@pytest.mark.filterwarnings("ignore:.*infinity.*")  # observations are not bounded
def test_gymnasiums_checks_that_hold_for_batches(envs):
    """`check_env` itself takes single environments only; these are its parts."""
    passive_env_checker.check_observation_space(envs.observation_space)
    passive_env_checker.check_action_space(envs.action_space)
    env_checker.check_seed_deprecation(envs)
    env_checker.check_reset_return_info_deprecation(envs)
    env_checker.check_reset_return_type(envs)
    env_checker.check_reset_seed_determinism(envs)
    env_checker.check_reset_options(envs)
    one = PointMassEnv(PointMassConfig(episode_length=LENGTH), num_envs=1)
    env_checker.check_returned_data_not_reused(GymnasiumEnv(one))  # asks `if terminated`
    assert envs.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.SAME_STEP


def test_steps_equal_the_environment_and_final_obs_is_before_the_reset(envs):
    obs, infos = envs.reset(seed=3)
    assert infos == {} and obs in envs.observation_space
    envs.action_space.seed(0)
    ended, total = np.zeros(NUM, bool), np.zeros(NUM)
    for _ in range(LENGTH):
        action = envs.action_space.sample()
        before = obs.copy()
        obs, reward, terminated, truncated, infos = envs.step(action)
        assert obs in envs.observation_space
        assert reward.shape == terminated.shape == truncated.shape == (NUM,)
        assert terminated.dtype == truncated.dtype == bool and not terminated.any()
        total += np.where(ended, 0, reward)
        # The point mass, restated: v += 0.1 a, x += 0.1 v.
        velocity = before[:, 2:4] + 0.1 * action
        expected = before[:, :2] + 0.1 * velocity
        last = infos["final_obs"] if truncated.any() else obs
        np.testing.assert_allclose(last[:, :2], expected, atol=1e-6)
        if truncated.any():
            np.testing.assert_array_equal(infos["_final_obs"], truncated)
            np.testing.assert_array_equal(obs[truncated, 2:4], 0)  # fresh episodes are at rest
            episode = infos["final_info"]["episode"]
            new = truncated & ~ended
            np.testing.assert_allclose(episode["r"][new], total[new], rtol=1e-4)
        ended |= truncated
    assert ended.all()
    envs.reset()
    other, _ = envs.reset()
    assert not np.array_equal(other, envs.reset()[0]), "resets without a seed must differ"


def test_gymnasiums_wrappers_and_registry(envs):
    recorded = gymnasium.wrappers.vector.ClipReward(envs, -1.0, 1.0)
    recorded = gymnasium.wrappers.vector.DictInfoToList(recorded)
    recorded.reset(seed=0)
    for _ in range(LENGTH):
        _, reward, _, truncated, infos = recorded.step(envs.action_space.sample())
        assert (np.abs(reward) <= 1).all()
        for i in np.flatnonzero(truncated):
            assert infos[i]["final_obs"].shape == (8,)
    assert "dexjax/shadow_grasp-v0" in gymnasium.registry


def test_jax_output_through_gymnasiums_converter(envs):
    pytest.importorskip("array_api_compat", reason="gymnasium's converters need it")
    plain = GymnasiumEnv(envs.env, output="jax")
    assert isinstance(plain.reset(seed=1)[0], jnp.ndarray)
    converted = gymnasium.wrappers.vector.JaxToNumpy(plain)
    converted.reset(seed=1)
    obs, *_ = converted.step(converted.action_space.sample())
    assert isinstance(obs, np.ndarray)


def test_torch_output_shares_memory():
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    toy = PointMassEnv(PointMassConfig(episode_length=LENGTH), num_envs=NUM)
    envs = GymnasiumEnv(toy, output="torch")
    envs.reset(seed=0)
    obs, reward, terminated, truncated, _ = envs.step(torch.zeros(NUM, 2, requires_grad=True))
    assert obs.shape == (NUM, 6) and reward.dtype == torch.float32
    assert truncated.dtype == terminated.dtype == torch.bool
    source = jnp.arange(8.0)
    assert envs._convert(source).data_ptr() == source.unsafe_buffer_pointer()


def test_misuse(envs):
    with pytest.raises(ConfigError, match="did you mean|known"):
        GymnasiumEnv(envs.env, output="tensorflow")
    with pytest.raises(ConfigError, match="reset_mask"):
        envs.reset(options={"reset_mask": np.ones(NUM, bool)})
    with pytest.raises(ConfigError, match="before reset"):
        GymnasiumEnv(envs.env).step(np.zeros((NUM, 2)))
