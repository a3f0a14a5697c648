"""What `validate` and `run --dry-run` print: what would be searched, what it costs, and what to beware of."""

from __future__ import annotations

from collections.abc import Collection

from search.console import number, print_table, say, short
from search.experiment_cells import Experiment
from search.preflight import Checked, confirm_epochs, cost_of, num_trials
from search.space import Parameter, Space
from search.stopping import Group, Rule

__all__ = ["describe", "warn"]


def describe(space: Space, checked: Checked) -> None:
    """Print everything about `space` that a person should see before it costs time."""
    family = space.family
    directions = zip(space.objectives, space.directions, strict=True)
    say(f"{space.path}: family {family.name}, {family.summary}")
    say()
    say("objective   " + ", ".join(f"{direction} {name}" for name, direction in directions))
    sizes = ", ".join(f"{size:,} {split}" for split, size in checked.sizes.items())
    where = f" {space.data['path']}" if space.data["path"] else ""
    guessing = f"selection_accuracy of guessing {number(checked.chance)}"
    say(f"data        {space.data['source']}{where}: {sizes}; {guessing}")
    say(f"trials      {num_trials(space)}, proposed by {space.sampler}, seed {space.seed}")
    say(f"epochs      {space.budget.epochs} a trial; {_cost(space)}")
    if space.confirm:
        say(f"confirm     {_confirm(space)}")
    if space.experiment is not None:
        say(f"experiment  {_experiment(space.experiment)}")
    say()
    say("Searched")
    print_table(("parameter", "values", "scale", "only when"), [_row(p) for p in space.searched().values()])
    fixed = [f"{name}={short(p.value)}" for name, p in space.parameters.items() if not p.searched]
    if fixed:
        say()
        say("Fixed       " + ", ".join(fixed))
    say()
    _presets(space)
    say("Stops early")
    for line in [*_prune(space), *(_spoken(rule, space.stop.by_default) for rule in space.stop.rules)]:
        say(f"  {line}")
    if idle := _idle(space):
        say(f"  (a trial of {space.budget.epochs} epochs is too short for these defaults: {', '.join(idle)})")
    say("  diverged: at the first loss or gradient that is not finite")
    warn(checked)


def warn(checked: Checked) -> None:
    """Print the warnings about data and space."""
    if checked.warnings:
        say()
    for warning in checked.warnings:
        say(f"warning: {warning}")


def _cost(space: Space) -> str:
    cost = cost_of(space)
    if cost.expected is None:
        return f"at most {cost.most:,} in all, and fewer as pruning and the other rules end trials early"
    if cost.expected == cost.most:
        return f"at most {cost.most:,} in all"
    return f"at most {cost.most:,} in all, about {cost.expected:,} with successive halving (an estimate)"


def _confirm(space: Space) -> str:
    top, seeds = space.confirm["top"], space.confirm["seeds"]
    most = space.confirm.get("max_seeds", seeds)
    preset = " and the best preset" if space.presets else ""
    count = str(seeds) if most == seeds else f"{seeds} to {most}"
    more = f"at most {confirm_epochs(space):,} epochs more"
    return f"the best {top}{preset} again, {count} fresh seeds each: {more}"


def _experiment(experiment: Experiment) -> str:
    checks, expect = len(experiment.checks), len(experiment.expect)
    axes = ", ".join(experiment.compare)
    return f"compares {axes} by {len(experiment.metrics)} metrics, {checks} checks, {expect} expectations"


def _row(parameter: Parameter) -> tuple[str, str, str, str]:
    if parameter.kind == "choice":
        values = ", ".join(map(short, parameter.choices))
    else:
        values = f"{parameter.low:g} to {parameter.high:g}"
    scale = "" if parameter.kind == "choice" else "log" if parameter.log else "linear"
    conditions = [f"{name} is {' or '.join(map(str, allowed))}" for name, allowed in parameter.when.items()]
    return parameter.name, values, scale, " and ".join(conditions)


def _presets(space: Space) -> None:
    if not space.presets:
        return
    say("Tried first")
    for preset in space.presets:
        values = ", ".join(f"{name}={short(value)}" for name, value in preset.values.items())
        say(f"  {preset.name}: {values or 'every default'}")
    say()


def _idle(space: Space) -> list[str]:
    """The rules on by default that can end no trial of this budget; those that a space writes are traps."""
    epochs, by_default, waits = space.budget.epochs, space.stop.by_default, {}
    if space.stop.prune:
        waits["prune"] = space.stop.prune["min_epochs"]
    for rule in space.stop.flat():
        waits[rule.name] = rule.settings.get("warmup", 0) + rule.settings.get("patience", 0)
    return [name for name, wait in waits.items() if name in by_default and wait >= epochs]


def _prune(space: Space) -> list[str]:
    prune = space.stop.prune
    if prune is None:
        return []
    grace = f"from epoch {prune['min_epochs']}{' (default)' if 'prune' in space.stop.by_default else ''}"
    if prune["rule"] == "median":
        return [f"median: {grace}, trials below the median of those before them"]
    return [
        f"successive_halving: {grace}, one trial in {prune['reduction']} goes on at each rung; presets all do"
    ]


def _spoken(member: Rule | Group, by_default: Collection[str] = ()) -> str:
    if isinstance(member, Group):
        return f"{member.join} of: " + "; ".join(_spoken(inner) for inner in member.members)
    settings = {key: value for key, value in member.settings.items() if key != "maximise"}
    parts = [
        f"{key} {', '.join(map(str, value)) if isinstance(value, tuple) else short(value)}"
        for key, value in settings.items()
    ]
    return f"{member.name}: {', '.join(parts)}{' (default)' if member.name in by_default else ''}"
