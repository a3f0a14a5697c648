"""Why a trial ended as it did, as plain values: its end, its settings, its curves, its warnings. Pure.

    Evidence (trials, epochs, events, rungs) ──► explain() ──► facts; `explain_lines` words them

Nothing is taken on trust: the verdict is computed again from the stored rows by the rules that judged them
(`search.stopping`), pruning from the order in which rows arrived, and both are compared with what the study
recorded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from search.parameters import Parameter, same
from search.replay import (
    ENDED,
    NO_VALUE,
    Evidence,
    Row,
    is_finite,
    recomputed,
    replay_halving,
    replay_median,
    sign_of,
)
from search.run import COMPLETED
from search.space import Space
from search.stopping import Group, Rule, Verdict, diverged
from trainables.schedules import weight_at

__all__ = ["best_trial", "explain", "setting_distance"]

NEAR = 0.1  # of a range: settings closer than this are called near (ours)
RISE = 0.1  # of its lowest value: how far a validation loss may rise before it is warned of (ours)
MOVING = ("delayed", "linear", "cyclical")  # schedules that have a full weight to reach
LOSSES = ("train.loss", "val.loss")


def explain(number: int, evidence: Evidence, space: Space) -> dict[str, Any]:
    """Everything that `loss-search explain` says about one trial, as plain values.

    Raises KeyError for a number that no trial has.
    """
    trial, rows = evidence.trials[number], evidence.epochs.get(number, ())
    sign, end = sign_of(space), _end(trial, rows, evidence, space)
    valued = [other for other in evidence.trials.values() if is_finite(other["value"])]
    rank = None
    if is_finite(trial["value"]):
        rank = 1 + sum(sign * other["value"] > sign * trial["value"] for other in valued)
    about = ("trial", "preset", "seed", "state", "reason", "epochs", "value", "best_epoch")
    return {
        **{name: trial[name] for name in about},
        "budget": space.budget.epochs,
        "objective": space.objectives[0],
        "objectives": list(space.objectives),
        "direction": space.directions[0],
        "rank": rank,
        "ranked": len(valued),
        "running": evidence.running,
        "end": end,
        "best": _against_best(trial, evidence, space),
        "nearest_better": _nearest_better(trial, valued, space),
        "curves": _curves(rows, space),
        "weights": _weights(rows, space),
        "active": _active(rows, space),
        "collapse": _collapse(rows, space),
        "warnings": _warnings(trial, rows, end, space),
    }


# ---------------------------------------------------------------------- the end


def _end(trial: Row, rows: Sequence[Row], evidence: Evidence, space: Space) -> dict[str, Any]:
    """The recorded end, the one computed again, whether they agree (None: nothing to compare), and each rule
    with its settings and what it saw."""
    verdict = recomputed(trial["trial"], evidence, space)
    again = None
    if verdict is not None:
        again = {"reason": verdict.reason, "numbers": _without_nan(verdict.numbers)}
    recorded = {"reason": trial["reason"], "numbers": _without_nan(trial["numbers"] or {})}
    agrees = None
    if trial["state"] in ENDED and rows and len(rows) == trial["recorded_epochs"]:
        by_fault = trial["state"] == "FAIL" and trial["reason"] != NO_VALUE
        agrees = verdict is None if by_fault else again == recorded
    return {
        "recorded": recorded,
        "recorded_epochs": trial["recorded_epochs"],
        "recomputed": again,
        "agrees": agrees,
        "rules": _rules_seen(trial, rows, verdict, evidence, space),
        "error": trial["error"],
        "retries": trial["retries"] or 0,
        "next_rung": _next_rung(trial, space),
    }


def _rules_seen(
    trial: Row, rows: Sequence[Row], verdict: Verdict | None, evidence: Evidence, space: Space
) -> list[dict[str, Any]]:
    reason = verdict.reason if verdict is not None else trial["reason"]
    if reason in ("successive_halving", "median"):
        return [_pruning(trial, reason, evidence, space)]
    if verdict is None:
        return []
    if diverged(rows):
        return [{"rule": "diverged", "settings": {}, **_not_finite(rows, space)}]
    if verdict.rule == COMPLETED:
        late = space.stop.verdict(rows)
        return [{"rule": COMPLETED, "settings": {}, "also": None if late is None else late.reason}]
    fired = next((rules for member in space.stop.rules if (rules := _fired(member, rows))), [])
    return [{"rule": rule.name, "settings": dict(rule.settings), **_seen(rule, rows)} for rule in fired]


def _fired(member: Rule | Group, rows: Sequence[Row]) -> list[Rule]:
    """The rules of `member` that ended the trial; none when it did not."""
    if member.verdict(rows) is None:
        return []
    if isinstance(member, Rule):
        return [member]
    each = [rules for inner in member.members if (rules := _fired(inner, rows))]
    return each[0] if member.join == "any" else [rule for rules in each for rule in rules]


def _seen(rule: Rule, rows: Sequence[Row]) -> dict[str, Any]:
    """The numbers that a rule saw after the last of `rows`."""
    given, numbers = rule.settings, rule.verdict(rows).numbers
    if rule.name == "plateau":
        pairs = zip(given["metrics"], given["maximise"], strict=True)
        return {
            "metrics": {name: _levelled(name, up, given["patience"], numbers, rows) for name, up in pairs}
        }
    if rule.name == "collapse":
        return {"kinds": {kind: {"run": run, "epochs": _shown(rows, kind)} for kind, run in numbers.items()}}
    if rule.name == "target":
        last = [row[f"val.{given['metric']}"] for row in rows[-given["patience"] :]]
        return {"values": last, "epoch": rows[-1]["epoch"]}
    return {"seconds": numbers["seconds"], "epoch_seconds": numbers["seconds"] / len(rows)}


def _levelled(
    name: str, up: bool, patience: int, numbers: Mapping[str, float], rows: Sequence[Row]
) -> dict[str, Any]:
    """`gain`: by how much the best of the last `patience` epochs beats the value that counted last."""
    best = numbers[f"{name}.best"]
    late = [row[f"val.{name}"] for row in rows[-patience:] if is_finite(row[f"val.{name}"])]
    found = {key: numbers[f"{name}.{key}"] for key in ("best", "best_epoch", "waited")}
    reached = max(late, key=lambda value: value if up else -value, default=math.nan)
    return {**found, "reached": reached, "gain": reached - best if up else best - reached}


def _not_finite(rows: Sequence[Row], space: Space) -> dict[str, Any]:
    """The figures that the divergence broke: not finite in the last row, finite before or never optional."""
    optional = {
        f"{split}.{name}"
        for name, metric in space.family.metrics.items()
        for split in ("train", "val")
        if metric.optional
    }
    before = [name for row in rows[:-1] for name, value in row.items() if _broken(value)]
    figures = [
        name
        for name, value in rows[-1].items()
        if _broken(value) and name not in optional | set(before) and not name.startswith("collapsed.")
    ]
    return {"epoch": rows[-1]["epoch"], "figures": figures}


def _pruning(trial: Row, rule: str, evidence: Evidence, space: Space) -> dict[str, Any]:
    """What the pruner compared; `exact` tells whether the study's own record bears it out."""
    prune = space.stop.prune
    found: dict[str, Any] = {"rule": rule, "settings": dict(prune or {}), "exact": False}
    if prune is None or prune["rule"] != rule or not evidence.epochs.get(trial["trial"]):
        return found
    if rule == "median":
        seen = replay_median(trial["trial"], evidence, space)
        return found | (seen or {}) | {"exact": seen is not None and not seen["goes_on"]}
    judged = replay_halving(evidence, space)
    own = [one for one in judged if one.trial == trial["trial"]]
    if not own:
        return found
    last = own[-1]
    rivals = [one for one in judged[: judged.index(last) + 1] if one.rung == last.rung]
    stored = evidence.rungs
    kept = stored is None or all(stored.get(one.trial, {}).get(one.rung) == one.value for one in rivals)
    passed = [{"epoch": one.epoch, "place": one.place, "reached": one.reached} for one in own[:-1]]
    facts = last._asdict()
    del facts["trial"]
    return found | facts | {"exact": kept and not last.goes_on, "passed": passed}


def _next_rung(trial: Row, space: Space) -> int | None:
    """The epoch at which successive halving judges next; None when it never does."""
    prune = space.stop.prune
    if prune is None or prune["rule"] != "successive_halving" or trial["preset"] or trial["state"] in ENDED:
        return None
    epoch = prune["min_epochs"]
    while epoch <= trial["epochs"]:
        epoch *= prune["reduction"]
    return epoch if epoch < space.budget.epochs else None


# ---------------------------------------------------------------------- settings


def best_trial(trials: Sequence[Row], space: Space) -> Row | None:
    """The best COMPLETE trial, or the best of any state while none is, as the end of a search names it."""
    valued = [trial for trial in trials if is_finite(trial["value"])]
    complete = [trial for trial in valued if trial["state"] == "COMPLETE"]
    return max(complete or valued, key=lambda trial: sign_of(space) * trial["value"], default=None)


def setting_distance(parameter: Parameter, one: Any, other: Any) -> float:
    """How far two values of a searched parameter lie apart, from 0 (equal) to 1.

    The share of its range that lies between them, of the logarithm's where that is drawn uniformly. Words are
    equal or not; in force (a value) against not in force (None) is 1.
    """
    if one is None or other is None:
        return float(one is not other)
    if parameter.kind == "choice":
        return float(not same(one, other))
    scale = math.log if parameter.log else float
    low, high = scale(parameter.low), scale(parameter.high)
    return min(abs(scale(one) - scale(other)) / (high - low), 1.0) if high > low else 0.0


def _against_best(trial: Row, evidence: Evidence, space: Space) -> dict[str, Any] | None:
    """The settings that differ from the best trial's, or from the next best's where this is the best."""
    trials = list(evidence.trials.values())
    best = best_trial(trials, space)
    is_best = best is not None and best["trial"] == trial["trial"]
    if is_best:
        best = best_trial([other for other in trials if other is not best], space)
    if best is None or trial["state"] == "WAITING":
        return None
    return {**_named(best), "is_best": is_best, "differs": _differences(trial, best, space)}


def _nearest_better(trial: Row, valued: Sequence[Row], space: Space) -> dict[str, Any] | None:
    """Of the trials that did better, the one with the most settings equal or near; None when none did."""
    sign, mine = sign_of(space), trial["value"] if is_finite(trial["value"]) else None
    better = [
        other
        for other in valued
        if other["trial"] != trial["trial"] and (mine is None or sign * other["value"] > sign * mine)
    ]
    if not better or not trial["settings"]:
        return None

    def apart(other: Row) -> list[float]:
        return [
            setting_distance(parameter, trial["settings"].get(name), other["settings"].get(name))
            for name, parameter in space.searched().items()
            if name in trial["settings"] or name in other["settings"]
        ]

    def order(other: Row) -> tuple[float, float, float]:
        distances = apart(other)
        near = sum(distance <= NEAR for distance in distances) / len(distances)
        return -near, math.fsum(distances) / len(distances), -sign * other["value"]

    nearest = min(better, key=order)
    distances = apart(nearest)
    near = sum(distance <= NEAR for distance in distances)
    return {
        **_named(nearest),
        "near": near,
        "settings": len(distances),
        "differs": _differences(trial, nearest, space),
    }


def _named(trial: Row) -> dict[str, Any]:
    return {name: trial[name] for name in ("trial", "preset", "state", "reason", "value", "best_epoch")}


def _differences(trial: Row, other: Row, space: Space) -> list[dict[str, Any]]:
    """The searched settings that differ: None where one is not in force, `near` within a tenth of the
    range."""
    found = []
    for name, parameter in space.searched().items():
        mine, theirs = trial["settings"].get(name), other["settings"].get(name)
        if (mine is None) == (theirs is None) and (mine is None or same(mine, theirs)):
            continue
        near = setting_distance(parameter, mine, theirs) <= NEAR
        found.append({"setting": name, "this": mine, "other": theirs, "near": near})
    return found


# ---------------------------------------------------------------------- curves


def _curves(rows: Sequence[Row], space: Space) -> list[dict[str, Any]]:
    """The objectives, both losses and every term on both splits; their best is the smallest of a loss."""
    upwards = {f"val.{n}": d == "maximize" for n, d in zip(space.objectives, space.directions, strict=True)}
    terms = [f"{split}.{term}" for term in space.family.terms for split in ("train", "val")]
    found = []
    for name in dict.fromkeys([*upwards, *LOSSES, *terms]):
        values = [row.get(name) for row in rows]
        finite = [(value, row["epoch"]) for value, row in zip(values, rows, strict=True) if is_finite(value)]
        if not finite:
            continue
        up = upwards.get(name, False)
        best, epoch = max(finite, key=lambda pair: pair[0] if up else -pair[0])
        found.append(
            {
                "name": name,
                "first": values[0],
                "best": best,
                "best_epoch": epoch,
                "last": values[-1],
                "values": values,
            }
        )
    return found


def _weights(rows: Sequence[Row], space: Space) -> dict[str, dict[str, float]]:
    """The weight of each term at the end of the first and of the last epoch."""
    columns = {term: f"weight.{term}" for term in space.family.terms}
    return {
        term: {"first": rows[0][column], "last": rows[-1][column]}
        for term, column in columns.items()
        if rows and column in rows[0] and column in rows[-1]
    }


def _active(rows: Sequence[Row], space: Space) -> dict[str, dict[str, Any]]:
    """The examples that took part, of the terms in which once none did."""
    found = {}
    for term in space.family.terms:
        counts = [row[f"active.{term}"] for row in rows if is_finite(row.get(f"active.{term}"))]
        if counts and min(counts) == 0:
            epochs = [row["epoch"] for row in rows if row.get(f"active.{term}") == 0]
            found[term] = {"first": counts[0], "last": counts[-1], "most": max(counts), "inactive": epochs}
    return found


def _collapse(rows: Sequence[Row], space: Space) -> dict[str, dict[str, Any]]:
    """For each kind: the family's words for it, the epochs that show it, and those that did not judge it."""
    return {
        kind: {
            "words": words,
            "epochs": _shown(rows, kind),
            "not_judged": [row["epoch"] for row in rows if not is_finite(row.get(f"collapsed.{kind}"))],
        }
        for kind, words in space.family.collapse_kinds.items()
    }


def _shown(rows: Sequence[Row], kind: str) -> list[int]:
    return [row["epoch"] for row in rows if row.get(f"collapsed.{kind}") == 1.0]


# ---------------------------------------------------------------------- warnings


def _warnings(trial: Row, rows: Sequence[Row], end: Row, space: Space) -> list[str]:
    if not rows:
        return []
    return [
        *_drifting_apart(rows),
        *_unpunished_collapse(rows, end, space),
        *_idle_terms(rows, space),
        *_unfinished_schedules(trial, rows, space),
    ]


def _drifting_apart(rows: Sequence[Row]) -> list[str]:
    """The training loss fell while the validation loss rose by more than a tenth of its lowest value."""
    both = [row for row in rows if all(is_finite(row.get(name)) for name in LOSSES)]
    if not both:
        return []
    low, last = min(both, key=lambda row: row["val.loss"]), both[-1]
    rise = last["val.loss"] - low["val.loss"]
    if rise <= RISE * abs(low["val.loss"]) or last["train.loss"] >= low["train.loss"]:
        return []
    return [
        f"training and validation drift apart: since epoch {low['epoch']} val.loss rose from "
        f"{low['val.loss']:.4g} to {last['val.loss']:.4g}, while train.loss fell from "
        f"{low['train.loss']:.4g} to {last['train.loss']:.4g}"
    ]


def _unpunished_collapse(rows: Sequence[Row], end: Row, space: Space) -> list[str]:
    """Collapse in the last row that is not what ended the trial."""
    judged = {
        kind for rule in space.stop.flat() if rule.name == "collapse" for kind in rule.settings["kinds"]
    }
    ended_it = {kind for seen in end["rules"] for kind in seen.get("kinds", ())}
    found = []
    for kind, words in space.family.collapse_kinds.items():
        epochs = _shown(rows, kind)
        if kind in ended_it or rows[-1]["epoch"] not in epochs:
            continue
        why = (
            "it is not what ended the trial" if kind in judged else "no collapse rule of the space judges it"
        )
        found.append(
            f"collapse ({kind}) shows at its last epoch, and in {len(epochs)} of {len(rows)}: {words}; {why}"
        )
    return found


def _idle_terms(rows: Sequence[Row], space: Space) -> list[str]:
    counts = {term: [row.get(f"active.{term}") for row in rows] for term in space.family.terms}
    idle = [term for term, found in counts.items() if all(count == 0 for count in found)]
    return [f"term {term} never had an active example, so its weight changed nothing" for term in idle]


def _unfinished_schedules(trial: Row, rows: Sequence[Row], space: Space) -> list[str]:
    """Terms whose schedule had not once reached the full weight when the trial ended."""
    knobs = space.complete(trial["settings"])
    found = []
    for term in space.family.terms:
        names = ("schedule", "start", "ramp", "cycles")
        given = {name: knobs[f"{term}.{name}"] for name in names if f"{term}.{name}" in knobs}
        weight = knobs.get(f"{term}.weight", 1.0)
        if given.get("schedule") not in MOVING or not weight or trial["state"] not in ENDED:
            continue
        share = max(float(weight_at(row["epoch"] / space.budget.epochs, weight=1.0, **given)) for row in rows)
        if share < 1.0 - 1e-9:
            found.append(
                f"{term}.schedule {given['schedule']} never reached the full {term}.weight {weight:.4g} "
                f"before the trial ended at epoch {rows[-1]['epoch']} of {space.budget.epochs}: at most "
                f"{100 * share:.0f} % of it"
            )
    return found


# ---------------------------------------------------------------------- numbers


def _broken(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _without_nan(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """As `Run.end` records them."""
    return {name: value for name, value in numbers.items() if value == value}
