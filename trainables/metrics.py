"""Classification metrics from confusion counts; none of them sees a knob.

`confusion` counts per example inside the stack (vmap-safe). The others take the counts summed over a split,
confusion[true, predicted], f64[C, C], of one member outside of it. Where nothing has been counted they return
0.0, so that a report has no NaN; only `recalls`, a vector for figures, marks a class without examples by NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "accuracy",
    "balanced_accuracy",
    "confusion",
    "foreground_accuracy",
    "macro_f1",
    "majority_share",
    "mean_jaccard",
    "predicted_entropy",
    "recalls",
]


def confusion(target: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """How often each true class was predicted as each class, for every example.

    Args:
        target: true classes, integers [B, P]: P labels (pixels, tokens) an example.
        predicted: predicted classes, integers [B, P].
        classes: C.

    Returns:
        f32[B, C, C], [true, predicted], whole numbers (exact for P up to 2^24). A pair with a label outside
        [0, C) is counted nowhere: -1 may mark a missing label.
    """
    # On a CPU counting by scatter is much faster than a product of one-hot comparisons (8 x 128 examples of
    # 256 labels, 10 classes: 1.3 ms against 8.8). The last bin takes the pairs that scatter would refuse.
    inside = (target >= 0) & (target < classes) & (predicted >= 0) & (predicted < classes)
    cell = torch.where(inside, target.long() * classes + predicted.long(), classes * classes)
    bins = torch.zeros(*cell.shape[:-1], classes * classes + 1, device=cell.device)
    counts = bins.scatter_add(-1, cell, torch.ones_like(cell, dtype=bins.dtype))
    return counts[..., :-1].unflatten(-1, (classes, classes))


def accuracy(confusion: Tensor) -> float:
    """Share of examples predicted right, in [0, 1]."""
    return _share(confusion.diagonal().sum(), confusion.sum())


def recalls(confusion: Tensor) -> list[float]:
    """Share of each true class predicted right, C numbers in [0, 1]; NaN for a class without an example."""
    return (confusion.diagonal().double() / confusion.sum(1)).tolist()


def balanced_accuracy(confusion: Tensor) -> float:
    """Mean of the recalls over the classes that occur, in [0, 1]; chance is 1 / their number.

    Source: Brodersen et al. 2010; equals scikit-learn's `balanced_accuracy_score`.
    """
    return _mean_ratio(confusion.diagonal(), confusion.sum(1))


def mean_jaccard(confusion: Tensor) -> float:
    """Mean intersection over union, in [0, 1], over the classes that occur or are predicted.

        J_c = n_cc / (true_c + predicted_c - n_cc)

    A class that never occurs but is predicted counts with 0. Equals scikit-learn's macro `jaccard_score`.
    """
    hits = confusion.diagonal()
    return _mean_ratio(hits, confusion.sum(1) + confusion.sum(0) - hits)


def macro_f1(confusion: Tensor) -> float:
    """Mean F1, in [0, 1], over the classes that occur or are predicted.

        F1_c = 2 n_cc / (true_c + predicted_c)

    Equals scikit-learn's macro `f1_score`.
    """
    return _mean_ratio(2 * confusion.diagonal(), confusion.sum(1) + confusion.sum(0))


def majority_share(confusion: Tensor) -> float:
    """Share of the predictions that fall to the class predicted most often; 1 is one answer for all."""
    return _share(confusion.sum(0).max(), confusion.sum())


def foreground_accuracy(confusion: Tensor, background: int) -> float:
    """Share right, in [0, 1], among the examples whose true class is not `background`; 0.0 if there are none.

    Raises:
        ValueError: `background` is none of the classes.
    """
    classes = len(confusion)
    if not 0 <= background < classes:
        raise ValueError(f"background={background} is none of the {classes} classes 0 to {classes - 1}")
    foreground = torch.arange(classes, device=confusion.device) != background
    return _share(confusion.diagonal()[foreground].sum(), confusion[foreground].sum())


def predicted_entropy(confusion: Tensor) -> float:
    """Entropy of the predicted classes, nats in [0, log C]; 0 when one class is always predicted."""
    predicted = confusion.sum(0).double()
    return float(torch.special.entr(predicted / predicted.sum().clamp(min=1)).sum())


def _share(part: Tensor, whole: Tensor) -> float:
    return float(part.double() / whole) if whole > 0 else 0.0


def _mean_ratio(parts: Tensor, wholes: Tensor) -> float:
    """Mean of parts / wholes over the entries whose whole is not 0; 0.0 if there are none."""
    counted = wholes > 0
    return float((parts[counted].double() / wholes[counted]).mean()) if counted.any() else 0.0
