"""Oracles: numpy's variance and a count of the flags by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables.collapse import ACTIVE_KL, ACTIVE_VARIANCE, active_units, persists


def test_thresholds_are_the_published_ones():
    assert ACTIVE_VARIANCE == 0.01
    assert ACTIVE_KL == 0.05


def test_a_unit_is_active_when_its_mean_varies_over_examples_by_more_than_the_threshold():
    swing = torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64)
    # Variances 0, 0.0064, 0.0144 and 4, each about a different offset.
    mean = torch.stack([0 * swing + 5, 0.08 * swing, 0.12 * swing - 3, 2 * swing + 1], dim=1)
    assert active_units(mean) == 2
    assert active_units(mean, threshold=0.005) == 3
    assert active_units(mean, threshold=1.0) == 1
    assert active_units(mean, threshold=0.0) == 3


def test_the_variance_divides_by_the_number_of_examples_so_that_one_example_has_no_active_unit():
    assert active_units(torch.tensor([[1.0, -2.0]])) == 0
    halves = torch.tensor([[0.0], [0.19]])  # variance 0.009 over N, 0.018 over N - 1
    assert active_units(halves) == 0


def test_a_threshold_is_exceeded_not_reached():
    mean = torch.tensor([[-0.5], [0.5]], dtype=torch.float64)
    assert active_units(mean, threshold=0.25) == 0


@given(seed=st.integers(0, 99), examples=st.integers(1, 20), units=st.integers(1, 9))
def test_active_units_counts_what_numpy_counts(seed, examples, units):
    mean = np.random.default_rng(seed).normal(scale=0.1, size=(examples, units)).astype(np.float32)
    expected = int((mean.astype(np.float64).var(0) > ACTIVE_VARIANCE).sum())
    count = active_units(torch.from_numpy(mean))
    assert type(count) is int
    assert count == expected


def test_a_unit_that_holds_a_nan_is_not_active():
    assert active_units(torch.tensor([[0.0, float("nan")], [9.0, 1.0]])) == 1


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (4,), (2, 3, 4)])
def test_active_units_refuses_means_that_are_no_table_of_examples(shape):
    with pytest.raises(ValueError, match="expected \\[N, D\\]"):
        active_units(torch.zeros(shape))


@pytest.mark.parametrize(
    ("flags", "collapsed"),
    [
        ([], False),
        ([True, True], False),
        ([True, True, True], False),
        ([True, True, True, True], False),
        ([True, True, True, True, True], True),
        ([False, False, True, True, True], True),
        ([True, True, True, True, False], False),
        ([True, True, True, False, True], False),
        ([True, True, True, None, True], False),
        ([True, True, True, True, None], False),
        ([True, True, None, None, None], False),
        ([True, True, None, False, True, True, True], True),
    ],
)
def test_a_sign_persists_after_patience_evaluations_in_a_row_beyond_the_warm_up(flags, collapsed):
    assert persists(flags, warmup=2, patience=3) is collapsed


def test_a_warm_up_of_zero_judges_from_the_first_epoch():
    assert persists([True], warmup=0, patience=1)
    assert not persists([], warmup=0, patience=1)


@given(
    flags=st.lists(st.sampled_from([True, False, None]), max_size=12),
    warmup=st.integers(0, 6),
    patience=st.integers(1, 5),
)
def test_persistence_is_a_run_of_true_at_the_end_of_what_follows_the_warm_up(flags, warmup, patience):
    run = 0
    for flag in flags[warmup:]:
        run = run + 1 if flag is True else 0
    assert persists(flags, warmup=warmup, patience=patience) is (run >= patience)


@pytest.mark.parametrize(
    ("warmup", "patience", "complaint"),
    [(-1, 1, "warmup=-1 epochs"), (0, 0, "patience=0 evaluations"), (0, -2, "patience=-2 evaluations")],
)
def test_persists_refuses_a_negative_warm_up_and_no_patience(warmup, patience, complaint):
    with pytest.raises(ValueError, match=complaint):
        persists([True], warmup=warmup, patience=patience)
