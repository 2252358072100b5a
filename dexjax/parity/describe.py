"""What a trace holds, in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from dexjax.parity.trace import Trace


def describe(trace: Trace) -> str:
    """What a trace holds, as text of a few screens at most."""
    meta = trace.meta
    source = meta["source"]
    lines = [
        f"{trace.source}: trace version {meta['version']}, probe {meta['probe']!r}, "
        f"repeat {meta['repeat']}",
        f"recorded by {source['simulator']} {source['version']}, pipeline {source['pipeline']}",
        f"{trace.num_envs} episodes x {trace.num_steps} steps of {meta['interval']:.6g} s "
        f"(dt {meta['dt']:.6g} s, {meta['substeps']} substeps), gravity {meta['gravity']}",
        f"velocities of the {meta['velocity_point']}; content {trace.digest()[:16]}",
    ]
    if meta.get("task"):
        lines.append("task: " + ", ".join(f"{k} {v}" for k, v in sorted(meta["task"].items())))
    lines.append("solver: " + (_listing(meta["solver"]) or "not recorded"))
    for axis, names in meta["axes"].items():
        lines.append(f"{axis} ({len(names)}): {_shortened(names)}")
    for axis, table in meta["properties"].items():
        lines.append(f"properties of {axis}: {', '.join(table) or 'none'}")
    lines += ["", "array                 shape                    unit           min         max"]
    for name, array in sorted(trace.arrays.items()):
        low, high = (array.min(), array.max()) if array.size else (math.nan, math.nan)
        unit = meta["arrays"][name]["unit"]
        lines.append(f"{name:21} {array.shape!s:24} {unit:13} {low:11.4g} {high:11.4g}")
    return "\n".join(lines)


def _listing(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in sorted(values.items()))


def _shortened(names: Iterable[str], most: int = 12) -> str:
    names = list(names)
    rest = f", ... {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
