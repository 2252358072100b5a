"""Built-in tools: hammer, screwdriver, drill, flashlight, scissors."""

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
    sweep,
)


def straight_handle(x, width, thickness, part, power=2.4, samples=22, cap=0.7) -> Solid:
    """Handle along x through the control stations x, with full widths (y) and thicknesses (z)."""
    knots, w = smooth_curve(x, width, samples)
    _, t = smooth_curve(x, thickness, samples)
    path = np.stack([knots, 0 * knots, 0 * knots], 1)
    return loft(sweep(path, np.stack([w, t], 1) / 2, power, cap=cap), part)


def cylinder(radius, start, length, part, bevel=1e-3, n=24) -> Solid:
    """Bevelled cylinder along +x that starts at `start` (3,)."""
    profile = rounded_profile(
        [(2e-4, 0), (radius, 0), (radius, length), (2e-4, length)], [0, bevel, bevel, 0]
    )
    return loft(lathe(profile, n), part).moved(Z_TO_X, start)


@category(
    "hammer",
    ranges={
        "length": (0.220, 0.280),
        "grip_width": (0.029, 0.036),
        "grip_thickness": (0.023, 0.028),
        "head_length": (0.085, 0.115),
        "face_diameter": (0.024, 0.030),
        "mass_kg": (0.30, 0.55),
    },
    parts={"grip": ("hold",), "neck": (), "face": ("strike",), "claw": ("avoid", "pull")},
)
def hammer(d, rng):
    # The head lies in the plane of the wider grip axis, y.
    length, w, t = d["length"], d["grip_width"], d["grip_thickness"]
    split = 0.55 * length
    grip = straight_handle(
        [0.006, 0.03, 0.08, split],
        [0.96 * w, w, 0.86 * w, 0.92 * w],
        [0.96 * t, t, 0.92 * t, 0.92 * t],
        "grip",
        2.5,
    )
    neck = straight_handle(
        [split, 0.7 * length, length - 0.008],
        [0.80 * w, 0.60 * w, 0.62 * w],
        [0.80 * t, 0.62 * t, 0.60 * t],
        "neck",
        2.3,
        10,
        0.3,
    )
    r, span = d["face_diameter"] / 2, d["head_length"]
    x = length - 0.018
    profile = rounded_profile(
        [(2e-4, -0.40 * span), (r, -0.40 * span), (r, -0.25 * span), (0.68 * r, -0.17 * span),
         (0.72 * r, -0.08 * span), (0.95 * r, 0.0), (0.95 * r, 0.10 * span), (2e-4, 0.12 * span)],
        [0, 0.002, 0.002, 0.004, 0.004, 0.003, 0.003, 0],
    )  # fmt: skip
    # z -> -y turn of the lathe axis; the face points along -y, the claw along +y.
    turn = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])
    head = loft(lathe(profile, 24), "face").moved(turn, (x, 0, 0))
    parts = [grip, neck, head]
    if rng.random() < 0.7:
        s = np.linspace(0, 1, 9)
        for sign in (-1.0, 1.0):
            path = np.stack(
                [x + 0.002 - 0.026 * s**2, 0.04 * span + 0.52 * span * s,
                 sign * (0.0035 + 0.0055 * s)], 1,
            )  # fmt: skip
            half = np.stack([0.0042 - 0.0008 * s, (0.95 * r) * (1 - 0.82 * s)], 1)
            parts.append(loft(sweep(path, half, 2.8, 14, up=(1, 0, 0), cap=0.3), "claw"))
    else:
        back = rounded_profile(
            [(2e-4, 0.05 * span), (0.92 * r, 0.05 * span), (0.60 * r, 0.22 * span),
             (0.66 * r, 0.42 * span), (2e-4, 0.42 * span)],
            [0, 0.002, 0.01, 0.003, 0],
        )  # fmt: skip
        parts.append(loft(lathe(back, 24), "face").moved(turn, (x, 0, 0)))
    return parts


@category(
    "screwdriver",
    ranges={
        "handle_length": (0.095, 0.115),
        "handle_diameter": (0.029, 0.037),
        "shaft_length": (0.075, 0.120),
        "shaft_diameter": (0.006, 0.008),
        "mass_kg": (0.07, 0.16),
    },
    parts={"handle": ("hold",), "shaft": (), "tip": ("avoid", "drive")},
)
def screwdriver(d, rng):
    length, r = d["handle_length"], d["handle_diameter"] / 2
    x = np.array([0, 0.06, 0.20, 0.45, 0.68, 0.80, 0.92, 1.0]) * length
    radius = np.array([0.62, 0.86, 1.0, 0.98, 0.86, 0.60, 0.66, 0.52]) * r
    knots, values = smooth_curve(x, radius, 26)
    rings = lathe(np.stack([values, knots], 1), 36)
    # Shallow flutes along the grip, fading out at both ends.
    angle = np.arctan2(rings[..., 1], rings[..., 0])
    fade = np.sin(np.pi * np.clip(knots / (0.78 * length), 0, 1))[:, None]
    rings[..., :2] *= (1 - 0.07 * fade * (1 + np.cos(6 * angle)) / 2)[..., None]
    handle = loft(rings, "handle", tolerance=2.2e-3).moved(Z_TO_X)
    s, end = d["shaft_diameter"] / 2, length + d["shaft_length"]
    shaft = cylinder(s, (length - 0.012, 0, 0), d["shaft_length"], "shaft", 5e-4, 16)
    blade = rng.random() < 0.5
    at = np.array([-0.014, -0.004, 0.0, 0.008]) + end
    wide = np.array([s, 1.5 * s, 1.5 * s, 1.3 * s]) if blade else np.array([s, s, s, 0.3 * s])
    thin = np.array([s, 0.6 * s, 0.4 * s, 0.25 * s]) if blade else wide
    tip = sweep(np.stack([at, 0 * at, 0 * at], 1), np.stack([wide, thin], 1), 2.6, 14, cap=0)
    return [handle, shaft, loft(tip, "tip")]


@category(
    "drill",
    ranges={
        "body_length": (0.115, 0.140),
        "body_diameter": (0.050, 0.060),
        "grip_depth": (0.040, 0.046),  # fore and aft
        "grip_width": (0.032, 0.038),
        "grip_length": (0.090, 0.105),
        "mass_kg": (0.55, 0.80),
    },
    parts={
        "grip": ("hold",),
        "trigger": ("press",),
        "motor": (),
        "battery": (),
        "chuck": ("avoid", "drive"),
        "bit": ("avoid", "drive"),
    },
)
def drill(d, rng):
    # Motor along +x at height 0, grip leaning back below it.
    length, r = d["body_length"], d["body_diameter"] / 2
    x = np.array([0, 0.05, 0.14, 0.55, 0.82, 1.0]) * length
    knots, radius = smooth_curve(x, np.array([0.55, 0.86, 1.0, 1.0, 0.92, 0.66]) * r, 18)
    motor = loft(lathe(np.stack([radius, knots], 1), 32, 2.3), "motor").moved(Z_TO_X)
    chuck = rounded_profile(
        [(2e-4, 0), (0.62 * r, 0), (0.62 * r, 0.018), (0.26 * r, 0.036), (2e-4, 0.036)],
        [0, 0.002, 0.004, 0.002, 0],
    )
    nose = (length - 0.004, 0.0, 0.0)
    bit = lathe([(2e-4, 0), (0.003, 0), (0.003, 0.050), (0.0008, 0.056)], 12)
    depth, width, drop = d["grip_depth"] / 2, d["grip_width"] / 2, d["grip_length"]
    s = np.linspace(0, 1, 14)
    lean = 0.22 * drop
    path = np.stack([0.36 * length - lean * s, 0 * s, -0.55 * r - (drop + 0.3 * r) * s], 1)
    _, a = smooth_curve([0, 0.3, 0.65, 1], np.array([1.06, 0.98, 1.0, 1.12]) * depth, 14)
    _, b = smooth_curve([0, 0.3, 0.65, 1], np.array([0.95, 0.96, 1.0, 1.05]) * width, 14)
    grip = sweep(path, np.stack([a, b], 1), 2.6, 24, up=(0, 1, 0), cap=0)
    foot = path[-1]
    base = np.stack([np.zeros(8), np.zeros(8), np.linspace(-0.032, 0.006, 8)], 1)
    taper = np.array([0.90, 0.97, 1, 1, 1, 0.98, 0.9, 0.72])
    battery = sweep(base, np.outer(taper, [0.046, 0.030]), 5.0, 32, up=(0, 1, 0), cap=0)
    t = np.linspace(0, 1, 8)
    front = path[2, 0] + depth
    pull = np.stack([front + 0.003 - 0.22 * 0.03 * t - 0.004 * np.sin(np.pi * t), 0 * t,
                     -1.05 * r - 0.030 * t], 1)  # fmt: skip
    trigger = sweep(pull, np.tile([0.008, 0.008], (8, 1)), 2.6, 12, up=(0, 1, 0), cap=0.5)
    return [
        motor,
        loft(lathe(chuck, 24), "chuck").moved(Z_TO_X, nose),
        loft(bit, "bit").moved(Z_TO_X, (nose[0] + 0.034, 0, 0)),
        loft(grip, "grip", tolerance=2.5e-3),
        loft(battery, "battery").moved(None, (foot[0] + 0.008, 0, foot[2])),
        loft(trigger, "trigger", tolerance=2.5e-3),
    ]


@category(
    "flashlight",
    ranges={
        "length": (0.130, 0.180),
        "barrel_diameter": (0.028, 0.036),
        "head_diameter": (0.040, 0.052),
        "mass_kg": (0.12, 0.30),
    },
    parts={
        "barrel": ("hold",),
        "head": (),
        "lens": ("avoid", "light"),
        "switch": ("press",),
    },
)
def flashlight(d, rng):
    length, r, big = d["length"], d["barrel_diameter"] / 2, d["head_diameter"] / 2
    neck = 0.70 * length
    flare = neck + 1.2 * (big - r) + 0.006
    corners = [(2e-4, 0), (0.9 * r, 0), (r, 0.008), (r, neck), (big, flare), (big, length)]
    body = rounded_profile([*corners, (big - 0.004, length), (big - 0.005, length - 0.003),
                            (2e-4, length - 0.003)],
                           [0, 0.004, 0.003, 0.008, 0.008, 0.001, 0, 0, 0])  # fmt: skip
    # Turned grooves: the barrel reads as a grip.
    names, rows = [], []
    grooves = np.arange(0.22 * length, 0.55 * length, 0.0065)
    for p, q in zip(body[:-1], body[1:], strict=True):
        rows.append(p)
        if p[1] < 0.2 * length and q[1] > 0.55 * length:
            for g in grooves:
                rows += [(r, g), (r - 8e-4, g + 5e-4), (r - 8e-4, g + 2.2e-3), (r, g + 2.7e-3)]
    rows.append(body[-1])
    profile = np.array(rows)
    rim = int(np.flatnonzero(profile[:, 0] >= big - 1e-9)[-1])
    for k, p in enumerate(profile):
        names.append("barrel" if p[1] <= neck and k < rim else "head")
    names = names + ["lens"]
    names[-2] = "lens"
    smooth = loft(lathe(body, 32), "barrel", tolerance=2.2e-3).pieces
    skin = loft(lathe(profile, 32), names, spans=())
    tube = Solid(skin.vertices, skin.faces, skin.parts, smooth).moved(Z_TO_X)
    button = lathe([(2e-4, 0), (0.0065, 0), (0.0065, 0.0035), (0.0045, 0.0048), (2e-4, 0.0048)], 20)
    switch = loft(button, "switch").moved(np.diag([1.5, 1.0, 1.0]), (0.62 * length, 0, r - 0.0025))
    return [tube, switch]


@category(
    "scissors",
    ranges={
        "length": (0.170, 0.210),
        "blade_width": (0.016, 0.020),
        "loop_thickness": (0.010, 0.013),
        "opening_rad": (0.16, 0.30),  # angle of each half to the middle line
        "mass_kg": (0.06, 0.14),
    },
    parts={"loops": ("hold",), "pivot": (), "blades": ("avoid", "cut")},
)
def scissors(d, rng):
    length, wide, thick = d["length"], d["blade_width"], d["loop_thickness"]
    blade, shank = 0.52 * length, 0.16 * length
    loop = 0.5 * (length - blade - shank)  # half the loop's length
    halves = []
    for side in (1.0, -1.0):
        # One half lies along x through the pivot at the origin; blades are stacked in z.
        s = np.linspace(0, 1, 12)
        x = -0.010 + (blade + 0.010) * s
        w = 0.5 * wide * np.interp(s, [0, 0.15, 0.55, 1], [0.9, 1.0, 0.8, 0.10])
        path = np.stack([x, side * (0.5 * wide - w) * 0.7, 0 * x], 1)
        metal = sweep(path, np.stack([w, np.full(12, 0.0017)], 1), 3.0, 16, cap=0)
        t = np.linspace(0, 1, 8)
        arm_path = np.stack([-0.004 - (shank + 0.004) * t, side * 0.010 * t**1.5, 0 * t], 1)
        arm_half = np.stack(
            [
                np.interp(t, [0, 1], [0.42 * wide, 0.0065]),
                np.interp(t, [0, 0.3, 1], [0.0017, 0.0034, 0.5 * thick]),
            ],
            1,
        )
        arm = sweep(arm_path, arm_half, 2.6, 16, cap=0)
        a = np.linspace(0, 2 * np.pi, 25, endpoint=False)
        ring_path = np.stack(
            [
                -shank - loop - 0.002 + (loop - 0.004) * np.cos(a),
                side * (0.012 + 0.3 * loop) + 0.68 * loop * np.sin(a),
                0 * a,
            ],
            1,
        )
        ring = _closed_sweep(ring_path, 0.0052, 0.5 * thick)
        tilt = -side * d["opening_rad"]
        c, q = np.cos(tilt), np.sin(tilt)
        turn = np.array([[c, -q, 0], [q, c, 0], [0, 0, 1.0]])
        lift = 0.0012 * side
        halves += [
            loft(metal, "blades").moved(turn, (0, 0, lift)),
            loft(arm, "loops", tolerance=3e-3).moved(turn),
            loft(ring, "loops", [(k, k + 5) for k in range(0, 25, 5)], closed=True).moved(turn),
        ]
    screw = lathe(rounded_profile([(2e-4, -0.0042), (0.0055, -0.0042), (0.0055, 0.0042),
                                   (2e-4, 0.0042)], [0, 0.0015, 0.0015, 0]), 20)  # fmt: skip
    return [*halves, loft(screw, "pivot")]


def _closed_sweep(path: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    """Rings of an ellipse along a closed planar path (K, 3) in the x-y plane."""
    tangent = np.roll(path, -1, 0) - np.roll(path, 1, 0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    side = np.stack([-tangent[:, 1], tangent[:, 0], 0 * tangent[:, 0]], 1)
    a = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    up = np.array([0, 0, 1.0])
    return (
        path[:, None]
        + half_width * np.cos(a)[None, :, None] * side[:, None]
        + half_height * np.sin(a)[None, :, None] * up
    )
