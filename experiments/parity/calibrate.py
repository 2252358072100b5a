"""Where the numbers of the physics preset `physx` come from.

    python experiments/parity/calibrate.py --out DIR --json FILE

Runs candidates on the calibration probes (other random numbers, objects and cases than the gates')
against PhysX with UniDexGrasp's settings, in two steps. First the drives: where joint damping acts,
which tendon law, which step; judged by joint steps, tendon and base. Then the contacts: cone,
impratio and softness; of the candidates that pass drops and slopes, the one with the greatest
agreement about which grasps hold (Cohen's kappa, two decimals; then the smaller window error).
PhysX with 50 iterations and steps of 1/480 s stands beside it: what its own convergence changes.
"""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import replace
from pathlib import Path

from dexjax.parity import gates, grasps
from dexjax.parity.engines import NativeSimulator
from dexjax.parity.physx import PhysxConfig, PhysxSimulator
from dexjax.parity.probe import Probe, Recording
from dexjax.parity.run import Row, gate_probes, recorded
from dexjax.sim.physics import PhysicsConfig, physics_preset

CONVERGED = PhysxConfig(timestep=1 / 480, substeps=8, position_iterations=50, velocity_iterations=1)
STEPS = (1 / 120, 1 / 240)
# What a candidate may spend on the solver; budgets below are found afterwards.
BASE = replace(physics_preset("reference"), iterations=100, ls_iterations=100)
SOFTNESS = {
    "mujoco": {},
    "1/60": {"solref": (1 / 60, 1.0), "solimp": (0.95, 0.99, 0.001, 0.5, 2.0)},
    "1/120": {"solref": (1 / 120, 1.0), "solimp": (0.99, 0.999, 0.0005, 0.5, 2.0)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of our recordings")
    parser.add_argument("--grasps", type=int, default=150)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    cases = gate_probes(False, "calibration", args.grasps)
    reference = _record_all(args.out, PhysxSimulator(), cases)
    cases["P6_windows"] = grasps.windows(cases["P6"], reference["P6"])
    reference |= _record_all(args.out, PhysxSimulator(), {"P6_windows": cases["P6_windows"]})
    converged = {"P6": recorded(args.out, _row(PhysxSimulator(CONVERGED)), cases["P6"])[0]}
    shift = gates.agreement(*(grasps.held(cases["P6"], r["P6"]) for r in (reference, converged)))
    print("PhysX converged against PhysX as run:", {k: round(v, 3) for k, v in shift.items()})

    table: list[dict] = []

    def try_out(name: str, physics: PhysicsConfig, names: tuple[str, ...]) -> dict:
        chosen = [g for g in gates.GATES if g.name in names]
        needed = {n: cases[n] for g in chosen for n in g.probes}
        tested = _record_all(args.out, NativeSimulator(physics, threads=2), needed)
        row: dict = {"candidate": name}
        for gate in chosen:
            verdict = gates.judge(gate, cases, reference, tested)
            row |= {f"{gate.name} {k}": v for k, v in verdict.figures.items()}
            row[gate.name] = verdict.ok
        if "P6" in tested:
            outcome = [grasps.held(cases["P6"], r["P6"]) for r in (converged, tested)]
            same = gates.agreement(*outcome)
            row |= {f"converged {k}": same[k] for k in ("agree", "kappa", "McNemar p")}
        table.append(row)
        return row

    print(f"\n{'drives':38s} G1 mean  max   G2 follower steady  G3 position angle (of allowed)")
    drives = itertools.product(("joint", "servo"), ("mujoco", "physx"), STEPS)
    for drive, tendon, step in drives:
        physics = replace(
            BASE, drive=drive, tendon=tendon, timestep=step, link_damping_step=1 / 120,
            substeps=round(1 / 60 / step), **SOFTNESS["1/120"],
        )  # fmt: skip
        name = f"damping on {drive}, tendon {tendon}, 1/{round(1 / step)} s"
        r = try_out(name, physics, ("G1", "G2", "G3"))
        print(
            f"{name:38s} {r['G1 mean']:6.1f} {r['G1 max']:6.1f} {r['G2 follower']:8.1f} "
            f"{r['G2 steady']:8.2f} {r['G3 position / allowed']:8.3f} "
            f"{r['G3 angle / allowed']:8.3f}",
            flush=True,
        )

    print(
        f"\n{'contacts':34s} G4 G5  rest  creep | held   agree kappa     p  apart  force | "
        "window closing holding | converged agree kappa    p"
    )
    best: tuple[tuple[float, float], str] | None = None
    contacts = itertools.product(STEPS, ("elliptic", "pyramidal"), (1.0, 3.0, 10.0), SOFTNESS)
    for step, cone, impratio, softness in contacts:
        physics = replace(
            BASE, drive="servo", tendon="physx", timestep=step, substeps=round(1 / 60 / step),
            link_damping_step=1 / 120, cone=cone, impratio=impratio, **SOFTNESS[softness],
        )  # fmt: skip
        name = f"1/{round(1 / step)} s, {cone} {impratio:g}, {softness}"
        r = try_out(name, physics, ("G4", "G5", "G6", "G8"))
        print(
            f"{name:34s} {_mark(r['G4'])} {_mark(r['G5'])} {r['G4 rest height']:5.2f} "
            f"{r['G5 creep']:6.2f} | {r['G8 held']:5.1f} {r['G8 agree']:6.1f} {r['G8 kappa']:5.2f} "
            f"{r['G8 McNemar p']:6.3f} {r['G8 apart']:6.1f} {r['G8 force ratio']:6.2f} | "
            f"{r['G6 closing']:7.2f} {r['G6 holding']:7.2f}        | "
            f"{r['converged agree']:8.1f} {r['converged kappa']:9.2f} "
            f"{r['converged McNemar p']:6.3f}",
            flush=True,
        )
        score = (round(r["G8 kappa"], 2), -(r["G6 closing"] + r["G6 holding"]))
        if r["G4"] and r["G5"] and (best is None or score > best[0]):
            best = score, name
    print(f"\nchosen: {best[1] if best else 'none passes drops and slopes'}")
    if args.json:
        args.json.write_text(json.dumps(table, indent=1) + "\n")


def _row(simulator: PhysxSimulator | NativeSimulator) -> Row:
    return Row(simulator.name, simulator, "", "other")


def _record_all(
    out: Path, simulator: PhysxSimulator | NativeSimulator, cases: dict[str, Probe]
) -> dict[str, Recording]:
    return {n: recorded(out, _row(simulator), p)[0] for n, p in cases.items()}


def _mark(ok: bool | None) -> str:
    return "ok" if ok else "no"


if __name__ == "__main__":
    main()
