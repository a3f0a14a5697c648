"""Schedules of term weights and of learning rates, in fractions of a trial's full budget.

Counting in fractions of the FULL budget makes a trial that is stopped early a true prefix of the trial that
runs to its end. Pure numpy: the engine fills a row of numbers a step ahead of the epoch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["LEARNING_RATE_SCHEDULES", "SCHEDULES", "is_full", "learning_rate_at", "weight_at"]

SCHEDULES = ("constant", "adaptive", "delayed", "linear", "cyclical")
LEARNING_RATE_SCHEDULES = ("constant", "cosine", "warmup_cosine")

WARMUP_FLOOR = 0.01  # share of the peak learning rate at the first step: a step of 0 would train nothing
_SLACK = 1e-9  # fractions are quotients: 49 * (1 / 49) is below 1 and (0 + 3 / 5) / 3 below 0.2


def weight_at(
    progress: ArrayLike,
    *,
    weight: float,
    schedule: str,
    start: float = 0.0,
    ramp: float = 0.25,
    cycles: int = 4,
    accuracy: float = 1.0,
) -> np.ndarray:
    """The weight of a term in force at each point of a trial.

        constant  weight
        adaptive  weight accuracy
        delayed   0 before `start`, then weight
        linear    weight clip((progress - start) / ramp, 0, 1)
        cyclical  weight min(tau / ramp, 1),  tau = fraction of the present cycle that has passed

    Args:
        progress: fractions of the trial's full budget in [0, 1], any shape; 1 itself closes the last cycle.
        weight: full weight, finite and >= 0.
        schedule: one of `SCHEDULES`.
        start: fraction of the budget before which the weight is 0, in [0, 1]; delayed and linear.
        ramp: fraction of the budget (linear) or share of a cycle (cyclical) of the rise, in (0, 1]. With
            start + ramp > 1 a linear schedule never reaches its full weight.
        cycles: number of cycles in the budget, a whole number >= 1; cyclical.
        accuracy: training selection accuracy of the last epoch (at first: chance), in [0, 1]; adaptive.

    Returns:
        f64 array of the shape of `progress`, each entry in [0, weight].

    Raises:
        ValueError: an unknown schedule, or a number outside its range. `accuracy` is measured, so only the
            schedule that reads it checks it.

    Source: cyclical: Fu et al. 2019, "Cyclical annealing schedule", with a linear rise. The others are ours.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"weight schedule {schedule!r} is unknown; allowed: {', '.join(SCHEDULES)}")
    if not (np.isfinite(weight) and weight >= 0):
        raise ValueError(f"weight={weight} of a term must be finite and >= 0")
    if not 0 <= start <= 1:
        raise ValueError(f"start={start} is outside [0, 1]; it is a fraction of the trial's budget")
    if not 0 < ramp <= 1:
        raise ValueError(
            f"ramp={ramp} is outside (0, 1]; it is a fraction of the budget, cyclical: of a cycle"
        )
    if not (cycles >= 1 and float(cycles).is_integer()):
        raise ValueError(f"cycles={cycles} must be a whole number >= 1")
    if schedule == "adaptive" and not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy={accuracy} is outside [0, 1]; before the first epoch pass chance")
    progress = _checked(progress)
    if schedule == "adaptive":
        share = np.full_like(progress, accuracy)
    elif schedule == "delayed":
        share = np.where(progress >= start - _SLACK, 1.0, 0.0)
    elif schedule == "linear":
        share = np.clip((progress - start) / ramp, 0.0, 1.0)
    elif schedule == "cyclical":
        cycles_passed = progress * cycles
        cycle = np.minimum(np.floor(cycles_passed + _SLACK), cycles - 1)
        share = np.clip((cycles_passed - cycle) / ramp, 0.0, 1.0)
    else:
        share = np.ones_like(progress)
    return np.asarray(weight * share)


def is_full(value: float, weight: float) -> bool:
    """Whether the `value` in force has reached the full `weight`, to 1e-9 relative; a weight of 0 has."""
    return bool(abs(value - weight) <= 1e-9 * abs(weight))


def learning_rate_at(progress: ArrayLike, *, lr: float, schedule: str, warmup: float = 0.05) -> np.ndarray:
    """The learning rate at each point of a trial.

        constant       lr
        cosine         lr (1 + cos(pi progress)) / 2
        warmup_cosine  from lr / 100 linearly to lr over `warmup`, then the cosine over what is left

    Args:
        progress: fractions of the trial's full budget in [0, 1], any shape.
        lr: peak learning rate, finite and > 0.
        schedule: one of `LEARNING_RATE_SCHEDULES`.
        warmup: fraction of the budget in which the rate rises, in [0, 1); warmup_cosine. 0 is plain cosine.

    Returns:
        f64 array of the shape of `progress`; (0, lr] before progress 1, and 0 there unless constant.

    Raises:
        ValueError: an unknown schedule, or a number outside its range.

    Source: cosine: Loshchilov & Hutter 2017, "SGDR", eq. 5 with one period and a minimum of 0. Warm-up: Goyal
    et al. 2017, section 2.2; its first value is ours.
    """
    if schedule not in LEARNING_RATE_SCHEDULES:
        allowed = ", ".join(LEARNING_RATE_SCHEDULES)
        raise ValueError(f"learning-rate schedule {schedule!r} is unknown; allowed: {allowed}")
    if not (np.isfinite(lr) and lr > 0):
        raise ValueError(f"lr={lr} must be finite and > 0")
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup={warmup} is outside [0, 1); it is a fraction of the trial's budget")
    progress = _checked(progress)
    if schedule == "constant":
        return np.full_like(progress, lr)
    rise = warmup if schedule == "warmup_cosine" else 0.0
    decayed = (progress - rise) / (1 - rise)
    share = (1 + np.cos(np.pi * decayed)) / 2
    if rise > 0:
        risen = np.minimum(progress, rise) / rise  # unbounded, it overflows where `rise` is tiny
        share = np.where(progress < rise, WARMUP_FLOOR + (1 - WARMUP_FLOOR) * risen, share)
    return np.asarray(lr * share)


def _checked(progress: ArrayLike) -> np.ndarray:
    progress = np.asarray(progress, dtype=np.float64)
    wrong = ~((progress >= 0) & (progress <= 1))
    if wrong.any():
        raise ValueError(
            f"progress {progress[wrong].flat[0]} is outside [0, 1]; it is a fraction of the full budget"
        )
    return progress
