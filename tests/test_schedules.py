"""Oracles: tests/reference.py (cyclical), torch 2.13 (`CosineAnnealingLR`), and the definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR

from trainables.schedules import LEARNING_RATE_SCHEDULES, SCHEDULES, is_full, learning_rate_at, weight_at

PROGRESS = np.arange(200) / 200


def test_constant_is_the_weight_throughout():
    np.testing.assert_array_equal(weight_at(PROGRESS, weight=0.3, schedule="constant"), 0.3)


def test_adaptive_is_the_weight_times_the_last_accuracy():
    values = weight_at(PROGRESS, weight=2.0, schedule="adaptive", accuracy=0.125)
    np.testing.assert_array_equal(values, 0.25)


@pytest.mark.parametrize("schedule", ["constant", "delayed", "linear", "cyclical"])
def test_a_schedule_that_reads_no_accuracy_does_without_one(schedule):
    settings = {"weight": 2.0, "schedule": schedule}
    np.testing.assert_array_equal(
        weight_at(PROGRESS, **settings, accuracy=math.nan), weight_at(PROGRESS, **settings)
    )


def test_delayed_is_zero_before_its_start_and_full_from_it_on():
    values = weight_at([0.0, 0.24, 0.25, 0.9], weight=2.0, schedule="delayed", start=0.25)
    assert values.tolist() == [0.0, 0.0, 2.0, 2.0]


def test_delayed_starts_on_time_when_rounding_puts_progress_just_below_the_start():
    progress = (0 + 3 / 5) / 3
    assert progress < 0.2
    assert weight_at(progress, weight=1.0, schedule="delayed", start=0.2) == 1.0


def test_linear_is_zero_before_its_start_then_rises_evenly_and_stays():
    values = weight_at([0.0, 0.2, 0.3, 0.4, 0.6, 0.99], weight=3.0, schedule="linear", start=0.2, ramp=0.4)
    np.testing.assert_allclose(values, [0, 0, 0.75, 1.5, 3, 3], atol=1e-12)
    assert values[-1] == 3.0


@pytest.mark.parametrize(("cycles", "ramp"), [(1, 1.0), (4, 0.5), (4, 0.25), (10, 0.01)])
def test_cyclical_rises_in_every_cycle_over_its_ramp_share(cycles, ramp):
    expected = [2.0 * reference.cyclical_weight(step, 200, cycles, ramp) for step in range(200)]
    values = weight_at(PROGRESS, weight=2.0, schedule="cyclical", cycles=cycles, ramp=ramp)
    np.testing.assert_allclose(values, expected, atol=1e-9)


def test_cyclical_begins_its_cycle_on_time_when_rounding_puts_progress_just_below():
    assert 49 * (1 / 49) < 1
    assert weight_at(1 / 49, weight=1.0, schedule="cyclical", cycles=49) == 0


def test_the_end_of_the_budget_closes_the_last_cycle_instead_of_opening_another():
    assert weight_at(1.0, weight=1.5, schedule="cyclical", cycles=4, ramp=0.5) == 1.5


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(
    progress=st.lists(st.floats(0, 1, exclude_max=True), max_size=20),
    weight=st.floats(0, 100),
    start=st.floats(0, 1),
    ramp=st.floats(1e-3, 1),
    cycles=st.integers(1, 10),
    accuracy=st.floats(0, 1),
)
def test_a_weight_in_force_lies_between_zero_and_the_full_weight(
    schedule, progress, weight, start, ramp, cycles, accuracy
):
    values = weight_at(
        progress,
        weight=weight,
        schedule=schedule,
        start=start,
        ramp=ramp,
        cycles=cycles,
        accuracy=accuracy,
    )
    assert isinstance(values, np.ndarray)
    assert values.dtype == np.float64
    assert values.shape == (len(progress),)
    assert ((values >= 0) & (values <= weight)).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_looks_only_at_the_present_so_that_a_stopped_trial_is_a_prefix(schedule):
    settings = {"weight": 0.7, "schedule": schedule, "start": 0.1, "ramp": 0.3, "cycles": 3, "accuracy": 0.4}
    whole = weight_at(PROGRESS, **settings)
    by_epoch = [weight_at(epoch, **settings) for epoch in PROGRESS.reshape(10, 20)]
    np.testing.assert_array_equal(np.concatenate(by_epoch), whole)
    np.testing.assert_array_equal([weight_at(point, **settings) for point in PROGRESS], whole)


def test_a_weight_is_full_when_it_has_reached_its_full_value_to_a_billionth():
    assert is_full(0.3, 0.3)
    assert is_full(0.3 * (1 - 1e-10), 0.3)
    assert not is_full(0.3 * (1 - 1e-8), 0.3)
    assert not is_full(0.0, 0.3)
    assert is_full(0.0, 0.0)
    assert type(is_full(np.float64(1.0), 1.0)) is bool


@pytest.mark.parametrize("schedule", ["constant", "delayed", "linear", "cyclical"])
def test_every_schedule_but_adaptive_becomes_full(schedule):
    values = weight_at(PROGRESS, weight=0.37, schedule=schedule, start=0.1, ramp=0.3, cycles=3)
    assert is_full(values[-1], 0.37)
    assert is_full(values[0], 0.37) == (schedule == "constant")


def test_constant_learning_rate_is_the_rate_throughout():
    np.testing.assert_array_equal(learning_rate_at(PROGRESS, lr=1e-3, schedule="constant"), 1e-3)


def test_cosine_learning_rate_is_torchs_cosine_annealing():
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.02)
    scheduler = CosineAnnealingLR(optimiser, T_max=200)
    theirs = []
    for _ in range(200):
        theirs.append(scheduler.get_last_lr()[0])
        optimiser.step()
        scheduler.step()
    np.testing.assert_allclose(learning_rate_at(PROGRESS, lr=0.02, schedule="cosine"), theirs, rtol=1e-9)
    assert learning_rate_at(1.0, lr=0.02, schedule="cosine") == 0


def test_warm_up_rises_evenly_from_a_hundredth_to_the_peak_and_then_follows_the_cosine():
    rates = learning_rate_at([0.0, 0.05, 0.1, 0.55, 1.0], lr=2.0, schedule="warmup_cosine", warmup=0.1)
    np.testing.assert_allclose(rates, [0.02, 1.01, 2.0, 1.0, 0.0], atol=1e-12)


@pytest.mark.parametrize("warmup", [0.0, 5e-324])
def test_warm_up_over_nothing_is_the_plain_cosine(warmup):
    plain = learning_rate_at(PROGRESS, lr=0.1, schedule="cosine")
    np.testing.assert_array_equal(
        learning_rate_at(PROGRESS, lr=0.1, schedule="warmup_cosine", warmup=warmup)[1:], plain[1:]
    )


@pytest.mark.parametrize("schedule", LEARNING_RATE_SCHEDULES)
@given(progress=st.lists(st.floats(0, 0.999), max_size=20), lr=st.floats(1e-6, 1), warmup=st.floats(0, 0.9))
def test_a_learning_rate_is_above_zero_before_the_end_and_never_above_its_peak(
    schedule, progress, lr, warmup
):
    rates = learning_rate_at(progress, lr=lr, schedule=schedule, warmup=warmup)
    assert isinstance(rates, np.ndarray)
    assert rates.shape == (len(progress),)
    assert ((rates > 0) & (rates <= lr)).all()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"schedule": "cyclic"}, "'cyclic' is unknown; allowed: constant, adaptive"),
        ({"weight": -0.1}, "weight=-0.1"),
        ({"weight": math.nan}, "weight=nan"),
        ({"weight": math.inf}, "weight=inf"),
        ({"start": 1.1}, "start=1.1 is outside"),
        ({"start": -0.1}, "start=-0.1 is outside"),
        ({"ramp": 0.0}, "ramp=0.0 is outside"),
        ({"ramp": 1.5}, "ramp=1.5 is outside"),
        ({"cycles": 0}, "cycles=0 must be a whole number"),
        ({"cycles": 2.5}, "cycles=2.5 must be a whole number"),
        ({"cycles": math.inf}, "cycles=inf must be a whole number"),
        ({"schedule": "adaptive", "accuracy": 1.2}, "accuracy=1.2 is outside"),
        ({"schedule": "adaptive", "accuracy": math.nan}, "accuracy=nan is outside"),
        ({"progress": [0.5, 1.01]}, "progress 1.01 is outside"),
        ({"progress": -0.1}, "progress -0.1 is outside"),
        ({"progress": math.nan}, "progress nan is outside"),
    ],
)
def test_a_weight_schedule_refuses_what_makes_no_sense_with_its_value(change, complaint):
    arguments = {"progress": PROGRESS, "weight": 1.0, "schedule": "constant"} | change
    with pytest.raises(ValueError, match=complaint):
        weight_at(arguments.pop("progress"), **arguments)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"schedule": "linear"}, "'linear' is unknown; allowed: constant, cosine, warmup_cosine"),
        ({"lr": 0.0}, "lr=0.0 must be finite and > 0"),
        ({"lr": math.inf}, "lr=inf must be finite"),
        ({"warmup": 1.0}, "warmup=1.0 is outside"),
        ({"warmup": -0.1}, "warmup=-0.1 is outside"),
        ({"progress": [2.0]}, "progress 2.0 is outside"),
    ],
)
def test_a_learning_rate_schedule_refuses_what_makes_no_sense_with_its_value(change, complaint):
    arguments = {"progress": PROGRESS, "lr": 1e-3, "schedule": "cosine"} | change
    with pytest.raises(ValueError, match=complaint):
        learning_rate_at(arguments.pop("progress"), **arguments)
