"""What an experiment with known questions shows: its table, its checks, what was expected of it. Pure.

A space declares it under `experiment:` (`search.experiment_lines`). Its cells are the values of the axes
that it compares; a cell's figure is the mean over its runs: of the confirm trials where there are any, else
of the search's trials. Figures are those of a trial's last epoch, on validation data unless the column says
train.

    value        the column at the last epoch
    rise         max over t of (v_t - min over s < t of v_s) / (max v - min v): 0 for a curve that only falls
    fluctuation  mean of |v_t+1 - v_t| over the second half of the curve, in the column's unit

The formulas of rise and fluctuation are ours. An expectation held, did not hold, or there is not enough data:
a cell has no run, or a difference is not clear. It is clear when its 95 % interval over three seeds or more
excludes the margin; with fewer seeds, when it exceeds the margin by more than either curve's fluctuation.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from search.statistics import paired_difference

if TYPE_CHECKING:
    from search.space import Space

__all__ = [
    "FIGURES",
    "HELD",
    "NOT_ENOUGH",
    "NOT_HELD",
    "PRESET",
    "Claim",
    "Experiment",
    "experiment_values",
    "fluctuation",
    "rise",
]

Row = Mapping[str, Any]
Key = tuple[Any, ...]  # a cell: one value for each axis, None where it is out of force

PRESET = "preset"  # the axis of the names under start_from
FIGURES = ("value", "rise", "fluctuation")
HELD, NOT_HELD, NOT_ENOUGH = "held", "did not hold", "not enough data"
MOST_CELLS = 1000  # of which every one is listed, tried or not
ENOUGH_SEEDS = 3  # for an interval
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
class _Run:
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


Cells = Mapping[Key, Sequence[_Run]]


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


def experiment_values(space: Space, trials: Sequence[Row], epochs: Iterable[Row]) -> dict[str, Any] | None:
    """The experiment that `space` declares, as plain values; None when it declares none.

    Args:
        trials: rows of trials.parquet.
        epochs: rows of epochs.parquet, by rising epoch.

    Returns:
        axes, metrics, checks; `cells` with their figures; `matrices` (two axes: a metric by rows and columns,
        with the best of each), `effects` (three or more: means over all other axes), `expect` with verdicts.
    """
    experiment = space.experiment
    if experiment is None:
        return None
    cells, without = _cells(space, experiment, trials, epochs)
    axes = [
        {"name": name, "values": list(dict.fromkeys(key[index] for key in cells))}
        for index, name in enumerate(experiment.compare)
    ]
    metrics = {name: space.family.metrics[name] for name in experiment.metrics}
    shown = [
        {"name": name, "help": metric.help, "higher_is_better": metric.higher_is_better}
        for name, metric in metrics.items()
    ]
    values: dict[str, Any] = {
        "axes": axes,
        "metrics": shown,
        "checks": [_claim(claim) for claim in experiment.checks],
        "cells": [
            _cell(key, runs, without.get(key, ()), experiment, space.budget.epochs)
            for key, runs in cells.items()
        ],
        "matrices": _matrices(cells, axes, shown) if len(axes) == 2 else [],
        "effects": _effects(cells, axes, shown) if len(axes) > 2 else [],
        "expect": [_expectation(claim, cells, experiment) for claim in experiment.expect],
    }
    return values


# ---------------------------------------------------------------------- cells


def _cells(
    space: Space, experiment: Experiment, trials: Sequence[Row], epochs: Iterable[Row]
) -> tuple[Cells, Mapping[Key, Sequence[str]]]:
    """Every cell with its runs, in the space's order, none where it was not tried; and by cell the states of
    trials that have no figures."""
    curves: dict[tuple[str, int], list[Row]] = {}
    for row in epochs:
        curves.setdefault((row.get("phase") or "search", row["trial"]), []).append(row)
    searched = {row["trial"]: row for row in trials if (row.get("phase") or "search") == "search"}
    found: dict[Key, dict[str, list[_Run]]] = {key: {} for key in _expected(space, experiment)}
    without: dict[Key, list[str]] = {}
    for row in trials:
        phase = row.get("phase") or "search"
        source = row if phase == "search" else searched.get(row.get("source"), row)
        key = tuple(_coordinate(axis, source, space) for axis in experiment.compare)
        if (PRESET, None) in zip(experiment.compare, key, strict=True):
            continue  # sampled: it stands for no preset
        runs = found.setdefault(key, {})
        if row["state"] in MEASURED and row.get("epochs"):
            runs.setdefault(phase, []).append(_Run(row, curves.get((phase, row["trial"]), ())))
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


def _cell(
    key: Key, runs: Sequence[_Run], without: Sequence[str], experiment: Experiment, budget: int
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
        "figures": {name: _spread(runs, "value", name) for name in experiment.metrics},
        "checks": [_check(claim, key, runs, experiment) for claim in experiment.checks],
        "cut": [{"trial": run.row["trial"], "epochs": run.row["epochs"], "of": budget} for run in cut],
        "without": {state: without.count(state) for state in dict.fromkeys(without)},
        "collapsed": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
    }


def _spread(runs: Sequence[_Run], kind: str, column: str) -> dict[str, Any]:
    """{mean, sd, n} over the runs that have the figure; None where there are too few."""
    values = _finite(run.figure(kind, column) for run in runs)
    return {
        "mean": statistics.fmean(values) if values else None,
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "n": len(values),
    }


def _check(claim: Claim, key: Key, runs: Sequence[_Run], experiment: Experiment) -> dict[str, Any] | None:
    """The figure that a check looks at and whether it holds; None in a cell that it is not asked of."""
    if not _matches(claim, key, experiment):
        return None
    found = _spread(runs, claim.figure, claim.column)
    return {**found, "holds": None if found["mean"] is None else _within(claim, found["mean"])}


def _within(claim: Claim, value: float) -> bool:
    return (claim.low is None or value >= claim.low) and (claim.high is None or value <= claim.high)


def _matches(claim: Claim, key: Key, experiment: Experiment) -> bool:
    at = dict(zip(experiment.compare, key, strict=True))
    return all(at[axis] in values for axis, values in claim.where.items())


# ---------------------------------------------------------------------- tables of several axes


def _matrices(
    cells: Cells, axes: Sequence[Mapping[str, Any]], metrics: Sequence[Row]
) -> list[dict[str, Any]]:
    """Each metric as [row, column] means, and the index of the best in each row and column."""
    rows, columns = axes[0]["values"], axes[1]["values"]
    found = []
    for metric in metrics:
        means = [
            [_spread(cells.get((row, column), ()), "value", metric["name"])["mean"] for column in columns]
            for row in rows
        ]
        found.append(
            {
                "metric": metric["name"],
                "means": means,
                "best_in_row": [_best(line, metric["higher_is_better"]) for line in means],
                "best_in_column": [
                    _best(line, metric["higher_is_better"]) for line in zip(*means, strict=True)
                ],
            }
        )
    return found


def _best(means: Sequence[float | None], higher: bool | None) -> int | None:
    """Where the best of at least two values stands; None when neither side is better, or they are equal."""
    known = [(value, index) for index, value in enumerate(means) if value is not None]
    if higher is None or len({value for value, _ in known}) < 2:
        return None
    return (max if higher else min)(known, key=lambda pair: pair[0])[1]


def _effects(cells: Cells, axes: Sequence[Mapping[str, Any]], metrics: Sequence[Row]) -> list[dict[str, Any]]:
    """For each value of each axis the mean over the other axes, of those settings that all values have."""
    found = []
    for index, axis in enumerate(axes):
        for metric in metrics:
            known = {key: _spread(runs, "value", metric["name"])["mean"] for key, runs in cells.items()}
            known = {key: mean for key, mean in known.items() if mean is not None}
            others = [{key[:index] + key[index + 1 :] for key in known if key[index] == value}
                      for value in axis["values"]]  # fmt: skip
            shared = set.intersection(*others)
            means = [
                statistics.fmean(known[_with(other, index, value)] for other in shared) if shared else None
                for value in axis["values"]
            ]
            best = _best(means, metric["higher_is_better"])
            told = {"axis": axis["name"], "metric": metric["name"], "means": means, "best": best}
            found.append({**told, "settings": len(shared)})
    return found


def _with(other: Key, index: int, value: Any) -> Key:
    return (*other[:index], value, *other[index:])


# ---------------------------------------------------------------------- expectations


def _expectation(claim: Claim, cells: Cells, experiment: Experiment) -> dict[str, Any]:
    """The verdict on a claim: it holds when it does in every part, each a cell or a walk along the axis."""
    parts = (
        _bounded_parts(claim, cells, experiment) if claim.order is None else _walks(claim, cells, experiment)
    )
    verdicts = [part["verdict"] for part in parts]
    overall = NOT_ENOUGH if not parts or NOT_ENOUGH in verdicts else HELD
    return {
        **_claim(claim),
        "verdict": NOT_HELD if NOT_HELD in verdicts else overall,
        "parts": parts,
    }


def _bounded_parts(claim: Claim, cells: Cells, experiment: Experiment) -> list[dict[str, Any]]:
    parts = []
    for key, runs in cells.items():
        check = _check(claim, key, runs, experiment)
        if check is None:
            continue
        holds = check.pop("holds")
        verdict = NOT_ENOUGH if holds is None else HELD if holds else NOT_HELD
        parts.append(
            {"at": dict(zip(experiment.compare, key, strict=True)), "verdict": verdict, "values": [check]}
        )
    return parts


def _walks(claim: Claim, cells: Cells, experiment: Experiment) -> list[dict[str, Any]]:
    """One part for each setting of the other axes: the figure along the axis, and whether it keeps order."""
    index = experiment.compare.index(claim.axis)
    keys = [key for key in cells if key[index] in claim.along and _matches(claim, key, experiment)]
    others = dict.fromkeys(key[:index] + key[index + 1 :] for key in keys)
    names = [name for name in experiment.compare if name != claim.axis]
    parts = []
    for other in others or ([()] if not names else []):
        runs = [cells.get(_with(other, index, value), ()) for value in claim.along]
        steps = [_step(claim, one, two) for one, two in itertools.pairwise(runs)]
        verdicts = [step["verdict"] for step in steps]
        whole = NOT_HELD if NOT_HELD in verdicts else NOT_ENOUGH if NOT_ENOUGH in verdicts else HELD
        values = [
            {"at": value, **_spread(some, claim.figure, claim.column)}
            for value, some in zip(claim.along, runs, strict=True)
        ]
        at = dict(zip(names, other, strict=True))
        parts.append({"at": at, "verdict": whole, "values": values, "steps": steps})
    return parts


def _step(claim: Claim, one: Sequence[_Run], two: Sequence[_Run]) -> dict[str, Any]:
    """The difference from `one` to `two` in the claimed direction, and whether it exceeds the margin.

    `low` to `high`: its interval over the seeds in common, or while these are few, the difference give or
    take what the curves move from one epoch to the next.
    """
    first, second = (
        {run.row.get("seed"): run.figure(claim.figure, claim.column) for run in runs} for runs in (one, two)
    )
    rises = claim.order == "rises"
    paired = paired_difference(second, first, maximize=rises)
    if paired.n >= ENOUGH_SEEDS:
        return _judged(claim, paired.mean, paired.low, paired.high, paired.n)
    means = [_spread(runs, claim.figure, claim.column)["mean"] for runs in (one, two)]
    if None in means:
        return {"verdict": NOT_ENOUGH, "gain": None, "low": None, "high": None, "seeds": 0}
    gain = means[1] - means[0] if rises else means[0] - means[1]
    moves = [_spread(runs, "fluctuation", claim.column)["mean"] for runs in (one, two)]
    unsure = max((move or 0.0 for move in moves), default=0.0) if claim.figure == "value" else 0.0
    return _judged(claim, gain, gain - unsure, gain + unsure, 1)


def _judged(claim: Claim, gain: float, low: float, high: float, seeds: int) -> dict[str, Any]:
    verdict = HELD if low > claim.by else NOT_HELD if high <= claim.by else NOT_ENOUGH
    return {"verdict": verdict, "gain": gain, "low": low, "high": high, "seeds": seeds}


def _claim(claim: Claim) -> dict[str, Any]:
    """A claim as plain values, for those who show it."""
    told = {"says": claim.says, "figure": claim.figure, "column": claim.column}
    if claim.order is None:
        return {**told, "low": claim.low, "high": claim.high}
    return {**told, "order": claim.order, "axis": claim.axis, "along": list(claim.along), "by": claim.by}


def _full(column: str) -> str:
    return column if column.startswith(("val.", "train.")) else f"val.{column}"


def _finite(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]
