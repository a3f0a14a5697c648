"""Losses of one classification task whose kind differs between the members of a stack; vmap-safe.

A trial's kind (`ce`, `focal`, `bce`) becomes numbers: cross-entropy is focal loss with exponent 0, and
one-vs-rest binary cross-entropy is a flag. Both losses are computed and one is kept; the logits of the other
are replaced before, so that nothing of it can reach the value or the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["KINDS", "classification_loss", "labelled", "logit_adjustment"]

KINDS = ("ce", "focal", "bce")


def labelled(label: Tensor) -> tuple[Tensor, Tensor]:
    """Labels with gaps -> (classes that can be looked up, which of them are real).

    Args:
        label: i64[B], -1 where the label is missing.

    Returns:
        i64[B] with 0 in place of -1, and bool[B], True where a label is there.
    """
    there = label >= 0
    return torch.where(there, label, torch.zeros_like(label)), there


def logit_adjustment(counts: Tensor | Sequence[float], tau: float, kind: str) -> Tensor:
    """What is added to the logits in training and left out in evaluation, in favour of rare classes.

        ce, focal   tau log pi_c
        bce         tau log(pi_c / (1 - pi_c))

    The network must then score a rare class higher by as much as its prior is lower, and plain logits at the
    end lack the prior: with tau = 1 their largest is the class of least balanced error.

    Args:
        counts: training examples of each class, [C], not all 0; pi_c = n_c / N. A class that fills more than
            N - 1/2 or less than 1/2 of an example is taken as so much: a logarithm must be finite.
        tau: strength in [0, 2]; 0 is no adjustment.
        kind: one of `KINDS`.

    Returns:
        f64[C], finite.

    Source: Menon et al. 2021, "Long-tail learning via logit adjustment", eq. 10. The log-odds for one-vs-rest
    heads are ours: the same argument for two classes, "c" and "not c".
    """
    counts = torch.as_tensor(counts, dtype=torch.float64)
    share = (counts / counts.sum()).clamp(min=0.5 / counts.sum(), max=1 - 0.5 / counts.sum())
    return tau * (share.logit() if kind == "bce" else share.log())


def classification_loss(
    logits: Tensor,
    target: Tensor,
    *,
    class_weights: Tensor,
    gamma: float | Tensor,
    one_vs_rest: bool | Tensor,
    label_smoothing: float | Tensor,
    adjustment: Tensor,
) -> Tensor:
    """Loss of every example, class-weighted and not reduced, of the kind that the knobs say.

        z = logits + adjustment,   q_c = (1 - e) [c = y] + e / C
        one_vs_rest 0:  w_y sum_c q_c (1 - p_c)^gamma (-log p_c),                          p = softmax(z)
        one_vs_rest 1:  w_y sum_c -(q_c log p_c + (1 - q_c) log(1 - p_c)),                 p = sigmoid(z)

    gamma = 0 is cross-entropy, e = 0 plain targets. The weight is the example's, w_y, so that it means the
    same as repeating the example; torch's `cross_entropy` weights the smoothed classes one by one instead.

    Args:
        logits: f[..., C], finite.
        target: true class y, i64[...], in [0, C); see `labelled`.
        class_weights: w, f[C], >= 0.
        gamma: focusing exponent in [0, 5], 0 for cross-entropy; unused by one-vs-rest.
        one_vs_rest: truth value, a bool or a scalar tensor.
        label_smoothing: e in [0, 1).
        adjustment: f[C], from `logit_adjustment`; zeros in none.

    Returns:
        f[...] in nats, of the dtype of `logits`.

    Source: focal: Lin et al. 2017, eq. 5; smoothing: Szegedy et al. 2016, "Rethinking the Inception
    architecture", section 7; class-weighted sums over one-vs-rest heads: Cui et al. 2019, section 4.
    Focusing each smoothed class by its own p_c is ours; without smoothing it is the paper's loss.
    """
    classes, dtype = logits.shape[-1], logits.dtype
    hot = (target.unsqueeze(-1) == torch.arange(classes, device=logits.device)).to(dtype)
    smoothed = hot * (1 - label_smoothing) + label_smoothing / classes
    adjusted = logits + adjustment.to(dtype)
    one_vs_rest = torch.as_tensor(one_vs_rest, device=logits.device)
    zeros = torch.zeros_like(adjusted)
    exclusive = _focal(torch.where(one_vs_rest, zeros, adjusted), smoothed, gamma)
    separate = _one_vs_rest(torch.where(one_vs_rest, adjusted, zeros), smoothed)
    return class_weights.to(dtype)[target] * torch.where(one_vs_rest, separate, exclusive)


def _focal(logits: Tensor, smoothed: Tensor, gamma: float | Tensor) -> Tensor:
    log_p = F.log_softmax(logits, -1)
    # At p = 1 the slope of x^gamma is infinite for gamma < 1, and times log p = 0 a NaN: see
    # `losses.focal_cross_entropy`.
    miss = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
    exponent = torch.as_tensor(gamma, dtype=log_p.dtype, device=log_p.device)
    return -(smoothed * miss.pow(exponent) * log_p).sum(-1)


def _one_vs_rest(logits: Tensor, smoothed: Tensor) -> Tensor:
    return -(smoothed * F.logsigmoid(logits) + (1 - smoothed) * F.logsigmoid(-logits)).sum(-1)
