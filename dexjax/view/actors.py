"""What moves in the viewer: a hand, an object, contact arrows."""

from __future__ import annotations

from typing import Any

import numpy as np

from dexjax.metrics.stage import HandModel, finger_colour
from dexjax.render import RenderMesh
from dexjax.view.viewer import Viewer, rgb

METRES_PER_NEWTON = 0.002
_LONGEST_ARROW = 0.15  # m
_LEAST_FORCE = 0.02  # N, below which no arrow is drawn


class HandActor:
    """A hand: one frame per body, its meshes below it, named after the bodies."""

    def __init__(
        self, viewer: Viewer, hand: HandModel, name: str = "/hand", **options: Any
    ) -> None:
        self._viewer, self.name = viewer, name
        scene = viewer.server.scene
        self.root = scene.add_frame(name, show_axes=False)
        self._frames: dict[int, Any] = {}
        for i, (body, mesh) in enumerate(hand.geometry):
            path = f"{name}/{hand.model.body(body).name}"
            if body not in self._frames:
                self._frames[body] = scene.add_frame(path, show_axes=False)
            viewer.add_mesh(f"{path}/{i}", mesh, **options)

    def pose(self, xpos: np.ndarray, xquat: np.ndarray) -> None:
        """Body poses (nbody, 3), (nbody, 4), world."""
        for body, frame in self._frames.items():
            frame.position, frame.wxyz = xpos[body], xquat[body]

    def remove(self) -> None:
        """Take the hand out of the scene."""
        self.root.remove()


class ObjectActor:
    """An object that can be posed and replaced."""

    def __init__(self, viewer: Viewer, name: str = "/object") -> None:
        self._viewer, self.name = viewer, name
        self.root: Any = viewer.server.scene.add_frame(name, show_axes=False)

    def draw(self, mesh: RenderMesh, **options: Any) -> None:
        """Draw another mesh (object frame)."""
        self.root.remove()
        self.root = self._viewer.server.scene.add_frame(self.name, show_axes=False)
        self._viewer.add_mesh(f"{self.name}/mesh", mesh, **options)

    def pose(self, position: np.ndarray, quat: np.ndarray) -> None:
        """Object frame to world."""
        self.root.position, self.root.wxyz = position, quat


class ContactActor:
    """Points where hand and object touch and the net force of the object on each finger."""

    def __init__(self, viewer: Viewer, num_fingers: int) -> None:
        self._scene = viewer.server.scene
        self._arrows: Any = None
        self._points: Any = None
        self.visible = True
        self.colours = np.array([rgb(finger_colour(f)) for f in range(num_fingers)], np.uint8)

    def draw(
        self,
        points: np.ndarray | None,
        fingers: np.ndarray | None,
        forces: np.ndarray | None,
        tips: np.ndarray,
    ) -> None:
        """points (C, 3) with the finger of each (C,), forces (fingers, 3) N.

        tips (fingers, 3): where the arrow of a finger starts that has no contact point.
        """
        self.clear()
        if not self.visible:
            return
        starts = tips.copy()
        if points is not None and fingers is not None:
            used = fingers > -2
            shown = points[used]
            if len(shown):
                palm = np.array(rgb(finger_colour(-1)), np.uint8)
                colours = np.where(
                    fingers[used, None] >= 0, self.colours[np.maximum(fingers[used], 0)], palm
                )
                self._points = self._scene.add_point_cloud(
                    "/contacts/points", shown.astype(np.float32), colours,
                    point_size=0.006, point_shape="circle", precision="float32",
                )  # fmt: skip
            for f in range(len(starts)):
                own = points[fingers == f]
                if len(own):
                    starts[f] = own.mean(0)
        if forces is None:
            return
        size = np.linalg.norm(forces, axis=1)
        strong = np.flatnonzero(size > _LEAST_FORCE)
        if len(strong):
            length = np.minimum(METRES_PER_NEWTON * size[strong], _LONGEST_ARROW)
            ends = starts[strong] + (length / size[strong])[:, None] * forces[strong]
            self._arrows = self._scene.add_arrows(
                "/contacts/forces",
                np.stack([starts[strong], ends], 1).astype(np.float32),
                self.colours[strong],
                shaft_radius=0.002,
                head_radius=0.005,
                head_length=0.012,
            )

    def clear(self) -> None:
        """Remove points and arrows."""
        for handle in (self._arrows, self._points):
            if handle is not None:
                handle.remove()
        self._arrows = self._points = None
