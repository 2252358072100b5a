"""A stand-in for the releases' train.py: builds a task with their attribute names and steps it."""
# ruff: noqa: B905, I001 (Python 3.6 has no strict zip; isaacgym comes before torch)

import sys

from isaacgym import gymapi, gymtorch
import numpy as np
import torch
from tasks.hand_base.base_task import BaseTask

TIPS = ["robot0:ffdistal", "robot0:mfdistal", "robot0:rfdistal", "robot0:lfdistal",
        "robot0:thdistal"]  # fmt: skip


class ShadowHandGrasp(BaseTask):
    """Hand, object, goal and table in every environment; resets at the start of the next step."""

    def __init__(self, hand, thing, num_envs, length):
        BaseTask.__init__(self)
        self.num_envs, self.length, self.num_obs, self.num_actions = num_envs, length, 12, 24
        self.random_time, self.control_freq_inv = True, 1
        self.cfg = {"env": {"episodeLength": length, "goal_cond": False, "asset": {}}}
        gym = self.gym
        params = gymapi.SimParams()
        self.dt = params.dt
        self.sim = gym.create_sim(0, -1, gymapi.SIM_PHYSX, params)
        floating = gymapi.AssetOptions()
        floating.disable_gravity = True
        folder, file = hand.rsplit("/", 1)
        asset = gym.load_asset(self.sim, folder, file, floating)
        names = gym.get_asset_rigid_body_names(asset)
        self.fingertip_handles = tensor([names.index(t) for t in TIPS])
        for t in TIPS:
            gym.create_asset_force_sensor(asset, names.index(t), gymapi.Transform())
        folder, file = thing.rsplit("/", 1)
        thing = gym.load_asset(self.sim, folder, file, gymapi.AssetOptions())
        self.envs, self.shadow_hands, hands, objects = [], [], [], []
        for _ in range(num_envs):
            env = gym.create_env(self.sim, None, None, 1)
            parts = [asset, thing, gym.create_box(self.sim, 0, 0, 0, still()),
                     gym.create_box(self.sim, 1, 1, 0.6, still())]  # fmt: skip
            made = [gym.create_actor(env, a, gymapi.Transform(), n, 0, 0, 0)
                    for a, n in zip(parts, ("hand", "object", "goal_object", "table"))]  # fmt: skip
            props = gym.get_actor_dof_properties(env, made[0])
            props["driveMode"], props["stiffness"] = gymapi.DOF_MODE_POS, 1.0
            gym.set_actor_dof_properties(env, made[0], props)
            self.envs.append(env)
            self.shadow_hands.append(made[0])
        gym.prepare_sim(self.sim)
        gym.refresh_actor_root_state_tensor(self.sim)
        for env in self.envs:
            hands.append(gym.get_actor_index(env, 0, gymapi.DOMAIN_SIM))
            objects.append(gym.get_actor_index(env, 1, gymapi.DOMAIN_SIM))
        self.hand_indices, self.object_indices = tensor(hands), tensor(objects)
        joints = gym.get_actor_dof_names(self.envs[0], 0)
        self.num_shadow_hand_dofs, self.num_shadow_hand_bodies = len(joints), len(names)
        driven = [i for i, n in enumerate(joints) if not (n[-1] == "0" and "TH" not in n)]
        self.actuated_dof_indices = tensor(driven)
        self.root_state_tensor = gymtorch.wrap_tensor(gym.acquire_actor_root_state_tensor(self.sim))
        self.dof_state = gymtorch.wrap_tensor(gym.acquire_dof_state_tensor(self.sim))
        bodies = gym.acquire_rigid_body_state_tensor(self.sim).reshape(num_envs, -1, 13)
        self.rigid_body_states = gymtorch.wrap_tensor(bodies)
        sensors = gym.acquire_force_sensor_tensor(self.sim).reshape(num_envs, 30)
        self.vec_sensor_tensor = gymtorch.wrap_tensor(sensors)
        force = gym.acquire_dof_force_tensor(self.sim).reshape(num_envs, -1)
        self.dof_force_tensor = gymtorch.wrap_tensor(force)
        self.num_bodies = bodies.shape[1]
        zeros = lambda *shape: torch.Tensor(np.zeros(shape, np.float32))  # noqa: E731
        self.cur_targets = zeros(num_envs, len(joints))
        self.apply_forces = zeros(num_envs, self.num_bodies, 3)
        self.apply_torque = zeros(num_envs, self.num_bodies, 3)
        self.goal_states = zeros(num_envs, 13)
        self.goal_states[:, 2] = 0.9
        self.obs_buf, self.rew_buf = zeros(num_envs, self.num_obs), zeros(num_envs)
        self.successes, self.z_theta = zeros(num_envs), zeros(num_envs)
        self.visual_feat_buf, self.object_init_z = zeros(num_envs, 64), zeros(num_envs, 1)
        self.reset_buf, self.progress_buf = tensor([1] * num_envs), tensor([0] * num_envs)
        self.object_id_buf = tensor(list(range(num_envs)))
        self.object_scale_buf = {i: 0.06 + 0.01 * i for i in range(num_envs)}
        self.object_code_list = [f"core/mug-{i}" for i in range(num_envs)]
        self.draw = np.random.RandomState(0)

    def pre_physics_step(self, actions):
        gym, fresh = self.gym, np.flatnonzero(self.reset_buf.array)
        if len(fresh):
            root = self.root_state_tensor.array
            for i in fresh:
                hand, thing = self.hand_indices.array[i], self.object_indices.array[i]
                root[hand], root[thing] = 0, 0
                root[hand, [2, 3, 6]] = 0.8, np.sin(0.785), np.cos(0.785)
                root[thing, :3] = self.draw.uniform(0, 0.1), 0, 0.7
                root[thing, 6] = 1
            self.dof_state.array[:] = 0
            gym.set_actor_root_state_tensor(self.sim, root)
            gym.set_dof_state_tensor(self.sim, self.dof_state.array)
            first = self.draw.randint(0, self.length, len(fresh)) if self.random_time else 0
            self.random_time = False
            self.progress_buf[fresh] = first
            self.reset_buf[fresh] = 0
            self.successes[fresh] = 0
        self.actions = actions.clone()
        targets = self.cur_targets.array
        targets[:, self.actuated_dof_indices.array] = 0.5 * (self.actions.array[:, 6:] + 1)
        self.apply_forces[:, 1] = self.actions.array[:, 0:3] * self.dt * 0.5 * 1e5
        self.apply_torque[:, 1] = self.actions.array[:, 3:6] * self.dt * 0.1 * 1e3
        gym.set_dof_position_target_tensor(self.sim, targets.reshape(-1))
        gym.apply_rigid_body_force_tensors(
            self.sim, self.apply_forces.array.reshape(-1, 3),
            self.apply_torque.array.reshape(-1, 3), gymapi.ENV_SPACE,
        )  # fmt: skip

    def post_physics_step(self):
        gym = self.gym
        self.progress_buf.array += 1
        gym.refresh_dof_state_tensor(self.sim)
        gym.refresh_actor_root_state_tensor(self.sim)
        gym.refresh_rigid_body_state_tensor(self.sim)
        gym.refresh_force_sensor_tensor(self.sim)
        gym.refresh_dof_force_tensor(self.sim)
        thing = self.root_state_tensor.array[self.object_indices.array]
        self.obs_buf[:, 0:3], self.obs_buf[:, 3:12] = thing[:, :3], self.actions.array[:, :9]
        self.actions.array[:] = -7  # the releases, too, write into it after use
        self.rew_buf[:] = -thing[:, 2]
        high = self.progress_buf.array == 3
        self.successes.array[high] = 1
        self.reset_buf[self.progress_buf.array >= self.length] = 1


def tensor(values):
    return torch.Tensor(np.array(values, np.int64))


def still():
    options = gymapi.AssetOptions()
    options.fix_base_link = True
    return options


if __name__ == "__main__":
    hand, thing, num_envs, length, steps = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    task = ShadowHandGrasp(hand, thing, num_envs, length)
    draw = np.random.RandomState(1)
    for _ in range(steps):
        actions = draw.uniform(-1, 1, (num_envs, 24)).astype(np.float32)
        task.step(torch.Tensor(actions), 0)
