"""What is settled before a run directory is made: the space as asked for, its data, and what it may cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from search.errors import BadData, BadInput
from search.space import Space, load_space, traps
from trainables.errors import BadData as BadDataValue

__all__ = [
    "Checked",
    "Cost",
    "check_data",
    "confirm_epochs",
    "cost_of",
    "minutes_of",
    "num_trials",
    "quick_space",
]

QUICK_TRIALS, QUICK_EPOCHS = 8, 5
QUICK_CONFIRM = {"top": 2, "seeds": 3, "max_seeds": 3}
# A run of one epoch shows nothing yet: rules that wait at all wait for two even in a quick test.
LEAST_WAIT = 2
START_UP_S = 25.0  # Ray and the engines on two cores (tests/bench/LOG.md)
EPOCH_COUNTS = ("patience", "warmup", "min_epochs")  # settings of stop rules that count epochs


@dataclass(frozen=True)
class Checked:
    """A space's data as found: examples by split, the score of guessing, what its user should know."""

    sizes: Mapping[str, int]
    chance: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Cost:
    """Trial-epochs: never more than `most`; `expected` with pruning, None where there is no estimate."""

    most: int
    expected: int | None


def check_data(
    space: Space, workers_per_engine: int = 1, judged: Space | None = None, seek_traps: bool = True
) -> Checked:
    """Load the data once.

    `judged` is the space whose traps are looked for, where it is another: a quick test is made to be too
    short, and its user need not hear of it.

    Raises BadData, and BadInput for a batch that the data or the workers cannot fill.
    """
    family = space.family
    try:
        data = family.load(space.data)
    except BadDataValue as error:
        own = space.data["path"] and str(error).startswith(str(space.data["path"]))
        raise BadData(str(error) if own else f"{space.path}: {error}") from error
    warnings = [*data.warnings, *(traps(judged or space, data) if seek_traps else ())]
    batches = space.static["batch_size"]
    sizes = _extent(batches)
    train = data.size("train")
    if min(sizes) > train:
        raise BadInput(
            f"{space.path}: batch_size is {batches.allowed}, but there are {train} training examples; use at "
            f"most --set static.batch_size={train}"
        )
    if max(sizes) > train:
        warnings.append(
            f"batch_size may be {max(sizes)}, but there are {train} training examples: such trials fail."
        )
    if workers_per_engine > 1 and any(size % workers_per_engine for size in sizes):
        raise BadInput(
            f"--workers-per-engine {workers_per_engine}: batch_size is {batches.allowed}, which so many "
            "workers cannot share evenly"
        )
    splits = {split: data.size(split) for split in data.splits}
    return Checked(splits, family.chance(data.facts, space.complete({})), tuple(warnings))


def minutes_of(space: Space) -> tuple[float, float]:
    """About how long a run of `space` takes on this machine, with its default engines, and an epoch.

    A few steps of its default configuration are trained for it, alone on the machine.

    Returns:
        minutes of search and confirmation, start-up included, and seconds of one trial's epoch.
    """
    import torch

    from search.cluster import plan_engines
    from trainables.slots import epoch_seconds

    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    family, cost = space.family, cost_of(space)
    whole = space.complete({})
    static = {name: whole[name] for name in space.static}
    seconds = epoch_seconds(family, family.load(space.data), static, device=device)
    engines = plan_engines(None, 1, None, None).engines
    epochs = (cost.most if cost.expected is None else cost.expected) + confirm_epochs(space)
    return (START_UP_S + epochs * seconds / engines) / 60, seconds


def _extent(parameter: Any) -> tuple[int, ...]:
    """The values of a whole-number parameter: all choices, or the ends of its range."""
    if parameter.kind == "int":
        return int(parameter.low), int(parameter.high)
    return tuple(int(value) for value in parameter.values())


def quick_space(
    space: str,
    overrides: Mapping[str, str],
    trials: int | None = None,
    epochs: int | None = None,
    seed: int | None = None,
) -> Space:
    """`space` with at most 8 trials of 5 epochs, and its stop rules' epoch counts scaled down in proportion;
    a confirmation, where it has one, with at most 2 winners and 3 seeds.

    What the command line says explicitly (`trials`, `epochs`, `--set stop...`) stays as it says.
    """
    from search.stop_lines import plain_stop_rules

    stop_rules = {key: value for key, value in overrides.items() if key.partition(".")[0] == "stop"}
    others = {key: value for key, value in overrides.items() if key not in stop_rules}
    full = load_space(space, overrides=others, seed=seed)
    trials = trials or min(full.budget.trials, QUICK_TRIALS)
    epochs = epochs or min(full.budget.epochs, QUICK_EPOCHS)
    scaled = _scaled(plain_stop_rules(full.stop), epochs / full.budget.epochs)
    text = yaml.safe_dump(scaled, default_flow_style=True, width=math.inf)
    less = {
        f"confirm.{key}": str(min(full.confirm[key], QUICK_CONFIRM[key]))
        for key in full.confirm
        if f"confirm.{key}" not in others
    }
    return load_space(
        space,
        overrides={**others, **less, "stop": text, **stop_rules},
        trials=trials,
        epochs=epochs,
        seed=seed,
    )


def _scaled(rules: Any, factor: float) -> Any:
    """Plain stop rules with their epoch counts times `factor` (at most 1), rounded up."""
    if isinstance(rules, list):
        return [_scaled(rule, factor) for rule in rules]
    if not isinstance(rules, dict):
        return rules
    return {
        key: _fewer(value, factor) if key in EPOCH_COUNTS else _scaled(value, factor)
        for key, value in rules.items()
    }


def _fewer(count: int, factor: float) -> int:
    return min(count, max(LEAST_WAIT, math.ceil(count * min(factor, 1.0) - 1e-9)))


def num_trials(space: Space) -> int:
    """How many trials a search of `space` has: its budget's, or a grid's cells."""
    return int(space.num_cells()) if space.sampler == "grid" else space.budget.trials


def cost_of(space: Space) -> Cost:
    """The trial-epochs of a search, before it starts.

    The estimate is for Optuna's successive halving, whose trials arrive one by one: the i-th to reach a rung
    goes on when it is among the best max(1, i // reduction) there, which without further knowledge has
    probability max(1, i // reduction) / i. Presets are not pruned. Other stop rules can only lower it.
    """
    trials, epochs = num_trials(space), space.budget.epochs
    most, prune = trials * epochs, space.stop.prune
    if prune is None:
        return Cost(most, most)
    if prune["rule"] != "successive_halving":
        return Cost(most, None)
    exempt = min(len(space.presets), trials)
    alive, spent, done = float(trials - exempt), 0.0, 0
    rung = prune["min_epochs"]
    while rung < epochs:
        spent += alive * (rung - done)
        alive = _promoted(alive, prune["reduction"])
        done, rung = rung, rung * prune["reduction"]
    return Cost(most, round(exempt * epochs + spent + alive * (epochs - done)))


def confirm_epochs(space: Space) -> int:
    """The most trial-epochs that the confirmation at the end of a run takes; 0 without one."""
    if not space.confirm:
        return 0
    seeds = space.confirm.get("max_seeds", space.confirm["seeds"])
    return (space.confirm["top"] + bool(space.presets)) * seeds * space.budget.epochs


def _promoted(arriving: float, reduction: int) -> float:
    """The expected number that passes a rung; for a fraction of a trial, in proportion."""
    whole = int(arriving)
    chances = [max(1, i // reduction) / i for i in range(1, whole + 2)]
    return sum(chances[:whole]) + (arriving - whole) * chances[whole]
