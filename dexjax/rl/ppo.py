"""Proximal policy optimisation (Schulman et al. 2017) as two pure functions: `init` and `update`.

The file reads downward like the algorithm: configuration, state, `update` (rollout, advantages,
epochs of minibatches), then the parts. One `update` is one compiled program. Time-major arrays:
T rollout steps, B environments, A action dimensions.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct

from dexjax.core.errors import ConfigError, unknown_name
from dexjax.rl.env import Env, EnvState
from dexjax.rl.networks import MLP, gaussian_entropy, gaussian_kl, gaussian_log_prob

with contextlib.redirect_stdout(io.StringIO()):  # brax's import of MJX prints that Warp is absent
    from brax.training.acme import running_statistics

# Observation columns that hardly vary (a contact force before the first contact) are divided by
# at least this much; without a floor their first variation would be blown up to the clip value.
_NORMALIZER_STD_FLOOR = 1e-2

ENV_AXIS = "envs"  # of a device mesh; see `dexjax.rl.devices`


@dataclass(frozen=True)
class PPOConfig:
    """PPO constants; the defaults are those of the `quick` preset (learns on two CPU cores)."""

    rollout_length: int = 16
    """Control steps per environment and update; at most the episode length."""
    epochs: int = 3
    """Passes over each rollout."""
    minibatches: int = 4
    """Gradient steps per pass; must divide rollout_length x num_envs."""
    shuffle: bool = True
    """Draw minibatches at random; otherwise consecutive time slices (as UniDexGrasp)."""
    gamma: float = 0.98
    """Discount per control step."""
    gae_lambda: float = 0.95
    """Mixing of n-step advantages (Schulman et al. 2016)."""
    reward_scale: float = 1.0
    """Rewards are multiplied by this before learning (reported rewards are not)."""
    timeout_bootstrap: bool = True
    """Episodes cut by the time limit end with V(final observation) instead of 0."""
    normalize_advantage: bool = True
    """Standardise advantages over each rollout."""
    clip: float = 0.2
    """Clip range of the probability ratio."""
    value_coef: float = 1.0
    """Weight of the mean squared value error (no factor 1/2)."""
    value_clip: float | None = None
    """Clip range of value changes within an update; None: no value clipping."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus, per nat."""
    bound_coef: float = 0.01
    """Weight of sum max(|mean action| - 1.1, 0)^2, which keeps means near the action range."""
    max_grad_norm: float = 1.0
    """Global gradient norm limit, actor and critic together."""
    adam_eps: float = 1e-5
    """Adam's epsilon."""
    learning_rate: float = 3e-4
    """Initial (or constant) Adam step size."""
    lr_schedule: Literal["minibatch", "iteration", "constant"] = "minibatch"
    """When to adapt the learning rate to the KL target: x1.5 below half of it, /1.5 above twice."""
    kl_target: float = 0.03
    """Target KL divergence (nats) of the adaptive learning rate."""
    lr_min: float = 5e-5
    """Lower bound of the adaptive learning rate."""
    lr_max: float = 1e-3
    """Upper bound of the adaptive learning rate at the start of the run."""
    critic_learning_rate: float | None = None
    """Constant Adam step size of the value function, whose gradient is then clipped apart from the
    policy's; None: the policy's adaptive one, clipped together."""
    lr_max_final: float | None = None
    """Upper bound at the end of the run, reached linearly; None: lr_max."""
    init_std: float | tuple[float, ...] = 0.4
    """Initial action noise, one for all or one per action dimension."""
    std_min: float = 0.1
    """Lower bound of the action noise."""
    std_max: float = 1.0
    """Upper bound of the action noise at the start of the run."""
    std_max_final: float | None = None
    """Upper bound of the action noise at the end of the run, reached linearly; None: std_max."""
    actor_hidden: tuple[int, ...] = (256, 256)
    """Hidden layer sizes of the policy (ELU)."""
    critic_hidden: tuple[int, ...] = (256, 256)
    """Hidden layer sizes of the value function (ELU)."""
    hidden_gain: float = 1.41
    """Gain of the orthogonal initialisation of hidden layers."""
    actor_out_gain: float = 0.01
    """The same for the last layer of the policy."""
    critic_out_gain: float = 1.0
    """The same for the last layer of the value function."""
    actor_obs: tuple[str, ...] = ("policy",)
    """Observation groups that the policy sees, concatenated."""
    critic_obs: tuple[str, ...] = ("policy",)
    """Observation groups that the value function sees (asymmetric critic: add `privileged`)."""
    normalize_obs: bool = True
    """Standardise observations with running statistics."""
    obs_clip: float = 5.0
    """Clip of the (standardised) observations."""
    average_decay: float = 0.0
    """Decay per update of the running average of the policy's weights, which is what a finished run
    is evaluated and used with (Polyak averaging); 0: the last weights."""
    stats_window: int = 1024
    """Episodes over which the running success rates are averaged."""


def quick() -> PPOConfig:
    """Two CPU cores: 512 environments x 16 steps; a residual on a scripted policy.

    Noise 0.25 on the base, 0.35 on the fingers. The value function learns at its own pace: tied to
    the policy's step size, which the KL target keeps small, it lags and the policy drifts.
    """
    return PPOConfig(
        init_std=(0.25,) * 6 + (0.35,) * 18,
        actor_out_gain=0.001,
        reward_scale=0.1,
        critic_learning_rate=1e-3,
        lr_min=5e-6,
        average_decay=0.95,
    )


def unidexgrasp() -> PPOConfig:
    """The constants released with UniDexGrasp++ (`cfg/ppo/config.yaml`, `algorithms/rl/ppo`).

    Its Gaussian uses sigma^2 as standard deviation, so log-std ln 0.8 acts as noise 0.64.
    """
    return PPOConfig(
        rollout_length=8,
        epochs=5,
        minibatches=4,
        shuffle=False,
        gamma=0.96,
        gae_lambda=0.95,
        timeout_bootstrap=False,
        clip=0.2,
        value_coef=2.0,
        value_clip=None,
        entropy_coef=0.0,
        bound_coef=0.0,
        max_grad_norm=1.0,
        adam_eps=1e-8,
        learning_rate=3e-4,
        lr_schedule="minibatch",
        kl_target=0.016,
        lr_min=1e-5,
        lr_max=1e-2,
        init_std=0.64,
        std_min=1e-4,
        std_max=1e4,
        actor_hidden=(1024, 1024, 512, 512),
        critic_hidden=(1024, 1024, 512, 512),
        hidden_gain=math.sqrt(2.0),
        actor_out_gain=0.01,
        critic_out_gain=1.0,
        normalize_obs=False,
        obs_clip=5.0,
    )


@struct.dataclass
class EpisodeStats:
    """Exponentially forgotten sums over finished episodes (about `stats_window` of them)."""

    count: jax.Array  # () effective number of episodes
    total: dict[str, jax.Array]  # name -> () sum over episodes

    def mean(self) -> dict[str, jax.Array]:
        """Mean per episode; NaN before the first episode has ended."""
        return {k: v / self.count for k, v in self.total.items()}


@struct.dataclass
class TrainState:
    """Everything that a run is: restoring it continues the run bit by bit."""

    params: dict[str, Any]  # "actor", "critic": Linen variables; "log_std": (A,)
    average_actor: Any  # params["actor"] averaged over updates: the policy that is evaluated
    opt_state: Any
    learning_rate: jax.Array  # ()
    normalizer: Any  # running_statistics state over the observation groups in use, or None
    env_state: EnvState
    key: jax.Array
    iteration: jax.Array  # () int32; environment steps = iteration x rollout_length x num_envs
    episodes: jax.Array  # () int32 finished episodes
    nonfinite_samples: jax.Array  # () int32 samples that were kept from learning
    skipped_updates: jax.Array  # () int32 gradient steps skipped because of non-finite gradients
    stats: EpisodeStats


@struct.dataclass
class Batch:
    """Samples as the loss sees them; leading axes (T, B) or (N,)."""

    actor_obs: jax.Array  # (..., n) normalised
    critic_obs: jax.Array  # (..., m) normalised
    action: jax.Array  # (..., A)
    mean: jax.Array  # (..., A) of the policy that acted
    log_prob: jax.Array  # (...) of the policy that acted
    value: jax.Array  # (...) of the value function before the update
    advantage: jax.Array  # (...)
    target: jax.Array  # (...) value target
    weight: jax.Array  # (...) 1 for a sound sample, 0 for one from a diverged simulation


@functools.partial(jax.jit, static_argnames=("env", "cfg"))
def init(key: jax.Array, env: Env, cfg: PPOConfig) -> TrainState:
    """Fresh parameters and freshly reset environments. Raises ConfigError if they do not fit."""
    _check(env, cfg)
    key, key_policy, key_env = jax.random.split(key, 3)
    params, normalizer = init_policy(key_policy, env.observation_sizes, env.action_size, cfg)
    env_state = _strong(env.reset(key_env))
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        params=params,
        average_actor=params["actor"],
        opt_state=_optimizer(cfg).init(params),
        learning_rate=jnp.float32(cfg.learning_rate),
        normalizer=normalizer,
        env_state=env_state,
        key=key,
        iteration=zero,
        episodes=zero,
        nonfinite_samples=zero,
        skipped_updates=zero,
        stats=EpisodeStats(
            count=jnp.float32(0),
            total={k: jnp.float32(0) for k in env_state.episode if k != "object_id"},
        ),
    )


def init_policy(
    key: jax.Array, observation_sizes: dict[str, int], action_size: int, cfg: PPOConfig
) -> tuple[dict[str, Any], Any]:
    """Fresh parameters (actor, critic, log_std) and observation statistics (None if unused)."""
    key_actor, key_critic = jax.random.split(key)
    actor_in = jnp.zeros((1, sum(observation_sizes[g] for g in cfg.actor_obs)))
    critic_in = jnp.zeros((1, sum(observation_sizes[g] for g in cfg.critic_obs)))
    init_std = jnp.broadcast_to(jnp.asarray(cfg.init_std, jnp.float32), (action_size,))
    params = {
        "actor": _actor(cfg, action_size).init(key_actor, actor_in),
        "critic": _critic(cfg).init(key_critic, critic_in),
        "log_std": jnp.log(jnp.clip(init_std, cfg.std_min, cfg.std_max)),
    }
    normalizer = None
    if cfg.normalize_obs:
        groups = sorted({*cfg.actor_obs, *cfg.critic_obs})
        normalizer = running_statistics.init_state(
            {g: jnp.zeros(observation_sizes[g]) for g in groups}
        )
        normalizer = jax.tree.map(jnp.asarray, normalizer)  # std_eps would be a Python float
    return params, normalizer


@functools.partial(jax.jit, static_argnames=("env", "cfg"))
def update(
    env: Env, cfg: PPOConfig, state: TrainState, progress: jax.Array | float = 0.0
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One iteration: T steps in every environment, then epochs of minibatch gradient steps.

    progress: () in [0, 1], the part of the run that is over; drives `lr_max_final` and
    `std_max_final` only. Metrics are scalars; names with a slash group them for TensorBoard.
    """
    progress = jnp.clip(jnp.asarray(progress, jnp.float32), 0, 1)
    key, key_rollout, key_learn = jax.random.split(state.key, 3)

    env_state, rollout, env_metrics = _rollout(env, cfg, state, key_rollout)
    batch = _make_batch(cfg, state, env_state, rollout)
    params, opt_state, lr, learn_metrics = _learn(cfg, state, batch, key_learn, progress)
    average_actor = _average(cfg, state.average_actor, params["actor"], state.iteration)

    normalizer = state.normalizer
    if normalizer is not None:  # after learning, so that acting and learning saw the same inputs
        normalizer = running_statistics.update(
            normalizer,
            rollout["obs"],
            weights=rollout["weight"],
            std_min_value=_NORMALIZER_STD_FLOOR,
        )

    # Finished episodes: sums of this rollout, and running sums that forget.
    ended = env_metrics.pop("ended")
    sums = env_metrics.pop("episode_sums")
    keep = jnp.maximum(0.0, 1.0 - ended / cfg.stats_window)
    stats = EpisodeStats(
        count=keep * state.stats.count + ended,
        total={k: keep * state.stats.total[k] + sums[k] for k in sums},
    )
    bad = jnp.sum(rollout["weight"] == 0).astype(jnp.int32)
    skipped = learn_metrics.pop("skipped").astype(jnp.int32)
    state = state.replace(
        params=params,
        average_actor=average_actor,
        opt_state=opt_state,
        learning_rate=lr,
        normalizer=normalizer,
        env_state=_strong(env_state),
        key=key,
        iteration=state.iteration + 1,
        episodes=state.episodes + ended.astype(jnp.int32),
        nonfinite_samples=state.nonfinite_samples + bad,
        skipped_updates=state.skipped_updates + skipped,
        stats=stats,
    )
    std = jnp.exp(params["log_std"])
    metrics = {
        **env_metrics,
        **{f"loss/{k}": v for k, v in learn_metrics.items()},
        "policy/learning_rate": lr,
        "policy/std_mean": jnp.mean(std),
        "policy/std_min": jnp.min(std),
        "policy/std_max": jnp.max(std),
        "guard/nonfinite_samples": state.nonfinite_samples,
        "guard/skipped_updates": state.skipped_updates,
        "episode/count": state.episodes,
        "episode/window": stats.count,
        **{f"episode/{k}": v for k, v in stats.mean().items()},
    }
    return state, metrics


def policy_mean(
    cfg: PPOConfig, params: dict[str, Any], normalizer: Any, obs: dict[str, jax.Array]
) -> jax.Array:
    """Deterministic action of the policy. obs: groups of (..., n) raw; returns (..., A)."""
    x = _network_input(cfg, normalizer, obs, cfg.actor_obs)
    return _actor(cfg, params["log_std"].shape[-1]).apply(params["actor"], x)


def compute_gae(
    reward: jax.Array,
    done: jax.Array,
    value: jax.Array,
    next_value: jax.Array,
    gamma: float,
    gae_lambda: float,
    weight: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Advantages and value targets (Schulman et al. 2016, Eq. 16). All (T, B).

    next_value: value of the state after each step: 0 after a termination, V(final observation)
    after a time limit. Where `done`, nothing later leaks back. Steps of weight 0 get advantage 0.
    """
    weight = jnp.ones_like(reward) if weight is None else weight
    delta = weight * (reward + gamma * next_value - value)
    decay = gamma * gae_lambda * (1.0 - done) * weight

    def backward(later: jax.Array, step: tuple[jax.Array, jax.Array]):
        advantage = step[0] + step[1] * later
        return advantage, advantage

    _, advantage = jax.lax.scan(backward, jnp.zeros_like(reward[0]), (delta, decay), reverse=True)
    return advantage, advantage + value


def ppo_loss(
    cfg: PPOConfig, params: dict[str, Any], batch: Batch, old_log_std: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Clipped surrogate + value error - entropy bonus + bound loss, means over sound samples."""
    log_std = params["log_std"]
    mean = _actor(cfg, log_std.shape[-1]).apply(params["actor"], batch.actor_obs)
    value = _critic(cfg).apply(params["critic"], batch.critic_obs)[..., 0]
    average = functools.partial(_weighted_mean, weight=batch.weight)

    ratio = jnp.exp(gaussian_log_prob(batch.action, mean, log_std) - batch.log_prob)
    clipped = jnp.clip(ratio, 1 - cfg.clip, 1 + cfg.clip)
    policy = -average(jnp.minimum(ratio * batch.advantage, clipped * batch.advantage))

    error = jnp.square(value - batch.target)
    if cfg.value_clip is not None:
        near = batch.value + jnp.clip(value - batch.value, -cfg.value_clip, cfg.value_clip)
        error = jnp.maximum(error, jnp.square(near - batch.target))
    value_loss = average(error)

    entropy = gaussian_entropy(log_std)
    bound = average(jnp.sum(jnp.square(jnp.maximum(jnp.abs(mean) - 1.1, 0)), axis=-1))
    loss = (
        policy + cfg.value_coef * value_loss - cfg.entropy_coef * entropy + cfg.bound_coef * bound
    )
    kl = average(gaussian_kl(batch.mean, old_log_std, mean, log_std))
    return loss, {
        "policy": policy,
        "value": value_loss,
        "entropy": entropy,
        "bound": bound,
        "kl": kl,
        "clip_fraction": average((jnp.abs(ratio - 1) > cfg.clip).astype(jnp.float32)),
    }


# ---------------------------------------------------------------------------------------------
# Rollout


def _rollout(env: Env, cfg: PPOConfig, state: TrainState, key: jax.Array):
    """T steps with the current policy. Returns the environments, (T, B) arrays and metrics.

    An environment meets its time limit at most once in T <= episode_length steps, so the final
    observation of that one step is carried along instead of stacking all final observations.
    """
    groups = sorted({*cfg.actor_obs, *cfg.critic_obs})
    log_std = state.params["log_std"]

    def step(carry, key_step):
        env_state, timeout_obs = carry
        obs = {g: _finite_or_zero(env_state.obs[g]) for g in groups}
        mean = policy_mean(cfg, state.params, state.normalizer, obs)
        action = mean + jnp.exp(log_std) * jax.random.normal(key_step, mean.shape)
        after = env.step(env_state, action)
        final = {g: _finite_or_zero(after.final_obs[g]) for g in groups}
        timeout_obs = {
            g: jnp.where(after.truncated[:, None], final[g], timeout_obs[g]) for g in groups
        }
        sound = jnp.isfinite(after.reward) & jnp.isfinite(mean).all(-1)
        for g in groups:
            sound &= jnp.isfinite(env_state.obs[g]).all(-1)
            sound &= jnp.isfinite(after.final_obs[g]).all(-1)
        if "finite" in after.metrics:  # 0: the simulation diverged and was replaced in this step
            sound &= after.metrics["finite"] > 0.5
        done = after.done
        record = {
            "obs": obs,
            "mean": mean,
            "action": action,
            "reward": _finite_or_zero(after.reward),
            "done": done,
            "truncated": after.truncated,
            "weight": sound.astype(jnp.float32),
        }
        summary = {
            **{f"reward/{k}": _finite_mean(v) for k, v in after.terms.items()},
            "reward/total": _finite_mean(after.reward),
            **{f"env/{k}": _finite_mean(v) for k, v in after.metrics.items()},
            "ended": jnp.sum(done, dtype=jnp.float32),
            "episode_sums": {
                k: jnp.sum(jnp.where(done, _finite_or_zero(after.episode[k]), 0.0))
                for k in state.stats.total
            },
        }
        return (after, timeout_obs), (record, summary)

    keys = jax.random.split(key, cfg.rollout_length)
    timeout_obs = {g: jnp.zeros_like(state.env_state.obs[g]) for g in groups}
    (env_state, timeout_obs), (rollout, summary) = jax.lax.scan(
        step, (state.env_state, timeout_obs), keys
    )
    metrics: dict[str, Any] = {
        k: jnp.mean(v) for k, v in summary.items() if k not in ("ended", "episode_sums")
    }
    metrics["ended"] = jnp.sum(summary["ended"])
    metrics["episode_sums"] = {k: jnp.sum(v) for k, v in summary["episode_sums"].items()}
    rollout["timeout_obs"] = timeout_obs
    return env_state, rollout, metrics


def _make_batch(cfg: PPOConfig, state: TrainState, env_state: EnvState, rollout) -> Batch:
    """Values, advantages and targets of a rollout; all values from one evaluation."""
    steps = rollout["reward"].shape[0]
    obs, timeout_obs = rollout["obs"], rollout["timeout_obs"]
    last_obs = {g: _finite_or_zero(env_state.obs[g]) for g in obs}
    value_obs = {g: jnp.concatenate([obs[g], last_obs[g][None], timeout_obs[g][None]]) for g in obs}
    critic_in = _network_input(cfg, state.normalizer, value_obs, cfg.critic_obs)  # (T + 2, B, m)
    actor_in = critic_in[:steps]
    if cfg.actor_obs != cfg.critic_obs:
        actor_in = _network_input(cfg, state.normalizer, obs, cfg.actor_obs)
    values = _critic(cfg).apply(state.params["critic"], critic_in)[..., 0]
    value, next_value, timeout_value = values[:steps], values[1 : steps + 1], values[steps + 1]

    next_value = jnp.where(rollout["done"], 0.0, next_value)
    if cfg.timeout_bootstrap:
        next_value = jnp.where(rollout["truncated"], timeout_value, next_value)
    advantage, target = compute_gae(
        rollout["reward"] * cfg.reward_scale,
        rollout["done"],
        value,
        next_value,
        cfg.gamma,
        cfg.gae_lambda,
        rollout["weight"],
    )
    if cfg.normalize_advantage:
        average = functools.partial(_weighted_mean, weight=rollout["weight"])
        centred = advantage - average(advantage)
        advantage = centred / (jnp.sqrt(average(jnp.square(centred))) + 1e-8)
    log_prob = gaussian_log_prob(rollout["action"], rollout["mean"], state.params["log_std"])
    return Batch(
        actor_obs=actor_in,
        critic_obs=critic_in[:steps],
        action=rollout["action"],
        mean=rollout["mean"],
        log_prob=log_prob,
        value=value,
        advantage=advantage,
        target=target,
        weight=rollout["weight"],
    )


# ---------------------------------------------------------------------------------------------
# Learning


def _learn(cfg: PPOConfig, state: TrainState, batch: Batch, key: jax.Array, progress: jax.Array):
    """Epochs x minibatches of Adam steps with the adaptive learning rate (rl_games, rsl_rl)."""
    batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)  # (T B, ...), time-major
    count = batch.weight.shape[0]
    optimizer = _optimizer(cfg)
    old_log_std = state.params["log_std"]
    lr_max = _ramp(cfg.lr_max, cfg.lr_max_final, progress)
    std_max = _ramp(cfg.std_max, cfg.std_max_final, progress)
    log_std_min, log_std_max = math.log(cfg.std_min), jnp.log(jnp.maximum(std_max, cfg.std_min))

    def adapt(lr: jax.Array, kl: jax.Array) -> jax.Array:
        slower = jnp.maximum(lr / 1.5, cfg.lr_min)
        faster = jnp.minimum(lr * 1.5, lr_max)
        lr = jnp.where(kl < cfg.kl_target / 2, faster, lr)
        lr = jnp.where(kl > 2 * cfg.kl_target, slower, lr)
        return jnp.minimum(lr, jnp.maximum(lr_max, cfg.lr_min))

    def gradient_step(carry, rows):
        params, opt_state, lr = carry
        part = jax.tree.map(lambda x: x[rows], batch) if cfg.shuffle else rows
        part = _spread(part)
        grads, info = jax.grad(ppo_loss, argnums=1, has_aux=True)(cfg, params, part, old_log_std)
        if cfg.lr_schedule == "minibatch":
            lr = adapt(lr, info["kl"])
        norm = optax.tree.norm(grads)
        updates, new_opt_state = optimizer.update(grads, opt_state, params)
        step_size = {"actor": lr, "critic": cfg.critic_learning_rate or lr, "log_std": lr}
        new_params = {
            part: jax.tree.map(lambda p, u, a=a: p - a * u, params[part], updates[part])
            for part, a in step_size.items()
        }
        new_params["log_std"] = jnp.clip(new_params["log_std"], log_std_min, log_std_max)
        sound = jnp.isfinite(norm)
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(sound, new, old),
            (new_params, new_opt_state),
            (params, opt_state),
        )
        info = {**info, "grad_norm": norm, "skipped": 1.0 - sound}
        return (params, opt_state, lr), info

    if cfg.shuffle:
        keys = jax.random.split(key, cfg.epochs)
        rows = jax.vmap(lambda k: jax.random.permutation(k, count))(keys)
        parts = rows.reshape(cfg.epochs * cfg.minibatches, -1)
    else:
        parts = jax.tree.map(lambda x: x.reshape(cfg.minibatches, -1, *x.shape[1:]), batch)

    carry = (state.params, state.opt_state, state.learning_rate)
    if cfg.shuffle:
        carry, info = jax.lax.scan(gradient_step, carry, parts)
    else:
        carry, info = jax.lax.scan(
            lambda c, _: jax.lax.scan(gradient_step, c, parts), carry, length=cfg.epochs
        )
    params, opt_state, lr = carry
    skipped = jnp.sum(info.pop("skipped"))
    info = {k: jnp.nanmean(v) for k, v in info.items()}
    if cfg.lr_schedule == "iteration":
        lr = adapt(lr, info["kl"])
    return params, opt_state, lr, {**info, "skipped": skipped}


def _average(cfg: PPOConfig, average: Any, actor: Any, iteration: jax.Array) -> Any:
    """Moving average of the weights, with a short memory early so that no start value lingers."""
    decay = jnp.minimum(cfg.average_decay, iteration / (iteration + 10.0))
    return jax.tree.map(lambda a, x: decay * a + (1 - decay) * x, average, actor)


def _optimizer(cfg: PPOConfig) -> optax.GradientTransformation:
    one = optax.chain(
        optax.clip_by_global_norm(cfg.max_grad_norm), optax.scale_by_adam(eps=cfg.adam_eps)
    )
    if cfg.critic_learning_rate is None:
        return one
    parts = {"actor": "policy", "log_std": "policy", "critic": "critic"}
    return optax.partition({"policy": one, "critic": one}, parts)


def _ramp(start: float, end: float | None, progress: jax.Array) -> jax.Array:
    return start + progress * ((start if end is None else end) - start)


# ---------------------------------------------------------------------------------------------
# Networks and small parts


def _actor(cfg: PPOConfig, action_size: int) -> MLP:
    return MLP(cfg.actor_hidden, action_size, cfg.hidden_gain, cfg.actor_out_gain)


def _critic(cfg: PPOConfig) -> MLP:
    return MLP(cfg.critic_hidden, 1, cfg.hidden_gain, cfg.critic_out_gain)


def _network_input(
    cfg: PPOConfig, normalizer: Any, obs: dict[str, jax.Array], groups: tuple[str, ...]
) -> jax.Array:
    """Groups standardised, clipped and concatenated: (..., n)."""
    parts = []
    for g in groups:
        x = obs[g]
        if normalizer is not None:
            x = (x - normalizer.mean[g]) / normalizer.std[g]
        parts.append(jnp.clip(x, -cfg.obs_clip, cfg.obs_clip))
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)


def _weighted_mean(x: jax.Array, weight: jax.Array) -> jax.Array:
    return jnp.sum(x * weight) / jnp.maximum(jnp.sum(weight), 1.0)


def _spread(samples: Any) -> Any:
    """Divide samples (N, ...) among the devices of the mesh, if there is one."""
    mesh = jax.sharding.get_abstract_mesh()
    if ENV_AXIS not in mesh.axis_names:
        return samples
    spec = jax.sharding.PartitionSpec(ENV_AXIS)
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spec), samples)


def _strong(tree: Any) -> Any:
    """Without weak types: where an environment's `step` returns one that its `reset` does not, the
    second update would be compiled again."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), tree)


def _finite_or_zero(x: jax.Array) -> jax.Array:
    return jnp.where(jnp.isfinite(x), x, 0).astype(jnp.float32)


def _finite_mean(x: jax.Array) -> jax.Array:
    return jnp.mean(_finite_or_zero(x))


def _check(env: Env, cfg: PPOConfig) -> None:
    """Raise ConfigError for settings that cannot work, alone or with this environment."""
    rules = {
        "rollout_length": cfg.rollout_length >= 1,
        "epochs": cfg.epochs >= 1,
        "minibatches": cfg.minibatches >= 1,
        "gamma": 0 <= cfg.gamma <= 1,
        "gae_lambda": 0 <= cfg.gae_lambda <= 1,
        "clip": cfg.clip > 0,
        "average_decay": 0 <= cfg.average_decay < 1,
        "learning_rate": cfg.learning_rate > 0,
        "lr_min": 0 < cfg.lr_min <= cfg.lr_max,
        "std_min": 0 < cfg.std_min <= cfg.std_max,
        "max_grad_norm": cfg.max_grad_norm > 0,
        "stats_window": cfg.stats_window >= 1,
    }
    for name, holds in rules.items():
        if not holds:
            raise ConfigError(f"ppo.{name} = {getattr(cfg, name)} is out of range")
    for name in ("actor_obs", "critic_obs"):
        for group in getattr(cfg, name):
            if group not in env.observation_sizes:
                raise unknown_name(f"ppo.{name} group", group, env.observation_sizes)
    samples = cfg.rollout_length * env.num_envs
    if samples % cfg.minibatches:
        raise ConfigError(
            f"ppo.minibatches = {cfg.minibatches} does not divide rollout_length x num_envs = "
            f"{cfg.rollout_length} x {env.num_envs}; choose a divisor of {samples}"
        )
    if cfg.rollout_length > env.episode_length:
        raise ConfigError(
            f"ppo.rollout_length = {cfg.rollout_length} exceeds the episode length "
            f"{env.episode_length}; shorten the rollout"
        )
    if isinstance(cfg.init_std, tuple) and len(cfg.init_std) != env.action_size:
        raise ConfigError(
            f"ppo.init_std has {len(cfg.init_std)} entries for {env.action_size} actions; "
            "give one number or one per action"
        )
