"""A trial as an engine sees it: what it is asked to train, where it stands, and what it reports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

__all__ = ["Job", "Member", "Report"]


@dataclass(frozen=True)
class Job:
    """One trial as an engine needs it: its seed, all its knobs, and its full budget.

    `test`: its best epoch's model is measured on the test split when it ends. A search never asks for that.
    """

    trial: int
    seed: int
    epochs: int
    knobs: Mapping[str, Any]
    directory: Path | None = None
    test: bool = False


@dataclass
class Report:
    """One trial's row for one epoch: `row` holds numbers by column name, `vectors` what figures need."""

    trial: int
    epoch: int  # epochs that the trial has done, from 1
    row: dict[str, float]
    vectors: dict[str, list[float]]
    diverged: bool
    done: bool  # diverged, or the budget is spent


@dataclass
class Member:
    """The trial in one slot."""

    job: Job
    epoch: int = 0  # epochs done
    train_accuracy: float = 0.0  # selection accuracy of the last epoch's training; chance before the first
    factors: dict[str, float] = field(default_factory=dict)  # on terms' weights, from `Family.reweigh`
    best_value: float = -math.inf  # of the objective, larger is better
    best_epoch: int = 0
    best_row: Tensor | None = None  # f[P], on the CPU
    best_vectors: dict[str, list[float]] = field(default_factory=dict)
    diverged: bool = False
