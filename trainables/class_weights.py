"""Class weights from the class counts of the training split; pure functions, once a trial.

Whatever the method, the weights are capped and then rescaled to a mean of 1 over the training examples, so
that gamma, beta and the learning rate keep their meaning when the method changes. Both steps are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["METHODS", "absent_classes", "class_weights"]

METHODS = ("none", "inverse", "sqrt_inverse", "balanced", "effective")


def class_weights(
    counts: Tensor | Sequence[float], method: str, *, one_minus_beta: float, cap: float
) -> Tensor:
    """One weight a class, the rarer the class the larger.

        none          1
        inverse       1 / n_c          (`balanced` is scikit-learn's word for the same)
        sqrt_inverse  1 / sqrt(n_c)
        effective     (1 - beta) / (1 - beta^n_c)

    then w_c <- min(w_c, cap min over seen classes of w), then w_c <- w_c N / sum(n_c w_c). Factors common to
    all classes, such as N / C in `inverse`, cancel in the rescaling and are left out.

    Args:
        counts: training examples (or pixels) of each class, [C], n_c >= 0 and not all 0; N is their sum.
        method: one of `METHODS`.
        one_minus_beta: 1 - beta of the effective number of samples, in (0, 1); used by `effective` only.
        cap: largest ratio between two weights of seen classes, >= 1. The common classes keep their
            proportions and the rare ones are clipped from above; `inf` is no cap.

    Returns:
        f64[C] with sum(n_c w_c) / N = 1. A class that never occurs in training gets 0; see `absent_classes`.

    Raises:
        ValueError: an unknown method; counts that are negative, not finite, all zero or not one row; a cap
            below 1; one_minus_beta outside (0, 1).

    Source: effective number of samples: Cui et al. 2019, "Class-balanced loss based on effective number of
    samples", proposition 1. `balanced`: King & Zeng 2001, as in scikit-learn's `compute_class_weight`.
    """
    if method not in METHODS:
        raise ValueError(f"class-weight method {method!r} is unknown; allowed: {', '.join(METHODS)}")
    if not 0 < one_minus_beta < 1:
        raise ValueError(f"one_minus_beta={one_minus_beta} is outside (0, 1); 1e-4 stands for beta = 0.9999")
    if not cap >= 1:
        raise ValueError(f"cap={cap} is below 1, but it is a ratio of the largest weight to the smallest")
    counts = _checked(counts)
    seen = counts > 0
    seen_counts = counts[seen]
    raw = _raw(seen_counts, method, one_minus_beta)
    capped = raw.minimum(cap * raw.min())
    weights = torch.zeros_like(counts)
    weights[seen] = capped * (seen_counts.sum() / (seen_counts * capped).sum())
    return weights


def absent_classes(counts: Tensor | Sequence[float]) -> list[int]:
    """The classes without a training example, in order; `class_weights` gives them 0: warn, and name them.

    Args and Raises: as for `counts` of `class_weights`.
    """
    return (_checked(counts) == 0).nonzero().flatten().tolist()


def _raw(counts: Tensor, method: str, one_minus_beta: float) -> Tensor:
    """Weights before cap and scale, f64[C], of classes that all occur."""
    if method in ("inverse", "balanced"):
        return 1 / counts
    if method == "sqrt_inverse":
        return counts.rsqrt()
    if method == "effective":
        # 1 - beta^n = -expm1(n log1p(-(1 - beta))): written directly, half the digits go at 1 - beta = 1e-8.
        log_beta = torch.log1p(torch.tensor(-one_minus_beta, dtype=torch.float64, device=counts.device))
        return one_minus_beta / -torch.expm1(counts * log_beta)
    return torch.ones_like(counts)


def _checked(counts: Tensor | Sequence[float]) -> Tensor:
    counts = torch.as_tensor(counts, dtype=torch.float64)
    if counts.ndim != 1 or len(counts) == 0:
        raise ValueError(f"class counts have shape {list(counts.shape)}, expected one number a class, [C]")
    wrong = ~(counts.isfinite() & (counts >= 0))
    if wrong.any():
        index = int(wrong.nonzero()[0])
        raise ValueError(f"class {index} has count {float(counts[index])}; counts must be finite and >= 0")
    if not (counts > 0).any():
        raise ValueError(
            f"all {len(counts)} class counts are 0; the training split holds no labelled example"
        )
    return counts
