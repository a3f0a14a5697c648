"""What two knobs do only together. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from search.columns import Columns
from search.forest import (
    FEWEST,
    GRID,
    Forest,
    background,
    can_vary,
    dependence,
    grid,
    grow,
    placed,
    shown_value,
)

__all__ = ["Interaction", "strongest_interaction"]

PAIR_GRID = 10  # places on each axis
NULLS, NULL_FORESTS, MOST_NULL = 19, 5, 400  # made scores without interaction; forests and trials for each


@dataclass(frozen=True)
class Interaction:
    """The two knobs that act least like the sum of their effects.

    strength: H of Friedman & Popescu, 0 (sum of two effects) to 1 (all is joint); by_chance: what forests
    give for scores that have no joint effect. values f[len(y), len(x)]: expected score.
    """

    first: str
    second: str
    strength: float
    by_chance: float
    clear: bool
    x: list[Any]
    y: list[Any]
    x_log: bool
    y_log: bool
    values: list[list[float]]
    sentence: str


def strongest_interaction(
    columns: Columns, forest: Forest | None, among: Sequence[str]
) -> Interaction | None:
    """The pair of `among` with the largest H; None with fewer than two knobs, or no forest that sees.

        H^2 = sum (f_jk - f_j - f_k)^2 / sum f_jk^2,   centred dependences on a grid of both knobs

    `by_chance` is the largest H of any of the pairs in forests fitted to sums of effects: f_j's of all knobs
    plus residuals drawn at random, 19 times.

    Source: Friedman & Popescu, Predictive learning via rule ensembles (Annals of Applied Statistics 2008), 8.
    """
    names = [name for name in among if name in columns.settings and can_vary(columns.settings[name])]
    if forest is None or not forest.sees or len(names) < 2:
        return None
    rated = []
    for first, second in combinations(names, 2):
        rows = background(columns, [columns.settings[first], columns.settings[second]])
        if rows.size >= FEWEST:
            surface = _surface(forest, first, second, rows)
            rated.append((_strength(surface.mean(0)), first, second, surface.mean(0), rows))
    if not rated:
        return None
    strength, first, second, surface, _ = max(rated, key=lambda one: one[0])
    chance = _strength_by_chance(forest, [(one, other, rows) for _, one, other, _, rows in rated])
    one, other = columns.settings[first], columns.settings[second]
    clear = strength > chance
    x, y = grid(one, PAIR_GRID)[1], grid(other, PAIR_GRID)[1]
    best = np.unravel_index(np.argmax(columns.sign * surface), surface.shape)
    return Interaction(
        first=first,
        second=second,
        strength=float(strength),
        by_chance=float(chance),
        clear=bool(clear),
        x=x,
        y=y,
        x_log=one.parameter.log,
        y_log=other.parameter.log,
        values=surface.tolist(),
        sentence=_interaction_sentence(first, second, strength, chance, x[best[1]], y[best[0]]),
    )


def _surface(forest: Forest, first: str, second: str, rows: np.ndarray) -> np.ndarray:
    """f[FORESTS, len(y), len(x)]: the dependence on both, x of the first, y of the second."""
    one, other = forest.columns.settings[first], forest.columns.settings[second]
    x, y = grid(one, PAIR_GRID)[0], grid(other, PAIR_GRID)[0]
    moved = placed(forest.matrix[rows], forest, one, x)  # [x, rows, features]
    both = placed(moved.reshape(-1, moved.shape[2]), forest, other, y)
    predicted = forest.predict(both.reshape(-1, both.shape[2]))
    return predicted.reshape(len(forest.models), len(y), len(x), len(rows)).mean(3)


def _strength(surface: np.ndarray) -> float:
    """H of one surface f[y, x]; 0 for a flat one."""
    centred = surface - surface.mean()
    joint = centred - centred.mean(0, keepdims=True) - centred.mean(1, keepdims=True)
    total = float((centred**2).sum())
    return math.sqrt(float((joint**2).sum()) / total) if total > 0 else 0.0


def _strength_by_chance(forest: Forest, pairs: Sequence[tuple[str, str, np.ndarray]]) -> float:
    """The largest H of `pairs` that forests find in sums of the knobs' effects with drawn residuals."""
    columns, random = forest.columns, np.random.default_rng(1)
    additive = np.full(len(forest.matrix), float(np.mean(columns.sign * columns.goodness)))
    for setting in columns.settings.values():
        rows = background(columns, [setting])
        if rows.size < FEWEST or not can_vary(setting):
            continue
        units = grid(setting, GRID)[0]
        curve = dependence(forest, setting, rows, units).mean(0)
        held = setting.in_force
        additive[held] += np.interp(setting.unit[held], units, curve - curve.mean())
    found = []
    for index in range(NULLS):
        noisy = additive + random.choice(forest.residuals, len(additive))
        picked = random.integers(len(noisy), size=(NULL_FORESTS, min(len(noisy), MOST_NULL)))
        models = [grow(forest.matrix[rows_], noisy[rows_], 100 * index + k) for k, rows_ in enumerate(picked)]
        null = Forest(columns, forest.matrix, forest.places, models, 0.0, 0.0, forest.residuals)
        found += [_strength(_surface(null, *pair).mean(0)) for pair in pairs]
    return max(found)


def _interaction_sentence(first: str, second: str, strength: float, chance: float, x: Any, y: Any) -> str:
    figures = f"H {strength:.2f}, and {chance:.2f} by chance"
    if strength <= chance:
        nearest = f"the nearest are {first} and {second} ({figures})"
        return f"No two knobs act together more than chance gives; {nearest}."
    return f"{first} and {second} act together ({figures}): best near {shown_value(x)} with {shown_value(y)}."
