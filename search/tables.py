"""The rows of trials.parquet, from the study and the epochs that were reported."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from search.study import Asked, Study
from search.trials import Trial, summary_of

if TYPE_CHECKING:
    from search.space import Space

__all__ = ["column_kinds", "knobs_in_force", "trial_rows"]


def trial_rows(
    study: Study, trials: Mapping[int, Trial], space: Space, phase: str = "search"
) -> list[dict[str, Any]]:
    """One phase's rows of trials.parquet, from its study and the epochs reported."""
    rows = []
    for frozen in study.trials():
        attributes = frozen.user_attrs
        trial = trials.get(frozen.number)
        row: dict[str, Any] = {
            "trial": frozen.number,
            "phase": phase,
            "source": attributes.get("source"),
            "state": frozen.state.name,
            "stop_reason": attributes.get("stop_reason"),
            "preset": attributes.get("preset"),
            "seed": attributes.get("seed", space.seed),
            "retries": attributes.get("retries", trial.retries if trial else 0),
            "engine": attributes.get("engine", trial.engine if trial else None),
            "error": attributes.get("error"),
        }
        if trial is not None:
            row |= {"epochs": 0, **summary_of(trial, space)}
            if trial.started_at is not None:
                row["started_at"] = datetime.fromtimestamp(trial.started_at, UTC)
            asked = trial.asked
            row |= {f"knob.{name}": v for name, v in knobs_in_force(space, asked, asked.knobs).items()}
            row |= {f"static.{name}": value for name, value in asked.static.items()}
        if attributes.get("finished_at") is not None:
            row["finished_at"] = datetime.fromtimestamp(attributes["finished_at"], UTC)
        rows.append(row)
    return rows


def column_kinds(space: Space) -> dict[str, type]:
    """The type of each `knob.*` and `static.*` column, which a column of nulls alone would not show."""
    kinds = {}
    for prefix, parameters, settings in (
        ("knob", space.knobs, space.family.knobs),
        ("static", space.static, space.family.statics),
    ):
        for name in parameters:
            setting = settings[name]
            if hasattr(setting, "options"):
                kinds[f"{prefix}.{name}"] = type(setting.default)
            else:
                kinds[f"{prefix}.{name}"] = int if setting.integer else float
    return kinds


def knobs_in_force(space: Space, asked: Asked, values: Mapping[str, Any]) -> dict[str, Any]:
    """Knobs with their values; None for one that another knob's value puts out of force."""
    settings = {**space.family.statics, **space.family.knobs}
    everything = {**asked.static, **asked.knobs}

    def holds(name: str) -> bool:
        return all(everything[key] in allowed and holds(key) for key, allowed in settings[name].when.items())

    return {name: value if holds(name) else None for name, value in values.items()}
