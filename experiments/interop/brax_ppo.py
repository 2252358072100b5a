"""brax's own PPO, unchanged, on shadow_grasp; and beside it ours with as many steps.

    python experiments/interop/brax_ppo.py --steps 1000000 --compare

Both get the same observations, discount, rollouts and network sizes and start as the same noise
around the scripted base policy. Success is that of the deterministic policies on the objects they
were trained on, in episodes that start together.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from brax.training.agents.ppo import networks, train

from dexjax.core.progress import wilson_interval
from dexjax.interop.brax import train_arguments
from dexjax.rl import devices, ppo
from dexjax.rl.env import Env
from envs.shadow_grasp import spec

PRESET = spec.presets["quick"]
# Ours without what brax's PPO does not have: an own step size of the value function, bootstrapping
# at the time limit, averaged weights, a pull of means into the action range; noise and bounds of
# the step size as there.
PLAIN = replace(
    PRESET.ppo,
    critic_learning_rate=None,
    timeout_bootstrap=False,
    average_decay=0.0,
    bound_coef=0.0,
    init_std=0.3,
    lr_min=1e-5,
    lr_max=1e-2,
)


def brax_policy(env: Env, test: Env, steps: int, seed: int = 0, evals: int = 2) -> Callable:
    """Trains with brax for about `steps` control steps; prints its evaluations.

    Returns obs groups -> actions (B, A), deterministic.
    """
    cfg = PRESET.ppo
    network = functools.partial(
        networks.make_ppo_networks,
        policy_hidden_layer_sizes=cfg.actor_hidden,
        value_hidden_layer_sizes=cfg.critic_hidden,
        distribution_type="normal",  # the environment clips; tanh would shrink the script's actions
        noise_std_type="log",
        init_noise_std=0.3,
        mean_kernel_init_fn=jax.nn.initializers.variance_scaling,
        mean_kernel_init_kwargs={"scale": 1e-6, "mode": "fan_in", "distribution": "normal"},
    )
    make_policy, params, _ = train.train(
        **train_arguments(env, test),
        num_timesteps=steps,
        num_evals=evals,
        deterministic_eval=True,
        unroll_length=cfg.rollout_length,
        batch_size=env.num_envs // cfg.minibatches,
        num_minibatches=cfg.minibatches,
        num_updates_per_batch=cfg.epochs,
        learning_rate=3e-4,
        learning_rate_schedule="ADAPTIVE_KL",
        desired_kl=cfg.kl_target,
        entropy_cost=0.0,
        discounting=cfg.gamma,
        gae_lambda=cfg.gae_lambda,
        clipping_epsilon=cfg.clip,
        max_grad_norm=cfg.max_grad_norm,
        reward_scaling=cfg.reward_scale,
        normalize_observations=True,
        network_factory=network,
        seed=seed,
        progress_fn=_report,
    )
    policy = make_policy(params, deterministic=True)
    return lambda obs: policy(obs["policy"], jax.random.key(0))[0]


def our_policy(env: Env, cfg: ppo.PPOConfig, steps: int, seed: int = 0) -> Callable:
    """Trains with `dexjax.rl.ppo` for as many steps; obs groups -> actions, deterministic."""
    program = devices.Program(env, cfg, seed)
    state = program.init()
    each = env.num_envs * cfg.rollout_length
    for i in range(-(-steps // each)):
        state, _ = program.update(state, i * each / steps)
    params = state.params
    if cfg.average_decay:
        params = {**params, "actor": state.average_actor}
    return lambda obs: ppo.policy_mean(cfg, params, state.normalizer, obs)


def success(env: Env, act: Callable, seed: int = 1) -> dict[str, Any]:
    """Success at the end of one episode per environment, with 95 % Wilson intervals."""

    @jax.jit
    def run(key: jax.Array) -> dict[str, jax.Array]:
        state = env.reset(key)
        over = state.done

        def step(carry: Any, _: None) -> Any:
            state, result, over = carry
            after = env.step(state, act(state.obs))
            ends = after.done & ~over
            result = {k: jax.numpy.where(ends, after.episode[k], v) for k, v in result.items()}
            return (after, result, over | ends), None

        result = {k: v for k, v in state.episode.items() if k.startswith("success")}
        carry, _ = jax.lax.scan(step, (state, result, over), length=env.episode_length)
        return carry[1]

    found = {k: np.asarray(v) for k, v in run(jax.random.key(seed)).items()}
    rows = {}
    for k, v in found.items():
        low, high = wilson_interval(int(v.sum()), len(v))
        rows[k] = {"mean": float(v.mean()), "ci95": [float(low), float(high)], "episodes": len(v)}
    return rows


def compare(steps: int, num_envs: int, objects: str, episodes: int, seed: int) -> dict[str, Any]:
    """Success of both trainers after about `steps` steps, and of the base policy alone."""
    make = functools.partial(spec.make, PRESET.env, objects=objects)
    test = make(num_envs=episodes, seed=1, evaluation=True)
    out = {}
    env = make(num_envs=num_envs, seed=seed)
    zero = lambda obs: jax.numpy.zeros((len(obs["policy"]), env.action_size))  # noqa: E731
    out["scripted base"] = success(test, zero)
    for name, cfg in (("dexjax", PRESET.ppo), ("dexjax, plain", PLAIN)):
        began = time.monotonic()
        out[name] = success(test, our_policy(env, cfg, steps, seed))
        out[name]["seconds"] = time.monotonic() - began
    began = time.monotonic()
    out["brax"] = success(test, brax_policy(env, test, steps, seed))
    out["brax"]["seconds"] = time.monotonic() - began
    return out


def _report(steps: int, metrics: Any) -> None:
    keys = ("eval/episode_reward", "eval/episode_success_any", "eval/episode_success_held")
    print(steps, {k: round(float(metrics[k]), 3) for k in keys if k in metrics}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--num-envs", type=int, default=256)
    parser.add_argument("--objects", default="builtin:seen")
    parser.add_argument("--episodes", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compare", action="store_true", help="our PPO beside it")
    args = parser.parse_args()
    if args.compare:
        found = compare(args.steps, args.num_envs, args.objects, args.episodes, args.seed)
        print(json.dumps(found, indent=1))
        return
    make = functools.partial(spec.make, PRESET.env, objects=args.objects)
    test = make(num_envs=args.episodes, seed=1, evaluation=True)
    brax_policy(make(num_envs=args.num_envs, seed=args.seed), test, args.steps, args.seed, 5)


if __name__ == "__main__":
    main()
