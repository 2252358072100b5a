"""Pictures of the report, one per gate, drawn off screen as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dexjax.metrics.equivalence import MARGIN, paired_equivalence
from dexjax.metrics.statistics import wilson_interval
from dexjax.parity.gates import joint_errors
from dexjax.parity.grasps import held
from dexjax.parity.probe import FRAME
from dexjax.parity.run import Results

_ENVELOPE = (
    "physx half step", "physx pgs", "physx shifted 1 mm", "physx offset 10 mm", "physx converged",
)  # fmt: skip


def draw_all(results: Results) -> dict[str, bytes]:
    """PNG of every gate that has one, by its name; G7 is the divergence of whole episodes."""
    drawers: dict[str, Callable[[Results, list[Axes]], None]] = {
        "G1": _joints,
        "G2": _tendon,
        "G3": _base,
        "G4": _drops,
        "G5": _slopes,
        "G6": _windows,
        "G7": _divergence,
        "G8": _grasps,
        "G9": _episodes,
    }
    if results.reference_name not in results.episodes:  # recordings play no policy
        del drawers["G9"]
    pictures = {}
    for name, draw in drawers.items():
        figure = Figure(figsize=(9.5, 3.2), layout="constrained")
        axes = list(figure.subplots(1, 2))
        draw(results, axes)
        for axis in axes:
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(labelsize=8)
        axes[0].legend(fontsize=7, frameon=False)
        buffer = io.BytesIO()
        FigureCanvasAgg(figure).print_png(buffer)
        pictures[name] = buffer.getvalue()
    return pictures


def _labelled(axis: Axes, x: str, y: str, title: str) -> None:
    axis.set_xlabel(x, fontsize=8)
    axis.set_ylabel(y, fontsize=8)
    axis.set_title(title, fontsize=9)


def _lines(results: Results, axis: Axes, probe: str, pick: Callable[[dict], np.ndarray]) -> None:
    """One curve per row over time, the reference in black."""
    reference = pick(results.reference[probe])
    time = FRAME * np.arange(len(reference))
    axis.plot(
        time, reference, color="black", linewidth=2.5, label=results.reference_name, alpha=0.7
    )
    for row in results.rows:
        style = "-" if row.role == "tested" else "--" if row.name not in _ENVELOPE else ":"
        curve = pick(results.recordings[row.name][probe])
        axis.plot(time, curve, style, linewidth=1.2, label=row.name)


def _coordinate(trial: int, at: int) -> Callable[[dict], np.ndarray]:
    return lambda recording: recording["qpos"][:, trial, at]


def _place(trial: int, body: int, axis: int) -> Callable[[dict], np.ndarray]:
    """Way of a body along an axis, mm."""

    def pick(recording: dict) -> np.ndarray:
        path = recording["body_pos"][:, trial, body, axis].astype(np.float64)
        return 1000 * (path - path[0])

    return pick


def _tested(results: Results) -> str:
    return next(r.name for r in results.rows if r.role == "tested")


def _joints(results: Results, axes: list[Axes]) -> None:
    for axis, name in zip(axes, ("P1_soft", "P1_stiff"), strict=True):
        probe = results.probes[name]
        error = joint_errors(
            probe, results.reference[name], results.recordings[_tested(results)][name]
        )
        joint = probe.info["joint"]
        own = np.abs(error[:, np.arange(len(joint)), joint]).max(0)
        worst = int(own.argmax())
        at = probe.scene.finger_qpos[joint[worst]]
        _lines(results, axis, name, _coordinate(worst, at))
        _labelled(axis, "s", "rad", f"{name}: {probe.labels[worst]}, the worst trial")


def _tendon(results: Results, axes: list[Axes]) -> None:
    probe = results.probes["P2"]
    joint = probe.info["joint"]
    for axis, trial in zip(axes, (0, len(joint) // 2), strict=True):
        at = probe.scene.finger_qpos[joint[trial]]
        _lines(results, axis, "P2", _coordinate(trial, at))
        _labelled(axis, "s", "J0, rad", f"{probe.labels[trial]}: the follower")


def _base(results: Results, axes: list[Axes]) -> None:
    probe = results.probes["P3"]
    palm = probe.scene.body_names.index("palm")
    for axis, trial, coordinate in zip(axes, (6, 8), (0, 2), strict=True):
        _lines(results, axis, "P3", _place(trial, palm, coordinate))
        _labelled(axis, "s", "mm", f"palm, push along {probe.labels[trial]}")


def _drops(results: Results, axes: list[Axes]) -> None:
    probe = results.probes["P4"]
    rest = probe.info["rest"]
    _lines(results, axes[0], "P4", lambda r: 1000 * (r["body_pos"][:, 0, -1, 2] - rest[0]))
    _labelled(axes[0], "s", "mm above rest", f"{probe.labels[0]} falls 0.1 m")
    axes[0].set_ylim(-12, 20)
    _bars(
        results,
        axes[1],
        [(r, results.verdicts[r.name]["G4"].figures["rest height"]) for r in results.rows],
    )
    _labelled(axes[1], "mm", "", "largest difference of the rest height")


def _slopes(results: Results, axes: list[Axes]) -> None:
    probe = results.probes["P5"]
    stays = np.flatnonzero(probe.info["slides"] < 1)
    trial = int(stays[-1])
    _lines(results, axes[0], "P5", _place(trial, -1, 0))
    _labelled(axes[0], "s", "mm", f"creep at {probe.labels[trial]}")
    slide = [(r, results.verdicts[r.name]["G5"].figures["slide"]) for r in results.rows]
    _bars(results, axes[1], slide)
    _labelled(axes[1], "%", "", "largest difference of the sliding way")


def _bars(results: Results, axis: Axes, values: list) -> None:
    names = [row.name for row, _ in values]
    axis.barh(names[::-1], [v for _, v in values][::-1], color="tab:blue", alpha=0.7)


def _object_errors(results: Results, row: str, probe: str) -> np.ndarray:
    """(T + 1, B) mm between the object in a row and in the reference."""
    pair = [results.reference[probe], results.recordings[row][probe]]
    place = [r["body_pos"][:, :, -1].astype(np.float64) for r in pair]
    return 1000 * np.linalg.norm(place[0] - place[1], axis=-1)


def _windows(results: Results, axes: list[Axes]) -> None:
    holding = results.probes["P6_windows"].info["holding"] > 0
    for axis, part, name in zip(axes, (~holding, holding), ("closing", "holding"), strict=True):
        for row in results.rows:
            error = np.sort(_object_errors(results, row.name, "P6_windows")[-1, part])
            if len(error):
                share = (np.arange(len(error)) + 0.5) / len(error)
                style = "-" if row.role == "tested" else "--"
                axis.plot(np.maximum(error, 1e-3), share, style, label=row.name, linewidth=1.2)
        axis.set_xscale("log")
        _labelled(axis, "object error after 10 frames, mm", "share of windows", name)


def _divergence(results: Results, axes: list[Axes]) -> None:
    """Open loop: where the object is, in quantiles over the grasps."""
    for axis, quantile in zip(axes, (50, 90), strict=True):
        for row in results.rows:
            error = np.percentile(_object_errors(results, row.name, "P6"), quantile, axis=1)
            style = "-" if row.role == "tested" else ":" if row.name in _ENVELOPE else "--"
            time = FRAME * np.arange(len(error))
            axis.plot(time, np.maximum(error, 1e-3), style, label=row.name, linewidth=1.2)
        axis.set_yscale("log")
        _labelled(axis, "s", "mm", f"object, quantile {quantile} % of the grasps, never corrected")


def _grasps(results: Results, axes: list[Axes]) -> None:
    probe = results.probes["P6"]
    rows = [held(probe, results.reference["P6"])]
    rows += [held(probe, results.recordings[r.name]["P6"]) for r in results.rows]
    order = np.lexsort([*rows[::-1]])[::-1]
    axes[0].imshow(
        np.array(rows)[:, order], aspect="auto", cmap="Greys", interpolation="nearest", vmin=-0.2
    )
    axes[0].set_yticks(range(len(rows)), [results.reference_name, *(r.name for r in results.rows)])
    axes[0].plot([], [], "s", color="black", label="held")
    _labelled(axes[0], "grasp, sorted", "", "which grasps hold")
    kappa = [(r, results.verdicts[r.name]["G8"].figures["kappa"]) for r in results.rows]
    _bars(results, axes[1], kappa)
    _labelled(axes[1], "Cohen's kappa with the reference", "", "agreement beyond chance")


def _episodes(results: Results, axes: list[Axes]) -> None:
    """Success with 95 % intervals, and the paired difference with its 90 % interval."""
    names = list(results.episodes)[::-1]
    for name, shift in (("success_any", 0.15), ("success_held", -0.15)):
        found = [results.episodes[n][name] > 0.5 for n in names]
        rates = 100 * np.array([f.mean() for f in found])
        ends = 100 * np.array([wilson_interval(float(f.sum()), len(f)) for f in found])
        spread = np.abs(ends.T - rates)
        place = np.arange(len(names)) + shift
        axes[0].errorbar(rates, place, xerr=spread, fmt="o", label=name.removeprefix("success_"))
    axes[0].set_yticks(range(len(names)), names)
    _labelled(axes[0], "% of episodes", "", f"success of {results.about_policy}")
    truth = results.episodes[results.reference_name]["success_any"] > 0.5
    others = [n for n in names if n != results.reference_name]
    for k, name in enumerate(others):
        test = paired_equivalence(results.episodes[name]["success_any"] > 0.5, truth)
        axes[1].plot([100 * x for x in test.ci90], [k, k], color="tab:blue")
        axes[1].plot(100 * test.difference, k, "o", color="tab:blue")
    for edge in (-100 * MARGIN, 100 * MARGIN):
        axes[1].axvline(edge, color="grey", linewidth=0.8, linestyle=":")
    axes[1].set_yticks(range(len(others)), others)
    _labelled(axes[1], "points", "", f"any: difference to {results.reference_name}, 90 % interval")
