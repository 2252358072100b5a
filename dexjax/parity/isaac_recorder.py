#!/usr/bin/env python
"""Record traces in Isaac Gym for dexjax. Copy this one file beside your Isaac Gym installation.

Needs NumPy and Isaac Gym (with the torch that it brings), Python 3.6 to 3.8; dexjax is not needed.
The traces are read by `python -m dexjax.parity`. Two uses:

    python isaac_recorder.py probes PLAN --out traces
        Runs the experiments of a plan folder (`python -m dexjax.parity plan PLAN` writes it), each
        three times, in a process of its own.

    cd UniDexGrasp/dexgrasp_policy/dexgrasp
    python isaac_recorder.py policy --out traces --episodes 512 -- \
        train.py --task=ShadowHandGrasp --algo=ppo --test --model_dir=...
        Runs the release's own command and records the episodes of its ShadowHandGrasp task
        (UniDexGrasp, UniDexGrasp++, AffordDex). All environments begin their episodes together.

What is written is documented in docs/parity.md of dexjax: one `.npz` per batch of episodes, JSON
metadata in `__meta__`, SI units, quaternions xyzw as in Isaac Gym. Existing files are kept.
"""
# ruff: noqa: B905 (Python 3.6 has no strict zip)

import argparse
import json
import os
import runpy
import subprocess
import sys
import time

import numpy as np

FORMAT, VERSION = "dexjax.trace", 1
PLAN_FORMAT, PLAN_VERSION = "dexjax.plan", 1
UNITS = {
    "length": "m", "angle": "rad", "mass": "kg", "time": "s", "force": "N", "torque": "N m",
}  # fmt: skip
JOINT_UNIT = "rad or m"
# Axes and unit of every array that this file writes. "state": before the first step and after each;
# "step": after each (poses of bodies are known to a GPU simulation only then).
ARRAYS = {
    "time": (["state"], "s"),
    "joint_pos": (["state", "env", "joint"], JOINT_UNIT),
    "joint_vel": (["state", "env", "joint"], "rad/s or m/s"),
    "joint_force": (["step", "env", "joint"], "N m or N"),
    "root_pos": (["state", "env", 3], "m"),
    "root_quat": (["state", "env", 4], "1"),
    "root_linvel": (["state", "env", 3], "m/s"),
    "root_angvel": (["state", "env", 3], "rad/s"),
    "body_pos": (["step", "env", "body", 3], "m"),
    "body_quat": (["step", "env", "body", 4], "1"),
    "body_linvel": (["step", "env", "body", 3], "m/s"),
    "body_angvel": (["step", "env", "body", 3], "rad/s"),
    "object_pos": (["state", "env", "object", 3], "m"),
    "object_quat": (["state", "env", "object", 4], "1"),
    "object_linvel": (["state", "env", "object", 3], "m/s"),
    "object_angvel": (["state", "env", "object", 3], "rad/s"),
    "contact_force": (["step", "env", "body", 3], "N"),
    "object_contact_force": (["step", "env", "object", 3], "N"),
    "tip_force": (["step", "env", "tip", 3], "N"),
    "tip_torque": (["step", "env", "tip", 3], "N m"),
    "goal_pos": (["step", "env", 3], "m"),
    "observation": (["step", "env", "observation"], "1"),
    "action_raw": (["step", "env", "action"], "1"),
    "action": (["step", "env", "action"], "1"),
    "target": (["step", "env", "actuator"], JOINT_UNIT),
    "applied_force": (["step", "env", 3], "N"),
    "applied_torque": (["step", "env", 3], "N m"),
    "reward": (["step", "env"], "1"),
    "success": (["step", "env"], "bool"),
    "reset": (["step", "env"], "bool"),
    "object_id": (["env"], "index"),
    "object_scale": (["env"], "m"),
}
DOF_FIELDS = (
    "driveMode", "stiffness", "damping", "effort", "velocity", "friction", "armature", "lower",
    "upper",
)  # fmt: skip
SHAPE_FIELDS = (
    "friction", "rolling_friction", "torsion_friction", "restitution", "compliance", "thickness",
    "contact_offset", "rest_offset", "filter",
)  # fmt: skip
TENDON_FIELDS = (
    "is_fixed", "num_attachments", "stiffness", "damping", "fixed_spring_rest_length",
    "fixed_lower_limit", "fixed_upper_limit", "limit_stiffness",
)  # fmt: skip


# --- writing -------------------------------------------------------------------------------------


def write_trace(path, meta, arrays, parameters):
    """Write a trace; `parameters` are further arrays (env, ...): name -> (array, unit)."""
    declared = {k: {"axes": ARRAYS[k][0], "unit": ARRAYS[k][1]} for k in arrays}
    arrays = dict(arrays)
    for name, (values, unit) in parameters.items():
        values = np.asarray(values)
        declared["param_" + name] = {"axes": ["env"] + list(values.shape[1:]), "unit": unit}
        arrays["param_" + name] = values
    for name in arrays:
        values = np.ascontiguousarray(arrays[name])
        arrays[name] = values.astype(np.float32) if values.dtype.kind == "f" else values
    meta = dict(meta, arrays=declared)
    text = json.dumps(plain(meta), allow_nan=False, sort_keys=True).encode("utf-8")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        os.makedirs(folder)
    partial = path + ".partial"
    with open(partial, "wb") as file:
        np.savez_compressed(file, __meta__=np.frombuffer(text, np.uint8), **arrays)
    os.replace(partial, path)
    print("wrote " + path)


def plain(value):
    """JSON's own types; numbers that JSON cannot hold become null."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if all(hasattr(value, k) for k in ("x", "y", "z")):  # Vec3, Quat, Mat33
        names = ("x", "y", "z", "w") if hasattr(value, "w") else ("x", "y", "z")
        return [plain(getattr(value, k)) for k in names]
    try:  # an enumeration
        return int(value)
    except (TypeError, ValueError):
        return str(value)


def fields(thing, names=None):
    """Public attributes of one of Isaac Gym's property objects, nested ones included."""
    found = {}
    for name in names or dir(thing):
        if name.startswith("_") or not hasattr(thing, name):
            continue
        value = getattr(thing, name)
        if callable(value) and not hasattr(value, "x"):
            continue
        nested = name in ("physx", "flex")
        found[name] = fields(value) if nested else plain(value)
    return found


def columns(things, names):
    """Property objects, one per name of an axis, as lists by property."""
    found = {}
    for name in names:
        if things and all(hasattr(t, name) for t in things):
            found[name] = [plain(getattr(t, name)) for t in things]
    return found


def numpy_of(tensor):
    """A copy of a torch tensor, wherever it lives."""
    return np.array(tensor.cpu().numpy() if hasattr(tensor, "cpu") else tensor)


def short(name):
    """`robot0:hand mount` as dexjax names it: `hand_mount`."""
    return name.split(":")[-1].replace(" ", "_")


def isaac_version():
    """Version of the installed isaacgym package, or "unknown"."""
    try:
        import pkg_resources

        return str(pkg_resources.get_distribution("isaacgym").version)
    except Exception:
        return "unknown"


def base_meta(gym, sim, probe, repeat, axes, properties):
    """Metadata that every trace has, with the settings read back from the simulation."""
    params = gym.get_sim_params(sim)
    solver = fields(params)
    gpu = bool(getattr(params, "use_gpu_pipeline", False))
    return {
        "format": FORMAT,
        "version": VERSION,
        "probe": probe,
        "repeat": repeat,
        "source": {
            "simulator": "isaacgym",
            "version": isaac_version(),
            "pipeline": "gpu" if gpu else "cpu",
            "physx_gpu": bool(params.physx.use_gpu),
            "python": sys.version.split()[0],
            "numpy": np.__version__,
            "recorded": time.strftime("%Y-%m-%dT%H:%M:%S"),
        },
        "units": UNITS,
        "quaternion": "xyzw",
        "velocity_point": "centre of mass",
        "tip_wrench_frame": "link",
        "wrench_frame": "world",
        "gravity": plain(params.gravity),
        "dt": float(params.dt),
        "substeps": int(params.substeps),
        "interval": float(params.dt),
        "solver": solver,
        "axes": axes,
        "properties": properties,
    }


def actor_properties(gym, env, actor, joints, bodies):
    """Properties of an articulated actor as the simulation has them, and their axes."""
    dofs = gym.get_actor_dof_properties(env, actor)
    shapes = gym.get_actor_rigid_shape_properties(env, actor)
    rigid = gym.get_actor_rigid_body_properties(env, actor)
    axes = {
        "joint": joints,
        "body": bodies,
        "shape": [f"shape_{i}" for i in range(len(shapes))],
    }
    known = [f for f in DOF_FIELDS if f in (dofs.dtype.names or ())]
    properties = {
        "joint": {f: dof_column(dofs, f) for f in known},
        "body": columns(rigid, ("mass", "com", "inertia", "flags")),
        "shape": columns(shapes, SHAPE_FIELDS),
    }
    return axes, properties


def dof_column(dofs, field):
    """One property of all joints; limits are null where a joint has none."""
    values = plain(dofs[field])
    if field in ("lower", "upper") and "hasLimits" in dofs.dtype.names:
        return [v if has else None for v, has in zip(values, dofs["hasLimits"].tolist())]
    return values


def rigid_states(name, state):
    """Isaac Gym's 13 numbers per body as four arrays."""
    return {
        name + "_pos": state[..., 0:3],
        name + "_quat": state[..., 3:7],
        name + "_linvel": state[..., 7:10],
        name + "_angvel": state[..., 10:13],
    }


# --- probes --------------------------------------------------------------------------------------


def read_plan(path):
    """Metadata and arrays of one file of a plan."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = {k: stored[k] for k in stored.files}
    meta = json.loads(arrays.pop("__meta__").tobytes().decode("utf-8"))
    if (meta.get("format"), meta.get("version")) != (PLAN_FORMAT, PLAN_VERSION):
        raise SystemExit(f"{path}: no plan of version {PLAN_VERSION}; write it again")
    return meta, arrays


def gravity_groups(arrays):
    """Trials (lists of rows) that share one direction of gravity; a simulation has only one."""
    groups: dict = {}
    for i, gravity in enumerate(arrays["gravity"].tolist()):
        groups.setdefault(tuple(gravity), []).append(i)
    return [groups[k] for k in sorted(groups)]


class ProbeWorld:
    """One simulation with an environment per trial: hand, object and a table of 2 x 2 m."""

    def __init__(self, folder, meta, arrays, rows, gpu):
        from isaacgym import gymapi, gymtorch  # noqa: I001 (before torch)
        import torch

        self.gymapi, self.gymtorch, self.torch = gymapi, gymtorch, torch
        self.folder, self.meta, self.rows = folder, meta, rows
        self.trial = {k: v[:, rows] if k in ("target", "wrench") else v[rows] for k, v in
                      arrays.items()}  # fmt: skip
        self.gym = gymapi.acquire_gym()
        self.device = "cuda:0" if gpu else "cpu"
        self.sim = self.create_sim(gpu)
        self.hand_asset = self.load_hand()
        self.envs, self.hands, self.objects = [], [], []
        self.create_envs()
        self.gym.prepare_sim(self.sim)
        self.acquire()

    def create_sim(self, gpu):
        """UniDexGrasp's settings (shadow_hand_grasp.yaml)."""
        api, params = self.gymapi, self.gymapi.SimParams()
        params.dt, params.substeps = self.meta["dt"], 2
        params.up_axis = api.UP_AXIS_Z
        params.gravity = api.Vec3(*[float(g) for g in self.trial["gravity"][0]])
        params.use_gpu_pipeline = gpu
        physx = params.physx
        physx.use_gpu = gpu
        physx.solver_type = 1
        physx.num_position_iterations, physx.num_velocity_iterations = 8, 0
        physx.contact_offset, physx.rest_offset = 0.002, 0.0
        physx.bounce_threshold_velocity = 0.2
        physx.max_depenetration_velocity = 1000.0
        physx.default_buffer_size_multiplier = 5.0
        physx.num_threads = 4
        sim = self.gym.create_sim(0, -1, api.SIM_PHYSX, params)
        if sim is None:
            raise SystemExit("Isaac Gym could not create a simulation; see its messages above")
        return sim

    def load_hand(self):
        options = self.gymapi.AssetOptions()
        options.fix_base_link = False
        options.collapse_fixed_joints = False
        options.disable_gravity = True
        options.thickness = 0.001
        options.linear_damping = options.angular_damping = self.meta["link_damping"]
        options.use_physx_armature = True
        options.default_dof_drive_mode = self.gymapi.DOF_MODE_POS
        if not self.meta["floating"]:  # the base's joints hang on the world
            options.fix_base_link = True
        asset = self.gym.load_asset(self.sim, self.folder, self.meta["hand"], options)
        if self.meta["tendon"]:
            tendons = self.gym.get_asset_tendon_properties(asset)
            for i in range(self.gym.get_asset_tendon_count(asset)):
                for name, value in self.meta["tendon"].items():
                    setattr(tendons[i], name, value)
            self.gym.set_asset_tendon_properties(asset, tendons)
        names = self.gym.get_asset_rigid_body_names(asset)
        for tip in self.meta["tips"]:
            body = [short(n) for n in names].index(tip)
            self.gym.create_asset_force_sensor(asset, body, self.gymapi.Transform())
        return asset

    def pose(self, row):
        """A Transform from position and quaternion wxyz."""
        x, y, z, qw, qx, qy, qz = [float(v) for v in row]
        transform = self.gymapi.Transform()
        transform.p = self.gymapi.Vec3(x, y, z)
        transform.r = self.gymapi.Quat(qx, qy, qz, qw)
        return transform

    def create_envs(self):
        gym, api = self.gym, self.gymapi
        options = api.AssetOptions()
        options.override_com = options.override_inertia = False
        options.vhacd_enabled = False
        things = [gym.load_asset(self.sim, self.folder, f, options) for f in self.meta["objects"]]
        still = api.AssetOptions()
        still.fix_base_link = True
        table = gym.create_box(self.sim, 2.0, 2.0, 0.2, still)
        top = [0.0, 0.0, self.meta["table_height"] - 0.1, 1.0, 0.0, 0.0, 0.0]
        low, high = api.Vec3(-2, -2, 0), api.Vec3(2, 2, 2)
        count = len(self.rows)
        for i in range(count):
            env = gym.create_env(self.sim, low, high, max(1, int(np.sqrt(count))))
            # A filter bit in common keeps the hand from touching itself.
            start = self.pose(self.trial["root_pose"][i])
            hand = gym.create_actor(env, self.hand_asset, start, "hand", i, 1, 0)
            start = self.pose(self.trial["object_pose"][i])
            kind = things[int(self.trial["object_index"][i])]
            thing = gym.create_actor(env, kind, start, "object", i, 0, 0)
            board = gym.create_actor(env, table, self.pose(top), "table", i, 0, 0)
            gym.enable_actor_dof_force_sensors(env, hand)
            self.set_drives(env, hand)
            for actor in (hand, thing, board):
                shapes = gym.get_actor_rigid_shape_properties(env, actor)
                for shape in shapes:
                    shape.friction = float(self.trial["friction"][i])
                    shape.restitution = 0.0
                gym.set_actor_rigid_shape_properties(env, actor, shapes)
            self.envs.append(env)
            self.hands.append(hand)
            self.objects.append(thing)
        self.joints = [short(n) for n in gym.get_actor_dof_names(self.envs[0], self.hands[0])]
        self.bodies = [
            short(n) for n in gym.get_actor_rigid_body_names(self.envs[0], self.hands[0])
        ]
        missing = sorted(set(self.meta["joints"]) ^ set(self.joints))
        if missing:
            raise SystemExit(
                f"{self.meta['hand']}: joints of the plan and of the imported hand differ: "
                f"{', '.join(missing)}; Isaac Gym has {', '.join(self.joints)}"
            )

    def set_drives(self, env, hand):
        names = [short(n) for n in self.gym.get_actor_dof_names(env, hand)]
        properties = self.gym.get_actor_dof_properties(env, hand)
        for k, name in enumerate(self.meta["joints"]):
            at = names.index(name)
            for field in ("stiffness", "damping", "effort", "armature", "friction"):
                properties[field][at] = self.meta["drives"][field][k]
            properties["driveMode"][at] = int(self.gymapi.DOF_MODE_POS)
        self.gym.set_actor_dof_properties(env, hand, properties)

    def acquire(self):
        gym, wrap, count = self.gym, self.gymtorch.wrap_tensor, len(self.rows)
        self.root = wrap(gym.acquire_actor_root_state_tensor(self.sim))
        self.dof = wrap(gym.acquire_dof_state_tensor(self.sim))
        self.body = wrap(gym.acquire_rigid_body_state_tensor(self.sim))
        self.contact = wrap(gym.acquire_net_contact_force_tensor(self.sim))
        self.sensor = wrap(gym.acquire_force_sensor_tensor(self.sim))
        self.dof_force = wrap(gym.acquire_dof_force_tensor(self.sim))
        domain = self.gymapi.DOMAIN_SIM
        pairs = list(zip(self.envs, self.hands, self.objects))
        self.hand_row = [gym.get_actor_index(e, h, domain) for e, h, _ in pairs]
        self.object_row = [gym.get_actor_index(e, o, domain) for e, _, o in pairs]
        self.num_bodies = int(self.body.shape[0]) // count
        domain = self.gymapi.DOMAIN_ENV
        env, hand, thing = pairs[0]
        self.body_at = [
            gym.get_actor_rigid_body_index(env, hand, k, domain) for k in range(len(self.bodies))
        ]
        self.object_at = gym.get_actor_rigid_body_index(env, thing, 0, domain)

    def tensor(self, array):
        return self.torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self.device)

    def set_start(self):
        """Write the plan's initial states, velocities zero."""
        gym, unwrap = self.gym, self.gymtorch.unwrap_tensor
        gym.refresh_actor_root_state_tensor(self.sim)
        root = numpy_of(self.root)
        for i in range(len(self.rows)):
            for row, key in ((self.hand_row[i], "root_pose"), (self.object_row[i], "object_pose")):
                pose = self.trial[key][i]
                root[row] = 0
                root[row, 0:3], root[row, 3:6], root[row, 6] = pose[0:3], pose[4:7], pose[3]
        dof = np.zeros((len(self.rows), len(self.joints), 2), np.float32)
        order = [self.joints.index(n) for n in self.meta["joints"]]
        dof[:, order, 0] = self.trial["joint_pos"]
        self.start = (root, dof)
        self.kept = (self.tensor(root), self.tensor(dof.reshape(-1, 2)))  # alive until used
        gym.set_actor_root_state_tensor(self.sim, unwrap(self.kept[0]))
        gym.set_dof_state_tensor(self.sim, unwrap(self.kept[1]))

    def run(self):
        """All frames; arrays as `write_trace` takes them."""
        gym, unwrap, count = self.gym, self.gymtorch.unwrap_tensor, len(self.rows)
        order = [self.joints.index(n) for n in self.meta["joints"]]
        palm = self.bodies.index(self.meta["wrench_body"])
        self.set_start()
        rows = []
        for t in range(max(1, len(self.trial["target"]))):
            target = np.zeros((count, len(self.joints)), np.float32)
            wrench = np.zeros((2, count, self.num_bodies, 3), np.float32)
            if len(self.trial["target"]):
                target[:, order] = self.trial["target"][t]
                both = self.trial["wrench"][t]
                wrench[0, :, self.body_at[palm]] = both[:, 0:3]
                wrench[1, :, self.body_at[palm]] = both[:, 3:6]
            else:  # a probe without time: one frame that holds the pose
                target[:, order] = self.trial["joint_pos"]
            given = self.tensor(target.reshape(-1)), self.tensor(wrench[0].reshape(-1, 3)), (
                self.tensor(wrench[1].reshape(-1, 3)))  # fmt: skip
            gym.set_dof_position_target_tensor(self.sim, unwrap(given[0]))
            if np.any(wrench):
                gym.apply_rigid_body_force_tensors(
                    self.sim, unwrap(given[1]), unwrap(given[2]), self.gymapi.ENV_SPACE
                )
            gym.simulate(self.sim)
            gym.fetch_results(self.sim, True)
            rows.append(self.read(target, wrench[:, :, self.body_at[palm]]))
        return self.collect(rows)

    def read(self, target, wrench):
        gym, count = self.gym, len(self.rows)
        gym.refresh_actor_root_state_tensor(self.sim)
        gym.refresh_dof_state_tensor(self.sim)
        gym.refresh_rigid_body_state_tensor(self.sim)
        gym.refresh_net_contact_force_tensor(self.sim)
        gym.refresh_force_sensor_tensor(self.sim)
        gym.refresh_dof_force_tensor(self.sim)
        body = numpy_of(self.body).reshape(count, self.num_bodies, 13)
        contact = numpy_of(self.contact).reshape(count, self.num_bodies, 3)
        sensor = numpy_of(self.sensor).reshape(count, -1, 6)
        return {
            "root": numpy_of(self.root),
            "dof": numpy_of(self.dof).reshape(count, -1, 2),
            "body": body[:, self.body_at],
            "contact_force": contact[:, self.body_at],
            "object_contact_force": contact[:, [self.object_at]],
            "tip_force": sensor[..., 0:3],
            "tip_torque": sensor[..., 3:6],
            "joint_force": numpy_of(self.dof_force).reshape(count, -1),
            "target": target,
            "applied_force": wrench[0],
            "applied_torque": wrench[1],
        }

    def collect(self, rows):
        root = np.stack([self.start[0]] + [r["root"] for r in rows])
        dof = np.stack([self.start[1]] + [r["dof"] for r in rows])
        arrays = {"time": self.meta["dt"] * np.arange(len(rows) + 1)}
        arrays["joint_pos"], arrays["joint_vel"] = dof[..., 0], dof[..., 1]
        arrays.update(rigid_states("root", root[:, self.hand_row]))
        arrays.update(rigid_states("object", root[:, self.object_row][:, :, None]))
        arrays.update(rigid_states("body", np.stack([r["body"] for r in rows])))
        for name in ("contact_force", "object_contact_force", "tip_force", "tip_torque",
                     "joint_force", "target", "applied_force", "applied_torque"):  # fmt: skip
            arrays[name] = np.stack([r[name] for r in rows])
        return arrays

    def describe(self, repeat):
        axes, properties = actor_properties(
            self.gym, self.envs[0], self.hands[0], self.joints, self.bodies
        )
        axes.update(tip=list(self.meta["tips"]), object=["object"], actuator=self.joints)
        count = self.gym.get_asset_tendon_count(self.hand_asset)
        if count:
            axes["tendon"] = [
                short(self.gym.get_asset_tendon_name(self.hand_asset, i)) for i in range(count)
            ]
            found = self.gym.get_asset_tendon_properties(self.hand_asset)
            properties["tendon"] = columns([found[i] for i in range(count)], TENDON_FIELDS)
        meta = base_meta(self.gym, self.sim, self.meta["probe"], repeat, axes, properties)
        kinds = dict(zip(self.meta["joints"], self.meta["joint_types"]))
        meta["joint_types"] = [kinds[n] for n in self.joints]
        meta["wrench_body"] = self.meta["wrench_body"]
        # Objects differ between environments: all of them, where an axis has one name only.
        objects = []
        for env, thing in zip(self.envs, self.objects):
            rigid = self.gym.get_actor_rigid_body_properties(env, thing)
            shapes = self.gym.get_actor_rigid_shape_properties(env, thing)
            objects.append({
                "body": columns(rigid, ("mass", "com", "inertia")),
                "shape": columns(shapes, SHAPE_FIELDS),
            })  # fmt: skip
        meta["extra"] = {
            "plan_key": self.meta["key"],
            "labels": [self.meta["labels"][i] for i in self.rows],
            "objects": objects,
        }
        return meta

    def parameters(self):
        return {
            "trial": (np.array(self.rows, np.int32), "index"),
            "friction": (self.trial["friction"], "1"),
            "gravity": (self.trial["gravity"], "m/s^2"),
        }


def trace_name(probe, group, repeat):
    """File of one child process."""
    return f"{probe}_g{group}_r{repeat}.npz"


def run_probe(args):
    """One probe, one direction of gravity, one repeat: what a child process does."""
    meta, arrays = read_plan(os.path.join(args.plan, args.probe + ".npz"))
    rows = gravity_groups(arrays)[args.group]
    world = ProbeWorld(os.path.abspath(args.plan), meta, arrays, rows, not args.cpu)
    recorded = world.run()
    path = os.path.join(args.out, trace_name(args.probe, args.group, args.repeat))
    write_trace(path, world.describe(args.repeat), recorded, world.parameters())


def run_probes(args):
    """Every probe of the plan, in child processes: Isaac Gym takes one simulation per process."""
    names = sorted(f[:-4] for f in os.listdir(args.plan) if f.endswith(".npz"))
    unknown = sorted(set(args.only) - set(names))
    if unknown or not names:
        raise SystemExit(f"{args.plan} has no {unknown or 'probe'}; it has: {names}")
    failed = []
    for name in args.only or names:
        _, arrays = read_plan(os.path.join(args.plan, name + ".npz"))
        for group in range(len(gravity_groups(arrays))):
            for repeat in range(args.repeats):
                path = os.path.join(args.out, trace_name(name, group, repeat))
                if os.path.exists(path):
                    print("kept " + path)
                    continue
                command = [sys.executable, os.path.abspath(__file__), "_probe", args.plan, name]
                command += ["--out", args.out, "--group", str(group), "--repeat", str(repeat)]
                command += ["--cpu"] if args.cpu else []
                if subprocess.call(command):
                    failed.append(f"{name} group {group} repeat {repeat}")
    if failed:
        print("FAILED: " + "; ".join(failed))
    return 1 if failed else 0


# --- policy episodes -----------------------------------------------------------------------------


class EpisodeRecorder:
    """Records the episodes of a ShadowHandGrasp task while anything else drives it.

    `EpisodeRecorder(task, "traces", 512)` after the task was created; `finished` turns true when
    that many episodes are written. All environments start together: the task's random first phase
    is switched off and every environment is reset in the first step.
    """

    def __init__(self, task, out, episodes, name="policy", batch=64):
        self.task, self.out, self.name, self.batch = task, out, name, batch
        self.wanted, self.written, self.files, self.rows = episodes, 0, 0, []
        self.finished = False
        self.pre, self.post = task.pre_physics_step, task.post_physics_step
        task.pre_physics_step, task.post_physics_step = self.before, self.after
        task.random_time = False
        task.reset_buf[:] = 1
        contact = task.gym.acquire_net_contact_force_tensor(task.sim)
        from isaacgym import gymtorch

        self.contact = gymtorch.wrap_tensor(contact)

    def before(self, actions):
        task = self.task
        fresh = numpy_of(task.reset_buf) > 0
        raw = numpy_of(actions)
        self.pre(actions)
        if fresh.any() != fresh.all():
            raise RuntimeError(
                "environments end their episodes at different steps; record with one episode "
                "length and without other callers of reset"
            )
        if fresh.all():
            self.rows = []
            self.start = numpy_of(task.root_state_tensor), self.joints()
        self.step = {
            "action_raw": raw,
            "action": numpy_of(task.actions),
            "target": numpy_of(task.cur_targets)[:, numpy_of(task.actuated_dof_indices)],
            "applied_force": numpy_of(task.apply_forces[:, 1]),
            "applied_torque": numpy_of(task.apply_torque[:, 1]),
        }

    def joints(self):
        count = self.task.num_shadow_hand_dofs
        return numpy_of(self.task.dof_state).reshape(self.task.num_envs, -1, 2)[:, :count]

    def after(self):
        task = self.task
        self.post()
        task.gym.refresh_net_contact_force_tensor(task.sim)
        count, hand = task.num_envs, task.num_shadow_hand_bodies
        contact = numpy_of(self.contact).reshape(count, -1, 3)
        sensor = numpy_of(task.vec_sensor_tensor).reshape(count, -1, 6)
        row = dict(
            self.step,
            root=numpy_of(task.root_state_tensor),
            dof=self.joints(),
            body=numpy_of(task.rigid_body_states)[:, :hand],
            contact_force=contact[:, :hand],
            object_contact_force=contact[:, hand : hand + 1],
            tip_force=sensor[..., 0:3],
            tip_torque=sensor[..., 3:6],
            joint_force=numpy_of(task.dof_force_tensor)[:, : task.num_shadow_hand_dofs],
            goal_pos=numpy_of(task.goal_states)[:, 0:3],
            observation=numpy_of(task.obs_buf),
            reward=numpy_of(task.rew_buf),
            success=numpy_of(task.successes) > 0,
            reset=numpy_of(task.reset_buf) > 0,
        )
        self.rows.append(row)
        if row["reset"].all():
            self.write()

    def write(self):
        """The finished episodes, at most `batch` to a file."""
        task = self.task
        hands, things = numpy_of(task.hand_indices), numpy_of(task.object_indices)
        root = np.stack([self.start[0]] + [r["root"] for r in self.rows])
        dof = np.stack([self.start[1]] + [r["dof"] for r in self.rows])
        arrays = {"joint_pos": dof[..., 0], "joint_vel": dof[..., 1]}
        arrays.update(rigid_states("root", root[:, hands]))
        arrays.update(rigid_states("object", root[:, things][:, :, None]))
        arrays.update(rigid_states("body", np.stack([r["body"] for r in self.rows])))
        for name in self.rows[0]:
            if name in ARRAYS:
                arrays[name] = np.stack([r[name] for r in self.rows])
        per_env = {"object_id": numpy_of(task.object_id_buf).astype(np.int32)}
        scales = getattr(task, "object_scale_buf", None)
        if scales is not None and len(scales) == task.num_envs:
            per_env["object_scale"] = np.array([float(scales[i]) for i in range(task.num_envs)])
        parameters = self.parameters()
        meta = self.describe()
        dt = meta["dt"] * getattr(task, "control_freq_inv", 1)
        for first in range(0, task.num_envs, self.batch):
            rows = slice(first, min(first + self.batch, task.num_envs, first + self.wanted
                                    - self.written))  # fmt: skip
            if rows.stop <= rows.start:
                break
            part = {k: v[:, rows] for k, v in arrays.items()}
            part.update({k: v[rows] for k, v in per_env.items()})
            part["time"] = dt * np.arange(len(self.rows) + 1)
            path = os.path.join(self.out, f"{self.name}_{self.files:03d}.npz")
            write_trace(path, meta, part, {k: (v[rows], u) for k, (v, u) in parameters.items()})
            self.files += 1
            self.written += rows.stop - rows.start
        self.finished = self.written >= self.wanted
        self.rows = []

    def parameters(self):
        """What the task drew or holds per environment."""
        task, found = self.task, {}
        for name, attribute, unit in (
            ("z_theta", "z_theta", "rad"),
            ("target_qpos", "target_qpos", "rad"),
            ("target_hand_pos", "target_hand_pos", "m"),
            ("target_hand_rot", "target_hand_rot", "1, xyzw"),
            ("object_init_euler_xy", "object_init_euler_xy", "rad"),
            ("object_init_z", "object_init_z", "m"),
            ("visual_feature", "visual_feat_buf", "1"),
        ):
            if hasattr(task, attribute):
                values = numpy_of(getattr(task, attribute))
                found[name] = (values.reshape(task.num_envs, *values.shape[1:]), unit)
        return found

    def describe(self):
        task, gym = self.task, self.task.gym
        env, hand = task.envs[0], task.shadow_hands[0]
        names = gym.get_actor_dof_names(env, hand)
        bodies = [short(n) for n in gym.get_actor_rigid_body_names(env, hand)]
        axes, properties = actor_properties(gym, env, hand, [short(n) for n in names], bodies)
        driven = numpy_of(task.actuated_dof_indices)
        tips = numpy_of(task.fingertip_handles)
        axes.update(
            actuator=[short(names[int(i)]) for i in driven],
            tip=[bodies[int(i)] for i in tips],
            object=["object"],
            action=[f"a{i}" for i in range(task.num_actions)],
            observation=[f"o{i}" for i in range(task.num_obs)],
        )
        meta = base_meta(gym, task.sim, "policy_episode", 0, axes, properties)
        inverse = getattr(task, "control_freq_inv", 1)
        meta["substeps"] *= inverse
        meta["dt"] *= inverse
        meta["interval"] = meta["dt"]
        meta["joint_types"] = ["hinge"] * len(names)
        meta["wrench_body"] = bodies[1]  # the releases write to index 1, whatever is there
        cfg = getattr(task, "cfg", {}).get("env", {})
        meta["task"] = {"name": type(task).__name__, "module": type(task).__module__}
        meta["extra"] = {
            "object_codes": list(getattr(task, "object_code_list", [])),
            "env": {k: v for k, v in cfg.items() if isinstance(v, (bool, int, float, str))},
        }
        return meta


def run_policy(args):
    """Run the release's own program with its task's `step` wrapped."""
    from tasks.hand_base import base_task

    original = base_task.BaseTask.step
    state = {}

    def step(task, actions, *rest, **named):
        if "recorder" not in state:
            state["recorder"] = EpisodeRecorder(task, args.out, args.episodes, args.name)
        result = original(task, actions, *rest, **named)
        if state["recorder"].finished:
            print(f"recorded {state['recorder'].written} episodes")
            sys.stdout.flush()
            raise SystemExit(0)
        return result

    base_task.BaseTask.step = step
    sys.argv = list(args.command)
    runpy.run_path(args.command[0], run_name="__main__")
    recorder = state.get("recorder")
    done = recorder.written if recorder else 0
    print(f"the program ended after {done} of {args.episodes} episodes")
    return 1


def main(argv=None):
    """Command line entry; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what")
    probes = commands.add_parser("probes", help="run the probes of a plan folder")
    probes.add_argument("plan")
    probes.add_argument("--only", nargs="+", default=[], help="names of probes; default: all")
    probes.add_argument("--repeats", type=int, default=3)
    child = commands.add_parser("_probe")
    child.add_argument("plan")
    child.add_argument("probe")
    child.add_argument("--group", type=int, default=0)
    child.add_argument("--repeat", type=int, default=0)
    for each in (probes, child):
        each.add_argument("--cpu", action="store_true", help="PhysX and tensors on the CPU")
        each.add_argument("--out", required=True)
    policy = commands.add_parser("policy", help="record the episodes of a release's own command")
    policy.add_argument("--out", required=True)
    policy.add_argument("--episodes", type=int, default=512)
    policy.add_argument("--name", default="policy")
    policy.add_argument("command", nargs=argparse.REMAINDER, help="-- train.py ...")
    args = parser.parse_args(argv)
    if args.what == "probes":
        return run_probes(args)
    if args.what == "_probe":
        return run_probe(args)
    if args.what == "policy":
        args.command = [c for i, c in enumerate(args.command) if i or c != "--"]
        if not args.command:
            parser.error("give the program to run after --")
        sys.path.insert(0, os.getcwd())
        return run_policy(args)
    parser.print_help()
    return 2


if __name__ == "__main__":
    sys.exit(main())
