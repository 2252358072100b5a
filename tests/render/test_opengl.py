"""MuJoCo's OpenGL renderer against the ray caster.

In a process of its own: `MUJOCO_GL` is read when mujoco is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys
import numpy as np, trimesh
from dexjax.core.errors import ConfigError
from dexjax.render import Camera, RayScene, RenderMesh, cardinal_cameras
from dexjax.render.opengl import GLScene

ball, box = trimesh.creation.icosphere(4, 0.03), trimesh.creation.box((0.1, 0.06, 0.02))
sides = np.where(box.face_normals[:, :1] > 0, [[0.9, 0.2, 0.2]], [[0.2, 0.4, 0.9]])
meshes = [
    RenderMesh(box.vertices, box.faces, sides, (0.0, 0.0, 0.01), (0.9, 0.1, -0.2, 0.3)),
    RenderMesh(ball.vertices, ball.faces, (0.2, 0.8, 0.3), (0.03, 0.0, 0.05)),
]
rays = RayScene(meshes)
try:
    scene = GLScene(meshes, (128, 96))
    scene.image(Camera((0, -1, 0), (0, 0, 0)), 128, 96)
except ConfigError as error:
    print("skip", error)
    sys.exit()
cameras = [*cardinal_cameras(meshes[0]), Camera((0.3, -0.3, 0.2), (0, 0, 0), (0.1, 0.2, 1), 40.0)]
for camera in cameras:
    depth, ids = rays.depth_and_meshes(camera, 128, 96)
    gl_depth, gl_ids = scene.depth_and_meshes(camera, 128, 96)
    for k in (0, 1):
        area, gl_area = (ids == k).sum(), (gl_ids == k).sum()
        assert abs(area - gl_area) <= max(0.02 * area, 12), (k, area, gl_area)
    both = (ids == gl_ids) & (ids >= 0)
    error = np.abs(depth[both] - gl_depth[both])
    assert np.quantile(error, 0.98) < 1e-3, error.max()
    assert np.isinf(gl_depth[gl_ids < 0]).all()
    a, b = rays.image(camera, 128, 96).astype(float), scene.image(camera, 128, 96).astype(float)
    # Other shading, the same colours: the largest channel of the two meshes agrees.
    sure = both & (ids == 1)
    if sure.sum() > 50:
        assert (a[sure].argmax(-1) == b[sure].argmax(-1)).mean() > 0.95
scene.close()
print("agreed on", len(cameras))
"""


@pytest.mark.parametrize("backend", ["egl", "osmesa"])
def test_same_masks_depth_and_colours(backend):
    """Areas to 2 % or an outline of a few pixels, depth to 1 mm: a rasteriser's pixel centres and a
    24-bit depth buffer are not exact rays."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"MUJOCO_GL": backend},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if "skip" in done.stdout or _no_library(done):
        pytest.skip(f"no OpenGL through {backend} on this machine")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "agreed on 7" in done.stdout


def _no_library(done: subprocess.CompletedProcess[str]) -> bool:
    """MuJoCo itself fails to import with a back end whose library is missing."""
    return done.returncode != 0 and ("import mujoco" in done.stderr or "glGetError" in done.stderr)


def test_without_a_context_the_ray_caster_is_named():
    import mujoco
    import numpy as np

    from dexjax.core.errors import ConfigError
    from dexjax.render import Camera, RenderMesh
    from dexjax.render.opengl import GLScene

    corners = np.vstack([np.zeros(3), np.eye(3)])
    mesh = RenderMesh(corners, np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]))
    scene = GLScene([mesh], (8, 8))

    def no_context(*_):
        raise RuntimeError("no display")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mujoco, "Renderer", no_context)
        with pytest.raises(ConfigError, match="no display.*MUJOCO_GL=egl.*RayScene"):
            scene.image(Camera((0, -1, 0), (0, 0, 0)), 8, 8)
