"""Means of few seeds and their intervals, honest at n = 3 to 10. Pure numpy.

    scored()              one configuration's scores ──► mean, deviation, interval
    paired_difference()   two configurations, seed by seed ──► the same of their differences
    shared_misses()       one error rate divided over several comparisons and several looks at the data

The interval is a smoothed bootstrap-t. A percentile bootstrap of 5 values covers the mean 84 % of the time
where it says 95 %, because a resample of 5 values has too small a spread and never leaves their range; what
else was tried is in tests/bench/LOG.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

__all__ = ["Scored", "interval", "is_sure", "paired_difference", "scored", "shared_misses"]

MISS = 0.05  # how often a 95 % interval may miss the truth
RESAMPLES = 20_000  # half of them drawn, the other half their mirror images
BANDWIDTH = 0.8  # of the smoothing, in standard deviations, at n = 1
PATHS = 100_000  # simulated series of seeds from which the levels of several looks are taken
SPENDING = 2.0  # a look's level grows with this power of its share of the seeds
SAME = 1e-12  # values that differ by less than this share of the largest are equal but for rounding
FEWEST_EQUAL = 5  # equal differences that count as sure: a fair coin falls five times alike in 3 %


class Scored(NamedTuple):
    """`n` values: mean, standard deviation (ddof 1), and an interval for the mean of all seeds.

    None where it cannot be known: `mean` without values, the others with one value. All are in the values'
    unit. `miss` is the share of such intervals that do not hold the truth.
    """

    n: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    miss: float = MISS


def scored(
    values: Iterable[float | None], *, miss: float = MISS, bounds: tuple[float, float] | None = None
) -> Scored:
    """Mean, standard deviation and interval of one configuration's scores over its seeds.

    Args:
        values: one a seed; None and NaN (a seed without a score) are left out.
        bounds: the values' possible range; the interval is cut at it, which costs no coverage.

    Source: see `interval`.
    """
    kept = _finite(values)
    if not kept.size:
        return Scored(0, None, None, None, None, miss)
    mean = _mean(kept)
    if kept.size == 1:
        return Scored(1, mean, None, None, None, miss)
    low, high = interval(kept, miss)
    if bounds is not None:
        low, high = max(low, min(bounds[0], mean)), min(high, max(bounds[1], mean))
    return Scored(int(kept.size), mean, _deviation(kept), low, high, miss)


def paired_difference(
    ours: Mapping[int, float | None],
    theirs: Mapping[int, float | None],
    *,
    miss: float = MISS,
    maximize: bool = True,
) -> Scored:
    """How much better `ours` is than `theirs`, over the seeds at which both have a score.

        d_s = ours_s - theirs_s, or theirs_s - ours_s when the score is minimised: positive is better

    Pairs with one seed share initialisation and data order, so that a part of the noise cancels.
    """
    sign = 1.0 if maximize else -1.0
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    return scored(
        [sign * (one - other) for one, other in pairs if one is not None and other is not None], miss=miss
    )


def interval(values: Sequence[float] | np.ndarray, miss: float = MISS) -> tuple[float, float]:
    """Smoothed bootstrap-t interval for the mean of what `values` were drawn from.

        z_i  = (x_i - m) / s,   m the mean and s the deviation (ddof 1) of the n values
        z*_j = z_i(j) + 0.8 n^-1/5 e_j,   i(j) drawn with replacement, e_j standard normal
        t*   = sqrt(n) mean(z*) / sd(z*)
        [m - q_high s / sqrt(n), m - q_low s / sqrt(n)],   q the quantiles miss/2 and 1 - miss/2 of t*

    Smoothing keeps the spread of resamples of 2 to 5 values away from zero, where the plain bootstrap-t
    breaks down. Draws are fixed and come with their mirror images: equal values give equal intervals in any
    order, a change of unit or sign changes the interval alike. Values that are all equal give [m, m].

    Raises:
        ValueError: with fewer than two values, or one that is not finite.

    Source: Hall, The Bootstrap and Edgeworth Expansion (1992), 3.5; Polansky & Schucany, Kernel smoothing to
    improve bootstrap confidence intervals (JRSS B 1997). The bandwidth 0.8 is ours, measured.
    """
    x = np.sort(np.asarray(values, dtype=float))
    if x.size < 2 or not np.isfinite(x).all():
        raise ValueError(f"an interval needs at least two finite values, got {list(values)}")
    if not 0 < miss < 1:
        raise ValueError(f"{miss=} is not between 0 and 1")
    mean, deviation = _mean(x), _deviation(x)
    if deviation == 0:
        return mean, mean
    low, high = np.quantile(_resampled(tuple(((x - mean) / deviation).tolist())), [miss / 2, 1 - miss / 2])
    step = deviation / math.sqrt(x.size)
    return float(mean - high * step), float(mean - low * step)


def is_sure(difference: Scored) -> bool:
    """Whether the interval excludes zero, and not only because a few coarse values happen to be equal."""
    if difference.low is None:
        return False
    away = difference.low > 0 or difference.high < 0
    return away and (difference.sd > 0 or difference.n >= FEWEST_EQUAL)


def shared_misses(looks: Sequence[int], comparisons: int, miss: float = MISS) -> dict[int, float]:
    """By look, the `miss` of each comparison's interval, so that all of them together miss at most `miss`.

    Args:
        looks: numbers of seeds at which the data is looked at, at least 2 each; one look when nothing is
            decided on the way.
        comparisons: how many configurations are compared with one. Each gets miss / comparisons (Bonferroni:
            right whatever the comparisons have in common).

    Several looks: level_j = c (n_j / n_last)^2, with c such that a normal series is found wrong at any look
    with probability miss / comparisons. c is taken from 100,000 simulated series with the t distribution of
    n_j - 1 degrees of freedom, for n is small. The intervals at all looks hold together (repeated confidence
    intervals), so that one may stop at any of them.

    Source: Jennison & Turnbull, Group Sequential Methods (2000), 7 (spending by a power, Kim & DeMets 1987),
    9 (repeated intervals).
    """
    share = miss / max(1, comparisons)
    looks = sorted(set(looks))
    if not looks or looks[0] < 2:
        raise ValueError(f"{looks=}: a look needs at least two seeds")
    if len(looks) == 1:
        return {looks[0]: share}
    constant = float(np.quantile(_smallest_levels(tuple(looks)), share))
    return {n: constant * (n / looks[-1]) ** SPENDING for n in looks}


@lru_cache(maxsize=256)  # one set of scores is asked for intervals at several levels
def _resampled(z: tuple[float, ...]) -> np.ndarray:
    """f[RESAMPLES]: t* of every resample of the standardised values."""
    n = len(z)
    index, noise = _draws(n)
    resampled = np.array(z)[index] + BANDWIDTH * n**-0.2 * noise
    return math.sqrt(n) * resampled.mean(1) / resampled.std(1, ddof=1)


@lru_cache(maxsize=32)
def _draws(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the sorted values, and noise, of every resample: [RESAMPLES, n] each."""
    random = np.random.default_rng(n)
    index = random.integers(n, size=(RESAMPLES // 2, n))
    noise = random.standard_normal((RESAMPLES // 2, n))
    return np.concatenate([index, n - 1 - index]), np.concatenate([noise, -noise])


@lru_cache(maxsize=8)
def _smallest_levels(looks: tuple[int, ...]) -> np.ndarray:
    """By simulated null series, the smallest over looks of p_j / (n_j / n_last)^2."""
    from scipy.special import stdtr  # Student's distribution function

    normal = np.random.default_rng(0).standard_normal((PATHS, looks[-1]))
    smallest = np.full(PATHS, np.inf)
    for n in looks:
        part = normal[:, :n]
        t = math.sqrt(n) * part.mean(1) / part.std(1, ddof=1)
        level = 2 * stdtr(n - 1, -np.abs(t)) / (n / looks[-1]) ** SPENDING
        smallest = np.minimum(smallest, level)
    return smallest


def _finite(values: Iterable[float | None]) -> np.ndarray:
    kept = np.array([value for value in values if value is not None], dtype=float)
    return kept[np.isfinite(kept)]


def _mean(values: np.ndarray) -> float:
    """The mean, exactly the value when all are equal."""
    return float(np.clip(math.fsum(values) / values.size, values.min(), values.max()))


def _deviation(values: np.ndarray) -> float:
    """Standard deviation (ddof 1); 0 for values that are equal but for rounding."""
    largest = float(np.abs(values).max())
    if float(np.ptp(values)) <= SAME * largest:
        return 0.0
    return float((values / largest).std(ddof=1) * largest)
