"""A hand as data: read once from an MJCF file and the TOML file beside it, then passed to the pure
functions of `kinematics` and `geometry`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from flax import struct
from jax import Array

import mjcf
from dexjax.core.errors import DataError, unknown_name

# wrist, then four points per finger from base to tip: manopth's and OpenPose's order of 21
KEYPOINT_NAMES = (
    "wrist",
    *(
        f"{finger}_{point}"
        for finger in ("thumb", "index", "middle", "ring", "little")
        for point in ("base", "mid", "far", "tip")
    ),
)


@dataclass(frozen=True)
class CollisionGeom:
    """One collision primitive in the frame of its body. Capsules lie along their z axis."""

    name: str
    shape: str  # "capsule", "box" or "sphere"
    size: tuple[float, ...]  # MuJoCo's: capsule radius, half length; box half extents; radius
    pos: tuple[float, ...]  # (3,) m
    quat: tuple[float, ...]  # (4,) wxyz
    body: int  # index into Hand.body_names


@dataclass(frozen=True)
class CandidatePatch:
    """Where contact candidates lie on a collision geom: rows along it, columns around or across
    it, on the side that `direction` (body frame) points to."""

    geom: str
    direction: tuple[float, ...]
    rows: int
    columns: int
    spread: float  # capsule: half angle in rad covered around the axis; box: fraction of the face
    over_tip: float = 0.0  # capsule: rows go on over the far hemisphere by this angle in rad


@struct.dataclass
class Hand:
    """Kinematics and description of one hand. Arrays are pytree leaves, names are static.

    Bodies: parents come before children, body 0 carries the floating base. Joints: hinges in the
    order of the MJCF (`qpos` of all functions). Fingers: in the order of the TOML file.
    """

    body_pos: Array  # (nbody, 3) m, in the parent's frame at qpos = 0
    body_quat: Array  # (nbody, 4)
    joint_axis: Array  # (nbody, 3) unit axis of the body's hinge; arbitrary where it has none
    joint_anchor: Array  # (nbody, 3) m, in the body's frame
    lower: Array  # (njoint,) rad
    upper: Array  # (njoint,) rad
    coupling_ratio: Array  # (njoint,) joint = ratio * actuator target; 1 for driven joints
    fingertip_offset: Array  # (nfinger, 3) m, in the fingertip body's frame
    keypoint_offset: Array  # (nkeypoint, 3) m, in the keypoint body's frame
    grasp_centre: Array  # (3,) m, palm frame
    palm_normal: Array  # (3,) unit, palm frame: out of the palm, towards what is grasped
    palm_forward: Array  # (3,) unit, palm frame: along the straight fingers
    postures: dict[str, Array]  # name -> (njoint,) rad

    name: str = struct.field(pytree_node=False)
    body_names: tuple[str, ...] = struct.field(pytree_node=False)
    joint_names: tuple[str, ...] = struct.field(pytree_node=False)
    actuator_names: tuple[str, ...] = struct.field(pytree_node=False)
    finger_names: tuple[str, ...] = struct.field(pytree_node=False)
    keypoint_names: tuple[str, ...] = struct.field(pytree_node=False)
    body_parent: tuple[int, ...] = struct.field(pytree_node=False)  # -1 for the base
    body_joint: tuple[int, ...] = struct.field(pytree_node=False)  # -1 where welded
    body_finger: tuple[int, ...] = struct.field(pytree_node=False)  # -1 for palm and base
    actuator_joint: tuple[int, ...] = struct.field(pytree_node=False)  # (nactuator,)
    joint_actuator: tuple[int, ...] = struct.field(pytree_node=False)  # (njoint,) its own, leader's
    fingertip_body: tuple[int, ...] = struct.field(pytree_node=False)
    keypoint_body: tuple[int, ...] = struct.field(pytree_node=False)
    palm_body: int = struct.field(pytree_node=False)
    collision_geoms: tuple[CollisionGeom, ...] = struct.field(pytree_node=False)
    candidate_patches: tuple[CandidatePatch, ...] = struct.field(pytree_node=False)

    @property
    def num_joints(self) -> int:
        return len(self.joint_names)

    @property
    def num_actuators(self) -> int:
        return len(self.actuator_names)


def hand_names() -> tuple[str, ...]:
    """Names of the hands that ship with the library (`<name>_hand.xml` with a TOML file)."""
    folder = Path(mjcf.__file__).parent
    return tuple(sorted(p.name.removesuffix("_hand.toml") for p in folder.glob("*_hand.toml")))


def load_hand(name: str | Path, dtype: Any = jnp.float32) -> Hand:
    """Read a hand that ships with the library ("shadow", "leap"), or any MJCF path.

    The TOML file beside the MJCF (same stem) names fingers, keypoints, palm and postures.
    Raises ConfigError for an unknown name, DataError (file and field) for files that disagree.
    """
    if isinstance(name, Path) or str(name).endswith(".xml"):
        xml = Path(name)
    elif name in hand_names():
        xml = mjcf.path(f"{name}_hand.xml")
    else:
        raise unknown_name("hand", str(name), hand_names())
    side_file = xml.with_suffix(".toml")
    try:
        model = mujoco.MjModel.from_xml_path(str(xml))
    except ValueError as error:
        raise DataError(f"{xml}: MuJoCo cannot read it: {error}") from error
    try:
        table = tomllib.loads(side_file.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(
            f"{side_file}: cannot be read: {error}; see mjcf/shadow_hand.toml"
        ) from error
    return _Reader(xml, side_file, model, table).hand(dtype)


class _Reader:
    """Turns a compiled model and a TOML table into a Hand, naming file and field on error."""

    def __init__(
        self, xml: Path, side_file: Path, model: mujoco.MjModel, table: Mapping[str, Any]
    ) -> None:
        self.xml, self.side_file, self.model, self.table = xml, side_file, model, table
        self.bodies = tuple(model.body(i).name for i in range(1, model.nbody))  # less the world
        free, hinge = mujoco.mjtJoint.mjJNT_FREE, mujoco.mjtJoint.mjJNT_HINGE
        if not (model.njnt and model.jnt_type[0] == free and np.all(model.jnt_type[1:] == hinge)):
            raise DataError(f"{xml}: needs one <freejoint/> on the first body and hinges only")
        if np.any(model.body_jntnum > 1) or np.sum(model.body_parentid == 0) != 2:  # world itself
            raise DataError(f"{xml}: needs one tree with at most one joint per body")
        self.joints = tuple(model.joint(i).name for i in range(1, model.njnt))
        if not np.all(model.jnt_limited[1:]):
            raise DataError(f"{xml}: every hinge needs a range")

    def hand(self, dtype: Any) -> Hand:
        model = self.model
        body_joint = tuple(
            int(model.body_jntadr[i]) - 1 if model.body_jntnum[i] else -1
            for i in range(1, model.nbody)
        )
        body_joint = (-1, *body_joint[1:])  # the base's joint is the free joint
        axis = np.zeros((len(self.bodies), 3))
        axis[:, 2] = 1.0
        anchor = np.zeros_like(axis)
        for body, joint in enumerate(body_joint):
            if joint >= 0:
                axis[body], anchor[body] = model.jnt_axis[joint + 1], model.jnt_pos[joint + 1]
        body_parent = tuple(int(p) - 1 for p in model.body_parentid[1:])
        actuator_joint, joint_actuator, ratio = self._actuation()
        fingers = self._get("fingers", dict)
        tips = [
            self._point(f"fingers.{name}.tip", entry.get("tip")) for name, entry in fingers.items()
        ]
        keypoints = self._get("keypoints", dict)
        for name in keypoints:
            if name not in KEYPOINT_NAMES:
                raise self._error(f"keypoints.{name}", f"known: {', '.join(KEYPOINT_NAMES)}")
        points = {
            name: self._point(f"keypoints.{name}", keypoints[name])
            for name in KEYPOINT_NAMES
            if name in keypoints
        }
        palm = self._get("palm", dict)
        palm_body = self._body("palm.body", palm.get("body"))
        centre_body, centre = self._point("palm.grasp_centre", palm.get("grasp_centre"))
        if centre_body != palm_body:
            raise self._error("palm.grasp_centre", "must lie on the palm body")
        # inside a jit trace these must still become constants and not tracers
        with jax.ensure_compile_time_eval():
            return Hand(
                body_pos=jnp.asarray(model.body_pos[1:], dtype),
                body_quat=jnp.asarray(model.body_quat[1:], dtype),
                joint_axis=jnp.asarray(axis, dtype),
                joint_anchor=jnp.asarray(anchor, dtype),
                lower=jnp.asarray(model.jnt_range[1:, 0], dtype),
                upper=jnp.asarray(model.jnt_range[1:, 1], dtype),
                coupling_ratio=jnp.asarray(ratio, dtype),
                fingertip_offset=jnp.asarray([offset for _, offset in tips], dtype),
                keypoint_offset=jnp.asarray([offset for _, offset in points.values()], dtype),
                grasp_centre=jnp.asarray(centre, dtype),
                palm_normal=jnp.asarray(self._unit("palm.normal", palm.get("normal")), dtype),
                palm_forward=jnp.asarray(self._unit("palm.forward", palm.get("forward")), dtype),
                postures={
                    name: jnp.asarray(self._posture(name, entry), dtype)
                    for name, entry in self._get("postures", dict).items()
                },
                name=self.xml.stem.removesuffix("_hand"),
                body_names=self.bodies,
                joint_names=self.joints,
                actuator_names=tuple(model.actuator(i).name for i in range(model.nu)),
                finger_names=tuple(fingers),
                keypoint_names=tuple(points),
                body_parent=body_parent,
                body_joint=body_joint,
                body_finger=self._body_finger(fingers, body_parent),
                actuator_joint=actuator_joint,
                joint_actuator=joint_actuator,
                fingertip_body=tuple(body for body, _ in tips),
                keypoint_body=tuple(body for body, _ in points.values()),
                palm_body=palm_body,
                collision_geoms=self._collision_geoms(),
                candidate_patches=self._candidate_patches(),
            )

    def _actuation(self) -> tuple[tuple[int, ...], tuple[int, ...], np.ndarray]:
        """Joint of each actuator; for each joint the actuator that sets it, and the ratio.

        A joint without an actuator follows another one through a fixed tendon of two joints:
        coef_follower q_follower + coef_leader q_leader = 0.
        """
        model = self.model
        if np.any(model.actuator_trntype != mujoco.mjtTrn.mjTRN_JOINT):
            raise DataError(f"{self.xml}: actuators must drive joints")
        actuator_joint = tuple(int(j) - 1 for j in model.actuator_trnid[:, 0])
        joint_actuator = [-1] * len(self.joints)
        ratio = np.ones(len(self.joints))
        for actuator, joint in enumerate(actuator_joint):
            joint_actuator[joint] = actuator
        for tendon in range(model.ntendon):
            start, count = model.tendon_adr[tendon], model.tendon_num[tendon]
            joints = model.wrap_objid[start : start + count] - 1
            coefs = model.wrap_prm[start : start + count]
            driven = [k for k in range(count) if joints[k] in actuator_joint]
            if count != 2 or len(driven) != 1:
                continue  # no coupling of a passive joint to a driven one
            leader, follower = driven[0], 1 - driven[0]
            joint_actuator[joints[follower]] = actuator_joint.index(joints[leader])
            ratio[joints[follower]] = -coefs[leader] / coefs[follower]
        if -1 in joint_actuator:
            passive = self.joints[joint_actuator.index(-1)]
            raise DataError(f"{self.xml}: joint {passive!r} has neither actuator nor tendon")
        return actuator_joint, tuple(joint_actuator), ratio

    def _collision_geoms(self) -> tuple[CollisionGeom, ...]:
        model = self.model
        sizes = {"sphere": 1, "capsule": 2, "box": 3}
        geoms = []
        for i in range(model.ngeom):
            if not (model.geom_contype[i] or model.geom_conaffinity[i]):
                continue
            shape = mujoco.mjtGeom(model.geom_type[i]).name.removeprefix("mjGEOM_").lower()
            name = model.geom(i).name
            if shape not in sizes:
                raise DataError(
                    f"{self.xml}: collision geom {name!r} is a {shape}; use {', '.join(sizes)}"
                )
            geoms.append(
                CollisionGeom(
                    name=name,
                    shape=shape,
                    size=tuple(model.geom_size[i, : sizes[shape]].tolist()),
                    pos=tuple(model.geom_pos[i].tolist()),
                    quat=tuple(model.geom_quat[i].tolist()),
                    body=int(model.geom_bodyid[i]) - 1,
                )
            )
        return tuple(geoms)

    def _candidate_patches(self) -> tuple[CandidatePatch, ...]:
        geoms = {self.model.geom(i).name for i in range(self.model.ngeom)}
        patches = []
        for index, entry in enumerate(self._get("contact_candidates", list)):
            field = f"contact_candidates[{index}]"
            missing = {"geoms", "direction", "rows", "columns", "spread"} - set(entry)
            if missing:
                raise self._error(field, f"lacks {sorted(missing)}")
            direction = self._unit(f"{field}.direction", entry["direction"])
            for geom in entry["geoms"]:
                if geom not in geoms:
                    raise self._error(f"{field}.geoms", f"no geom {geom!r} in {self.xml.name}")
                patches.append(
                    CandidatePatch(
                        geom=geom,
                        direction=tuple(direction.tolist()),
                        rows=int(entry["rows"]),
                        columns=int(entry["columns"]),
                        spread=float(entry["spread"]),
                        over_tip=float(entry.get("over_tip", 0.0)),
                    )
                )
        return tuple(patches)

    def _body_finger(
        self, fingers: Mapping[str, Any], body_parent: tuple[int, ...]
    ) -> tuple[int, ...]:
        """Index of the finger that each body belongs to: the subtree of its root body."""
        roots = [
            self._body(f"fingers.{name}.root", entry.get("root")) for name, entry in fingers.items()
        ]
        finger = [-1] * len(self.bodies)
        for body in range(1, len(self.bodies)):
            finger[body] = roots.index(body) if body in roots else finger[body_parent[body]]
        return tuple(finger)

    def _posture(self, name: str, entry: Any) -> np.ndarray:
        field = f"postures.{name}"
        if not isinstance(entry, dict) or set(entry) != set(self.joints):
            wrong = set(self.joints) ^ set(entry if isinstance(entry, dict) else ())
            raise self._error(field, f"needs a value for every joint; check {sorted(wrong)}")
        values = np.array([float(entry[joint]) for joint in self.joints])
        low, high = self.model.jnt_range[1:].T
        if np.any(values < low) or np.any(values > high):
            bad = self.joints[int(np.argmax((values < low) | (values > high)))]
            raise self._error(f"{field}.{bad}", "outside the joint's range")
        return values

    def _point(self, field: str, entry: Any) -> tuple[int, np.ndarray]:
        """A point fixed to a body, given as the name of a site, or of a body (its origin)."""
        sites = {self.model.site(i).name: i for i in range(self.model.nsite)}
        if entry in sites:
            site = self.model.site(sites[entry])
            return int(site.bodyid[0]) - 1, np.array(site.pos)
        if entry in self.bodies:
            return self.bodies.index(entry), np.zeros(3)
        raise self._error(field, f"{entry!r} is neither a site nor a body of {self.xml.name}")

    def _body(self, field: str, name: Any) -> int:
        if name not in self.bodies:
            raise self._error(field, f"{name!r} is not a body of {self.xml.name}")
        return self.bodies.index(name)

    def _unit(self, field: str, value: Any) -> np.ndarray:
        vector = np.asarray(value if isinstance(value, list) else [], float)
        if vector.shape != (3,) or not np.linalg.norm(vector) > 0.0:
            raise self._error(field, "needs three numbers that are not all zero")
        return vector / np.linalg.norm(vector)

    def _get(self, field: str, kind: type) -> Any:
        value = self.table.get(field)
        if not isinstance(value, kind):
            raise self._error(field, "missing or of the wrong kind; see mjcf/shadow_hand.toml")
        return value

    def _error(self, field: str, problem: str) -> DataError:
        return DataError(f"{self.side_file}: {field}: {problem}")
