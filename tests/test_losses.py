"""Oracles: torch 2.13 (`cross_entropy`, `distributions`), kornia 0.9.0 (`focal_loss`), tests/reference.py."""

from __future__ import annotations

import math

import pytest
import reference
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kornia.losses import focal_loss as kornia_focal_loss
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from trainables.losses import focal_cross_entropy, gaussian_kl

GAMMAS = (0.0, 0.1, 0.5, 0.9, 1.0, 1.5, 2.0, 5.0)


def _examples(
    *shape: int, classes: int = 10, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(*shape, classes, generator=generator, dtype=dtype) * 3
    target = torch.randint(0, classes, shape, generator=generator)
    weights = torch.rand(classes, generator=generator, dtype=dtype) * 5
    return logits, target, weights


def _gradient(logits: Tensor, target: Tensor, gamma: float | Tensor, weights: Tensor) -> Tensor:
    logits = logits.clone().requires_grad_()
    focal_cross_entropy(logits, target, gamma=gamma, class_weights=weights).sum().backward()
    assert logits.grad is not None
    return logits.grad


def test_gamma_zero_without_weights_is_cross_entropy_to_the_last_bit_in_value_and_gradient():
    logits, target, _ = _examples(6, 5, dtype=torch.float32)
    ones = torch.ones(10)
    ours = focal_cross_entropy(logits, target, gamma=0.0, class_weights=ones)
    theirs_in = logits.clone().requires_grad_()
    # Classes first, as ours: torch's softmax kernels for first and last axis differ in the last bit.
    theirs = F.cross_entropy(theirs_in.movedim(-1, 0).unsqueeze(0), target.unsqueeze(0), reduction="none")[0]
    theirs.sum().backward()
    assert torch.equal(ours, theirs.detach())
    assert torch.equal(_gradient(logits, target, torch.tensor(0.0), ones), theirs_in.grad)


def test_gamma_zero_with_weights_is_weighted_cross_entropy_not_divided_by_the_weights():
    logits, target, weights = _examples(40)
    ours = focal_cross_entropy(logits, target, gamma=0.0, class_weights=weights)
    torch.testing.assert_close(ours, F.cross_entropy(logits, target, weights, reduction="none"))


@pytest.mark.parametrize("gamma", GAMMAS)
def test_focal_loss_and_its_gradient_agree_with_kornia(gamma):
    logits, target, weights = _examples(12, 9)
    theirs_in = logits.clone().requires_grad_()
    theirs = kornia_focal_loss(theirs_in.movedim(-1, 1), target, alpha=None, gamma=gamma, weight=weights).sum(
        1
    )
    theirs.sum().backward()
    ours = focal_cross_entropy(logits, target, gamma=gamma, class_weights=weights)
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        _gradient(logits, target, gamma, weights), theirs_in.grad, rtol=1e-8, atol=1e-10
    )


@settings(deadline=None, max_examples=60)
@given(
    logits=st.lists(st.floats(-8, 8), min_size=1, max_size=7),
    label=st.integers(0, 6),
    gamma=st.floats(0, 5),
    weight=st.floats(0, 100),
)
def test_focal_loss_is_the_papers_equation_for_any_number_of_classes(logits, label, gamma, weight):
    label %= len(logits)
    weights = [1.0] * len(logits)
    weights[label] = weight
    ours = focal_cross_entropy(
        torch.tensor(logits, dtype=torch.float64),
        torch.tensor(label),
        gamma=gamma,
        class_weights=torch.tensor(weights, dtype=torch.float64),
    )
    theirs = reference.focal_loss(logits, label, gamma, weights)
    assert ours.item() == pytest.approx(theirs, rel=1e-7, abs=1e-12)


def test_class_weights_scale_the_loss_and_leave_the_focusing_alone():
    logits, target, weights = _examples(30)
    plain = focal_cross_entropy(logits, target, gamma=2.0, class_weights=torch.ones_like(weights))
    torch.testing.assert_close(
        focal_cross_entropy(logits, target, gamma=2.0, class_weights=3 * weights), 3 * weights[target] * plain
    )


@pytest.mark.parametrize("as_tensor", [False, True], ids=["gamma is a float", "gamma is a tensor"])
@pytest.mark.parametrize("gamma", [*GAMMAS, 1e-3])
def test_gradients_at_saturated_logits_are_finite_and_at_certainty_zero(gamma, as_tensor):
    certain = torch.tensor([[1e4, -1e4, 0.0], [200.0, 0.0, 0.0]])
    weights = torch.tensor([1.0, 2.0, 3.0])
    exponent = torch.tensor(gamma, dtype=torch.float64) if as_tensor else gamma
    right = torch.tensor([0, 0])
    wrong = torch.tensor([1, 2])
    assert (focal_cross_entropy(certain, right, gamma=exponent, class_weights=weights) == 0).all()
    assert torch.equal(_gradient(certain, right, exponent, weights), torch.zeros(2, 3))
    losses = focal_cross_entropy(certain, wrong, gamma=exponent, class_weights=weights)
    torch.testing.assert_close(losses, torch.tensor([2 * 2e4, 3 * 200.0]))
    # Where p_y has underflowed the focusing is flat: the gradient is cross-entropy's, w (p - onehot).
    expected = torch.tensor([[2.0, -2.0, 0.0], [3.0, 0.0, -3.0]])
    torch.testing.assert_close(_gradient(certain, wrong, exponent, weights), expected)


@settings(deadline=None, max_examples=60)
@given(gap=st.floats(0, 120, width=32), gamma=st.floats(0, 5, width=32))
def test_gradients_stay_bounded_on_the_way_to_certainty(gap, gamma):
    logits = torch.tensor([[gap, 0.0], [0.0, gap]])
    gradient = _gradient(logits, torch.tensor([0, 0]), gamma, torch.ones(2))
    # |d loss / d logit| = (1 - p) |(1 - p)^gamma - gamma p (1 - p)^(gamma - 1) log p| <= 1 + gamma
    assert gradient.isfinite().all()
    assert gradient.abs().max() <= 1 + gamma + 1e-4


@pytest.mark.parametrize("ulps", [363, 1433, 1443, 1449, 2897])
def test_small_misses_keep_their_digits_in_float32(ulps):
    # The softmax sum, 1 + ulps 2^-23, is exact in float32 and log p accurate, but 1 - exp(log p) would be off
    # by up to 2^-25.
    logits = torch.tensor([0.0, math.log(ulps * 2.0**-23)])
    ours = focal_cross_entropy(logits, torch.tensor(0), gamma=2.0, class_weights=torch.ones(2))
    truth = reference.focal_loss(logits.tolist(), 0, 2.0, [1.0, 1.0])
    assert ours.item() == pytest.approx(truth, rel=1e-5, abs=0)


def test_a_stack_of_losses_equals_the_losses_one_by_one_in_value_and_gradient():
    members = 4
    logits, target, _ = _examples(members, 6, 5)
    logits.requires_grad_()
    weights_K = torch.rand(members, 10, dtype=torch.float64)
    gamma_K = torch.tensor([0.0, 0.5, 2.0, 4.0], dtype=torch.float64)

    def loss(logits, target, gamma, weights):
        return focal_cross_entropy(logits, target, gamma=gamma, class_weights=weights)

    stacked = torch.func.vmap(loss)(logits, target, gamma_K, weights_K)
    stacked.sum().backward()
    for k in range(members):
        alone = loss(logits[k].detach(), target[k], gamma_K[k], weights_K[k])
        torch.testing.assert_close(stacked[k].detach(), alone, rtol=1e-13, atol=0)
        gradient = _gradient(logits[k].detach(), target[k], gamma_K[k], weights_K[k])
        torch.testing.assert_close(logits.grad[k], gradient, rtol=1e-12, atol=1e-15)


def test_a_saturated_member_leaves_its_neighbours_gradient_alone():
    logits = torch.stack(
        [torch.full((3, 2), 1e4) * torch.tensor([1.0, -1.0]), torch.randn(3, 2)]
    ).requires_grad_()
    target = torch.zeros(2, 3, dtype=torch.long)

    def loss(logits, target, gamma):
        return focal_cross_entropy(logits, target, gamma=gamma, class_weights=torch.ones(2))

    torch.func.vmap(loss)(logits, target, torch.tensor([0.5, 0.5])).sum().backward()
    assert torch.equal(logits.grad[0], torch.zeros(3, 2))
    assert torch.equal(logits.grad[1], _gradient(logits[1].detach(), target[1], 0.5, torch.ones(2)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_loss_has_the_dtype_of_the_logits_whatever_the_dtype_of_the_knobs(dtype):
    logits, target, weights = _examples(8)
    gamma = torch.tensor(0.5, dtype=torch.float64)
    loss = focal_cross_entropy(logits.to(dtype), target, gamma=gamma, class_weights=weights)
    assert loss.dtype == dtype
    assert loss.shape == target.shape
    alone = focal_cross_entropy(logits[0].to(dtype), target[0], gamma=gamma, class_weights=weights)
    assert (alone.dtype, alone.shape) == (dtype, ())
    saturated = torch.tensor([200.0, -200.0], dtype=dtype)
    assert torch.equal(_gradient(saturated, torch.tensor(0), gamma, weights[:2]), torch.zeros(2, dtype=dtype))


@settings(deadline=None, max_examples=60)
@given(mean=st.floats(-20, 20), log_variance=st.floats(-8, 8))
def test_gaussian_kl_is_the_divergence_from_the_standard_normal(mean, log_variance):
    mean_tensor = torch.tensor([mean], dtype=torch.float64)
    log_variance_tensor = torch.tensor([log_variance], dtype=torch.float64)
    theirs = kl_divergence(Normal(mean_tensor, (log_variance_tensor / 2).exp()), Normal(0.0, 1.0))
    ours = gaussian_kl(mean_tensor, log_variance_tensor)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_gaussian_kl_keeps_a_vanishing_divergence_in_float32():
    log_variance = torch.tensor([1e-3, -1e-3, 3e-4])
    exact = (torch.expm1(log_variance.double()) - log_variance.double()) / 2
    ours = gaussian_kl(torch.zeros(3), log_variance)
    torch.testing.assert_close(ours.double(), exact, rtol=1e-3, atol=0)


def test_gaussian_kl_has_its_minimum_zero_at_the_prior():
    mean = torch.zeros(3, requires_grad=True)
    log_variance = torch.zeros(3, requires_grad=True)
    kl = gaussian_kl(mean, log_variance)
    kl.sum().backward()
    assert torch.equal(kl.detach(), torch.zeros(3))
    assert torch.equal(mean.grad, torch.zeros(3))
    assert torch.equal(log_variance.grad, torch.zeros(3))


def test_a_stack_of_divergences_equals_the_divergences_one_by_one():
    mean, log_variance = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    stacked = torch.func.vmap(gaussian_kl)(mean, log_variance)
    assert stacked.shape == mean.shape
    for k in range(3):
        assert torch.equal(stacked[k], gaussian_kl(mean[k], log_variance[k]))
