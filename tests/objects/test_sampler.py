"""Object samplers: their distributions, by counting."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from dexjax.core.errors import ConfigError
from dexjax.objects.sampler import CurriculumSampler, FailureWeightedSampler, UniformSampler

DRAWS = 40_000
# Fixed keys: a chi-square p below 1e-4 is a wrong distribution, not bad luck that comes and goes.
P_MIN = 1e-4


def counts(sampler, state, num_objects: int, seed: int = 0) -> np.ndarray:
    ids = jax.jit(sampler.sample, static_argnums=2)(state, jax.random.key(seed), (DRAWS // 8, 8))
    assert ids.dtype == jnp.int32 and ids.shape == (DRAWS // 8, 8)
    assert ids.min() >= 0 and ids.max() < num_objects
    return np.bincount(np.asarray(ids).reshape(-1), minlength=num_objects)


def test_uniform():
    sampler = UniformSampler(7)
    state = sampler.init()
    assert chisquare(counts(sampler, state, 7)).pvalue > P_MIN
    assert sampler.update(state, jnp.zeros(3, int), jnp.ones(3), jnp.ones(3, bool)) == state


def test_failure_weighted_starts_uniform():
    sampler = FailureWeightedSampler(5)
    assert chisquare(counts(sampler, sampler.init(), 5)).pvalue > P_MIN


def test_failure_weighted_follows_its_formula():
    """Success rates 0.9, 0.5, 0.1 fed for long; P = floor / N + (1 - floor) f / sum f."""
    sampler = FailureWeightedSampler(3, floor=0.2, memory=20)
    state = sampler.init()
    rng = np.random.default_rng(0)
    ids = jnp.tile(jnp.arange(3), 100)
    rates = np.tile([0.9, 0.5, 0.1], 100)
    update = jax.jit(sampler.update)
    for _ in range(100):
        state = update(state, ids, rng.random(300) < rates, np.ones(300, bool))
    # Each update weighs its 100 episodes per object 1 - e^-5: a mean of 100, std 0.05.
    np.testing.assert_allclose(state, [0.9, 0.5, 0.1], atol=0.15)
    failure = 1 - np.asarray(state, np.float64)
    expected = 0.2 / 3 + 0.8 * failure / failure.sum()
    np.testing.assert_allclose(sampler.probabilities(state), expected, rtol=1e-4)
    found = counts(sampler, state, 3)
    assert chisquare(found, expected / expected.sum() * DRAWS).pvalue > P_MIN


def test_failure_weighted_when_all_is_solved_or_nothing_is_floored():
    sampler = FailureWeightedSampler(4, floor=0.0)
    assert chisquare(counts(sampler, jnp.ones(4), 4)).pvalue > P_MIN
    found = counts(sampler, jnp.array([1.0, 0.0, 1.0, 1.0]), 4)
    assert found[1] > 0.999 * DRAWS


def test_masked_episodes_do_not_count():
    sampler = FailureWeightedSampler(3)
    state = jnp.array([0.2, 0.5, 0.7])
    ids, mask = jnp.array([[0, 1], [1, 2]]), jnp.array([[True, False], [False, False]])
    # NaN success of an unfinished episode must not leak.
    after = sampler.update(state, ids, jnp.array([[1.0, jnp.nan], [1.0, jnp.nan]]), mask)
    expected = 0.2 + (1 - np.exp(-1 / 50)) * 0.8
    np.testing.assert_allclose(after, [expected, 0.5, 0.7], rtol=1e-6)


@settings(max_examples=50)
@given(success=st.lists(st.floats(0, 1), min_size=1, max_size=30), floor=st.floats(0, 1))
def test_probabilities_sum_to_one_and_keep_their_floor(success, floor):
    n = len(success)
    p = FailureWeightedSampler(n, floor=floor).probabilities(jnp.array(success))
    assert p.sum() == pytest.approx(1, abs=1e-5) and (p >= floor / n * (1 - 1e-5)).all()
    order = np.argsort(success)
    assert (np.diff(np.asarray(p)[order]) <= 1e-6).all()


def test_curriculum_opens_its_order_as_success_rises():
    sampler = CurriculumSampler(order=(3, 0, 2, 1), start=1, grow=2, threshold=0.7, min_episodes=4)
    state = sampler.init()
    update = jax.jit(sampler.update)
    assert set(np.flatnonzero(counts(sampler, state, 4))) == {3}
    ids, mask = jnp.full(2, 3), jnp.ones(2, bool)
    state = update(state, ids, jnp.ones(2), mask)
    assert state.open_count == 1  # two of four episodes
    state = update(state, ids, jnp.ones(2), mask)
    assert state.open_count == 3 and state.episodes == 0
    found = counts(sampler, state, 4)
    assert set(np.flatnonzero(found)) == {3, 0, 2}
    assert chisquare(found[[3, 0, 2]]).pvalue > P_MIN
    for _ in range(20):  # half succeed: never enough
        state = update(state, ids, jnp.array([1.0, 0.0]), mask)
    assert state.open_count == 3 and state.success == pytest.approx(0.5, abs=0.05)
    for _ in range(40):
        state = update(state, ids, jnp.ones(2), mask)
    assert state.open_count == 4  # and never more than there are
    untouched = update(state, ids, jnp.full(2, jnp.nan), jnp.zeros(2, bool))
    assert all(bool(a == b) for a, b in zip(jax.tree.leaves(untouched), jax.tree.leaves(state),
                                            strict=True))  # fmt: skip


def test_sampling_and_updating_run_inside_scan():
    for sampler in (UniformSampler(5), FailureWeightedSampler(5),
                    CurriculumSampler(order=tuple(range(5)))):  # fmt: skip

        def step(state, key, sampler=sampler):
            ids = sampler.sample(state, key, (16,))
            success = (ids % 2).astype(jnp.float32)
            return sampler.update(state, ids, success, jnp.ones(16, bool)), ids

        _, ids = jax.lax.scan(step, sampler.init(), jax.random.split(jax.random.key(0), 30))
        assert ids.shape == (30, 16)


@pytest.mark.parametrize(
    "make",
    [
        lambda: UniformSampler(0),
        lambda: FailureWeightedSampler(3, floor=2.0),
        lambda: CurriculumSampler(order=()),
        lambda: CurriculumSampler(order=(0, 0)),
        lambda: CurriculumSampler(order=(0, 1), start=3),
    ],
)
def test_impossible_samplers_are_refused(make):
    with pytest.raises(ConfigError):
        make()
