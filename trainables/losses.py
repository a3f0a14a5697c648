"""Unreduced losses of one member, for use under `torch.func.vmap`: no branch on values, no boolean mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["focal_cross_entropy", "gaussian_kl"]


def focal_cross_entropy(
    logits: Tensor, target: Tensor, *, gamma: float | Tensor, class_weights: Tensor
) -> Tensor:
    """Focal cross-entropy of every example, class-weighted and not reduced.

        loss = w_y (1 - p_y)^gamma (-log p_y),    p = softmax(logits), free of the class weights

    gamma = 0 is weighted cross-entropy, bit for bit, in value and gradient.

    Args:
        logits: f[..., C], finite.
        target: true class y, i64[...], in [0, C). Missing labels must be replaced before, and masked after.
        gamma: focusing exponent in [0, 5]; a number or a scalar tensor of any floating dtype.
        class_weights: w, f[C], >= 0.

    Returns:
        f[...] in nats, of the dtype of `logits`. Value and gradient are finite wherever log p_y is: at
        p_y = 1 too, and where p_y underflows to 0.

    Source: Lin et al. 2017, "Focal loss for dense object detection", eq. 5; the multi-class form with one
    weight a class is the usual extension. The paper's mean over positive anchors is not taken here.
    """
    # Classes come first because softmax over a short last axis is not vectorised over examples: logits
    # [128, 256, 10] take 1.6 ms forward and backward on one core instead of 8.2, 8 members 15 instead of 98.
    log_p = F.log_softmax(logits.movedim(-1, 0), dim=0).gather(0, target.unsqueeze(0)).squeeze(0)
    # At p = 1 the factor x^gamma has slope gamma x^(gamma - 1): infinite for gamma < 1, and times -log p = 0
    # a NaN. The floor makes it finite there, and the product is 0, which is the true limit.
    miss = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
    exponent = torch.as_tensor(gamma, dtype=log_p.dtype, device=log_p.device)
    return class_weights.to(log_p.dtype)[target] * miss.pow(exponent) * -log_p


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of N(mean, variance) from N(0, 1), dimension by dimension.

        KL = (mean^2 + variance - 1 - log variance) / 2

    Args:
        mean: f[...].
        log_variance: natural logarithm of the variance, f[...]; above 88 its exponential overflows float32.

    Returns:
        f[...] in nats, >= 0 up to rounding.

    Source: Kingma & Welling 2014, "Auto-encoding variational Bayes", appendix B.
    """
    # Near the prior, variance - 1 and log variance cancel; expm1 keeps the digits of a vanishing KL.
    return (mean.square() + (torch.expm1(log_variance) - log_variance)) / 2
