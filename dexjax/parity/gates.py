"""Gates: what is compared with the reference, how far it may be off, and why that far.

Every limit comes from a length that matters to a grasp or from how much PhysX differs from itself
(PGS against TGS, halved step); the rows of the reference against itself in the report show that
floor again for the data at hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from dexjax.metrics.equivalence import paired_equivalence
from dexjax.parity.grasps import held
from dexjax.parity.probe import Probe, Recording


@dataclass(frozen=True)
class Limit:
    """One figure of a gate and its bound."""

    figure: str
    bound: float
    unit: str
    why: str
    least: bool = False
    """The figure must be at least `bound` instead of at most."""

    def holds(self, value: float) -> bool:
        """Whether the figure passes; NaN never does."""
        return bool(value >= self.bound if self.least else value <= self.bound)


@dataclass(frozen=True)
class Gate:
    """A comparison of recordings of one kind of probe with the reference's."""

    name: str
    title: str
    probes: tuple[str, ...]
    measure: Callable[..., dict[str, float]]  # probes (of open-loop gates), reference, tested
    limits: tuple[Limit, ...]
    least_trials: int = 1
    """With fewer there is no verdict, only figures."""


@dataclass(frozen=True)
class Verdict:
    """What a gate measured of one simulator."""

    gate: str
    figures: dict[str, float]
    passed: dict[str, bool]  # of the figures with a limit; empty: no verdict

    @property
    def ok(self) -> bool | None:
        """Whether all limits hold; None without a verdict."""
        return all(self.passed.values()) if self.passed else None


def judge(
    gate: Gate,
    probes: Mapping[str, Probe],
    reference: Mapping[str, Recording],
    tested: Mapping[str, Recording],
) -> Verdict:
    """The verdict of one gate on one simulator's recordings, by probe name."""
    names = gate.probes
    figures = gate.measure(
        [probes[n] for n in names], [reference[n] for n in names], [tested[n] for n in names]
    )
    figures["diverged"] = float(sum((tested[n]["finite"] < 1).any(0).sum() for n in names))
    return _verdict(gate, figures, sum(probes[n].num_trials for n in names))


def judge_episodes(reference: Recording | None, tested: Recording | None) -> Verdict:
    """The verdict of G9; none where one of the two cannot run a policy."""
    if reference is None or tested is None:
        return Verdict(CLOSED_LOOP.name, {}, {})
    figures = CLOSED_LOOP.measure(reference, tested)
    figures["diverged"] = float((tested["finite"] < 1).any(0).sum())
    return _verdict(CLOSED_LOOP, figures, len(tested["success_any"]))


def _verdict(gate: Gate, figures: dict[str, float], trials: int) -> Verdict:
    if trials < gate.least_trials:
        return Verdict(gate.name, figures, {})
    passed = {limit.figure: limit.holds(figures[limit.figure]) for limit in gate.limits}
    passed["diverged"] = figures["diverged"] == 0
    return Verdict(gate.name, figures, passed)


def _static(
    probes: list[Probe], reference: list[Recording], tested: list[Recording]
) -> dict[str, float]:
    pairs = list(zip(reference, tested, strict=True))
    distance = [np.linalg.norm(a["body_pos"][0] - b["body_pos"][0], axis=-1) for a, b in pairs]
    angles = [_angle(a["body_quat"][0], b["body_quat"][0]) for a, b in pairs]
    return {
        "position": max(float(d.max()) for d in distance),
        "angle": max(float(a.max()) for a in angles),
    }


def _joint_steps(
    probes: list[Probe], reference: list[Recording], tested: list[Recording]
) -> dict[str, float]:
    parts = [_one_joint_steps(*part) for part in zip(probes, reference, tested, strict=True)]
    return {k: max(p[k] for p in parts) for k in parts[0]}


def _one_joint_steps(probe: Probe, reference: Recording, tested: Recording) -> dict[str, float]:
    """RMSE of the joint that steps (mean, max) and of all others, and the offset at the end."""
    difference = joint_errors(probe, reference, tested)
    error = 1000 * np.sqrt((difference[1:] ** 2).mean(0))  # (B, joints) mrad
    joint = probe.info["joint"]
    rows = np.arange(len(joint))
    own = error[rows, joint].copy()
    error[rows, joint] = 0
    return {
        "mean": float(own.mean()),
        "max": float(own.max()),
        "others": float(error.max()),
        "steady": float(1000 * np.abs(difference[-1]).max()),
    }


def _tendon(
    probes: list[Probe], reference: list[Recording], tested: list[Recording]
) -> dict[str, float]:
    difference = joint_errors(probes[0], reference[0], tested[0])
    joint = probes[0].info["joint"]
    error = 1000 * np.sqrt((difference[1:] ** 2).mean(0))
    follower = error[np.arange(len(joint)), joint]
    return {
        "follower": float(np.sqrt((follower**2).mean())),
        "follower max": float(follower.max()),
        "all joints": float(np.sqrt((error**2).mean())),
        "steady": float(1000 * np.abs(difference[-1]).max()),
    }


def _base(
    probes: list[Probe], reference: list[Recording], tested: list[Recording]
) -> dict[str, float]:
    """Errors of the palm over its travel; mm and mrad, each over the allowed 1 % of the way."""
    a, b = reference[0], tested[0]
    palm = probes[0].scene.body_names.index("palm")
    position = [r["body_pos"][:, :, palm].astype(np.float64) for r in (a, b)]
    way = 1000 * np.linalg.norm(position[0] - position[0][0], axis=-1)
    error = 1000 * np.linalg.norm(position[0] - position[1], axis=-1)
    quat = [r["body_quat"][:, :, palm] for r in (a, b)]
    turn = 1000 * _angle(quat[0], np.broadcast_to(quat[0][:1], quat[0].shape))
    angle = 1000 * _angle(*quat)
    return {
        "position": float(np.sqrt((error**2).mean(0)).max()),
        "position / allowed": float((error / np.maximum(0.1, 0.01 * way.max(0))).max()),
        "angle": float(np.sqrt((angle**2).mean(0)).max()),
        "angle / allowed": float((angle / np.maximum(1.0, 0.01 * turn.max(0))).max()),
    }


def _drops(
    probes: list[Probe], reference: list[Recording], tested: list[Recording]
) -> dict[str, float]:
    end = [1000 * r["body_pos"][-1, :, -1].astype(np.float64) for r in (reference[0], tested[0])]
    lowest = 1000 * (tested[0]["body_pos"][:, :, -1, 2].min(0) - probes[0].info["rest"])
    turned = np.rad2deg(_angle(*(r["body_quat"][-1, :, -1] for r in (reference[0], tested[0]))))
    return {
        "rest height": float(np.abs(end[0] - end[1])[:, 2].max()),
        "rest place": float(np.linalg.norm((end[0] - end[1])[:, :2], axis=1).max()),
        "rest turn": float(turned.max()),
        "impact depth": float(max(0.0, -lowest.min())),
    }


def _slopes(
    probes: list[Probe], reference: list[Recording], tested: list[Recording]
) -> dict[str, float]:
    x = [1000 * r["body_pos"][:, :, -1, 0].astype(np.float64) for r in (reference[0], tested[0])]
    slides = probes[0].info["slides"] > 0
    way = [p[-1] - p[0] for p in x]
    half = len(x[1]) // 2
    creep = (x[1][-1] - x[1][half]) / ((len(x[1]) - 1 - half) / 60)
    return {
        "slide": float(100 * np.abs(way[1] / way[0] - 1)[slides].max()),
        "creep": float(np.abs(creep)[~slides].max()),
        "held way": float(np.abs(way[1])[~slides].max()),
    }


def _windows(
    probes: list[Probe], reference: list[Recording], tested: list[Recording]
) -> dict[str, float]:
    """Object position after 10 frames from the reference's own state, mm."""
    place = [r["body_pos"][:, :, -1].astype(np.float64) for r in (reference[0], tested[0])]
    error = 1000 * np.linalg.norm(place[0][-1] - place[1][-1], axis=1)
    way = 1000 * np.linalg.norm(place[0][-1] - place[0][0], axis=1)
    holding = probes[0].info["holding"] > 0
    figures = {"trials": float(len(error)), "closing way": float(np.median(way[~holding]))}
    for name, part in (("closing", error[~holding]), ("holding", error[holding])):
        figures[name] = float(np.median(part)) if len(part) else math.nan
    return figures | {"p90": float(np.percentile(error, 90))}


def _grasps(
    probes: list[Probe], reference: list[Recording], tested: list[Recording]
) -> dict[str, float]:
    a, b = (held(probes[0], r[0]) for r in (reference, tested))
    figures = agreement(a, b)
    both = a & b
    end = [r[0]["body_pos"][-1, :, -1].astype(np.float64) for r in (reference, tested)]
    apart = 1000 * np.linalg.norm(end[0] - end[1], axis=1)[both]
    figures["apart"] = float(np.median(apart)) if both.any() else math.nan
    return figures


def _closed_loop(reference: Recording, tested: Recording) -> dict[str, float]:
    """Success at any step, as the papers count, of paired starts; points."""
    a, b = (r["success_any"] > 0.5 for r in (reference, tested))
    same, test = agreement(a, b), paired_equivalence(b, a)
    figures = {
        "episodes": same["trials"],
        "reference succeeds": same["reference held"],
        "succeeds": same["held"],
        "agree": same["agree"],
        "kappa": same["kappa"],
        "difference": 100 * test.difference,
        "difference, 90 % at most": 100 * max(abs(x) for x in test.ci90),
        "starts needed": float(test.starts_needed),
    }
    for name, r in (("reference held", reference), ("held", tested)):
        figures[name] = float(100 * (r["success_held"] > 0.5).mean())
    return figures


def agreement(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """How alike two sets of outcomes (B,) are: Cohen's kappa, exact McNemar test of a shift."""
    same = float((a == b).mean())
    chance = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    least, count = min(only_a, only_b), only_a + only_b
    return {
        "trials": float(len(a)),
        "reference held": float(100 * a.mean()),
        "held": float(100 * b.mean()),
        "agree": 100 * same,
        "kappa": float((same - chance) / (1 - chance)) if chance < 1 else 1.0,
        "only reference": float(only_a),
        "only tested": float(only_b),
        "McNemar p": float(binomtest(least, count).pvalue) if count else 1.0,
    }


def joint_errors(probe: Probe, reference: Recording, tested: Recording) -> np.ndarray:
    """(T + 1, B, joints) difference of the finger joints, rad."""
    at = probe.scene.finger_qpos
    return np.asarray(tested["qpos"][..., at] - reference["qpos"][..., at])


def _angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angle between rotations (..., 4) in rad; from the difference, exact for small angles."""
    a, b = (q.astype(np.float64) for q in (a, b))
    chord = np.minimum(np.linalg.norm(a - b, axis=-1), np.linalg.norm(a + b, axis=-1))
    return 4 * np.arcsin(np.minimum(chord / 2, 1))


_HELD = (
    Limit("agree", 85.0, "%", "PhysX agrees with its old solver PGS in 79 to 86, with itself in "
          "85 (half the step, free base) to 98 (start shifted by 1 mm)", True),
    Limit("kappa", 0.7, "", "agreement beyond chance; PhysX PGS against TGS: 0.53 to 0.66", True),
    Limit("McNemar p", 0.05, "", "no shift of the success rate that the data show", True),
)  # fmt: skip
GATES = (
    Gate(
        "G0",
        "static kinematics",
        ("P0_servo", "P0_wrench"),
        _static,
        (
            Limit("position", 1e-5, "m", "float32 at 1 m is 1e-7; a wrong frame is off by mm"),
            Limit("angle", 1e-4, "rad", "1e-4 rad on a 0.1 m finger is the 1e-5 m of the position"),
        ),
    ),
    Gate(
        "G1",
        "joint steps",
        ("P1_soft", "P1_stiff"),
        _joint_steps,
        (
            Limit("mean", 5.0, "mrad", "between PhysX at half its step (3) and with PGS (8)"),
            Limit(
                "max", 10.0, "mrad",
                "10 mrad on a 0.1 m finger is 1 mm, half of the contact offset of 2 mm",
            ),
            Limit("steady", 1.0, "mrad", "a constant offset is a wrong model, not integration"),
        ),
    ),
    Gate(
        "G2",
        "tendon J1-J0",
        ("P2",),
        _tendon,
        (
            Limit(
                "follower", 20.0, "mrad",
                "between PhysX at half its step (15) and with PGS (26); a wrong law: 303",
            ),
            Limit("steady", 2.0, "mrad", "where the finger stands in the end; 0.2 mm at its tip"),
        ),
    ),
    Gate(
        "G3",
        "base wrench",
        ("P3",),
        _base,
        (
            Limit("position / allowed", 1.0, "", "0.1 mm or 1 % of the way; a wrong law: 46 mm"),
            Limit("angle / allowed", 1.0, "", "1 mrad (0.1 mm at a fingertip) or 1 % of the turn"),
        ),
    ),
    Gate(
        "G4",
        "flat drop",
        ("P4",),
        _drops,
        (
            Limit("rest height", 0.2, "mm", "a tenth of the contact offset"),
            Limit("rest place", 2.0, "mm", "the contact offset; a start shifted by 1 mm: 1.0"),
        ),
    ),
    Gate(
        "G5",
        "slope",
        ("P5",),
        _slopes,
        (
            Limit("slide", 3.0, "%", "way of 1 s, 8 deg or more beyond the friction angle"),
            Limit("creep", 1.0, "mm/s", "PhysX creeps by 0.2; a lift and hold takes 2 s"),
        ),
    ),
    Gate(
        "G6",
        "10 frames from the reference's state",
        ("P6_windows",),
        _windows,
        (
            Limit("closing", 1.0, "mm", "PhysX at half its step: 0.5"),
            Limit("holding", 0.5, "mm", "PhysX at half its step: 0.3"),
            Limit("p90", 5.0, "mm", "beyond it the object was lost"),
        ),
        least_trials=60,
    ),
    Gate(
        "G8",
        "squeeze and lift",
        ("P6",),
        _grasps,
        _HELD,
        least_trials=60,
    ),
    Gate(
        "G8b",
        "the same with free base and tendons",
        ("P6_wrench",),
        _grasps,
        _HELD,
        least_trials=60,
    ),
    Gate("G8m", "squeeze and lift, meshes given", ("P6_given",), _grasps, _HELD, least_trials=60),
)  # fmt: skip
CLOSED_LOOP = Gate(
    "G9",
    "one policy in closed loop",
    (),
    _closed_loop,
    (
        Limit(
            "difference, 90 % at most", 5.0, "points",
            "the farther end of the 90 % interval of the paired difference of success (TOST)",
        ),
    ),
    least_trials=100,
)  # fmt: skip
