"""Intervals for the means of few seeds: their algebra, their coverage, and what many comparisons cost."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from search.statistics import (
    MISS,
    interval,
    is_sure,
    paired_difference,
    scored,
    shared_misses,
)

numbers = st.floats(-1e6, 1e6).map(lambda value: round(value, 6))
samples = st.lists(numbers, min_size=2, max_size=10)


def t_interval(x: np.ndarray, miss: float) -> tuple[float, float]:
    """Student's, by scipy: the oracle for normal data."""
    return stats.t.interval(1 - miss, len(x) - 1, np.mean(x), stats.sem(x))


@given(samples)
@settings(deadline=None)
def test_an_interval_holds_the_mean_and_any_order_gives_the_same(values):
    low, high = interval(values)
    assert low <= np.mean(values) + 1e-9 * max(map(abs, values))
    assert high >= np.mean(values) - 1e-9 * max(map(abs, values))
    assert interval(values[::-1]) == (low, high)


@given(samples, st.floats(0.001, 1e6), st.floats(-1e3, 1e3))
@settings(deadline=None)
def test_a_change_of_unit_changes_an_interval_alike(values, unit, origin):
    if np.ptp(values) < 1e-3:
        return  # rounding of `origin` would be part of the spread
    low, high = interval(values)
    moved = interval([unit * value + origin for value in values])
    assert moved == pytest.approx((unit * low + origin, unit * high + origin), rel=1e-6, abs=1e-6 * unit)


@given(samples)
@settings(deadline=None)
def test_the_interval_of_negated_values_is_the_mirror_image(values):
    low, high = interval(values)
    size = max(1.0, abs(low), abs(high))
    assert interval([-value for value in values]) == pytest.approx((-high, -low), abs=1e-9 * size)


@given(numbers, st.integers(1, 10))
def test_equal_values_have_no_spread(value, n):
    result = scored([value] * n)
    assert result.mean == value
    if n == 1:
        assert result[2:5] == (None, None, None)
    else:
        assert result[2:5] == (0.0, value, value)


def test_values_equal_but_for_rounding_have_no_spread():
    assert scored([0.1 + 0.2, 0.3, 0.3]).sd == 0


def test_seeds_without_a_score_are_left_out():
    assert scored([0.5, None, math.nan, 0.7, math.inf])[:2] == (2, 0.6)
    assert scored([None])[:5] == (0, None, None, None, None)


def test_mean_and_deviation_are_those_worked_by_hand():
    result = scored([1.0, 2.0, 4.0, 5.0])
    assert result.mean == 3.0
    assert result.sd == pytest.approx(math.sqrt((4 + 1 + 1 + 4) / 3))


def test_an_interval_is_cut_at_the_range_of_the_metric():
    result = scored([0.99, 1.0, 0.94], bounds=(0.0, 1.0))
    assert result.high == 1.0
    assert scored([0.99, 1.0, 0.94]).high > 1.0
    assert scored([1.5, 1.6], bounds=(0.0, 1.0)).low <= 1.55  # a score outside its range is shown as it is


@pytest.mark.parametrize("n", [3, 5, 10])
def test_intervals_of_normal_looking_values_are_about_as_long_as_students(n):
    x = stats.norm.ppf((np.arange(n) + 0.5) / n)
    low, high = interval(x)
    expected = t_interval(x, MISS)[1]
    assert high == pytest.approx(-low)
    assert 0.9 < high / expected < 1.25


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [1.0, math.inf]])
def test_too_few_or_broken_values_are_refused(values):
    with pytest.raises(ValueError, match="at least two finite values"):
        interval(values)


def test_a_share_of_misses_must_be_a_share():
    with pytest.raises(ValueError, match="miss=1.5"):
        interval([1.0, 2.0], 1.5)


def test_differences_are_paired_by_seed_and_positive_is_better():
    ours, theirs = {1: 0.9, 2: 0.8, 3: None, 4: 0.7}, {2: 0.7, 1: 0.7, 3: 0.1, 5: 0.3}
    assert paired_difference(ours, theirs)[:2] == (2, pytest.approx(0.15))
    assert paired_difference(ours, theirs, maximize=False)[:2] == (2, pytest.approx(-0.15))
    assert paired_difference({1: 1.0}, {2: 1.0}).n == 0


def test_pairing_takes_out_what_seeds_have_in_common():
    common = np.random.default_rng(0).normal(size=6)
    ours = {seed: value + 0.1 + 0.001 * seed for seed, value in enumerate(common)}
    theirs = dict(enumerate(common))
    assert paired_difference(ours, theirs).sd < scored(ours.values()).sd / 100


def test_equal_differences_are_sure_from_five_seeds_on():
    four, five = ({seed: 1.0 for seed in range(n)} for n in (4, 5))
    zero = {seed: 0.5 for seed in range(5)}
    assert not is_sure(paired_difference(four, zero))
    assert is_sure(paired_difference(five, zero))
    assert not is_sure(paired_difference(zero, zero))
    assert not is_sure(paired_difference({0: 1.0}, zero))


def test_several_comparisons_share_one_error():
    assert shared_misses([5], 1) == {5: MISS}
    assert shared_misses([5], 4) == {5: MISS / 4}
    assert shared_misses([5], 0) == {5: MISS}


@given(st.sets(st.integers(2, 12), min_size=2, max_size=5), st.integers(1, 4))
@settings(deadline=None, max_examples=10)
def test_several_looks_cost_more_than_one_and_less_than_bonferroni(looks, comparisons):
    misses = shared_misses(tuple(looks), comparisons)
    share = MISS / comparisons
    assert list(misses.values()) == sorted(misses.values())
    assert max(misses.values()) < share
    assert sum(misses.values()) > share * 0.97  # 0.97: 100,000 simulated series give the level to 3 %


@pytest.mark.parametrize("looks", [[], [1], [1, 5]])
def test_a_look_at_one_seed_is_refused(looks):
    with pytest.raises(ValueError, match="at least two seeds"):
        shared_misses(looks, 1)
