"""`check_env` on our environments, and on broken ones that it must refuse."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from toy_env import PointMassConfig, PointMassEnv

from dexjax.testing import check_env


def test_shadow_grasp_keeps_the_contract(make_env):
    """With a scripted base and staggered first episodes, so that these are covered too."""
    check_env(
        make_env(4, stagger=True, base_policy="scripted", residual_scale=0.3, episode_length=8)
    )


def test_point_mass_keeps_the_contract():
    check_env(PointMassEnv(num_envs=5))


class _Wrapped:
    """An environment with one fault."""

    def __init__(self, env, fault):
        self.env, self.fault = env, fault
        self.num_envs, self.action_size = env.num_envs, env.action_size
        self.observation_sizes, self.episode_length = env.observation_sizes, env.episode_length

    def reset(self, key):
        if self.fault == "key":
            return self.env.reset(jax.random.key(0))
        return self.env.reset(key)

    def step(self, state, action):
        if self.fault == "clip":
            new = self.env.step(state, action)
            return new.replace(metrics=new.metrics | {"distance": action[:, 0]})
        new = self.env.step(state, action)
        if self.fault == "terms":
            return new.replace(reward=new.reward + 0.1)
        if self.fault == "nan":
            return new.replace(reward=jnp.where(new.done, jnp.nan, new.reward))
        if self.fault == "truncated":
            return new.replace(truncated=~new.done)
        if self.fault == "no reset":
            return new.replace(obs=new.final_obs)
        if self.fault == "endless":
            return new.replace(done=new.done & False, truncated=new.truncated & False)
        if self.fault == "type":
            return new.replace(reward=new.reward.astype(jnp.float16))
        if self.fault == "return":
            return new.replace(episode=new.episode | {"return": new.reward})
        return new


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("key", "reset ignores its key"),
        ("clip", "not clipped"),
        ("terms", "do not sum"),
        ("nan", "not finite"),
        ("truncated", "truncated without done"),
        ("no reset", "no reset"),
        ("endless", "final_obs differs|did not end"),
        ("type", "changes structure|not float32"),
        ("return", "not the sum"),
    ],
)
def test_check_env_finds_faults(fault, message):
    env = PointMassEnv(PointMassConfig(episode_length=5), num_envs=3)
    with pytest.raises(AssertionError, match=message):
        check_env(_Wrapped(env, fault))
