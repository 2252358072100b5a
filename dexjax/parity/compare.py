"""Two traces of the same episodes: how fast their states part, and whether as many succeed.

States of any two simulators part after the first contact, also of one with itself at another step;
the curve is for looking at. What is judged is the outcome: success of paired starts (gate G9).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dexjax.core.errors import DataError, MissingExtraError
from dexjax.metrics.equivalence import MARGIN, Equivalence, paired_equivalence
from dexjax.parity.trace import Trace

_SAME_PLACE, _SAME_ANGLE = 1e-3, 1e-2  # m and rad: starts that count as one
_TIMES = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0)  # s, rows of the table


@dataclass(frozen=True)
class Comparison:
    """Differences over time, each (states,), and the paired outcome where success was recorded."""

    time: np.ndarray  # s
    curves: dict[str, tuple[np.ndarray, np.ndarray]]  # name with unit -> median, 90th percentile
    episodes: int
    outcome: Equivalence | None
    rates: tuple[float, float] | None  # of success at any step, first and second

    @property
    def equivalent(self) -> bool | None:
        """G9: the 90 % interval of the rates' difference is within the margin; None: not known."""
        return None if self.outcome is None else self.outcome.equivalent


def compare_traces(first: Trace, second: Trace, margin: float = MARGIN) -> Comparison:
    """Compare episode i of both, over the steps that both have.

    Raises DataError where they are not the same episodes: other numbers, other time steps, starts
    that differ by more than 1 mm or 0.01 rad.
    """
    _require_same(first, second)
    states = min(first.num_steps, second.num_steps) + 1
    difference = _differences(first, second, states)
    for name in ("hand position, mm", "object position, mm"):
        if name in difference and (difference[name][0] > 1000 * _SAME_PLACE).any():
            raise _other_start(first, second, name, difference[name][0])
    for name in ("joints, mrad", "hand rotation, mrad", "object rotation, mrad"):
        if name in difference and (difference[name][0] > 1000 * _SAME_ANGLE).any():
            raise _other_start(first, second, name, difference[name][0])
    curves = {k: (np.median(v, 1), np.quantile(v, 0.9, axis=1)) for k, v in difference.items()}
    outcome = rates = None
    if "success" in first and "success" in second:
        a, b = (np.asarray(t["success"][: states - 1].any(0)) for t in (first, second))
        outcome, rates = paired_equivalence(a, b, margin), (float(a.mean()), float(b.mean()))
    return Comparison(first["time"][:states].astype(float), curves, first.num_envs, outcome, rates)


def _require_same(first: Trace, second: Trace) -> None:
    for what, a, b in (
        ("episodes", first.num_envs, second.num_envs),
        ("seconds per step", first.meta["interval"], second.meta["interval"]),
    ):
        if not np.isclose(a, b, rtol=1e-5):
            raise DataError(f"{first.source} has {a} {what}, {second.source} {b}")
    if not first.num_envs:
        raise DataError(f"{first.source}: no episodes")


def _other_start(first: Trace, second: Trace, name: str, values: np.ndarray) -> DataError:
    at = int(values.argmax())
    return DataError(
        f"{first.source} and {second.source}: episode {at} starts {values[at]:.3g} apart in "
        f"{name}; compare a trace with its replay"
    )


def _differences(first: Trace, second: Trace, states: int) -> dict[str, np.ndarray]:
    """(states, B) by name. Quantities that only one of the traces has are left out."""
    found: dict[str, np.ndarray] = {}

    def both(name: str) -> bool:
        return all(name in t and len(t[name]) >= states for t in (first, second))

    for key, title in (("root", "hand"), ("object", "object")):
        if both(f"{key}_pos"):
            gap = _rows(first, f"{key}_pos", states) - _rows(second, f"{key}_pos", states)
            found[f"{title} position, mm"] = 1000 * np.linalg.norm(gap, axis=-1)
        if both(f"{key}_quat"):
            a, b = (_rows(t, f"{key}_quat", states) for t in (first, second))
            dot = np.clip(np.abs((a * b).sum(-1)), 0, 1)
            sine = np.linalg.norm(a - np.sign((a * b).sum(-1))[..., None] * b, axis=-1) / 2
            angle = np.where(dot > 0.9, 4 * np.arcsin(np.clip(sine, 0, 1)), 2 * np.arccos(dot))
            found[f"{title} rotation, mrad"] = 1000 * angle
    if both("joint_pos"):
        names = [n for n in first.names("joint") if n in second.names("joint")]
        if names:
            gap = (
                first.select("joint", names)["joint_pos"][:states].astype(float)
                - second.select("joint", names)["joint_pos"][:states]
            )
            found["joints, mrad"] = 1000 * np.sqrt((gap**2).mean(-1))
    return found


def _rows(trace: Trace, name: str, states: int) -> np.ndarray:
    """(states, B, n) of the hand's root, or of the first object."""
    array = trace[name][:states].astype(float)
    return array[:, :, 0] if name.startswith("object") else array


def report(
    first: Trace, second: Trace, margin: float = MARGIN
) -> tuple[str, dict[str, Any], Comparison]:
    """Text, plain data for JSON, and the comparison."""
    found = compare_traces(first, second, margin)
    rows = [int(np.argmin(np.abs(found.time - t))) for t in _TIMES if t <= found.time[-1] + 1e-6]
    lines = [
        f"{first.source} and {second.source}: {found.episodes} episodes, {found.time[-1]:.2f} s",
        "median (90 %) after      " + "".join(f"{found.time[r]:>15.2f} s" for r in rows),
    ]
    for name, (median, p90) in found.curves.items():
        cells = (f"{median[r]:.2f} ({p90[r]:.2f})" for r in rows)
        lines.append(f"{name:24s} " + "".join(f"{c:>17s}" for c in cells))
    if found.outcome is not None and found.rates is not None:
        e, (a, b) = found.outcome, found.rates
        low, high = (100 * x for x in e.ci90)
        verdict = "within" if e.equivalent else "not shown to be within"
        lines.append(
            f"success {100 * a:.1f} % and {100 * b:.1f} %, {100 * e.discordant:.1f} % end "
            f"differently; difference {100 * e.difference:+.1f} [{low:+.1f}, {high:+.1f}] points "
            f"(90 %, paired), {verdict} {100 * margin:g} points; {e.starts_needed} starts needed"
        )
    plain: dict[str, Any] = {
        "episodes": found.episodes,
        "time": found.time.tolist(),
        "curves": {
            k: {"median": m.tolist(), "p90": h.tolist()} for k, (m, h) in found.curves.items()
        },
        "success": None if found.rates is None else list(found.rates),
        "equivalence": None if found.outcome is None else asdict(found.outcome),
    }
    return "\n".join(lines), plain, found


def write_plot(found: Comparison, path: Path) -> None:
    """The curves over time, logarithmic, as PNG. MissingExtraError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            "plots need matplotlib: pip install 'dexjax[parity]' or leave --out away"
        ) from error
    figure = Figure(figsize=(3.4 * len(found.curves), 3), layout="constrained")
    axes = figure.subplots(1, len(found.curves), squeeze=False)
    for axis, (name, (median, high)) in zip(axes[0], found.curves.items(), strict=True):
        axis.semilogy(found.time, np.maximum(median, 1e-3), label="median")
        axis.semilogy(found.time, np.maximum(high, 1e-3), "--", label="90 %")
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("s")
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
