"""A run directory as `compare` takes it."""

from __future__ import annotations

import json
import logging
import math
from typing import TYPE_CHECKING

from search.compare import Searched
from search.console import shown_path
from search.events import each_event, phase_of
from search.preflight import num_trials
from search.record import read_epochs, read_trials
from search.standing import ENDED, Standing, is_worked_on

if TYPE_CHECKING:
    from search.run_directory import RunDirectory
    from search.space import Space

__all__ = ["read_searched"]

logger = logging.getLogger("loss_search")


def read_searched(directory: RunDirectory, space: Space, metric: str) -> Searched:
    """What is recorded of a run, as of now; `metric` is the column that its trials are judged by.

    Epochs come in the order of the event log; those that only Parquet has (the log was lost) follow by trial.
    """
    reported: dict[tuple[int, int], float] = {}
    warnings: list[str] = []
    said = None
    for event in each_event(directory.events, warnings):
        if phase_of(event) != "search":
            continue
        if event["kind"] == "search":
            said = event["what"]
        elif event["kind"] == "reported":
            row = event["row"]
            reported.setdefault((row["trial"], row["epoch"]), _number(row.get(f"val.{metric}")))
    table = read_epochs(directory.path, warnings)
    if f"val.{metric}" in table.column_names:
        columns = (table[name].to_pylist() for name in ("phase", "trial", "epoch", f"val.{metric}"))
        for phase, trial, epoch, value in zip(*columns, strict=True):
            if phase == "search":
                reported.setdefault((trial, epoch), _number(value))
    trials = read_trials(directory.path, warnings).to_pylist()
    for warning in warnings:
        logger.warning(warning)
    wanted = num_trials(space)
    searched = [row for row in trials if row["phase"] == "search"]
    finished = said == "finish" and sum(row["state"] in ENDED for row in searched) >= wanted
    standing = Standing(finished, is_worked_on(directory), wanted, searched, (), ())
    return Searched(
        name=directory.name,
        path=shown_path(directory.path),
        space=space,
        trials=trials,
        reported=[(trial, epoch, value) for (trial, epoch), value in reported.items()],
        environment=json.loads(directory.environment.read_text(encoding="utf-8")),
        word=standing.word,
        finished=finished,
        wanted=wanted,
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
