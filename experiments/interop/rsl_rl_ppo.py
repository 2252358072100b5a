"""A PyTorch PPO, rsl_rl's, unchanged, on shadow_grasp through the gymnasium adapter.

    pip install -e '.[gym]' rsl-rl-lib==5.5.1 torch
    python experiments/interop/rsl_rl_ppo.py --iterations 50

Arrays pass between JAX and PyTorch by DLPack, without a copy. Success is that of the episodes that
end during training, which act with noise; the first line is the base policy with the first noise.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import torch
from rsl_rl.env import VecEnv
from rsl_rl.runners import OnPolicyRunner
from tensordict import TensorDict

from dexjax.interop.gymnasium import GymnasiumEnv, make
from envs.shadow_grasp import spec


class RslRlEnv(VecEnv):
    """What rsl_rl reads of an environment; results of ended episodes are kept in `finished`."""

    def __init__(self, envs: GymnasiumEnv) -> None:
        self.envs, self.device, self.cfg = envs, "cpu", {}
        self.num_envs = envs.num_envs
        (self.num_actions,) = envs.single_action_space.shape
        self.max_episode_length = envs.env.episode_length
        self.episode_length_buf = torch.zeros(self.num_envs, dtype=torch.long)
        self.finished: list[dict[str, torch.Tensor]] = []
        self._obs, _ = envs.reset()

    def get_observations(self) -> TensorDict:
        return TensorDict({"policy": self._obs}, batch_size=[self.num_envs])

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict]:
        self._obs, reward, terminated, truncated, infos = self.envs.step(actions.clip(-1, 1))
        done = terminated | truncated
        if done.any():
            episodes = infos["final_info"]["episode"]
            self.finished.append({k: v[done] for k, v in episodes.items()})
        return self.get_observations(), reward, done.long(), {"time_outs": truncated}


def settings(learn: Any) -> dict[str, Any]:
    """rsl_rl's configuration with the constants of a `PPOConfig`."""
    model = functools.partial(dict, class_name="MLPModel", activation="elu", obs_normalization=True)
    return {
        "num_steps_per_env": learn.rollout_length,
        "save_interval": 10**9,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "actor": model(
            hidden_dims=list(learn.actor_hidden),
            distribution_cfg={
                "class_name": "GaussianDistribution", "init_std": 0.3, "std_type": "log",
            },
        ),
        "critic": model(hidden_dims=list(learn.critic_hidden)),
        "algorithm": {
            "class_name": "PPO",
            "num_learning_epochs": learn.epochs,
            "num_mini_batches": learn.minibatches,
            "clip_param": learn.clip,
            "gamma": learn.gamma,
            "lam": learn.gae_lambda,
            "entropy_coef": 0.0,
            "learning_rate": learn.learning_rate,
            "max_grad_norm": learn.max_grad_norm,
            "desired_kl": learn.kl_target,
        },
    }  # fmt: skip


def run(iterations: int, num_envs: int, objects: str, seed: int = 0) -> list[dict[str, float]]:
    """Trains; success of the episodes that ended in each tenth of the run."""
    torch.manual_seed(seed)
    envs = make("shadow_grasp", num_envs=num_envs, output="torch", objects=objects, seed=seed)
    env, rows = RslRlEnv(envs), []
    runner = OnPolicyRunner(env, settings(spec.presets["quick"].ppo))
    last = [m for m in runner.alg.get_policy().mlp if isinstance(m, torch.nn.Linear)][-1]
    torch.nn.init.zeros_(last.weight)  # begins as the base policy plus noise
    torch.nn.init.zeros_(last.bias)
    part = max(iterations // 10, 1)
    for start in range(0, iterations, part):
        runner.learn(min(part, iterations - start))
        if env.finished:
            done = {k: torch.cat([f[k] for f in env.finished]).float() for k in env.finished[0]}
            env.finished = []
            rows.append({
                "steps": (start + part) * num_envs * runner.cfg["num_steps_per_env"],
                "episodes": len(done["r"]),
                **{k: float(done[k].mean()) for k in ("r", "success_any", "success_held")},
            })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--num-envs", type=int, default=256)
    parser.add_argument("--objects", default="builtin:seen")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for row in run(args.iterations, args.num_envs, args.objects, args.seed):
        print({k: round(v, 3) for k, v in row.items()})


if __name__ == "__main__":
    main()
