"""Contacts from distance grids against C MuJoCo's primitives, and concave objects."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from mjx_objects import BALL, PLATE, ROD, ball, box, rod
from scipy.spatial import Delaunay

from dexjax.core.errors import DataError
from dexjax.core.rotations import quat_to_matrix
from dexjax.objects.builtin import builtin_asset
from dexjax.objects.scale import scaled
from dexjax.sim.contact import _support, find_contacts, hand_shape
from dexjax.sim.distance import DistanceTable, bricks, num_cells, signed_distance
from dexjax.sim.mjx_scene import build_mjx_scene, distance_table, table_bytes

OBJECTS = {
    "box": (0, f'type="box" size="{PLATE[0]} {PLATE[1]} {PLATE[2]}"'),
    "sphere": (1, f'type="sphere" size="{BALL}"'),
    "capsule": (2, f'type="capsule" size="{ROD[0]} {ROD[1]}"'),
}


@pytest.fixture(scope="module")
def scene():
    mug = builtin_asset("mug", 0, sdf=True)
    return build_mjx_scene([box("plate", PLATE, 0.1), ball(), rod(), mug])


@pytest.fixture(scope="module")
def find(scene):
    """find(object_id, xpos, xmat) with as many slots as there are patches; the hand's shape."""
    shape = hand_shape(scene.hand, scene.body_ids.tolist())
    body = int(scene.body_ids[-1])
    slots = (len(shape.group), 6, 4)
    call = jax.jit(lambda i, p, m: find_contacts(shape, scene.table, i, p, m, body, 0.0, slots)[0])
    return call, shape


def _poses(scene, qpos):
    data = mujoco.MjData(scene.model)
    data.qpos[:] = qpos
    mujoco.mj_kinematics(scene.model, data)
    return data.xpos.astype(np.float32), data.xmat.reshape(-1, 3, 3).astype(np.float32)


@pytest.mark.parametrize("kind", OBJECTS)
def test_contacts_equal_those_of_mujoco(scene, find, kind):
    """Each active contact of the hand with the object: distance, normal and point."""
    call, shape = find
    index, geom = OBJECTS[kind]
    pair = mujoco.MjModel.from_xml_string(
        f"""<mujoco><worldbody><geom {geom}/><body name="s"><freejoint/>
        <geom name="s" type="sphere" size="0.01" mass="1"/></body></worldbody></mujoco>"""
    )
    data, sphere = mujoco.MjData(pair), pair.geom("s").id
    rng = np.random.default_rng(0)
    object_body = int(scene.body_ids[-1])
    errors, seen = [], 0
    for _ in range(60):
        qpos = scene.model.qpos0.copy()
        qpos[2] = 1.0
        low, high = np.asarray(scene.hand.lower), np.asarray(scene.hand.upper)
        qpos[scene.finger_qpos] = rng.uniform(low, low + 0.6 * (high - low))
        # Surfaces overlap by millimetres: put the object so that it touches one sphere.
        xpos, xmat = _poses(scene, qpos)
        k = rng.integers(len(shape.radius))
        centre = xpos[shape.body[k]] + xmat[shape.body[k]] @ shape.centre[k]
        quat = rng.normal(size=4)
        quat /= np.linalg.norm(quat)
        direction = rng.normal(size=3)
        turn = np.asarray(quat_to_matrix(quat))
        reach = _reach(scene.table, index, direction / np.linalg.norm(direction))
        at = scene.object_qpos
        away = direction / np.linalg.norm(direction) * (reach + shape.radius[k] - 0.001)
        qpos[at : at + 3], qpos[at + 3 : at + 7] = centre - turn @ away, quat
        xpos, xmat = _poses(scene, qpos)
        found = call(index, xpos, xmat)
        dist = np.asarray(found.dist)
        centres = xpos[shape.body] + np.einsum("sij,sj->si", xmat[shape.body], shape.centre)
        for c in np.flatnonzero((dist < 0) & (dist > -0.005) & (np.asarray(found.body1) > 0)):
            # The contact's sphere lies its radius plus half the distance behind the point.
            point, normal = np.asarray(found.pos)[c], np.asarray(found.normal)[c]
            gap = point - normal * (shape.radius + 0.5 * dist[c])[:, None] - centres
            s = np.linalg.norm(gap, axis=1).argmin()
            pair.geom_size[sphere, 0] = pair.geom_rbound[sphere] = shape.radius[s]
            data.qpos[:3] = xmat[object_body].T @ (centres[s] - xpos[object_body])
            data.qpos[3:] = [1, 0, 0, 0]
            mujoco.mj_forward(pair, data)
            assert data.ncon == 1, (kind, dist[c], s)
            true = data.contact[0]
            sign = 1.0 if true.geom1 == sphere else -1.0
            n = xmat[object_body] @ (sign * true.frame[:3])
            p = xpos[object_body] + xmat[object_body] @ true.pos
            seen += 1
            errors.append([abs(dist[c] - true.dist), np.linalg.norm(point - p),
                           np.linalg.norm(n - normal)])  # fmt: skip
    worst, most = np.max(errors, axis=0), np.quantile(errors, 0.9, axis=0)
    assert seen > 60
    assert worst[0] < 5e-5 and most[1] < 1e-4, (worst, most)
    # Where a flat face meets the round region around an edge, the curvature of the distance jumps
    # and a grid of 1.7 mm turns the normal by up to 0.03; the point then moves by 1.7e-4 m.
    assert worst[1] < (2e-4 if kind == "box" else 1e-4), worst
    assert worst[2] < (3.5e-2 if kind == "box" else 1.2e-2), worst


@pytest.mark.parametrize("size", [8, 10])
def test_bricks_hold_every_node(size):
    """Also where the grid is no whole number of bricks: trilinear at the nodes is their value."""
    values = np.random.default_rng(0).normal(size=(2, size, size, size)).astype(np.float16)
    rows = np.stack([bricks(v) for v in values])
    assert rows.shape == (2, num_cells(size))
    ones = jnp.ones((2, 3))
    table = DistanceTable(
        values=jnp.asarray(rows), origin=0 * ones, spacing=ones, grid=jnp.arange(2),
        scale=jnp.ones(2), support=ones[:, None], size=size,
    )  # fmt: skip
    nodes = np.array(list(np.ndindex(size, size, size)))
    found = jax.vmap(lambda i: signed_distance(table, i, jnp.asarray(nodes, jnp.float32)))(
        jnp.arange(2)
    )
    np.testing.assert_allclose(found, values.reshape(2, -1).astype(np.float32), atol=1e-6)


def _reach(table, index: int, direction: np.ndarray) -> float:
    """Distance from the object's origin to its surface along a direction."""
    t = np.linspace(0, 0.12, 400)
    value = np.asarray(signed_distance(table, index, jnp.asarray(t[:, None] * direction)))
    return float(t[np.flatnonzero(value < 0)[-1]])


def test_a_finger_fits_through_a_mug_handle_and_touches_it(scene, find):
    """Between handle and cup there is room for a finger, inside the convex hull of the object; and
    a finger that moves on meets the handle."""
    table, index = scene.table, 3
    asset = builtin_asset("mug", 0, sdf=True)
    grid = asset.sdf
    axes = [grid.origin[i] + grid.spacing[i] * np.arange(len(grid.values)) for i in range(3)]
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    values = grid.values.ravel()
    handle = [i for i, name in enumerate(asset.part_names) if "handle" in name]
    corners = asset.vertices[np.unique(asset.faces[np.isin(asset.face_parts, handle)])]
    inside = Delaunay(corners).find_simplex(nodes) >= 0
    room = np.where(inside, values, -1.0)
    best, gap = nodes[room.argmax()], room.max()
    # The axis of the loop is the direction in which the handle is thinnest.
    _, _, axes_ = np.linalg.svd(corners - corners.mean(0), full_matrices=False)
    u, v, axis = axes_
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    around = np.cos(angle)[:, None] * u + np.sin(angle)[:, None] * v
    steps = np.linspace(0, 0.05, 100)[:, None]

    def meets(direction: np.ndarray) -> bool:
        path = jnp.asarray(best + steps * direction, jnp.float32)
        return bool((np.asarray(signed_distance(table, index, path)) < 0).any())

    assert all(meets(d) for d in around) and not meets(axis) and not meets(-axis)

    # A fingertip along the axis of the loop: free in its middle, held by it at its rim.
    call, shape = find
    tip = int(scene.body_ids[scene.hand.fingertip_body[0]])
    spheres = np.flatnonzero(shape.body == tip)
    assert shape.radius[spheres[0]] < gap
    xpos, xmat = _poses(scene, scene.model.qpos0)
    xpos = np.full_like(xpos, 2.0)  # all else is far away
    xpos[scene.body_ids[-1]], xmat[scene.body_ids[-1]] = 0, np.eye(3)
    xpos[scene.body_ids[-1], 2] = xpos[tip, 2] = 1.0
    xmat[tip] = np.stack([u, v, axis], 1)  # a finger's z axis is its length
    middle = shape.centre[spheres].mean(0)

    def touching(push: float, direction: np.ndarray) -> bool:
        xpos[tip] = np.array([0, 0, 1]) + best + push * direction - xmat[tip] @ middle
        return bool((np.asarray(call(index, xpos, xmat).dist) < 0).any())

    assert not touching(0.0, u)
    for direction in (u, -u, v, -v):
        assert any(touching(push, direction) for push in np.arange(0.001, 0.06, 0.002))


def test_contacts_beyond_the_slots_are_counted(scene):
    """With fewer slots the deepest stay and the rest is counted."""
    shape = hand_shape(scene.hand, scene.body_ids.tolist())
    qpos = scene.model.qpos0.copy()
    qpos[2] = 1.0
    xpos, xmat = _poses(scene, qpos)
    palm = scene.body_ids[scene.hand.palm_body]
    at = scene.object_qpos  # the plate's upper face a millimetre inside the palm
    qpos[at : at + 3] = xpos[palm] + xmat[palm] @ [0.011, -0.0301, 0.038]
    qpos[at + 3 : at + 7] = [0.5, 0.5, 0.5, 0.5]
    xpos, xmat = _poses(scene, qpos)
    body = int(scene.body_ids[-1])
    many, none = find_contacts(shape, scene.table, 0, xpos, xmat, body, 0.0, (42, 6, 4))
    few, dropped = find_contacts(shape, scene.table, 0, xpos, xmat, body, 0.0, (2, 6, 4))
    active = int((np.asarray(many.dist)[:42] < 0).sum())
    assert active > 2 and int(none) == 0 and int(dropped) == active - 2
    np.testing.assert_allclose(
        np.sort(np.asarray(few.dist)[:2]), np.sort(np.asarray(many.dist)[:42])[:2], atol=2e-5
    )


def test_sizes_of_one_shape_share_a_grid():
    """Distances of a scaled object equal the scaled distances, from one grid."""
    mug = builtin_asset("mug", 0, sdf=True)
    sizes = [mug, scaled(mug, 0.8), scaled(mug, 1.2)]
    table = distance_table(sizes)
    assert table.values.shape[0] == 1
    np.testing.assert_allclose(table.scale, [1, 0.8, 1.2], rtol=1e-5)
    points = np.random.default_rng(1).uniform(-0.06, 0.06, (50, 3)).astype(np.float32)
    at_one = np.asarray(signed_distance(table, 0, points))
    np.testing.assert_allclose(signed_distance(table, 2, 1.2 * points), 1.2 * at_one, atol=1e-6)
    assert table_bytes(table) < 1.1 * 2 * 64**3


def test_too_little_memory_is_said_before_anything_is_allocated():
    mug = builtin_asset("mug", 0, sdf=True)
    with pytest.raises(DataError, match=r"share a grid"):
        distance_table([mug], memory_limit=2**19)


def test_objects_without_grids_are_named():
    with pytest.raises(DataError, match="mug"):
        distance_table([builtin_asset("mug", 0)])


def test_support_is_where_the_weight_can_rest() -> None:
    """A round edge: the farthest points below the table are shallow ones on the flank, which would
    carry nothing. A box that leans: all four corners of its bottom, the shallow ones too."""
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    base = np.concatenate([0.025 * ring, np.full((24, 1), -1e-3)], 1)
    flank = np.concatenate([0.030 * ring, np.full((24, 1), -1e-4)], 1)
    contacts = _support(jnp.asarray(np.concatenate([flank, base])), 1, 0.0, 4)
    np.testing.assert_allclose(contacts.dist, -1e-3, rtol=1e-5)
    assert len(np.unique(np.asarray(contacts.pos), axis=0)) == 4
    side = (-0.04, 0.04)
    corners = np.array([[x, y, -7e-4 - 0.0125 * x] for x in side for y in side])
    contacts = _support(jnp.asarray(corners), 1, 0.0, 4)
    np.testing.assert_allclose(np.sort(contacts.dist), np.sort(corners[:, 2]), rtol=1e-5)
