"""Slow, obvious versions of the mathematics, used as oracles where no library serves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal, localcontext

__all__ = ["cyclical_weight", "effective_number", "focal_loss", "normalised_class_weights"]


def focal_loss(logits: Sequence[float], target: int, gamma: float, weights: Sequence[float]) -> float:
    """Lin et al. 2017, eq. 5, for one example; 1 - p is summed from the other classes."""
    largest = max(logits)
    odds = [math.exp(value - largest) for value in logits]
    total = sum(odds)
    miss = sum(odd for label, odd in enumerate(odds) if label != target) / total
    return weights[target] * miss**gamma * (math.log(total) + largest - logits[target])


def effective_number(count: int, one_minus_beta: float) -> Decimal:
    """E_n = (1 - beta^n) / (1 - beta) of Cui et al. 2019 with 60 digits."""
    with localcontext(prec=60):
        gap = Decimal(one_minus_beta)
        return (1 - (1 - gap) ** count) / gap


def normalised_class_weights(
    raw: Sequence[Decimal | float], counts: Sequence[int], cap: float
) -> list[float]:
    """Weights of seen classes, clipped at `cap` times the smallest, then scaled to mean 1 over examples."""
    with localcontext(prec=60):
        values = [Decimal(value) for value in raw]
        clipped = [min(value, Decimal(cap) * min(values)) for value in values]
        mean = sum(value * count for value, count in zip(clipped, counts, strict=True)) / sum(counts)
        return [float(value / mean) for value in clipped]


def cyclical_weight(step: int, steps: int, cycles: int, ramp: float) -> float:
    """Fu et al. 2019 with a linear rise, in whole steps: cycles of `steps / cycles`, which must divide."""
    length, rest = divmod(steps, cycles)
    if rest:
        raise ValueError(f"{steps} steps do not divide into {cycles} cycles")
    return min((step % length) / length / ramp, 1.0)
