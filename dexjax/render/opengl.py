"""The same pictures drawn by MuJoCo's OpenGL where there is one (`MUJOCO_GL=egl` or `osmesa`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np

from dexjax.core.errors import ConfigError
from dexjax.render.raycast import KEY_LIGHT, SKY
from dexjax.render.scene import Camera, RenderMesh, quaternion, rotation_matrix


class GLScene:
    """`RayScene` on MuJoCo's renderer: meshes in world coordinates, seen by many cameras.

    Raises ConfigError where no OpenGL context can be made; `RayScene` needs none. A mesh needs four
    vertices in each of its colours. Call `close`.
    """

    def __init__(self, meshes: Sequence[RenderMesh], size: tuple[int, int]) -> None:
        """size: largest width and height of an image."""
        spec = mujoco.MjSpec()
        spec.visual.global_.offwidth, spec.visual.global_.offheight = size
        spec.visual.headlight.ambient = [0.45, 0.45, 0.45]
        spec.visual.headlight.diffuse = [0.15, 0.15, 0.15]
        spec.add_texture(
            name="sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
            builtin=mujoco.mjtBuiltin.mjBUILTIN_FLAT, rgb1=SKY, rgb2=SKY, width=8, height=48,
        )  # fmt: skip
        toward = KEY_LIGHT / np.linalg.norm(KEY_LIGHT)
        spec.worldbody.add_light(
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, dir=-toward, pos=toward,
            diffuse=[0.55, 0.55, 0.55], castshadow=True,
        )  # fmt: skip
        spec.worldbody.add_camera(name="camera")
        self._owner: list[int] = []
        for i, mesh in enumerate(meshes):
            self._add(spec, i, mesh)
        self._model = spec.compile()
        points = np.concatenate([m.world_vertices() for m in meshes])
        self._model.stat.extent = float(np.ptp(points, axis=0).max())
        self._model.stat.center = 0.5 * (points.min(0) + points.max(0))
        self._data = mujoco.MjData(self._model)
        mujoco.mj_forward(self._model, self._data)
        self._renderers: dict[tuple[int, int], Any] = {}

    def image(self, camera: Camera, width: int, height: int) -> np.ndarray:
        """Shaded image (H, W, 3) uint8."""
        return self._drawn(camera, width, height).render()

    def depth_and_meshes(
        self, camera: Camera, width: int, height: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Depth along the optical axis (H, W) float32 m and number of the mesh (H, W) int32; inf
        and -1 where empty."""
        renderer = self._drawn(camera, width, height)
        renderer.enable_segmentation_rendering()
        renderer.update_scene(self._data, camera=0)
        geom = renderer.render()[..., 0]
        renderer.disable_segmentation_rendering()
        renderer.enable_depth_rendering()
        depth = renderer.render().astype(np.float32)
        renderer.disable_depth_rendering()
        owner = np.array([*self._owner, -1], np.int32)[np.where(geom < 0, -1, geom)]
        return np.where(owner >= 0, depth, np.float32(np.inf)), owner

    def close(self) -> None:
        """Free the OpenGL contexts."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers = {}

    def _add(self, spec: mujoco.MjSpec, index: int, mesh: RenderMesh) -> None:
        """One geom per colour of a mesh."""
        faces = np.asarray(mesh.faces)
        colours = np.broadcast_to(np.asarray(mesh.colour, float), (len(faces), 3))
        found, which = np.unique(colours, axis=0, return_inverse=True)
        for k, colour in enumerate(found):
            own = faces[which.ravel() == k]
            used, local = np.unique(own, return_inverse=True)
            name = f"m{index}c{k}"
            spec.add_mesh(
                name=name,
                uservert=np.asarray(mesh.vertices, float)[used].ravel(),
                userface=local.ravel().astype(np.int32),
                inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL,  # also of open meshes
            )
            spec.worldbody.add_geom(
                type=mujoco.mjtGeom.mjGEOM_MESH, meshname=name, rgba=[*colour, 1.0],
                pos=np.asarray(mesh.position, float),
                quat=quaternion(rotation_matrix(mesh.quat)), contype=0, conaffinity=0,
            )  # fmt: skip
            self._owner.append(index)

    def _drawn(self, camera: Camera, width: int, height: int) -> Any:
        """A renderer of this size that looks through the camera."""
        if (width, height) not in self._renderers:
            try:
                made = mujoco.Renderer(self._model, height, width)
            except Exception as error:  # whatever the driver, display or library says
                raise ConfigError(
                    f"no OpenGL here ({type(error).__name__}: {str(error).splitlines()[0][:100]}); "
                    "set MUJOCO_GL=egl or osmesa before Python starts, or use RayScene"
                ) from error
            self._renderers[width, height] = made
        right, top, forward = camera.axes()
        self._model.cam_fovy[0] = camera.fov
        self._data.cam_xpos[0] = camera.position
        self._data.cam_xmat[0] = np.stack([right, top, -forward], 1).ravel()
        renderer = self._renderers[width, height]
        renderer.update_scene(self._data, camera=0)
        return renderer
