"""A hand in the viewer: joints as sliders, its shapes, keypoints and contact candidates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mujoco
import numpy as np

import mjcf
from dexjax.hands import load_hand
from dexjax.hands.geometry import contact_candidates
from dexjax.metrics.stage import HandModel, finger_colour
from dexjax.render import RenderMesh, model_geometry, pose_geometry
from dexjax.view.actors import HandActor
from dexjax.view.viewer import Viewer, rgb


class HandViewer:
    """A hand at joint angles (radians) chosen with sliders."""

    def __init__(self, viewer: Viewer, target: str) -> None:
        self.viewer = viewer
        self.hand = load_hand(target)
        xml = Path(target) if target.endswith(".xml") else mjcf.path(f"{target}_hand.xml")
        model = mujoco.MjModel.from_xml_path(str(xml))
        self._model, self._data = model, mujoco.MjData(model)
        hand = self.hand
        fingers = {i + 1: f for i, f in enumerate(hand.body_finger)}

        def drawn(groups: tuple[int, ...], coloured: bool) -> HandModel:
            shapes = model_geometry(model, groups, detail=2)
            if coloured:
                shapes = [
                    (b, RenderMesh(m.vertices, m.faces, finger_colour(fingers[b])))
                    for b, m in shapes
                ]
            return HandModel(model, shapes, fingers, hand.finger_names)

        shell = drawn((3,), True)
        visual = drawn((0, 1, 2), False)
        self._visual = HandActor(viewer, visual if visual.geometry else shell)
        self._shell = HandActor(viewer, shell, "/hand_collision", opacity=0.5)
        self._shell.root.visible = False
        self._marks: list[Any] = []
        self._controls()
        self.pose()
        posed = pose_geometry(shell.geometry + visual.geometry, self._data.xpos, self._data.xquat)
        points = np.concatenate([m.world_vertices() for m in posed])
        viewer.look_at_box(points.min(0), points.max(0))

    def pose(self) -> None:
        """Show the hand at the sliders' angles."""
        with self.viewer.lock, self.viewer.server.atomic():
            self._data.qpos[7:] = [s.value for s in self.sliders.values()]
            mujoco.mj_kinematics(self._model, self._data)
            for actor in (self._visual, self._shell):
                actor.pose(self._data.xpos, self._data.xquat)
            self._draw_marks()

    def _controls(self) -> None:
        gui, hand = self.viewer.server.gui, self.hand
        gui.add_markdown(f"{hand.num_joints} joints, {hand.num_actuators} motors")
        self.posture: Any = gui.add_dropdown("posture", ("zero", *hand.postures))
        self.posture.on_update(lambda _: self._take_posture())
        with gui.add_folder("Show"):
            shapes = ("visual", "collision", "both")
            self._shapes: Any = gui.add_dropdown("shapes", shapes)
            self._keypoints: Any = gui.add_checkbox("keypoints", False)
            self._candidates: Any = gui.add_checkbox("contact candidates", False)
            self._centre: Any = gui.add_checkbox("grasp centre", False)
        for control in (self._shapes, self._keypoints, self._candidates, self._centre):
            control.on_update(lambda _: self._layers())
        self.sliders: dict[str, Any] = {}
        lower, upper = (np.asarray(v, float) for v in (hand.lower, hand.upper))
        with gui.add_folder("Joints, rad"):
            for j, name in enumerate(hand.joint_names):
                low, high = (
                    float(np.ceil(100 * lower[j]) / 100),
                    float(np.floor(100 * upper[j]) / 100),
                )
                start = min(max(0.0, low), high)
                self.sliders[name] = gui.add_slider(name, low, high, 0.01, start)
                self.sliders[name].on_update(lambda _: self.pose())

    def _take_posture(self) -> None:
        name = self.posture.value
        values = np.zeros(self.hand.num_joints) if name == "zero" else self.hand.postures[name]
        with self.viewer.lock:
            for slider, value in zip(self.sliders.values(), np.asarray(values), strict=True):
                slider.value = float(np.clip(round(float(value), 2), slider.min, slider.max))

    def _layers(self) -> None:
        wanted = self._shapes.value
        self._visual.root.visible = wanted in ("visual", "both")
        self._shell.root.visible = wanted in ("collision", "both")
        self.pose()

    def _draw_marks(self) -> None:
        for mark in self._marks:
            mark.remove()
        self._marks = []
        hand, scene = self.hand, self.viewer.server.scene

        def world(body: Any, local: Any) -> np.ndarray:
            ids = np.asarray(body) + 1  # MuJoCo's body 0 is the world
            turn = self._data.xmat[ids].reshape(-1, 3, 3)
            return self._data.xpos[ids] + np.einsum("nij,nj->ni", turn, np.asarray(local))

        def cloud(name: str, points: np.ndarray, colours: Any, size: float) -> None:
            self._marks.append(
                scene.add_point_cloud(
                    name,
                    points.astype(np.float32),
                    colours,
                    point_size=size,
                    point_shape="circle",
                    precision="float32",
                )  # fmt: skip
            )

        if self._keypoints.value:
            cloud(
                "/keypoints", world(hand.keypoint_body, hand.keypoint_offset), (20, 20, 20), 0.006
            )
        if self._candidates.value:
            found = contact_candidates(hand)
            colours = np.array([rgb(finger_colour(int(f))) for f in found.finger], np.uint8)
            cloud("/candidates", world(found.body, found.point), colours // 2, 0.002)
        if self._centre.value:
            at = world([hand.palm_body], np.asarray(hand.grasp_centre)[None])[0]
            self._marks.append(
                scene.add_frame(
                    "/grasp_centre",
                    axes_length=0.04,
                    axes_radius=0.0015,
                    position=at,
                    wxyz=self._data.xquat[hand.palm_body + 1],
                )  # fmt: skip
            )
