"""The reference: PhysX 5 on the CPU through SAPIEN, built from our own compiled MjModel.

One description serves both simulators, so that what differs is the physics. SAPIEN 3.0.3 carries
PhysX 5.3.1; Isaac Gym has its own build and mostly runs on the GPU, so this is a stand-in for it.
"""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import mujoco
import numpy as np

from dexjax.core.errors import ConfigError
from dexjax.objects.asset import ObjectAsset
from dexjax.parity.probe import RECORDED, Probe, Recording
from dexjax.sim.followers import DAMPING, STIFFNESS
from dexjax.sim.physics import LINK_DAMPING
from dexjax.sim.scene import OBJECT_BODY, Scene

# Links between the joints of one body carry no mass in MuJoCo; PhysX needs some.
_LINK_MASS, _LINK_INERTIA = 1e-5, 1e-8


@dataclass(frozen=True)
class PhysxConfig:
    """Settings of the PhysX scene; defaults are those of UniDexGrasp's ShadowHandGrasp."""

    timestep: float = 1 / 120
    substeps: int = 2
    """Steps in one frame of 1/60 s."""
    solver: Literal["tgs", "pgs"] = "tgs"
    position_iterations: int = 8
    velocity_iterations: int = 0
    contact_offset: float = 0.002
    rest_offset: float = 0.0
    bounce_threshold: float = 0.2
    max_depenetration: float = 1000.0
    tendon_reciprocal: bool = True
    """Fixed tendons act with 1 / coefficient (couples J0 to J1), else with the coefficient."""


@lru_cache(maxsize=1)
def why_unavailable() -> str | None:
    """Why the reference cannot run here; None if it can."""
    if importlib.util.find_spec("sapien") is None:
        return "SAPIEN is not installed: pip install 'dexjax[parity]' (Linux on x86-64)"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no libvulkan: only needed for pictures
            import sapien.physx  # noqa: F401
    except ImportError as e:
        return f"SAPIEN cannot be imported ({e}); it needs libX11: apt install libx11-6"
    return None


@lru_cache(maxsize=1)
def _sapien() -> tuple[Any, Any, Any]:
    """SAPIEN, its physx module, and the engine, which must live as long as any scene.

    The tolerance length 1.0 makes PhysX's friction distances those of Isaac (SAPIEN: a tenth).
    """
    reason = why_unavailable()
    if reason:
        raise ConfigError(f"the PhysX reference cannot run: {reason}")
    import sapien
    import sapien.physx as physx

    return sapien, physx, physx.PhysxEngine(1.0, 10.0)


def cooked(asset: ObjectAsset) -> ObjectAsset:
    """The asset with its convex pieces as PhysX has them.

    PhysX merges faces that are nearly coplanar when it prepares a hull: built-in pieces lose up to
    a tenth of their volume. Both simulators get what is left, so that they have the same shapes.
    """
    _, physx, _ = _sapien()
    pieces = []
    for piece in asset.pieces:
        vertices = np.asarray(piece, np.float32)
        while True:  # until nothing is lost any more
            shape = physx.PhysxCollisionShapeConvexMesh(
                vertices=vertices,
                scale=np.ones(3, np.float32),
                material=physx.PhysxMaterial(1, 1, 0),
            )
            left = np.unique(np.asarray(shape.vertices, np.float32), axis=0)
            if len(left) == len(vertices):
                break
            vertices = left
        pieces.append(vertices.astype(np.float64))
    return replace(asset, pieces=tuple(pieces))


class PhysxSimulator:
    """Runs probes in PhysX, every trial in a scene of its own; repeats are bitwise equal."""

    def __init__(self, config: PhysxConfig | None = None, name: str = "physx") -> None:
        self.config = config or PhysxConfig()
        self.name = name

    def settings(self) -> dict:
        """Versions and settings that a recording depends on."""
        sapien, _, _ = _sapien()
        return {"simulator": f"sapien {sapien.__version__}", **asdict(self.config)}

    def run(self, probe: Probe) -> Recording:
        """The recording of all trials, one after the other."""
        trials = [self._trial(probe, i) for i in range(probe.num_trials)]
        return {k: np.stack([t[k] for t in trials], axis=1) for k in trials[0]}

    def _trial(self, probe: Probe, i: int) -> Recording:
        scene = probe.scene
        object_id, params = int(probe.object_id[i]), probe.object_params[i]
        world = World(scene, self.config, object_id, params, probe.gravity[i])
        world.set_state(probe.qpos[i], probe.qvel[i])
        rows = [world.record()]
        for ctrl, wrench in zip(probe.ctrl[:, i], probe.wrench[:, i], strict=True):
            world.step(ctrl, wrench)
            rows.append(world.record())
        return {k: np.stack([r[k] for r in rows]).astype(np.float32) for k in RECORDED}


class World:
    """One PhysX scene with the bodies, joints, drives and tendons of a scene's MjModel."""

    def __init__(
        self,
        scene: Scene,
        config: PhysxConfig,
        object_id: int,
        params: np.ndarray,
        gravity: np.ndarray,
    ) -> None:
        """params: (2,) the object's mass factor, and the friction of everything."""
        model = scene.object_model(object_id)
        body = model.body(OBJECT_BODY).id
        model.body_mass[body] *= params[0]
        model.body_inertia[body] *= params[0]
        friction = float(params[1])
        self._sapien, physx, _ = _sapien()
        self._physx, self.model, self.scene, self.config = physx, model, scene, config
        physx.set_scene_config(
            gravity=np.asarray(gravity, np.float32),
            bounce_threshold=config.bounce_threshold,
            enable_tgs=config.solver == "tgs",
            enable_pcm=True,
            enable_enhanced_determinism=True,
        )
        physx.set_body_config(
            solver_position_iterations=config.position_iterations,
            solver_velocity_iterations=config.velocity_iterations,
            sleep_threshold=0.0,
        )
        physx.set_shape_config(contact_offset=config.contact_offset, rest_offset=config.rest_offset)
        self._material = physx.PhysxMaterial(friction, friction, 0.0)
        self._system = physx.PhysxCpuSystem()
        self._world = self._sapien.Scene([self._system])
        self._world.set_timestep(config.timestep)
        self._wrench_base = scene.config.base == "wrench"
        self._entities: list[Any] = []  # of the articulation, in tree order
        self._links: dict[int, Any] = {}  # MuJoCo body -> PhysX component
        self._joints: dict[int, Any] = {}  # MuJoCo joint (not free) -> PhysX joint
        self._drive = np.zeros((model.nv, 3))  # stiffness, damping and force limit, of each dof
        self._static()
        self._build_articulation()
        self._build_object()
        self._tendons()
        self._target = np.zeros(model.nv)
        self._finger = {
            self._links[b].entity.per_scene_id: int(f)
            for b, f in zip(scene.body_ids[:-1], scene.hand.body_finger, strict=True)
        }
        # A copy of its own takes megabytes; from here on only the layout is read, which all share.
        self.model = scene.model

    # --- building ---------------------------------------------------------------------------

    def _pose(self, pos: np.ndarray, quat: np.ndarray) -> Any:
        return self._sapien.Pose(np.asarray(pos, np.float32), np.asarray(quat, np.float32))

    def _shapes(self, component: Any, body: int) -> None:
        """Attach the collision geoms of a body, with MuJoCo's contype and conaffinity."""
        model, physx = self.model, self._physx
        for g in range(
            model.body_geomadr[body], model.body_geomadr[body] + model.body_geomnum[body]
        ):
            if not (model.geom_contype[g] or model.geom_conaffinity[g]):
                continue
            kind, size = mujoco.mjtGeom(model.geom_type[g]), model.geom_size[g]
            quat = model.geom_quat[g]
            if kind == mujoco.mjtGeom.mjGEOM_BOX:
                shape = physx.PhysxCollisionShapeBox(size.astype(np.float32), self._material)
            elif kind == mujoco.mjtGeom.mjGEOM_CAPSULE:  # PhysX: along x, MuJoCo: along z
                shape = physx.PhysxCollisionShapeCapsule(size[0], size[1], self._material)
                quat = _product(quat, _rotation_to(np.array([0.0, 0.0, 1.0])))
            elif kind == mujoco.mjtGeom.mjGEOM_SPHERE:
                shape = physx.PhysxCollisionShapeSphere(size[0], self._material)
            elif kind == mujoco.mjtGeom.mjGEOM_PLANE:  # PhysX: normal x, MuJoCo: normal z
                shape = physx.PhysxCollisionShapePlane(self._material)
                quat = _product(quat, _rotation_to(np.array([0.0, 0.0, 1.0])))
            elif kind == mujoco.mjtGeom.mjGEOM_MESH:
                mesh = model.geom_dataid[g]
                start = model.mesh_vertadr[mesh]
                vertices = model.mesh_vert[start : start + model.mesh_vertnum[mesh]]
                shape = physx.PhysxCollisionShapeConvexMesh(
                    vertices=vertices, scale=np.ones(3, np.float32), material=self._material
                )
            else:
                raise ConfigError(
                    f"the PhysX reference has no {kind.name} geom ({model.geom(g).name})"
                )
            shape.local_pose = self._pose(model.geom_pos[g], quat)
            # SAPIEN's first two words mean what MuJoCo's two masks do.
            shape.set_collision_groups(
                [int(model.geom_contype[g]), int(model.geom_conaffinity[g]), 0, 0]
            )
            component.attach(shape)

    def _static(self) -> None:
        component = self._physx.PhysxRigidStaticComponent()
        self._shapes(component, 0)
        entity = self._sapien.Entity()
        entity.add_component(component)
        self._world.add_entity(entity)
        self._table = entity.per_scene_id

    def _mass(self, component: Any, body: int) -> None:
        model = self.model
        component.set_mass(float(model.body_mass[body]))
        component.set_inertia(model.body_inertia[body].astype(np.float32))
        component.set_cmass_local_pose(self._pose(model.body_ipos[body], model.body_iquat[body]))

    def _common(self, component: Any, body: int) -> None:
        component.set_disable_gravity(bool(self.model.body_gravcomp[body] == 1))
        component.set_max_depenetration_velocity(self.config.max_depenetration)
        component.set_linear_damping(0.0)
        component.set_angular_damping(0.0)

    def _link(self, parent: Any, name: str, body: int | None, shapes: bool = True) -> Any:
        """A link of the articulation; without a body one that only separates two joints."""
        link = self._physx.PhysxArticulationLinkComponent(parent)
        link.name = name
        if body is None or self.model.body_mass[body] == 0:
            link.set_mass(_LINK_MASS)
            link.set_inertia(np.full(3, _LINK_INERTIA, np.float32))
            link.set_disable_gravity(True)
            link.set_linear_damping(0.0)
            link.set_angular_damping(0.0)
        if body is not None:
            if shapes:
                self._shapes(link, body)
            if self.model.body_mass[body] > 0:
                self._mass(link, body)
            self._common(link, body)
            if self._wrench_base:
                link.set_linear_damping(LINK_DAMPING)
                link.set_angular_damping(LINK_DAMPING)
        entity = self._sapien.Entity()
        entity.name = name
        entity.add_component(link)
        self._entities.append(entity)
        return link

    def _build_articulation(self) -> None:
        """Bodies of the hand in tree order. A body with several hinges becomes a chain of links."""
        model = self.model
        bodies = [b for b in range(1, model.nbody) if model.body(b).name != OBJECT_BODY]
        free = model.jnt_type[model.body_jntadr[bodies[0]]] == mujoco.mjtJoint.mjJNT_FREE
        anchor = None
        if not free:
            anchor = self._link(None, "world", None)
            anchor.joint.type = "fixed"
        for body in bodies:
            parent = self._links.get(int(model.body_parentid[body]), anchor)
            name = model.body(body).name
            if parent is None:
                link = self._link(None, name, body)
                link.joint.type = "undefined"  # floating
                self._links[body] = link
                continue
            frame = self._pose(model.body_pos[body], model.body_quat[body])
            first, count = model.body_jntadr[body], model.body_jntnum[body]
            if count == 0:
                link = self._link(parent, name, body)
                link.joint.type = "fixed"
                link.joint.pose_in_parent, link.joint.pose_in_child = frame, self._pose(*_UNIT)
            for j in range(first, first + count):
                last = j == first + count - 1
                link = self._link(
                    parent, name if last else f"{name}_{j - first}", body if last else None
                )
                self._joint(link.joint, j, frame)
                parent, frame = link, self._pose(*_UNIT)
            self._links[body] = link
        for entity in self._entities:
            self._world.add_entity(entity)
        self._articulation = self._links[bodies[0]].articulation
        self._free = free
        self._root = bodies[0]
        # SAPIEN orders joints by link; find MuJoCo's joint of each.
        by_name = {joint.name: j for j, joint in self._joints.items()}
        self._order = np.array([by_name[j.name] for j in self._articulation.active_joints])
        self._articulation.set_solver_position_iterations(self.config.position_iterations)
        self._articulation.set_solver_velocity_iterations(self.config.velocity_iterations)
        self._articulation.set_sleep_threshold(0.0)

    def _joint(self, joint: Any, j: int, frame: Any) -> None:
        """A hinge or slide with limits, armature and the drive of its position actuator."""
        model = self.model
        hinge = model.jnt_type[j] == mujoco.mjtJoint.mjJNT_HINGE
        joint.name = model.joint(j).name
        joint.type = "revolute" if hinge else "prismatic"
        own = self._pose(model.jnt_pos[j], _rotation_to(model.jnt_axis[j]))
        joint.pose_in_parent, joint.pose_in_child = frame * own, own
        limit = model.jnt_range[j] if model.jnt_limited[j] else np.array([-np.inf, np.inf])
        joint.set_limits(limit[None].astype(np.float32))
        dof = model.jnt_dofadr[j]
        joint.set_armature(np.array([model.dof_armature[dof]], np.float32))
        joint.set_friction(float(model.dof_frictionloss[dof]))
        stiffness, damping, force = (
            0.0,
            float(model.dof_damping[dof]),
            float(np.finfo(np.float32).max),
        )
        for a in range(model.nu):
            if model.actuator_trntype[a] == mujoco.mjtTrn.mjTRN_JOINT and (
                model.actuator_trnid[a, 0] == j
            ):
                stiffness = float(model.actuator_gainprm[a, 0])
                damping -= float(model.actuator_biasprm[a, 2])
                if model.actuator_forcelimited[a]:
                    force = float(model.actuator_forcerange[a, 1])
        joint.set_drive_property(stiffness, damping, force, "force")
        self._drive[dof] = stiffness, damping, force
        self._joints[j] = joint

    def _build_object(self) -> None:
        body = self.model.body(OBJECT_BODY).id
        component = self._physx.PhysxRigidDynamicComponent()
        self._shapes(component, body)
        self._mass(component, body)
        self._common(component, body)
        component.set_solver_position_iterations(self.config.position_iterations)
        component.set_solver_velocity_iterations(self.config.velocity_iterations)
        component.set_sleep_threshold(0.0)
        entity = self._sapien.Entity()
        entity.name = OBJECT_BODY
        entity.add_component(component)
        self._world.add_entity(entity)
        self._links[body] = component
        self._object_entity, self._object = entity.per_scene_id, component

    def _tendons(self) -> None:
        """Fixed tendons over two joints of neighbouring links, with UniDexGrasp's limit spring."""
        model = self.model
        for t in range(model.ntendon):
            adr, num = model.tendon_adr[t], model.tendon_num[t]
            pairs = sorted(
                (int(model.wrap_objid[w]), float(model.wrap_prm[w])) for w in range(adr, adr + num)
            )
            first = int(model.jnt_bodyid[pairs[0][0]])
            chain = [self._links[int(model.body_parentid[first])]]
            chain += [self._links[int(model.jnt_bodyid[j])] for j, _ in pairs]
            coefficients = [c for _, c in pairs]
            inverse = self.config.tendon_reciprocal
            self._articulation.create_fixed_tendon(
                chain,
                [0.0, *coefficients],
                [0.0, *(1 / c if inverse else c for c in coefficients)],
                damping=DAMPING,
                low=float(model.tendon_range[t, 0]),
                high=float(model.tendon_range[t, 1]),
                limit_stiffness=STIFFNESS,
            )

    # --- running ----------------------------------------------------------------------------

    def set_state(self, qpos: np.ndarray, qvel: np.ndarray) -> None:
        """Put everything at MuJoCo's coordinates."""
        model, art = self.model, self._articulation
        qpos, qvel = np.asarray(qpos, np.float64), np.asarray(qvel, np.float64)
        if self._free:  # the root's centre of mass is its origin in our hands
            art.set_root_pose(self._pose(qpos[:3], qpos[3:7]))
            art.set_root_linear_velocity(qvel[:3].astype(np.float32))
            art.set_root_angular_velocity(_rotate(qpos[3:7], qvel[3:6]).astype(np.float32))
        art.set_qpos(qpos[model.jnt_qposadr[self._order]].astype(np.float32))
        art.set_qvel(qvel[model.jnt_dofadr[self._order]].astype(np.float32))
        at, v = self.scene.object_qpos, self.scene.object_qvel
        self._object.entity_pose = self._pose(qpos[at : at + 3], qpos[at + 3 : at + 7])
        self._object.set_linear_velocity(qvel[v : v + 3].astype(np.float32))
        turning = _rotate(qpos[at + 3 : at + 7], qvel[v + 3 : v + 6])
        self._object.set_angular_velocity(turning.astype(np.float32))

    def step(self, ctrl: np.ndarray, wrench: np.ndarray) -> None:
        """One frame at constant targets and wrench."""
        model = self.model
        self._target = np.zeros(model.nv)
        for a in range(model.nu):
            j = int(model.actuator_trnid[a, 0])
            self._joints[j].set_drive_target(float(ctrl[a]))
            self._target[model.jnt_dofadr[j]] = ctrl[a]
        palm = self._links[int(self.scene.body_ids[self.scene.hand.palm_body])]
        for _ in range(self.config.substeps):
            if self._wrench_base:
                palm.add_force_torque(wrench[:3].astype(np.float32), wrench[3:].astype(np.float32))
            self._world.step()

    def record(self) -> Recording:
        """The state in MuJoCo's coordinates, body poses, and the last step's contact forces."""
        model, art, scene = self.model, self._articulation, self.scene
        qpos, qvel = np.zeros(model.nq), np.zeros(model.nv)
        qpos[model.jnt_qposadr[self._order]] = art.get_qpos()
        qvel[model.jnt_dofadr[self._order]] = art.get_qvel()
        free = [(self._object, scene.object_qpos, scene.object_qvel)]
        if self._free:
            free.append((self._links[self._root], 0, 0))
        for component, at, v in free:
            pose = component.entity_pose
            qpos[at : at + 3], qpos[at + 3 : at + 7] = pose.p, pose.q
            qvel[v : v + 3] = component.linear_velocity
            qvel[v + 3 : v + 6] = _rotate(_conjugate(pose.q), component.angular_velocity)
        poses = [self._links[int(b)].entity_pose for b in scene.body_ids]
        finger, table = self._forces()
        return {
            "qpos": qpos,
            "qvel": qvel,
            "body_pos": np.array([p.p for p in poses]),
            "body_quat": np.array([p.q for p in poses]),
            "finger_force": finger,
            "table_force": np.asarray(np.linalg.norm(table)),
            "finite": np.asarray(np.isfinite([*qpos, *qvel]).all()),
        }

    def drive_forces(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """(nv,) force of each drive at (nq,), (nv,) by its law, which PhysX does not report."""
        at = np.zeros(self.model.nv)
        dofs = self.model.jnt_dofadr[self._order]
        at[dofs] = qpos[self.model.jnt_qposadr[self._order]]
        stiffness, damping, limit = self._drive.T
        return np.clip(stiffness * (self._target - at) - damping * qvel, -limit, limit)

    def tip_wrenches(self) -> np.ndarray:
        """(fingers, 6) net contact force (N) and its torque about the origin (N m) of each last
        link, world axes, of the last step; without friction."""
        scene = self.scene
        tips = [self._links[int(scene.body_ids[b])] for b in scene.hand.fingertip_body]
        row = {link.entity.per_scene_id: k for k, link in enumerate(tips)}
        found = np.zeros((len(tips), 6))
        for contact in self._system.get_contacts():
            for body, sign in zip(contact.bodies, (1.0, -1.0), strict=True):
                k = row.get(body.entity.per_scene_id)
                if k is None:
                    continue
                origin = np.asarray(tips[k].entity_pose.p)
                for point in contact.points:
                    force = sign * np.asarray(point.impulse) / self.config.timestep
                    found[k, :3] += force
                    found[k, 3:] += np.cross(np.asarray(point.position) - origin, force)
        return found

    def _forces(self) -> tuple[np.ndarray, np.ndarray]:
        """(5, 3) of the object on each finger and (3,) of the table on the hand, N: the normal
        parts, since SAPIEN reports no friction."""
        fingers = np.zeros((len(self.scene.hand.finger_names), 3))
        table = np.zeros(3)
        for contact in self._system.get_contacts():
            ids = [body.entity.per_scene_id for body in contact.bodies]
            force = sum(np.asarray(p.impulse) for p in contact.points) / self.config.timestep
            for mine, other, sign in ((0, 1, 1.0), (1, 0, -1.0)):  # impulses act on the first
                finger = self._finger.get(ids[mine])
                if finger is None:
                    continue
                if ids[other] == self._object_entity and finger >= 0:
                    fingers[finger] += sign * force
                elif ids[other] == self._table:
                    table += sign * force
        return fingers, table


_UNIT = (np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0]))


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out = np.zeros(4)
    mujoco.mju_mulQuat(out, np.asarray(a, np.float64), np.asarray(b, np.float64))
    return out


def _conjugate(quat: np.ndarray) -> np.ndarray:
    return np.asarray(quat, np.float64) * [1, -1, -1, -1]


def _rotate(quat: np.ndarray, vector: np.ndarray) -> np.ndarray:
    out = np.zeros(3)
    mujoco.mju_rotVecQuat(out, np.asarray(vector, np.float64), np.asarray(quat, np.float64))
    return out


def _rotation_to(axis: np.ndarray) -> np.ndarray:
    """Quaternion that turns the x axis, along which PhysX joints and capsules lie, to `axis`."""
    x, axis = np.array([1.0, 0.0, 0.0]), np.asarray(axis, np.float64)
    axis = axis / np.linalg.norm(axis)
    if axis[0] < -1 + 1e-9:
        return np.array([0.0, 0.0, 0.0, 1.0])
    quat = np.concatenate([[1 + x @ axis], np.cross(x, axis)])
    return quat / np.linalg.norm(quat)
