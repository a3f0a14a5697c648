"""How fast a search found its best, beside what random order or random draws would give. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from search.columns import Columns
from search.traps import RANDOM_TRIALS

__all__ = ["BestSoFar", "best_so_far", "expected_best"]

FEWEST_RANDOM = 5
DRAWS = 500  # orders of the trials for the curve against epochs


@dataclass(frozen=True)
class BestSoFar:
    """The best score after each trial that ended, and after the epochs that were spent by then.

    numbers, best, epochs: in the order in which trials ended (best is None before the first score).
    random: expected best of the first n of `random_trials` draws without replacement, n = 1 on; None when
        the search made fewer than 5 at random. It ends where the draws do.
    shuffled: the same of all the search's trials in random order, at each trial; shuffled_low, shuffled_high:
        a 90 % band. By epochs: shuffled_by_epochs at `epochs`.
    caveat: what these are not.
    """

    numbers: list[int]
    best: list[float | None]
    epochs: list[float]
    random: list[float] | None
    random_trials: int
    shuffled: list[float]
    shuffled_low: list[float]
    shuffled_high: list[float]
    shuffled_by_epochs: list[float | None]
    caveat: str
    sentence: str


def expected_best(values: np.ndarray) -> np.ndarray:
    """f[N]: the expected largest of n of N values drawn without replacement, n = 1 to N.

        E_n = sum_i x_(i) C(i - 1, n - 1) / C(N, n),   x_(1) <= ... <= x_(N)

    Source: Tang et al., Showing your work doesn't always work (ACL 2020), eq. 5: the unbiased form of Dodge
    et al. (EMNLP 2019).
    """
    x = np.sort(np.asarray(values, dtype=float))
    return np.array([float(_weights(x.size, n) @ x) for n in range(1, x.size + 1)])


def best_so_far(columns: Columns) -> BestSoFar:
    """The search's best so far, against trials and against epochs, and what chance would have given.

    A trial without a score counts as a trial, and as the worst that has one.
    """
    good, order = columns.goodness, columns.order
    known = np.isfinite(columns.scores)
    best = np.maximum.accumulate(np.where(known, good, -np.inf)[order])
    epochs = np.cumsum(columns.epochs[order])
    drawn = _random(columns)
    random = expected_best(good[drawn]) if known[drawn].sum() >= FEWEST_RANDOM else None
    n = len(good)
    if known.any():
        middle = expected_best(good)
        low, high = _band(np.sort(good))
        by_epochs = _by_epochs(good, columns.epochs, epochs)
    else:
        middle = low = high = by_epochs = np.full(n, np.nan)
    sides = (low, high) if columns.maximize else (high, low)
    return BestSoFar(
        numbers=columns.numbers[order].tolist(),
        best=_plain(columns.sign * best),
        epochs=epochs.tolist(),
        random=None if random is None else (columns.sign * random).tolist(),
        random_trials=int(drawn.size),
        shuffled=_plain(columns.sign * middle),
        shuffled_low=_plain(columns.sign * sides[0]),
        shuffled_high=_plain(columns.sign * sides[1]),
        shuffled_by_epochs=_plain(columns.sign * by_epochs),
        caveat=_caveat(columns, drawn.size, random is not None),
        sentence=_sentence(columns, best, epochs, random),
    )


def _random(columns: Columns) -> np.ndarray:
    """Positions of the trials that were drawn at random from the space."""
    limit = np.inf if columns.sampler == "random" else RANDOM_TRIALS.get(columns.sampler, 0)
    sampled = np.array([preset is None for preset in columns.presets], dtype=bool)
    return np.flatnonzero(sampled & (columns.numbers < limit))


def _weights(size: int, n: int) -> np.ndarray:
    """f[size]: the chance that the i-th smallest of `size` values is the largest of n drawn."""
    i = np.arange(n, size + 1, dtype=float)
    log = gammaln(i) - gammaln(n) - gammaln(i - n + 1)
    log -= gammaln(size + 1) - gammaln(n + 1) - gammaln(size - n + 1)
    weights = np.zeros(size)
    weights[n - 1 :] = np.exp(log)
    return weights


def _band(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 5 % and 95 % quantiles of the largest of n of the sorted values, n = 1 to N."""
    low, high = np.empty(x.size), np.empty(x.size)
    for n in range(1, x.size + 1):
        chance = np.cumsum(_weights(x.size, n))
        low[n - 1] = x[min(x.size - 1, np.searchsorted(chance, 0.05))]
        high[n - 1] = x[min(x.size - 1, np.searchsorted(chance, 0.95 - 1e-12))]
    return low, high


def _by_epochs(good: np.ndarray, epochs: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Mean over random orders of the best trial that has ended when `at` epochs are spent; NaN before one."""
    random, total, count = np.random.default_rng(0), np.zeros(at.size), np.zeros(at.size)
    for _ in range(DRAWS):
        shuffled = random.permutation(good.size)
        spent, best = np.cumsum(epochs[shuffled]), np.maximum.accumulate(good[shuffled])
        place = np.searchsorted(spent, at, side="right") - 1
        ended = place >= 0
        total[ended] += best[place[ended]]
        count[ended] += 1
    return np.where(count >= DRAWS / 2, total / np.maximum(count, 1), np.nan)


def _plain(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _caveat(columns: Columns, drawn: int, shown: bool) -> str:
    if columns.sampler == "random":
        return f"Random search: this search's own {drawn} random draws in any order, one seed each."
    if columns.sampler == "grid":
        return "A grid draws nothing: its cells in random order show how soon one meets a good one by luck."
    shuffled = (
        "The same trials in random order show what the order alone gives; they are better than random draws "
        f"where {columns.sampler} has found good regions"
    )
    if not shown:
        few = f"Too few trials were drawn at random ({drawn}) to show what random search would give"
        return f"{few}. {shuffled}."
    ended_early = "PRUNED" in set(columns.states[_random(columns)])
    pruned = ", some of which pruning ended early" if ended_early else ""
    source = f"the {drawn} trials that this search itself drew at random, one seed each{pruned}"
    return f"What random search would give is computed from {source}. {shuffled}."


def _sentence(columns: Columns, best: np.ndarray, epochs: np.ndarray, random: np.ndarray | None) -> str:
    if not best.size or not np.isfinite(best[-1]):
        return "No trial has a score."
    at = int(np.argmax(best == best[-1]))
    number, score = columns.numbers[columns.order[at]], columns.sign * best[-1]
    found = (
        f"The best {columns.objective}, {score:.3g}, came from trial {number}, the {_th(at + 1)} of "
        f"{best.size} to end, after {epochs[at]:.0f} of {epochs[-1]:.0f} epochs"
    )
    if random is None:
        return f"{found}."
    half = max(1, random.size // 2)
    if random.size == best.size:  # the search's own order against the mean over all orders
        given = f"{half} random draws find {columns.sign * random[half - 1]:.3g} on average"
        return f"{found}; {given}."
    gain = best[-1] - random[-1]
    side = f"{gain:.2g} better than" if gain > 0 else "no better than"
    return f"{found}, {side} the best of its {random.size} random draws."


def _th(n: int) -> str:
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"
