"""Where a search stands, as a person sees it: snapshots of a run. Pure reading."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.trials import summary_of

if TYPE_CHECKING:
    from search.run import Run

__all__ = ["Best", "Snapshot", "TrialView", "best_of", "snapshot_of"]


@dataclass(frozen=True)
class TrialView:
    """One running trial, for display."""

    number: int
    preset: str | None
    epoch: int
    epochs: int
    value: float | None
    best: float | None
    engine: str | None


@dataclass(frozen=True)
class Best:
    """The best result so far: the first objective's value at its best epoch."""

    number: int
    preset: str | None
    value: float
    epoch: int
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Snapshot:
    """Where a search stands, for display."""

    run: str
    phase: str  # search, confirm
    objective: str
    stage: str  # starting, searching, stopping, finishing
    elapsed_s: float
    trials_total: int
    states: Mapping[str, int]  # running (in a slot), waiting, complete, pruned, failed
    epochs_done: int
    epochs_per_s: float
    trials_per_min: float
    slots: int
    slots_busy: int
    engines: int
    left_s: float | None
    best: Best | None
    running: tuple[TrialView, ...]
    news: tuple[str, ...]  # what happened since the last snapshot, a line each
    engines_wanted: int = 0  # 0 until they are started


def snapshot_of(run: Run) -> Snapshot:
    """Where the search stands now; `news` is handed out once."""
    states = {"running": 0, "waiting": 0, "complete": 0, "pruned": 0, "failed": 0}
    for frozen in run.study.trials():
        states[frozen.state.name.lower().replace("fail", "failed")] += 1
    if run.interrupted and run.stage != "finishing":
        run.stage = "stopping"
    running = tuple(_view(run, n, t) for n, t in run.trials.items() if not t.ended and t.rows)
    # To the study a trial runs from the moment that it is asked for, also while it waits for a slot.
    in_slots = min(states["running"], max(len(running), run.occupancy["busy"]))
    states["waiting"] += states["running"] - in_slots
    states["running"] = in_slots
    elapsed = time.monotonic() - run.started
    total = run.num_trials()
    ended = states["complete"] + states["pruned"] + states["failed"]
    # Rates count from the first epoch: the engines' warm-up would make the time left look far too long.
    working = time.monotonic() - run.first_row_at if run.first_row_at else 0.0
    rate = run.session_ended / working if working else 0.0
    news, run.news = tuple(run.news), []
    return Snapshot(
        run=run.directory.name,
        phase=run.phase,
        objective=run.space.objectives[0],
        stage=run.stage,
        elapsed_s=elapsed,
        trials_total=total,
        states=states,
        epochs_done=sum(len(trial.rows) for trial in run.trials.values()),
        epochs_per_s=run.session_epochs / working if working else 0.0,
        trials_per_min=60 * rate,
        slots=run.occupancy["slots"],
        slots_busy=run.occupancy["busy"],
        engines=len(run.occupancy["engines"]),
        left_s=(total - ended) / rate if rate else None,
        best=best_of(run) if run.phase == "search" else None,  # which seed was luckiest is no news
        running=running,
        news=news,
        engines_wanted=run.engines_wanted,
    )


def best_of(run: Run) -> Best | None:
    """The best value of any trial so far, running ones included."""
    sign = 1 if run.space.directions[0] == "maximize" else -1
    found = None
    for number, trial in run.trials.items():
        summary = summary_of(trial, run.space)
        value = summary.get("objective")
        if value is not None and (found is None or sign * value > sign * found.value):
            found = Best(number, trial.asked.preset, value, summary["best_epoch"], trial.asked.params)
    return found


def _view(run: Run, number: int, trial: Any) -> TrialView:
    value = run.value(trial.rows[-1]) if trial.rows else None
    best = summary_of(trial, run.space).get("objective")
    epochs = run.space.budget.epochs
    return TrialView(number, trial.asked.preset, len(trial.rows), epochs, value, best, trial.engine)
