"""Charts as SVG: where the points are, what the ticks are, and that no text breaks out."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dexjax.metrics.svg import interval_bars, line_chart, stacked_bar, ticks


@given(st.floats(-1e6, 1e6), st.floats(1e-4, 1e6))
def test_ticks_are_few_round_and_inside(low, span):
    high = low + span
    found = ticks(low, high)
    assert 1 <= len(found) <= 6
    slack = 1e-6 * max(abs(low), abs(high), 1e-3)
    assert min(found) >= low - slack and max(found) <= high + slack
    steps = np.diff(found)
    if len(steps):
        np.testing.assert_allclose(steps, steps[0], rtol=1e-3)


def _tree(text: str) -> ET.Element:
    return ET.fromstring(f"<div>{text}</div>")


def _path(text: str) -> np.ndarray:
    """(N, 2) points of the first line."""
    found = next(p for p in _tree(text).iter("path"))
    return np.array([[float(v) for v in p.split()] for p in re.split("[ML]", found.get("d"))[1:]])


def test_points_of_a_line_are_where_their_values_say():
    x = np.array([0.0, 1.0, 4.0])
    text = line_chart(x, {"a": [0.0, 1.0, 0.5]}, "minutes", low=0.0, high=1.0)
    points = _path(text)
    across = (points[:, 0] - points[0, 0]) / np.ptp(points[:, 0])
    np.testing.assert_allclose(across, x / 4, atol=1e-3)  # a tenth of a pixel
    up = (points[0, 1] - points[:, 1]) / np.ptp(points[:, 1])
    np.testing.assert_allclose(up, [0.0, 1.0, 0.5], atol=1e-3)


def test_nan_interrupts_a_line_and_many_points_are_thinned():
    text = line_chart([0, 1, 2, 3], {"a": [1.0, np.nan, 2.0, 3.0]}, "x")
    path = next(p for p in _tree(text).iter("path")).get("d")
    assert path.count("M") == 2 and path.count("L") == 1
    many = _path(line_chart(np.arange(5000.0), {"a": np.arange(5000.0)}, "x"))
    assert len(many) <= 240
    np.testing.assert_allclose(np.diff(many, 2, axis=0), 0, atol=0.35)  # still a straight line
    assert "no data" in line_chart([0, 1], {"a": [np.nan, np.nan]}, "x")
    assert _path(line_chart([0.0, 1.0], {"a": [2.0, 2.0]}, "x")).shape == (2, 2)  # constant


def test_bars_are_as_long_as_their_rates():
    rows = [("mug", 0.25, 0.1, 0.4), ("<b>&", 1.0, 0.9, 1.0), ("none", 0.0, 0.0, 0.3)]
    tree = _tree(interval_bars(rows))
    widths = [float(r.get("width")) for r in tree.iter("rect")]
    assert widths[0] == pytest.approx(0.25 * widths[1], abs=0.1) and widths[2] == 0
    assert "<b>&" in [t.text for t in tree.iter("text")]  # as text, not as a tag
    parts = [float(r.get("width")) for r in _tree(stacked_bar({"a": 3, "b": 1})).iter("rect")]
    assert parts[0] == pytest.approx(3 * parts[1], abs=0.3)
