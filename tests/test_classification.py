"""Oracles: torch 2.13 (`cross_entropy`, `binary_cross_entropy_with_logits`), kornia 0.9.0 (`focal_loss`)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kornia.losses import focal_loss as kornia_focal_loss
from torch import Tensor
from torch.func import vmap

from trainables.classification import KINDS, classification_loss, labelled, logit_adjustment

CLASSES = 5
COUNTS = torch.tensor([700.0, 200, 60, 30, 10], dtype=torch.float64)


def _examples(size: int = 12, classes: int = CLASSES) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(size, classes, generator=source, dtype=torch.float64)
    weights = 5 * torch.rand(classes, generator=source, dtype=torch.float64)
    return logits, torch.randint(classes, (size,), generator=source), weights


def _settings(classes: int = CLASSES, **changes: Any) -> dict[str, Any]:
    plain = {"gamma": 0.0, "one_vs_rest": False, "label_smoothing": 0.0}
    return {**plain, "class_weights": torch.ones(classes), "adjustment": torch.zeros(classes), **changes}


def _gradient(logits: Tensor, target: Tensor, **changes: Any) -> Tensor:
    logits = logits.clone().requires_grad_()
    classification_loss(logits, target, **_settings(logits.shape[-1], **changes)).sum().backward()
    assert logits.grad is not None
    return logits.grad


# ---- kinds


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_cross_entropy_is_torchs_with_smoothed_labels_in_value_and_gradient(smoothing: float):
    logits, target, _ = _examples()
    theirs_in = logits.clone().requires_grad_()
    theirs = F.cross_entropy(theirs_in, target, label_smoothing=smoothing, reduction="none")
    theirs.sum().backward()
    ours = classification_loss(logits, target, **_settings(label_smoothing=smoothing))
    torch.testing.assert_close(ours, theirs.detach())
    torch.testing.assert_close(_gradient(logits, target, label_smoothing=smoothing), theirs_in.grad)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_loss_is_kornias_in_value_and_gradient(gamma: float):
    logits, target, weights = _examples()
    theirs_in = logits.clone().requires_grad_()
    theirs = kornia_focal_loss(theirs_in, target, alpha=None, gamma=gamma, weight=weights).sum(-1)
    theirs.sum().backward()
    changes = {"gamma": gamma, "class_weights": weights}
    ours = classification_loss(logits, target, **_settings(**changes))
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(_gradient(logits, target, **changes), theirs_in.grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_one_vs_rest_is_the_sum_of_torchs_binary_cross_entropies(smoothing: float):
    logits, target, weights = _examples()
    soft = F.one_hot(target, CLASSES).double() * (1 - smoothing) + smoothing / CLASSES
    theirs_in = logits.clone().requires_grad_()
    theirs = F.binary_cross_entropy_with_logits(theirs_in, soft, reduction="none").sum(-1) * weights[target]
    theirs.sum().backward()
    changes = {"one_vs_rest": True, "label_smoothing": smoothing, "class_weights": weights}
    # gamma belongs to the softmax kinds alone.
    ours = classification_loss(logits, target, **_settings(**changes, gamma=3.0))
    torch.testing.assert_close(ours, theirs.detach())
    torch.testing.assert_close(_gradient(logits, target, **changes, gamma=3.0), theirs_in.grad)


def test_smoothed_focal_loss_focuses_each_class_by_its_own_probability():
    """By hand: p = (1/2, 1/4, 1/4), y = 0, e = 0.3: q = (0.8, 0.1, 0.1)."""
    logits = torch.tensor([[2.0, 1.0, 1.0]], dtype=torch.float64).log()
    found = classification_loss(logits, torch.tensor([0]), **_settings(3, gamma=2.0, label_smoothing=0.3))
    expected = 0.8 * 0.25 * math.log(2) + 2 * 0.1 * 0.75**2 * math.log(4)
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("one_vs_rest", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_a_class_weight_counts_as_repeating_the_example(one_vs_rest: bool, smoothing: float):
    logits, target, _ = _examples()
    weights = torch.tensor([1.0, 2.0, 3.0, 0.0, 1.0])
    changes = {"one_vs_rest": one_vs_rest, "label_smoothing": smoothing}
    weighted = classification_loss(logits, target, **_settings(**changes, class_weights=weights)).sum()
    again = weights[target].long()
    repeated = classification_loss(
        logits.repeat_interleave(again, 0), target.repeat_interleave(again), **_settings(**changes)
    )
    assert len(repeated) != len(target)
    torch.testing.assert_close(weighted, repeated.sum())


# ---- guards


@settings(deadline=None, max_examples=80)
@given(
    logits=st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=6),
    gamma=st.floats(0, 5, width=32),
    kind=st.booleans(),
    smoothing=st.floats(0, 0.5, width=32),
    label=st.integers(0, 5),
)
def test_value_and_gradient_are_finite_for_any_finite_logits(logits, gamma, kind, smoothing, label):
    inputs, target = torch.tensor([logits]), torch.tensor([label % len(logits)])
    changes = {"gamma": gamma, "one_vs_rest": kind, "label_smoothing": smoothing}
    found = classification_loss(inputs, target, **_settings(len(logits), **changes))
    assert found.isfinite().all() and (found >= 0).all()
    assert _gradient(inputs, target, **changes).isfinite().all()


def test_at_certainty_the_gradient_of_a_small_exponent_is_zero_and_not_nan():
    certain = torch.tensor([[1e4, -1e4, 0.0]])
    assert torch.equal(_gradient(certain, torch.tensor([0]), gamma=0.5), torch.zeros(1, 3))


def test_the_kind_that_is_not_taken_leaks_neither_value_nor_gradient():
    """An exponent that is NaN breaks focal loss and must not be felt by a one-vs-rest member."""
    logits, target, weights = _examples()
    nan = torch.tensor(torch.nan)
    whole = {"one_vs_rest": True, "class_weights": weights}
    assert not classification_loss(logits, target, **_settings(gamma=nan)).isfinite().any()
    expected = classification_loss(logits, target, **_settings(**whole))
    assert torch.equal(classification_loss(logits, target, **_settings(**whole, gamma=nan)), expected)


def test_members_of_one_stack_have_their_own_kind():
    logits, target, weights = _examples()
    members = [
        _settings(class_weights=weights),
        _settings(class_weights=weights, gamma=2.0, label_smoothing=0.1),
        _settings(class_weights=weights, one_vs_rest=True, adjustment=COUNTS.log()),
    ]
    stacked = {name: torch.stack([torch.as_tensor(one[name]) for one in members]) for name in members[0]}
    together = vmap(lambda knobs: classification_loss(logits, target, **knobs))(stacked)
    for found, knobs in zip(together, members, strict=True):
        torch.testing.assert_close(found, classification_loss(logits, target, **knobs))


# ---- labels that are missing


def test_missing_labels_can_be_looked_up_and_are_marked():
    label = torch.tensor([2, -1, 0, -1])
    target, there = labelled(label)
    assert target.tolist() == [2, 0, 0, 0]
    assert there.tolist() == [True, False, True, False]


# ---- logit adjustment


def test_the_adjustment_is_tau_log_prior_and_for_one_vs_rest_the_log_odds():
    prior = COUNTS / 1000
    torch.testing.assert_close(logit_adjustment(COUNTS, 1.5, "ce"), 1.5 * prior.log())
    torch.testing.assert_close(logit_adjustment(COUNTS, 1.5, "focal"), 1.5 * prior.log())
    odds = 0.5 * (prior / (1 - prior)).log()
    torch.testing.assert_close(logit_adjustment(COUNTS, 0.5, "bce"), odds)
    for kind in KINDS:
        assert not logit_adjustment(COUNTS, 0.0, kind).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_that_never_or_always_occurs_is_adjusted_by_a_finite_amount(kind: str):
    found = logit_adjustment([0.0, 100.0], 1.0, kind)
    assert found.isfinite().all() and found[0] < found[1]
    assert found[0].item() == pytest.approx(math.log(0.005 / (0.995 if kind == "bce" else 1)))


def test_with_tau_one_the_softmax_is_balanced_softmax():
    """Ren et al. 2020: cross-entropy of n_c exp(z_c) / sum_k n_k exp(z_k)."""
    logits, target, _ = _examples()
    found = classification_loss(logits, target, **_settings(adjustment=logit_adjustment(COUNTS, 1.0, "ce")))
    odds = COUNTS * logits.exp()
    torch.testing.assert_close(
        found, -(odds / odds.sum(-1, keepdim=True)).log().gather(1, target[:, None])[:, 0]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_adjusted_training_makes_plain_logits_favour_rare_classes_which_is_the_sign(kind: str):
    """Logits fitted to labels alone, no features: unadjusted they are the priors, at tau = 1 they are level,
    and above it the rarest class comes first. A wrong sign would double the favour of the frequent one.
    """
    target = torch.repeat_interleave(torch.arange(3), torch.tensor([80, 15, 5]))
    counts = torch.bincount(target)
    fitted = {}
    for tau in (0.0, 1.0, 1.5):
        bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        knobs = _settings(
            3, one_vs_rest=kind == "bce", adjustment=logit_adjustment(counts, tau, kind), gamma=0.0
        )
        optimiser = torch.optim.LBFGS([bias], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

        def closure(optimiser=optimiser, bias=bias, knobs=knobs) -> Tensor:
            optimiser.zero_grad()
            loss = classification_loss(bias.expand(100, 3), target, **knobs).mean()
            loss.backward()
            return loss

        optimiser.step(closure)
        fitted[tau] = bias.detach()
    gap = fitted[0.0][0] - fitted[0.0][2]
    expected = math.log(80 / 5) if kind != "bce" else math.log(0.8 / 0.2) - math.log(0.05 / 0.95)
    assert gap.item() == pytest.approx(expected, abs=1e-4)
    assert (fitted[1.0][0] - fitted[1.0][2]).item() == pytest.approx(0, abs=1e-4)
    assert fitted[1.5].argmax() == 2 and fitted[0.0].argmax() == 0
