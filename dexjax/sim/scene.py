"""The simulated scene as one MjModel: a hand on its base, a table, and one of many objects.

Every object of a bank is compiled once on its own; the fields in which those models differ become
per-environment values of the one model that all environments share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import mujoco
import mujoco.batch
import numpy as np

import mjcf
from dexjax.core.errors import ConfigError
from dexjax.hands import Hand, load_hand
from dexjax.objects.asset import ObjectAsset

OBJECT_BODY = "object"
BASE_DOFS = ("base_x", "base_y", "base_z", "base_yaw", "base_pitch", "base_roll")
_FRICTION = (1.0, 0.005, 0.001)


@dataclass(frozen=True)
class SceneConfig:
    """How the hand is carried and driven, and where the table is."""

    hand: str = "shadow"
    """Hand name: a pair of files in `mjcf`."""
    base: Literal["servo", "wrench"] = "servo"
    """servo: six position servos through the grasp centre; wrench: a free body pushed by a force
    and torque on the palm, with the link damping of PhysX (UniDexGrasp)."""
    coupling: Literal["servo", "tendon"] = "servo"
    """Distal joints J0: own servo that follows J1's target, or the asset's fixed tendon."""
    finger_kp: float = 3.0
    """Finger position gain, N m/rad."""
    finger_damping: float = 0.1
    """Finger joint damping, N m s/rad."""
    finger_frictionloss: float = 0.0
    """Finger joint dry friction, N m; one constraint row per joint where not zero."""
    base_kp: tuple[float, float] = (5000.0, 100.0)
    """Base servo gains, N/m and N m/rad."""
    base_kv: tuple[float, float] = (220.0, 5.0)
    """Base servo damping, N s/m and N m s/rad."""
    base_force: tuple[float, float] = (150.0, 20.0)
    """Base servo limits, N and N m."""
    table_height: float = 0.0
    """World height of the table top, m."""
    max_pieces: int = 16
    """Convex pieces used per object; an object with more is simulated as its convex hull."""

    @property
    def base_dof(self) -> int:
        """Number of base position coordinates: 6 of the servo base, 7 of the free one."""
        return 6 if self.base == "servo" else 7


@dataclass(frozen=True)
class Scene:
    """A compiled scene: the shared model, and the values in which the objects' models differ."""

    config: SceneConfig
    hand: Hand
    model: mujoco.MjModel
    object_names: tuple[str, ...]
    object_fields: dict[str, np.ndarray]  # MjModel field -> (objects, *field shape)
    body_names: tuple[str, ...]  # hand bodies in `hand` order, then the object
    body_ids: np.ndarray  # (nbody,) rows of MjData
    object_qpos: int  # first qpos index of the object's free joint
    object_qvel: int
    finger_qpos: np.ndarray  # (n_joints,) qpos index of each finger joint, hand order
    finger_qvel: np.ndarray

    def object_model(self, index: int) -> mujoco.MjModel:
        """A stand-alone model with object `index`, for plain MuJoCo, viewers and tests."""
        model = self.model.__copy__()
        for name, values in self.object_fields.items():
            getattr(model, name)[...] = values[index]
        return model


def build_scene(
    objects: Sequence[ObjectAsset], config: SceneConfig | None = None, *, visual: bool = False
) -> Scene:
    """Compile the scene for a bank of objects.

    `visual` keeps the hand's visual geoms (slower; for pictures). Raises ConfigError when there is
    no object.
    """
    config = config or SceneConfig()
    if not objects:
        raise ConfigError("a scene needs at least one object; the object list is empty")
    hand = load_hand(config.hand)
    pieces = [_pieces(asset, config.max_pieces) for asset in objects]
    slots = max(len(p) for p in pieces)

    shared = hand_spec(config, hand, visual)
    for i, object_pieces in enumerate(pieces):
        for k, vertices in enumerate(object_pieces):
            shared.add_mesh(name=f"o{i}p{k}", uservert=np.asarray(vertices).ravel())
    fill_object(shared, objects[0], [f"o0p{k}" for k in range(len(pieces[0]))], slots)
    model = shared.compile()

    single = []
    for asset, object_pieces in zip(objects, pieces, strict=True):
        spec = hand_spec(config, hand, visual)
        for k, vertices in enumerate(object_pieces):
            spec.add_mesh(name=f"p{k}", uservert=np.asarray(vertices).ravel())
        fill_object(spec, asset, [f"p{k}" for k in range(len(object_pieces))], slots)
        single.append(spec.compile())
    fields = _differing_fields(model, single, [len(p) for p in pieces])

    return make_scene(model, config, hand, tuple(a.name for a in objects), fields)


def make_scene(
    model: mujoco.MjModel,
    config: SceneConfig,
    hand: Hand,
    object_names: tuple[str, ...],
    object_fields: dict[str, np.ndarray],
) -> Scene:
    """The scene of a compiled model, with the indices that tasks need."""
    names = (*hand.body_names, OBJECT_BODY)
    joint_ids = [model.joint(j).id for j in hand.joint_names]
    object_joint = model.joint("object_joint").id
    return Scene(
        config=config,
        hand=hand,
        model=model,
        object_names=object_names,
        object_fields=object_fields,
        body_names=names,
        body_ids=np.array([model.body(n).id for n in names]),
        object_qpos=int(model.jnt_qposadr[object_joint]),
        object_qvel=int(model.jnt_dofadr[object_joint]),
        finger_qpos=model.jnt_qposadr[joint_ids].copy(),
        finger_qvel=model.jnt_dofadr[joint_ids].copy(),
    )


def coupled_joints(hand: Hand) -> tuple[tuple[str, str], ...]:
    """(follower, leader) names of the joints without an actuator of their own."""
    names, driven = hand.joint_names, hand.actuator_joint
    return tuple(
        (name, names[driven[hand.joint_actuator[j]]])
        for j, name in enumerate(names)
        if j not in driven
    )


def _pieces(asset: ObjectAsset, most: int) -> list[np.ndarray]:
    if len(asset.pieces) <= most:
        return list(asset.pieces)
    from dexjax.objects.convex import convex_hull  # only scenes with a piece limit need it

    return [convex_hull(asset.vertices)]


def hand_spec(config: SceneConfig, hand: Hand, visual: bool) -> mujoco.MjSpec:
    """The scene without object geometry."""
    spec = mujoco.MjSpec.from_file(str(mjcf.path(f"{config.hand}_hand.xml")))
    _drive_fingers(spec, config, hand)
    if not visual:
        for geom in [g for g in spec.geoms if not g.contype and not g.conaffinity]:
            spec.delete(geom)
    if config.base == "servo":
        _servo_base(spec, config, hand)
    world = spec.worldbody
    world.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[1, 1, 0.1],
        pos=[0, 0, config.table_height],
        contype=0,
        conaffinity=3,
        friction=_FRICTION,
        rgba=[0.82, 0.80, 0.77, 1],
    )
    body = world.add_body(name=OBJECT_BODY)
    body.add_freejoint(name="object_joint")
    _contact_sensors(spec, hand)
    return spec


def _drive_fingers(spec: mujoco.MjSpec, config: SceneConfig, hand: Hand) -> None:
    for joint in spec.joints:
        if joint.name in hand.joint_names:
            joint.damping = np.array([config.finger_damping, 0, 0])[: np.size(joint.damping)]
            joint.frictionloss = config.finger_frictionloss
    for actuator in spec.actuators:
        _set_gain(actuator, config.finger_kp)
    coupled = coupled_joints(hand)
    if config.coupling == "servo":
        for tendon in list(spec.tendons):
            spec.delete(tendon)
        limits = {a.target: a.forcerange for a in spec.actuators}
        for follower, leader in coupled:
            actuator = spec.add_actuator(
                name=f"A_{follower}",
                target=follower,
                trntype=mujoco.mjtTrn.mjTRN_JOINT,
                ctrlrange=spec.joint(follower).range,
                ctrllimited=True,
                forcerange=limits[leader],
                forcelimited=True,
            )
            _set_gain(actuator, config.finger_kp)


def _set_gain(actuator: mujoco.MjsActuator, kp: float, kv: float = 0.0) -> None:
    actuator.gaintype = mujoco.mjtGain.mjGAIN_FIXED
    actuator.biastype = mujoco.mjtBias.mjBIAS_AFFINE
    actuator.gainprm[0] = kp
    actuator.biasprm[:3] = [0.0, -kp, -kv]


def _servo_base(spec: mujoco.MjSpec, config: SceneConfig, hand: Hand) -> None:
    """Replace the free joint by slides x, y, z and hinges z, y, x through the grasp centre.

    At zero coordinates the grasp centre is at the world origin, the palm faces down and the fingers
    point to -y.
    """
    root = spec.body(hand.body_names[0])
    for joint in list(root.joints):
        spec.delete(joint)
    quat = np.array([np.sqrt(0.5), np.sqrt(0.5), 0.0, 0.0])
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, quat)
    to_local = rotation.reshape(3, 3).T
    grasp_centre = np.asarray(hand.grasp_centre, np.float64)
    root.quat, root.pos = quat, -(to_local.T @ grasp_centre)
    axes = np.vstack([np.eye(3), np.eye(3)[::-1]])
    for i, (name, axis) in enumerate(zip(BASE_DOFS, axes, strict=True)):
        angular = int(i >= 3)
        root.add_joint(
            name=name,
            type=mujoco.mjtJoint.mjJNT_HINGE if angular else mujoco.mjtJoint.mjJNT_SLIDE,
            pos=grasp_centre,
            axis=to_local @ axis,
            armature=0.02 if angular else 0.0,
        )
        limit = config.base_force[angular]
        actuator = spec.add_actuator(
            name=f"A_{name}",
            target=name,
            trntype=mujoco.mjtTrn.mjTRN_JOINT,
            forcerange=[-limit, limit],
            forcelimited=True,
        )
        _set_gain(actuator, config.base_kp[angular], config.base_kv[angular])


def _contact_sensors(spec: mujoco.MjSpec, hand: Hand) -> None:
    """Net contact forces, world axes: object on finger, all on each distal link, table on hand."""
    body, geom, tree = (
        mujoco.mjtObj.mjOBJ_BODY,
        mujoco.mjtObj.mjOBJ_GEOM,
        mujoco.mjtObj.mjOBJ_XBODY,
    )

    def add(name: str, kind: int, obj: str, reftype: int, ref: str, data: int) -> None:
        sensor = spec.add_sensor(
            name=name,
            type=mujoco.mjtSensor.mjSENS_CONTACT,
            objtype=kind,
            objname=obj,
            reftype=reftype,
            refname=ref,
        )
        # intprm: data bit field, reduction (3 = net force), number of contacts
        sensor.intprm[0], sensor.intprm[1], sensor.intprm[2] = data, 3, 1

    force = 1 << mujoco.mjtConDataField.mjCONDATA_FORCE.value
    torque = 1 << mujoco.mjtConDataField.mjCONDATA_TORQUE.value
    position = 1 << mujoco.mjtConDataField.mjCONDATA_POS.value
    unknown = mujoco.mjtObj.mjOBJ_UNKNOWN
    for i, finger in enumerate(hand.finger_names):
        root = hand.body_names[hand.body_finger.index(i)]
        tip = hand.body_names[hand.fingertip_body[i]]
        add(f"force_{finger}", tree, root, body, OBJECT_BODY, force)
        add(f"wrench_{finger}", body, tip, unknown, "", force | torque | position)
    add("force_table", tree, hand.body_names[0], geom, "table", force)


def principal_inertia(asset: ObjectAsset) -> tuple[np.ndarray, np.ndarray]:
    """Principal moments (3,), ascending, and the quaternion (4,) of their axes, object frame."""
    principal, axes = np.linalg.eigh(asset.inertia)
    axes[:, 0] *= np.sign(np.linalg.det(axes))
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, axes.ravel())
    return principal, quat


def fill_object(spec: mujoco.MjSpec, asset: ObjectAsset, meshes: list[str], slots: int) -> None:
    """Give the object body its mass and `slots` mesh geoms; unused slots repeat a mesh and never
    collide."""
    body = spec.body(OBJECT_BODY)
    principal, quat = principal_inertia(asset)
    # A body whose inertia frame equals its own is stored in another layout ("simple"), which would
    # differ between objects; a 0.1 mrad turn keeps all alike and changes nothing that matters.
    tilt = np.array([1.0, 5e-5, 5e-5, 5e-5])
    mujoco.mju_mulQuat(quat, quat.copy(), tilt / np.linalg.norm(tilt))
    body.mass = asset.mass
    body.inertia = principal
    body.iquat = quat
    body.ipos = [0, 0, 0]
    body.explicitinertial = True
    for k in range(slots):
        used = k < len(meshes)
        body.add_geom(
            name=f"object_{k}",
            type=mujoco.mjtGeom.mjGEOM_MESH,
            meshname=meshes[k] if used else meshes[0],
            contype=2 if used else 0,
            conaffinity=1 if used else 0,
            friction=_FRICTION,
            priority=1,  # so that the object's friction holds in all of its contacts
            rgba=[0.35, 0.55, 0.85, 1] if used else [0, 0, 0, 0],
        )


def _differing_fields(
    shared: mujoco.MjModel, single: list[mujoco.MjModel], counts: list[int]
) -> dict[str, np.ndarray]:
    """Model fields in which the objects' own models differ, one row per object.

    Mesh ids are shifted to the shared model's. Raises ConfigError when models differ in structure.
    """
    skip = ("bvh", "body_bvh", "name", "mesh", "map")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    fields: dict[str, np.ndarray] = {}
    for name in sorted(mujoco.batch.MODEL_FIELDS):
        if name.startswith("opt.") or name.startswith(skip):
            continue
        mine = getattr(shared, name, None)
        if not isinstance(mine, np.ndarray) or mine.size == 0:
            continue
        rows = [np.asarray(getattr(m, name)) for m in single]
        if any(r.shape != mine.shape for r in rows):
            raise ConfigError(f"object models differ in the shape of {name}")
        stacked = np.stack(rows)
        if name == "geom_dataid":
            stacked = np.where(stacked >= 0, stacked + starts[:, None], -1).astype(np.int32)
        elif (stacked == stacked[0]).all():
            continue
        if name in ("body_simple", "dof_simplenum"):
            raise ConfigError(f"object models differ in structure ({name})")
        fields[name] = stacked
    return fields
