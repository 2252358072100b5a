"""Published tables beside our measured runs: intervals, equivalence, compute, what differs.

Nothing is filled in: a table beside which nothing was measured says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dexjax.core.errors import DataError, unknown_name
from dexjax.metrics.equivalence import (
    MARGIN,
    Equivalence,
    one_sample_starts_needed,
    paired_equivalence,
)
from dexjax.metrics.tables import markdown_table
from dexjax.parity.measured import SAME_SPLITS, Measured, read_run, what_differs
from dexjax.parity.published import SUCCESS, Paper, PublishedTable, published_tables

_CAUTION = (
    "The printed rate is taken as exact. Like numbers are no reproduction where objects, task or "
    "control differ:"
)
_SYNONYMS = {
    "train": "seen",
    "test_seen_cat": "unseen_obj_seen_cat",
    "test_unseen_cat": "unseen_obj_unseen_cat",
}


# --- comparison ----------------------------------------------------------------------------------


def compare_published(run: Measured, percent: float, margin: float = MARGIN) -> dict[str, Any]:
    """Our rate against a printed one, which is taken as exact: its episodes are rarely stated.

    "same": the 90 % interval of ours is within the margin (a one-sample equivalence test); "other":
    its 95 % interval lies outside; else "open".
    """
    printed = percent / 100
    low, high = (bound - printed for bound in run.ci90)
    wide = tuple(bound - printed for bound in run.ci95)
    if -margin < low and high < margin:
        verdict = "same"
    else:
        verdict = "other" if wide[0] > margin or wide[1] < -margin else "open"
    return {
        "published": percent,
        "difference": 100 * (run.rate - printed),
        "ci90": [100 * low, 100 * high],
        "verdict": verdict,
        "starts_needed": one_sample_starts_needed(printed, margin),
    }


def compare_runs(first: Measured, second: Measured, margin: float = MARGIN) -> Equivalence | str:
    """Paired equivalence of two runs on the same starts, or why they cannot be paired."""
    for name in ("split", "count"):
        ours, theirs = getattr(first, name), getattr(second, name)
        if ours != theirs:
            return f"other {name}: {ours} and {theirs}"
    for name in ("seed", "reset"):
        if first.circumstances[name] != second.circumstances[name]:
            return f"other starts: {name} differs"
    if not (first.outcomes and second.outcomes):
        return "outcomes of single episodes are not in the file: evaluate again"
    if first.outcomes.get("object_id") != second.outcomes.get("object_id"):
        return "other starts: the order of the objects differs"
    try:
        a, b = (np.array([c == "1" for c in m.outcomes["success_any"]]) for m in (first, second))
    except (KeyError, TypeError) as error:
        return f"outcomes are damaged ({error!r}): evaluate again"
    if len(a) != first.count or len(b) != first.count:
        return "outcomes are incomplete: evaluate again"
    return paired_equivalence(a, b, margin)


# --- report --------------------------------------------------------------------------------------


def report(
    runs: Sequence[Path],
    *,
    only: Sequence[str] = (),
    splits: Mapping[str, str] = SAME_SPLITS,
    beside: str | None = None,
    margin: float = MARGIN,
) -> tuple[str, dict[str, Any]]:
    """Markdown and JSON of all published tables (or `only` these ids) beside the runs.

    beside: method whose row the runs are compared with; default: the paper's own. Raises
    ConfigError for an unknown table, DataError for a run without an evaluation.
    """
    tables, papers = published_tables()
    ids = [t.id for t in tables]
    for name in only:
        if name not in ids:
            raise unknown_name("table", name, ids)
    measured = [m for run in runs for m in read_run(run, splits)]
    text, plain = [], {}
    for table in tables:
        if only and table.id not in only:
            continue
        part, found = _one_table(table, papers.get(table.paper, Paper()), measured, beside, margin)
        text.append(part)
        plain[table.id] = found
    alone = [m for m in measured if not any(_stands(m, found) for found in plain.values())]
    if alone:
        text.append(_alone(alone))
    pairs = _pairs(measured, margin)
    if pairs:
        text.append(_pair_table(pairs, margin))
    return "\n\n".join(text), {
        "margin": margin,
        "tables": plain,
        "measured": [{k: v for k, v in asdict(m).items() if k != "outcomes"} for m in measured],
        "pairs": [
            {"first": a.run, "second": b.run, "split": a.split}
            | ({"why_not": e} if isinstance(e, str) else asdict(e))
            for a, b, e in pairs
        ],
    }


def _one_table(
    table: PublishedTable,
    paper: Paper,
    measured: Sequence[Measured],
    beside: str | None,
    margin: float,
) -> tuple[str, dict[str, Any]]:
    sees = any(seen for _, seen in table.values)
    columns = [f"{split} {metric}" for split, metric in table.columns]
    header = ["method", *(["sees"] if sees else []), *columns]
    rows = [
        [method, *([seen] if sees else []), *(_cell(values.get(c)) for c in table.columns)]
        for (method, seen), values in table.values.items()
    ]
    text = [
        f"## {table.paper}, {table.label}: {table.title} (`{table.id}`)",
        f"Origin: {table.origin}.",
        markdown_table(header, rows),
    ]
    text += [f"- Conflict: {c}." for c in table.conflicts]
    if paper.compute:
        text.append(f"Their compute: {paper.compute}.")
    found = []
    for run in measured:
        key = _row_for(table, run, beside)
        column = _column_for(table, run)
        if key is None or column is None or not isinstance(table.values[key].get(column), float):
            continue
        percent = float(table.values[key][column])
        result = compare_published(run, percent, margin)
        found.append(
            {"run": run.run, "split": run.split, "beside": [*key, *column], **result}
            | {"what_differs": what_differs(run, paper)}
        )
    if found:
        text.append(_beside(found, measured, paper, margin))
    else:
        text.append("Measured beside it: nothing.")
    return "\n\n".join(_joined(text)), {
        "origin": table.origin,
        "conflicts": list(table.conflicts),
        "measured": found,
    }


def _joined(parts: Sequence[str]) -> list[str]:
    """Consecutive list items as one paragraph."""
    joined: list[str] = []
    for part in parts:
        if part.startswith("- ") and joined and joined[-1].startswith("- "):
            joined[-1] += "\n" + part
        else:
            joined.append(part)
    return joined


def _row_for(table: PublishedTable, run: Measured, beside: str | None) -> tuple[str, str] | None:
    if beside is None:
        return table.own_row(run.observations)
    key = (beside, run.observations)
    return key if key in table.values else None


def _column_for(table: PublishedTable, run: Measured) -> tuple[str, str] | None:
    for split, metric in table.columns:
        if metric == SUCCESS and run.beside and _SYNONYMS.get(split, split) == run.beside:
            return split, metric
    return None


def _beside(
    found: Sequence[Mapping[str, Any]], measured: Sequence[Measured], paper: Paper, margin: float
) -> str:
    by_key = {(m.run, m.split): m for m in measured}
    rows = []
    for f in found:
        run = by_key[f["run"], f["split"]]
        low, high = (100 * b for b in run.ci95)
        rows.append([
            run.run, run.split, f"{100 * run.rate:.1f} [{low:.1f}, {high:.1f}]",
            str(run.count), f"{f['beside'][0]} {f['published']:g}",
            f"{f['difference']:+.1f} [{f['ci90'][0]:+.1f}, {f['ci90'][1]:+.1f}]",
            f["verdict"], str(f["starts_needed"]),
        ])  # fmt: skip
    points = f"{100 * margin:g} points"
    header = [
        "measured", "objects", "any % [95 %]", "episodes", "beside", "difference [90 %]",
        f"within {points}", "starts needed",
    ]  # fmt: skip
    lines = [markdown_table(header, rows), "", _CAUTION, ""]
    for name in dict.fromkeys(f["run"] for f in found):
        own = [by_key[name, f["split"]] for f in found if f["run"] == name]
        if own[0].compute:
            lines.append(f"- {name}, compute: {own[0].compute}.")
        differing = what_differs(own[0], paper, ", ".join(m.split for m in own))
        lines += [f"- {name}, {line}." for line in differing]
        for run in own:
            if run.seeds:
                each = ", ".join(f"{100 * s:.1f}" for s in run.seeds)
                low, high = (100 * x for x in run.seeds_ci95 or (float("nan"),) * 2)
                lines.append(
                    f"- {name}, {run.split}: seeds {each}; 95 % interval of their mean "
                    f"[{low:.1f}, {high:.1f}], which is what holds for another seed."
                )
    return "\n".join(lines)


def _stands(run: Measured, table: Mapping[str, Any]) -> bool:
    return any((f["run"], f["split"]) == (run.run, run.split) for f in table["measured"])


def _alone(measured: Sequence[Measured]) -> str:
    rows = []
    for run in measured:
        low, high = (100 * b for b in run.ci95)
        rate = f"{100 * run.rate:.1f} [{low:.1f}, {high:.1f}]"
        rows.append([run.run, run.split, rate, str(run.count), run.compute])
    header = ["measured", "objects", "any % [95 %]", "episodes", "compute"]
    title = "## Measured, beside nothing above (name the papers' split with --split)"
    return f"{title}\n\n{markdown_table(header, rows)}"


def _pairs(
    measured: Sequence[Measured], margin: float
) -> list[tuple[Measured, Measured, Equivalence | str]]:
    """Every run against the first, split by split."""
    runs = list(dict.fromkeys(m.run for m in measured))
    found = []
    for name in runs[1:]:
        for first in (m for m in measured if m.run == runs[0]):
            for second in (m for m in measured if m.run == name and m.split == first.split):
                found.append((first, second, compare_runs(first, second, margin)))
    return found


def _pair_table(
    pairs: Sequence[tuple[Measured, Measured, Equivalence | str]], margin: float
) -> str:
    rows = []
    for a, b, e in pairs:
        head = [f"{b.run} minus {a.run}", a.split]
        if isinstance(e, str):
            rows.append([*head, e, "", "", "", ""])
            continue
        low, high = (-100 * x for x in reversed(e.ci90))
        rows.append([
            *head, f"{-100 * e.difference:+.1f} [{low:+.1f}, {high:+.1f}]", str(e.count),
            f"{100 * e.discordant:.1f} %", f"{e.p_value:.2g}",
            f"{'yes' if e.equivalent else 'not shown'} ({e.starts_needed} starts needed)",
        ])  # fmt: skip
    header = [
        "paired runs", "objects", "difference [90 %]", "starts", "end differently", "p (TOST)",
        f"within {100 * margin:g} points",
    ]  # fmt: skip
    return "## Our runs against each other, same starts\n\n" + markdown_table(header, rows)


def _cell(value: float | str | None) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:g}"


def parse_splits(texts: Sequence[str]) -> dict[str, str]:
    """`OURS=THEIRS` entries on top of `SAME_SPLITS`. DataError for any other text."""
    found = dict(SAME_SPLITS)
    for text in texts:
        ours, mark, theirs = text.rpartition("=")
        if not mark or not ours or not theirs:
            raise DataError(f"--split {text!r}: OURS=THEIRS is needed, as in YCB=seen")
        found[ours] = theirs
    return found
