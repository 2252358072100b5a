"""Episodes of this environment as a trace, in the form in which Isaac Gym's are recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jax.typing import ArrayLike

import dexjax
from dexjax.core.errors import ConfigError, DataError
from dexjax.parity import schema
from dexjax.parity.trace import Trace, check_trace
from dexjax.rl.env import EnvState
from dexjax.sim.types import SimState
from envs.shadow_grasp.env import ShadowGrasp
from envs.shadow_grasp.targets import Target
from envs.shadow_grasp.unidexgrasp import UniDexGraspVariant

Act = Callable[[EnvState, jax.Array], jax.Array]


def record_trace(env: ShadowGrasp, act: Act, key: jax.Array, steps: int | None = None) -> Trace:
    """One episode in each environment of the `unidexgrasp` variant.

    act(state, key) -> (B, 24). At most all steps but the last, which ends in the next episode's
    start. Raises ConfigError for another variant. Velocities are those of centres of mass.
    """
    most = env.episode_length - 1
    key_reset, key_act = jax.random.split(key)
    keys = jax.random.split(key_act, most if steps is None else min(steps, most))
    state = jax.jit(env.reset)(key_reset)
    return _record(env, state, [partial(_choose, act, k) for k in keys])


def replay_trace(env: ShadowGrasp, trace: Trace, object_id: ArrayLike) -> Trace:
    """What this environment does from a trace's starts with a trace's actions, as a trace.

    object_id: (B,) our objects in place of the trace's. After the first contact any two simulators
    part: compare how fast, and outcomes, not states. Raises DataError where the trace has other
    numbers of episodes or steps than the environment, or no actions.
    """
    if trace.num_envs != env.num_envs:
        raise DataError(
            f"{trace.source}: {trace.num_envs} episodes; the environment has {env.num_envs}"
        )
    if trace.num_steps >= env.episode_length:
        # Our last step ends in the next episode's start.
        raise DataError(
            f"{trace.source}: {trace.num_steps} steps; the environment has {env.episode_length}, "
            "and the last one is not recorded"
        )
    given = jnp.asarray(trace["action_raw" if "action_raw" in trace else "action"], jnp.float32)
    state = _state_of(env, trace, jnp.asarray(object_id, jnp.int32))
    return _record(env, state, [partial(_repeat, a) for a in given])


def _choose(act: Act, key: jax.Array, state: EnvState) -> jax.Array:
    return act(state, key)


def _repeat(action: jax.Array, state: EnvState) -> jax.Array:
    return action


def _record(
    env: ShadowGrasp, state: EnvState, actions: Sequence[Callable[[EnvState], jax.Array]]
) -> Trace:
    variant = env.variant
    if not isinstance(variant, UniDexGraspVariant):
        raise ConfigError(f"traces are of variant unidexgrasp, not {env.cfg.variant!r}")
    step = jax.jit(env.step)
    task = state.task.task
    rows = [_row(env, state.sim)]
    done = []
    for act in actions:
        action = act(state)
        before = state
        state = step(state, action)
        rows.append(_row(env, state.sim))
        done.append(_step_row(variant, before, state, action))
    stacked = {k: np.stack([r[k] for r in rows]) for k in rows[0]}
    arrays = {
        "time": env.control_dt * np.arange(len(rows)),
        **stacked,
        **{k: np.stack([r[k] for r in done]) for k in done[0]},
        **_parameters(env, variant, task, state.sim),
    }
    arrays = {k: v.astype(np.float32) if v.dtype.kind == "f" else v for k, v in arrays.items()}
    meta = _meta(env, variant, arrays, list(state.terms))
    check_trace(meta, arrays, "trace of this environment")
    return Trace(meta, arrays, "trace of this environment")


def _state_of(env: ShadowGrasp, trace: Trace, object_id: jax.Array) -> EnvState:
    """The environment's state at the start of the trace's episodes."""
    scene = env.scene
    hand = trace.select("joint", scene.hand.joint_names)
    fresh = env.reset(jax.random.PRNGKey(0), object_id)
    root_quat, spin = trace["root_quat"][0], trace["root_angvel"][0]
    quat, turning = trace["object_quat"][0, :, 0], trace["object_angvel"][0, :, 0]
    origin = np.asarray(env.bank.mesh_origin)[np.asarray(object_id)]
    arm = _rotate(root_quat, scene.model.body_ipos[scene.body_ids[0]])
    at, vat = scene.object_qpos, scene.object_qvel
    qpos, qvel = np.array(fresh.sim.qpos), np.zeros_like(fresh.sim.qvel)
    qpos[:, :3], qpos[:, 3:7] = trace["root_pos"][0], root_quat
    qpos[:, scene.finger_qpos] = hand["joint_pos"][0]
    qpos[:, at : at + 3] = trace["object_pos"][0, :, 0] - _rotate(quat, origin)
    qpos[:, at + 3 : at + 7] = quat
    back = np.array([1, -1, -1, -1])
    qvel[:, :3] = trace["root_linvel"][0] - np.cross(spin, arm)
    qvel[:, 3:6] = _rotate(root_quat * back, spin)
    qvel[:, scene.finger_qvel] = hand["joint_vel"][0]
    qvel[:, vat : vat + 3] = trace["object_linvel"][0, :, 0]
    qvel[:, vat + 3 : vat + 6] = _rotate(quat * back, turning)
    sim = env.engine.init(
        object_id, jnp.asarray(qpos), jnp.asarray(qvel), fresh.sim.object_params
    )  # fmt: skip
    return env.restarted(fresh, sim, _drawn(trace))


def _drawn(trace: Trace) -> Target | None:
    """The target grasps that a trace's episodes were given."""
    if "param_target_qpos" not in trace:
        return None
    get = lambda name: jnp.asarray(trace[f"param_{name}"], jnp.float32)  # noqa: E731
    num = trace.num_envs
    return Target(
        hand_pos=get("target_hand_pos"),
        hand_quat=jnp.roll(get("target_hand_rot"), 1, -1),
        qpos=get("target_qpos"),
        rest_quat=jnp.tile(jnp.array([1.0, 0, 0, 0]), (num, 1)),  # used before the start only
        rest_height=get("object_init_z").reshape(num),
    )


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
