"""A random forest of a search's scores, and what it says of a knob while the others stay as they were.

Forests are fitted to resampled trials, so that whatever is read from them has a band. Scores are of one seed
each: the forest averages the seeds' luck away as far as the trials allow, and `skill` says how far that is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from search.columns import Columns, Setting

__all__ = [
    "FEWEST",
    "FORESTS",
    "GRID",
    "MOST",
    "Forest",
    "background",
    "can_vary",
    "dependence",
    "fit_forest",
    "grid",
    "grow",
    "placed",
    "shown_value",
]

FORESTS, TREES = 20, 10  # resamples of the trials, trees for each
FEWEST = 12  # trials with which a forest is fitted at all
MOST = 800  # trials of one resample: more cost time and change the curves little
BACKGROUND = 40  # trials over which a dependence is averaged
GRID = 24  # places on a curve


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
        models.append(grow(matrix[rows], y[rows], index))
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


def dependence(forest: Forest, setting: Setting, rows: np.ndarray, units: np.ndarray) -> np.ndarray:
    """f[forests, len(units)]: the mean score of the trials `rows` with the setting at each of `units`."""
    moved = placed(forest.matrix[rows], forest, setting, units)
    predicted = forest.predict(moved.reshape(-1, moved.shape[2]))
    return predicted.reshape(len(forest.models), len(units), len(rows)).mean(2)


def placed(matrix: np.ndarray, forest: Forest, setting: Setting, units: np.ndarray) -> np.ndarray:
    """[len(units), len(matrix), features]: the rows with the setting at each of `units`."""
    rows = np.repeat(matrix[None], len(units), 0)
    place = forest.places[setting.name]
    block = np.eye(place.stop - place.start)[units.astype(int)] if setting.is_choice else units[:, None]
    rows[:, :, place] = block[:, None]
    return rows


def grow(matrix: np.ndarray, y: np.ndarray, seed: int, trees: int = TREES) -> Any:
    from sklearn.ensemble import RandomForestRegressor

    model = RandomForestRegressor(trees, min_samples_leaf=2, max_features=0.7, random_state=seed)
    return model.fit(matrix, y)


def can_vary(setting: Setting) -> bool:
    seen = setting.unit[setting.in_force]
    return seen.size > 0 and np.ptp(seen) > 0


def grid(setting: Setting, size: int) -> tuple[np.ndarray, list[Any]]:
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


def background(columns: Columns, settings: Sequence[Setting]) -> np.ndarray:
    """Positions of the trials over which a dependence is averaged, those where the knobs are in force."""
    rows = np.flatnonzero(np.logical_and.reduce([setting.in_force for setting in settings]))
    if rows.size > BACKGROUND:
        rows = np.sort(np.random.default_rng(0).choice(rows, BACKGROUND, replace=False))
    return rows


def shown_value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


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
