"""The verdict on a trial, computed again from what is stored: by the rules that judged its rows, and for the
pruners by replaying the order in which all trials' rows arrived. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from search.record import rows_from_events, summarise
from search.run import COMPLETED, FULL_RESULT, HARMLESS_AT_THE_END
from search.space import Space
from search.stopping import Verdict

__all__ = [
    "ENDED",
    "Evidence",
    "Halving",
    "NO_VALUE",
    "Row",
    "is_finite",
    "recomputed",
    "replay_halving",
    "replay_median",
    "sign_of",
]

Row = Mapping[str, Any]

ENDED = ("COMPLETE", "PRUNED", "FAIL")
NO_VALUE = "no_finite_objective"
MEDIAN_STARTUP_TRIALS = 5  # as `search.study` builds the pruner


@dataclass(frozen=True)
class Evidence:
    """What is stored about a run's trials.

    Attributes:
        trials: by number {trial, state, reason, numbers, preset, seed, retries, engine, error, value,
            best_epoch, epochs, recorded_epochs, settings}; `settings` holds the searched parameters that are
            in force, `epochs` counts the rows that are stored and `recorded_epochs` those at the end.
        epochs: each trial's rows in order, as `search.stopping` reads them.
        events: the run's log; its order is the order in which rows were judged.
        rungs: trial -> rung -> the value that Optuna's successive halving kept for it; None: not known.
        running: whether a search works on the run now.
    """

    trials: Mapping[int, Row]
    epochs: Mapping[int, Sequence[Row]]
    events: Sequence[Mapping[str, Any]]
    rungs: Mapping[int, Mapping[int, float]] | None = None
    running: bool = False


class Halving(NamedTuple):
    """One judgement of successive halving: `place` of `reached` trials by then, of which `kept` go on."""

    trial: int
    epoch: int
    rung: int
    value: float
    place: int
    reached: int
    kept: int
    needed: float
    goes_on: bool


def recomputed(number: int, evidence: Evidence, space: Space) -> Verdict | None:
    """The verdict on a trial after its last stored row, by the rules as `Run` applies them; None: it goes on.

    Its numbers are those that are recorded with the end.
    """
    rows = evidence.epochs.get(number, ())
    if not rows:
        return None
    verdict, spent = space.stop.verdict(rows), len(rows) >= space.budget.epochs
    if verdict is not None and spent and verdict.rule in HARMLESS_AT_THE_END:
        verdict = None
    if verdict is None and spent:
        verdict = Verdict(COMPLETED, COMPLETED)
    if verdict is None:
        return _pruned(number, evidence, space)
    parts = verdict.reason.removeprefix("all(").rstrip(")").split("+")
    if set(parts) <= FULL_RESULT:
        found = summarise(rows, space.objectives, minimised(space))
        if any(found[f"objective.{name}"] is None for name in space.objectives):
            return Verdict(verdict.rule, NO_VALUE, verdict.numbers)
    return verdict


def replay_halving(evidence: Evidence, space: Space) -> list[Halving]:
    """Every judgement of successive halving in a run, in the order in which the rows arrived.

        kept = max(reached // reduction, 1);  goes on if no worse than the kept-th best of those that reached

    Rung r is reached at the first epoch >= min_epochs * reduction^r with a finite value. Presets are not
    judged and do not compete; neither does a row with which another rule ended its trial.

    Source: asynchronous successive halving (Li et al. 2020) as optuna 4 implements it, where the first
    `reduction - 1` trials at a rung go on only when they are the best so far.
    """
    prune, column, sign = space.stop.prune, f"val.{space.objectives[0]}", sign_of(space)
    values: dict[int, list[float]] = {}
    passed: dict[int, int] = {}
    found = []
    for row in rows_from_events(evidence.events):
        number, rung = row["trial"], passed.get(row["trial"], 0)
        if not _competes(row, evidence) or not is_finite(row[column]):
            continue
        while row["epoch"] >= prune["min_epochs"] * prune["reduction"] ** rung:
            at_rung = values.setdefault(rung, [])
            at_rung.append(row[column])
            kept = max(len(at_rung) // prune["reduction"], 1)
            needed = sorted(at_rung, key=lambda value: -sign * value)[kept - 1]
            place = 1 + sum(sign * value > sign * row[column] for value in at_rung)
            goes_on = sign * row[column] >= sign * needed
            found.append(
                Halving(number, row["epoch"], rung, row[column], place, len(at_rung), kept, needed, goes_on)
            )
            rung += 1
            passed[number] = rung
            if not goes_on:
                break
    return found


def replay_median(number: int, evidence: Evidence, space: Space) -> dict[str, Any] | None:
    """What the median pruner compared after the trial's last row; None where it compares nothing.

    A trial's best value so far against the median, over the trials that were COMPLETE by then, of their
    values at the same epoch; only from `min_epochs` on and once five trials are complete.
    """
    column, sign = f"val.{space.objectives[0]}", sign_of(space)
    last = max((row["epoch"] for row in evidence.epochs.get(number, ())), default=0)
    complete: list[int] = []
    for event in evidence.events:
        if event["kind"] == "finished" and event["state"] == "COMPLETE":
            complete.append(event["trial"])
        if event["kind"] == "reported" and (event["row"]["trial"], event["row"]["epoch"]) == (number, last):
            break
    own = [row for row in evidence.epochs.get(number, ()) if is_finite(row[column])]
    if len(complete) < MEDIAN_STARTUP_TRIALS or not own:
        return None
    epoch = own[-1]["epoch"]
    rows = [row for other in complete for row in evidence.epochs.get(other, ()) if row["epoch"] == epoch]
    compared = sorted(row[column] for row in rows if is_finite(row[column]))
    if epoch < space.stop.prune["min_epochs"] or not compared:
        return None
    below, above = compared[(len(compared) - 1) // 2], compared[len(compared) // 2]
    median, best = below + (above - below) / 2, max((row[column] for row in own), key=lambda v: sign * v)
    return {
        "epoch": epoch,
        "best": best,
        "median": median,
        "compared": len(compared),
        "complete": len(complete),
        "goes_on": sign * best >= sign * median,
    }


def _competes(row: Row, evidence: Evidence) -> bool:
    """Whether the pruner was asked about the trial after this row."""
    trial = evidence.trials.get(row["trial"])
    if trial is None or trial["preset"]:
        return False
    if trial["state"] not in ENDED or row["epoch"] < evidence.epochs[row["trial"]][-1]["epoch"]:
        return True
    by_fault = trial["state"] == "FAIL" and trial["reason"] != NO_VALUE  # came after the row was judged
    return by_fault or trial["reason"] == "successive_halving"


def _pruned(number: int, evidence: Evidence, space: Space) -> Verdict | None:
    prune, rows = space.stop.prune, evidence.epochs[number]
    if prune is None or len(space.objectives) > 1 or evidence.trials[number]["preset"]:
        return None
    last = rows[-1]
    if prune["rule"] == "successive_halving":
        judged = [one for one in replay_halving(evidence, space) if one.trial == number]
        ends = bool(judged) and judged[-1].epoch == last["epoch"] and not judged[-1].goes_on
    else:
        compared = replay_median(number, evidence, space)
        ends = compared is not None and not compared["goes_on"]
    value = last[f"val.{space.objectives[0]}"]
    return Verdict(prune["rule"], prune["rule"], {"epoch": last["epoch"], "value": value}) if ends else None


def sign_of(space: Space) -> float:
    return 1.0 if space.directions[0] == "maximize" else -1.0


def minimised(space: Space) -> list[str]:
    return [name for name, way in zip(space.objectives, space.directions, strict=True) if way == "minimize"]


def is_finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)
