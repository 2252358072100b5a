"""The ray caster against closed forms and against MuJoCo's own ray casting."""

import mujoco
import numpy as np
import pytest
import trimesh
from PIL import Image

from dexjax.core.errors import DataError
from dexjax.render import (
    Camera,
    RenderMesh,
    frame_camera,
    grid,
    label,
    render,
    render_depth,
    scene_meshes,
    write_mp4,
    write_png,
)


def _sphere(radius=0.05, **pose) -> RenderMesh:
    ball = trimesh.creation.icosphere(5, radius)
    return RenderMesh(ball.vertices, ball.faces, (0.9, 0.2, 0.2), **pose)


def _box(extents, **pose) -> RenderMesh:
    box = trimesh.creation.box(extents)
    return RenderMesh(box.vertices, box.faces, (0.2, 0.4, 0.9), **pose)


def test_depth_of_a_sphere():
    centre, radius = np.array([0.02, -0.01, 0.03]), 0.05
    camera = Camera((0.4, 0.1, 0.2), (0, 0, 0))
    depth = render_depth([_sphere(radius, position=centre)], camera, 96, 64).ravel()
    origin, rays = camera.rays(96, 64)
    # |o + t d - c|^2 = r^2, nearer root; d has length 1 along the optical axis, so t is the depth.
    a = (rays**2).sum(1)
    b = rays @ (origin - centre)
    c = ((origin - centre) ** 2).sum() - radius**2
    disc = b**2 - a * c
    inside = disc > 2e-5 * a  # rays that graze the outline may miss the polyhedron
    expected = (-b - np.sqrt(np.maximum(disc, 0))) / a
    assert inside.sum() > 400
    # An icosphere of level 5 lies at most 0.04 % of r inside the sphere; seen obliquely x 10.
    np.testing.assert_allclose(depth[inside], expected[inside], atol=3e-4)
    assert np.isinf(depth[disc < 0]).all()


def test_depth_of_a_turned_box_is_a_plane():
    quat = np.array([0.9, 0.1, -0.3, 0.2])
    mesh = _box((0.2, 0.2, 0.1), quat=quat)
    camera = Camera((0.0, -0.5, 0.6), (0, 0, 0), fov=6.0)
    depth = render_depth([mesh], camera, 16, 16).ravel()
    origin, rays = camera.rays(16, 16)
    turn = np.empty(9)
    mujoco.mju_quat2Mat(turn, quat / np.linalg.norm(quat))
    normals = turn.reshape(3, 3).T  # rows: outward axes
    half = np.array([0.1, 0.1, 0.05])
    # Slab test in closed form.
    o, d = normals @ origin, rays @ normals.T
    near = np.minimum((-half - o) / d, (half - o) / d).max(1)
    far = np.maximum((-half - o) / d, (half - o) / d).min(1)
    hit = near < far - 1e-4
    assert hit.sum() > 200
    np.testing.assert_allclose(depth[hit], near[hit], atol=2e-6)  # float32 at 0.8 m


def test_matches_mujoco_rays_on_every_geom_type():
    xml = """
    <mujoco><asset>
      <mesh name="wedge" vertex="0 0 0  .08 0 0  0 .08 0  0 0 .08  .05 .05 .05"/>
      <material name="green" rgba="0 1 0 1"/>
    </asset><worldbody>
      <geom type="plane" size="1 1 .1" pos="0 0 -.5"/>
      <body pos="0 0 .1"><freejoint/><geom type="sphere" size=".04" material="green"/>
        <body pos=".1 0 0" euler="30 20 0"><joint/><geom type="capsule" size=".02 .05"/></body>
        <body pos="0 .1 0"><joint axis="1 0 0"/>
          <geom type="ellipsoid" size=".03 .05 .02" euler="10 0 40" pos=".01 0 .02"/></body>
        <body pos="-.1 0 0"><joint axis="0 1 0"/>
          <geom type="cylinder" size=".03 .04" euler="0 70 0"/></body>
        <body pos="0 -.1 0"><joint axis="0 1 1"/>
          <geom type="box" size=".03 .02 .04" rgba="1 0 0 1"/></body>
        <body pos="0 0 .12" euler="0 0 20"><joint/><geom type="mesh" mesh="wedge"/></body>
        <geom type="sphere" size=".2" group="3"/>
        <geom type="sphere" size=".2" rgba="1 1 1 0"/>
      </body></worldbody></mujoco>"""
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    rng = np.random.default_rng(3)
    data.qpos[3:] = rng.normal(size=model.nq - 3)
    data.qpos[3:7] /= np.linalg.norm(data.qpos[3:7])
    mujoco.mj_forward(model, data)
    meshes = scene_meshes(model, data.xpos, data.xquat)
    assert len(meshes) == 6  # plane, group 3 and invisible geoms are left out
    assert meshes[0].colour == (0.0, 1.0, 0.0)  # from the material
    assert any(m.colour == (1.0, 0.0, 0.0) for m in meshes)
    camera = frame_camera(meshes, 40, 20)
    origin, rays = camera.rays(64, 64)
    depth = render_depth(meshes, camera, 64, 64).ravel()
    groups = np.array([1, 1, 1, 0, 0, 0], np.uint8)
    geom = np.zeros(1, np.int32)
    expected = np.array(
        [mujoco.mj_ray(model, data, origin, ray, groups, 0, -1, geom) for ray in rays]
    )
    hit = expected >= 0
    assert 300 < hit.sum() < 3500
    # Silhouettes differ by tessellation (under 1 % of a radius of at most 50 mm: 0.5 mm).
    assert np.mean(np.isfinite(depth) == hit) > 0.99
    both = hit & np.isfinite(depth)
    error = np.abs(depth[both] - expected[both])
    assert np.quantile(error, 0.95) < 6e-4 and np.median(error) < 2e-4


def test_camera_axes():
    """+x to the right and +z up, seen along +y."""
    camera = Camera((0, -1, 0), (0, 0, 0))
    right = render_depth([_sphere(0.02, position=(0.1, 0, 0))], camera, 64, 64)
    above = render_depth([_sphere(0.02, position=(0, 0, 0.1))], camera, 64, 64)
    rows, cols = np.nonzero(np.isfinite(right))
    assert cols.min() > 32 and abs(rows.mean() - 31.5) < 0.5
    rows, cols = np.nonzero(np.isfinite(above))
    assert rows.max() < 32 and abs(cols.mean() - 31.5) < 0.5


@pytest.mark.parametrize("view", [(-60, 30), (10, 0), (120, 89.99), (0, -40)])
@pytest.mark.parametrize("aspect", [1.0, 2.0])
def test_frame_camera_fits_tightly(view, aspect):
    mesh = _box((0.3, 0.05, 0.1), position=(1, 2, 3), quat=(0.8, 0.3, 0.1, -0.5))
    height = 100
    width = int(height * aspect)
    camera = frame_camera([mesh], *view, aspect=aspect, margin=1.1)
    rows, cols = np.nonzero(np.isfinite(render_depth([mesh], camera, width, height)))
    assert rows.min() > 0 and cols.min() > 0 and rows.max() < height - 1 and cols.max() < width - 1
    used = max(np.ptp(rows) / height, np.ptp(cols) / width)
    assert 0.86 < used < 0.93  # 1 / 1.1 = 0.909, less a pixel


def test_shadow_falls_away_from_the_light():
    from dexjax.render import KEY_LIGHT

    centre = np.array([0.0, 0.0, 0.15])
    mesh = _sphere(0.04, position=centre)
    camera = Camera((0, 0.0, 2.0), (0, 0, 0), up=(0, 1, 0), fov=20)
    spot = centre - KEY_LIGHT / KEY_LIGHT[2] * centre[2]  # where the centre's shadow meets z = 0
    scale = 200 / (2 * 2.0 * np.tan(np.radians(10)))
    col, row = int(100 + spot[0] * scale), int(100 - spot[1] * scale)
    lit = render([mesh], camera, 200, 200, ground=0.0, shadows=False)
    dark = render([mesh], camera, 200, 200, ground=0.0)
    assert dark[row, col].mean() < 0.75 * lit[row, col].mean()
    # The mirrored spot is in the light in both.
    assert np.array_equal(dark[200 - row, 200 - col], lit[200 - row, 200 - col])


def test_ground_hides_what_is_below():
    camera = Camera((0, -1, 0.5), (0, 0, 0))
    below = _sphere(0.05, position=(0, 0, -0.2))
    image = render([below], camera, 64, 64, ground=0.0, shadows=False)
    empty = render([], camera, 64, 64, ground=0.0, shadows=False)
    assert np.array_equal(image, empty)


def test_normals_smooth_on_a_sphere_and_sharp_on_a_box():
    ball = _sphere(0.05)
    points = ball.vertices[ball.faces]
    cosine = (ball.corner_normals * points / np.linalg.norm(points, axis=-1, keepdims=True)).sum(-1)
    assert np.degrees(np.arccos(cosine.min().clip(-1, 1))) < 0.5
    box = trimesh.creation.box((0.1, 0.2, 0.3))
    sharp = RenderMesh(box.vertices, box.faces).corner_normals
    np.testing.assert_allclose(sharp, np.repeat(box.face_normals[:, None], 3, 1), atol=1e-12)


def test_colour_of_faces_and_antialiasing():
    box = trimesh.creation.box((0.1, 0.1, 0.1))
    colours = np.where(box.face_normals[:, 2:] > 0.5, [[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]])
    mesh = RenderMesh(box.vertices, box.faces, colours)
    top = render([mesh], Camera((0, 0, 1), (0, 0, 0), up=(0, 1, 0), fov=10), 50, 50)
    assert top[25, 25, 1] > 150 and top[25, 25, 0] < 60
    side = render([mesh], Camera((0, -1, 0), (0, 0, 0), fov=10), 50, 50)
    assert side[25, 25, 0] > 80 and side[25, 25, 1] < 60
    turned = mesh.at((0, 0, 0), (np.cos(0.1), 0, np.sin(0.1), 0))
    camera = Camera((0, -1, 0), (0, 0, 0), fov=10)
    coarse = len(np.unique(render([turned], camera, 50, 50, supersample=1).reshape(-1, 3), axis=0))
    fine = len(np.unique(render([turned], camera, 50, 50, supersample=2).reshape(-1, 3), axis=0))
    assert fine > coarse  # mixed colours along the edges


def test_png_and_grid(tmp_path):
    image = render([_sphere()], Camera((0, -0.4, 0.1), (0, 0, 0)), 40, 30)
    write_png(tmp_path / "a.png", image)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), image)
    sheet = grid([image] * 3, 2, gap=2)
    assert sheet.shape == (62, 82, 3)
    assert np.array_equal(sheet[32:62, :40], image) and (sheet[32:62, 42:] == 255).all()
    named = label(image, "mug")
    assert named.shape == image.shape and not np.array_equal(named, image)


def test_mp4_round_trip(tmp_path):
    import imageio_ffmpeg

    path = tmp_path / "a.mp4"
    shades = [30, 120, 210, 90, 160]
    write_mp4(path, (np.full((65, 97, 3), s, np.uint8) for s in shades), fps=10)
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    frames = [np.frombuffer(f, np.uint8) for f in reader]
    assert meta["size"] == (96, 64) and meta["fps"] == 10 and len(frames) == len(shades)
    # Lossy codec: mean grey within 4 of 255.
    np.testing.assert_allclose([f.mean() for f in frames], shades, atol=4)


def test_bad_input_is_named(tmp_path):
    with pytest.raises(DataError, match="no frames"):
        write_mp4(tmp_path / "b.mp4", [])
    with pytest.raises(DataError, match="after frames of"):
        frames = [np.zeros((8, width, 3), np.uint8) for width in (8, 10)]
        write_mp4(tmp_path / "b.mp4", frames)
    with pytest.raises(DataError, match="uint8"):
        write_png(tmp_path / "b.png", np.zeros((4, 4, 3)))
    with pytest.raises(DataError, match="not finite"):
        render([_sphere(position=(np.nan, 0, 0))], Camera((0, -1, 0), (0, 0, 0)), 8, 8)
