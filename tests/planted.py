"""A search whose truth is known: a planted optimum, one knob that matters, noise of a known size.

    score = 0.8 - 0.4 |u - 0.3| of the planted knob - 0.06 |u - 0.3| of four others - 0.1 interaction + noise

`u` is a knob's place in its range. `idle` and `idle_choice` do nothing. The space and its rows are those of
a real run as far as the analysis reads them; the sampler is that of `search.study`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pyarrow as pa

from search import parameters
from search.parameters import Parameter
from search.schema import TRIAL_COLUMNS, table_of
from search.study import _sampler

NOISE = 0.03  # deviation between seeds
OPTIMUM = 0.3
KNOBS = {
    "lr": Parameter("lr", "float", low=1e-4, high=1e-1, log=True),
    "gamma": Parameter("gamma", "float", low=0.0, high=4.0),
    "method": Parameter("method", "choice", choices=("none", "inverse", "sqrt", "effective")),
    "cap": Parameter("cap", "float", low=10.0, high=1000.0, log=True, when={"method": ("inverse", "sqrt")}),
    "depth": Parameter("depth", "int", low=1, high=8),
    "idle": Parameter("idle", "float", low=0.0, high=1.0),
    "idle_choice": Parameter("idle_choice", "choice", choices=("a", "b", "c")),
}
WEIGHED = ("lr", "gamma", "method", "cap", "depth")


class PlantedSpace:
    """As much of a `Space` as the analysis and the sampler read."""

    def __init__(self, sampler: str = "tpe", seed: int = 0, maximize: bool = True) -> None:
        self.objectives, self.directions = ("score",), ("maximize" if maximize else "minimize",)
        self.sampler, self.seed, self.confirm, self.parameters = sampler, seed, {}, KNOBS
        self.family = SimpleNamespace(metrics={})

    def searched(self) -> Mapping[str, Parameter]:
        return KNOBS


def truth(settings: Mapping[str, Any], planted: str, together: float = 0.0) -> float:
    """The score without noise; `together` is the size of an interaction between lr and gamma."""
    place = {name: unit_of(name, value) for name, value in settings.items()}
    score = 0.8
    for name in WEIGHED:
        if name in place:
            score -= (0.4 if name == planted else 0.06) * abs(place[name] - OPTIMUM)
    return score - together * (place["lr"] - 0.5) * (place["gamma"] - 0.5)


def unit_of(name: str, value: Any) -> float:
    parameter = KNOBS[name]
    if parameter.kind == "choice":
        return parameter.choices.index(value) / (len(parameter.choices) - 1)
    low, high, at = parameter.low, parameter.high, value
    if parameter.log:
        low, high, at = np.log(low), np.log(high), np.log(value)
    return float((at - low) / (high - low))


def drawn(random: np.random.Generator) -> dict[str, Any]:
    """One configuration at random."""
    values: dict[str, Any] = {}
    for name, parameter in KNOBS.items():
        if not parameters.in_force(KNOBS, name, values):
            continue
        if parameter.kind == "choice":
            values[name] = parameter.choices[random.integers(len(parameter.choices))]
        elif parameter.kind == "int":
            values[name] = int(random.integers(parameter.low, parameter.high + 1))
        elif parameter.log:
            values[name] = float(np.exp(random.uniform(np.log(parameter.low), np.log(parameter.high))))
        else:
            values[name] = float(random.uniform(parameter.low, parameter.high))
    return values


def searched_rows(
    space: PlantedSpace, trials: int, planted: str = "lr", noise: float = NOISE, together: float = 0.0
) -> list[dict[str, Any]]:
    """Rows of trials.parquet of a search of `trials` trials by the space's sampler."""
    random = np.random.default_rng(space.seed)
    study = optuna.create_study(direction="maximize", sampler=_sampler(space, 0))
    rows = []
    for number in range(trials):
        trial = study.ask()
        values: dict[str, Any] = {}
        for name, parameter in KNOBS.items():
            if parameters.in_force(KNOBS, name, values):
                values[name] = _suggested(trial, parameter)
        score = truth(values, planted, together) + noise * random.standard_normal()
        study.tell(trial, score)
        rows.append(row(number, values, score if space.directions == ("maximize",) else -score))
    return rows


def row(number: int, values: Mapping[str, Any], score: float | None, **more: Any) -> dict[str, Any]:
    """One ended search trial."""
    return {
        "trial": number,
        "phase": "search",
        "state": "COMPLETE",
        "stop_reason": "completed",
        "preset": None,
        "seed": 0,
        "objective": score,
        "epochs": 20,
        "finished_at": 1_700_000_000.0 + number,
        **{f"knob.{name}": values.get(name) for name in KNOBS},
        **more,
    }


def table(rows: list[dict[str, Any]]) -> pa.Table:
    from search.schema import typed_trial

    kinds = {f"knob.{name}": {"choice": str, "int": int, "float": float}[p.kind] for name, p in KNOBS.items()}
    return table_of([typed_trial(one) for one in rows], TRIAL_COLUMNS, kinds)


def _suggested(trial: optuna.Trial, parameter: Parameter) -> Any:
    if parameter.kind == "choice":
        return trial.suggest_categorical(parameter.name, list(parameter.choices))
    if parameter.kind == "int":
        return trial.suggest_int(parameter.name, parameter.low, parameter.high)
    return trial.suggest_float(parameter.name, parameter.low, parameter.high, log=parameter.log)
