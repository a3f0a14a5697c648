"""Warnings about a space that is valid and yet unlikely to do what its author wants."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search.parameters import Parameter
    from search.space import Space
    from trainables.family import Data

__all__ = ["traps"]

# Trials that Optuna's samplers draw at random before they use what they have seen (their defaults).
RANDOM_TRIALS = {"tpe": 10, "gp": 10, "nsga2": 50}
# Samplers that model only the parameters that every trial has; the others are drawn at random.
BLIND_TO_CONDITIONS = ("gp", "nsga2")


def traps(space: Space, data: Data | None = None) -> list[str]:
    """What the author of `space` should know, one sentence each, those of its family last."""
    return [
        *_schedule_traps(space),
        *_stop_traps(space),
        *_condition_traps(space),
        *_budget_traps(space),
        *space.family.traps(space, data),
    ]


def _schedule_traps(space: Space) -> list[str]:
    """Terms whose weight may never reach its full value, or move faster than an epoch."""
    found, knobs, epochs = [], space.knobs, space.budget.epochs
    for term in space.family.terms:
        schedule, start, ramp, cycles = (
            knobs.get(f"{term}.{part}") for part in ("schedule", "start", "ramp", "cycles")
        )
        if schedule is None:
            continue
        if schedule.holds("linear") and start and ramp and _largest(start) + _largest(ramp) > 1:
            sizes = (
                f"{term}.start may be {_largest(start):g} and {term}.ramp {_largest(ramp):g} of the budget"
            )
            found.append(
                f"{sizes}, more than 1 together: a linear {term}.weight may never reach its full value."
            )
        if schedule.holds("cyclical") and cycles and _largest(cycles) > epochs:
            found.append(
                f"{term}.cycles may be {_largest(cycles):g}, more than the {epochs} epochs of a trial."
            )
        if schedule.holds("delayed") and start and 0 < _largest(start) * epochs < 1:
            delay = f"{_largest(start) * epochs:.2g} epochs"
            found.append(f"{term}.start is at most {delay}, less than one epoch: no delay to see.")
    return found


def _largest(parameter: Parameter) -> float:
    if parameter.kind == "fixed":
        return parameter.value
    return max(parameter.choices) if parameter.kind == "choice" else parameter.high


def _stop_traps(space: Space) -> list[str]:
    found, epochs, prune = [], space.budget.epochs, space.stop.prune
    unwritten = space.stop.by_default  # nobody chose their numbers, so nobody is warned of them
    if prune and prune["min_epochs"] >= epochs and "prune" not in unwritten:
        least = prune["min_epochs"]
        found.append(
            f"stop.prune.min_epochs is {least}, not below a trial's {epochs} epochs: nothing is pruned."
        )
    for rule in space.stop.flat():
        if rule.name in unwritten:
            continue
        earliest = rule.settings.get("warmup", 0) + rule.settings.get("patience", 0)
        if earliest >= epochs:
            until = f"needs warmup + patience = {earliest} epochs, and a trial has {epochs}"
            found.append(f"stop.{rule.name} {until}: it never ends one early.")
    return found


def _condition_traps(space: Space) -> list[str]:
    """Knobs that are searched even where the family says that they have no effect."""
    found, everything = [], space.parameters
    settings = {**space.family.statics, **space.family.knobs}
    for name, parameter in space.searched().items():
        for target, allowed in settings[name].when.items():
            other, values = everything[target], parameter.when.get(target)
            taken = list(values if values is not None else other.values() if other.kind != "float" else [])
            idle = [str(value) for value in taken if value not in allowed]
            if idle:
                need = ", ".join(map(str, allowed))
                found.append(
                    f"{name} is searched while {target} is {' or '.join(idle)}, where it has no effect. "
                    f"Add when: {{{target}: [{need}]}}."
                )
    if space.sampler in BLIND_TO_CONDITIONS:
        conditional = [name for name, parameter in space.searched().items() if parameter.when]
        if conditional:
            found.append(
                f"{space.sampler} draws conditional parameters at random: {', '.join(conditional)}. Use tpe."
            )
    return found


def _budget_traps(space: Space) -> list[str]:
    found, trials = [], space.budget.trials
    if trials < len(space.presets):
        found.append(
            f"{trials} trials are fewer than the {len(space.presets)} presets: the last are never tried."
        )
    if space.sampler == "grid":
        cells = int(space.num_cells())
        if trials != cells:
            found.append(
                f"the grid runs each of its {cells:,} cells once, whatever budget.trials ({trials})."
            )
    random = RANDOM_TRIALS.get(space.sampler, 0)
    if random and trials <= random:
        found.append(
            f"{space.sampler} draws its first {random} trials at random, and there are {trials}: no learning."
        )
    if space.confirm and space.confirm["top"] > trials:
        found.append(
            f"confirm.top is {space.confirm['top']}, more than the {trials} trials that it chooses from."
        )
    return found
