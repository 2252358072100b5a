"""Recorded episodes in the viewer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dexjax.hands import load_hand
from dexjax.metrics.episodes import OBJECT_QPOS, Episode
from dexjax.metrics.stage import Stage, finger_colour, object_mesh
from dexjax.render import RenderMesh
from dexjax.view.actors import METRES_PER_NEWTON, ContactActor, HandActor, ObjectActor
from dexjax.view.plots import GrowingPlot
from dexjax.view.text import plain
from dexjax.view.timeline import Timeline
from dexjax.view.viewer import Viewer, rgb

_MOST_TERMS = 6  # lines in the plot of reward terms, the largest ones
_ALL = "all objects"


class EpisodePlayer:
    """Hand, object, table, goal and contacts of one episode out of several, over time."""

    def __init__(
        self, viewer: Viewer, episodes: Sequence[Episode], notes: Sequence[str] = ()
    ) -> None:
        """notes: what else to say of each episode."""
        self.notes = notes
        self.viewer, self.episodes = viewer, list(episodes)
        self._index, self._quiet = 0, False
        self._known: int | None = None  # steps of a growing episode
        self.episode = self.episodes[0]
        config = self.episode.scene
        self._stage = Stage(config, RenderMesh(np.zeros((3, 3)), np.array([[0, 1, 2]])))
        self._shells = Stage(config, self._stage.thing, collision=True)
        hand = load_hand(config.hand)
        model = self._stage.hand.model
        self._tips = [model.body(hand.body_names[b]).id for b in hand.fingertip_body]
        self._fingers = hand.finger_names
        self._controls()
        self._hand = HandActor(viewer, self._stage.hand)
        self._collision = HandActor(viewer, self._shells.hand, "/hand_collision", opacity=0.45)
        self._collision.root.visible = False
        self._object = ObjectActor(viewer)
        self._contacts = ContactActor(viewer, len(self._fingers))
        viewer.add_mesh("/table", self._stage.table, cast_shadow=False)
        self._goal: Any = viewer.server.scene.add_icosphere(
            "/goal", radius=0.012, color=(46, 160, 67), opacity=0.6, visible=False
        )
        top = config.table_height
        viewer.look((0.25, -0.37, top + 0.30), (0.0, -0.02, top + 0.12))
        self.timeline = Timeline(viewer, self._show)
        self._plots()
        self.load(0)

    def replace(self, episodes: Sequence[Episode], available: int) -> None:
        """Other episodes of the same scene, of which the first steps are known."""
        with self.viewer.lock:
            self._index = min(self._index, len(episodes) - 1)
            self.update(episodes)
            self.load(self._index)
            self.reveal(available)

    def reveal(self, available: int) -> None:
        """More steps are known."""
        self._known = self.timeline.available = available

    def update(self, episodes: Sequence[Episode]) -> None:
        """The same episodes, of which more is known now."""
        with self.viewer.lock:
            self.episodes, self._known = list(episodes), None
            self.episode = self.episodes[self._index]
            self.timeline.available = self.timeline.length
            labels = self._labels(_ALL)
            self._quiet = True
            names = tuple(dict.fromkeys(e.object.name for e in self.episodes))
            self.object_picker.options = (_ALL, *names)
            self.object_picker.value = _ALL
            self.picker.options = labels
            self.picker.value = labels[self._index]
            self._quiet = False
            self._describe(None)
            self.refresh_plots()
            self._show(int(self.timeline.slider.value))

    def refresh_plots(self) -> None:
        """Draw the plots anew after more of the episode became known."""
        with self.viewer.lock:
            self._load_plots(self.episode)
            for plot in self._shown:
                plot.show(int(self.timeline.slider.value))

    def load(self, index: int) -> None:
        """Show another episode from its beginning."""
        with self.viewer.lock:
            self._index = index
            self.episode = episode = self.episodes[index]
            mesh, note = object_mesh(episode.object)
            self._object.draw(mesh)
            self._goal.visible = episode.goal is not None and self._show_goal.value
            if episode.goal is not None:
                self._goal.position = episode.goal
            self._describe(note)
            if note:
                print(note)
            self._load_plots(episode)
            self.timeline.load(len(episode.qpos), episode.control_dt, available=self._known)

    def _controls(self) -> None:
        gui = self.viewer.server.gui
        names = tuple(dict.fromkeys(e.object.name for e in self.episodes))
        self._about: Any = gui.add_markdown("")
        self.object_picker: Any = gui.add_dropdown("object", (_ALL, *names), initial_value=_ALL)
        self.picker: Any = gui.add_dropdown("episode", self._labels(_ALL))
        self.object_picker.on_update(lambda _: self._filter())
        self.picker.on_update(lambda _: self._picked())
        with gui.add_folder("Show", expand_by_default=False):
            self._show_hand: Any = gui.add_dropdown("hand", ("visual", "collision", "both"))
            self._show_contacts: Any = gui.add_checkbox("contacts and forces", True)
            self._show_goal: Any = gui.add_checkbox("goal", True)
            gui.add_markdown(f"*1 cm of an arrow is {0.01 / METRES_PER_NEWTON:.0f} N.*")
        for control in (self._show_hand, self._show_contacts, self._show_goal):
            control.on_update(lambda _: self._layers())

    def _labels(self, name: str) -> tuple[str, ...]:
        return tuple(
            f"{i}: {e.caption}"
            for i, e in enumerate(self.episodes)
            if name in (_ALL, e.object.name)
        )

    def _filter(self) -> None:
        if self._quiet:
            return
        with self.viewer.lock:
            labels = self._labels(self.object_picker.value)
            self._quiet = True
            self.picker.options = labels
            self.picker.value = labels[0]
            self._quiet = False
            self._picked()

    def _picked(self) -> None:
        if not self._quiet:
            self.load(int(self.picker.value.split(":")[0]))

    def _layers(self) -> None:
        with self.viewer.lock:
            wanted = self._show_hand.value
            self._hand.root.visible = wanted in ("visual", "both")
            self._collision.root.visible = wanted in ("collision", "both")
            self._contacts.visible = self._show_contacts.value
            self._goal.visible = self.episode.goal is not None and self._show_goal.value
            self._show(int(self.timeline.slider.value))

    def _describe(self, note: str | None) -> None:
        extra = self.notes[self._index] if self._index < len(self.notes) else None
        self._about.content = _text(self.episode, note or extra)

    def _plots(self) -> None:
        folder = self.viewer.server.gui.add_folder("Plots", order=2000.0)
        self._reward = GrowingPlot(self.viewer, folder, "reward terms", "per step")
        self._force = GrowingPlot(self.viewer, folder, "force on each finger", "N")
        self._height = GrowingPlot(self.viewer, folder, "object above its start", "m")
        self._success = GrowingPlot(self.viewer, folder, "success so far", "0 or 1")
        self._shown = (self._reward, self._success, self._force, self._height)

    def _load_plots(self, episode: Episode) -> None:
        times = episode.control_dt * np.arange(len(episode.qpos))
        if episode.terms:
            by_size = sorted(
                episode.terms, key=lambda k: -float(np.nansum(np.abs(episode.terms[k])))
            )
            self._reward.load(times, {k: episode.terms[k] for k in by_size[:_MOST_TERMS]})
        if episode.success:
            names = {k: k.removeprefix("success_") for k in episode.success}
            self._success.load(times, {names[k]: v for k, v in episode.success.items()})
        if episode.finger_force is not None:
            norms = np.linalg.norm(episode.finger_force, axis=-1)
            lines = {name: norms[:, i] for i, name in enumerate(self._fingers)}
            colours = {name: rgb(finger_colour(i)) for i, name in enumerate(self._fingers)}
            self._force.load(times, lines, colours)
        height = episode.qpos[:, OBJECT_QPOS][:, 2]
        lines = {"height": height - height[0]}
        if episode.goal is not None:
            lines["goal"] = np.full(len(height), episode.goal[2] - height[0])
        self._height.load(times, lines)

    def _show(self, step: int) -> None:
        episode = self.episode
        step = min(step, len(episode.qpos) - 1)
        qpos = episode.qpos[step]
        with self.viewer.server.atomic():
            xpos, xquat = self._stage.body_poses(qpos)
            self._hand.pose(xpos, xquat)
            self._collision.pose(xpos, xquat)
            pose = qpos[OBJECT_QPOS]
            self._object.pose(pose[:3], pose[3:])

            def row(values: np.ndarray | None) -> np.ndarray | None:
                return None if values is None else np.asarray(values[step])

            self._contacts.draw(
                row(episode.contact_point), row(episode.contact_finger),
                row(episode.finger_force), xpos[self._tips],
            )  # fmt: skip
            for plot in self._shown:
                plot.show(step)


def _text(episode: Episode, note: str | None) -> str:
    """What the panel says of an episode."""
    mark = "**success**" if episode.good else f"**{plain(episode.ending)}**"
    names = (k.removeprefix("success_") for k, v in episode.outcome.items() if v)
    total = sum(float(np.nansum(v)) for v in episode.terms.values())
    lines = [
        f"{plain(episode.object.name)} - {mark}",
        f"outcomes: {plain(', '.join(names)) or 'none'}",
    ]
    if episode.terms:
        lines.append(f"return {total:.2f}")
    if note:
        lines.append(f"*{plain(note)}*")
    return "  \n".join(lines)
