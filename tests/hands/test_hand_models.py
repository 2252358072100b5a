"""Our MJCF against the released hands: golden numbers always, the files where they are."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import pytest
from hand_references import (
    leap_reference,
    palm_frame_positions,
    random_postures,
    shadow_reference,
)

import mjcf

TOLERANCE = 1e-5  # m, the accuracy promised for the kinematics; golden numbers are float32 (1e-8)


def ours(name: str) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(str(mjcf.path(f"{name}_hand.xml")))


def names(model: mujoco.MjModel, kind: str) -> list[str]:
    count = {"joint": model.njnt, "body": model.nbody, "actuator": model.nu}[kind]
    return [getattr(model, kind)(i).name.removeprefix("robot0:") for i in range(count)]


@pytest.mark.parametrize("name", ["shadow", "leap"])
def test_kinematics_match_the_golden_numbers(name):
    golden = np.load(Path(__file__).parent / f"golden_{name}.npz")
    position = palm_frame_positions(ours(name), "palm", golden["qpos"].astype(float))
    assert position.shape == golden["position"].shape == (40, {"shadow": 23, "leap": 17}[name], 3)
    np.testing.assert_allclose(position, golden["position"], atol=TOLERANCE)


def test_shadow_is_unidexgrasps_hand_over_1000_postures(tmp_path):
    reference, model = shadow_reference(tmp_path), ours("shadow")
    assert names(reference, "joint") == names(model, "joint")[1:]
    assert names(reference, "actuator") == names(model, "actuator")
    assert names(reference, "body")[2:] == names(model, "body")[2:]
    qpos = random_postures(reference, 1000)
    np.testing.assert_allclose(
        palm_frame_positions(model, "palm", qpos),
        palm_frame_positions(reference, "robot0:palm", qpos),
        atol=TOLERANCE,
    )
    for field in ("body_mass", "body_inertia", "body_ipos", "actuator_forcerange",
                  "actuator_ctrlrange", "actuator_gainprm", "actuator_biasprm",
                  "tendon_range", "wrap_prm"):  # fmt: skip
        np.testing.assert_array_equal(getattr(model, field), getattr(reference, field), field)
    for field in ("dof_damping", "dof_armature", "dof_frictionloss"):
        np.testing.assert_array_equal(getattr(model, field)[6:], getattr(reference, field), field)
    np.testing.assert_array_equal(model.jnt_range[1:], reference.jnt_range)
    for finger in ("ff", "mf", "rf", "lf", "th"):
        tip = reference.site(f"robot0:S_{finger}tip")
        np.testing.assert_allclose(model.site(f"{finger}_tip").pos, tip.pos)


def test_shadow_collision_geoms_are_unidexgrasps(tmp_path):
    reference, model = shadow_reference(tmp_path), ours("shadow")
    found = [model.geom(i) for i in range(model.ngeom) if model.geom_contype[i]]
    assert len(found) == 18
    for geom in found:
        other = reference.geom(f"robot0:C_{geom.name.replace('_col', '')}")
        assert geom.type == other.type
        for field in ("size", "pos", "quat"):
            np.testing.assert_allclose(getattr(geom, field), getattr(other, field), err_msg=field)
        # ours adds to rolling friction (0.001 for 0.0001), which condim 3 contacts do not use
        np.testing.assert_allclose(geom.friction[:2], other.friction[:2])


def test_leap_is_menageries_hand_over_1000_postures():
    reference, model = leap_reference(), ours("leap")
    assert names(reference, "joint") == names(model, "joint")[1:]
    assert names(reference, "body")[1:] == names(model, "body")[2:]
    qpos = random_postures(reference, 1000)
    np.testing.assert_allclose(
        palm_frame_positions(model, "palm", qpos),
        palm_frame_positions(reference, "palm", qpos),
        atol=TOLERANCE,
    )
    np.testing.assert_allclose(model.body_mass[2:], reference.body_mass[1:])
    np.testing.assert_allclose(model.body_inertia[2:], reference.body_inertia[1:])
    for field in ("actuator_ctrlrange", "actuator_gainprm", "actuator_biasprm"):
        np.testing.assert_array_equal(getattr(model, field), getattr(reference, field), field)


@pytest.mark.parametrize("name", ["shadow", "leap"])
def test_model_conventions(name):
    """What scenes rely on: no gravity on the hand, no self-contact, visual geoms weightless."""
    model = ours(name)
    assert model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE
    np.testing.assert_array_equal(model.body_gravcomp[1:], 1.0)
    collision = model.geom_group == 3
    np.testing.assert_array_equal(model.geom_contype, collision)
    np.testing.assert_array_equal(model.geom_conaffinity, 0)
    np.testing.assert_array_equal(model.geom_condim[collision], 3)
    assert np.all(np.isin(model.geom_group, [2, 3]))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    assert data.ncon == 0
    # gravity compensated and at rest: the base accelerates only by the (tiny) actuator reactions
    assert np.abs(data.qacc[:3]).max() < 1e-3


def test_visual_shadow_hand_follows_the_collision_geoms():
    """Pictures must not deceive: every visual point of a link within 6 mm of its collision geom."""
    model = ours("shadow")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    for i in np.flatnonzero(model.geom_group == 2):
        body = model.geom_bodyid[i]
        partners = np.flatnonzero((model.geom_group == 3) & (model.geom_bodyid == body))
        if not len(partners) or model.body(body).name == "palm":
            continue
        assert min(mujoco.mj_geomDistance(model, data, i, j, 1.0, None) for j in partners) < 0
        reach = np.linalg.norm(data.geom_xpos[i] - data.geom_xpos[partners[0]])
        assert reach < model.geom_rbound[partners[0]] + 0.006, model.geom(i).name


def test_path_names_what_exists():
    with pytest.raises(FileNotFoundError, match="shadow_hand.xml"):
        mjcf.path("shadwo_hand.xml")
