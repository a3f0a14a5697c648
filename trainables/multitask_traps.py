"""Warnings about spaces of multitask that are valid and yet unlikely to do what their authors want."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainables.class_weights import METHODS
from trainables.multitask_data import TASKS

__all__ = ["traps"]


def traps(space: Any) -> list[str]:
    """What the author of `space` should know, one sentence or two each."""
    return [*_correction_traps(space.knobs), *_weight_traps(space.knobs)]


def _correction_traps(knobs: Mapping[str, Any]) -> list[str]:
    """Corrections for imbalance that overlap."""
    found = []
    sampling, method, tau = (knobs[n] for n in ("sampling", "class_weights.method", "logit_adjustment.tau"))
    weighted = [word for word in METHODS[1:] if method.holds(word)]
    adjusted = tau.searched or tau.value > 0
    if any(_meet(sampling, "balanced", method, word) for word in weighted):
        found.append(
            f"sampling may be balanced while class_weights.method is {weighted[0]}: rare action classes are "
            "corrected for twice. Add when: {sampling: [natural]} to class_weights.method."
        )
    if adjusted and sampling.holds("balanced") and "balanced" in tau.when.get("sampling", ("balanced",)):
        found.append(
            "sampling may be balanced while logit_adjustment.tau is above 0: its priors are the natural "
            "ones, which the sample no longer has. Add when: {sampling: [natural]} to logit_adjustment.tau."
        )
    if adjusted and any(word in tau.when.get("class_weights.method", weighted) for word in weighted):
        found.append(
            f"logit_adjustment.tau may be above 0 while class_weights.method is {weighted[0]}: both correct "
            "for the same priors. Add when: {class_weights.method: [none]} to logit_adjustment.tau."
        )
    return found


def _weight_traps(knobs: Mapping[str, Any]) -> list[str]:
    """Weights that are learnt away."""
    found = []
    for weight in (knobs[f"{task}.weight"] for task in TASKS):
        if weight.searched and "uncertainty" in _values(weight, knobs["task_weighting"]):
            found.append(
                f"{weight.name} is searched while task_weighting may be uncertainty, whose learnt factors "
                "undo it in the long run. Add when: {task_weighting: [...]} with the other strategies."
            )
    return found


def _values(parameter: Any, target: Any) -> list[Any]:
    """The values that `target`, a choice or fixed, can have while `parameter` is in force."""
    return [value for value in target.values() if value in parameter.when.get(target.name, (value,))]


def _meet(one: Any, value: str, other: Any, its: str) -> bool:
    """Whether `one` can be `value` while `other` is `its`."""
    return value in _values(other, one) and its in _values(one, other)
