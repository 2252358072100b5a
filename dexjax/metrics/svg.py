"""Small charts as SVG text, for reports that need no script and no network."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np

COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#888888", "#222222",
)  # fmt: skip
_MOST_POINTS = 240
_LEFT, _BOTTOM, _TOP = 52, 34, 12


def line_chart(
    x: Sequence[float] | np.ndarray,
    lines: Mapping[str, Sequence[float] | np.ndarray],
    x_label: str,
    *,
    low: float | None = None,
    high: float | None = None,
    width: int = 460,
    height: int = 240,
) -> str:
    """Lines over x (N,), each (N,); NaN interrupts a line. low, high: range of y, else the data's.

    More than 240 points are thinned to means of equal stretches.
    """
    x, ys = _thin(np.asarray(x, float), {k: np.asarray(v, float) for k, v in lines.items()})
    known = np.concatenate([v[np.isfinite(v)] for v in ys.values()] or [np.zeros(0)])
    if not len(known) or not len(x):
        return f"<p>no data for {html.escape(', '.join(lines))}</p>"
    bottom = float(known.min()) if low is None else low
    top = float(known.max()) if high is None else high
    if top <= bottom:
        top = bottom + (abs(bottom) or 1.0)
    start, end = float(x[0]), float(x[-1]) if x[-1] > x[0] else float(x[0]) + 1.0
    inner_w, inner_h = width - _LEFT - 12, height - _TOP - _BOTTOM

    def px(v: float) -> float:
        return _LEFT + inner_w * (v - start) / (end - start)

    def py(v: float) -> float:
        return _TOP + inner_h * (1 - (min(max(v, bottom), top) - bottom) / (top - bottom))

    parts = [_open(width, height)]
    for tick in ticks(bottom, top):
        y = py(tick)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{width - 12}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(_text(_LEFT - 6, y + 4, f"{tick:g}", "end"))
    for tick in ticks(start, end):
        parts.append(_text(px(tick), height - _BOTTOM + 16, f"{tick:g}", "middle"))
    parts.append(_text(_LEFT + inner_w / 2, height - 4, x_label, "middle"))
    for i, values in enumerate(ys.values()):
        pieces, drawing = [], False
        for a, b in zip(x, values, strict=True):
            if math.isfinite(b):
                pieces.append(f"{'L' if drawing else 'M'}{px(a):.1f} {py(b):.1f}")
            drawing = math.isfinite(b)
        colour = COLOURS[i % len(COLOURS)]
        parts.append(
            f'<path d="{" ".join(pieces)}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
    return "".join(parts) + "</svg>" + legend(list(ys))


def interval_bars(
    rows: Sequence[tuple[str, float, float, float]], *, width: int = 620, label: int = 210
) -> str:
    """One bar per (name, rate, low, high), all in 0 .. 1, with its interval as a whisker."""
    step, height = 20, 20 * len(rows) + 26
    room = width - label - 120
    parts = [_open(width, height)]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = label + room * tick
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height - 22}"/>')
        parts.append(_text(x, height - 6, f"{tick:g}", "middle"))
    for i, (name, rate, low, high) in enumerate(rows):
        y = step * i + 4
        parts.append(_text(label - 8, y + 11, _short(name, label // 7), "end"))
        parts.append(
            f'<rect x="{label}" y="{y}" width="{room * rate:.1f}" height="13"'
            f' fill="{_shade(rate)}"/>'
        )
        a, b, middle = label + room * low, label + room * high, y + 6.5
        parts.append(
            f'<path class="whisker" d="M{a:.1f} {middle}H{b:.1f}'
            f'M{a:.1f} {y + 3}v7M{b:.1f} {y + 3}v7"/>'
        )
        parts.append(_text(width - 112, y + 11, f"{rate:.2f} [{low:.2f}, {high:.2f}]", "start"))
    return "".join(parts) + "</svg>"


def stacked_bar(shares: Mapping[str, float], *, width: int = 620) -> str:
    """Parts of a whole side by side, each with its percentage; colours as in `legend`."""
    total = sum(shares.values()) or 1.0
    parts, x = [_open(width, 26)], 0.0
    for i, value in enumerate(shares.values()):
        w = width * value / total
        colour = COLOURS[i % len(COLOURS)]
        parts.append(f'<rect x="{x:.1f}" y="0" width="{w:.1f}" height="26" fill="{colour}"/>')
        if w > 34:
            percent = f"{100 * value / total:.0f} %"
            parts.append(
                f'<text x="{x + w / 2:.1f}" y="17" class="on" text-anchor="middle">{percent}</text>'
            )
        x += w
    return "".join(parts) + "</svg>" + legend(list(shares))


def legend(names: Sequence[str]) -> str:
    """Names with the colours that the charts give them in this order."""
    items = "".join(
        f'<span><i style="background:{COLOURS[i % len(COLOURS)]}"></i>{html.escape(name)}</span>'
        for i, name in enumerate(names)
    )
    return f'<div class="legend">{items}</div>'


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` round numbers within low .. high."""
    raw = (high - low) / (most - 1)
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [round((first + i) * step, 12) for i in range(count)]


def _thin(x: np.ndarray, ys: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    if len(x) <= _MOST_POINTS:
        return x, dict(ys)
    groups = np.array_split(np.arange(len(x)), _MOST_POINTS)

    def means(v: np.ndarray) -> np.ndarray:
        sound = [v[g][np.isfinite(v[g])] for g in groups]
        return np.array([s.mean() if len(s) else np.nan for s in sound])

    return means(x), {k: means(v) for k, v in ys.items()}


def _open(width: int, height: int) -> str:
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _short(name: str, letters: int) -> str:
    return name if len(name) <= letters else "..." + name[3 - letters :]


def _shade(rate: float) -> str:
    """Red at 0, amber at a half, green at 1."""
    points = ((207, 60, 50), (230, 159, 0), (46, 160, 67))
    i = min(int(2 * rate), 1)
    t = 2 * rate - i
    r, g, b = (round(p + t * (q - p)) for p, q in zip(points[i], points[i + 1], strict=True))
    return f"#{r:02x}{g:02x}{b:02x}"
