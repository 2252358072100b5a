"""Markdown tables of evaluations: readable as text, pasted as they are into notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

_ORDER = ("lifted", "dropped", "out_of_reach", "table_contact", "diverged", "return", "length")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An aligned markdown table; the first column to the left, the others to the right."""
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        pairs = zip(row, widths, strict=True)
        parts = [t.rjust(w) if i else t.ljust(w) for i, (t, w) in enumerate(pairs)]
        return "| " + " | ".join(parts) + " |"

    rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([line(cells[0]), line(rule), *(line(row) for row in cells[1:])])


def split_table(splits: Mapping[str, Mapping[str, Any]]) -> str:
    """One row per split: successes with 95 % intervals, then every other quantity's mean."""
    first = next(iter(splits.values()))
    success, rest = list(first["success"]), _quantities(first)
    header = ["objects", "episodes", *(f"success {k}" for k in success), *map(_title, rest)]
    rows = []
    for name, s in splits.items():
        row = [name, str(s["episodes"]), *(_with_interval(s["success"][k]) for k in success)]
        rows.append(row + [_number(k, s[k]["mean"]) for k in rest])
    return markdown_table(header, rows)


def object_table(objects: Mapping[str, Mapping[str, Any]], most: int | None = None) -> str:
    """One row per object in the given order, at most `most` of them."""
    first = next(iter(objects.values()))
    success, rest = list(first["success"]), _quantities(first)
    header = ["object", "episodes", *success, *map(_title, rest)]
    rows = []
    for name, s in list(objects.items())[:most]:
        row = [name, str(s["episodes"]), *(f"{s['success'][k]['mean']:.2f}" for k in success)]
        rows.append(row + [_number(k, s[k]["mean"]) for k in rest])
    return markdown_table(header, rows)


def category_table(objects: Mapping[str, Mapping[str, Any]]) -> str:
    """Mean success of each category over its objects, worst first; empty without categories."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in objects.values():
        if "category" in row:
            groups.setdefault(row["category"], []).append(row)
    if not groups:
        return ""
    success = list(next(iter(objects.values()))["success"])
    rows = []
    for name, members in groups.items():
        weight = [m["episodes"] for m in members]
        means = [
            np.average([m["success"][k]["mean"] for m in members], weights=weight) for k in success
        ]
        rows.append((means[::-1], [name, str(len(members)), str(sum(weight)), *means]))
    rows.sort(key=lambda r: r[0])
    text = [[*row[:3], *(f"{v:.2f}" for v in row[3:])] for _, row in rows]
    return markdown_table(["category", "objects", "episodes", *success], text)


def _quantities(summary: Mapping[str, Any]) -> list[str]:
    """Quantities beside success; compiled code returns them in alphabetical order."""
    found = [k for k, v in summary.items() if isinstance(v, Mapping) and "mean" in v]
    return sorted(found, key=lambda k: (_ORDER.index(k) if k in _ORDER else -1, k))


def _with_interval(e: Mapping[str, Any]) -> str:
    return f"{e['mean']:.3f} [{e['ci95'][0]:.3f}, {e['ci95'][1]:.3f}]"


def _number(name: str, value: float) -> str:
    return f"{value:.1f}" if name in ("return", "length") else f"{value:.3f}"


def _title(name: str) -> str:
    return name.replace("_", " ")
