"""The knobs that families have in common, declared once: one name and one meaning everywhere."""

from __future__ import annotations

from collections.abc import Sequence

from trainables.class_weights import METHODS
from trainables.family import Choice, Number, Setting
from trainables.schedules import LEARNING_RATE_SCHEDULES

__all__ = ["class_weight_knobs", "optimiser_knobs", "weight_knobs"]


def weight_knobs(
    term: str, default: float, high: float, help: str, schedules: Sequence[str] = ()
) -> dict[str, Setting]:
    """`term.weight` in [0, `high`], and with `schedules` the knobs that move it over a trial's budget."""
    knobs: dict[str, Setting] = {f"{term}.weight": Number(default, 0.0, high, help)}
    if not schedules:
        return knobs
    by = f"{term}.schedule"
    knobs[by] = Choice("constant", tuple(schedules), f"how {term}.weight moves over a trial")
    delaying = tuple(word for word in ("linear", "delayed") if word in schedules)
    rising = tuple(word for word in ("linear", "cyclical") if word in schedules)
    if delaying:
        start = "fraction of the budget in which the weight is 0"
        knobs[f"{term}.start"] = Number(0.1, 0.0, 0.9, start, when={by: delaying})
    if rising:
        ramp = "fraction of the budget (cyclical: of a cycle) in which the weight rises"
        knobs[f"{term}.ramp"] = Number(0.25, 0.01, 1.0, ramp, when={by: rising})
    if "cyclical" in schedules:
        knobs[f"{term}.cycles"] = Number(4, 1, 10, "number of cycles", integer=True, when={by: ("cyclical",)})
    return knobs


def class_weight_knobs(what: str, prefix: str = "class_weights") -> dict[str, Setting]:
    """How `what` (colours, classes) are weighted: method, beta of `effective`, and the cap."""
    method = f"{prefix}.method"
    return {
        method: Choice("none", METHODS, f"how {what} are weighted, from training counts"),
        f"{prefix}.one_minus_beta": Number(
            1e-4,
            1e-8,
            0.1,
            "1 - beta of the effective number of samples",
            when={method: ("effective",)},
        ),
        f"{prefix}.cap": Number(
            100.0, 1.0, 1e4, "largest ratio between two class weights", when={method: METHODS[1:]}
        ),
    }


def optimiser_knobs(lr: float = 1e-3) -> dict[str, Setting]:
    """AdamW's rate, decay, clipping and schedule; the engine reads them under these names."""
    return {
        "optim.lr": Number(lr, 1e-6, 0.1, "AdamW's peak learning rate"),
        "optim.weight_decay": Number(1e-4, 0.0, 1.0, "AdamW's decoupled weight decay"),
        "optim.clip": Number(1.0, 1e-3, 1e6, "largest gradient norm of a trial"),
        "optim.schedule": Choice("constant", LEARNING_RATE_SCHEDULES, "how the learning rate moves"),
        "optim.warmup": Number(
            0.05,
            0.0,
            0.5,
            "fraction of the budget in which the rate rises",
            when={"optim.schedule": ("warmup_cosine",)},
        ),
    }
