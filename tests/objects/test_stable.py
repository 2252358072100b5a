"""Resting poses against what is known of boxes, tetrahedra, cylinders and balls."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
import shapes
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from dexjax.objects.stable import resting_directions, stable_poses, upright_quat


def solid(mesh: trimesh.Trimesh):
    """Pieces, mass and inertia of a convex mesh about its centre of mass."""
    points = mesh.vertices - mesh.center_mass
    mass = 500 * mesh.volume
    return [points], mass, mesh.moment_inertia * 500


def rotate(quat: np.ndarray, vector: np.ndarray) -> np.ndarray:
    out = np.empty(3)
    mujoco.mju_rotVecQuat(out, np.asarray(vector, float), np.asarray(quat, float))
    return out


@given(st.tuples(*[st.floats(-1, 1)] * 3))
def test_upright_quat_turns_up_to_z_without_yaw(direction):
    up = np.array(direction)
    if np.linalg.norm(up) < 1e-3:
        return
    quat = upright_quat(up)
    np.testing.assert_allclose(rotate(quat, up / np.linalg.norm(up)), [0, 0, 1], atol=1e-12)
    assert quat[3] == 0 and np.linalg.norm(quat) == pytest.approx(1)


def test_a_box_rests_on_its_six_faces():
    poses, notes = stable_poses(*solid(shapes.box()))
    assert notes == () and len(poses.quat) == 6
    assert sorted(poses.height) == pytest.approx(sorted([*shapes.BOX / 2] * 2), abs=1e-6)
    assert poses.probability.sum() == pytest.approx(1)
    # Solid angle of a rectangle 2a x 2b at height d: 4 atan(ab / (d sqrt(a^2 + b^2 + d^2))).
    a, b, c = shapes.BOX / 2
    for height, probability in zip(poses.height, poses.probability, strict=True):
        other = [s for s in (a, b, c) if abs(s - height) > 1e-6]
        expected = np.arctan(
            np.prod(other) / (height * np.sqrt(a * a + b * b + c * c))
        ) * 4 / (4 * np.pi)  # fmt: skip
        assert probability == pytest.approx(expected, rel=1e-6)


def test_a_leaning_prism_rolls_off_its_end():
    """A prism that leans beyond its base never stands on it: quasi-static rolling."""
    corners = np.array([[x + 0.1 * z / 0.1, y, z] for x in (-0.02, 0.02) for y in (-0.02, 0.02)
                        for z in (-0.05, 0.05)])  # fmt: skip
    ups, weight = resting_directions(corners)
    assert weight.sum() == pytest.approx(1)
    assert (np.abs(ups[:, 2]) < 0.9).all()
    poses, _ = stable_poses(*solid(trimesh.convex.convex_hull(corners)))
    tilt = np.array([rotate(q, [0, 0, 1])[2] for q in poses.quat])
    assert (np.abs(tilt) < 0.9).all()


@settings(max_examples=10)
@given(st.integers(0, 10_000))
def test_every_pose_of_a_random_hull_is_at_rest(seed):
    """Placed 0.1 mm above a plane and left alone for a second, the object keeps its pose."""
    rng = np.random.default_rng(seed)
    mesh = trimesh.convex.convex_hull(rng.normal(size=(20, 3)) * [0.02, 0.03, 0.05])
    pieces, mass, inertia = solid(mesh)
    poses, _ = stable_poses(pieces, mass, inertia)
    assert 1 <= len(poses.quat) <= 8
    assert (np.diff(poses.probability) <= 1e-12).all()
    spec = mujoco.MjSpec()
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[1, 1, 0.1])
    body = spec.worldbody.add_body()
    body.add_freejoint()
    spec.add_mesh(name="p", uservert=np.float32(pieces[0]).reshape(-1))
    body.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="p", density=500)
    model = spec.compile()
    data = mujoco.MjData(model)
    for quat, height, chance in zip(poses.quat, poses.height, poses.probability, strict=True):
        if chance < 0.05:  # on a tip: rests in the build's solver, may fall in this one (seed 6448)
            continue
        mujoco.mj_resetData(model, data)
        data.qpos[2], data.qpos[3:7] = height + 1e-4, quat
        for _ in range(500):
            mujoco.mj_step(model, data)
        up = np.array([rotate(q * [1, -1, -1, -1], [0, 0, 1]) for q in (quat, data.qpos[3:7])])
        # 10 degrees: poses closer than that are counted as one.
        assert up[0] @ up[1] > np.cos(np.deg2rad(10.5))


def test_a_cylinder_stands_and_lies():
    mesh = trimesh.creation.cylinder(radius=0.03, height=0.1, sections=32)
    poses, _ = stable_poses(*solid(mesh))
    tilt = np.array([abs(rotate(q, [0, 0, 1])[2]) for q in poses.quat])
    assert (tilt > 0.999).sum() == 2 and (tilt < 0.01).sum() >= 1
    # Lying on a facet of 32: between the inner and the outer radius.
    assert poses.height[tilt < 0.01] == pytest.approx(0.03, rel=0.006)


def test_a_ball_has_at_least_one_pose_at_its_radius():
    mesh = trimesh.creation.icosphere(subdivisions=2, radius=0.04)
    poses, _ = stable_poses(*solid(mesh))
    assert len(poses.quat) >= 1 and poses.height == pytest.approx(0.04, rel=0.02)


def test_a_roly_poly_that_never_stops_still_has_a_pose():
    """A fine ball without rolling friction, spun up by an off-centre mass: the fallback answers."""
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=0.04)
    points = mesh.vertices + [0, 0, 0.015]
    poses, _ = stable_poses([points], 0.1, np.eye(3) * 1e-5)
    assert len(poses.quat) >= 1 and np.isfinite(poses.height).all()
    # The centre of mass rests lowest: 40 - 15 mm above the plane.
    assert poses.height.min() == pytest.approx(0.025, abs=2e-3)
