"""How many slots an engine gets."""

from __future__ import annotations

import pytest
import torch
from families import by_name
from hypothesis import given
from hypothesis import strategies as st

from trainables.slots import CPU_CANDIDATES, choose_slots, default_knobs, pick

RATES = st.dictionaries(st.sampled_from([2, 4, 8, 16]), st.floats(0.01, 1e6)).flatmap(
    lambda rates: st.floats(0.01, 1e6).map(lambda alone: {1: alone, **rates})
)


@pytest.mark.parametrize(
    ("timings", "slots"),
    [
        ({1: 10.0}, 1),
        ({1: 10.0, 2: 11.9}, 1),
        ({1: 10.0, 2: 12.0}, 2),
        ({1: 10.0, 2: 5.0, 4: 11.0}, 1),
        ({1: 10.0, 2: 18.0, 4: 20.0}, 2),
        ({1: 10.0, 2: 17.9, 4: 20.0}, 4),
        ({1: 10.0, 2: 19.0, 4: 40.0, 8: 38.0}, 4),
        ({1: 19.0, 2: 18.5, 4: 21.0}, 1),
    ],
)
def test_the_smallest_stack_near_the_best_is_picked_and_one_when_little_is_gained(timings: dict, slots: int):
    assert pick(timings) == slots


@given(RATES)
def test_the_pick_is_within_a_tenth_of_the_best_or_is_one_that_loses_at_most_a_sixth(timings: dict):
    best, picked = max(timings.values()), pick(timings)
    if picked == 1:
        assert timings[1] > best / 1.2 or timings[1] >= 0.9 * best
    else:
        assert best >= 1.2 * timings[1] and timings[picked] >= 0.9 * best
        assert all(rate < 0.9 * best for slots, rate in timings.items() if slots < picked)


def test_a_small_family_is_measured_and_gets_one_of_the_candidates():
    case = by_name("tiny")
    slots, timings = choose_slots(case.family, case.load(), case.full_static, device=torch.device("cpu"))
    assert list(timings) == list(CPU_CANDIDATES[: len(timings)]) and slots in timings
    assert all(rate > 0 for rate in timings.values())
    assert slots == pick(timings)


def test_candidates_are_measured_in_order_as_far_as_they_are_given():
    case = by_name("tiny")
    slots, timings = choose_slots(
        case.family, case.load(), case.full_static, device=torch.device("cpu"), candidates=(1,)
    )
    assert (slots, list(timings)) == (1, [1])


def test_default_knobs_are_all_knobs_of_a_family():
    case = by_name("beta_vae")
    knobs = default_knobs(case.family)
    assert knobs.keys() == case.family.knobs.keys() and knobs["reconstruction.gamma"] == 0.0
