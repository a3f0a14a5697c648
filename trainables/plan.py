"""What one epoch of a stack uses, drawn before its first step: order of examples, noise, weights, rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainables import keyed
from trainables.family import Data, Family, Noise
from trainables.member import Member
from trainables.schedules import is_full, learning_rate_at, weight_at

__all__ = ["Plan", "Shape", "plan_epoch"]

SCHEDULE_KNOBS = ("weight", "schedule", "start", "ramp", "cycles")


@dataclass(frozen=True)
class Shape:
    """Steps of an epoch, examples of a step, and which of them, [first, last), are this worker's."""

    steps: int
    batch_size: int
    mine: slice


@dataclass
class Plan:
    """One epoch of K members; S steps, b examples of this worker in a step, T terms."""

    order: Tensor  # i64[K, S, b]
    noise: dict[str, Tensor]  # [K, S, b, ...]
    weights: Tensor  # f64[K, S, T]
    full: Tensor  # bool[K, T]: whether the last step's weight is at its schedule's full value
    rates: Tensor  # f64[K, S]


def plan_epoch(
    family: Family,
    data: Data,
    noises: Mapping[str, Noise],
    members: Sequence[Member | None],
    shape: Shape,
) -> Plan:
    """The next epoch of every member; an empty slot repeats example 0 with weight and rate 0.

    Each draw is keyed by the trial's seed and epoch alone, so that it is the same in any slot.
    """
    slots, terms, total = len(members), len(family.terms), shape.steps * shape.batch_size
    mine = len(range(*shape.mine.indices(shape.batch_size)))
    plan = Plan(
        order=torch.zeros(slots, shape.steps, mine, dtype=torch.long),
        noise={},
        weights=torch.zeros(slots, shape.steps, terms, dtype=torch.float64),
        full=torch.zeros(slots, terms, dtype=torch.bool),
        rates=torch.zeros(slots, shape.steps, dtype=torch.float64),
    )
    for slot, member in enumerate(members):
        if member is None:
            continue
        job = member.job
        order = family.order(job.knobs, data, keyed.generator(job.seed, "order", member.epoch))
        plan.order[slot] = order[:total].view(shape.steps, shape.batch_size)[:, shape.mine]
        for name, kind in noises.items():
            drawn = keyed.draw(kind, total, keyed.generator(job.seed, name, member.epoch))
            drawn = drawn.unflatten(0, (shape.steps, shape.batch_size))[:, shape.mine]
            plan.noise.setdefault(name, drawn.new_zeros(slots, *drawn.shape))[slot] = drawn
        progress = (member.epoch + torch.arange(shape.steps, dtype=torch.float64) / shape.steps) / job.epochs
        for i, term in enumerate(family.terms):
            weights = _weights(term, job.knobs, progress, member.train_accuracy)
            plan.full[slot, i] = is_full(float(weights[-1]), job.knobs.get(f"{term}.weight", 1.0))
            plan.weights[slot, :, i] = weights * member.factors.get(term, 1.0)
        plan.rates[slot] = _rates(job.knobs, progress)
    return plan


def _weights(term: str, knobs: Mapping[str, Any], progress: Tensor, accuracy: float) -> Tensor:
    """A term's weight at each step, f64[S], from the knobs `term.weight`, `term.schedule`, ... it has."""
    given = {name: knobs[f"{term}.{name}"] for name in SCHEDULE_KNOBS if f"{term}.{name}" in knobs}
    settings = {"weight": 1.0, "schedule": "constant", **given}
    return torch.from_numpy(weight_at(progress.numpy(), **settings, accuracy=accuracy))


def _rates(knobs: Mapping[str, Any], progress: Tensor) -> Tensor:
    """The learning rate at each step, f64[S]."""
    schedule, warmup = knobs.get("optim.schedule", "constant"), knobs.get("optim.warmup", 0.0)
    return torch.from_numpy(
        learning_rate_at(progress.numpy(), lr=knobs["optim.lr"], schedule=schedule, warmup=warmup)
    )
