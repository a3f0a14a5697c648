"""A confirmation's verdict in words. Pure: plain values in, sentences out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["configuration_sentence", "figures", "notes", "optimism_sentence", "verdict_sentence"]

Plain = Mapping[str, Any]

ROUNDING = 1e-6  # of a score: smaller differences are those of its 32 bits


def figures(*values: float, spread: float | None = None) -> list[str]:
    """Numbers with as many decimals as `spread` (a half-width; else the largest value) gives sense to."""
    scale = spread or max((abs(value) for value in values), default=0.0) / 10
    if not scale or not math.isfinite(scale):
        return [f"{value:g}" for value in values]
    decimals = max(0, 1 - math.floor(math.log10(scale)))
    while any(value and not round(value, decimals) for value in values) and decimals < 7:
        decimals += 1
    if decimals > 6 or max(map(abs, values)) >= 1e7:
        return [f"{value:.3g}" for value in values]
    return [f"{value:.{decimals}f}" for value in values]


def verdict_sentence(result: Plain) -> str:
    """The one sentence to act on."""
    named = {plain["source"]: plain for plain in result["configurations"]}
    subject, reference = named.get(result["subject"]), named.get(result["reference"])
    if reference is None:
        return _alone(subject)
    keep, verdict = f"keep {reference['name']}", result["verdict"]
    if subject is None:
        return f"nothing was compared with {reference['name']}: {keep}"
    if verdict == "better":
        return _beats(subject, reference)
    if verdict == "broken":
        return f"{_beats(subject, reference)}, but {_broken(subject)}: {keep}"
    if verdict == "worse":
        return f"{_beats(subject, reference)}: {keep}"
    if verdict == "unknown":
        return f"no verdict from {_seeds(subject['difference']['n'])}: {keep}"
    return (
        f"no reliable difference: {keep} ({subject['name']}: {_amount(subject['difference'], signed=True)})"
    )


def configuration_sentence(plain: Plain, result: Plain) -> str:
    """What is to be said of one configuration, its broken seeds included."""
    test, name = plain["test"], plain["name"]
    if not test["n"]:
        return f"{name} has no test score{_but(plain, ': it ')}"
    sentence = f"{name}: {result['objective']} {_range(test)} on the test split{_but(plain, ', and ')}"
    if plain["source"] == result["reference"]:
        return f"{sentence}; the others are compared with it"
    if plain["difference"] is None:
        return sentence
    over = next(one["name"] for one in result["configurations"] if one["source"] == result["reference"])
    words = {"better": "reliably better", "worse": "reliably worse", "unclear": "not reliably different"}
    if plain["verdict"] not in words:
        return f"{sentence}; too few seeds to compare it with {over}"
    return f"{sentence}; {words[plain['verdict']]} than {over}".replace("different than", "different from")


def optimism_sentence(plain: Plain | None) -> str | None:
    """How much of the search's best score was luck."""
    if plain is None or not plain["optimism"]:
        return None
    part = plain["optimism"]
    where = f"its mean of {_seeds(part['n'])} on the test split"
    told = [part[key] for key in ("total", "seed_luck", "split_difference")]
    largest, least = max(map(abs, told)), ROUNDING * abs(part["search"])
    if largest <= least:
        return f"the search gave {plain['name']} {figures(part['search'])[0]}, and {where} is the same"
    told = [0.0 if abs(value) <= least else value for value in told]
    search, test, total, luck, split = figures(
        part["search"],
        part["test"],
        abs(told[0]),
        *told[1:],
        spread=max(largest, abs(part["search"]) / 100) / 5,
    )
    side = "better" if part["total"] >= 0 else "worse"
    gap = f"{total} {side} than {where}, {test}" if told[0] else f"as {where}"
    return (
        f"the search gave {plain['name']} {search}, {gap}: "
        f"{luck} by the luck of its seed, {split} because the splits differ"
    )


def notes(result: Plain) -> list[str]:
    """What limits the verdict, one sentence each."""
    found = []
    for plain in result["configurations"]:
        if plain["broken"]:
            found.append(f"{plain['name']} {_broken(plain)}.")
        if plain["missing"] and not plain["broken"]:
            found.append(f"{plain['name']} has no score for seed {_listed(plain['missing'])}.")
        if plain["unfinished"]:
            found.append(f"{plain['name']} has not finished seed {_listed(plain['unfinished'])}.")
    if any(plain["test"]["n"] == 1 for plain in result["configurations"]):
        found.append("One seed says nothing about the spread between seeds: confirm with at least 3.")
    if any(plain["test"]["sd"] == 0 for plain in result["configurations"]):
        found.append(
            "Scores that are equal for all seeds show no spread, which is not to say that there is none."
        )
    return found


def _beats(subject: Plain, reference: Plain) -> str:
    difference = subject["difference"]
    word = "beats" if difference["mean"] > 0 else "is worse than"
    return f"{subject['name']} {word} {reference['name']} by {_amount(difference)}"


def _amount(difference: Plain, signed: bool = False) -> str:
    """`0.061, 95 % interval 0.043 to 0.080, 5 seeds`; without `signed` of the size alone."""
    mean, low, high = (difference[key] for key in ("mean", "low", "high"))
    if not signed and mean < 0:
        mean, low, high = -mean, -high, -low
    mean, low, high = figures(mean, low, high, spread=(high - low) / 2)
    sign = "+" if signed and not mean.startswith("-") else ""
    return f"{sign}{mean}, 95 % interval {low} to {high}, {_seeds(difference['n'])}"


def _range(test: Plain) -> str:
    if test["low"] is None:
        return f"{figures(test['mean'])[0]}, {_seeds(test['n'])}"
    mean, low, high = figures(
        test["mean"], test["low"], test["high"], spread=(test["high"] - test["low"]) / 2
    )
    return f"{mean}, 95 % interval {low} to {high}, {_seeds(test['n'])}"


def _alone(subject: Plain | None) -> str:
    if subject is None:
        return "nothing is confirmed"
    return f"{subject['name']}: {_range(subject['test'])}; there is nothing to compare it with"


def _but(plain: Plain, joint: str) -> str:
    return f"{joint}{_broken(plain)}" if plain["broken"] else ""


def _broken(plain: Plain) -> str:
    """`collapsed (mode) on seed 3, failed (diverged) on seed 4`."""
    kinds: dict[tuple[str, str], list[int]] = {}
    for broken in plain["broken"]:
        kinds.setdefault((broken["what"], broken["kind"]), []).append(broken["seed"])
    return ", ".join(f"{what} ({kind}) on seed {_listed(seeds)}" for (what, kind), seeds in kinds.items())


def _listed(seeds: list[int]) -> str:
    return str(seeds[0]) if len(seeds) == 1 else f"{', '.join(map(str, seeds[:-1]))} and {seeds[-1]}"


def _seeds(n: int) -> str:
    return "1 seed" if n == 1 else f"{n} seeds"
