"""Tango's test against a numeric maximum of its likelihood, its level, and numbers of starts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from dexjax.core.errors import DataError
from dexjax.metrics.equivalence import (
    MARGIN,
    _tango,
    one_sample_starts_needed,
    paired_equivalence,
    paired_starts_needed,
    unpaired_starts_needed,
)


def outcomes(wins: int, losses: int, both: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    first = [1] * wins + [0] * losses + [1] * both + [0] * neither
    second = [0] * wins + [1] * losses + [1] * both + [0] * neither
    return np.array(first), np.array(second)


@pytest.mark.parametrize(
    ("wins", "losses", "count", "delta"),
    [
        (12, 5, 100, 0.05),
        (12, 5, 100, -0.05),
        (30, 31, 400, 0.05),
        (1, 2, 50, -0.1),
        (7, 0, 60, 0.02),
    ],
)
def test_statistic_is_the_score_test(wins: int, losses: int, count: int, delta: float) -> None:
    """The nuisance share maximises the multinomial likelihood, found numerically; then z is
    (difference - delta) over its standard error at that share."""

    def negative_log_likelihood(losing: float) -> float:
        winning = losing + delta
        rest = 1 - losing - winning
        terms = ((wins, winning), (losses, losing), (count - wins - losses, rest))
        return -sum(n * math.log(p) for n, p in terms if n)

    edges = max(0.0, -delta) + 1e-9, min((1 - delta) / 2, 1 - delta) - 1e-9
    losing = scipy.optimize.minimize_scalar(
        negative_log_likelihood, bounds=edges, method="bounded", options={"xatol": 1e-10}
    ).x
    error = math.sqrt((2 * losing + delta - delta**2) / count)
    expected = ((wins - losses) / count - delta) / error
    # The search stops within about 1e-7 of the maximum.
    assert _tango(wins, losses, count, delta) == pytest.approx(expected, rel=1e-4)


def test_published_interval() -> None:
    """With many discordant pairs the interval is the normal one; 3 % of its width is the score
    test's correction at this size."""
    result = paired_equivalence(*outcomes(600, 500, 4000, 4900))
    normal = 1.6449 * math.sqrt((0.11 - 0.01**2) / 10_000)
    assert result.difference == pytest.approx(0.01)
    assert result.ci90[0] == pytest.approx(0.01 - normal, abs=0.03 * normal)
    assert result.ci90[1] == pytest.approx(0.01 + normal, abs=0.03 * normal)
    assert result.equivalent and result.p_value < 1e-6
    assert result.discordant == pytest.approx(0.11)


def test_interval_and_p_value_agree() -> None:
    """Inside the margin exactly when the test rejects: two ways of computing one decision."""
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        wins, losses = rng.integers(0, 30, 2)
        result = paired_equivalence(*outcomes(int(wins), int(losses), 120, 80))
        assert result.equivalent == (result.p_value < 0.05)
        assert result.ci90[0] <= result.difference <= result.ci90[1]
        seen.add(result.equivalent)
    assert seen == {True, False}


def test_orders_swap_signs() -> None:
    first, second = outcomes(9, 4, 50, 40)
    one, other = paired_equivalence(first, second), paired_equivalence(second, first)
    assert one.difference == -other.difference
    assert one.ci90[0] == pytest.approx(-other.ci90[1], abs=1e-9)
    assert one.p_value == pytest.approx(other.p_value)


def test_no_discordant_pair_is_no_certainty() -> None:
    """Twenty identical outcomes do not show that rates are within 5 points; 200 do."""
    assert not paired_equivalence(*outcomes(0, 0, 10, 10)).equivalent
    assert paired_equivalence(*outcomes(0, 0, 100, 100)).equivalent


def power(count: int, discordant: float, difference: float, trials: int = 4000) -> float:
    rng = np.random.default_rng(1)
    shares = [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant]
    draws = rng.multinomial(count, shares, trials)
    table: dict[tuple[int, int], bool] = {}
    for wins, losses, _ in draws:
        if (wins, losses) not in table:
            pair = outcomes(int(wins), int(losses), 0, count - int(wins) - int(losses))
            table[wins, losses] = paired_equivalence(*pair).equivalent
    return float(np.mean([table[w, lo] for w, lo, _ in draws]))


def test_about_410_starts_give_the_power_and_the_level_is_kept() -> None:
    """12 % discordant: 412 starts, 80 % power; at a true difference of the margin at most 5 % pass.

    4000 simulated comparisons: standard error 0.006 of a power and 0.0035 of a level."""
    count = paired_starts_needed(0.12)
    assert 405 <= count <= 415
    assert power(count, 0.12, 0.0) == pytest.approx(0.8, abs=0.03)
    assert power(count, 0.12, MARGIN) < 0.065
    assert 1690 <= unpaired_starts_needed(0.45) <= 1700
    assert one_sample_starts_needed(0.5) == pytest.approx(unpaired_starts_needed(0.5) / 2, abs=1)


def test_outcomes_must_pair() -> None:
    with pytest.raises(DataError, match=r"\(3,\)"):
        paired_equivalence(np.ones(3), np.ones(4))
    with pytest.raises(DataError):
        paired_equivalence(np.ones(0), np.ones(0))
