"""Searches and confirmations whose true means are known, many times over: how often verdicts are wrong.

A search of 30 configurations and one preset, one seed each; the best three by that score and the preset are
confirmed. Differences between seeds: a part that all configurations share (initialisation and data order of
a seed), and each configuration's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from planted import PlantedSpace

from search.verdict import conclude, is_clear

CONFIGURATIONS, TOP = 30, 3
SHARED, OWN = 0.014, 0.014  # deviations; a difference of two configurations deviates by 0.02
PRESET = 0
Noise = Callable[[np.random.Generator, int], np.ndarray]
SHAPES: Mapping[str, Noise] = {
    "normal": lambda random, n: random.standard_normal(n),
    "skewed": lambda random, n: 1 - random.exponential(size=n),  # some seeds are much worse
    "heavy": lambda random, n: random.standard_t(3, n) / np.sqrt(3),
}


@dataclass
class Tally:
    """Counts over repetitions."""

    repetitions: int = 0
    wins: int = 0
    wrong: int = 0  # a configuration that is not better was recommended as better
    seeds: int = 0
    means: list[bool] = field(default_factory=list)
    alone: list[bool] = field(default_factory=list)
    joint: list[bool] = field(default_factory=list)
    subject: list[bool] = field(default_factory=list)

    def add(self, result: Mapping[str, Any], truths: Mapping[int, float]) -> None:
        self.repetitions += 1
        self.seeds += len(result["seeds"])
        gain = truths[result["recommended"]] - truths[PRESET]
        self.wins += result["verdict"] == "better"
        self.wrong += result["verdict"] == "better" and gain <= 0
        hold = []
        for plain in result["configurations"]:
            test, difference = plain["test"], plain["difference"]
            self.means.append(test["low"] <= truths[plain["source"]] <= test["high"])
            if difference is None:
                continue
            truth = truths[plain["source"]] - truths[PRESET]
            self.alone.append(difference["alone_low"] <= truth <= difference["alone_high"])
            hold.append(difference["low"] <= truth <= difference["high"])
            if plain["source"] == result["subject"]:
                self.subject.append(hold[-1])
        self.joint.append(all(hold))


def simulate(
    repetitions: int,
    spread: float = 0.0,
    gain: float = 0.0,
    seeds: int = 5,
    max_seeds: int = 0,
    shape: str = "normal",
    uneven: bool = False,
    first: int = 0,
) -> Tally:
    """Repeat search, confirmation and verdict.

    Args:
        spread: deviation of the configurations' true means around the preset's plus `gain`; 0: all are equal,
            and every win is an error.
        seeds, max_seeds: fixed at `seeds`, or with `max_seeds` added one by one until the verdict is clear.
        uneven: configurations differ in the size of their own noise, by factors of 0.5 to 2.
    """
    tally, space, noise = Tally(), PlantedSpace(), SHAPES[shape]
    for repetition in range(first, first + repetitions):
        random = np.random.default_rng(repetition)
        true = 0.5 + np.append(0.0, gain + spread * random.standard_normal(CONFIGURATIONS))
        own = OWN * (2.0 ** random.uniform(-1, 1, true.size) if uneven else np.ones(true.size))
        scores = true + SHARED * noise(random, 1) + own * noise(random, true.size)
        searched = [
            {"trial": trial, "objective": score, "preset": "habit" if trial == PRESET else None}
            for trial, score in enumerate(scores)
        ]
        best = [int(trial) for trial in np.argsort(-scores) if trial != PRESET][:TOP]
        sources = [*best, PRESET]
        longest = max(seeds, max_seeds)
        common = SHARED * noise(random, longest)
        values = {source: true[source] + common + own[source] * noise(random, longest) for source in sources}
        looks = range(seeds, max_seeds + 1) if max_seeds else (seeds,)
        for look in looks:
            rows = _rows(values, look)
            if look == looks[-1] or is_clear(searched, rows, space, looks):
                break
        tally.add(conclude(searched, rows, space, looks), dict(enumerate(true)))
    return tally


def _rows(values: Mapping[int, Sequence[float]], seeds: int) -> list[dict[str, Any]]:
    return [
        {
            "trial": 100 * index + seed,
            "source": source,
            "preset": "habit" if source == PRESET else None,
            "seed": seed,
            "state": "COMPLETE",
            "stop_reason": "completed",
            "objective": scores[seed],
            "test.score": scores[seed],
        }
        for index, (source, scores) in enumerate(values.items())
        for seed in range(seeds)
    ]
