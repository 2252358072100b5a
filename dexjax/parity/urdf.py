"""A hand from a URDF: the MJCF and TOML files that `dexjax.hands.load_hand` reads.

For comparing kinematics with recordings of other hands: meshes are left out, every joint is driven.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

import mujoco
import numpy as np

from dexjax.core.errors import DataError
from dexjax.hands.hand import Hand, load_hand

_COMPILER = {
    "fusestatic": "false",  # fixed links keep their names
    "discardvisual": "false",
    "strippath": "true",
}


def hand_from_urdf(
    urdf: str | Path, folder: str | Path, fingers: Mapping[str, tuple[str, str]]
) -> Hand:
    """Write `<stem>_hand.xml` and `.toml` into `folder` and load them.

    fingers: name -> (first link, fingertip link). The root link is the palm; its forward direction
    is that of the straight fingers, its normal the one in which the fingertips move when all joints
    close a little. Raises DataError for a file that is no hand with limited hinges.
    """
    urdf, folder = Path(urdf), Path(folder)
    spec = _without_meshes(urdf)
    palm = spec.worldbody.first_body()
    palm.add_freejoint()
    for joint in spec.joints:
        if joint.type == mujoco.mjtJoint.mjJNT_HINGE:
            actuator = spec.add_actuator(name=f"A_{joint.name}", target=joint.name)
            actuator.trntype = mujoco.mjtTrn.mjTRN_JOINT
            actuator.set_to_position(kp=1.0)
    try:
        model = spec.compile()
    except ValueError as error:
        raise DataError(f"{urdf}: MuJoCo cannot compile it: {error}") from error
    forward, normal = _directions(model, [tip for _, tip in fingers.values()], urdf)
    folder.mkdir(parents=True, exist_ok=True)
    xml = folder / f"{urdf.stem}_hand.xml"
    xml.write_text(spec.to_xml())
    xml.with_suffix(".toml").write_text(_side_file(palm.name, forward, normal, fingers))
    return load_hand(xml)


def _without_meshes(urdf: Path) -> mujoco.MjSpec:
    try:
        tree = ET.fromstring(urdf.read_text())
    except (OSError, UnicodeDecodeError, ET.ParseError) as error:
        raise DataError(f"{urdf}: cannot be read as XML: {error}") from error
    if tree.tag != "robot":
        raise DataError(f"{urdf}: root element is <{tree.tag}>; a URDF has <robot>")
    for old in tree.findall("mujoco"):
        tree.remove(old)
    ET.SubElement(ET.SubElement(tree, "mujoco"), "compiler", _COMPILER)
    for link in tree.iter("link"):
        for shape in [*link.findall("visual"), *link.findall("collision")]:
            link.remove(shape)
    try:
        return mujoco.MjSpec.from_string(ET.tostring(tree, encoding="unicode"))
    except ValueError as error:
        raise DataError(f"{urdf}: MuJoCo cannot read it: {error}") from error


def _directions(
    model: mujoco.MjModel, tips: list[str], urdf: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Forward and normal of the palm, unit vectors in its frame."""
    names = [model.body(i).name for i in range(model.nbody)]
    missing = [t for t in tips if t not in names]
    if missing:
        raise DataError(f"{urdf}: no link {missing[0]!r}; links: {', '.join(names[1:])}")
    ids = [names.index(t) for t in tips]
    data = mujoco.MjData(model)

    def places(bend: float) -> np.ndarray:
        mujoco.mj_resetData(model, data)
        low, high = model.jnt_range[1:].T
        data.qpos[7:] = np.clip(bend * (high - low), low, high)
        mujoco.mj_kinematics(model, data)
        return np.array(data.xpos[ids]).mean(0)

    straight = places(0.0)
    forward = straight / np.linalg.norm(straight)
    moved = places(0.3) - straight
    normal = moved - (moved @ forward) * forward
    return forward, normal / np.linalg.norm(normal)


def _side_file(
    palm: str, forward: np.ndarray, normal: np.ndarray, fingers: Mapping[str, tuple[str, str]]
) -> str:
    text = json.dumps  # TOML strings and arrays of numbers are written as JSON's
    lines = [
        "contact_candidates = []",
        "[palm]",
        f"body = {text(palm)}",
        f"grasp_centre = {text(palm)}",
        f"normal = {text(normal.tolist())}",
        f"forward = {text(forward.tolist())}",
        "[fingers]",
        *(f"{k} = {{ root = {text(r)}, tip = {text(t)} }}" for k, (r, t) in fingers.items()),
        "[keypoints]",
        f"wrist = {text(palm)}",
        "[postures]",
    ]
    return "\n".join(lines) + "\n"
