"""Episodes of this environment as a trace, in the form in which Isaac Gym's are recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

import dexjax
from dexjax.core.errors import ConfigError
from dexjax.parity import schema
from dexjax.parity.trace import Trace, check_trace
from dexjax.rl.env import EnvState
from dexjax.sim.types import SimState
from envs.shadow_grasp.env import ShadowGrasp
from envs.shadow_grasp.unidexgrasp import UniDexGraspVariant

Act = Callable[[EnvState, jax.Array], jax.Array]


def record_trace(env: ShadowGrasp, act: Act, key: jax.Array, steps: int | None = None) -> Trace:
    """One episode in each environment of the `unidexgrasp` variant.

    act(state, key) -> (B, 24). At most all steps but the last, which ends in the next episode's
    start. Raises ConfigError for another variant. Velocities are those of centres of mass.
    """
    variant = env.variant
    if not isinstance(variant, UniDexGraspVariant):
        raise ConfigError(f"traces are of variant unidexgrasp, not {env.cfg.variant!r}")
    most = env.episode_length - 1
    steps = most if steps is None else min(steps, most)
    key_reset, key_act = jax.random.split(key)
    step = jax.jit(env.step)
    state = jax.jit(env.reset)(key_reset)
    task = state.task.task
    rows = [_row(env, state.sim)]
    done = []
    for k in jax.random.split(key_act, steps):
        action = act(state, k)
        before = state
        state = step(state, action)
        rows.append(_row(env, state.sim))
        done.append(_step_row(variant, before, state, action))
    stacked = {k: np.stack([r[k] for r in rows]) for k in rows[0]}
    arrays = {
        "time": env.control_dt * np.arange(steps + 1),
        **stacked,
        **{k: np.stack([r[k] for r in done]) for k in done[0]},
        **_parameters(env, variant, task, state.sim),
    }
    arrays = {k: v.astype(np.float32) if v.dtype.kind == "f" else v for k, v in arrays.items()}
    meta = _meta(env, variant, arrays, list(state.terms))
    check_trace(meta, arrays, "trace of this environment")
    return Trace(meta, arrays, "trace of this environment")


def _row(env: ShadowGrasp, sim: SimState) -> dict[str, np.ndarray]:
    """The state; bodies of the hand, and the object at the origin of its mesh."""
    scene, hand = env.scene, env.scene.hand
    get = lambda name: np.asarray(getattr(sim, name))  # noqa: E731
    pos, quat, vel, spin = (get(f"body_{k}") for k in ("pos", "quat", "linvel", "angvel"))
    offset = scene.model.body_ipos[scene.body_ids]
    com_vel = vel + np.cross(spin, _rotate(quat, offset))
    tips = list(hand.fingertip_body)
    wrench = get("tip_wrench")
    inverse = quat[:, tips] * [1, -1, -1, -1]
    hands = slice(0, len(hand.body_names))
    return {
        "joint_pos": get("qpos")[:, scene.finger_qpos],
        "joint_vel": get("qvel")[:, scene.finger_qvel],
        "joint_force": get("joint_force"),
        "root_pos": pos[:, 0],
        "root_quat": quat[:, 0],
        "root_linvel": com_vel[:, 0],
        "root_angvel": spin[:, 0],
        "body_pos": pos[:, hands],
        "body_quat": quat[:, hands],
        "body_linvel": com_vel[:, hands],
        "body_angvel": spin[:, hands],
        "object_pos": np.asarray(env.variant.object_origin(sim))[:, None],
        "object_quat": quat[:, -1:],
        "object_linvel": vel[:, -1:],  # the object's frame is at its centre of mass
        "object_angvel": spin[:, -1:],
        "tip_force": _rotate(inverse, wrench[..., :3]),
        "tip_torque": _rotate(inverse, wrench[..., 3:]),
    }


def _step_row(
    variant: UniDexGraspVariant, before: EnvState, after: EnvState, action: jax.Array
) -> dict[str, np.ndarray]:
    clipped = jnp.clip(action, -1, 1)
    _, control = variant.control(before.task.task, before.sim, clipped)
    wrench = np.asarray(control.wrench)
    return {
        "action_raw": np.asarray(action),
        "action": np.asarray(clipped),
        "target": np.asarray(control.ctrl)[:, variant.ctrl_index],
        "applied_force": wrench[:, :3],
        "applied_torque": wrench[:, 3:],
        "goal_pos": np.asarray(after.task.goal),
        "observation": np.asarray(after.final_obs["policy"]),
        "reward": np.asarray(after.reward),
        "reward_terms": np.stack([np.asarray(v) for v in after.terms.values()], -1),
        "success": np.asarray(after.episode["success_any"]) > 0.5,
        "reset": np.asarray(after.done),
    }


def _parameters(
    env: ShadowGrasp, variant: UniDexGraspVariant, task: Any, sim: SimState
) -> dict[str, np.ndarray]:
    """What was drawn for each episode; quaternions xyzw, as the releases hold them."""
    ids = np.asarray(sim.object_id)
    origin = np.asarray(env.bank.mesh_origin)[ids]
    target = task.target
    return {
        "object_id": ids.astype(np.int32),
        "param_z_theta": np.asarray(task.yaw),
        "param_target_qpos": np.asarray(target.qpos),
        "param_target_hand_pos": np.asarray(target.hand_pos),
        "param_target_hand_rot": np.roll(np.asarray(target.hand_quat), -1, -1),
        "param_object_init_z": np.asarray(target.rest_height),
        "param_visual_feature": np.asarray(variant.object_features)[ids],
        "param_object_points": np.asarray(env.bank.surface_points)[ids] - origin[:, None],
    }


_PARAMETER_UNITS = {
    "z_theta": "rad", "target_qpos": "rad", "target_hand_pos": "m", "target_hand_rot": "1, xyzw",
    "object_init_z": "m", "visual_feature": "1", "object_points": "m",
}  # fmt: skip


def _meta(
    env: ShadowGrasp, variant: UniDexGraspVariant, arrays: dict[str, np.ndarray], terms: list[str]
) -> dict[str, Any]:
    model, hand = env.scene.model, env.scene.hand
    physics = env.engine.physics
    joints = [model.joint(n).id for n in hand.joint_names]
    declared: dict[str, Any] = {}
    for name, array in arrays.items():
        if name in schema.ARRAYS:
            axes, unit = schema.ARRAYS[name]
            steps = len(arrays["time"]) - 1
            short = axes[0] == schema.STATE and len(array) == steps
            kept = schema.after_steps(axes) if short else list(axes)
            declared[name] = {"axes": kept, "unit": unit}
        else:
            unit = _PARAMETER_UNITS[name.removeprefix(schema.PARAMETER)]
            declared[name] = {"axes": [schema.ENV, *array.shape[1:]], "unit": unit}
    return schema.new_meta(
        "policy_episode",
        simulator=f"mujoco {mujoco.__version__}",
        version=f"dexjax {dexjax.__version__}",
        dt=env.control_dt,
        substeps=physics.substeps,
        axes={
            "joint": list(hand.joint_names),
            "actuator": [hand.joint_names[i] for i in hand.actuator_joint],
            "body": list(hand.body_names),
            "tip": [hand.body_names[b] for b in hand.fingertip_body],
            "object": ["object"],
            "action": [f"a{i}" for i in range(env.action_size)],
            "observation": [f"o{i}" for i in range(env.observation_sizes["policy"])],
            "term": terms,
        },
        joint_types=["hinge"] * len(joints),
        tip_wrench_frame="link",
        wrench_frame="world",
        wrench_body="palm",
        solver={"cone": physics.cone, "impratio": physics.impratio, "timestep": physics.timestep},
        properties={
            "joint": {
                "lower": model.jnt_range[joints, 0].tolist(),
                "upper": model.jnt_range[joints, 1].tolist(),
            },
            "body": {
                "mass": model.body_mass[env.scene.body_ids[:-1]].tolist(),
                "com": model.body_ipos[env.scene.body_ids[:-1]].tolist(),
            },
        },
        arrays=declared,
    )


def _rotate(quat: np.ndarray, vector: np.ndarray) -> np.ndarray:
    u = quat[..., 1:]
    v = np.broadcast_to(vector, u.shape)
    twice = 2 * np.cross(u, v)
    return v + quat[..., :1] * twice + np.cross(u, twice)
