"""The trials of one phase as the driver remembers them: what was asked, which rows came, what was done."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from search.events import phase_of
from search.record import rows_from_events, summarise
from search.study import Asked, Study

if TYPE_CHECKING:
    from search.board import TrialBoard
    from search.space import Space

__all__ = ["Trial", "recalled", "summary_of", "write_trial_config"]


@dataclass
class Trial:
    """One trial of a run."""

    asked: Asked
    rows: list[dict[str, Any]] = field(default_factory=list)
    board: TrialBoard | None = None
    started_at: float | None = None
    retries: int = 0
    engine: str | None = None
    ended: bool = False
    pictures: set[str] = field(default_factory=set)


def recalled(study: Study, events: Sequence[Mapping[str, Any]], phase: str) -> dict[int, Trial]:
    """The trials of `phase` that were started before, by number, from its study and the event log."""
    own = [event for event in events if phase_of(event) == phase]
    rows: dict[int, list[dict[str, Any]]] = {}
    for row in rows_from_events(own):
        rows.setdefault(row["trial"], []).append(dict(row))
    first_start: dict[int, float] = {}
    for event in own:
        if event["kind"] == "started":
            first_start.setdefault(event["trial"], event["time"])
    found: dict[int, Trial] = {}
    for frozen in study.trials():
        if frozen.state.name == "WAITING":
            continue
        trial = found[frozen.number] = Trial(study.asked_of(frozen), ended=frozen.state.is_finished())
        trial.rows = sorted(rows.get(frozen.number, []), key=lambda row: row["epoch"])
        trial.started_at = first_start.get(frozen.number)
        trial.engine = trial.rows[-1]["engine"] if trial.rows else None
    return found


def summary_of(trial: Trial, space: Space) -> dict[str, Any]:
    """What a row of trials.parquet says of a trial's epochs; empty before the first."""
    if not trial.rows:
        return {}
    ways = zip(space.objectives, space.directions, strict=True)
    return summarise(trial.rows, space.objectives, [name for name, way in ways if way == "minimize"])


def write_trial_config(directory: Path, space: Space, asked: Asked) -> None:
    """`config.yaml`: the trial as `loss-search train --config` takes it."""
    source = f"trial {asked.number}" if asked.source is None else f"trial {asked.source}, confirmed"
    content = {
        "family": space.family_name,
        "source": source,
        "objective": space.objectives[0],
        "data": dict(space.data),
        "epochs": space.budget.epochs,
        "seed": asked.seed,
        "static": dict(asked.static),
        "knobs": dict(asked.knobs),
    }
    temporary = directory / ".config.yaml.tmp"
    temporary.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    os.replace(temporary, directory / "config.yaml")
