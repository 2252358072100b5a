"""Time in the viewer: a slider, play and pause, single steps, speed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dexjax.view.viewer import Viewer

SPEEDS = {"1/8 x": 0.125, "1/4 x": 0.25, "1/2 x": 0.5, "1 x": 1.0, "2 x": 2.0, "4 x": 4.0}


class Timeline:
    """Controls that call `show(step)` whenever the step changes."""

    def __init__(self, viewer: Viewer, show: Callable[[int], None]) -> None:
        self._viewer, self._show = viewer, show
        self.length, self.dt, self.available = 1, 1 / 30, 1
        self.playing = False
        self._ahead = 0.0  # steps of played time that are not shown yet
        gui = viewer.server.gui
        with gui.add_folder("Time"):
            self.slider: Any = gui.add_slider("step", 0, 1, 1, 0)
            self.clock: Any = gui.add_text("time", "", disabled=True)
            self.play: Any = gui.add_button("Play", icon="player-play")
            self.steps: Any = gui.add_button_group("move", ("first", "-1", "+1", "last"))
            self.speed: Any = gui.add_dropdown("speed", tuple(SPEEDS), initial_value="1 x")
        self.slider.on_update(lambda _: self._moved())
        self.play.on_click(lambda _: self.set_playing(not self.playing))
        self.steps.on_click(lambda event: self._jump(event.target.value))
        viewer.every_tick(self._tick)

    def load(self, length: int, dt: float, *, available: int | None = None) -> None:
        """Start over with `length` steps of dt seconds, `available` of which are known (all)."""
        with self._viewer.lock:
            self.length, self.dt = max(length, 1), dt
            self.available = self.length if available is None else available
            self.slider.max = max(self.length - 1, 1)
            self._ahead = 0.0
            self.go(0)

    def go(self, step: int) -> None:
        """Show a step; the nearest one that is known."""
        step = min(max(step, 0), self.available - 1)
        if self.slider.value == step:
            self._moved()
        else:
            self.slider.value = step  # calls `_moved`

    def set_playing(self, playing: bool) -> None:
        """Start or stop; from the beginning if the end was reached."""
        with self._viewer.lock:
            self.playing = playing
            self.play.label = "Pause" if playing else "Play"
            self.play.icon = "player-pause" if playing else "player-play"
            if playing and self.slider.value >= self.length - 1:
                self.go(0)

    def _moved(self) -> None:
        with self._viewer.lock:
            step = min(int(self.slider.value), self.available - 1)
            self.clock.value = f"{step * self.dt:.2f} s of {(self.length - 1) * self.dt:.2f} s"
            self._show(step)

    def _jump(self, where: str) -> None:
        self.set_playing(False)
        step = int(self.slider.value)
        places = {"first": 0, "-1": step - 1, "+1": step + 1, "last": self.length - 1}
        self.go(places[where])

    def _tick(self, seconds: float) -> None:
        if not self.playing:
            return
        self._ahead += seconds * SPEEDS[self.speed.value] / self.dt
        whole = int(self._ahead)
        if not whole:
            return
        self._ahead -= whole
        self.go(int(self.slider.value) + whole)
        if self.slider.value >= self.length - 1:
            self.set_playing(False)
