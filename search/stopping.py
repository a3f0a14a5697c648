"""When a trial ends before its budget: pure rules over its history, and a space's set of them.

A history `rows` has one mapping an epoch, in order: "epoch" (from 1), "val.<metric>", "collapsed.<kind>" (1,
0, or NaN where it was not judged), "diverged", "seconds". A rule that has seen enough returns a Verdict, else
None. `diverged` always holds and comes first; the others are joined by `any`, unless a group says `all`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainables.family import Setting

__all__ = [
    "PRUNE_RULES",
    "Group",
    "Rule",
    "StopRules",
    "Verdict",
    "collapsed",
    "diverged",
    "over_budget",
    "plateaued",
    "rule_settings",
    "target_reached",
]

Rows = Sequence[Mapping[str, float]]

PRUNE_RULES = ("successive_halving", "median", "none")


@dataclass(frozen=True)
class Verdict:
    """Why a trial ends: the rule, the word that is recorded, and the numbers that the rule saw."""

    rule: str
    reason: str
    numbers: Mapping[str, float] = field(default_factory=dict)


def diverged(rows: Rows) -> Verdict | None:
    """The last epoch had a loss or gradient that is not finite."""
    if not rows or not rows[-1].get("diverged", 0.0):
        return None
    return Verdict("diverged", "diverged", {"epoch": rows[-1]["epoch"]})


def plateaued(
    rows: Rows, metric: str, patience: int, min_delta: float, warmup: int, maximise: bool
) -> Verdict | None:
    """No improvement by more than `min_delta` for `patience` epochs after the warm-up.

    Args:
        metric: column that is watched; a NaN is no improvement.
        patience: epochs to wait, >= 1. The first stop is possible after `warmup + patience` epochs.
        min_delta: smallest step, in the metric's unit, that counts, >= 0. It is measured from the last
            value that counted, so slow but steady progress does count once it adds up.
        warmup: first epochs that are not waited through, >= 0; their values do count as the best so far.
        maximise: whether larger is better.
    """
    best, best_at = math.nan, 0
    for number, row in enumerate(rows, 1):
        gain = row[metric] - best if maximise else best - row[metric]
        if gain > min_delta or (math.isnan(best) and not math.isnan(row[metric])):
            best, best_at = row[metric], number
    waited = len(rows) - max(best_at, warmup)
    if waited < patience:
        return None
    return Verdict(
        "plateau", "plateau", {"best": best, "best_epoch": best_at, "waited": waited, "patience": patience}
    )


def collapsed(rows: Rows, warmup: int, patience: int, kinds: Sequence[str]) -> Verdict | None:
    """A kind of collapse was seen in each of the last `patience` epochs, all of them after the warm-up.

    An epoch in which a kind was not judged (NaN or absent) breaks its run. The reason names the first of
    `kinds` that persists, `numbers` all of them with the length of their run. Same law as
    `trainables.collapse.persists`, kept here because that module needs torch and the process that judges has
    none.
    """
    runs = {kind: _run_length(rows[warmup:], f"collapsed.{kind}") for kind in kinds}
    persisting = [kind for kind, length in runs.items() if length >= patience]
    if not persisting:
        return None
    return Verdict("collapse", f"collapse:{persisting[0]}", {kind: runs[kind] for kind in persisting})


def target_reached(rows: Rows, metric: str, target: float, maximise: bool, patience: int) -> Verdict | None:
    """`metric` was at `target` or better in each of the last `patience` epochs. A target of 0 is a target."""
    last = [row[metric] for row in rows[-patience:]]
    reached = [value >= target if maximise else value <= target for value in last]
    if len(last) < patience or not all(reached):
        return None
    return Verdict("target", "target_reached", {"value": last[-1], "target": target})


def over_budget(rows: Rows, seconds: float) -> Verdict | None:
    """The trial's epochs took `seconds` or more of wall time together, evaluation included."""
    spent = math.fsum(row["seconds"] for row in rows)
    return (
        Verdict("time", "over_budget", {"seconds": spent, "allowed": seconds}) if spent >= seconds else None
    )


def _run_length(rows: Rows, column: str) -> int:
    length = 0
    for row in reversed(rows):
        if row.get(column, math.nan) != 1.0:
            break
        length += 1
    return length


@dataclass(frozen=True)
class Rule:
    """One rule with its settings.

    name        settings
    plateau     metrics (all of them must have levelled off), maximise (a bool each), patience, min_delta,
    warmup collapse    warmup, patience, kinds
    target      metric, target, maximise, patience
    time        seconds
    """

    name: str
    settings: Mapping[str, object]

    def verdict(self, rows: Rows) -> Verdict | None:
        given = dict(self.settings)
        if self.name == "collapse":
            return collapsed(rows, **given)
        if self.name == "time":
            return over_budget(rows, **given)
        if self.name == "target":
            return target_reached(rows, **{**given, "metric": f"val.{given['metric']}"})
        assert self.name == "plateau", self.name
        pairs = zip(given.pop("metrics"), given.pop("maximise"), strict=True)
        found = {name: plateaued(rows, metric=f"val.{name}", maximise=up, **given) for name, up in pairs}
        if not all(found.values()):
            return None
        numbers = {
            f"{name}.{key}": value for name, one in found.items() for key, value in one.numbers.items()
        }
        return Verdict("plateau", "plateau", numbers)


@dataclass(frozen=True)
class Group:
    """Rules or groups joined by "any" (the first that fires) or "all" (only when every one does)."""

    join: str
    members: tuple[Rule | Group, ...]

    def verdict(self, rows: Rows) -> Verdict | None:
        found = [member.verdict(rows) for member in self.members]
        fired = [verdict for verdict in found if verdict is not None]
        if self.join == "any":
            return fired[0] if fired else None
        if len(fired) < len(self.members):
            return None
        numbers = {f"{one.rule}.{key}": value for one in fired for key, value in one.numbers.items()}
        return Verdict("all", f"all({'+'.join(one.reason for one in fired)})", numbers)


@dataclass(frozen=True)
class StopRules:
    """What a space's `stop:` section asks for.

    `prune` holds Optuna's pruner for the driver ({"rule", "min_epochs"} and, for successive_halving,
    "reduction"; None: no pruning). `rules` are judged here, in the order target, collapse, plateau, time,
    groups. `by_default` names those (`prune` among them) that are on because the space does not mention them.
    """

    prune: Mapping[str, object] | None
    rules: tuple[Rule | Group, ...]
    by_default: frozenset[str] = field(default=frozenset(), compare=False)

    def verdict(self, rows: Rows) -> Verdict | None:
        """The first rule that ends the trial after the last of `rows`, or None: it goes on."""
        return diverged(rows) or Group("any", self.rules).verdict(rows)

    def flat(self) -> list[Rule]:
        """Every rule, those inside groups included."""

        def walk(members: Sequence[Rule | Group]) -> list[Rule]:
            return [rule for m in members for rule in ([m] if isinstance(m, Rule) else walk(m.members))]

        return walk(self.rules)


@functools.cache
def rule_settings() -> Mapping[str, Mapping[str, Setting]]:
    """The settings of each rule, their defaults and ranges; metrics and collapse kinds are the family's.

    The default prunes late and gently: with one epoch of grace and reduction 4, successive halving lost to
    plain random search on all four tasks that were tried; with four and reduction 3 it did not.
    """
    from trainables.family import Choice, Number

    epochs = {"low": 0, "high": 1_000_000, "integer": True}
    return {
        "prune": {
            "rule": Choice(
                "successive_halving", PRUNE_RULES, "which trials end early, compared with the others"
            ),
            "min_epochs": Number(4, 1, 1_000_000, "epochs before a trial can be pruned", integer=True),
            "reduction": Number(3, 2, 100, "one in so many goes on at each rung", integer=True),
        },
        "plateau": {
            "patience": Number(6, 1, 1_000_000, "epochs without improvement", integer=True),
            "min_delta": Number(0.002, 0.0, 1e9, "smallest improvement that counts, in the metric's unit"),
            "warmup": Number(5, **epochs, help="first epochs that do not count"),
        },
        "collapse": {
            "warmup": Number(5, **epochs, help="first epochs that do not count"),
            "patience": Number(3, 1, 1_000_000, "epochs in a row that show it", integer=True),
        },
        "target": {
            "target": Number(
                math.nan, -1e300, 1e300, "value at which a trial is good enough; has no default"
            ),
            "patience": Number(1, 1, 1_000_000, "epochs in a row at the target", integer=True),
        },
        "time": {"seconds": Number(math.nan, 1.0, 1e9, "wall time of a trial's epochs; has no default")},
    }
