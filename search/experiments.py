"""What an experiment with known questions shows: its table, its checks, what was expected of it. Pure.

cells (`search.experiment_cells`) ──► matrices of two axes, effects of three or more, checks
                                  ──► verdicts (`search.expectations`)
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from search.expectations import expectation
from search.experiment_cells import Cells, cell_values, cells_of, claim_values, inserted, spread

if TYPE_CHECKING:
    from search.space import Space

__all__ = ["experiment_values"]

Row = Mapping[str, Any]


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
    cells, without = cells_of(space, experiment, trials, epochs)
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
        "checks": [claim_values(claim) for claim in experiment.checks],
        "cells": [
            cell_values(key, runs, without.get(key, ()), experiment, space.budget.epochs)
            for key, runs in cells.items()
        ],
        "matrices": _matrices(cells, axes, shown) if len(axes) == 2 else [],
        "effects": _effects(cells, axes, shown) if len(axes) > 2 else [],
        "expect": [expectation(claim, cells, experiment) for claim in experiment.expect],
    }
    return values


# ---------------------------------------------------------------------- tables of several axes


def _matrices(
    cells: Cells, axes: Sequence[Mapping[str, Any]], metrics: Sequence[Row]
) -> list[dict[str, Any]]:
    """Each metric as [row, column] means, and the index of the best in each row and column."""
    rows, columns = axes[0]["values"], axes[1]["values"]
    found = []
    for metric in metrics:
        means = [
            [spread(cells.get((row, column), ()), "value", metric["name"])["mean"] for column in columns]
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
            known = {key: spread(runs, "value", metric["name"])["mean"] for key, runs in cells.items()}
            known = {key: mean for key, mean in known.items() if mean is not None}
            others = [{key[:index] + key[index + 1 :] for key in known if key[index] == value}
                      for value in axis["values"]]  # fmt: skip
            shared = set.intersection(*others)
            means = [
                statistics.fmean(known[inserted(other, index, value)] for other in shared) if shared else None
                for value in axis["values"]
            ]
            best = _best(means, metric["higher_is_better"])
            told = {"axis": axis["name"], "metric": metric["name"], "means": means, "best": best}
            found.append({**told, "settings": len(shared)})
    return found
