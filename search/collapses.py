"""Where in the space each kind of collapse lives: knob by knob, with counts and intervals. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from search.columns import Columns, Setting

__all__ = ["Collapse", "Place", "collapses", "range_in_words", "wilson"]

PARTS = 4  # equal parts of a range, on the knob's own scale
Z = 1.959964
SURE = 0.05
ROUNDING = 1e-9  # a value at an edge belongs to the part above, whatever its logarithm was rounded to

Part = tuple[Any, float | None, float | None, bool]


@dataclass(frozen=True)
class Place:
    """One part of one knob's range (`low` to `high`), or one word of a choice (`word`), and its trials.

    A part holds its low end; its high end only where it is the last one of the range (`to_the_end`).
    share = collapsed / trials, with Wilson's 95 % interval; elsewhere_*: of the trials outside of it in which
    the knob is in force. p: Fisher's exact test against elsewhere, one-sided, times the number of places.
    """

    knob: str
    word: Any
    low: float | None
    high: float | None
    to_the_end: bool
    collapsed: int
    trials: int
    share: float
    share_low: float
    share_high: float
    elsewhere_collapsed: int
    elsewhere_trials: int
    p: float


@dataclass(frozen=True)
class Collapse:
    """One kind of collapse: how often, and the places where it is most frequent, the surest first."""

    kind: str
    collapsed: int
    trials: int
    numbers: list[int]
    places: list[Place]
    clear: bool
    sentence: str


def collapses(columns: Columns, shown: Mapping[int, Sequence[str]] | None = None) -> list[Collapse]:
    """Every kind that occurred, the most frequent first.

    Args:
        shown: by trial number, the kinds that its last epoch shows (`collapsed.*` of epochs.parquet); without
            it, and beside it, the stop reason decides. `diverged` counts as a kind.
    """
    by_kind: dict[str, set[int]] = {}
    for place, number in enumerate(columns.numbers.tolist()):
        for kind in _kinds(columns.reasons[place], (shown or {}).get(number, ())):
            by_kind.setdefault(kind, set()).add(place)
    found = []
    for kind, places in by_kind.items():
        hit = np.zeros(len(columns.numbers), dtype=bool)
        hit[sorted(places)] = True
        found.append(_collapse(kind, hit, columns))
    return sorted(found, key=lambda one: (-one.collapsed, one.kind))


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval for a share; (0, 1) without trials. Source: Wilson (JASA 1927)."""
    if not n:
        return 0.0, 1.0
    share, spread = hits / n, Z * Z / n
    middle = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def range_in_words(place: Place) -> str:
    """`0.5 to under 4`; `4 to 30` for the last part of a range."""
    return f"{place.low:.3g} to {'' if place.to_the_end else 'under '}{place.high:.3g}"


def _kinds(reason: str | None, shown: Sequence[str]) -> set[str]:
    kinds = set(shown)
    if reason and reason.startswith("collapse:"):
        kinds.add(reason.removeprefix("collapse:"))
    if reason == "diverged":
        kinds.add("diverged")
    return kinds


def _collapse(kind: str, hit: np.ndarray, columns: Columns) -> Collapse:
    parts = [part for setting in columns.settings.values() for part in _parts(setting)]
    places = [
        place for setting, inside, part in parts if (place := _place(setting, inside, part, hit, len(parts)))
    ]
    places.sort(key=lambda place: (place.p, -place.share_low))
    n, count = len(hit), int(hit.sum())
    clear = bool(places) and places[0].p < SURE
    return Collapse(
        kind=kind,
        collapsed=count,
        trials=n,
        numbers=columns.numbers[hit].tolist(),
        places=places,
        clear=clear,
        sentence=_sentence(kind, count, n, places[0] if clear else None),
    )


def _parts(setting: Setting) -> list[tuple[Setting, np.ndarray, Part]]:
    """The places of one knob: bool[N] of the trials in it, and (word, low, high, to_the_end)."""
    if setting.is_choice:
        return [
            (setting, setting.unit == index, (word, None, None, False))
            for index, word in enumerate(setting.parameter.choices)
        ]
    edges = np.linspace(0, 1, PARTS + 1)
    bounds = [float(value) for value in setting.value_at(edges)]
    index = np.minimum(np.nan_to_num(setting.unit) * PARTS + ROUNDING, PARTS - 1).astype(int)
    within = [(None, bounds[at], bounds[at + 1], at == PARTS - 1) for at in range(PARTS)]
    return [(setting, setting.in_force & (index == at), part) for at, part in enumerate(within)]


def _place(
    setting: Setting,
    inside: np.ndarray,
    part: Part,
    hit: np.ndarray,
    tests: int,
) -> Place | None:
    from scipy.stats import hypergeom

    outside = setting.in_force & ~inside
    n, rest = int(inside.sum()), int(outside.sum())
    collapsed, others = int((hit & inside).sum()), int((hit & outside).sum())
    if not n or not collapsed:
        return None
    p = float(hypergeom.sf(collapsed - 1, n + rest, collapsed + others, n))
    low, high = wilson(collapsed, n)
    return Place(
        knob=setting.name,
        word=part[0],
        low=part[1],
        high=part[2],
        to_the_end=part[3],
        collapsed=collapsed,
        trials=n,
        share=collapsed / n,
        share_low=low,
        share_high=high,
        elsewhere_collapsed=others,
        elsewhere_trials=rest,
        p=min(1.0, p * tests),
    )


def _sentence(kind: str, count: int, n: int, place: Place | None) -> str:
    name = "Divergence" if kind == "diverged" else f"Collapse ({kind})"
    if place is None:
        return f"{name}: {count} of {n} trials; no part of the space stands out clearly."
    where = f"is {place.word}" if place.low is None else f"is {range_in_words(place)}"
    rest = f"{place.elsewhere_collapsed} of {place.elsewhere_trials}"
    share = f"{place.share:.0%}, 95 % interval {place.share_low:.0%} to {place.share_high:.0%}"
    return (
        f"{name}: {count} of {n} trials; most where {place.knob} {where}, {place.collapsed} of "
        f"{place.trials} ({share}), against {rest} elsewhere."
    )
