"""The cells of an experiment: which trials stand for each, and their figures. Pure.

A space declares it under `experiment:` (`search.experiment_lines`). Its cells are the values of the
axes that it compares; a cell's figure is the mean over its runs: of the confirm trials where there are any,
else of the search's trials. Figures are those of a trial's last epoch, on validation data unless the column
says train.

    value        the column at the last epoch
    rise         max over t of (v_t - min over s < t of v_s) / (max v - min v): 0 for a curve that only falls
    fluctuation  mean of |v_t+1 - v_t| over the second half of the curve, in the column's unit

The formulas of rise and fluctuation are ours.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.space import Space

# fmt: off
__all__ = [
    "FIGURES", "PRESET", "Cells", "Claim", "Experiment", "Key", "MeasuredTrial", "cell_values", "cells_of",
    "checked", "claim_values", "fluctuation", "inserted", "matches", "rise", "spread",
]
# fmt: on

Row = Mapping[str, Any]
Key = tuple[Any, ...]  # a cell: one value for each axis, None where it is out of force

PRESET = "preset"  # the axis of the names under start_from
FIGURES = ("value", "rise", "fluctuation")
MOST_CELLS = 1000  # of which every one is listed, tried or not
MEASURED = ("COMPLETE", "PRUNED")  # states in which a trial has figures that stay


@dataclass(frozen=True)
class Claim:
    """A statement about a figure of the cells in `where`: within bounds, or in order along an axis.

    `order` "rises" or "falls": the figure does so by more than `by` at each step of `along` on `axis`, all
    other axes equal; None: it lies between `low` and `high` (both included, None is no bound).
    """

    says: str
    figure: str
    column: str
    low: float | None = None
    high: float | None = None
    order: str | None = None
    axis: str = ""
    along: tuple = ()
    by: float = 0.0
    where: Mapping[str, tuple] = field(default_factory=dict)

    def bounded(self, low: float | None, high: float | None) -> Claim:
        return replace(self, low=low, high=high)

    def ordered(self, order: str, axis: str, along: tuple, by: float) -> Claim:
        return replace(self, order=order, axis=axis, along=along, by=by)


@dataclass(frozen=True)
class Experiment:
    """`compare`: the axes; `metrics`: the figures shown; `checks`: asked of every cell; `expect`: in all."""

    compare: tuple[str, ...]
    metrics: tuple[str, ...]
    checks: tuple[Claim, ...] = ()
    expect: tuple[Claim, ...] = ()


@dataclass(frozen=True)
class MeasuredTrial:
    """One trial of a cell with its figures."""

    row: Row
    curve: Sequence[Row]

    def figure(self, kind: str, column: str) -> float:
        """NaN where the trial has none."""
        if kind == "value":
            value = self.row.get(f"final.{_full(column)}")
            return math.nan if value is None else float(value)
        values = [row.get(_full(column)) for row in self.curve]
        return {"rise": rise, "fluctuation": fluctuation}[kind](values)


Cells = Mapping[Key, Sequence[MeasuredTrial]]


def rise(values: Iterable[float | None]) -> float:
    """Largest rise above the smallest value before it, as a share of the range, in [0, 1]; NaN below two."""
    values = _finite(values)
    if len(values) < 2:
        return math.nan
    extent = max(values) - min(values)
    smallest = itertools.accumulate(values, min)
    most = max(later - before for later, before in zip(values[1:], smallest, strict=False))
    return max(0.0, most / extent) if extent > 0 else 0.0


def fluctuation(values: Iterable[float | None]) -> float:
    """Mean absolute change from one epoch to the next over the second half; NaN below two values."""
    values = _finite(values)
    changes = [abs(later - before) for before, later in itertools.pairwise(values)]
    return statistics.fmean(changes[len(changes) // 2 :]) if changes else math.nan


def cells_of(
    space: Space, experiment: Experiment, trials: Sequence[Row], epochs: Iterable[Row]
) -> tuple[Cells, Mapping[Key, Sequence[str]]]:
    """Every cell with its runs, in the space's order, none where it was not tried; and by cell the states of
    trials that have no figures."""
    curves: dict[tuple[str, int], list[Row]] = {}
    for row in epochs:
        curves.setdefault((row.get("phase") or "search", row["trial"]), []).append(row)
    searched = {row["trial"]: row for row in trials if (row.get("phase") or "search") == "search"}
    found: dict[Key, dict[str, list[MeasuredTrial]]] = {key: {} for key in _expected(space, experiment)}
    without: dict[Key, list[str]] = {}
    for row in trials:
        phase = row.get("phase") or "search"
        source = row if phase == "search" else searched.get(row.get("source"), row)
        key = tuple(_coordinate(axis, source, space) for axis in experiment.compare)
        if (PRESET, None) in zip(experiment.compare, key, strict=True):
            continue  # sampled: it stands for no preset
        runs = found.setdefault(key, {})
        if row["state"] in MEASURED and row.get("epochs"):
            runs.setdefault(phase, []).append(MeasuredTrial(row, curves.get((phase, row["trial"]), ())))
        else:
            without.setdefault(key, []).append(row["state"])
    # A confirm trial was chosen by nobody for its luck, and has seeds of its own.
    return {key: runs.get("confirm") or runs.get("search") or [] for key, runs in found.items()}, without


def _expected(space: Space, experiment: Experiment) -> Iterable[Key]:
    """The cells that the space is to try, as far as it lists them."""
    if experiment.compare == (PRESET,):
        return [(preset.name,) for preset in space.presets]
    if PRESET in experiment.compare or space.sampler != "grid" or space.num_cells() > MOST_CELLS:
        return []
    from search.parameter_lines import family_in_force  # needs torch, through the families' declarations

    settings = {**space.family.statics, **space.family.knobs}
    wholes = (space.complete(cell) for cell in space.cells())
    return dict.fromkeys(
        tuple(
            whole[axis] if axis in space.static or family_in_force(settings, axis, whole) else None
            for axis in experiment.compare
        )
        for whole in wholes
    )


def _coordinate(axis: str, row: Row, space: Space) -> Any:
    if axis == PRESET:
        return row.get("preset")
    return row.get(f"static.{axis}" if axis in space.static else f"knob.{axis}")


def cell_values(
    key: Key, runs: Sequence[MeasuredTrial], without: Sequence[str], experiment: Experiment, budget: int
) -> dict[str, Any]:
    cut = [run for run in runs if run.row["epochs"] < budget]
    last = [run.curve[-1] for run in runs if run.curve]
    kinds = [
        name.removeprefix("collapsed.")
        for row in last
        for name, shows in row.items()
        if shows is True and name.startswith("collapsed.")
    ]
    return {
        "at": dict(zip(experiment.compare, key, strict=True)),
        "phase": (runs[0].row.get("phase") or "search") if runs else None,
        "trials": [run.row["trial"] for run in runs],
        "seeds": [run.row.get("seed") for run in runs],
        "figures": {name: spread(runs, "value", name) for name in experiment.metrics},
        "checks": [checked(claim, key, runs, experiment) for claim in experiment.checks],
        "cut": [{"trial": run.row["trial"], "epochs": run.row["epochs"], "of": budget} for run in cut],
        "without": {state: without.count(state) for state in dict.fromkeys(without)},
        "collapsed": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
    }


def spread(runs: Sequence[MeasuredTrial], kind: str, column: str) -> dict[str, Any]:
    """{mean, sd, n} over the runs that have the figure; None where there are too few."""
    values = _finite(run.figure(kind, column) for run in runs)
    return {
        "mean": statistics.fmean(values) if values else None,
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "n": len(values),
    }


def checked(
    claim: Claim, key: Key, runs: Sequence[MeasuredTrial], experiment: Experiment
) -> dict[str, Any] | None:
    """The figure that a check looks at and whether it holds; None in a cell that it is not asked of."""
    if not matches(claim, key, experiment):
        return None
    found = spread(runs, claim.figure, claim.column)
    return {**found, "holds": None if found["mean"] is None else _within(claim, found["mean"])}


def _within(claim: Claim, value: float) -> bool:
    return (claim.low is None or value >= claim.low) and (claim.high is None or value <= claim.high)


def matches(claim: Claim, key: Key, experiment: Experiment) -> bool:
    at = dict(zip(experiment.compare, key, strict=True))
    return all(at[axis] in values for axis, values in claim.where.items())


def claim_values(claim: Claim) -> dict[str, Any]:
    """A claim as plain values, for those who show it."""
    told = {"says": claim.says, "figure": claim.figure, "column": claim.column}
    if claim.order is None:
        return {**told, "low": claim.low, "high": claim.high}
    return {**told, "order": claim.order, "axis": claim.axis, "along": list(claim.along), "by": claim.by}


def inserted(other: Key, index: int, value: Any) -> Key:
    return (*other[:index], value, *other[index:])


def _full(column: str) -> str:
    return column if column.startswith(("val.", "train.")) else f"val.{column}"


def _finite(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]
