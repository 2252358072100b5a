"""Meshes and built objects in the viewer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dexjax.core.errors import DexjaxError
from dexjax.metrics.stage import PART_COLOURS, part_colours, pieces_mesh
from dexjax.objects.asset import ObjectAsset
from dexjax.objects.build import with_sdf
from dexjax.objects.sdf import query
from dexjax.render import RenderMesh
from dexjax.view.text import plain
from dexjax.view.viewer import Viewer, rgb

_PLAIN = (0.62, 0.66, 0.72)
_LAYERS = ("mesh", "convex pieces", "sample points", "normals", "bounding box", "distance slice")
_SLICE_PIXELS = 160
_GREY = (0.75, 0.75, 0.75)


@dataclass(frozen=True)
class MeshEntry:
    """A mesh to look at: as it is in its file, and how to build the object of it."""

    name: str
    read: Callable[[], RenderMesh]
    build: Callable[[], ObjectAsset]


class ObjectViewer:
    """One object out of several, in the layers that the user asks for."""

    def __init__(self, viewer: Viewer, entries: Sequence[MeshEntry], *, built: bool) -> None:
        """built: show objects as built, at once; else the files' meshes, and build on demand."""
        self.viewer, self.entries, self._built = viewer, list(entries), built
        self.asset: ObjectAsset | None = None  # None: only its mesh is shown
        self._mesh = RenderMesh(np.zeros((3, 3)), np.array([[0, 1, 2]]))
        self._root: Any = None
        gui = viewer.server.gui
        names = tuple(f"{i}: {e.name}" for i, e in enumerate(entries))
        self._about: Any = gui.add_markdown("")
        self.picker: Any = gui.add_dropdown("object", names)
        self._build: Any = gui.add_button("Build object", icon="hammer", visible=not built)
        with gui.add_folder("Show"):
            self.layers: dict[str, Any] = {n: gui.add_checkbox(n, n == "mesh") for n in _LAYERS}
            self._axis: Any = gui.add_dropdown("slice along", ("x", "y", "z"), initial_value="y")
            self._height: Any = gui.add_slider("slice at", 0.0, 1.0, 0.02, 0.5)
            self.colour_by: Any = gui.add_dropdown("colours", ("parts",))
            self._pose: Any = gui.add_dropdown("resting pose", ("as stored",))
            self._legend: Any = gui.add_markdown("")
        self.picker.on_update(lambda _: self.load(int(self.picker.value.split(":")[0])))
        self._build.on_click(lambda _: self._build_now())
        for control in (
            *self.layers.values(),
            self._axis,
            self._height,
            self.colour_by,
            self._pose,
        ):
            control.on_update(lambda _: self.draw())
        self._pose.on_update(lambda _: self._settle())
        self.load(0)

    def load(self, index: int) -> None:
        """Show another object."""
        entry = self.entries[index]
        with self.viewer.lock:
            try:
                if self._built:
                    self._use(entry.build())
                else:
                    self.asset, self._mesh = None, entry.read()
                    self._about.content = _describe_mesh(entry.name, self._mesh)
            except DexjaxError as error:  # of one mesh of many: the others can be seen
                print(f"error: {error}")
                self.asset, self._mesh = None, RenderMesh(np.zeros((0, 3)), np.zeros((0, 3), int))
                self._about.content = f"**{plain(entry.name)}** cannot be shown: {plain(error)}"
            self.draw()
        self._frame()

    def draw(self) -> None:
        """Draw the chosen layers anew."""
        with self.viewer.lock, self.viewer.server.atomic():
            if self._root is not None:
                self._root.remove()
            position, quat = self._resting()
            scene = self.viewer.server.scene
            self._root = scene.add_frame("/object", show_axes=False, position=position, wxyz=quat)
            wanted = {n for n, box in self.layers.items() if box.value}
            slicing = "distance slice" in wanted and self.asset is not None
            if "mesh" in wanted and len(self._mesh.faces):
                colour = self._colours()
                mesh = RenderMesh(self._mesh.vertices, self._mesh.faces, colour)
                self.viewer.add_mesh("/object/mesh", mesh, opacity=0.35 if slicing else None)
            if self.asset is None:
                return
            if "convex pieces" in wanted:
                self.viewer.add_mesh("/object/pieces", pieces_mesh(self.asset.pieces))
            if "sample points" in wanted:
                points = self.asset.surface_points
                scene.add_point_cloud(
                    "/object/points", points, (30, 60, 120), point_size=0.0012,
                    point_shape="circle", precision="float32",
                )  # fmt: skip
            if "normals" in wanted:
                start = self.asset.surface_points
                ends = start + 0.008 * self.asset.surface_normals
                scene.add_line_segments(
                    "/object/normals", np.stack([start, ends], 1), (30, 60, 120), thickness=0.0004
                )
            if "bounding box" in wanted:
                scene.add_line_segments(
                    "/object/box", _box_edges(self.asset), (60, 60, 60), thickness=0.0006
                )
            if slicing:
                self._draw_slice()

    def _use(self, asset: ObjectAsset) -> None:
        self.asset = asset
        self._mesh = RenderMesh(asset.vertices, asset.faces, part_colours(asset.face_parts))
        labels = sorted({label for ls in asset.part_affordances.values() for label in ls})
        self.colour_by.options = ("parts", *(f"affordance: {label}" for label in labels))
        poses = asset.stable_poses
        self._pose.options = (
            "as stored",
            *(f"{i}: {100 * p:.0f} % of drops" for i, p in enumerate(poses.probability[:12])),
        )
        self._legend.content = _legend(asset)
        self._about.content = _describe_asset(asset)

    def _build_now(self) -> None:
        entry = self.entries[int(self.picker.value.split(":")[0])]
        self._build.label, self._build.disabled = "Building ...", True
        try:
            asset = entry.build()
        except DexjaxError as error:
            self._about.content = f"**{plain(entry.name)}** was refused: {plain(error)}"
            print(f"error: {error}")
        else:
            with self.viewer.lock:
                self._use(asset)
                self.draw()
            self._frame()
        self._build.label, self._build.disabled = "Build object", False

    def _colours(self) -> np.ndarray | tuple[float, float, float]:
        asset = self.asset
        if asset is None:
            return _PLAIN
        if asset.face_parts is None or self.colour_by.value == "parts":
            return part_colours(asset.face_parts)
        wanted = self.colour_by.value.removeprefix("affordance: ")
        has = [wanted in asset.part_affordances.get(name, ()) for name in asset.part_names]
        shown = np.array(_GREY), np.array(PART_COLOURS[1])
        return np.array([shown[int(h)] for h in has])[asset.face_parts]

    def _resting(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Pose of the object: in a resting pose on z = 0, or as stored."""
        text = self._pose.value
        if self.asset is None or text == "as stored":
            return (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0)
        poses, i = self.asset.stable_poses, int(text.split(":")[0])
        return (0.0, 0.0, float(poses.height[i])), tuple(map(float, poses.quat[i]))

    def _draw_slice(self) -> None:
        """Signed distance in a plane: blue inside, red outside, black where it is zero."""
        assert self.asset is not None
        if self.asset.sdf is None:
            self.asset = with_sdf(self.asset)
        grid = self.asset.sdf
        assert grid is not None
        low = grid.origin
        high = grid.origin + grid.spacing * (np.array(grid.values.shape) - 1)
        axis = "xyz".index(self._axis.value)
        across, up = [i for i in range(3) if i != axis]
        level = low[axis] + self._height.value * (high - low)[axis]
        columns = np.linspace(low[across], high[across], _SLICE_PIXELS)
        rows = np.linspace(high[up], low[up], _SLICE_PIXELS)
        points = np.empty((_SLICE_PIXELS, _SLICE_PIXELS, 3))
        points[..., axis] = level
        points[..., across], points[..., up] = columns[None], rows[:, None]
        image = distance_colours(query(grid, points))
        turn = np.zeros((3, 3))  # image: x to the right, y up
        turn[across, 0] = turn[up, 1] = 1.0
        turn[:, 2] = np.cross(turn[:, 0], turn[:, 1])
        from dexjax.render.scene import quaternion

        centre = 0.5 * (low + high)
        centre[axis] = level
        self.viewer.server.scene.add_image(
            "/object/slice", image, float((high - low)[across]), float((high - low)[up]),
            wxyz=quaternion(turn), position=centre, cast_shadow=False, receive_shadow=False,
        )  # fmt: skip

    def _settle(self) -> None:
        self.draw()
        self._frame()

    def _frame(self) -> None:
        """Put floor and camera where the object is now."""
        if len(self._mesh.vertices):
            vertices = self._mesh.at(*self._resting()).world_vertices()
            self.viewer.look_at_box(vertices.min(0), vertices.max(0))
            self.viewer.reset_camera()


def distance_colours(distance: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 of signed distances (...,) m: blue inside, red outside, lines every 5 mm."""
    distance = np.asarray(distance)
    strength = np.clip(np.abs(distance)[..., None] / 0.03, 0, 1) ** 0.7
    ink = np.where(distance[..., None] < 0, (0.10, 0.35, 0.75), (0.85, 0.30, 0.20))
    colour = 1 - strength * (1 - ink)
    contour = np.abs((distance + 0.0025) % 0.005 - 0.0025) < 0.0003
    colour = np.where(contour[..., None], 0.8 * colour, colour)
    colour = np.where(np.abs(distance)[..., None] < 0.0006, 0.1, colour)
    return (255 * colour).astype(np.uint8)


def _describe_mesh(name: str, mesh: RenderMesh) -> str:
    extent = np.ptp(np.asarray(mesh.vertices), axis=0)
    return (
        f"**{plain(name)}** as in its file  \n"
        f"{len(mesh.vertices)} vertices, {len(mesh.faces)} triangles"
        f"  \nextents {' x '.join(f'{e:.4g}' for e in extent)}"
    )


def _describe_asset(asset: ObjectAsset) -> str:
    extent = 1000 * np.ptp(asset.vertices, axis=0)
    lines = [
        f"**{plain(asset.name)}** {plain(asset.category)}",
        f"{len(asset.faces)} triangles, {len(asset.pieces)} convex pieces",
        f"{' x '.join(f'{e:.0f}' for e in extent)} mm, {1000 * asset.mass:.0f} g",
        *map(plain, asset.notes),
    ]
    return "  \n".join(lines)


def _legend(asset: ObjectAsset) -> str:
    rows = []
    for i, name in enumerate(asset.part_names):
        red, green, blue = rgb(PART_COLOURS[i % len(PART_COLOURS)])
        labels = ", ".join(asset.part_affordances.get(name, ())) or "-"
        rows.append(f"**{plain(name)}** ({_colour_name(i)}): {plain(labels)}")
    return "  \n".join(rows)


def _colour_name(part: int) -> str:
    names = ("orange", "blue", "pink", "green", "red", "yellow", "light blue")
    return names[part % len(names)]


def _box_edges(asset: ObjectAsset) -> np.ndarray:
    """(12, 2, 3) edges of the oriented bounding box."""
    box = asset.box
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    corners = box.centre + (signs * box.half_extents) @ box.axes
    pairs = [(i, j) for i in range(8) for j in range(i) if np.abs(signs[i] - signs[j]).sum() == 2]
    return corners[np.array(pairs)].astype(np.float32)
