"""What a report is made from: the rows of a run, read by columns where there are many."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from search.curve_plots import Curves
from search.run_directory import RunDirectory
from search.space import Space
from search.standing import is_worked_on
from search.summary import Rows
from search.traps import traps

__all__ = ["Found", "gather", "stored_object"]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """What is stored about a run: trials of the search and of its confirmation, and the objective's curves.

    `table` is trials.parquet, of both.
    `chance` and `warnings` are those of the summary that the search wrote; before that None, and the traps
    that can be seen without the data.
    """

    directory: RunDirectory
    space: Space
    table: pa.Table
    rows: Rows
    confirm: Sequence[Row]
    curves: Curves
    running: bool
    chance: float | None = None
    warnings: Sequence[str] = field(default_factory=tuple)


def gather(directory: RunDirectory, space: Space) -> Found:
    """Read a run, whether it is finished or not. Of the epochs only the columns of figures are read."""
    from search.record import read_epochs, read_trials
    from search.summary import read_rows

    trials = read_trials(directory.path)
    rows = read_rows(directory, trials, tuple(space.family.collapse_kinds))
    confirm = trials.filter(pc.equal(trials["phase"], "confirm")).to_pylist()
    objective = f"val.{space.objectives[0]}"
    table = read_epochs(directory.path, columns=["trial", "epoch", "phase", objective])
    table = table.filter(pc.equal(table["phase"], "search"))
    names = ("trial", "epoch", objective)
    columns = [table[name].to_numpy() if name in table.column_names else np.zeros(0) for name in names]
    before = stored_object(directory.report / "summary.json")
    running = is_worked_on(directory)
    return Found(
        directory,
        space,
        trials,
        rows,
        confirm,
        Curves(*columns),
        running,
        before.get("chance"),
        traps(space) if before.get("warnings") is None else before["warnings"],
    )


def stored_object(path: Path) -> dict[str, Any]:
    """An object that we wrote; an empty one when there is none or it is damaged."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}
