"""Means and intervals of what finished episodes report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dexjax.core.progress import wilson_interval

__all__ = ["estimate", "outcomes", "per_object", "summarise", "wilson_interval"]

_SUCCESS = "success_"


def estimate(values: np.ndarray) -> dict[str, Any]:
    """Mean of values (N,) with its 95 % interval: Wilson's for outcomes 0 or 1, else normal.

    The interval of a single number that is no outcome is None: nothing is known of its spread.
    """
    values = np.asarray(values, float)
    count, mean = len(values), float(values.mean())
    if np.isin(values, (0.0, 1.0)).all():
        low, high = wilson_interval(float(values.sum()), count)
    elif count == 1:
        return {"mean": mean, "ci95": None}
    else:
        half = 1.96 * float(values.std(ddof=1)) / math.sqrt(count)
        low, high = mean - half, mean + half
    return {"mean": mean, "ci95": [low, high]}


def summarise(episodes: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Estimates of every quantity of the episodes, each array (N,).

    `success_any` becomes `success.any`; `object_id` is no quantity and is left out.
    """
    named = {k: estimate(v) for k, v in episodes.items() if k != "object_id"}
    success = {k.removeprefix(_SUCCESS): v for k, v in named.items() if k.startswith(_SUCCESS)}
    rest = {k: v for k, v in named.items() if not k.startswith(_SUCCESS)}
    count = len(next(iter(episodes.values())))
    return {"episodes": count, "success": success, **rest}


def outcomes(episodes: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Successes of every single episode, in the order of their starts, as short texts.

    `success_any`: "0110...", `object_id`: "0 1 ...". For pairing evaluations on the same starts.
    """
    found = {
        k: "".join("1" if x > 0.5 else "0" for x in v)
        for k, v in episodes.items()
        if k.startswith(_SUCCESS)
    }
    if "object_id" in episodes:
        found["object_id"] = " ".join(str(int(x)) for x in episodes["object_id"])
    return found


def per_object(
    episodes: Mapping[str, np.ndarray], names: Sequence[str], categories: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """`summarise` for each object that occurs, worst first: by strictest success, then return."""
    rows = {}
    for i in np.unique(episodes["object_id"]):
        chosen = episodes["object_id"] == i
        row = summarise({k: v[chosen] for k, v in episodes.items()})
        rows[names[i]] = ({"category": categories[i]} if categories else {}) | row
    return dict(sorted(rows.items(), key=lambda item: badness(item[1])))


def badness(summary: Mapping[str, Any]) -> tuple[float, ...]:
    """Sort key, worst first: success held, at the end, at any step, then return."""
    success = summary["success"]
    rates = [success[k]["mean"] for k in ("held", "end", "any") if k in success]
    return (*rates, summary.get("return", {"mean": 0.0})["mean"])
