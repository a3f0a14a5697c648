"""What each knob does to the score, and whether that is more than chance. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from search.columns import Columns, Setting
from search.forest import (
    FEWEST,
    GRID,
    MOST,
    Forest,
    background,
    can_vary,
    dependence,
    grid,
    grow,
    shown_value,
)

__all__ = ["Effect", "effects"]

SHUFFLES, SHUFFLE_FORESTS = 3, 10  # times that every knob gets a shuffled twin, and forests for each
BLOCK = 10  # successive trials among which a twin's values are shuffled


@dataclass(frozen=True)
class Effect:
    """What a knob does to the score, the others as in the trials where it is in force.

    x: values (or words) on which the curve stands; mean, low, high: the expected score there, with a 95 %
    band over resampled trials. points_x, points_y, trials: the trials themselves. best: the x of the best
    mean. clear: whether the gain between worst and best is larger than that of every knob whose values were
    shuffled, and its band above zero. Nothing but the points where `enough` is False.
    """

    name: str
    kind: str  # "float", "int" or "choice"
    log: bool
    conditional: bool
    x: list[Any]
    mean: list[float]
    low: list[float]
    high: list[float]
    points_x: list[Any]
    points_y: list[float]
    trials: list[int]
    best: Any
    gain: float | None
    clear: bool
    enough: bool
    sentence: str


def effects(columns: Columns, forest: Forest | None) -> dict[str, Effect]:
    """Each searched knob's effect.

        f_j(x) = mean over trials i of forest(x_i with x_ij = x)      (partial dependence)

    Source: Friedman, Greedy function approximation (Annals of Statistics 2001), 8.2.
    """
    own, chance = _gains(columns, forest) if forest is not None and forest.sees else ({}, [])
    outstanding = {name for name, gain in own.items() if gain > max(chance)}
    return {
        name: _effect(columns, forest, setting, name in outstanding)
        for name, setting in columns.settings.items()
    }


def _gains(columns: Columns, forest: Forest) -> tuple[dict[str, float], list[float]]:
    """The size of each knob's effect, and of all shuffled twins', in forests that have both.

    A forest gives every knob some effect, and the best of a curve is above its worst by selection. Twins
    are shuffled within blocks of successive trials: a sampler that learns moves all knobs while scores rise,
    and such a knob seems to matter beside values that are shuffled over the whole search.
    Source: Kursa & Rudnicki, Feature selection with the Boruta package (JSS 2010).
    """
    random, y = np.random.default_rng(2), columns.sign * columns.goodness
    width = forest.matrix.shape[1]
    twins = {name: slice(one.start + width, one.stop + width) for name, one in forest.places.items()}
    own: dict[str, float] = {}
    chance = [0.0]
    for shuffle in range(SHUFFLES):
        shuffled = forest.matrix.copy()
        for name, setting in columns.settings.items():
            held = np.flatnonzero(setting.in_force)
            mixed = np.concatenate([random.permutation(part) for part in _blocks(held)] or [held])
            shuffled[held, forest.places[name]] = forest.matrix[mixed, forest.places[name]]
        matrix = np.concatenate([forest.matrix, shuffled], 1)
        models = []
        for index in range(SHUFFLE_FORESTS):
            rows = random.integers(len(y), size=min(len(y), MOST))
            models.append(grow(matrix[rows], y[rows], 1000 * shuffle + index))
        real = replace(forest, matrix=matrix, models=models)
        false = replace(real, places=twins)
        for name, setting in columns.settings.items():
            rows = background(columns, [setting])
            if rows.size >= FEWEST and can_vary(setting):
                units = grid(setting, GRID)[0]
                gains = [np.ptp(dependence(one, setting, rows, units).mean(0)) for one in (real, false)]
                own[name] = own.get(name, 0.0) + gains[0] / SHUFFLES
                chance.append(gains[1])
    return own, chance


def _blocks(held: np.ndarray) -> list[np.ndarray]:
    """`held` in parts of about BLOCK successive trials."""
    return np.array_split(held, max(1, held.size // BLOCK))


def _effect(columns: Columns, forest: Forest | None, setting: Setting, outstanding: bool) -> Effect:
    shown = np.flatnonzero(setting.in_force & np.isfinite(columns.scores))
    parameter = setting.parameter
    base = {
        "name": setting.name,
        "kind": parameter.kind,
        "log": parameter.log,
        "conditional": bool(parameter.when),
        "points_x": [setting.values[place] for place in shown],
        "points_y": columns.scores[shown].tolist(),
        "trials": columns.numbers[shown].tolist(),
    }
    rows = background(columns, [setting])
    if forest is None or rows.size < FEWEST or not can_vary(setting):
        trials = "1 trial has it" if shown.size == 1 else f"{shown.size} trials have it"
        why = f"{trials} in force with a score, and a curve needs {FEWEST}"
        if shown.size >= FEWEST:
            why = "its values, or the scores, do not vary enough"
        sentence = f"{setting.name}: not enough data ({why})."
        nothing = {"x": [], "mean": [], "low": [], "high": [], "best": None, "gain": None}
        return Effect(**base, **nothing, clear=False, enough=False, sentence=sentence)
    units, x = grid(setting, GRID)
    curves = dependence(forest, setting, rows, units)
    mean = curves.mean(0)
    low, high = np.quantile(curves, [0.025, 0.975], axis=0)
    best, worst = np.argmax(columns.sign * mean), np.argmin(columns.sign * mean)
    gains = columns.sign * (curves[:, best] - curves[:, worst])
    clear = bool(outstanding and np.quantile(gains, 0.025) > 0)
    return Effect(
        **base,
        x=x,
        mean=mean.tolist(),
        low=low.tolist(),
        high=high.tolist(),
        best=x[best],
        gain=float(gains.mean()),
        clear=clear,
        enough=True,
        sentence=_effect_sentence(columns, setting, x[best], x[worst], gains, clear),
    )


def _effect_sentence(
    columns: Columns, setting: Setting, best: Any, worst: Any, gains: np.ndarray, clear: bool
) -> str:
    where = " where it is in force" if setting.parameter.when else ""
    if not clear:
        return f"{setting.name}: no effect that stands out from the noise between trials{where}."
    at, away = (shown_value(value) for value in (best, worst))
    low, high = np.quantile(gains, [0.025, 0.975])
    return (
        f"{setting.name}: best near {at}, {gains.mean():.3g} ({low:.2g} to {high:.2g}) better in "
        f"{columns.objective} than near {away}{where}."
    )
