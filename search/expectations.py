"""What was expected of an experiment, and whether it held. Pure.

An expectation held, did not hold, or there is not enough data: a cell has no run, or a difference is not
clear. It is clear when its 95 % interval over three seeds or more excludes the margin; with fewer seeds, when
it exceeds the margin by more than either curve's fluctuation.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from search.experiment_cells import (
    Cells,
    Claim,
    Experiment,
    MeasuredTrial,
    checked,
    claim_values,
    inserted,
    matches,
    spread,
)
from search.statistics import paired_difference

__all__ = ["HELD", "NOT_ENOUGH", "NOT_HELD", "expectation"]

HELD, NOT_HELD, NOT_ENOUGH = "held", "did not hold", "not enough data"
ENOUGH_SEEDS = 3  # for an interval


def expectation(claim: Claim, cells: Cells, experiment: Experiment) -> dict[str, Any]:
    """The verdict on a claim: it holds when it does in every part, each a cell or a walk along the axis."""
    parts = (
        _bounded_parts(claim, cells, experiment) if claim.order is None else _walks(claim, cells, experiment)
    )
    verdicts = [part["verdict"] for part in parts]
    overall = NOT_ENOUGH if not parts or NOT_ENOUGH in verdicts else HELD
    return {
        **claim_values(claim),
        "verdict": NOT_HELD if NOT_HELD in verdicts else overall,
        "parts": parts,
    }


def _bounded_parts(claim: Claim, cells: Cells, experiment: Experiment) -> list[dict[str, Any]]:
    parts = []
    for key, runs in cells.items():
        check = checked(claim, key, runs, experiment)
        if check is None:
            continue
        holds = check.pop("holds")
        verdict = NOT_ENOUGH if holds is None else HELD if holds else NOT_HELD
        parts.append(
            {"at": dict(zip(experiment.compare, key, strict=True)), "verdict": verdict, "values": [check]}
        )
    return parts


def _walks(claim: Claim, cells: Cells, experiment: Experiment) -> list[dict[str, Any]]:
    """One part for each setting of the other axes: the figure along the axis, and whether it keeps order."""
    index = experiment.compare.index(claim.axis)
    keys = [key for key in cells if key[index] in claim.along and matches(claim, key, experiment)]
    others = dict.fromkeys(key[:index] + key[index + 1 :] for key in keys)
    names = [name for name in experiment.compare if name != claim.axis]
    parts = []
    for other in others or ([()] if not names else []):
        runs = [cells.get(inserted(other, index, value), ()) for value in claim.along]
        steps = [_step(claim, one, two) for one, two in itertools.pairwise(runs)]
        verdicts = [step["verdict"] for step in steps]
        whole = NOT_HELD if NOT_HELD in verdicts else NOT_ENOUGH if NOT_ENOUGH in verdicts else HELD
        values = [
            {"at": value, **spread(some, claim.figure, claim.column)}
            for value, some in zip(claim.along, runs, strict=True)
        ]
        at = dict(zip(names, other, strict=True))
        parts.append({"at": at, "verdict": whole, "values": values, "steps": steps})
    return parts


def _step(claim: Claim, one: Sequence[MeasuredTrial], two: Sequence[MeasuredTrial]) -> dict[str, Any]:
    """The difference from `one` to `two` in the claimed direction, and whether it exceeds the margin.

    `low` to `high`: its interval over the seeds in common, or while these are few, the difference give or
    take what the curves move from one epoch to the next.
    """
    first, second = (
        {run.row.get("seed"): run.figure(claim.figure, claim.column) for run in runs} for runs in (one, two)
    )
    rises = claim.order == "rises"
    paired = paired_difference(second, first, maximize=rises)
    if paired.n >= ENOUGH_SEEDS:
        return _judged(claim, paired.mean, paired.low, paired.high, paired.n)
    means = [spread(runs, claim.figure, claim.column)["mean"] for runs in (one, two)]
    if None in means:
        return {"verdict": NOT_ENOUGH, "gain": None, "low": None, "high": None, "seeds": 0}
    gain = means[1] - means[0] if rises else means[0] - means[1]
    moves = [spread(runs, "fluctuation", claim.column)["mean"] for runs in (one, two)]
    unsure = max((move or 0.0 for move in moves), default=0.0) if claim.figure == "value" else 0.0
    return _judged(claim, gain, gain - unsure, gain + unsure, 1)


def _judged(claim: Claim, gain: float, low: float, high: float, seeds: int) -> dict[str, Any]:
    verdict = HELD if low > claim.by else NOT_HELD if high <= claim.by else NOT_ENOUGH
    return {"verdict": verdict, "gain": gain, "low": low, "high": high, "seeds": seeds}
