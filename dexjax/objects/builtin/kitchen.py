"""Built-in kitchen and household hand objects: knife, spoon, brush, banana."""

from __future__ import annotations

import numpy as np

from dexjax.objects.builtin.catalogue import category
from dexjax.objects.builtin.solids import (
    Solid,
    convex_piece,
    loft,
    rounded_profile,
    smooth_curve,
    superellipse,
    sweep,
    vessel,
)
from dexjax.objects.builtin.tools import straight_handle


@category(
    "knife",
    ranges={
        "handle_length": (0.105, 0.130),
        "handle_width": (0.023, 0.030),
        "handle_thickness": (0.019, 0.025),
        "blade_length": (0.110, 0.170),
        "blade_width": (0.026, 0.042),
        "mass_kg": (0.09, 0.22),
    },
    parts={"handle": ("hold",), "bolster": (), "blade": ("avoid", "cut")},
)
def knife(d, rng):
    # Handle along -x, blade along +x, edge towards -y, flat sides facing z.
    length, w, t = d["handle_length"], d["handle_width"], d["handle_thickness"]
    x = np.array([-1, -0.92, -0.60, -0.25, 0.0]) * length
    handle = straight_handle(
        x, np.array([0.90, 1.0, 0.88, 0.94, 0.80]) * w, np.array([0.92, 1, 0.95, 0.95, 0.80]) * t,
        "handle", 2.8, cap=0.8,
    )  # fmt: skip
    bolster = straight_handle(
        [-0.003, 0.006, 0.014], [0.86 * w, 0.84 * w, 0.9 * w], [0.84 * t, 0.7 * t, 0.30 * t],
        "bolster", 2.6, 6, 0.1,
    )  # fmt: skip
    reach, wide = d["blade_length"], d["blade_width"]
    s = np.linspace(0, 1, 16)
    spine = 0.40 * w - 0.30 * wide * s**2.5
    edge = 0.40 * w - wide * np.interp(s, [0, 0.06, 0.5], [0.75, 1.0, 1.0])
    belly = np.clip((s - 0.45) / 0.55, 0, 1) ** 2.2
    edge = edge + (spine - edge - 0.0015) * belly
    back = 0.0016 * (1 - 0.5 * s)
    rings = []
    for at, top, low, half in zip(0.010 + reach * s, spine, edge, back, strict=True):
        # Wedge section with a rounded spine and a thin but closed edge.
        y = np.array([top, top - 0.3 * half, low + 0.35 * (top - low), low, low,
                      low + 0.35 * (top - low), top - 0.3 * half, top])  # fmt: skip
        z = half * np.array([0.6, 1, 0.8, 0.15, -0.15, -0.8, -1, -0.6])
        rings.append(np.stack([np.full(8, at), y, z], 1))
    return [handle, bolster, loft(np.array(rings), "blade", tolerance=2.5e-3)]


@category(
    "spoon",
    ranges={
        "handle_length": (0.150, 0.190),
        "handle_width": (0.020, 0.026),
        "handle_thickness": (0.014, 0.019),
        "bowl_length": (0.070, 0.090),
        "bowl_width": (0.054, 0.066),
        "bowl_depth": (0.020, 0.028),
        "mass_kg": (0.06, 0.16),
    },
    parts={"handle": ("hold",), "neck": (), "bowl": ("avoid", "scoop"), "inside": ("scoop",)},
)
def spoon(d, rng):
    """Serving spoon: thick grip along -x, bowl around +x."""
    a, b, depth = d["bowl_length"] / 2, d["bowl_width"] / 2, d["bowl_depth"]
    angle = np.linspace(0.16, 0.5 * np.pi, 9)
    outer = np.stack([b * np.sin(angle) ** 0.8, -depth * np.cos(angle)], 1)
    outer = np.concatenate([[(2e-4, outer[0, 1])], outer])
    wall = 0.0035
    down = np.linspace(0.5 * np.pi - 0.02, 0.16, 8)
    inner = np.stack([(b - wall) * np.sin(down) ** 0.8, -(depth - wall) * np.cos(down)], 1)
    inner = np.concatenate([inner, [(2e-4, inner[-1, 1])]])
    skin = vessel(outer, inner, ("bowl", "bowl", "inside"), 8)
    pieces = _bowl_pieces(b, depth, wall)
    centre = np.array([a, 0.0, 0.0])
    bowl = Solid(skin.vertices, skin.faces, skin.parts, pieces).moved(
        np.diag([a / b, 1.0, 1.0]), centre
    )
    length, w, t = d["handle_length"], d["handle_width"], d["handle_thickness"]
    s, rise = smooth_curve([0, 0.35, 1], [-0.002, 0.012, 0.018], 10)
    neck_path = np.stack([0.0035 - 0.085 * s, 0 * s, rise], 1)
    neck_half = np.stack([np.interp(s, [0, 0.3, 1], [0.009, 0.0055, 0.42 * w]),
                          np.interp(s, [0, 0.3, 1], [0.002, 0.0035, 0.40 * t])], 1)  # fmt: skip
    neck = sweep(neck_path, neck_half, 2.4, 16, cap=0)
    grip = straight_handle(
        np.array([-1, -0.9, -0.55, -0.2, 0.0]) * (length - 0.05),
        np.array([0.80, 1.0, 0.92, 0.96, 0.86]) * w, np.array([0.85, 1.0, 0.95, 0.95, 0.82]) * t,
        "handle", 2.4,
    ).moved(None, (-0.075, 0, 0.018))  # fmt: skip
    return [bowl, loft(neck, "neck", tolerance=2.5e-3), grip]


def _bowl_pieces(b: float, depth: float, wall: float) -> tuple[np.ndarray, ...]:
    """Convex pieces of the round bowl: a bottom disc and eight wall segments, mid-wall chords."""
    pieces = []
    low = np.linspace(0.16, 0.62, 4)
    disc = np.concatenate(
        [
            _circle(b * np.sin(q) ** 0.8, -depth * np.cos(q)) for q in low
        ] + [_circle(b * np.sin(low[-1]) ** 0.8 - wall, -(depth - wall) * np.cos(0.3))]
    )  # fmt: skip
    pieces.append(convex_piece(disc))
    half = np.pi / 8
    for w in range(8):
        turn = 2 * half * w + np.linspace(-half, half, 4)
        ends = turn[[0, -1]]
        points = [
            _circle(b * np.sin(q) ** 0.8, -depth * np.cos(q), turn)
            for q in np.linspace(0.50, np.pi / 2, 5)
        ]
        bias = 0.3 + 0.7 / np.cos(half)
        points += [
            _circle(
                min((b - wall) * np.sin(q) ** 0.8 * bias, 0.99 * b * np.sin(q) ** 0.8),
                -(depth - wall) * np.cos(q),
                ends,
            )
            for q in (0.62, 0.95, np.pi / 2)
        ]
        pieces.append(convex_piece(np.concatenate(points)))
    return tuple(pieces)


def _circle(radius: float, z: float, angle: np.ndarray | None = None) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False) if angle is None else angle
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(len(angle), z)], 1)


@category(
    "brush",
    ranges={
        "handle_length": (0.120, 0.150),
        "handle_width": (0.024, 0.030),
        "handle_thickness": (0.018, 0.024),
        "head_length": (0.065, 0.085),
        "head_width": (0.042, 0.056),
        "bristles": (0.018, 0.026),
        "mass_kg": (0.06, 0.16),
    },
    parts={"handle": ("hold",), "head": (), "bristles": ("avoid", "scrub")},
)
def brush(d, rng):
    """Washing-up brush: handle along -x, head at +x, bristles towards -z."""
    length, w, t = d["handle_length"], d["handle_width"], d["handle_thickness"]
    s, rise = smooth_curve([0, 0.25, 0.7, 1], [0.022, 0.020, 0.008, 0.004], 20)
    path = np.stack([-length + (length + 0.012) * s, 0 * s, rise], 1)
    half = np.stack(
        [
            np.interp(s, [0, 0.12, 0.4, 0.8, 1], [0.8, 1, 0.94, 0.62, 0.66]) * w / 2,
            np.interp(s, [0, 0.12, 0.4, 0.8, 1], [0.8, 1, 0.94, 0.60, 0.50]) * t / 2,
        ],
        1,
    )
    handle = loft(sweep(path, half, 2.4, cap=0.8), "handle", tolerance=2.8e-3)
    a, b = d["head_length"] / 2, d["head_width"] / 2
    plate = rounded_profile([(2e-4, -0.006), (1.0, -0.006), (1.0, 0.006), (2e-4, 0.006)],
                            [0, 0.006, 0.006, 0])  # fmt: skip
    head = loft(_oval(plate[:, 0], plate[:, 1], a, b, 2.5), "head")
    deep = d["bristles"]
    tuft = np.array([[0.86, -0.004], [0.90, -0.5 * deep], [0.95, -deep], [0.90, -deep - 0.002]])
    bristles = loft(_oval(tuft[:, 0], tuft[:, 1], a, b, 2.5), "bristles")
    shift = (a - 0.004, 0, 0)
    return [handle, head.moved(None, shift), bristles.moved(None, shift)]


def _oval(scale, z, a: float, b: float, power: float, n: int = 32) -> np.ndarray:
    """Rings of a scaled superellipse (a, b) at heights z."""
    unit = superellipse(n, power) * [a, b]
    rings = [np.c_[unit * max(k, 0.01), np.full(n, h)] for k, h in zip(scale, z, strict=True)]
    return np.array(rings)


@category(
    "banana",
    ranges={
        "length": (0.150, 0.195),  # along the curve
        "diameter": (0.034, 0.042),
        "bend_rad": (0.95, 1.35),
        "mass_kg": (0.10, 0.20),
    },
    parts={"fruit": ("hold", "eat"), "stem": ("open",)},
)
def banana(d, rng):
    r, bend, length = d["diameter"] / 2, d["bend_rad"], d["length"]
    s = np.linspace(0, 1, 24)
    angle = bend * (s - 0.5)
    radius = length / bend
    path = np.stack([radius * np.sin(angle), radius * (1 - np.cos(angle)), 0 * s], 1)
    _, size = smooth_curve(
        [0, 0.04, 0.14, 0.35, 0.65, 0.84, 0.91, 1],
        np.array([0.26, 0.50, 0.78, 1, 0.97, 0.62, 0.28, 0.25]) * r,
        24,
    )
    size[-1] *= 1.12
    rings = sweep(path, np.stack([size, size * 0.96], 1), 2.0, 20, cap=0.25)
    # Five soft ridges: rounded pentagon section.
    turn = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    swell = 1 + 0.035 * np.cos(5 * turn)
    middle = rings.mean(1, keepdims=True)
    rings = middle + (rings - middle) * swell[None, :, None]
    count = len(rings)
    names = ["fruit"] * (count - 6) + ["stem"] * 7
    return [loft(rings, names, tolerance=2.6e-3)]
