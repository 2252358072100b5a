"""Plots beside the scene that grow with the time shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dexjax.view.viewer import RGB, Viewer

_COLOURS: tuple[RGB, ...] = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (213, 94, 0), (86, 180, 233),
    (120, 120, 120),
)  # fmt: skip


class GrowingPlot:
    """Lines over time, of which the part up to the step shown is drawn."""

    def __init__(self, viewer: Viewer, folder: Any, title: str, unit: str) -> None:
        """folder: the viewer's folder that holds the plot."""
        self._gui, self._folder = viewer.server.gui, folder
        self._title, self._unit = title, unit
        self._handle: Any = None
        self._time, self._lines = np.zeros(0), np.zeros((0, 0))

    def load(
        self, time: np.ndarray, lines: Mapping[str, np.ndarray], colours: Mapping[str, RGB] = {}
    ) -> None:
        """Other lines: time (T,) in s, each line (T,)."""
        self._time = np.asarray(time, np.float64)
        self._lines = np.stack([np.asarray(v, np.float64) for v in lines.values()])
        if self._handle is not None:
            self._handle.remove()
        known = self._lines[np.isfinite(self._lines)]
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        room = 0.05 * (high - low) or 1.0
        series: list[dict[str, Any]] = [{"label": "s"}]
        for i, name in enumerate(lines):
            r, g, b = colours.get(name, _COLOURS[i % len(_COLOURS)])
            series.append({"label": name, "stroke": f"rgb({r},{g},{b})", "width": 2})
        scales: Any = {
            "x": {"time": False, "range": (0.0, float(self._time[-1]) or 1.0)},
            "y": {"range": (low - room, high + room)},
        }
        legend: Any = {"show": True, "live": False}
        with self._folder:
            self._handle = self._gui.add_uplot(
                self._data(0),
                tuple(series),
                title=f"{self._title}, {self._unit}",
                scales=scales,
                legend=legend,
                aspect=1.6,
            )

    def show(self, step: int) -> None:
        """Draw the lines up to this step."""
        if self._handle is not None:
            self._handle.data = self._data(step)

    def _data(self, step: int) -> tuple[np.ndarray, ...]:
        # All times stay: the axis must not move. What is to come is not drawn.
        later = np.arange(len(self._time)) > step
        return (self._time, *np.where(later, np.nan, self._lines))
