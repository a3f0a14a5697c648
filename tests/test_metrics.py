"""Oracles: scikit-learn 1.9 and scipy 1.17."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    jaccard_score,
    recall_score,
)

from trainables import metrics

CLASSES = 5
LABELS = st.lists(
    st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), min_size=1, max_size=60
)


def _summed(pairs: list[tuple[int, int]]) -> torch.Tensor:
    target, predicted = torch.tensor(pairs).T
    return metrics.confusion(target.unsqueeze(0), predicted.unsqueeze(0), CLASSES).double().sum(0)


@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")
@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 30)),
    classes=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_confusion_counts_each_example_as_scikit_learn_does(shape, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, classes, shape, generator=generator)
    predicted = torch.randint(0, classes, shape, generator=generator)
    counts = metrics.confusion(target, predicted, classes)
    assert counts.dtype == torch.float32
    assert counts.shape == (shape[0], classes, classes)
    for row in range(shape[0]):
        theirs = confusion_matrix(target[row], predicted[row], labels=np.arange(classes))
        np.testing.assert_array_equal(counts[row].numpy(), theirs)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_confusion_has_true_classes_in_rows_whatever_the_integer_type(dtype):
    target = torch.tensor([[0, 0, 1]], dtype=dtype)
    predicted = torch.tensor([[1, 1, 0]], dtype=dtype)
    assert metrics.confusion(target, predicted, 2).tolist() == [[[0, 2], [1, 0]]]


def test_pairs_with_a_label_out_of_range_are_counted_nowhere():
    target = torch.tensor([[-1, 0, 1, 0, 2, 9, 1]])
    predicted = torch.tensor([[1, -1, -1, 2, 0, 0, 1]])
    assert metrics.confusion(target, predicted, 2).tolist() == [[[0, 0], [0, 1]]]


def test_confusion_of_a_stack_equals_the_confusions_one_by_one():
    target = torch.randint(0, CLASSES, (3, 4, 50))
    predicted = torch.randint(0, CLASSES, (3, 4, 50))
    stacked = torch.func.vmap(lambda t, p: metrics.confusion(t, p, CLASSES))(target, predicted)
    shared = torch.func.vmap(lambda p: metrics.confusion(target[0], p, CLASSES))(predicted)
    for k in range(3):
        assert torch.equal(stacked[k], metrics.confusion(target[k], predicted[k], CLASSES))
        assert torch.equal(shared[k], metrics.confusion(target[0], predicted[k], CLASSES))


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true:UserWarning")
@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")
@settings(deadline=None, max_examples=80)
@given(pairs=LABELS)
def test_metrics_from_the_confusion_are_scikit_learns_from_the_labels(pairs):
    target, predicted = np.array(pairs).T
    confusion = _summed(pairs)
    assert metrics.accuracy(confusion) == pytest.approx(accuracy_score(target, predicted), abs=1e-12)
    assert metrics.balanced_accuracy(confusion) == pytest.approx(
        balanced_accuracy_score(target, predicted), abs=1e-12
    )
    assert metrics.mean_jaccard(confusion) == pytest.approx(
        jaccard_score(target, predicted, average="macro"), abs=1e-12
    )
    assert metrics.macro_f1(confusion) == pytest.approx(
        f1_score(target, predicted, average="macro"), abs=1e-12
    )
    shares = np.bincount(predicted, minlength=CLASSES) / len(pairs)
    assert metrics.majority_share(confusion) == pytest.approx(shares.max(), abs=1e-12)
    assert metrics.predicted_entropy(confusion) == pytest.approx(entropy(shares), abs=1e-12)
    theirs = recall_score(
        target, predicted, labels=np.arange(CLASSES), average=None, zero_division=float("nan")
    )
    np.testing.assert_allclose(metrics.recalls(confusion), theirs, atol=1e-12)


@settings(deadline=None, max_examples=50)
@given(pairs=LABELS, background=st.integers(0, CLASSES - 1))
def test_foreground_accuracy_is_the_accuracy_over_what_is_no_background(pairs, background):
    foreground = [true == predicted for true, predicted in pairs if true != background]
    assume(foreground)
    share = metrics.foreground_accuracy(_summed(pairs), background)
    assert share == pytest.approx(np.mean(foreground), abs=1e-12)


def test_foreground_accuracy_without_foreground_is_zero():
    assert metrics.foreground_accuracy(_summed([(2, 2), (2, 0)]), background=2) == 0.0


@pytest.mark.parametrize("background", [-1, CLASSES])
def test_foreground_accuracy_refuses_a_background_that_is_no_class(background):
    with pytest.raises(ValueError, match=f"background={background} is none of the 5 classes"):
        metrics.foreground_accuracy(torch.eye(CLASSES), background)


def test_painting_everything_background_is_accurate_and_worth_little():
    confusion = torch.zeros(10, 10, dtype=torch.float64)
    confusion[:, 0] = torch.tensor([93.0] + [7 / 9] * 9)
    assert metrics.accuracy(confusion) == pytest.approx(0.93)
    assert metrics.mean_jaccard(confusion) == pytest.approx(0.093)
    assert metrics.balanced_accuracy(confusion) == pytest.approx(0.1)
    assert metrics.foreground_accuracy(confusion, background=0) == 0.0
    assert metrics.majority_share(confusion) == 1.0
    assert metrics.predicted_entropy(confusion) == 0.0


def test_predicted_entropy_is_in_nats():
    assert metrics.predicted_entropy(torch.eye(8)) == pytest.approx(math.log(8))


def test_recalls_are_nan_for_a_class_that_never_occurs_and_only_there():
    recalls = metrics.recalls(_summed([(0, 0), (0, 1), (3, 3)]))
    assert [math.isnan(value) for value in recalls] == [False, True, True, False, True]
    assert recalls[0] == 0.5
    assert recalls[3] == 1.0


def test_metrics_of_nothing_are_zero_and_never_nan():
    nothing = torch.zeros(3, 3, dtype=torch.float64)
    for metric in (
        metrics.accuracy,
        metrics.balanced_accuracy,
        metrics.mean_jaccard,
        metrics.macro_f1,
        metrics.majority_share,
        metrics.predicted_entropy,
    ):
        assert metric(nothing) == 0.0, metric.__name__
    assert metrics.foreground_accuracy(nothing, background=0) == 0.0


def test_metrics_are_plain_floats():
    confusion = torch.eye(3, dtype=torch.float64)
    assert type(metrics.accuracy(confusion)) is float
    assert type(metrics.mean_jaccard(confusion)) is float
    assert type(metrics.predicted_entropy(confusion)) is float
    assert all(type(value) is float for value in metrics.recalls(confusion))
