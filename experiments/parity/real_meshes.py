"""Squeezing, lifting and holding real meshes: PhysX, PhysX at half its step, and our engine.

    python experiments/parity/real_meshes.py ../shared/data/objects/ycb:mug,mustard_bottle --out DIR

The grasps of the gate G8 on other objects, none of which was used to calibrate anything. Mass,
friction, closure and the place of the hand are drawn as there; agreement is with PhysX as run.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from dexjax.objects.select import select_objects
from dexjax.parity.engines import NativeSimulator
from dexjax.parity.gates import agreement
from dexjax.parity.grasps import held, squeeze_lift
from dexjax.parity.physx import PhysxConfig, PhysxSimulator
from dexjax.parity.run import Row, recorded
from dexjax.sim.physics import physics_preset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("objects", help="see dexjax.objects.select")
    parser.add_argument("--trials", type=int, default=102)
    parser.add_argument("--physics", nargs="+", default=["physx", "reference", "fast"])
    parser.add_argument("--out", type=Path, required=True, help="folder of our recordings")
    args = parser.parse_args()
    assets = select_objects(args.objects).assets
    probe = replace(squeeze_lift("gate", args.trials, objects=assets), name="P6_real")
    base = PhysxConfig()
    half = replace(base, timestep=base.timestep / 2, substeps=2 * base.substeps)
    simulators = {
        "physx": PhysxSimulator(),
        "physx half step": PhysxSimulator(half),
        "physx pgs": PhysxSimulator(replace(base, solver="pgs")),
        **{f"native {p}": NativeSimulator(physics_preset(p), threads=2) for p in args.physics},
    }
    outcome = {
        name: held(probe, recorded(args.out, Row(name, simulator, "", "other"), probe)[0])
        for name, simulator in simulators.items()
    }
    print(f"{'simulator':20s}   held  agree  kappa  McNemar p")
    for name, found in outcome.items():
        same = agreement(outcome["physx"], found)
        print(
            f"{name:20s} {same['held']:6.1f} {same['agree']:6.1f} {same['kappa']:6.2f} "
            f"{same['McNemar p']:8.3f}"
        )
    print(f"\n{'object':24s} trials, held by each")
    for k, asset in enumerate(assets):
        rows = probe.object_id == k
        shares = ", ".join(f"{name} {found[rows].mean():.2f}" for name, found in outcome.items())
        print(f"{asset.name:24s} {np.sum(rows):3d}  {shares}")


if __name__ == "__main__":
    main()
