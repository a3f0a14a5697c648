"""The rows of trials.parquet, from the study and the epochs that were reported."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from search.study import Asked

if TYPE_CHECKING:
    from search.run import Run

__all__ = ["column_kinds", "knobs_in_force", "trial_rows"]


def trial_rows(run: Run) -> list[dict[str, Any]]:
    """The rows of trials.parquet, from the study and the epochs reported."""
    rows = []
    for frozen in run.study.trials():
        attributes = frozen.user_attrs
        trial = run.trials.get(frozen.number)
        row: dict[str, Any] = {
            "trial": frozen.number,
            "state": frozen.state.name,
            "stop_reason": attributes.get("stop_reason"),
            "preset": attributes.get("preset"),
            "seed": attributes.get("seed", run.space.seed),
            "retries": attributes.get("retries", trial.retries if trial else 0),
            "engine": attributes.get("engine", trial.engine if trial else None),
            "error": attributes.get("error"),
        }
        if trial is not None:
            row["epochs"] = 0
            if trial.rows:
                row |= run.summary(trial)
            if trial.started_at is not None:
                row["started_at"] = datetime.fromtimestamp(trial.started_at, UTC)
            row |= {
                f"knob.{name}": v for name, v in knobs_in_force(run, trial.asked, trial.asked.knobs).items()
            }
            row |= {f"static.{name}": value for name, value in trial.asked.static.items()}
        if attributes.get("finished_at") is not None:
            row["finished_at"] = datetime.fromtimestamp(attributes["finished_at"], UTC)
        rows.append(row)
    return rows


def column_kinds(run: Run) -> dict[str, type]:
    """The type of each `knob.*` and `static.*` column, which a column of nulls alone would not show."""
    kinds = {}
    for prefix, parameters, settings in (
        ("knob", run.space.knobs, run.space.family.knobs),
        ("static", run.space.static, run.space.family.statics),
    ):
        for name in parameters:
            setting = settings[name]
            if hasattr(setting, "options"):
                kinds[f"{prefix}.{name}"] = type(setting.default)
            else:
                kinds[f"{prefix}.{name}"] = int if setting.integer else float
    return kinds


def knobs_in_force(run: Run, asked: Asked, values: Mapping[str, Any]) -> dict[str, Any]:
    """Knobs with their values; None for one that another knob's value puts out of force."""
    settings = {**run.space.family.statics, **run.space.family.knobs}
    everything = {**asked.static, **asked.knobs}

    def holds(name: str) -> bool:
        return all(everything[key] in allowed and holds(key) for key, allowed in settings[name].when.items())

    return {name: value if holds(name) else None for name, value in values.items()}
