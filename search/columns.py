"""A search's trials as columns, ready to be analysed. Pure numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from search.parameters import Parameter, in_force, same

if TYPE_CHECKING:
    import pyarrow as pa

    from search.space import Space

__all__ = ["Columns", "Setting", "read_columns"]

ENDED = ("COMPLETE", "PRUNED", "FAIL")


@dataclass(frozen=True)
class Setting:
    """One searched parameter over all trials.

    `unit` f[N]: the value's place in its range, 0 to 1, on its own scale (log or not); for a choice, the
    position among `parameter.choices`. NaN where it is out of force. `values`: as recorded.
    """

    parameter: Parameter
    unit: np.ndarray
    values: Sequence[Any]

    @property
    def name(self) -> str:
        return self.parameter.name

    @property
    def is_choice(self) -> bool:
        return self.parameter.kind == "choice"

    @property
    def in_force(self) -> np.ndarray:
        return ~np.isnan(self.unit)

    def value_at(self, unit: np.ndarray | float) -> np.ndarray:
        """Values of a numerical parameter at these places in its range; whole numbers are not rounded."""
        low, high = self.parameter.low, self.parameter.high
        if self.parameter.log:
            return np.exp(np.log(low) + np.asarray(unit) * (np.log(high) - np.log(low)))
        return low + np.asarray(unit) * (high - low)


@dataclass(frozen=True)
class Columns:
    """The ended trials of a search, by number; N of them.

    Attributes:
        numbers i[N], states, reasons (stop reasons) and presets str[N] or None.
        scores f[N]: the first objective at each trial's best epoch; NaN without a value.
        epochs f[N]: epochs trained. order i[N]: positions in the order in which the trials ended.
        settings: the searched parameters by name. maximize: whether a larger score is better.
    """

    numbers: np.ndarray
    states: np.ndarray
    reasons: np.ndarray
    presets: np.ndarray
    scores: np.ndarray
    epochs: np.ndarray
    order: np.ndarray
    settings: Mapping[str, Setting]
    objective: str
    maximize: bool
    sampler: str

    @property
    def sign(self) -> float:
        return 1.0 if self.maximize else -1.0

    @cached_property
    def goodness(self) -> np.ndarray:
        """f[N]: scores turned so that more is better; a trial that has none counts as the worst that has."""
        good = self.sign * self.scores
        known = good[np.isfinite(good)]
        return np.where(np.isfinite(good), good, known.min() if known.size else 0.0)

    @property
    def num_scored(self) -> int:
        return int(np.isfinite(self.scores).sum())


def read_columns(trials: pa.Table, space: Space) -> Columns:
    """The ended search trials of trials.parquet (`search.record.read_trials`) as columns."""
    import pyarrow.compute as pc

    ended = pc.and_(pc.equal(trials["phase"], "search"), pc.is_in(trials["state"], _strings(ENDED)))
    table = trials.filter(ended).sort_by("trial")
    scores = np.array(table["objective"].to_numpy(zero_copy_only=False), dtype=float)
    finished = table["finished_at"].cast("int64").to_numpy(zero_copy_only=False).astype(float)
    return Columns(
        numbers=table["trial"].to_numpy(zero_copy_only=False).astype(int),
        states=_words(table["state"]),
        reasons=_words(table["stop_reason"]),
        presets=_words(table["preset"]),
        scores=np.where(np.isfinite(scores), scores, np.nan),
        epochs=np.nan_to_num(table["epochs"].to_numpy(zero_copy_only=False).astype(float)),
        order=np.argsort(np.where(np.isnan(finished), np.inf, finished), kind="stable"),
        settings=_settings(table, space),
        objective=space.objectives[0],
        maximize=space.directions[0] == "maximize",
        sampler=space.sampler,
    )


def _strings(words: Sequence[str]) -> pa.Array:
    import pyarrow as pa

    return pa.array(words, pa.string())


def _settings(table: pa.Table, space: Space) -> dict[str, Setting]:
    settings: dict[str, Setting] = {}
    for name, parameter in space.searched().items():
        column = next(
            (f"{prefix}.{name}" for prefix in ("knob", "static") if f"{prefix}.{name}" in table.column_names),
            None,
        )
        if column is None:  # no trial has got as far as having settings
            continue
        values = table[column].to_pylist()
        unit = _unit(parameter, values)
        unit[~_in_force(parameter, space, settings, len(values))] = np.nan
        settings[name] = Setting(parameter, unit, values)
    return settings


def _unit(parameter: Parameter, values: Sequence[Any]) -> np.ndarray:
    if parameter.kind == "choice":
        places = [
            next((place for place, choice in enumerate(parameter.choices) if same(choice, value)), np.nan)
            for value in values
        ]
        return np.array(places, dtype=float)
    numbers = np.array([np.nan if value is None else value for value in values], dtype=float)
    low, high = float(parameter.low), float(parameter.high)
    if parameter.log:
        numbers, low, high = np.log(numbers), np.log(low), np.log(high)
    return np.clip((numbers - low) / (high - low), 0.0, 1.0) if high > low else np.zeros_like(numbers)


def _in_force(parameter: Parameter, space: Space, before: Mapping[str, Setting], n: int) -> np.ndarray:
    """Where all of a parameter's conditions hold; targets come before what depends on them."""
    holds = np.ones(n, dtype=bool)
    for target, allowed in parameter.when.items():
        if target in before:
            setting = before[target]
            fits = [any(same(value, item) for item in allowed) for value in setting.values]
            holds &= setting.in_force & np.array(fits, dtype=bool)
        else:
            holds &= in_force(space.parameters, parameter.name, {})
    return holds


def _words(column: pa.ChunkedArray) -> np.ndarray:
    return np.array(column.to_pylist(), dtype=object)
