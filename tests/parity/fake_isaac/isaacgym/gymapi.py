"""Scenes, actors and the tensor API. Motion: driven joints go a fifth of the way to their target
in each step, bodies follow by forward kinematics, a free hand gains velocity
by force over its mass, objects fall until z = 0. Written for Python 3.6."""
# ruff: noqa: B905 (Python 3.6 has no strict zip)

import os
import xml.etree.ElementTree as ET

import numpy as np

SIM_PHYSX, UP_AXIS_Z, ENV_SPACE, DOMAIN_SIM, DOMAIN_ENV = 1, 1, 7, 2, 1
DOF_MODE_NONE, DOF_MODE_POS = 0, 1
DOF = np.dtype(
    [("hasLimits", "?"), ("lower", "f4"), ("upper", "f4"), ("driveMode", "i4"), ("velocity", "f4"),
     ("effort", "f4"), ("stiffness", "f4"), ("damping", "f4"), ("friction", "f4"),
     ("armature", "f4")]
)  # fmt: skip


class Vec3:
    def __init__(self, x=0.0, y=0.0, z=0.0):
        self.x, self.y, self.z = x, y, z


class Quat:
    def __init__(self, x=0.0, y=0.0, z=0.0, w=1.0):
        self.x, self.y, self.z, self.w = x, y, z, w


class Transform:
    def __init__(self):
        self.p, self.r = Vec3(), Quat()


class Bag:
    """Property objects: attributes as given."""

    def __init__(self, **fields):
        self.__dict__.update(fields)


class AssetOptions(Bag):
    def __init__(self):
        Bag.__init__(self, fix_base_link=False, disable_gravity=False, linear_damping=0.0)


class SimParams(Bag):
    def __init__(self):
        physx = Bag(use_gpu=True, solver_type=1, num_position_iterations=4, contact_offset=0.02)
        Bag.__init__(self, dt=1 / 60.0, substeps=2, up_axis=0, gravity=Vec3(0, 0, -9.81),
                     use_gpu_pipeline=False, physx=physx)  # fmt: skip


def multiply(a, b):
    """Quaternions xyzw."""
    v = a[3] * b[:3] + b[3] * a[:3] + np.cross(a[:3], b[:3])
    return np.append(v, a[3] * b[3] - np.dot(a[:3], b[:3]))


def rotate(q, v):
    t = 2 * np.cross(q[:3], v)
    return v + q[3] * t + np.cross(q[:3], t)


def numbers(text, default):
    return np.array([float(x) for x in text.split()]) if text else np.array(default, float)


class Asset:
    """Bodies (name, parent, pos, quat xyzw) and joints (name, body, kind, axis, pos, range)."""

    def __init__(self, options):
        self.options, self.bodies, self.joints, self.mass = options, [], [], []
        self.tendons, self.sensors, self.shapes = [], [], 1

    def mjcf(self, path):
        root = ET.parse(path).getroot()
        self.shapes = 0
        for body in root.find("worldbody").findall("body"):
            self.add(body, -1)
        for fixed in root.iter("fixed"):
            ends = numbers(fixed.get("range"), [0, 0])
            self.tendons.append(Bag(name=fixed.get("name"), limit_stiffness=0.0, damping=0.0,
                                    stiffness=0.0, fixed_lower_limit=ends[0]))  # fmt: skip
        return self

    def add(self, body, parent):
        quat = np.roll(numbers(body.get("quat"), [1, 0, 0, 0]), -1)
        me = len(self.bodies)
        self.bodies.append((body.get("name"), parent, numbers(body.get("pos"), [0] * 3), quat))
        inertial = body.find("inertial")
        self.mass.append(float(inertial.get("mass")))
        self.shapes += len(body.findall("geom"))
        for joint in body.findall("joint"):
            self.joints.append((joint.get("name"), me, joint.get("type", "hinge"),
                                numbers(joint.get("axis"), [0, 0, 1]),
                                numbers(joint.get("pos"), [0] * 3),
                                numbers(joint.get("range"), [0, 0])))  # fmt: skip
        for child in body.findall("body"):
            self.add(child, me)

    def urdf(self, path):
        link = ET.parse(path).getroot().find("link")
        self.bodies.append((link.get("name"), -1, np.zeros(3), np.array([0, 0, 0, 1.0])))
        self.mass.append(float(link.find("inertial/mass").get("value")))
        files = [m.get("filename") for m in link.iter("mesh")]
        assert files and all(os.path.exists(os.path.join(os.path.dirname(path), f)) for f in files)
        self.shapes = len(files)
        return self

    def kinematics(self, root, q):
        """States of all bodies (bodies, 7) from the root's pose and joint positions."""
        out = np.zeros((len(self.bodies), 7))
        for b, (_, parent, pos, quat) in enumerate(self.bodies):
            if parent < 0:
                p, r = root[:3].copy(), root[3:7].copy()
                p, r = p + rotate(r, pos), multiply(r, quat)
            else:
                p = out[parent, :3] + rotate(out[parent, 3:], pos)
                r = multiply(out[parent, 3:], quat)
            for k, (_, body, kind, axis, anchor, _) in enumerate(self.joints):
                if body != b:
                    continue
                axis = axis / np.linalg.norm(axis)
                if kind == "slide":
                    p = p + rotate(r, axis * q[k])
                else:
                    turn = np.append(np.sin(q[k] / 2) * axis, np.cos(q[k] / 2))
                    p = p + rotate(r, anchor - rotate(turn, anchor))
                    r = multiply(r, turn)
            out[b] = np.append(p, r)
        return out


class Actor:
    def __init__(self, asset, pose, name, body_at):
        self.asset, self.name, self.body_at = asset, name, body_at
        self.root = np.zeros(13, np.float32)
        p, r = pose.p, pose.r
        self.root[:7] = p.x, p.y, p.z, r.x, r.y, r.z, r.w
        self.dof = np.zeros((len(asset.joints), 2), np.float32)
        self.target = np.zeros(len(asset.joints), np.float32)
        self.force = np.zeros(3)
        self.props = np.zeros(len(asset.joints), DOF)
        self.props["damping"] = 0.25  # as if the importer had made it so
        for k, joint in enumerate(asset.joints):
            self.props["lower"][k], self.props["upper"][k] = joint[5]
        self.props["hasLimits"] = True
        self.props["effort"] = np.inf
        self.shape_props = [Bag(friction=0.7, restitution=0.3, filter=0, thickness=0.001)
                            for _ in range(asset.shapes)]  # fmt: skip


class Sim:
    def __init__(self, params):
        self.params, self.envs, self.ready, self.applied = params, [], False, False


class Gym:
    def create_sim(self, compute, graphics, engine, params):
        assert engine == SIM_PHYSX and params.physx.solver_type == 1
        self.sim = Sim(params)
        return self.sim

    def get_sim_params(self, sim):
        return sim.params

    def load_asset(self, sim, folder, file, options):
        path = os.path.join(folder, file)
        assert os.path.exists(path), path
        return Asset(options).urdf(path) if file.endswith(".urdf") else Asset(options).mjcf(path)

    def create_box(self, sim, x, y, z, options):
        asset = Asset(options)
        asset.bodies.append(("box", -1, np.zeros(3), np.array([0, 0, 0, 1.0])))
        asset.mass.append(1.0)
        return asset

    def get_asset_tendon_properties(self, asset):
        return asset.tendons

    def set_asset_tendon_properties(self, asset, tendons):
        asset.tendons = tendons

    def get_asset_tendon_count(self, asset):
        return len(asset.tendons)

    def get_asset_tendon_name(self, asset, i):
        return asset.tendons[i].name

    def get_asset_rigid_body_names(self, asset):
        return [b[0] for b in asset.bodies]

    def create_asset_force_sensor(self, asset, body, pose):
        assert 0 <= body < len(asset.bodies)
        asset.sensors.append(body)

    def create_env(self, sim, low, high, per_row):
        sim.envs.append([])
        return sim.envs[-1]

    def create_actor(self, env, asset, pose, name, group, mask, segment):
        assert not self.sim.ready
        start = sum(len(a.asset.bodies) for a in env)
        env.append(Actor(asset, pose, name, start))
        return len(env) - 1

    def get_actor_dof_names(self, env, actor):
        return [j[0] for j in env[actor].asset.joints]

    def get_actor_rigid_body_names(self, env, actor):
        return [b[0] for b in env[actor].asset.bodies]

    def get_actor_dof_properties(self, env, actor):
        return env[actor].props.copy()

    def set_actor_dof_properties(self, env, actor, props):
        env[actor].props = props.copy()

    def get_actor_rigid_shape_properties(self, env, actor):
        return env[actor].shape_props

    def set_actor_rigid_shape_properties(self, env, actor, props):
        env[actor].shape_props = props

    def get_actor_rigid_body_properties(self, env, actor):
        identity = Bag(x=Vec3(1, 0, 0), y=Vec3(0, 1, 0), z=Vec3(0, 0, 1))
        return [Bag(mass=m, com=Vec3(), inertia=identity) for m in env[actor].asset.mass]

    def enable_actor_dof_force_sensors(self, env, actor):
        pass

    def prepare_sim(self, sim):
        sim.ready = True
        sim.actors = [a for env in sim.envs for a in env]
        bodies = sum(len(a.asset.bodies) for a in sim.actors)
        sensors = sum(len(a.asset.sensors) for a in sim.actors)
        dofs = sum(len(a.asset.joints) for a in sim.actors)
        # NaN until refreshed: reading too early shows.
        sim.buffers = {
            "root": np.full((len(sim.actors), 13), np.nan, np.float32),
            "dof": np.full((dofs, 2), np.nan, np.float32),
            "body": np.full((bodies, 13), np.nan, np.float32),
            "contact": np.full((bodies, 3), np.nan, np.float32),
            "sensor": np.full((sensors, 6), np.nan, np.float32),
            "dof_force": np.full(dofs, np.nan, np.float32),
        }

    def get_actor_index(self, env, actor, domain):
        assert domain == DOMAIN_SIM
        return self.sim.actors.index(env[actor])

    def get_actor_rigid_body_index(self, env, actor, body, domain):
        assert domain == DOMAIN_ENV
        return env[actor].body_at + body

    def acquire_actor_root_state_tensor(self, sim):
        return sim.buffers["root"]

    def acquire_dof_state_tensor(self, sim):
        return sim.buffers["dof"]

    def acquire_rigid_body_state_tensor(self, sim):
        return sim.buffers["body"]

    def acquire_net_contact_force_tensor(self, sim):
        return sim.buffers["contact"]

    def acquire_force_sensor_tensor(self, sim):
        return sim.buffers["sensor"]

    def acquire_dof_force_tensor(self, sim):
        return sim.buffers["dof_force"]

    def refresh_actor_root_state_tensor(self, sim):
        sim.buffers["root"][:] = [a.root for a in sim.actors]

    def refresh_dof_state_tensor(self, sim):
        sim.buffers["dof"][:] = np.concatenate([a.dof for a in sim.actors])

    def refresh_rigid_body_state_tensor(self, sim):
        rows = []
        for a in sim.actors:
            state = np.zeros((len(a.asset.bodies), 13))
            state[:, :7] = a.asset.kinematics(a.root[:7].astype(float), a.dof[:, 0])
            state[:, 7:] = a.root[7:]
            rows.append(state)
        sim.buffers["body"][:] = np.concatenate(rows)

    def refresh_net_contact_force_tensor(self, sim):
        """The body's index in x, its environment in y."""
        rows = []
        for e, env in enumerate(sim.envs):
            count = sum(len(a.asset.bodies) for a in env)
            rows.append(np.stack([np.arange(count), np.full(count, e), np.zeros(count)], 1))
        sim.buffers["contact"][:] = np.concatenate(rows)

    def refresh_force_sensor_tensor(self, sim):
        """The sensor's body in the force's x, a torque of 1 about z."""
        found = [b for a in sim.actors for b in a.asset.sensors]
        sim.buffers["sensor"][:] = [[b, 0, 0, 0, 0, 1] for b in found]

    def refresh_dof_force_tensor(self, sim):
        sim.buffers["dof_force"][:] = np.concatenate([
            a.props["stiffness"] * (a.target - a.dof[:, 0]) for a in sim.actors
        ])  # fmt: skip

    def set_actor_root_state_tensor(self, sim, array):
        assert array.shape == (len(sim.actors), 13) and array.dtype == np.float32
        for a, row in zip(sim.actors, array):
            a.root[:] = row

    def set_dof_state_tensor(self, sim, array):
        assert array.shape == sim.buffers["dof"].shape
        at = 0
        for a in sim.actors:
            a.dof[:] = array[at : at + len(a.dof)]
            at += len(a.dof)

    def set_dof_position_target_tensor(self, sim, array):
        assert array.shape == (len(sim.buffers["dof"]),)
        at = 0
        for a in sim.actors:
            a.target[:] = array[at : at + len(a.dof)]
            at += len(a.dof)

    def apply_rigid_body_force_tensors(self, sim, force, torque, space):
        assert space == ENV_SPACE and force.shape == torque.shape == sim.buffers["contact"].shape
        at = 0
        for a in sim.actors:
            count = len(a.asset.bodies)
            a.force = force[at : at + count].sum(0).astype(float)
            at += count

    def simulate(self, sim):
        dt, gravity = sim.params.dt, sim.params.gravity
        pull = np.array([gravity.x, gravity.y, gravity.z])
        for a in sim.actors:
            before = a.dof[:, 0].copy()
            driven = (a.props["driveMode"] == DOF_MODE_POS) & (a.props["stiffness"] > 0)
            a.dof[:, 0] += np.where(driven, 0.2 * (a.target - before), 0)
            a.dof[:, 1] = (a.dof[:, 0] - before) / dt
            if a.asset.options.fix_base_link:
                continue
            a.root[7:10] += (a.force / sum(a.asset.mass)) * dt
            if not a.asset.options.disable_gravity:
                a.root[7:10] += pull * dt
            a.root[:3] += a.root[7:10] * dt
            if a.name == "object" and a.root[2] < 0:
                a.root[2], a.root[7:10] = 0, 0
            a.force = np.zeros(3)

    def fetch_results(self, sim, wait):
        pass


_GYM = Gym()


def acquire_gym():
    return _GYM
