"""Are two success rates the same? Equivalence tests, and how many episodes they need.

"No significant difference" is no evidence of sameness: with few episodes nothing is significant. An
equivalence test (two one-sided tests, TOST) asks whether the difference is inside a margin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from dexjax.core.errors import DataError

MARGIN = 0.05
"""Success rates closer than this count as the same."""
ALPHA = 0.05
"""Level of each one-sided test; the interval that has to be inside the margin has 1 - 2 ALPHA."""
POWER = 0.8


@dataclass(frozen=True)
class Equivalence:
    """Outcome of a test of two rates: first minus second."""

    difference: float
    ci90: tuple[float, float]
    p_value: float  # of "they differ by the margin or more"
    equivalent: bool  # the interval is inside the margin
    count: int  # starts
    discordant: float  # share of starts that end differently
    starts_needed: int  # for POWER, if these discordant starts are typical and nothing differs


def paired_equivalence(
    first: np.ndarray, second: np.ndarray, margin: float = MARGIN
) -> Equivalence:
    """TOST of two rates on the same starts, by Tango's score test (Stat. Med. 1998).

    first, second: (N,) outcomes, 0 or 1; row i of both began in the same state. Unlike a normal
    interval of the difference it keeps its level when few starts end differently.
    """
    a, b = (np.asarray(x).astype(bool) for x in (first, second))
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise DataError(f"outcomes of shapes {a.shape} and {b.shape}; one row per start is needed")
    count = len(a)
    wins, losses = int((a & ~b).sum()), int((~a & b).sum())
    z = float(ndtri(1 - ALPHA))
    ci = (_tango_bound(wins, losses, count, -z), _tango_bound(wins, losses, count, z))
    p = max(
        float(ndtr(-_tango(wins, losses, count, -margin))),
        float(ndtr(_tango(wins, losses, count, margin))),
    )
    discordant = (wins + losses) / count
    return Equivalence(
        difference=(wins - losses) / count,
        ci90=ci,
        p_value=p,
        equivalent=-margin < ci[0] and ci[1] < margin,
        count=count,
        discordant=discordant,
        starts_needed=paired_starts_needed(discordant, margin),
    )


def paired_starts_needed(discordant: float, margin: float = MARGIN, power: float = POWER) -> int:
    """Starts that show equivalence with this power when nothing differs.

    `discordant` is the share of starts that end differently; 0.12 gives about 410 at 5 points.
    """
    spread = float(ndtri(1 - ALPHA) + ndtri(1 - (1 - power) / 2))
    return max(1, math.ceil(spread**2 * discordant / margin**2))


def unpaired_starts_needed(rate: float, margin: float = MARGIN, power: float = POWER) -> int:
    """As `paired_starts_needed`, per arm, where the starts of both arms are drawn separately."""
    return paired_starts_needed(2 * rate * (1 - rate), margin, power)


def one_sample_starts_needed(rate: float, margin: float = MARGIN, power: float = POWER) -> int:
    """As `paired_starts_needed`, against a published rate that is taken as exact."""
    return paired_starts_needed(rate * (1 - rate), margin, power)


def _tango(wins: int, losses: int, count: int, delta: float) -> float:
    """Score statistic of "the difference of the rates is delta"; large if it is more than that."""
    # Share of losses most likely under that hypothesis: the root of a quadratic.
    a = 2.0 * count
    b = -wins - losses + (2.0 * count - wins + losses) * delta
    c = -losses * delta * (1.0 - delta)
    losing = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = count * (2 * losing + delta * (1 - delta))
    excess = wins - losses - count * delta
    if variance <= 0:
        return 0.0 if excess == 0 else math.copysign(math.inf, excess)
    return excess / math.sqrt(variance)


def _tango_bound(wins: int, losses: int, count: int, z: float) -> float:
    """The difference at which the statistic is -z: bisection, the statistic falls with delta."""
    low, high = -1.0, 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _tango(wins, losses, count, middle) > -z else (low, middle)
    return 0.5 * (low + high)
