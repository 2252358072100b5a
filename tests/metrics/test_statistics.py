"""Intervals against SciPy, summaries against NumPy, tables read back."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from dexjax.metrics.statistics import estimate, per_object, summarise, wilson_interval
from dexjax.metrics.tables import category_table, markdown_table, object_table, split_table


@given(st.integers(1, 5000), st.data())
def test_wilson_interval_equals_scipy(count, data):
    successes = data.draw(st.integers(0, count))
    exact = scipy.stats.binomtest(successes, count).proportion_ci(0.95, method="wilson")
    # z is rounded to 1.96, which moves the ends by at most 2e-5 of the width.
    np.testing.assert_allclose(wilson_interval(successes, count), exact, atol=2e-5)


def test_wilson_interval_covers_the_truth():
    # 95 % of the intervals should hold p; 4000 draws have a standard error of 0.35 %, and Wilson's
    # coverage itself varies by about 1 % with p.
    rng = np.random.default_rng(0)
    for p in (0.5, 0.85, 0.95):
        held = [wilson_interval(k, 512) for k in rng.binomial(512, p, 4000)]
        assert np.mean([low <= p <= high for low, high in held]) == pytest.approx(0.95, abs=0.02)


def test_estimate_of_outcomes_and_of_numbers():
    outcomes = estimate(np.array([1.0, 0, 0, 1, 1]))
    assert outcomes["mean"] == pytest.approx(0.6)
    assert outcomes["ci95"] == list(wilson_interval(3, 5))
    values = np.random.default_rng(1).normal(3.0, 2.0, 200)
    numbers = estimate(values)
    reference = scipy.stats.norm.interval(0.95, values.mean(), scipy.stats.sem(values))
    np.testing.assert_allclose(numbers["ci95"], reference, atol=1e-4)  # z rounded to 1.96
    assert estimate(np.array([2.5])) == {"mean": 2.5, "ci95": None}


def episodes():
    """Six episodes of three objects: object 2 always, object 0 half the time, object 1 never."""
    return {
        "success_any": np.array([1, 0, 1, 1, 0, 1.0]),
        "success_held": np.array([1, 0, 1, 0, 0, 1.0]),
        "lifted": np.array([1, 1, 1, 1, 0, 1.0]),
        "return": np.array([5.0, 1.0, 9.0, 4.0, 0.0, 8.0]),
        "object_id": np.array([0, 1, 2, 0, 1, 2]),
    }


def test_summary_names_and_means():
    summary = summarise(episodes())
    assert summary["episodes"] == 6
    assert list(summary["success"]) == ["any", "held"]
    assert summary["success"]["any"]["mean"] == pytest.approx(4 / 6)
    assert summary["return"]["mean"] == pytest.approx(27 / 6)
    assert "object_id" not in summary


def test_per_object_is_sorted_worst_first_and_adds_up():
    rows = per_object(episodes(), ["mug", "pan", "box"], ["vessel", "vessel", "block"])
    assert list(rows) == ["pan", "mug", "box"]
    assert rows["mug"]["success"]["held"]["mean"] == 0.5
    assert rows["mug"]["category"] == "vessel"
    total = sum(r["episodes"] * r["success"]["held"]["mean"] for r in rows.values())
    assert total == pytest.approx(episodes()["success_held"].sum())


def read_back(table):
    """Cells of a markdown table without its rule."""
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()]
    return [lines[0], *lines[2:]]


def test_tables_hold_what_was_measured():
    rows = per_object(episodes(), ["mug", "pan", "box"], ["vessel", "vessel", "block"])
    header, *body = read_back(object_table(rows, most=2))
    assert header == ["object", "episodes", "any", "held", "lifted", "return"]
    assert body == [
        ["pan", "2", "0.00", "0.00", "0.500", "0.5"],
        ["mug", "2", "1.00", "0.50", "1.000", "4.5"],
    ]
    categories = read_back(category_table(rows))
    assert categories[1:] == [
        ["vessel", "2", "4", "0.50", "0.25"],
        ["block", "1", "2", "1.00", "1.00"],
    ]
    splits = read_back(split_table({"seen": summarise(episodes())}))
    assert splits[1][:3] == ["seen", "6", "0.667 [0.300, 0.903]"]  # scipy's Wilson, 4 of 6


def test_markdown_columns_line_up():
    lines = markdown_table(["a", "long name"], [["wider", "1"], ["x", "20"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert {line.count("|") for line in lines} == {3}
