"""Built-in things that contain something: mug, cup, pan, bottle, can, spray bottle, teapot, box."""

from __future__ import annotations

import numpy as np

from dexjax.objects.builtin.catalogue import category
from dexjax.objects.builtin.solids import (
    Z_TO_X,
    Solid,
    lathe,
    loft,
    rounded_profile,
    smooth_curve,
    superellipse,
    sweep,
    vessel,
)


def _c_handle(foot, head, reach: float, half_width: float, half_thickness: float, part) -> Solid:
    """C-shaped handle in the x-z plane from `foot` to `head` (x, z), bulging `reach` along +x."""
    (x0, z0), (x1, z1) = foot, head
    t = np.linspace(0.0, np.pi, 19)
    # A superellipse arc: straighter grip than a half circle, like thrown and pressed mugs.
    bulge = np.sin(t) ** 0.6
    fall = np.sign(np.cos(t)) * np.abs(np.cos(t)) ** 0.6
    middle = 0.5 * (z0 + z1)
    x = x0 + (x1 - x0) * t / np.pi + (reach - half_thickness) * bulge
    z = middle - 0.5 * (z1 - z0) * fall
    path = np.stack([x, np.zeros_like(x), z], 1)
    half = np.tile([half_thickness, half_width], (len(path), 1))
    return loft(sweep(path, half, 2.4, 14, up=(0, 1, 0), cap=0), part, tolerance=2.6e-3)


def _thick_wall(corners, radii, wall: float, floor: float):
    """Outer profile with fillets and the inner profile at distance `wall`, from rim to floor."""
    outer = rounded_profile(corners, radii)
    top_r, top_z = outer[-1]
    bottom_r = np.interp(floor, outer[:, 1], outer[:, 0])
    inner = rounded_profile(
        [
            (top_r - wall, top_z - 0.2 * wall),
            (max(bottom_r - wall, 0.01), floor),
            (2e-4, floor),
        ],
        [0, 0.006, 0],
    )
    # A rounded lip: one ring between outer and inner edge.
    lip = np.array([[top_r - 0.5 * wall, top_z + 0.25 * wall]])
    return np.concatenate([outer, lip]), inner


@category(
    "mug",
    ranges={
        "diameter": (0.072, 0.086),
        "height": (0.080, 0.105),
        "wall": (0.0045, 0.0060),
        "taper": (0.90, 1.0),  # bottom over top diameter
        "handle_reach": (0.034, 0.042),  # outside of the wall to the outside of the handle
        "handle_width": (0.012, 0.018),
        "handle_thickness": (0.008, 0.011),
        "mass_kg": (0.22, 0.38),
    },
    parts={
        "handle": ("hold",),
        "body": ("contain",),
        "rim": ("avoid", "pour"),
        "inside": ("avoid", "contain"),
    },
)
def mug(d, rng):
    r, h = d["diameter"] / 2, d["height"]
    corners = [(2e-4, 0), (r * d["taper"], 0), (r, h)]
    outer, inner = _thick_wall(corners, [0, 0.008, 0], d["wall"], 0.006)
    body = vessel(outer, inner, ("body", "rim", "inside"), wedges=6)
    low, high = 0.20 * h, 0.84 * h
    attach = [np.interp(z, outer[:, 1], outer[:, 0]) - 0.45 * d["wall"] for z in (low, high)]
    handle = _c_handle(
        (attach[0], low),
        (attach[1], high),
        d["handle_reach"],
        d["handle_width"] / 2,
        d["handle_thickness"] / 2,
        "handle",
    )
    return [body, handle]


@category(
    "cup",
    ranges={
        "diameter": (0.062, 0.080),
        "height": (0.085, 0.125),
        "wall": (0.0040, 0.0055),
        "taper": (0.70, 0.95),
        "mass_kg": (0.06, 0.25),
    },
    parts={
        "body": ("hold", "contain"),
        "rim": ("avoid", "pour"),
        "inside": ("avoid", "contain"),
    },
)
def cup(d, rng):
    r, h = d["diameter"] / 2, d["height"]
    corners = [(2e-4, 0), (r * d["taper"], 0), (r, h)]
    outer, inner = _thick_wall(corners, [0, 0.006, 0], d["wall"], 0.006)
    return [vessel(outer, inner, ("body", "rim", "inside"), wedges=6)]


@category(
    "pan",
    ranges={
        "diameter": (0.125, 0.165),  # small frying and egg pans
        "height": (0.032, 0.045),
        "wall": (0.0045, 0.0055),
        "handle_length": (0.130, 0.165),
        "handle_width": (0.024, 0.030),
        "handle_thickness": (0.017, 0.022),
        "mass_kg": (0.25, 0.45),
    },
    parts={
        "handle": ("hold",),
        "outside": ("avoid",),
        "rim": ("avoid", "pour"),
        "inside": ("avoid", "contain"),
    },
)
def pan(d, rng):
    r, h, length = d["diameter"] / 2, d["height"], d["handle_length"]
    corners = [(2e-4, 0), (0.80 * r, 0), (r, h)]
    outer, inner = _thick_wall(corners, [0, 0.012, 0], d["wall"], 0.006)
    body = vessel(outer, inner, ("outside", "rim", "inside"), wedges=9, n=36)
    # The handle leaves the wall as a flat strap, rises and swells into the grip.
    s, z = smooth_curve([0, 0.2, 0.6, 1], [0.78 * h, h + 0.004, h + 0.014, h + 0.016], 14)
    w, t = d["handle_width"] / 2, d["handle_thickness"] / 2
    x0 = np.interp(0.78 * h, outer[:, 1], outer[:, 0]) - 0.4 * d["wall"]
    path = np.stack([x0 + s * length, 0 * s, z], 1)
    _, width = smooth_curve([0, 0.22, 0.5, 0.85, 1], [0.5 * w, 0.62 * w, w, w, 0.85 * w], 14)
    _, thick = smooth_curve([0, 0.22, 0.5, 0.85, 1], [0.36 * t, 0.6 * t, t, t, 0.8 * t], 14)
    rings = sweep(path, np.stack([width, thick], 1), 2.4, cap=0.6)[3:]
    return [body, loft(rings, "handle")]


@category(
    "bottle",
    ranges={
        "diameter": (0.056, 0.076),
        "height": (0.165, 0.225),
        "neck": (0.026, 0.034),
        "waist": (0.86, 1.0),  # narrowest over widest body diameter
        "mass_kg": (0.10, 0.50),
    },
    parts={"body": ("hold", "contain"), "neck": ("pour",), "cap": ("avoid", "open")},
)
def bottle(d, rng):
    r, h, n = d["diameter"] / 2, d["height"], d["neck"] / 2
    z = np.array([0.03, 0.10, 0.30, 0.42, 0.56, 0.64, 0.80, 0.87]) * h
    radius = np.array([1, 1, d["waist"], d["waist"], 1, 1, 0, 0]) * (r - n) + n
    knots, values = smooth_curve(z, radius, 26)
    side = np.stack([values, knots], 1)
    foot = rounded_profile([(2e-4, 0), (r, 0), (r, 0.03 * h)], [0, 0.006, 0], 5)[:-1]
    profile = np.concatenate([foot, side, [(n, 0.92 * h)]])
    names = ["body" if p[1] < 0.79 * h else "neck" for p in profile] + ["neck"]
    cap_r = n + 0.003
    cap = rounded_profile(
        [(2e-4, 0.885 * h), (cap_r, 0.885 * h), (cap_r, h), (2e-4, h)], [0, 0.001, 0.003, 0]
    )
    return [
        loft(lathe(profile), names, tolerance=2.8e-3),
        loft(lathe(cap), "cap"),
    ]


@category(
    "can",
    ranges={
        "diameter": (0.054, 0.076),
        "height": (0.085, 0.125),
        "mass_kg": (0.10, 0.40),
    },
    parts={"body": ("hold", "contain"), "top": ("avoid", "open", "pour"), "bottom": ()},
)
def can(d, rng):
    r, h = d["diameter"] / 2, d["height"]
    neck = r * (0.86 if rng.random() < 0.5 else 0.97)  # drink can or food tin
    lip = 0.002
    low = [(2e-4, 0.003), (neck - 0.004, 0.003), (neck - 0.003, 0.0), (neck, 0.0)]
    waist = rounded_profile(
        [(neck, 0.0), (r, 0.9 * (r - neck) + 0.004), (r, h - 0.9 * (r - neck) - 0.006), (neck, h)],
        [0, 0.008, 0.008, 0],
    )
    top = [(neck - lip, h), (neck - lip - 0.001, h - 0.003), (2e-4, h - 0.003)]
    profile = np.concatenate([low[:-1], waist, top])
    names = ["bottom"] * len(low) + ["body"] * (len(waist) - 1) + ["top"] * 4
    # The pull tab lies in the recess of the top, which the body's convex piece already covers.
    x = np.linspace(-0.35, 0.55, 9) * neck
    path = np.stack([x, 0 * x, 0 * x + h - 0.0026], 1)
    tab = sweep(path, np.tile([0.0055, 8e-4], (9, 1)), 3.0, 12)
    return [loft(lathe(profile, 40), names, tolerance=3.2e-3), loft(tab, "top", spans=())]


@category(
    "spray_bottle",
    ranges={
        "width": (0.074, 0.090),  # along the spray direction
        "depth": (0.048, 0.060),
        "height": (0.195, 0.240),  # with head
        "neck": (0.028, 0.034),
        "mass_kg": (0.12, 0.50),
    },
    parts={
        "body": ("contain",),
        "neck": ("hold",),
        "head": ("hold",),
        "trigger": ("press",),
        "nozzle": ("avoid", "spray"),
    },
)
def spray_bottle(d, rng):
    w, dep, h, n = d["width"] / 2, d["depth"] / 2, d["height"], d["neck"] / 2
    z = np.array([0.02, 0.08, 0.30, 0.45, 0.62, 0.70, 0.78]) * h
    _, a = smooth_curve(z, [0.97 * w, w, w, 0.88 * w, 0.52 * w, n, n], 20)
    knots, b = smooth_curve(z, [0.97 * dep, dep, dep, 0.95 * dep, 0.66 * dep, n, n], 20)
    _, power = smooth_curve(z, [3.2, 3.4, 3.4, 3.0, 2.2, 2, 2], 20)
    a, b = np.r_[0.88 * w, a], np.r_[0.85 * dep, b]
    knots, power = np.r_[0.0, knots], np.r_[3.0, power]
    rings = np.array(
        [
            np.c_[superellipse(32, p) * [x, y], np.full(32, zz)]
            for x, y, zz, p in zip(a, b, knots, power, strict=True)
        ]
    )
    names = ["body" if zz < 0.64 * h else "neck" for zz in knots] + ["neck"]
    collar_r = n + 0.002
    collar = rounded_profile(
        [(2e-4, 0.76 * h), (collar_r, 0.76 * h), (collar_r, 0.84 * h), (2e-4, 0.84 * h)],
        [0, 0.0015, 0.0015, 0],
    )
    # The head points along +x: a wedge from the back of the hand to the nozzle.
    x = np.array([-0.030, -0.018, 0.0, 0.022, 0.040])
    top = h + np.array([-0.016, -0.004, 0.0, -0.002, -0.005])
    low = h + np.array([-0.034, -0.040, -0.042, -0.034, -0.028])
    head_path = np.stack([x, 0 * x, (top + low) / 2], 1)
    head = sweep(head_path, np.c_[np.array([11, 14, 14, 12, 9]) * 1e-3, (top - low) / 2], 3.0)
    tip_z = h - 0.0165
    nozzle = lathe(
        rounded_profile([(2e-4, 0), (9e-3, 0), (7e-3, 0.016), (2e-4, 0.016)], [0, 0, 2e-3, 0]), 20
    )
    _, tx = smooth_curve([0, 0.5, 1], [0.026, 0.033, 0.046], 9)
    s, _ = smooth_curve([0, 1], [0, 1], 9)
    trigger_path = np.stack([tx, 0 * tx, h - 0.024 - 0.056 * s], 1)
    trigger = sweep(
        trigger_path, np.c_[np.full(9, 0.0065), np.full(9, 0.0045)], 2.5, 12, up=(1, 0, 0)
    )
    return [
        loft(rings, names, tolerance=2.8e-3),
        loft(lathe(collar, 24), "neck"),
        loft(head, "head", spans=[(0, len(head) - 1)]),
        loft(nozzle, "nozzle").moved(Z_TO_X, (0.040, 0, tip_z)),
        loft(trigger, "trigger", tolerance=2.8e-3),
    ]


@category(
    "teapot",
    ranges={
        "diameter": (0.088, 0.104),
        "height": (0.078, 0.092),  # without lid knob
        "handle_reach": (0.040, 0.048),
        "handle_width": (0.013, 0.018),
        "handle_thickness": (0.009, 0.012),
        "spout_length": (0.045, 0.058),
        "mass_kg": (0.30, 0.55),
    },
    parts={
        "handle": ("hold",),
        "body": ("avoid", "contain"),
        "spout": ("avoid", "pour"),
        "lid": ("open",),
    },
)
def teapot(d, rng):
    r, h = d["diameter"] / 2, d["height"]
    z = np.array([0, 0.04, 0.22, 0.46, 0.72, 0.90, 0.98]) * h
    knots, radius = smooth_curve(z, np.array([0.62, 0.68, 0.92, 1.0, 0.88, 0.62, 0.46]) * r, 22)
    profile = np.concatenate([[(2e-4, 0)], np.stack([radius, knots], 1), [(2e-4, 0.98 * h)]])
    lid_z = np.array([0.94, 0.97, 1.03, 1.09, 1.11]) * h
    lid_r = np.array([0.50, 0.50, 0.38, 0.16, 0.11]) * r
    knob = np.array([[0.13, 1.13], [0.20, 1.16], [0.23, 1.20], [0.20, 1.24], [0.10, 1.27]])
    lid = np.concatenate(
        [[(2e-4, 0.94 * h)], np.c_[lid_r, lid_z], knob * [r, h], [(2e-4, 1.275 * h)]]
    )
    x = np.interp([0.20 * h, 0.78 * h], knots, radius)
    handle = _c_handle(
        (x[0] - 0.004, 0.22 * h),
        (x[1] - 0.004, 0.78 * h),
        d["handle_reach"],
        d["handle_width"] / 2,
        d["handle_thickness"] / 2,
        "handle",
    )
    # Spout along -x: wide at the belly, rising and narrowing to a lip above the lid line.
    s = np.linspace(0, 1, 10)
    sx = 0.80 * r + (d["spout_length"] + 0.2 * r) * s
    sz = h * (0.36 + 0.64 * (3 * s**2 - 2 * s**3) * 0.9 + 0.04 * s)
    width = 0.0185 - 0.0105 * s**0.8
    spout = sweep(np.stack([-sx, 0 * s, sz], 1), np.c_[width, width * 0.9], 2.0, 18, cap=0.0)
    return [
        loft(lathe(profile, 36), "body", tolerance=2.5e-3),
        loft(lathe(lid, 28), "lid", tolerance=2.5e-3),
        handle,
        loft(spout, "spout", tolerance=2.5e-3),
    ]


@category(
    "box",
    ranges={
        "width": (0.038, 0.062),
        "depth": (0.055, 0.078),
        "height": (0.090, 0.160),
        "corner": (0.003, 0.010),
        "mass_kg": (0.08, 0.35),
    },
    parts={"body": ("hold", "contain"), "lid": ("open",)},
)
def box(d, rng):
    a, b, h, c = d["width"] / 2, d["depth"] / 2, d["height"], d["corner"]
    angle = np.linspace(0, np.pi / 2, 5)
    round_off = 0.96 * c * (1 - np.sin(angle))  # never quite 0: rings must keep their points apart
    inset = np.r_[round_off, 0, 0, round_off[::-1]]
    z = np.r_[c * (1 - np.cos(angle)), 0.8 * h, 0.8 * h + 1e-4, h - c * (1 - np.cos(angle[::-1]))]
    rings = []
    for t, zz in zip(inset, z, strict=True):
        corner = [
            (sx * (a - c) + (c - t) * np.cos(q), sy * (b - c) + (c - t) * np.sin(q), zz)
            for sx, sy, start in ((1, 1, 0), (-1, 1, 1), (-1, -1, 2), (1, -1, 3))
            for q in start * np.pi / 2 + angle
        ]
        rings.append(corner)
    names = ["body" if zz <= 0.8 * h else "lid" for zz in z] + ["lid"]
    return [loft(np.array(rings), names, spans=[(0, len(z) - 1)])]
