"""Whether a run's record is whole: rows, states and figures held against the study and the event log."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from search.events import phase_of
from search.record import Key, Row, acknowledged, keys_of, merged_rows, read_trials, stored_tables
from search.schema import ENDED, EPOCH_COLUMNS, summarise, table_of

__all__ = ["check_record"]

SHOWN = 5  # rows named in one complaint


def check_record(
    run_dir: Path,
    study_trials: Sequence[Mapping[str, Any]],
    events: Sequence[Mapping[str, Any]],
    *,
    minimise: Collection[str] = (),
    confirm_trials: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """Complaints about a record that contradicts itself, the study or the event log; none when it is whole.

    `study_trials` holds {number, state, value, params, user_attrs} of each trial; `value` is None, a number,
    or a list of numbers for several objectives; `confirm_trials` the same of the confirmation's study. A
    phase counts as finished when its last `search` event says `finish`.
    """
    complaints: list[str] = []
    stored = stored_tables(Path(run_dir), complaints)
    merged = merged_rows([table for _, table in stored])
    trials = read_trials(run_dir, complaints).to_pylist()
    complaints += _rows_twice(stored)
    complaints += _rows_lost(merged, acknowledged(Path(run_dir), events))
    rows: dict[tuple[str, int], list[Row]] = {}
    for row in merged.to_pylist():
        rows.setdefault((row["phase"], row["trial"]), []).append(row)
    for phase, studied in (("search", study_trials), ("confirm", confirm_trials)):
        own = [row for row in trials if row["phase"] == phase]
        mine = [event for event in events if phase_of(event) == phase]
        called = "trial" if phase == "search" else "confirm trial"
        complaints += _states_disagree(own, studied, mine, called)
        complaints += _figures_disagree(
            {trial: found for (one, trial), found in rows.items() if one == phase},
            own,
            studied,
            minimise,
            called,
        )
    return complaints


def _rows_twice(stored: Sequence[tuple[Path, pa.Table]]) -> list[str]:
    """A part may repeat rows of epochs.parquet (killed while compacting); nothing else may repeat a row."""
    complaints = []
    for name, paths in (("epochs.parquet", False), ("the parts", True)):
        keys = [
            key for path, table in stored if (path.parent.name == "epochs") == paths for key in keys_of(table)
        ]
        seen: set[Key] = set()
        twice = [key for key in keys if key in seen or seen.add(key)]
        complaints += _named(f"row twice in {name}", twice)
    return complaints


def _rows_lost(merged: pa.Table, acknowledged: Sequence[dict[str, Any]]) -> list[str]:
    """Acknowledged rows that no file holds, or with other values, and trials with a gap in their epochs."""
    where = {key: index for index, key in enumerate(keys_of(merged))}
    promised = table_of(acknowledged, EPOCH_COLUMNS)
    keys = keys_of(promised)
    complaints = _named("acknowledged row missing from Parquet", [key for key in keys if key not in where])
    present = [index for index, key in enumerate(keys) if key in where]
    promised = promised.take(pa.array(present, pa.int64()))
    held = merged.take(pa.array([where[keys[index]] for index in present], pa.int64()))
    for name in promised.column_names:
        ours, theirs = promised[name], held[name] if name in held.column_names else None
        if theirs is None or not ours.equals(theirs):
            theirs = [None] * len(ours) if theirs is None else theirs.to_pylist()
            pairs = zip(present, ours.to_pylist(), theirs, strict=True)  # repr: a NaN is a NaN
            other = [keys[index] for index, a, b in pairs if repr(a) != repr(b)]
            complaints += _named(f"{name} differs from what was reported", other)
    by_trial: dict[tuple[str, int], set[int]] = {}
    for phase, trial, epoch in where:
        by_trial.setdefault((phase, trial), set()).add(epoch)
    for (phase, trial), epochs in sorted(by_trial.items()):
        gap = set(range(1, max(epochs) + 1)) - epochs
        complaints += _named("epoch missing between others", [(phase, trial, epoch) for epoch in sorted(gap)])
    return complaints


def _states_disagree(
    trials: Sequence[Row],
    study_trials: Sequence[Mapping[str, Any]],
    events: Sequence[Mapping[str, Any]],
    called: str,
) -> list[str]:
    """Trials of one phase that one of study, event log and trials.parquet knows otherwise than another."""
    complaints = []
    study = {trial["number"]: trial["state"] for trial in study_trials}
    recorded = {row["trial"]: row["state"] for row in trials}
    finished = [event["what"] for event in events if event["kind"] == "search"][-1:] == ["finish"]
    if len(recorded) != len(trials):
        complaints.append(f"trials.parquet: a {called} has two rows")
    ended: dict[int, str] = {}
    for event in events:
        number = event.get("trial")
        if event["kind"] == "finished":
            if ended.setdefault(number, event["state"]) != event["state"]:
                again = f"finished as {ended[number]} and again as {event['state']}"
                complaints.append(f"{called} {number}: {again}")
        elif event["kind"] == "started" and number in ended:
            again = f"was started again after it had finished as {ended[number]}"
            complaints.append(f"{called} {number}: {again}")
    for number in sorted(study.keys() | recorded.keys() | ended.keys()):
        state, row, last = study.get(number), recorded.get(number), ended.get(number)
        if state is None:
            complaints.append(f"{called} {number}: is recorded, but the study does not have it")
        elif finished and state not in ENDED:
            complaints.append(f"{called} {number}: is {state} in the study of a finished run")
        elif last is not None and last != state:
            complaints.append(f"{called} {number}: finished as {last}, but is {state} in the study")
        elif (finished or row in ENDED) and row != state:
            complaints.append(
                f"{called} {number}: is {row or 'absent'} in trials.parquet, but {state} in the study"
            )
    return complaints


def _figures_disagree(
    epochs: Mapping[int, Sequence[Row]],
    trials: Sequence[Row],
    study_trials: Sequence[Mapping[str, Any]],
    minimise: Collection[str],
    called: str,
) -> list[str]:
    """Counts of epochs and values that one phase's rows of epochs.parquet do not give again."""
    complaints = []
    values = {trial["number"]: trial["value"] for trial in study_trials}
    for number in sorted(epochs.keys() - {row["trial"] for row in trials} - values.keys()):
        complaints.append(
            f"{called} {number}: has {len(epochs[number])} epochs, but the study does not have it"
        )
    for row in trials:
        own, place = epochs.get(row["trial"], []), f"{called} {row['trial']}"
        if row["state"] in ENDED and (row["epochs"] or 0) != len(own):
            complaints.append(
                f"{place}: trials.parquet counts {row['epochs']} epochs, epochs.parquet has {len(own)}"
            )
        if row["state"] != "COMPLETE":
            continue
        names = [name.removeprefix("objective.") for name in row if name.startswith("objective.")]
        shown = [row["objective"], *(row[f"objective_{index}"] for index in range(1, len(names)))]
        again = summarise(own, names, minimise) if own and names else {}
        tested = [name for name in row if name.startswith("test.")]
        for name in ["objective", "best_epoch", *(f"objective.{name}" for name in names), *tested]:
            needed = name not in tested
            if repr(row[name]) != repr(again.get(name)) or (needed and row[name] is None):
                complaints.append(f"{place}: {name} is {row[name]}, its rows give {again.get(name)}")
        told = values.get(row["trial"])
        if told is not None and list(told if isinstance(told, (list, tuple)) else [told]) != shown:
            complaints.append(f"{place}: objective is {shown} in trials.parquet, {told} in the study")
    return complaints


def _named(complaint: str, keys: Sequence[Key]) -> list[str]:
    """One line for all rows of which the same is to be said, the first few by name."""
    if not keys:
        return []
    rows = "; ".join(f"{phase} trial {trial} epoch {epoch}" for phase, trial, epoch in keys[:SHOWN])
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return [f"{complaint}: {rows}{more}"]
