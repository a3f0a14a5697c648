"""Weights of tasks: the formulas by hand, and what learnt ones come to rest at."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import vmap

from trainables.task_weights import LOG_VARIANCE, STRATEGIES, learnt_weights, task_factors

ACCURACY = {"a": 0.4, "b": 0.9, "c": 0.0}
MACRO_F1 = {"a": 0.1, "b": 0.7, "c": 1.0}
CLASSES = {"a": 13.0, "b": 4.0, "c": 2.0}


def _factors(strategy: str) -> dict[str, float]:
    return task_factors(strategy, accuracy=ACCURACY, macro_f1=MACRO_F1, num_classes=CLASSES)


@pytest.mark.parametrize(
    ("strategy", "raw"),
    [
        ("uniform", [1, 1, 1]),
        ("uncertainty", [1, 1, 1]),
        ("inverse_accuracy", [2, 1, 10]),  # 1 / 0.5, 1 / 1, 1 / 0.1
        ("inverse_f1", [5, 1.25, 1 / 1.1]),  # 1 / 0.2, 1 / 0.8, 1 / 1.1
        ("difficulty", [1.9, 0.5, 1.2]),  # 1.3 + 0.6, 0.4 + 0.1, 0.2 + 1
    ],
)
def test_factors_are_the_formula_rescaled_to_sum_to_the_number_of_tasks(strategy: str, raw: list[float]):
    expected = [3 * value / sum(raw) for value in raw]
    assert list(_factors(strategy).values()) == pytest.approx(expected, rel=1e-12)


@given(st.sampled_from(STRATEGIES), st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_factors_are_positive_and_sum_to_the_number_of_tasks(strategy: str, scores: list[float]):
    by_task = {str(number): score for number, score in enumerate(scores)}
    found = task_factors(
        strategy, accuracy=by_task, macro_f1=by_task, num_classes=dict.fromkeys(by_task, 2.0)
    )
    assert found.keys() == by_task.keys()
    assert min(found.values()) > 0
    assert sum(found.values()) == pytest.approx(len(scores))


def test_an_unknown_strategy_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"'inverse' is unknown; allowed: uniform, inverse_accuracy"):
        _factors("inverse")


# ---- learnt


def test_learnt_factors_are_the_inverse_variances_and_cost_half_their_logarithm():
    found = learnt_weights(torch.tensor([0.0, math.log(4.0), -1.0]), True)
    torch.testing.assert_close(found.factors, torch.tensor([1.0, 0.25, math.e]))
    assert found.penalty.item() == pytest.approx((math.log(4.0) - 1) / 2)


def test_at_rest_every_task_contributes_one_half():
    """d/ds (exp(-s) L + s / 2) = 0 at exp(-s) L = 1 / 2, and on either side the slope leads back there."""
    losses = torch.tensor([0.05, 0.5, 4.0], dtype=torch.float64)
    for offset in (-0.5, 0.0, 0.5):
        log_variances = ((2 * losses).log() + offset).requires_grad_()
        learnt = learnt_weights(log_variances, True)
        ((losses * learnt.factors).sum() + learnt.penalty).backward()
        expected = torch.full((3,), (1 - math.exp(-offset)) / 2, dtype=torch.float64)
        torch.testing.assert_close(log_variances.grad, expected)


def test_without_learning_factors_are_one_and_nothing_flows_back_even_from_nan():
    log_variances = torch.tensor([1.0, math.nan], requires_grad=True)
    found = learnt_weights(log_variances, torch.tensor(False))
    assert found.factors.tolist() == [1.0, 1.0] and found.penalty.item() == 0
    ((found.factors * 3).sum() + found.penalty).backward()
    assert log_variances.grad.tolist() == [0.0, 0.0]


def test_factors_stay_finite_where_a_task_without_loss_drives_its_variance_to_nothing():
    found = learnt_weights(torch.tensor([-1e4, 1e4]), True)
    assert found.factors.tolist() == pytest.approx([math.exp(LOG_VARIANCE), math.exp(-LOG_VARIANCE)])
    assert found.penalty.isfinite()


def test_members_of_a_stack_learn_or_do_not():
    given_s = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    found = vmap(learnt_weights)(given_s, torch.tensor([True, False]))
    torch.testing.assert_close(found.factors, torch.stack([(-given_s[0]).exp(), torch.ones(2)]))
    assert found.penalty.tolist() == [1.5, 0.0]
