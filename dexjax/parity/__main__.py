"""`python -m dexjax.parity`: how far our physics, task and results are from the papers'."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro

from dexjax.core.errors import DexjaxError

app = tyro.extras.SubcommandApp()
trace_app = tyro.extras.SubcommandApp()
app.command(trace_app, name="trace", help="Look at recorded traces.")


@trace_app.command(name="info")
def trace_info(file: tyro.conf.Positional[Path]) -> int:
    """Check a trace strictly and print what it holds."""
    from dexjax.parity.describe import describe
    from dexjax.parity.trace import read_trace

    print(describe(read_trace(file)))
    return 0


@app.command(name="run")
def run(
    out: Path,
    engine: Literal["native", "mjx"] = "native",
    reference: str = "physx",
    physics: tuple[str, ...] = ("physx", "physx_converged", "reference", "fast"),
    quick: bool = False,
    policy: Path | None = None,
    objects: str | None = None,
) -> int:
    """Run the probes on an engine and on PhysX, judge by gates, write OUT/index.html and JSON.

    Exit code 1 when a required gate fails. Run again after a stop: what was recorded is kept.

    Args:
        out: Folder of the report and of our recordings.
        engine: Engine under test.
        reference: What to compare with: physx (PhysX 5 through SAPIEN), or a folder of traces that
            Isaac Gym recorded of a plan.
        physics: Presets; gates are required of the first, the others stand beside it.
        quick: Few grasps and episodes and no verdict about them; a minute instead of ten.
        policy: Run whose policy plays the closed-loop episodes; default: the scripted policy.
        objects: Meshes to squeeze and lift too, as in dexjax.train --objects; adds G8m.
    """
    from dexjax.parity.run import run as run_probes

    return run_probes(out, engine, reference, physics, quick, policy, objects)


@app.command(name="plan")
def plan(folder: tyro.conf.Positional[Path], half: Literal["gate", "calibration"] = "gate") -> int:
    """Write all probes as files that isaac_recorder.py runs in Isaac Gym.

    Args:
        folder: Where to write; the recorder is copied beside the probes.
        half: Which of the two sets of probes.
    """
    import shutil

    from dexjax.parity import isaac_recorder
    from dexjax.parity.plan import write_plan
    from dexjax.parity.run import gate_probes

    files = write_plan(list(gate_probes(False, half).values()), folder)
    recorder = shutil.copy(isaac_recorder.__file__, folder / "isaac_recorder.py")
    print(f"{folder}: {len(files)} probes and {recorder}")
    return 0


@app.command(name="record")
def record(
    folder: tyro.conf.Positional[Path],
    simulator: Literal["physx", "native"] = "physx",
    physics: str = "physx",
    half: Literal["gate", "calibration"] = "gate",
    quick: bool = False,
) -> int:
    """Record all probes in SAPIEN's PhysX or in our engine as traces, as Isaac Gym's are recorded.

    Args:
        folder: Where to write.
        simulator: PhysX through SAPIEN, or our engine native.
        physics: Physics preset of native.
        half: Which of the two sets of probes.
        quick: Few grasps.
    """
    from dexjax.parity.engines import NativeSimulator
    from dexjax.parity.physx import PhysxSimulator
    from dexjax.parity.recorded import record_traces
    from dexjax.parity.run import gate_probes
    from dexjax.sim.physics import physics_preset

    chosen = PhysxSimulator() if simulator == "physx" else NativeSimulator(physics_preset(physics))
    for probe in gate_probes(quick, half).values():
        for file in record_traces(chosen, probe, folder):
            print(f"wrote {file}", flush=True)
    return 0


@app.command(name="task")
def task(
    trace: tyro.conf.Positional[Path],
    release: Literal[
        "unidexgrasp++",
        "afforddex",
        "unidexgrasp",
        "unidexgrasp-goal",
        "unigrasptransformer",
        "unigrasptransformer-universal",
    ] = "unidexgrasp++",
) -> int:
    """Recompute observations, rewards, success and controls from a trace's states.

    Exit code 1 where any recorded number is off by more than 1e-4.

    Args:
        trace: Trace of policy episodes (isaac_recorder.py policy).
        release: Whose formulas.
    """
    from dexjax.parity.task import report
    from dexjax.parity.trace import read_trace

    text, good = report(read_trace(trace), release)
    print(text)
    return 0 if good else 1


@app.command(name="compare")
def compare(
    first: tyro.conf.Positional[Path],
    second: tyro.conf.Positional[Path],
    margin: float = 5.0,
    out: Path | None = None,
) -> int:
    """Compare two traces of the same episodes: how states part, and success of paired starts.

    Exit code 1 where success is not shown to be equivalent.

    Args:
        first: Trace of policy episodes.
        second: Another one from the same starts, as `replay_trace` makes it.
        margin: Success rates closer than this count as the same, percentage points.
        out: Write OUT.json and OUT.png.
    """
    from dexjax.core.runs import write_json
    from dexjax.parity.compare import report, write_plot
    from dexjax.parity.trace import read_trace

    text, plain, found = report(read_trace(first), read_trace(second), margin / 100)
    print(text)
    if out is not None:
        write_plot(found, out.with_suffix(".png"))
        write_json(out.with_suffix(".json"), plain)
    return 1 if found.equivalent is False else 0


@app.command(name="tables")
def tables(
    runs: tyro.conf.Positional[tuple[Path, ...]] = (),
    only: tuple[str, ...] = (),
    split: tuple[str, ...] = (),
    beside: str | None = None,
    margin: float = 5.0,
    out: Path | None = None,
) -> int:
    """Print the papers' tables beside evaluated runs; with two runs also paired equivalence.

    Args:
        runs: Run folders of dexjax.train that were evaluated, or evaluation JSON files.
        only: Ids of the tables to print; all by default.
        split: OURS=THEIRS: beside which of the papers' splits one of ours is put.
        beside: Method to compare with; the paper's own by default.
        margin: Success rates closer than this count as the same, percentage points.
        out: Write OUT.md and OUT.json too.
    """
    from dexjax.core.runs import write_json
    from dexjax.parity.tables import parse_splits, report

    text, plain = report(
        runs, only=only, splits=parse_splits(split), beside=beside, margin=margin / 100
    )
    print(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".md").write_text(text + "\n")
        write_json(out.with_suffix(".json"), plain)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry; returns the exit code (2: unusable input)."""
    try:
        return int(app.cli(args=argv, prog="python -m dexjax.parity") or 0)
    except DexjaxError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
