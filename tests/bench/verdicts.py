"""How often a verdict is wrong, how often an interval holds, how often importance finds the planted knob.

    python tests/bench/verdicts.py                      # 1,000 repetitions a line: some minutes
    python tests/bench/verdicts.py --repetitions 100 --ranks 50
    python tests/bench/verdicts.py --only ranks --ranks 50

Everything is simulated (`tests/planted_seeds.py`, `tests/planted.py`), with a truth that is known.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from planted import PlantedSpace, drawn, row, searched_rows, table, truth  # noqa: E402
from planted_seeds import Tally, simulate  # noqa: E402

from search.analyse import analyse  # noqa: E402
from search.columns import read_columns  # noqa: E402
from search.forest import fit_forest  # noqa: E402
from search.importance import importance  # noqa: E402

NULLS: dict[str, dict[str, Any]] = {
    "no difference, 5 seeds": {},
    "no difference, 3 seeds": {"seeds": 3},
    "no difference, 10 seeds": {"seeds": 10},
    "no difference, 3 to 10 seeds": {"seeds": 3, "max_seeds": 10},
    "no difference, skewed": {"shape": "skewed"},
    "no difference, heavy tails": {"shape": "heavy"},
    "no difference, uneven noise": {"uneven": True},
    "no difference, uneven, 3 to 10": {"uneven": True, "seeds": 3, "max_seeds": 10},
    "no difference, skewed, 3 to 10": {"shape": "skewed", "seeds": 3, "max_seeds": 10},
}
GAINS: dict[str, dict[str, Any]] = {
    "means differ by 0.02": {"spread": 0.02},
    "means differ, 3 to 10 seeds": {"spread": 0.02, "seeds": 3, "max_seeds": 10},
    "gain 0.04 (2 deviations), 5": {"gain": 0.04},
    "gain 0.04, 3 to 10 seeds": {"gain": 0.04, "seeds": 3, "max_seeds": 10},
    "gain 0.08 (4 deviations), 5": {"gain": 0.08},
    "gain 0.08, 3 to 10 seeds": {"gain": 0.08, "seeds": 3, "max_seeds": 10},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--ranks", type=int, default=50, help="searches for each line of the ranking")
    parser.add_argument("--only", choices=("nulls", "gains", "ranks", "speed"))
    given = parser.parse_args()
    if given.only in (None, "nulls", "gains"):
        print("in %                             wins  wrong  means  alone  joint  subject  seeds")
    if given.only in (None, "nulls"):
        _print(NULLS, given.repetitions)
    if given.only in (None, "gains"):
        _print(GAINS, given.repetitions)
    if given.only in (None, "ranks"):
        _ranks(given.ranks)
    if given.only in (None, "speed"):
        _speed()


def _print(lines: dict[str, dict[str, Any]], repetitions: int) -> None:
    for name, settings in lines.items():
        tally: Tally = simulate(repetitions, **settings)
        n = tally.repetitions
        print(
            f"{name:32} {100 * tally.wins / n:5.1f} {100 * tally.wrong / n:6.1f} {_share(tally.means)} "
            f"{_share(tally.alone)} {_share(tally.joint)} {_share(tally.subject):>8} {tally.seeds / n:6.1f}",
            flush=True,
        )


def _share(held: Sequence[bool]) -> str:
    return f"{100 * np.mean(held):6.1f}"


def _ranks(searches: int) -> None:
    print(f"the planted knob ranks first, in {searches} searches of each kind")
    for sampler in ("tpe", "random"):
        for trials in (28, 40, 60):
            firsts, told = 0, 0
            for seed in range(searches):
                planted = ("lr", "gamma", "method")[seed % 3]
                space = PlantedSpace(sampler, seed)
                columns = read_columns(table(searched_rows(space, trials, planted)), space)
                found = importance(columns, fit_forest(columns), resamples=2)
                told += found.enough
                firsts += found.enough and found.knobs[0].name == planted
            print(
                f"{sampler:7} {trials:3} trials: {firsts} first, {searches - told} not enough data",
                flush=True,
            )


def _speed() -> None:
    for trials in (40, 5000):
        random = np.random.default_rng(0)
        rows = []
        for number in range(trials):
            values = drawn(random)
            rows.append(row(number, values, truth(values, "lr") + 0.03 * random.standard_normal()))
        written, began, cpu = table(rows), time.perf_counter(), time.process_time()
        analyse(written, PlantedSpace("random"))
        print(
            f"analysis of {trials} trials, 7 knobs: {time.perf_counter() - began:.1f} s, "
            f"{time.process_time() - cpu:.1f} s of CPU"
        )


if __name__ == "__main__":
    main()
