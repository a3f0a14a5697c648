"""How much each task of a multi-task model counts: from the last epoch's metrics, or learnt by the model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trainables.family import Balance

__all__ = ["STRATEGIES", "learnt_weights", "task_factors"]

STRATEGIES = ("uniform", "inverse_accuracy", "inverse_f1", "difficulty", "uncertainty")
LOG_VARIANCE = 10.0  # a task learnt to perfection, or of weight 0, would let its factor grow without end
FLOOR = 0.1  # of accuracy and F1: a task that gets nothing right counts eleven times one that gets all


def task_factors(
    strategy: str,
    *,
    accuracy: Mapping[str, float],
    macro_f1: Mapping[str, float],
    num_classes: Mapping[str, float],
) -> dict[str, float]:
    """Factors on the tasks' weights for the next epoch, the larger the worse a task stands.

        inverse_accuracy   1 / (accuracy + 0.1)
        inverse_f1         1 / (macro F1 + 0.1)
        difficulty         C / 10 + (1 - accuracy)
        uniform            1
        uncertainty        1, for the model learns its own (`learnt_weights`)

    then rescaled so that they sum to the number of tasks, which keeps the meaning of the learning rate.

    Args:
        strategy: one of `STRATEGIES`.
        accuracy, macro_f1: of each task on validation data, in [0, 1].
        num_classes: C of each task.

    Returns:
        By task, each > 0.

    Raises:
        ValueError: an unknown strategy.

    Source: strategies in use for foul classifiers; no paper. The rescaling is ours.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"task weighting {strategy!r} is unknown; allowed: {', '.join(STRATEGIES)}")
    raw = dict.fromkeys(accuracy, 1.0)
    if strategy == "inverse_accuracy":
        raw = {task: 1 / (value + FLOOR) for task, value in accuracy.items()}
    elif strategy == "inverse_f1":
        raw = {task: 1 / (value + FLOOR) for task, value in macro_f1.items()}
    elif strategy == "difficulty":
        raw = {task: num_classes[task] / 10 + (1 - value) for task, value in accuracy.items()}
    total = sum(raw.values())
    return {task: len(raw) * value / total for task, value in raw.items()}


def learnt_weights(log_variances: Tensor, learnt: bool | Tensor) -> Balance:
    """Weights that follow from each task's own uncertainty, which the model learns.

        factor_t = exp(-s_t),   penalty = sum_t s_t / 2,   s_t = log sigma_t^2, kept in [-10, 10]

    At rest exp(-s_t) = 1 / (2 L_t): every task then contributes the same, whatever its scale.

    Args:
        log_variances: s, f[T].
        learnt: truth value, a bool or a scalar tensor; without it factors 1, penalty 0, and no gradient.

    Source: Kendall et al. 2018, "Multi-task learning using uncertainty to weigh losses", eq. 10, for
    classification losses. The bounds of s are ours.
    """
    learnt = torch.as_tensor(learnt, device=log_variances.device)
    inside = torch.where(learnt, log_variances, torch.zeros_like(log_variances))
    inside = inside.clamp(-LOG_VARIANCE, LOG_VARIANCE)
    return Balance(torch.exp(-inside), inside.sum() / 2)
