"""A random forest of a search's scores: each knob's effect, and what two knobs do only together.

Every curve has a band from forests that were fitted to resampled trials. Scores are of one seed each: the
forest averages the seeds' luck away as far as the trials allow, and `skill` says how far that is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from search.columns import Columns, Setting

__all__ = ["Effect", "Forest", "Interaction", "effects", "fit_forest", "strongest_interaction"]

FORESTS, TREES = 20, 10  # resamples of the trials, trees for each
FEWEST = 12  # trials with which a forest is fitted at all
MOST = 800  # trials of one resample: more cost time and change the curves little
BACKGROUND = 40  # trials over which a dependence is averaged
GRID, PAIR_GRID = 24, 10
SHUFFLES, SHUFFLE_FORESTS = 3, 10  # times that every knob gets a shuffled twin, and forests for each
BLOCK = 10  # successive trials among which a twin's values are shuffled
NULLS, NULL_FORESTS, MOST_NULL = 19, 5, 400  # made scores without interaction; forests and trials for each


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


@dataclass(frozen=True)
class Forest:
    """Forests fitted to resampled trials. `skill`: correlation of out-of-bag predictions with the scores."""

    columns: Columns
    matrix: np.ndarray
    places: Mapping[str, slice]
    models: Sequence[Any]
    skill: float
    explained: float
    residuals: np.ndarray

    @property
    def sees(self) -> bool:
        """Whether settings foretell scores better than chance does, at 5 % (one-sided, normal null)."""
        return self.skill > 1.645 / math.sqrt(max(2, len(self.matrix) - 1))

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """f[FORESTS, len(rows)]: each forest's expected score."""
        return np.stack([model.predict(rows) for model in self.models])


def fit_forest(columns: Columns) -> Forest | None:
    """Forests of the score over all searched settings; None with too few trials or equal scores."""
    y, known = columns.sign * columns.goodness, columns.num_scored
    if known < FEWEST or np.ptp(y) == 0 or not columns.settings:
        return None
    matrix, places = _encode(columns.settings)
    random = np.random.default_rng(0)
    models, total, votes = [], np.zeros(len(y)), np.zeros(len(y))
    for index in range(FORESTS):
        rows = random.integers(len(y), size=min(len(y), MOST))
        models.append(_grow(matrix[rows], y[rows], index))
        out = np.setdiff1d(np.arange(len(y)), rows)
        out = out if out.size <= MOST else random.choice(out, MOST, replace=False)
        if out.size:
            total[out] += models[-1].predict(matrix[out])
            votes[out] += 1
    seen = votes > 0
    foretold = total[seen] / votes[seen]
    residuals = y[seen] - foretold
    spread = np.ptp(foretold) > 0 and np.ptp(y[seen]) > 0
    skill = float(np.corrcoef(foretold, y[seen])[0, 1]) if spread else 0.0
    explained = 1 - float(np.mean(residuals**2) / np.var(y[seen])) if np.ptp(y[seen]) > 0 else 0.0
    return Forest(columns, matrix, places, models, skill, explained, residuals)


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


def strongest_interaction(
    columns: Columns, forest: Forest | None, among: Sequence[str]
) -> Interaction | None:
    """The pair of `among` with the largest H; None with fewer than two knobs, or no forest that sees.

        H^2 = sum (f_jk - f_j - f_k)^2 / sum f_jk^2,   centred dependences on a grid of both knobs

    `by_chance` is the largest H of any of the pairs in forests fitted to sums of effects: f_j's of all knobs
    plus residuals drawn at random, 19 times.

    Source: Friedman & Popescu, Predictive learning via rule ensembles (Annals of Applied Statistics 2008), 8.
    """
    names = [name for name in among if name in columns.settings and _can_vary(columns.settings[name])]
    if forest is None or not forest.sees or len(names) < 2:
        return None
    rated = []
    for first, second in combinations(names, 2):
        rows = _background(columns, [columns.settings[first], columns.settings[second]])
        if rows.size >= FEWEST:
            surface = _surface(forest, first, second, rows)
            rated.append((_strength(surface.mean(0)), first, second, surface.mean(0), rows))
    if not rated:
        return None
    strength, first, second, surface, _ = max(rated, key=lambda one: one[0])
    chance = _strength_by_chance(forest, [(one, other, rows) for _, one, other, _, rows in rated])
    one, other = columns.settings[first], columns.settings[second]
    clear = strength > chance
    x, y = _grid(one, PAIR_GRID)[1], _grid(other, PAIR_GRID)[1]
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


# ---------------------------------------------------------------------- the forest


def _grow(matrix: np.ndarray, y: np.ndarray, seed: int, trees: int = TREES) -> Any:
    from sklearn.ensemble import RandomForestRegressor

    model = RandomForestRegressor(trees, min_samples_leaf=2, max_features=0.7, random_state=seed)
    return model.fit(matrix, y)


def _encode(settings: Mapping[str, Setting]) -> tuple[np.ndarray, dict[str, slice]]:
    """One column a number, one column a word of a choice; a number out of force stands in mid-range."""
    blocks, places, start = [], {}, 0
    for name, setting in settings.items():
        if setting.is_choice:
            block = (setting.unit[:, None] == np.arange(len(setting.parameter.choices))).astype(float)
        else:
            block = np.where(setting.in_force, setting.unit, 0.5)[:, None]
        places[name] = slice(start, start + block.shape[1])
        start += block.shape[1]
        blocks.append(block)
    return np.concatenate(blocks, 1).astype(np.float32), places


def _can_vary(setting: Setting) -> bool:
    seen = setting.unit[setting.in_force]
    return seen.size > 0 and np.ptp(seen) > 0


def _grid(setting: Setting, size: int) -> tuple[np.ndarray, list[Any]]:
    """Places (`Setting.unit`) and values on which a curve stands."""
    parameter = setting.parameter
    if setting.is_choice:
        return np.arange(len(parameter.choices), dtype=float), list(parameter.choices)
    count = int(parameter.high - parameter.low) + 1 if parameter.kind == "int" else size
    if parameter.kind == "int" and count <= size:
        values = np.arange(parameter.low, parameter.high + 1)
        unit = np.log(values / parameter.low) if parameter.log else values - parameter.low
        return unit / unit[-1], [int(value) for value in values]
    unit = np.linspace(0, 1, size)
    values = setting.value_at(unit)
    if parameter.kind == "int":
        return unit, [int(round(value)) for value in values]
    return unit, [float(value) for value in values]


def _background(columns: Columns, settings: Sequence[Setting]) -> np.ndarray:
    """Positions of the trials over which a dependence is averaged, those where the knobs are in force."""
    rows = np.flatnonzero(np.logical_and.reduce([setting.in_force for setting in settings]))
    if rows.size > BACKGROUND:
        rows = np.sort(np.random.default_rng(0).choice(rows, BACKGROUND, replace=False))
    return rows


def _placed(matrix: np.ndarray, forest: Forest, setting: Setting, units: np.ndarray) -> np.ndarray:
    """[len(units), len(matrix), features]: the rows with the setting at each of `units`."""
    rows = np.repeat(matrix[None], len(units), 0)
    place = forest.places[setting.name]
    block = np.eye(place.stop - place.start)[units.astype(int)] if setting.is_choice else units[:, None]
    rows[:, :, place] = block[:, None]
    return rows


# ---------------------------------------------------------------------- effects


def _dependence(forest: Forest, setting: Setting, rows: np.ndarray, units: np.ndarray) -> np.ndarray:
    """f[FORESTS, len(units)]."""
    placed = _placed(forest.matrix[rows], forest, setting, units)
    predicted = forest.predict(placed.reshape(-1, placed.shape[2]))
    return predicted.reshape(len(forest.models), len(units), len(rows)).mean(2)


def _gains(columns: Columns, forest: Forest) -> tuple[dict[str, float], list[float]]:
    """The size of each knob's effect, and of all shuffled twins', in forests that have both.

    A forest gives every knob some effect, and the best of a curve is above its worst by selection alone. Twins
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
            models.append(_grow(matrix[rows], y[rows], 1000 * shuffle + index))
        real = replace(forest, matrix=matrix, models=models)
        false = replace(real, places=twins)
        for name, setting in columns.settings.items():
            rows = _background(columns, [setting])
            if rows.size >= FEWEST and _can_vary(setting):
                units = _grid(setting, GRID)[0]
                gains = [np.ptp(_dependence(one, setting, rows, units).mean(0)) for one in (real, false)]
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
    rows = _background(columns, [setting])
    if forest is None or rows.size < FEWEST or not _can_vary(setting):
        trials = "1 trial has it" if shown.size == 1 else f"{shown.size} trials have it"
        why = f"{trials} in force with a score, and a curve needs {FEWEST}"
        if shown.size >= FEWEST:
            why = "its values, or the scores, do not vary enough"
        sentence = f"{setting.name}: not enough data ({why})."
        nothing = {"x": [], "mean": [], "low": [], "high": [], "best": None, "gain": None}
        return Effect(**base, **nothing, clear=False, enough=False, sentence=sentence)
    units, x = _grid(setting, GRID)
    curves = _dependence(forest, setting, rows, units)
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
    at, away = (_value(value) for value in (best, worst))
    low, high = np.quantile(gains, [0.025, 0.975])
    return (
        f"{setting.name}: best near {at}, {gains.mean():.3g} ({low:.2g} to {high:.2g}) better in "
        f"{columns.objective} than near {away}{where}."
    )


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# ---------------------------------------------------------------------- interactions


def _surface(forest: Forest, first: str, second: str, rows: np.ndarray) -> np.ndarray:
    """f[FORESTS, len(y), len(x)]: the dependence on both, x of the first, y of the second."""
    one, other = forest.columns.settings[first], forest.columns.settings[second]
    x, y = _grid(one, PAIR_GRID)[0], _grid(other, PAIR_GRID)[0]
    placed = _placed(forest.matrix[rows], forest, one, x)  # [x, rows, features]
    both = _placed(placed.reshape(-1, placed.shape[2]), forest, other, y)
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
        background = _background(columns, [setting])
        if background.size < FEWEST or not _can_vary(setting):
            continue
        units = _grid(setting, GRID)[0]
        curve = _dependence(forest, setting, background, units).mean(0)
        held = setting.in_force
        additive[held] += np.interp(setting.unit[held], units, curve - curve.mean())
    found = []
    for index in range(NULLS):
        noisy = additive + random.choice(forest.residuals, len(additive))
        picked = random.integers(len(noisy), size=(NULL_FORESTS, min(len(noisy), MOST_NULL)))
        models = [
            _grow(forest.matrix[rows_], noisy[rows_], 100 * index + k) for k, rows_ in enumerate(picked)
        ]
        null = Forest(columns, forest.matrix, forest.places, models, 0.0, 0.0, forest.residuals)
        found += [_strength(_surface(null, *pair).mean(0)) for pair in pairs]
    return max(found)


def _interaction_sentence(first: str, second: str, strength: float, chance: float, x: Any, y: Any) -> str:
    figures = f"H {strength:.2f}, and {chance:.2f} by chance"
    if strength <= chance:
        nearest = f"the nearest are {first} and {second} ({figures})"
        return f"No two knobs act together more than chance gives; {nearest}."
    return f"{first} and {second} act together ({figures}): best near {_value(x)} with {_value(y)}."
