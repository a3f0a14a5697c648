"""What a search's trials say about its knobs: everything that a report draws, as numbers and sentences. Pure.

trials.parquet ──► columns ──► forest ──► importance, effects, interactions
                           ──► best_so_far, collapses, trade_offs        (modules of search)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from search.best_so_far import BestSoFar, best_so_far
from search.collapses import Collapse, collapses
from search.columns import Columns, read_columns
from search.effects import Effect, effects
from search.forest import fit_forest
from search.importance import Importance, importance
from search.interactions import Interaction, strongest_interaction
from search.trade_offs import Front, pareto_front

if TYPE_CHECKING:
    import pyarrow as pa

    from search.space import Space

__all__ = ["Analysis", "analyse", "front_of"]

AMONG = 3  # the most important knobs, whose pairs are looked at


@dataclass(frozen=True)
class Analysis:
    """All of it; each part has a `sentence` that says what to see. `interaction` None: no pair to look at."""

    columns: Columns
    importance: Importance
    effects: Mapping[str, Effect]
    interaction: Interaction | None
    best_so_far: BestSoFar
    collapses: Sequence[Collapse]


def analyse(trials: pa.Table, space: Space, shown: Mapping[int, Sequence[str]] | None = None) -> Analysis:
    """Analyse a run's trials.

    Args:
        trials: trials.parquet, as `search.record.read_trials` gives it; confirm trials are passed over.
        shown: by trial, the kinds of collapse that its last epoch shows (see `search.collapses.collapses`);
            None: as the table's `collapsed.*` have it.
    """
    columns = read_columns(trials, space)
    shown = _shown(trials) if shown is None else shown
    forest = fit_forest(columns)
    rated = importance(columns, forest)
    among = [knob.name for knob in rated.knobs[:AMONG]]
    return Analysis(
        columns=columns,
        importance=rated,
        effects=effects(columns, forest),
        interaction=strongest_interaction(columns, forest, among),
        best_so_far=best_so_far(columns),
        collapses=collapses(columns, shown),
    )


def front_of(
    trials: pa.Table, first: str, second: str, maximize: tuple[bool, bool], phase: str = "search"
) -> Front:
    """The Pareto front of two columns of trials.parquet, as `best.val.selection_accuracy`; None is left out.

    Raises KeyError for a column that the table does not have.
    """
    import pyarrow.compute as pc

    table = trials.filter(pc.equal(trials["phase"], phase))
    one, other = (
        np.array(table[name].to_numpy(zero_copy_only=False), dtype=float) for name in (first, second)
    )
    numbers = table["trial"].to_numpy(zero_copy_only=False)
    names = (first.removeprefix("best.val."), second.removeprefix("best.val."))
    return pareto_front(numbers, one, other, names, maximize)


def _shown(trials: pa.Table) -> dict[int, list[str]]:
    """By trial of the search, the kinds of collapse that `collapsed.*` of trials.parquet name."""
    names = [name for name in trials.column_names if name.startswith("collapsed.")]
    shown: dict[int, list[str]] = {}
    for row in trials.select(["trial", "phase", *names]).to_pylist():
        kinds = [name.removeprefix("collapsed.") for name in names if row[name]]
        if row["phase"] == "search" and kinds:
            shown[row["trial"]] = kinds
    return shown
