"""`python -m dexjax.parity run`: all probes on the reference and on ours, gates, and the report.

Recordings are kept by content: the reference's for this user, ours in the output folder, so that a
run that was stopped goes on where it was and a second one only repeats what changed.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

import dexjax
from dexjax.core.errors import ConfigError, DataError
from dexjax.core.folders import user_cache_dir
from dexjax.core.runs import write_json
from dexjax.core.safe_io import read_npz
from dexjax.objects.select import select_objects
from dexjax.parity import gates, grasps, probes
from dexjax.parity.closed_loop import NAME, ClosedLoop, closed_loop, play
from dexjax.parity.engines import MjxSimulator, NativeSimulator
from dexjax.parity.physx import PhysxConfig, PhysxSimulator
from dexjax.parity.probe import Probe, Recording, Simulator
from dexjax.parity.recorded import RecordedSimulator
from dexjax.sim.physics import physics_preset

Engine = Literal["native", "mjx"]
# A failure of one of these makes the command fail. G6 shows how fast the simulators part; why no
# setting of ours meets it is in docs/parity.md.
REQUIRED = ("G0", "G1", "G2", "G3", "G4", "G5", "G8", "G8b")
CONVERGED = PhysxConfig(timestep=1 / 480, substeps=8, position_iterations=50, velocity_iterations=1)
_SHIFT = 1e-3  # m
_GIVEN_TRIALS = 144
_EPISODES = {False: 416, True: 8}  # of G9, in full and quick: four for each object
_CONVERGED = "physx converged"


@dataclass(frozen=True)
class Row:
    """One simulator in the table of gates."""

    name: str
    simulator: Simulator
    about: str
    role: Literal["tested", "other", "reference"]
    shift: float = 0.0  # m that the object's start is moved along x


@dataclass(frozen=True)
class Results:
    """All that the report shows."""

    reference_name: str
    rows: tuple[Row, ...]
    probes: dict[str, Probe]
    reference: dict[str, Recording]
    recordings: dict[str, dict[str, Recording]]  # row -> probe -> recording
    episodes: dict[str, Recording]  # row, also the reference -> closed-loop episodes
    about_policy: str
    verdicts: dict[str, dict[str, gates.Verdict]]  # row -> gate -> verdict
    settings: dict[str, Any]

    def failed(self) -> list[str]:
        """Required gates that the tested row does not pass."""
        row = next(r.name for r in self.rows if r.role == "tested")
        return [g for g in REQUIRED if self.verdicts[row][g].ok is False]


def run(
    out: Path,
    engine: Engine,
    reference: str,
    physics: tuple[str, ...],
    quick: bool,
    policy: Path | None = None,
    objects: str | None = None,
) -> int:
    """Run everything, write JSON, plots and HTML below `out`; 1 if a required gate fails.

    reference: "physx", or a folder of traces that Isaac Gym recorded of our probes (`plan`).
    policy: run whose policy plays in closed loop; None: the task's scripted one. objects: meshes to
    squeeze and lift too (gate G8m).
    """
    began = time.perf_counter()
    results = measure(out, engine, reference, physics, quick, policy, objects)
    from dexjax.parity.report import (
        write_report,
    )  # matplotlib: only when there is something to plot

    summary = summarise(results, engine, quick, time.perf_counter() - began)
    write_json(out / "parity.json", summary)
    page = write_report(out, results, summary)
    failed = results.failed()
    print(f"\n{page}: {'required gates failed: ' + ', '.join(failed) if failed else 'passed'}")
    return 1 if failed else 0


def measure(
    out: Path,
    engine: Engine,
    reference: str,
    physics: tuple[str, ...],
    quick: bool,
    policy: Path | None,
    objects: str | None,
) -> Results:
    """Recordings and verdicts of all rows, recorded now or before."""
    if not physics:
        raise ConfigError("--physics: name at least one preset; the gates judge the first")
    if reference != "physx" and (objects or policy):
        raise ConfigError(
            "--objects, --policy: a recorded reference has only the probes of `plan`; leave them "
            "away"
        )
    cases = gate_probes(quick)
    if objects:
        cases["P6_given"] = given_meshes(objects, quick)
    rows = _rows(engine, physics, quick, list(cases.values()))
    truth = Row("physx", PhysxSimulator(), "SAPIEN, UniDexGrasp's settings", "reference")
    if reference != "physx":
        rows.append(replace(truth, role="other"))
        truth = Row("isaac", RecordedSimulator(reference), str(reference), "reference")
    # No episodes from shifted starts, which the task draws itself; with converged PhysX they would
    # take as long as all else together; and recordings play no policy.
    players = [r for r in (truth, *rows) if not r.shift and r.name != _CONVERGED]
    loop = closed_loop(_EPISODES[quick], policy) if reference == "physx" else None
    players = players if loop else []
    total, done = (len(rows) + 1) * (len(cases) + 1) + len(players), 0

    def record(row: Row, probe: Probe | ClosedLoop) -> Recording:
        nonlocal done
        done += 1
        began = time.perf_counter()
        recording, cached = recorded(out, row, probe)
        spent = "kept" if cached else f"{time.perf_counter() - began:.1f} s"
        name = NAME if isinstance(probe, ClosedLoop) else probe.name
        print(f"[{done:3d}/{total}] {row.name:24s} {name:12s} {spent}", flush=True)
        return recording

    truths = {n: record(truth, p) for n, p in cases.items()}
    grasp = cases["P6"]
    cases["P6_windows"] = grasps.windows(grasp, truths["P6"])
    if reference == "physx":
        truths["P6_windows"] = record(truth, cases["P6_windows"])
    else:  # a recording cannot be started again in the middle
        truths["P6_windows"] = grasps.window_recording(grasp, truths["P6"])
        done += 1
    recordings = {row.name: {n: record(row, p) for n, p in cases.items()} for row in rows}
    episodes = {r.name: record(r, loop) for r in players if loop}
    verdicts = {
        row.name: {
            g.name: gates.judge(g, cases, truths, recordings[row.name])
            for g in gates.GATES
            if set(g.probes) <= set(cases)
        }
        for row in rows
    }
    for row in rows if loop else ():
        verdict = gates.judge_episodes(episodes.get(truth.name), episodes.get(row.name))
        verdicts[row.name][gates.CLOSED_LOOP.name] = verdict
    settings = {r.name: r.simulator.settings() for r in (truth, *rows)}
    about = loop.about if loop else ""
    return Results(
        truth.name, tuple(rows), cases, truths, recordings, episodes, about, verdicts, settings
    )


def gate_probes(
    quick: bool, half: probes.Half = "gate", grasp_trials: int = 102
) -> dict[str, Probe]:
    """All probes but the windows, which start from the reference's states."""
    trials = 12 if quick else grasp_trials
    cases = [
        probes.static_poses(half, "servo"),
        probes.static_poses(half, "wrench"),
        probes.joint_steps(half, "soft"),
        probes.joint_steps(half, "stiff"),
        probes.tendon_steps(half),
        probes.base_wrench(half),
        probes.flat_drops(half),
        probes.slopes(half),
        grasps.squeeze_lift(half, trials),
        grasps.squeeze_lift(half, trials, base="wrench"),
    ]
    return {p.name: p for p in cases}


def given_meshes(objects: str, quick: bool) -> Probe:
    """The grasps of G8 on other objects (see `dexjax.objects.select`), evenly."""
    assets = select_objects(objects).assets
    trials = len(assets) if quick else max(len(assets), _GIVEN_TRIALS)
    return replace(grasps.squeeze_lift("gate", trials, objects=assets), name="P6_given")


def _rows(engine: Engine, physics: tuple[str, ...], quick: bool, cases: list[Probe]) -> list[Row]:
    ours = [
        Row(
            f"{engine} {name}",
            _simulator(engine, name, cases),
            f"our engine with physics {name!r}",
            "other" if i else "tested",
        )
        for i, name in enumerate(physics)
    ]
    base = PhysxConfig()
    half = replace(base, timestep=base.timestep / 2, substeps=2 * base.substeps)
    pgs = PhysxSimulator(replace(base, solver="pgs"))
    variants = [
        Row("physx half step", PhysxSimulator(half), "the reference at 1/240 s", "other"),
        Row("physx pgs", pgs, "the reference with PhysX's older solver", "other"),
        Row("physx shifted 1 mm", PhysxSimulator(), "the object starts beside", "other", _SHIFT),
    ]
    if quick:
        return [*ours, variants[0]]
    wide = PhysxSimulator(replace(base, contact_offset=0.01))
    return [
        *ours,
        *variants,
        Row("physx offset 10 mm", wide, "contacts act from 10 mm instead of 2", "other"),
        Row(_CONVERGED, PhysxSimulator(CONVERGED), "50 iterations, steps of 1/480 s", "other"),
    ]


def _simulator(engine: Engine, physics: str, cases: list[Probe]) -> Simulator:
    settings = physics_preset(physics)
    if engine == "native":
        return NativeSimulator(settings, threads=2)
    return MjxSimulator(settings, cases)


def recorded(out: Path, row: Row, probe: Probe | ClosedLoop) -> tuple[Recording, bool]:
    """The recording of a probe, or of episodes, and whether it was there already."""
    if isinstance(probe, ClosedLoop):
        loop = probe
        return _kept(out, row, NAME, loop.key, lambda: play(loop, row.simulator))
    probe = _shifted(probe, row.shift)
    if isinstance(row.simulator, RecordedSimulator):
        return row.simulator.run(probe), True
    return _kept(out, row, probe.name, probe.key(), lambda: row.simulator.run(probe))


def _kept(
    out: Path, row: Row, title: str, key: str, make: Callable[[], Recording]
) -> tuple[Recording, bool]:
    name = hashlib.sha256(
        json.dumps([key, row.simulator.settings(), _code(row)]).encode()
    ).hexdigest()
    # What is not PhysX changes with our code and stays with the run.
    is_physx = isinstance(row.simulator, PhysxSimulator)
    folder = user_cache_dir("parity") if is_physx else out / "recordings"
    path = folder / f"{title}-{name[:20]}.npz"
    if path.is_file():
        try:
            return read_npz(path), True
        except DataError:  # cut off while it was written elsewhere
            path.unlink()
    recording = make()
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{time.time_ns()}.part")
    with part.open("wb") as file:
        np.savez_compressed(file, **recording)  # type: ignore[arg-type]
    part.replace(path)
    return recording, False


def _shifted(probe: Probe, shift: float) -> Probe:
    """The probe with the object's start moved, where the object matters."""
    if not shift or probe.name[:2] not in ("P4", "P5", "P6"):
        return probe
    qpos = probe.qpos.copy()
    qpos[:, probe.scene.object_qpos] += shift
    return replace(probe, qpos=qpos)


def _code(row: Row) -> str:
    """Digest of the source that a row's recordings depend on."""
    here = Path(__file__).parent
    package = here.parent
    files = [here / "probe.py", *sorted((package / "sim").glob("*.py"))]
    if isinstance(row.simulator, PhysxSimulator):
        files.append(here / "physx.py")
    else:  # distance grids and hand spheres of `mjx` are no part of the model
        files += [here / "engines.py", package / "hands" / "geometry.py"]
        files += [package / "objects" / name for name in ("build.py", "sdf.py", "mesh.py")]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def summarise(results: Results, engine: str, quick: bool, seconds: float) -> dict[str, Any]:
    """The results as plain data."""
    return {
        "command": "python -m dexjax.parity " + shlex.join(sys.argv[1:]),
        "version": dexjax.__version__,
        "engine": engine,
        "quick": quick,
        "seconds": round(seconds, 1),
        "required": list(REQUIRED),
        "failed": results.failed(),
        "settings": results.settings,
        "rows": [{"name": r.name, "about": r.about, "role": r.role} for r in results.rows],
        "converged": _against_converged(results),
        "policy": results.about_policy,
        "trials": {n: p.num_trials for n, p in results.probes.items()},
        "gates": [
            {
                "name": g.name,
                "title": g.title,
                "limits": [
                    {"figure": x.figure, "bound": x.bound, "unit": x.unit, "why": x.why,
                     "least": x.least}
                    for x in g.limits
                ],
                "rows": {
                    row: {"ok": v[g.name].ok, "figures": _plain(v[g.name].figures),
                          "passed": v[g.name].passed}
                    for row, v in results.verdicts.items()
                },
            }
            for g in (*gates.GATES, gates.CLOSED_LOOP)
            if g.name in next(iter(results.verdicts.values()))
        ],
    }  # fmt: skip


def _against_converged(results: Results) -> dict[str, dict[str, float | None]]:
    """Which grasps hold in each row, against PhysX with many iterations and small steps."""
    if _CONVERGED not in results.recordings:
        return {}
    probe = results.probes["P6"]
    truth = grasps.held(probe, results.recordings[_CONVERGED]["P6"])
    rows = {results.reference_name: results.reference["P6"]}
    rows |= {n: r["P6"] for n, r in results.recordings.items() if n != _CONVERGED}
    return {n: _plain(gates.agreement(truth, grasps.held(probe, r))) for n, r in rows.items()}


def _plain(figures: dict[str, float]) -> dict[str, float | None]:
    """Figures for JSON, which has no NaN."""
    return {k: float(f"{v:.4g}") if math.isfinite(v) else None for k, v in figures.items()}
