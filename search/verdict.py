"""What a confirmation has shown: rows in, plain values and one sentence out. Pure.

    search rows, confirm rows ──► a configuration each: its seeds' scores, collapses, optimism
                              ──► paired differences to the reference ──► verdict, recommendation

The reference is what one would use without the search: the preset that did best in it, or where there is
none the search's best trial. It is chosen by the search's scores, the verdict made with fresh ones, on the
test split.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from search.statistics import MISS, Scored, is_sure, paired_difference, scored, shared_misses
from search.verdict_lines import configuration_sentence, notes, optimism_sentence, verdict_sentence

if TYPE_CHECKING:
    from search.space import Space

__all__ = ["conclude", "is_clear"]

Row = Mapping[str, Any]

ENDED = ("COMPLETE", "PRUNED", "FAIL")


@dataclass(frozen=True)
class Broken:
    """A seed at which a configuration collapsed or failed: `kind` is the collapse's kind or the reason."""

    seed: int
    trial: int
    what: str  # "collapsed" or "failed"
    kind: str


@dataclass(frozen=True)
class Seeds:
    """One configuration's scores by seed: on the test split, and the objective on the validation split."""

    source: int
    preset: str | None
    test: Mapping[int, float]
    validation: Mapping[int, float]
    broken: tuple[Broken, ...]
    unfinished: tuple[int, ...]
    ended: int
    metrics: Mapping[str, Mapping[int, float]]

    @property
    def name(self) -> str:
        return self.preset or f"trial {self.source}"


def conclude(
    search_rows: Sequence[Row],
    confirm_rows: Sequence[Row],
    space: Space,
    looks: Sequence[int] | None = None,
) -> dict[str, Any]:
    """What the confirmed configurations are worth, as values that JSON holds.

    Args:
        search_rows, confirm_rows: rows of trials.parquet of either phase, as `to_pylist` gives them. A score
            is `test.<objective>`; `source` says which search trial a row repeats.
        space: for the objectives, directions and presets.
        looks: the numbers of seeds at which the verdict was, or would have been, looked at to decide whether
            to go on (see `is_clear`); None: as `space.confirm` says, one look unless it has `max_seeds`.

    Returns:
        objective, direction, seeds (all that were used), miss, reference, recommended (source trials, or
        None), verdict ("better", "worse", "unclear", "unknown"), clear (nothing is gained by more seeds),
        complete, sentence, optimism (of the search's best), notes (sentences), and `configurations`, best in
        the search first. Each of those has source, preset, name, search (its score there), seeds, test,
        validation and metrics (`Scored` as mappings), broken (seeds that collapsed or failed), missing,
        difference (to the reference, positive is better: `Scored`, its interval holding for all comparisons
        and looks together, as the verdict needs it; alone_low and alone_high for this one only), verdict,
        optimism and a sentence.
    """
    maximize = space.directions[0] == "maximize"
    sign = 1.0 if maximize else -1.0
    found = {row["trial"]: row for row in search_rows if row.get("phase", "search") == "search"}
    seeds = _by_configuration(confirm_rows, space, found, sign)
    planned = sorted({row["seed"] for row in confirm_rows})
    reference = _reference(seeds)
    compared = _compared(seeds, reference, looks or _looks(space), maximize)
    bounds = _bounds(space)
    configurations = [
        {**_described(one, found.get(one.source), planned, bounds, sign), **plain}
        for one, plain in zip(seeds, compared, strict=True)
    ]
    result: dict[str, Any] = {
        "objective": space.objectives[0],
        "direction": space.directions[0],
        "seeds": planned,
        "miss": MISS,
        "reference": None if reference is None else reference.source,
        **_decided(compared, reference),
        "complete": bool(seeds) and not any(one.unfinished for one in seeds),
        "configurations": configurations,
    }
    for plain in configurations:
        plain["sentence"] = configuration_sentence(plain, result)
    result["sentence"] = verdict_sentence(result)
    first = next((plain for plain in configurations if plain["optimism"]), None)
    result["optimism"] = first and {**first["optimism"], "source": first["source"]}
    result["optimism_sentence"] = optimism_sentence(first)
    result["notes"] = notes(result)
    return result


def is_clear(
    search_rows: Sequence[Row], confirm_rows: Sequence[Row], space: Space, looks: Sequence[int]
) -> bool:
    """Whether more seeds are not needed for a verdict, when asked at each number of seeds in `looks`.

    It is clear when a configuration that breaks no more often than the reference beats it, or when all are
    worse. Asking at several numbers of seeds is paid for: see `search.statistics.shared_misses`.
    """
    maximize = space.directions[0] == "maximize"
    found = {row["trial"]: row for row in search_rows if row.get("phase", "search") == "search"}
    seeds = _by_configuration(confirm_rows, space, found, 1.0 if maximize else -1.0)
    reference = _reference(seeds)
    return _decided(_compared(seeds, reference, looks, maximize), reference)["clear"]


# ---------------------------------------------------------------------- rows


def _by_configuration(
    confirm_rows: Sequence[Row], space: Space, found: Mapping[int, Row], sign: float
) -> list[Seeds]:
    """Each source's seeds, the source that did best in the search first, those without a score last."""
    by_source: dict[int, list[Row]] = {}
    for row in sorted(confirm_rows, key=lambda row: row["trial"]):
        by_source.setdefault(row["source"], []).append(row)
    objective = space.objectives[0]

    def rank(source: int) -> tuple[bool, float, int]:
        value = _number(found.get(source, {}).get("objective"))
        return value is None, -sign * (value or 0.0), source

    return [_seeds(source, by_source[source], objective) for source in sorted(by_source, key=rank)]


def _seeds(source: int, rows: Sequence[Row], objective: str) -> Seeds:
    ended = [row for row in rows if row["state"] in ENDED]
    scores = {
        row["seed"]: value for row in ended if (value := _number(row.get(f"test.{objective}"))) is not None
    }
    names = sorted({name for row in ended for name in row if name.startswith("test.")})
    return Seeds(
        source=source,
        preset=next((row["preset"] for row in rows if row.get("preset")), None),
        test=scores,
        validation={
            row["seed"]: value for row in ended if (value := _number(row.get("objective"))) is not None
        },
        broken=tuple(broken for row in ended if (broken := _broken(row, row["seed"] in scores)) is not None),
        unfinished=tuple(row["seed"] for row in rows if row["state"] not in ENDED),
        ended=len({row["seed"] for row in ended}),
        metrics={
            name.removeprefix("test."): {
                row["seed"]: value for row in ended if (value := _number(row.get(name))) is not None
            }
            for name in names
        },
    )


def _broken(row: Row, has_score: bool) -> Broken | None:
    """How a row's training broke down; None when it did not."""
    reason = row.get("stop_reason") or ""
    kinds = [
        name.removeprefix("collapsed.")
        for name, flag in row.items()
        if name.startswith("collapsed.") and flag
    ]
    if reason.startswith("collapse:"):
        kinds = [reason.removeprefix("collapse:"), *kinds]
    if kinds:
        return Broken(row["seed"], row["trial"], "collapsed", kinds[0])
    if reason == "diverged" or row["state"] == "FAIL" or not has_score:
        return Broken(row["seed"], row["trial"], "failed", "no score" if reason == "completed" else reason)
    return None


def _reference(seeds: Sequence[Seeds]) -> Seeds | None:
    """The first preset, else the first of several configurations, by the search's score; with test scores."""
    measured = [one for one in seeds if one.test]
    preset = next((one for one in measured if one.preset), None)
    return preset or (measured[0] if len(seeds) > 1 and measured else None)


def _described(
    one: Seeds, found: Row | None, planned: Sequence[int], bounds: tuple[float, float] | None, sign: float
) -> dict[str, Any]:
    """A configuration's own figures."""
    return {
        "source": one.source,
        "preset": one.preset,
        "name": one.name,
        "search": None if found is None else _number(found.get("objective")),
        "seeds": sorted(one.test),
        "test": scored(one.test.values(), bounds=bounds)._asdict(),
        "validation": scored(one.validation.values(), bounds=bounds)._asdict(),
        "metrics": {name: scored(values.values())._asdict() for name, values in one.metrics.items()},
        "broken": [asdict(broken) for broken in one.broken],
        "unfinished": list(one.unfinished),
        "missing": sorted(set(planned) - set(one.test) - set(one.unfinished)),
        "optimism": _optimism(one, found, sign),
    }


def _optimism(one: Seeds, found: Row | None, sign: float) -> dict[str, Any] | None:
    """By how much the search's score was too good, positive when it was.

        total = search - test = (search - validation) + (validation - test) = seed luck + split difference

    with the means over the fresh seeds that have both scores; the signs turned when the score is minimised.
    """
    both = sorted(one.test.keys() & one.validation.keys())
    search = None if found is None else _number(found.get("objective"))
    if search is None or not both:
        return None
    validation = math.fsum(one.validation[seed] for seed in both) / len(both)
    test = math.fsum(one.test[seed] for seed in both) / len(both)
    luck = scored(sign * (search - one.validation[seed]) for seed in both)
    return {
        "search": search,
        "total": sign * (search - test),
        "seed_luck": sign * (search - validation),
        "seed_luck_low": luck.low,
        "seed_luck_high": luck.high,
        "split_difference": sign * (validation - test),
        "validation": validation,
        "test": test,
        "n": len(both),
    }


# ---------------------------------------------------------------------- decisions


def _looks(space: Space) -> Sequence[int]:
    """The numbers of seeds at which an adaptive confirmation looks; none when it is not adaptive."""
    confirm = space.confirm or {}
    if confirm.get("max_seeds", 0) > confirm.get("seeds", 0):
        return range(max(2, confirm["seeds"]), confirm["max_seeds"] + 1)
    return ()


def _miss_of(seeds: Sequence[Seeds], looks: Sequence[int], comparisons: int) -> float:
    """What each difference's interval may miss at the present number of seeds."""
    present = max((one.ended for one in seeds), default=0)
    misses = shared_misses(looks or [max(2, present)], comparisons)
    return next((miss for look, miss in sorted(misses.items()) if look >= present), misses[max(misses)])


def _compared(
    seeds: Sequence[Seeds], reference: Seeds | None, looks: Sequence[int], maximize: bool
) -> list[dict[str, Any]]:
    """For each configuration: source, sound (it breaks no more often), difference and verdict."""
    others = [one for one in seeds if one is not reference]
    miss = _miss_of(seeds, looks, len(others))
    compared = []
    for one in seeds:
        plain: dict[str, Any] = {"source": one.source, "difference": None, "verdict": None}
        if reference is not None and one is not reference:
            over = paired_difference(one.test, reference.test, miss=miss, maximize=maximize)
            alone = paired_difference(one.test, reference.test, maximize=maximize)
            plain["sound"] = len(one.broken) <= len(reference.broken)
            plain["difference"] = {
                "over": reference.source,
                **over._asdict(),
                "alone_low": alone.low,
                "alone_high": alone.high,
            }
            plain["verdict"] = _judged(over)
        compared.append({"measured": bool(one.test), **plain})
    return compared


def _judged(difference: Scored) -> str:
    if difference.low is None:
        return "unknown"
    if not is_sure(difference):
        return "unclear"
    return "better" if difference.mean > 0 else "worse"


def _decided(compared: Sequence[Mapping[str, Any]], reference: Seeds | None) -> dict[str, Any]:
    """verdict, subject (the configuration that the sentence is about), recommended and clear."""
    if reference is None:
        source = next((plain["source"] for plain in compared if plain["measured"]), None)
        return {"verdict": "unknown", "subject": source, "recommended": source, "clear": source is not None}
    others = [plain for plain in compared if plain["source"] != reference.source]
    compared = [plain for plain in others if plain["difference"]["n"]]
    best = max(
        compared,
        key=lambda plain: (plain["verdict"] != "unknown", plain["difference"]["mean"]),
        default=None,
    )
    winners = [plain for plain in compared if plain["verdict"] == "better"]
    winner = max(
        (plain for plain in winners if plain["sound"]),
        key=lambda plain: plain["difference"]["mean"],
        default=None,
    )
    if winner is not None:
        source = winner["source"]
        return {"verdict": "better", "subject": source, "recommended": source, "clear": True}
    kept = {"recommended": reference.source, "subject": best and best["source"]}
    if winners:
        subject = max(winners, key=lambda plain: plain["difference"]["mean"])["source"]
        return {**kept, "verdict": "broken", "subject": subject, "clear": False}
    if not compared or all(plain["verdict"] == "unknown" for plain in compared):
        return {**kept, "verdict": "unknown", "clear": False}
    worse = all(plain["verdict"] == "worse" for plain in others)
    return {**kept, "verdict": "worse" if worse else "unclear", "clear": worse}


def _bounds(space: Space) -> tuple[float, float] | None:
    metric = space.family.metrics.get(space.objectives[0])
    return None if metric is None else (metric.low, metric.high)


def _number(value: Any) -> float | None:
    """A finite number, else None."""
    return None if value is None or not math.isfinite(value) else float(value)
