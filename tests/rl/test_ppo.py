"""PPO against brax, plain NumPy and a task with a known answer."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.training import types as brax_types
from brax.training.agents.ppo import losses as brax_losses
from brax.training.agents.ppo import networks as brax_networks
from brax.training.distribution import NormalDistribution
from brax.training.networks import FeedForwardNetwork
from toy_env import PointMassConfig, PointMassEnv

from dexjax.core.errors import ConfigError
from dexjax.rl import ppo
from dexjax.rl.networks import elu, gaussian_entropy, gaussian_kl, gaussian_log_prob

# Whole programs: dispatching them operation by operation costs far more than their compilation.
rollout_of = jax.jit(ppo._rollout, static_argnums=(0, 1))
make_batch = jax.jit(ppo._make_batch, static_argnums=0)
learn = jax.jit(ppo._learn, static_argnums=0)
loss_grad = jax.jit(jax.grad(ppo.ppo_loss, argnums=1, has_aux=True), static_argnums=0)

SMALL = ppo.PPOConfig(actor_hidden=(32, 32), critic_hidden=(32, 32), reward_scale=0.2)


def numpy_gae(reward, done, value, next_value, gamma, lam):
    """Generalised advantages as the plain double sum over future deltas of the same episode."""
    steps = len(reward)
    delta = reward + gamma * next_value - value
    advantage = np.zeros_like(reward)
    for t in range(steps):
        alive, factor = np.ones_like(reward[0]), 1.0
        for k in range(t, steps):
            advantage[t] += factor * alive * delta[k]
            alive = alive * (1 - done[k])
            factor *= gamma * lam
    return advantage


def random_rollout(seed, steps=13, envs=7, done_rate=0.2):
    rng = np.random.default_rng(seed)
    reward, value = rng.normal(size=(2, steps, envs)).astype(np.float32)
    done = (rng.random((steps, envs)) < done_rate).astype(np.float32)
    last = rng.normal(size=envs).astype(np.float32)
    return reward, done, value, last


def test_gae_equals_double_sum():
    reward, done, value, _ = random_rollout(0)
    next_value = np.random.default_rng(1).normal(size=reward.shape).astype(np.float32)
    advantage, target = ppo.compute_gae(reward, done, value, next_value, 0.97, 0.9)
    expected = numpy_gae(reward, done, value, next_value, 0.97, 0.9)
    np.testing.assert_allclose(advantage, expected, atol=1e-5)  # float32 sums of 13 terms
    np.testing.assert_allclose(target, expected + value, atol=1e-5)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.9, 1.0])
def test_gae_equals_brax(gae_lambda):
    reward, done, value, last = random_rollout(2)
    next_value = np.concatenate([value[1:], last[None]]) * (1 - done)
    advantage, target = ppo.compute_gae(reward, done, value, next_value, 0.97, gae_lambda)
    brax_target, _ = brax_losses.compute_gae(
        truncation=jnp.zeros_like(done),
        termination=done,
        rewards=reward,
        values=value,
        bootstrap_value=last,
        lambda_=gae_lambda,
        discount=0.97,
    )
    # Brax's second output is delta + gamma A[t+1] without lambda; its targets hold the usual A.
    np.testing.assert_allclose(target, brax_target, atol=1e-5)
    np.testing.assert_allclose(advantage, brax_target - value, atol=1e-5)


@pytest.mark.parametrize("value_clip", [None, 0.1])
def test_loss_and_gradient_equal_brax(value_clip):
    steps, envs, actions = 6, 5, 3
    cfg = dataclasses.replace(
        SMALL,
        gae_lambda=1.0,  # where brax's advantages (see above) are the usual ones
        gamma=0.95,
        reward_scale=1.0,
        bound_coef=0.0,
        entropy_coef=0.01,
        value_coef=0.35,
        value_clip=value_clip,
        init_std=0.5,
    )
    keys = iter(jax.random.split(jax.random.key(3), 8))
    old, _ = ppo.init_policy(next(keys), {"policy": 4}, actions, cfg)
    new = jax.tree.map(  # far enough from `old` that ratios and values are clipped
        lambda x, k: x + 0.15 * jax.random.normal(k, x.shape),
        old,
        jax.tree.unflatten(
            jax.tree.structure(old), list(jax.random.split(next(keys), len(jax.tree.leaves(old))))
        ),
    )
    obs = jax.random.normal(next(keys), (steps + 1, envs, 4))
    reward = jax.random.normal(next(keys), (steps, envs))
    done = (jax.random.uniform(next(keys), (steps, envs)) < 0.2).astype(jnp.float32)
    mean, value = actor(cfg, old, obs[:-1]), critic(cfg, old, obs)
    action = mean + jnp.exp(old["log_std"]) * jax.random.normal(next(keys), mean.shape)
    log_prob = gaussian_log_prob(action, mean, old["log_std"])

    # Brax recomputes values with the current parameters; give ours the same advantages.
    now = critic(cfg, new, obs)
    advantage, target = ppo.compute_gae(
        reward, done, now[:-1], now[1:] * (1 - done), cfg.gamma, cfg.gae_lambda
    )
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    batch = ppo.Batch(
        actor_obs=obs[:-1],
        critic_obs=obs[:-1],
        action=action,
        mean=mean,
        log_prob=log_prob,
        value=value[:-1],
        advantage=advantage,
        target=target,
        weight=jnp.ones((steps, envs)),
    )

    def ours(params):
        return ppo.ppo_loss(cfg, params, batch, old["log_std"])

    (loss, info), grads = jax.jit(jax.value_and_grad(ours, has_aux=True))(new)

    network = brax_networks.PPONetworks(
        policy_network=FeedForwardNetwork(
            init=None,
            apply=lambda _, p, x: (
                actor(cfg, p, x),
                jnp.broadcast_to(jnp.exp(p["log_std"]), (*x.shape[:-1], actions)),
            ),
        ),
        value_network=FeedForwardNetwork(init=None, apply=lambda _, p, x: critic(cfg, p, x)),
        parametric_action_distribution=NormalDistribution(actions),
    )
    scale = jnp.broadcast_to(jnp.exp(old["log_std"]), mean.shape)

    def batch_first(x):
        return jnp.swapaxes(x, 0, 1)

    data = brax_types.Transition(
        observation=batch_first(obs[:-1]),
        action=batch_first(action),
        reward=batch_first(reward),
        discount=batch_first(1 - done),
        next_observation=batch_first(obs[1:]),
        extras={
            "state_extras": {"truncation": jnp.zeros((envs, steps))},
            "policy_extras": {
                "raw_action": batch_first(action),
                "log_prob": batch_first(log_prob),
                "value": batch_first(value[:-1]),
                "distribution_params": (batch_first(mean), batch_first(scale)),
            },
        },
    )

    def brax(policy, critic_params):
        return brax_losses.compute_ppo_loss(
            brax_losses.PPONetworkParams(policy=policy, value=critic_params),
            None,
            data,
            jax.random.key(0),
            network,
            entropy_cost=cfg.entropy_coef,
            discounting=cfg.gamma,
            gae_lambda=cfg.gae_lambda,
            clipping_epsilon=cfg.clip,
            vf_coefficient=2 * cfg.value_coef,  # brax halves the squared error
            clipping_epsilon_value=value_clip,
        )

    (brax_loss, brax_info), (brax_policy, brax_critic) = jax.jit(
        jax.value_and_grad(brax, argnums=(0, 1), has_aux=True)
    )(new, new)
    assert info["clip_fraction"] > 0.1  # the comparison reaches the clipped branch
    np.testing.assert_allclose(loss, brax_loss, rtol=1e-5)
    np.testing.assert_allclose(info["policy"], brax_info["policy_loss"], atol=1e-5)
    np.testing.assert_allclose(cfg.value_coef * info["value"], brax_info["v_loss"], rtol=1e-5)
    # Brax adds 1e-5 inside its logarithm, once per action dimension.
    np.testing.assert_allclose(info["kl"], brax_info["kl_mean"], atol=1e-5 + actions * 1e-5)
    close = {"atol": 1e-5, "rtol": 1e-4}  # float32 gradients, other order of summation
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **close), grads["actor"], brax_policy["actor"]
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **close),
        grads["critic"],
        brax_critic["critic"],
    )
    np.testing.assert_allclose(grads["log_std"], brax_policy["log_std"], **close)


def actor(cfg, params, obs):
    return ppo._actor(cfg, params["log_std"].shape[0]).apply(params["actor"], obs)


def critic(cfg, params, obs):
    return ppo._critic(cfg).apply(params["critic"], obs)[..., 0]


def test_gaussian_against_scipy_and_sampling():
    from scipy.stats import multivariate_normal

    rng = np.random.default_rng(0)
    x, mean, old_mean = rng.normal(size=(3, 4))
    log_std, old_log_std = rng.normal(size=(2, 4)) * 0.3
    normal = multivariate_normal(mean, np.diag(np.exp(2 * log_std)))
    old = multivariate_normal(old_mean, np.diag(np.exp(2 * old_log_std)))
    assert gaussian_log_prob(x, mean, log_std) == pytest.approx(normal.logpdf(x), rel=1e-5)
    assert gaussian_entropy(log_std) == pytest.approx(normal.entropy(), rel=1e-5)
    samples = old.rvs(200_000, random_state=1)
    values = old.logpdf(samples) - normal.logpdf(samples)
    error = 4 * values.std() / math.sqrt(len(values))  # four standard errors of the estimate
    assert gaussian_kl(old_mean, old_log_std, mean, log_std) == pytest.approx(
        values.mean(), abs=error
    )


def test_elu_equals_jax():
    x = jnp.linspace(-20, 5, 1001)
    np.testing.assert_allclose(elu(x), jax.nn.elu(x), atol=1.2e-7)  # rounding of exp(x) - 1
    grad = jax.vmap(jax.grad(elu))(x[x != 0])
    np.testing.assert_allclose(grad, np.exp(np.minimum(x[x != 0], 0)), rtol=1e-6)


def test_rollout_batch_equals_a_plain_loop():
    """Targets of one update = a Python loop that keeps every final observation."""
    env = PointMassEnv(PointMassConfig(episode_length=20), num_envs=16)
    cfg = dataclasses.replace(
        SMALL, rollout_length=16, normalize_obs=False, critic_obs=("policy", "privileged")
    )
    state = ppo.init(jax.random.key(0), env, cfg)
    env_state, rollout, _ = rollout_of(env, cfg, state, jax.random.key(1))
    batch = make_batch(cfg, state, env_state, rollout)

    def value_of(obs):
        x = jnp.concatenate([obs["policy"], obs["privileged"]], -1)
        return np.asarray(critic(cfg, state.params, jnp.clip(x, -5, 5)))

    current, value, next_value, reward, done = state.env_state, [], [], [], []
    for t in range(cfg.rollout_length):
        value.append(value_of(current.obs))
        current = env.step(current, rollout["action"][t])
        next_value.append(value_of(current.final_obs))  # equals obs where the episode goes on
        reward.append(np.asarray(current.reward) * cfg.reward_scale)
        done.append(np.asarray(current.done, np.float32))
    value, next_value, reward, done = map(np.stack, (value, next_value, reward, done))
    assert 5 < done.sum() < 16  # some episodes end inside the rollout, some do not
    expected = numpy_gae(reward, done, value, next_value, cfg.gamma, cfg.gae_lambda)
    # float32 through two differently compiled programs
    np.testing.assert_allclose(batch.target, expected + value, atol=1e-4)
    normalised = (expected - expected.mean()) / expected.std()
    np.testing.assert_allclose(batch.advantage, normalised, atol=1e-3)

    without = make_batch(
        dataclasses.replace(cfg, timeout_bootstrap=False), state, env_state, rollout
    )
    expected = numpy_gae(reward, done, value, next_value * (1 - done), cfg.gamma, cfg.gae_lambda)
    np.testing.assert_allclose(without.target, expected + value, atol=1e-4)
    assert np.abs(without.target - batch.target).max() > 0.01


@dataclasses.dataclass(frozen=True)
class PoisonedEnv(PointMassEnv):
    """Environment 0 always reports NaN, environment 1 says that it was repaired."""

    poison: float = math.nan

    def step(self, state, action):
        after = super().step(state, action)
        first = jnp.arange(self.num_envs) == 0
        second = jnp.arange(self.num_envs) == 1
        bad = jnp.float32(self.poison)
        return after.replace(
            obs={k: jnp.where(first[:, None], bad, v) for k, v in after.obs.items()},
            reward=jnp.where(first, bad, jnp.where(second, 1e6, after.reward)),
            metrics={**after.metrics, "finite": 1.0 - second},
        )


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_diverged_environments_do_not_reach_the_gradient(poison):
    cfg = dataclasses.replace(SMALL, shuffle=False)
    env = PoisonedEnv(num_envs=32, poison=poison)
    state = ppo.init(jax.random.key(0), env, cfg)
    env_state, rollout, _ = rollout_of(env, cfg, state, jax.random.key(1))
    batch = make_batch(cfg, state, env_state, rollout)
    weight = np.asarray(rollout["weight"])
    # Environment 0: every reward is poisoned. Environment 1: flagged. All others are kept.
    assert (weight[:, :2] == 0).all() and (weight[:, 2:] == 1).all()
    grads, _ = loss_grad(cfg, state.params, batch, state.params["log_std"])
    clean = jax.tree.map(lambda x: x[:, 2:], batch)
    expected, _ = loss_grad(cfg, state.params, clean, state.params["log_std"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grads, expected)

    state, metrics = ppo.update(env, cfg, state)
    assert metrics["guard/nonfinite_samples"] == 2 * cfg.rollout_length
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state.params, state.normalizer)))


class ExplodingEnv(PointMassEnv):
    def step(self, state, action):
        after = super().step(state, action)
        return after.replace(reward=after.reward * 1e30)  # finite, but its square is not


def test_nonfinite_gradient_is_skipped():
    env = ExplodingEnv(num_envs=32)
    state = ppo.init(jax.random.key(0), env, SMALL)
    after, _ = ppo.update(env, SMALL, state)
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
    assert after.skipped_updates == SMALL.epochs * SMALL.minibatches


def test_solves_point_mass():
    """A proportional-derivative law is the yardstick; the mean policy must come close to it."""
    env = PointMassEnv(num_envs=256)
    cfg = dataclasses.replace(
        SMALL, actor_hidden=(64, 64), critic_hidden=(64, 64), critic_obs=("policy", "privileged")
    )
    state = ppo.init(jax.random.key(0), env, cfg)
    for _ in range(250):
        state, metrics = ppo.update(env, cfg, state)

    def episode_return(law):
        current = env.reset(jax.random.key(7)).replace(task=jnp.zeros(env.num_envs, jnp.int32))
        step = jax.jit(lambda s: env.step(s, law(s)))
        for _ in range(env.episode_length):
            current = step(current)
        return float(current.episode["return"].mean()), float(current.episode["success_end"].mean())

    def reference(s):
        return 4 * (s.sim.goal - s.sim.pos) - 3 * s.sim.vel

    def learned(s):
        return ppo.policy_mean(cfg, state.params, state.normalizer, s.obs)

    best, best_success = episode_return(reference)
    untrained, _ = episode_return(lambda s: jnp.zeros((env.num_envs, 2)))
    reached, success = episode_return(learned)
    assert best_success == 1.0
    assert success > 0.97
    assert reached > best - 0.1 * (best - untrained)  # nine tenths of the way from idle to PD
    assert metrics["guard/skipped_updates"] == 0


def test_update_is_deterministic_and_compiled_once():
    env = PointMassEnv(num_envs=16)
    state = ppo.init(jax.random.key(0), env, SMALL)
    ppo.update.clear_cache()
    runs = []
    for _ in range(2):
        s = state
        for _ in range(3):
            s, _ = ppo.update(env, SMALL, s)
        runs.append(s)
    assert ppo.update._cache_size() == 1
    jax.tree.map(np.testing.assert_array_equal, runs[0].params, runs[1].params)


class WeakEnv(PointMassEnv):
    def step(self, state, action):
        after = super().step(state, action)
        weak = jnp.where(after.done, 1.0, 0.0)  # of a weak type, which reset's zeros are not
        assert weak.weak_type
        return after.replace(terms={**after.terms, "effort": weak})


def test_state_has_one_type_for_good():
    """Shapes, types and weak types of the state stay, or every run would be compiled twice."""
    env = WeakEnv(num_envs=16)
    before = jax.eval_shape(lambda: ppo.init(jax.random.key(0), env, SMALL))
    after, _ = jax.eval_shape(lambda s: ppo.update(env, SMALL, s), before)

    def types(state):
        return [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(state)]

    assert types(before) == types(after)


def test_vmap_over_seeds():
    env = PointMassEnv(num_envs=16)
    keys = jax.random.split(jax.random.key(0), 3)
    states = jax.vmap(lambda k: ppo.init(k, env, SMALL))(keys)
    states, _ = jax.vmap(lambda s: ppo.update(env, SMALL, s))(states)
    alone, _ = ppo.update(env, SMALL, ppo.init(keys[1], env, SMALL))
    one = jax.tree.map(lambda x: x[1], states.params)
    # batched and single matrix products round differently
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), one, alone.params)


@pytest.mark.parametrize(
    "schedule, target, bound",
    [
        ("minibatch", 1e-9, "lr_min"),
        ("minibatch", 1e3, "lr_max"),
        ("iteration", 1e-9, "lr_min"),
        ("constant", 1e3, "learning_rate"),
    ],
)
def test_learning_rate_follows_kl(schedule, target, bound):
    cfg = dataclasses.replace(SMALL, epochs=1, lr_schedule=schedule, kl_target=target)
    env = PointMassEnv(num_envs=32)
    state = ppo.init(jax.random.key(0), env, cfg)
    for _ in range(12):
        state, _ = ppo.update(env, cfg, state)
    assert state.learning_rate == pytest.approx(getattr(cfg, bound))


def test_annealing_by_progress():
    cfg = dataclasses.replace(
        SMALL, init_std=0.6, std_max_final=0.2, lr_max_final=1e-4, kl_target=1e3
    )
    env = PointMassEnv(num_envs=32)
    state = ppo.init(jax.random.key(0), env, cfg)
    early, _ = ppo.update(env, cfg, state, 0.0)
    late, _ = ppo.update(env, cfg, state, 1.0)
    half, _ = ppo.update(env, cfg, state, 0.5)
    assert np.exp(early.params["log_std"]).min() > 0.5
    np.testing.assert_allclose(np.exp(late.params["log_std"]), 0.2, rtol=0.05)
    assert np.exp(half.params["log_std"]).max() <= 0.6 + 1e-6
    assert early.learning_rate == pytest.approx(1e-3)
    assert late.learning_rate == pytest.approx(1e-4)


def test_average_actor():
    env = PointMassEnv(num_envs=8)
    runs = {}
    for decay in (0.0, 0.6):
        cfg = dataclasses.replace(SMALL, average_decay=decay)
        state = ppo.init(jax.random.key(0), env, cfg)
        expected = jax.tree.map(np.asarray, state.params["actor"])
        for k in range(20):
            state, _ = ppo.update(env, cfg, state)
            d = min(decay, k / (k + 10))  # a short memory early
            expected = jax.tree.map(
                lambda a, x, d=d: d * a + (1 - d) * np.asarray(x), expected, state.params["actor"]
            )
        runs[decay] = state
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.average_actor, expected
        )
    # Averaging is for use only: learning itself is the same with and without.
    jax.tree.map(np.testing.assert_array_equal, runs[0.0].params, runs[0.6].params)
    jax.tree.map(np.testing.assert_array_equal, runs[0.0].average_actor, runs[0.0].params["actor"])


def test_sequential_minibatches_are_time_slices():
    """Without shuffling and with one epoch, gradient k sees steps 4k..4k+3 only (UniDexGrasp)."""
    cfg = dataclasses.replace(SMALL, shuffle=False, epochs=1, lr_schedule="constant")
    env = PointMassEnv(num_envs=8)
    state = ppo.init(jax.random.key(0), env, cfg)
    env_state, rollout, _ = rollout_of(env, cfg, state, jax.random.key(1))
    batch = make_batch(cfg, state, env_state, rollout)
    params, *_ = learn(cfg, state, batch, jax.random.key(2), jnp.float32(0))
    expected, opt_state = state.params, state.opt_state
    optimizer = ppo._optimizer(cfg)
    for k in range(4):
        part = jax.tree.map(lambda x, k=k: x[4 * k : 4 * k + 4].reshape(32, *x.shape[2:]), batch)
        grads, _ = loss_grad(cfg, expected, part, state.params["log_std"])
        steps, opt_state = optimizer.update(grads, opt_state)
        expected = jax.tree.map(lambda p, u: p - cfg.learning_rate * u, expected, steps)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), params, expected)


@pytest.mark.parametrize(
    "preset", [ppo.quick, pytest.param(ppo.unidexgrasp, marks=pytest.mark.slow)]
)
def test_presets_run(preset):
    class Wide(PointMassEnv):
        action_size = 24

        def step(self, state, action):
            return super().step(state, action[:, :2])

    env = Wide(num_envs=8)
    cfg = preset()
    state = ppo.init(jax.random.key(0), env, cfg)
    after, metrics = ppo.update(env, cfg, state)
    assert after.iteration == 1 and after.skipped_updates == 0
    assert np.isfinite(metrics["loss/value"])
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), after.params, state.params)
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize(
    "change, word",
    [
        ({"actor_obs": ("polcy",)}, "policy"),
        ({"minibatches": 7}, "minibatches"),
        ({"rollout_length": 41}, "rollout_length"),
        ({"init_std": (0.1, 0.2, 0.3)}, "init_std"),
        ({"gamma": 1.5}, "gamma"),
        ({"epochs": 0}, "epochs"),
        ({"lr_min": 1.0}, "lr_min"),
        ({"std_min": 2.0}, "std_min"),
    ],
)
def test_impossible_settings_are_named(change, word):
    with pytest.raises(ConfigError, match=word):
        ppo.init(jax.random.key(0), PointMassEnv(), dataclasses.replace(SMALL, **change))
