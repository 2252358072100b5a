"""Reward terms of the servo variant: one small function each, named, weighted in RewardConfig."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from envs.shadow_grasp.config import ShadowGraspConfig
from envs.shadow_grasp.features import Features


@struct.dataclass
class RewardInput:
    """What a reward term may look at, after the step."""

    features: Features
    action: jax.Array  # (B, 24)
    base_velocity: jax.Array  # (B, 3) m/s
    start_height: jax.Array  # (B,) object height at reset, m
    goal: jax.Array  # (B, 3)

    @property
    def to_goal(self) -> jax.Array:
        """(B, 3) from object to goal."""
        return self.goal - self.features.object_pos

    @property
    def goal_distance(self) -> jax.Array:
        """(B,) m."""
        return jnp.linalg.norm(self.to_goal, axis=-1)

    @property
    def height(self) -> jax.Array:
        """(B,) height gained since reset, m."""
        return self.features.object_pos[:, 2] - self.start_height


Term = Callable[[RewardInput, ShadowGraspConfig], jax.Array]


def reach_thumb(x: RewardInput, cfg: ShadowGraspConfig) -> jax.Array:
    """1 where the thumb tip is on the surface, falling with 4 cm."""
    return jnp.exp(-x.features.distance[:, 4] / 0.04)


def reach_fingers(x: RewardInput, cfg: ShadowGraspConfig) -> jax.Array:
    """Sum over the other fingers, up to 4."""
    return jnp.exp(-x.features.distance[:, :4] / 0.04).sum(-1)


def reach_palm(x: RewardInput, cfg: ShadowGraspConfig) -> jax.Array:
    """1 where the grasp centre is on the surface, falling with 5 cm."""
    return jnp.exp(-x.features.distance[:, 5] / 0.05)


def touch_thumb(x: RewardInput, cfg: ShadowGraspConfig) -> jax.Array:
    """0 or 1."""
    return x.features.touching[:, 4].astype(jnp.float32)


def touch_finger(x: RewardInput, cfg: ShadowGraspConfig) -> jax.Array:
    """Number of other fingers in contact, 0 to 4."""
    return x.features.touching[:, :4].sum(-1).astype(jnp.float32)


def grip(x: RewardInput, cfg: ShadowGraspConfig) -> jax.Array:
    """0 or 1."""
    return x.features.grip.astype(jnp.float32)


def squeeze(x: RewardInput, cfg: ShadowGraspConfig) -> jax.Array:
    """Smaller of thumb force and the fingers' summed force over 4 N, up to 1, palm near."""
    f = x.features
    opposing = jnp.minimum(f.force[:, 4], f.force[:, :4].sum(-1)) / 4.0
    return jnp.where(f.distance[:, 5] < 0.08, jnp.minimum(opposing, 1.0), 0.0)


def lift(x: RewardInput, cfg: ShadowGraspConfig) -> jax.Array:
    """Height over goal height, up to 1; minus 1.5 times the overshoot, while gripping."""
    up = jnp.clip(x.height, 0.0, cfg.goal_height)
    over = jnp.clip(x.height - cfg.goal_height, 0.0, 2 * cfg.goal_height)
    return x.features.grip * (up - 1.5 * over) / cfg.goal_height


def approach_goal(x: RewardInput, cfg: ShadowGraspConfig) -> jax.Array:
    """1 at the goal, 0 about where the object started, -0.2 at worst, while gripping."""
    return x.features.grip * jnp.clip(1 - x.goal_distance / (1.1 * cfg.goal_height), -0.2, 1.0)


def velocity_to_goal(x: RewardInput, cfg: ShadowGraspConfig) -> jax.Array:
    """Base velocity along the way to the goal over 0.3 m/s, within +-1; 0 once there."""
    distance = x.goal_distance
    direction = x.to_goal / jnp.maximum(distance, 1e-6)[:, None]
    along = jnp.clip((x.base_velocity * direction).sum(-1) / 0.3, -1.0, 1.0)
    return jnp.where(x.features.grip & (distance > cfg.success_radius), along, 0.0)


def goal(x: RewardInput, cfg: ShadowGraspConfig) -> jax.Array:
    """exp(-distance / 6 cm) while gripping, 1 cm or more above the start."""
    return x.features.grip * (x.height > 0.01) * jnp.exp(-x.goal_distance / 0.06)


def success(x: RewardInput, cfg: ShadowGraspConfig) -> jax.Array:
    """Within the success radius: 1 with a grip, 0.3 without."""
    inside = x.goal_distance <= cfg.success_radius
    return inside * (0.3 + 0.7 * x.features.grip)


def action(x: RewardInput, cfg: ShadowGraspConfig) -> jax.Array:
    """Minus the squared norm of the action."""
    return -(x.action**2).sum(-1)


def object_speed(x: RewardInput, cfg: ShadowGraspConfig) -> jax.Array:
    """-1 where the 1-norm of the object's velocity exceeds 2 m/s."""
    return -(jnp.abs(x.features.object_linvel).sum(-1) > 2.0).astype(jnp.float32)


TERMS: dict[str, Term] = {
    term.__name__: term
    for term in (
        reach_thumb,
        reach_fingers,
        reach_palm,
        touch_thumb,
        touch_finger,
        grip,
        squeeze,
        lift,
        approach_goal,
        velocity_to_goal,
        goal,
        success,
        action,
        object_speed,
    )
}


def reward_terms(x: RewardInput, cfg: ShadowGraspConfig) -> dict[str, jax.Array]:
    """Weighted terms, each (B,); their sum is the reward."""
    return {
        name: cfg.reward.scale * getattr(cfg.reward, name) * term(x, cfg)
        for name, term in TERMS.items()
    }
