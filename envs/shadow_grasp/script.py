"""The scripted base policy of the servo variant: reach over the object, close, lift to the goal.

Constants found by the cross-entropy method on twelve YCB objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from dexjax.hands import Hand
from envs.shadow_grasp.features import Features


@dataclass(frozen=True)
class ScriptConfig:
    """Phases, offsets (m) and finger actions of the script."""

    offset: tuple[float, float] = (-0.0056, 0.0241)
    """Grasp centre relative to the middle between box centre and centre of mass (elongated objects)
    or to the core (others), yaw frame, m."""
    depth: float = 0.0521
    """Grasp centre below the top of the object, m."""
    lowest: float = 0.04
    """Lowest grasp centre above the table, m."""
    clearance: float = 0.05
    """Height over the object while not yet above it, m."""
    mcp: float = 0.975
    """Closing action of the finger bases (J2)."""
    pip: float = 0.561
    """Closing action of the middle joints (J1)."""
    thumb: tuple[float, float, float, float, float] = (0.685, 0.259, 0.298, 0.143, -0.653)
    """Closing actions THJ4..THJ0."""
    little_metacarpal: float = 0.3
    """Closing action LFJ4."""
    pre_flex: float = -0.043
    """Flexion action while reaching."""
    close_step: float = 20.4
    """Control step at which the fingers close."""
    lift_step: float = 35.5
    """Control step at which the lift begins."""
    reach_time: float = 0.1
    """Time constant with which the hand approaches the reach pose, s. Larger leaves a learned
    residual more authority over the pose: it can shift it by action x speed x time constant."""
    lift_speed: float = 0.68
    """Base action towards the goal, saturating 11 cm away."""
    roll: float = -0.242
    """Base roll, rad."""
    elongation: float = 2.5
    """Yaw follows the longest horizontal box axis where its square exceeds the next by this; else
    the direction of the core, for an L-shape's box has none."""
    core_direction: float = 0.15
    """Least strength of the core's direction; yaw is zero where it has none."""
    give_up_step: int = 40
    """Control step of an attempt at which it is given up if the object was left behind: neither
    gripped nor lifted by `left_behind`."""
    left_behind: float = 0.01
    """m."""
    retry_step: int = 8
    """Control step at which the next attempt begins: the hand is near."""


def scripted_action(
    features: Features,
    base_target: jax.Array,
    base_pos: jax.Array,
    goal: jax.Array,
    step: jax.Array,
    hand: Hand,
    base_vmax: jax.Array,
    table_height: float,
    cfg: ScriptConfig,
) -> jax.Array:
    """Action (B, 24) of the script at control step (B,) of its attempt.

    base_target, base_pos: (B, 6) base servo coordinates; base_vmax: (6,) speed per unit action.
    """
    axes = features.box_axes  # (B, 3, 3)
    square = (axes[..., :2] ** 2).sum(-1)  # (B, 3) squared horizontal length of each half axis
    order = jnp.argsort(-square, axis=1)
    longest = jnp.take_along_axis(axes, order[:, :1, None], 1)[:, 0, :2]
    first, second = (jnp.take_along_axis(square, order[:, i : i + 1], 1)[:, 0] for i in (0, 1))
    # At zero yaw the fingers point to -y and close around an object that lies along x.
    yaw_box = jnp.arctan2(longest[:, 1], longest[:, 0])
    yaw_box = jnp.mod(yaw_box + jnp.pi / 2, jnp.pi) - jnp.pi / 2
    axis = features.core_axis
    yaw_core = 0.5 * jnp.arctan2(axis[:, 1], axis[:, 0])
    yaw_core = jnp.where(jnp.linalg.norm(axis, axis=1) > cfg.core_direction, yaw_core, 0.0)
    elongated = first > cfg.elongation * second
    yaw = jnp.where(elongated, yaw_box, yaw_core)
    c, s = jnp.cos(yaw), jnp.sin(yaw)
    dx, dy = cfg.offset
    middle = 0.5 * (features.box_centre + features.object_pos)
    middle = jnp.where(elongated[:, None], middle, features.core)
    xy = middle[:, :2] + jnp.stack([c * dx - s * dy, s * dx + c * dy], 1)
    away = jnp.linalg.norm(xy - base_pos[:, :2], axis=1) > 0.03
    low = jnp.maximum(features.top - cfg.depth, table_height + cfg.lowest)
    z = jnp.where(away, jnp.maximum(low, features.top + cfg.clearance), low)
    reach = jnp.stack([xy[:, 0], xy[:, 1], z, yaw, 0 * yaw, 0 * yaw + cfg.roll], 1)
    move = jnp.clip((reach - base_target) / (base_vmax * cfg.reach_time), -1, 1)

    lift = cfg.lift_speed * jnp.clip(9.4 * (goal - features.object_pos), -1, 1)
    lift = jnp.concatenate([lift, jnp.zeros_like(lift)], 1)
    closing, lifting = (step >= cfg.close_step)[:, None], (step >= cfg.lift_step)[:, None]
    base = jnp.where(lifting, lift, jnp.where(closing, 0.0, move))

    reaching, closed = _finger_postures(hand, cfg)
    fingers = jnp.where(closing, closed, reaching)
    return jnp.concatenate([base, fingers], 1)


def next_step(
    step: jax.Array, features: Features, height: jax.Array, cfg: ScriptConfig
) -> jax.Array:
    """The step (B,) of the script after `step`: the next one, or that of another attempt.

    height: (B,) m that the object was lifted.
    """
    failed = (step >= cfg.give_up_step) & ~features.grip & (height < cfg.left_behind)
    return jnp.where(failed, cfg.retry_step, step + 1)


def _finger_postures(hand: Hand, cfg: ScriptConfig) -> tuple[jax.Array, jax.Array]:
    """Finger actions (18,) while reaching and while holding."""
    thumb = {f"THJ{4 - i}": a for i, a in enumerate(cfg.thumb)}
    closed = {"J2": cfg.mcp, "J1": cfg.pip}
    reach, hold = [], []
    for joint in (hand.joint_names[j] for j in hand.actuator_joint):
        if joint.startswith("TH"):
            reach.append(thumb[joint] if joint == "THJ4" else 0.0)
            hold.append(thumb[joint])
        elif joint == "LFJ4":
            reach.append(0.0)
            hold.append(cfg.little_metacarpal)
        else:
            kind = joint[2:]
            reach.append(cfg.pre_flex if kind in closed else 0.0)
            hold.append(closed.get(kind, 0.0))
    return jnp.asarray(np.array(reach, np.float32)), jnp.asarray(np.array(hold, np.float32))
