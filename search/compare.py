"""Several runs side by side: scores, curves at one budget, configurations in common, differences. Pure.

    Searched (one run: its space, its rows, the order of its epochs) ──► compare() ──► plain values

Runs compare when they have one family and are judged by one metric on the same data; what else differs is
told in warnings. A curve is the best value reported when so many epochs were spent, by trials that had their
whole result in the end (COMPLETE; by any while a run has none): it ends at the run's best.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.comparability import differences, same_data, warnings_of
from search.errors import BadInput, nearest
from search.space import Space
from search.statistics import MISS, is_sure, paired_difference
from search.verdict import conclude

__all__ = ["Searched", "compare", "metric_of"]

Row = Mapping[str, Any]

FRACTIONS = (0.25, 0.5, 1.0)  # of the common budget, at which the curves are read


@dataclass(frozen=True)
class Searched:
    """One run.

    Attributes:
        trials: the rows of trials.parquet, of both phases.
        reported: (trial, epoch, value of the metric) of the search's epochs, in the order of their reports.
        environment: of environment.json.
        word: how it stands; `finished`, and `wanted` trials.
    """

    name: str
    path: str
    space: Space
    trials: Sequence[Row]
    reported: Sequence[tuple[int, int, float]]
    environment: Mapping[str, Any]
    word: str
    finished: bool
    wanted: int

    @property
    def searched(self) -> list[Row]:
        return [row for row in self.trials if (row.get("phase") or "search") == "search"]

    @property
    def confirmed(self) -> list[Row]:
        return [row for row in self.trials if row.get("phase") == "confirm"]

    def best_of_trials(self, sign: float) -> dict[int, tuple[float, int]]:
        """By trial, its best value of the metric and the first epoch that had it."""
        best: dict[int, tuple[float, int]] = {}
        for trial, epoch, value in self.reported:
            if math.isfinite(value) and (trial not in best or sign * value > sign * best[trial][0]):
                best[trial] = (value, epoch)
        return best


def metric_of(spaces: Sequence[Space], asked: str | None) -> tuple[str, float]:
    """The metric by which runs are compared, and 1.0 when higher is better, -1.0 when lower.

    Raises BadInput for a metric that the family does not have or of which no side is better.
    """
    family, metric = spaces[0].family, asked or spaces[0].objectives[0]
    ranked = [name for name, one in family.metrics.items() if one.higher_is_better is not None]
    if metric not in ranked:
        why = "has no better side" if metric in family.metrics else "is no metric of it"
        raise BadInput(
            f"--metric {metric}: {why} ({spaces[0].family_name}); allowed: {', '.join(ranked)}."
            f"{nearest(metric, ranked)}"
        )
    return metric, 1.0 if family.metrics[metric].higher_is_better else -1.0


def compare(runs: Sequence[Searched], metric: str, sign: float) -> dict[str, Any]:
    """Everything that can be said about `runs`, as values that JSON holds.

    Args:
        runs: two or more of one family.
        metric, sign: see `metric_of`.

    Returns:
        family, metric, direction, warnings; `runs` (how each stands, its cost, best trial, best preset and
        confirmed score); `budget` (epochs in common, each run's value at shares of it, and the epochs that
        each needed for a value that all reached) and `curves`; `common` (configurations that several runs
        tried) with `agreement` of each run with the first; `confirmed` (differences of confirmed scores to
        the first run); `differences` of space, data, versions and machine.
    """
    described = [_described(run, metric, sign) for run in runs]
    curves = [_curve(run, sign) for run in runs]
    common, why_none = _in_common(runs, sign)
    return {
        "family": runs[0].space.family_name,
        "metric": metric,
        "direction": "maximize" if sign > 0 else "minimize",
        "warnings": warnings_of(runs, metric),
        "runs": described,
        "budget": _at_budget(curves, sign),
        "curves": curves,
        "common": common,
        "why_none_in_common": why_none,
        "agreement": [_agreement(common, index) for index in range(1, len(runs))],
        "confirmed": _confirmed_differences(runs, described, metric, sign),
        "differences": differences(runs),
    }


# ---------------------------------------------------------------------- each run


def _described(run: Searched, metric: str, sign: float) -> dict[str, Any]:
    rows, best = run.searched, run.best_of_trials(sign)
    states: dict[str, int] = {}
    for row in rows:
        states[row["state"]] = states.get(row["state"], 0) + 1
    ended = sum(count for state, count in states.items() if state in ("COMPLETE", "PRUNED", "FAIL"))
    presets = [row for row in rows if row.get("preset")]
    return {
        "run": run.name,
        "path": run.path,
        "standing": run.word,
        "finished": run.finished,
        "objective": run.space.objectives[0],
        "sampler": run.space.sampler,
        "seed": run.space.seed,
        "trials": {"ended": ended, "wanted": run.wanted, "states": states},
        "epochs": len(run.reported),
        "seconds": sum(row.get("seconds") or 0.0 for row in rows),
        "best": _best(rows, best, run.space, sign),
        "preset": _best(presets, best, run.space, sign),
        "confirmed": _confirmed(run, metric),
    }


def _best(
    rows: Iterable[Row], best: Mapping[int, tuple[float, int]], space: Space, sign: float
) -> dict[str, Any] | None:
    """The best COMPLETE trial, of any state while none is; None without any value."""
    valued = [row for row in rows if row["trial"] in best]
    complete = [row for row in valued if row["state"] == "COMPLETE"]
    row = max(complete or valued, key=lambda row: sign * best[row["trial"]][0], default=None)
    if row is None:
        return None
    value, epoch = best[row["trial"]]
    searched = space.searched()
    settings = {name: _setting(row, name, space) for name in searched}
    return {
        "trial": row["trial"],
        "preset": row.get("preset"),
        "state": row["state"],
        "value": value,
        "epoch": epoch,
        "settings": {name: setting for name, setting in settings.items() if setting is not None},
    }


def _setting(row: Row, name: str, space: Space) -> Any:
    return row.get(f"static.{name}" if name in space.static else f"knob.{name}")


def _confirmed(run: Searched, metric: str) -> dict[str, Any] | None:
    """The configuration that a confirmation recommends, its score on test data and the verdict's sentence.

    None without a confirmation; one that recommends nothing (yet) has no trial, name and score.
    """
    if not run.confirmed:
        return None
    concluded = conclude(run.searched, run.confirmed, run.space)
    chosen = next(
        (one for one in concluded["configurations"] if one["source"] == concluded["recommended"]), {}
    )
    own = metric == run.space.objectives[0]
    score = chosen.get("test") if own else chosen.get("metrics", {}).get(metric)
    return {
        "trial": concluded["recommended"],
        "name": chosen.get("name"),
        "score": score,
        "broken": len(chosen.get("broken", ())),
        "sentence": concluded["sentence"],
        "complete": concluded["complete"],
    }


# ---------------------------------------------------------------------- at one budget


def _curve(run: Searched, sign: float) -> dict[str, Any]:
    """Where the best value so far improved: `epochs` spent by then, and `best`."""
    complete = {row["trial"] for row in run.searched if row["state"] == "COMPLETE"}
    counted = complete & {trial for trial, _, value in run.reported if math.isfinite(value)}
    epochs, best = [], []
    for spent, (trial, _, value) in enumerate(run.reported, start=1):
        if counted and trial not in counted:
            continue
        if math.isfinite(value) and (not best or sign * value > sign * best[-1]):
            epochs.append(spent)
            best.append(value)
    return {"run": run.name, "epochs": epochs, "best": best, "total": len(run.reported)}


def _value_at(curve: Mapping[str, Any], spent: int) -> float | None:
    known = [value for epochs, value in zip(curve["epochs"], curve["best"], strict=True) if epochs <= spent]
    return known[-1] if known else None


def _at_budget(curves: Sequence[Mapping[str, Any]], sign: float) -> dict[str, Any]:
    """The runs at the epochs that all of them spent, and what each paid for what all of them reached."""
    common = min(curve["total"] for curve in curves)
    shares = [max(1, round(share * common)) for share in FRACTIONS] if common else []
    ends = [_value_at(curve, common) for curve in curves]
    target = None if None in ends else min(ends, key=lambda value: sign * value)
    needed = [
        None
        if target is None
        else next(
            epochs
            for epochs, value in zip(curve["epochs"], curve["best"], strict=True)
            if sign * value >= sign * target
        )
        for curve in curves
    ]
    return {
        "epochs": common,
        "at": [
            {"epochs": spent, "values": [_value_at(curve, spent) for curve in curves]} for spent in shares
        ],
        "target": target,
        "needed": needed,
    }


# ---------------------------------------------------------------------- in common


def _in_common(runs: Sequence[Searched], sign: float) -> tuple[list[dict[str, Any]], str | None]:
    """Configurations that at least two runs tried, in the order of the first run; and why there are none."""
    if not all(same_data(run, runs[0]) for run in runs):
        return [], "the runs read other data"
    if len({run.space.budget.epochs for run in runs}) > 1:
        return [], "a trial's full budget differs, and schedules are fractions of it"
    names = list(dict.fromkeys(name for run in runs for name in run.space.parameters))
    found: dict[tuple, list[list[dict[str, Any]]]] = {}
    for index, run in enumerate(runs):
        best = run.best_of_trials(sign)
        for row in run.searched:
            if row["state"] in ("WAITING", "RUNNING"):
                continue
            key = tuple(_setting(row, name, run.space) for name in names)
            value = best.get(row["trial"], (None, None))[0]
            tried = {"trial": row["trial"], "state": row["state"], "seed": row.get("seed"), "value": value}
            found.setdefault(key, [[] for _ in runs])[index].append(tried | {"preset": row.get("preset")})
    shared = {key: tried for key, tried in found.items() if sum(map(bool, tried)) > 1}
    varied = [i for i, _ in enumerate(names) if len({key[i] for key in shared}) > 1]
    configurations = [
        {
            "settings": {names[i]: key[i] for i in varied if key[i] is not None},
            "preset": next((one["preset"] for trials in tried for one in trials if one["preset"]), None),
            "trials": tried,
            "values": [_mean_complete(trials) for trials in tried],
        }
        for key, tried in shared.items()
    ]
    return configurations, None if configurations else "no configuration was tried twice"


def _mean_complete(trials: Sequence[Row]) -> float | None:
    """Mean value of the trials that had their result; a pruned one's is of another budget."""
    values = [one["value"] for one in trials if one["state"] == "COMPLETE" and one["value"] is not None]
    return statistics.fmean(values) if values else None


def _agreement(common: Sequence[Row], index: int) -> dict[str, Any]:
    """How the run at `index` differs from the first on the configurations that both completed."""
    pairs = [(one["values"][0], one["values"][index]) for one in common]
    apart = [other - first for first, other in pairs if first is not None and other is not None]
    return {
        "configurations": len(apart),
        "equal": sum(value == 0 for value in apart),
        "mean": statistics.fmean(apart) if apart else None,
        "sd": statistics.stdev(apart) if len(apart) > 1 else None,
        "low": min(apart, default=None),
        "high": max(apart, default=None),
    }


# ---------------------------------------------------------------------- confirmed scores


def _confirmed_differences(
    runs: Sequence[Searched], described: Sequence[Row], metric: str, sign: float
) -> list[dict[str, Any]]:
    """Of each later run (by its place), how much better its confirmed score is than the first run's.

    Paired where both used the same seeds (runs of one seed do), else Welch's; all intervals together miss in
    5 % at most.
    """
    scores = [_test_scores(run, one["confirmed"], metric) for run, one in zip(runs, described, strict=True)]
    others = [index for index in range(1, len(runs)) if scores[index]]
    if not scores[0]:
        return []
    miss = MISS / max(1, len(others))
    return [{"run": index, "over": 0, **_apart(scores[index], scores[0], sign, miss)} for index in others]


def _apart(
    ours: Mapping[int, float], theirs: Mapping[int, float], sign: float, miss: float
) -> dict[str, Any]:
    """The mean of `ours` over that of `theirs`, positive when better: mean, low, high, `how`, and whether it
    is `sure`."""
    if ours.keys() == theirs.keys():
        paired = paired_difference(ours, theirs, miss=miss, maximize=sign > 0)
        told = {"mean": paired.mean, "low": paired.low, "high": paired.high}
        return {**told, "how": "paired", "sure": is_sure(paired)}
    mean = sign * (statistics.fmean(ours.values()) - statistics.fmean(theirs.values()))
    unknown = {"mean": mean, "low": None, "high": None, "how": "welch", "sure": False}
    without_spread = all(len(set(scores.values())) == 1 for scores in (ours, theirs))
    if min(len(ours), len(theirs)) < 2 or without_spread:
        return unknown
    from scipy import stats

    test = stats.ttest_ind(list(ours.values()), list(theirs.values()), equal_var=False)
    between = test.confidence_interval(1 - miss)
    low, high = sorted(sign * float(end) for end in (between.low, between.high))
    if not math.isfinite(low + high):
        return unknown
    return {**unknown, "low": low, "high": high, "sure": low > 0 or high < 0}


def _test_scores(run: Searched, confirmed: Row | None, metric: str) -> dict[int, float]:
    """By seed, the test scores of the configuration that the run's confirmation recommends."""
    if confirmed is None or confirmed["trial"] is None:
        return {}
    own = [row for row in run.confirmed if row.get("source") == confirmed["trial"]]
    values = {row["seed"]: row.get(f"test.{metric}") for row in own}
    return {seed: value for seed, value in values.items() if value is not None and math.isfinite(value)}
