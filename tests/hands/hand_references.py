"""The released hands that ours are checked against; present only beside a full checkout."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import pytest

HANDS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "hands"


def shadow_reference(tmp_path: Path) -> mujoco.MjModel:
    """UniDexGrasp's hand; skips where it is absent. MuJoCo 3 refuses its option apirate."""
    source = HANDS / "unidexgrasp_shadow_isaac" / "open_ai_assets"
    if not source.is_dir():
        pytest.skip(f"UniDexGrasp's hand is not at {source}")
    for xml in (source / "hand").glob("*.xml"):
        text = xml.read_text().replace('apirate="200"', "")
        text = text.replace('"../stls/hand"', f'"{source / "stls" / "hand"}"')
        text = text.replace('njmax="500" nconmax="100"', "").replace('nstack="600000"', "")
        (tmp_path / xml.name).write_text(text)
    return mujoco.MjModel.from_xml_path(str(tmp_path / "shadow_hand.xml"))


def leap_reference() -> mujoco.MjModel:
    """MuJoCo Menagerie's right LEAP hand; skips where it is absent."""
    source = HANDS / "menagerie_leap_hand" / "right_hand.xml"
    if not source.is_file():
        pytest.skip(f"Menagerie's LEAP hand is not at {source}")
    return mujoco.MjModel.from_xml_path(str(source))


def palm_frame_positions(model: mujoco.MjModel, palm: str, qpos: np.ndarray) -> np.ndarray:
    """Positions (n, bodies from the palm on, 3) in the palm's frame, for qpos (n, nq)."""
    data = mujoco.MjData(model)
    body = model.body(palm).id
    out = []
    for q in qpos:
        data.qpos[-q.size :] = q  # a free joint, if any, comes first
        mujoco.mj_kinematics(model, data)
        out.append((data.xpos[body:] - data.xpos[body]) @ data.xmat[body].reshape(3, 3))
    return np.array(out)


def random_postures(model: mujoco.MjModel, count: int, seed: int = 0) -> np.ndarray:
    """Uniform within the limits of the hinges, (count, njoint)."""
    low, high = model.jnt_range[model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE].T
    return np.random.default_rng(seed).uniform(low, high, (count, low.size))
