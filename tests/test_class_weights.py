"""Oracles: scikit-learn 1.9 (`compute_class_weight`), and 60-digit decimals in tests/reference.py."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from trainables.class_weights import METHODS, absent_classes, class_weights

COUNTS = [9_300_000, 250_000, 76_000, 1_024, 37, 1]


def _weights(counts, method, *, one_minus_beta=1e-4, cap=math.inf):
    return class_weights(counts, method, one_minus_beta=one_minus_beta, cap=cap)


@pytest.mark.parametrize("method", ["inverse", "balanced"])
def test_inverse_and_balanced_are_scikit_learns_balanced(method):
    counts = [70, 20, 9, 1]
    labels = np.repeat(np.arange(4), counts)
    theirs = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_allclose(_weights(counts, method).numpy(), theirs, rtol=1e-14)


def test_none_gives_every_seen_class_one():
    assert torch.equal(_weights([5, 0, 3], "none"), torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64))


def test_sqrt_inverse_turns_123_to_1_into_about_11_to_1():
    weights = _weights([1230, 10], "sqrt_inverse")
    assert float(weights[1] / weights[0]) == pytest.approx(math.sqrt(123), rel=1e-14)


@pytest.mark.parametrize("one_minus_beta", [1e-8, 1e-7, 1e-4, 1e-2, 0.5])
@pytest.mark.parametrize("counts", [COUNTS, [10_000_000, 1], [3, 2, 1]])
def test_effective_weights_are_the_inverse_effective_numbers_to_twelve_digits(counts, one_minus_beta):
    raw = [1 / reference.effective_number(count, one_minus_beta) for count in counts]
    expected = reference.normalised_class_weights(raw, counts, cap=1e12)
    ours = _weights(counts, "effective", one_minus_beta=one_minus_beta)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-12)


def test_effective_weights_obey_the_papers_recursion_and_limits():
    # Cui et al. 2019, proposition 1 and after: E_1 = 1, E_n = 1 + beta E_(n-1); E_n -> 1 / (1 - beta)
    # for many examples, and -> n for beta -> 1. Our weight ratios are inverse ratios of E.
    gap = 0.1
    numbers = [Decimal(1)]
    for _ in range(5):
        numbers.append(1 + (1 - Decimal(gap)) * numbers[-1])
    weights = _weights([1, 2, 3, 4, 5, 6], "effective", one_minus_beta=gap)
    np.testing.assert_allclose(
        (weights[0] / weights).numpy(), [float(number) for number in numbers], rtol=1e-12
    )
    saturated = _weights([1, 1_000_000], "effective", one_minus_beta=1e-3)
    assert float(saturated[0] / saturated[1]) == pytest.approx(1000, rel=1e-12)
    towards_one = _weights([1, 1_000], "effective", one_minus_beta=1e-8)
    assert float(towards_one[0] / towards_one[1]) == pytest.approx(1000, rel=1e-5)


def test_effective_with_beta_09999_is_nearly_none_at_pixel_counts():
    weights = _weights([9_300_000, 250_000, 76_000], "effective", one_minus_beta=1e-4)
    np.testing.assert_allclose(weights.numpy(), 1.0, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None, max_examples=40)
@given(
    counts=st.lists(st.integers(0, 10_000_000), min_size=1, max_size=12).filter(any),
    cap=st.floats(1, 1e4),
    one_minus_beta=st.floats(1e-8, 0.5),
)
def test_any_weights_have_mean_one_stay_under_the_cap_and_never_favour_the_common(
    method, counts, cap, one_minus_beta
):
    weights = _weights(counts, method, one_minus_beta=one_minus_beta, cap=cap)
    n = torch.tensor(counts, dtype=torch.float64)
    assert weights.dtype == torch.float64
    assert float((n * weights).sum() / n.sum()) == pytest.approx(1, rel=1e-12)
    assert torch.equal(weights == 0, n == 0)
    seen = weights[n > 0]
    assert float(seen.max() / seen.min()) <= cap * (1 + 1e-12)
    ordered = seen[n[n > 0].argsort()]
    assert (ordered.diff() <= 1e-12 * ordered[1:]).all()


def test_the_cap_clips_rare_classes_and_keeps_the_proportions_of_common_ones():
    counts = [1000, 500, 10, 1]
    weights = _weights(counts, "inverse", cap=5)
    np.testing.assert_allclose((weights / weights[0]).numpy(), [1, 2, 5, 5], rtol=1e-14)
    expected = reference.normalised_class_weights([1 / count for count in counts], counts, cap=5)
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-14)


def test_a_cap_of_one_makes_every_method_none():
    for method in METHODS:
        np.testing.assert_allclose(_weights(COUNTS, method, cap=1).numpy(), 1.0, rtol=1e-14)


def test_absent_classes_are_named_in_order_and_change_no_other_weight():
    assert absent_classes(torch.tensor([4, 0, 2, 0])) == [1, 3]
    assert absent_classes([1, 1]) == []
    for method in METHODS:
        with_absent = _weights([4, 0, 2, 0], method)
        np.testing.assert_array_equal(with_absent[[0, 2]].numpy(), _weights([4, 2], method).numpy())


def test_counts_may_be_a_list_an_array_or_an_integer_tensor_and_are_left_as_they_were():
    counts = torch.tensor([8, 0, 2])
    kept = counts.clone()
    from_tensor = _weights(counts, "inverse")
    assert torch.equal(counts, kept)
    assert torch.equal(from_tensor, _weights([8, 0, 2], "inverse"))
    assert torch.equal(from_tensor, _weights(np.array([8, 0, 2]), "inverse"))
    exact = counts.double()
    _weights(exact, "inverse")
    assert torch.equal(exact, kept.double())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"method": "efective"}, "'efective' is unknown; allowed: none, inverse"),
        ({"counts": [3, -1]}, r"class 1 has count -1\.0"),
        ({"counts": [math.nan, 2]}, "class 0 has count nan"),
        ({"counts": [1, math.inf]}, "class 1 has count inf"),
        ({"counts": [0, 0]}, "all 2 class counts are 0"),
        ({"counts": []}, r"shape \[0\]"),
        ({"counts": [[1, 2]]}, r"shape \[1, 2\]"),
        ({"cap": 0.99}, "cap=0.99 is below 1"),
        ({"cap": math.nan}, "cap=nan"),
        ({"one_minus_beta": 0.0}, "one_minus_beta=0.0 is outside"),
        ({"one_minus_beta": 1.0}, "one_minus_beta=1.0 is outside"),
        ({"one_minus_beta": math.nan}, "one_minus_beta=nan is outside"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_value(change, complaint):
    arguments = {"counts": [3, 1], "method": "inverse", "one_minus_beta": 1e-4, "cap": 100.0} | change
    with pytest.raises(ValueError, match=complaint):
        class_weights(arguments.pop("counts"), arguments.pop("method"), **arguments)


@pytest.mark.parametrize("counts", [[0, 0], [1, -1], [math.nan]])
def test_absent_classes_refuses_the_counts_that_class_weights_refuses(counts):
    with pytest.raises(ValueError, match="count"):
        absent_classes(counts)
