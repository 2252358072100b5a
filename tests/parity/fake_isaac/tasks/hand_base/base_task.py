"""The releases' BaseTask, as far as a recorder sees it."""

from isaacgym import gymapi


class BaseTask:
    def __init__(self):
        self.gym = gymapi.acquire_gym()

    def step(self, actions, id):
        self.pre_physics_step(actions)
        self.gym.simulate(self.sim)
        self.post_physics_step()
