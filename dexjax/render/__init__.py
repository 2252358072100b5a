"""Pictures without OpenGL: a ray caster on Embree for triangle meshes and MuJoCo's visual geoms.

    image = render(meshes, frame_camera(meshes), 512, 512, ground=0.0)
    write_png("out.png", image)

World frame, metres, z up, quaternions wxyz. Images are (H, W, 3) uint8.
"""

from dexjax.render.files import grid, label, write_mp4, write_png
from dexjax.render.mujoco_geoms import model_geometry, pose_geometry, scene_meshes
from dexjax.render.raycast import KEY_LIGHT, RayScene, Renderer, render, render_depth
from dexjax.render.scene import Camera, RenderMesh, frame_camera
from dexjax.render.views import CARDINAL, View, cardinal_cameras, cardinal_views, visible_points

__all__ = [
    "CARDINAL",
    "KEY_LIGHT",
    "Camera",
    "RayScene",
    "RenderMesh",
    "Renderer",
    "View",
    "cardinal_cameras",
    "cardinal_views",
    "frame_camera",
    "grid",
    "label",
    "model_geometry",
    "pose_geometry",
    "render",
    "render_depth",
    "scene_meshes",
    "visible_points",
    "write_mp4",
    "write_png",
]
