"""A run directory as a long search of beta_vae leaves it, its figures made up: no Ray, no training.

The formula plants what a report should find: `kl.weight` and `class_weights.method` decide most,
`kl.free_bits` nothing; without class weights and with a large gamma the model collapses (`mode`), with
a large KL weight, too (`posterior`). Rows go through the record's own writer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from search.record import Recorder, summarise
from search.run import Run
from search.run_directory import RunDirectory
from search.space import Parameter, Space, load_space
from trainables.charts import new_figure, save_figure

BEGAN = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
EPOCH_S = 0.75
METHODS = {"none": -0.05, "inverse": 0.03, "sqrt_inverse": 0.06, "effective": 0.05}
ERROR = "ValueError: the family raised"


def make_study(
    out: Path,
    trials: int,
    *,
    epochs: int = 20,
    seed: int = 0,
    ended: int | None = None,
    pictures: bool = True,
    space: Space | None = None,
    whole: bool = False,
) -> tuple[RunDirectory, Space]:
    """A finished run of `trials` trials below `out`, or with `ended` one that is not: a trial then runs.

    With `whole` no trial ends before its budget.
    """
    space = space or load_space("beta_vae", trials=trials, epochs=epochs)
    directory = Run.create(space, out)
    about = {"space": json.dumps(space.resolved()), "versions": "{}"}
    recorder, random, rows = Recorder(directory.path, about), np.random.default_rng(seed), []
    for number in range(trials if ended is None else min(trials, ended + 1)):
        preset = space.presets[number] if number < len(space.presets) else None
        values = space.preset_values(preset) if preset else _sampled(space, random)
        reported, state, reason = _trained(number, space, values, random, whole)
        if number == ended:
            reported, state, reason = reported[:2], "RUNNING", None
        for row in reported:
            recorder.add(row)
        rows.append(_trial(number, preset, values, reported, state, reason, space))
        _files(directory, number, rows[-1], space, values, pictures and number < 60)
    recorder.write_trials(rows)
    recorder.compact()
    return directory, space


def _sampled(space: Space, random: np.random.Generator) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for name, parameter in space.searched().items():
        if space.in_force(name, chosen):
            chosen[name] = _drawn(parameter, random)
    return chosen


def _drawn(parameter: Parameter, random: np.random.Generator) -> Any:
    if parameter.kind == "choice":
        return parameter.choices[random.integers(len(parameter.choices))]
    low, high = float(parameter.low), float(parameter.high)
    if parameter.kind == "int":
        return int(random.integers(int(low), int(high) + 1))
    if parameter.log:
        return math.exp(random.uniform(math.log(low), math.log(high)))
    return random.uniform(low, high)


def _trained(
    number: int, space: Space, values: Mapping[str, Any], random: np.random.Generator, whole: bool
) -> tuple[list[dict[str, Any]], str, str]:
    """The epochs of one trial, its state and why it ended."""
    full = space.complete(values)
    weight, gamma = float(full.get("kl.weight", 0.01)), float(full.get("reconstruction.gamma", 1.0))
    method, rate = full.get("class_weights.method", "inverse"), float(full["optim.lr"])
    mode, posterior = method == "none" and gamma > 1.2, weight > 1.0
    reach = 0.21 + METHODS.get(method, 0.0) - 0.035 * (math.log10(weight) + 2.5) ** 2
    reach += 0.01 * math.sin(gamma) - 0.02 * (math.log10(rate) + 3.0) ** 2 + random.normal(0, 0.008)
    reach = 0.093 if mode else max(0.1, reach - 0.08 * posterior)
    budget, rows = space.budget.epochs, []
    for epoch in range(1, budget + 1):
        value = 0.093 + (reach - 0.093) * (1 - math.exp(-4 * epoch / budget)) + random.normal(0, 0.003)
        rows.append(_row(number, epoch, value, reach, mode, posterior, rate, weight))
    if whole:
        return rows, "COMPLETE", "completed"
    rung = max(1, budget // 5)
    if number % 97 == 96:
        rows[rung - 1]["diverged"] = True
        return rows[:rung], "PRUNED", "diverged"
    if number % 61 == 60:
        return [], "FAIL", "raised"
    if mode or posterior:
        kind = "mode" if mode else "posterior"
        return rows[: max(2, 2 * budget // 5)], "PRUNED", f"collapse:{kind}"
    if number >= len(space.presets) and (reach < 0.2 or number % 4 == 3):
        return rows[:rung], "PRUNED", "successive_halving"
    return (
        (rows[: 4 * budget // 5], "COMPLETE", "plateau")
        if number % 5 == 4
        else (rows, "COMPLETE", "completed")
    )


def _row(
    number: int,
    epoch: int,
    value: float,
    reach: float,
    mode: bool,
    posterior: bool,
    rate: float,
    weight: float,
) -> dict[str, Any]:
    measured = {
        "selection_accuracy": value,
        "pixel_accuracy": 0.935 if mode else 0.98 - 1.1 * abs(value - 0.17) - 0.3 * (reach - 0.1),
        "balanced_accuracy": 0.1 + value,
        "foreground_accuracy": 0.02 if mode else 2 * value,
        "kl_mean": 0.01 if posterior else 0.2 + 0.1 / (weight + 0.1),
    }
    return {
        "trial": number, "epoch": epoch, "engine": f"engine-{number % 2}", "slot": 0, "seconds": EPOCH_S,
        "lr": rate, "grad_norm": 1.0 / epoch, "diverged": False, "train.loss": 1.0 / epoch,
        "val.loss": 1.1 / epoch, "val.reconstruction": 0.9 / epoch, "val.kl": 0.2, "weight.kl": weight,
        "active.kl": 1000,
        **{f"val.{name}": number for name, number in measured.items()},
        **{f"train.{name}": number for name, number in measured.items()},
        "collapsed.mode": mode, "collapsed.posterior": posterior,
        "vectors": {"kl": [0.1] * 16, "iou": [value] * 10},
    }  # fmt: skip


def _trial(
    number: int,
    preset: Any,
    values: Mapping[str, Any],
    reported: list,
    state: str,
    reason: str | None,
    space: Space,
) -> dict[str, Any]:
    began = BEGAN + timedelta(seconds=4 * number)
    row: dict[str, Any] = {
        "trial": number, "phase": "search", "state": state, "stop_reason": reason, "seed": number,
        "retries": 0, "preset": preset.name if preset else None, "engine": f"engine-{number % 2}",
        "epochs": len(reported),
        "error": ERROR if state == "FAIL" else None, "started_at": began,
        "finished_at": began + timedelta(seconds=EPOCH_S * len(reported)) if reason else None,
    }  # fmt: skip
    if reported:
        minimise = [n for n, way in zip(space.objectives, space.directions, strict=True) if way == "minimize"]
        row |= {
            name: value
            for name, value in summarise(reported, space.objectives, minimise).items()
            if not name.startswith(("final.vectors", "best.vectors"))
        }
    full = space.complete(values)
    row |= {
        f"knob.{name}": values.get(name, None if space.parameters[name].searched else full[name])
        for name in space.knobs
    }
    return row | {f"static.{name}": full[name] for name in space.static}


def _files(
    directory: RunDirectory,
    number: int,
    row: Mapping[str, Any],
    space: Space,
    values: Mapping[str, Any],
    picture: bool,
) -> None:
    folder = directory.trial(number)
    (folder / "figures").mkdir(parents=True)
    full = space.complete(values)
    content = {
        "family": space.family_name, "source": f"trial {number}", "objective": space.objectives[0],
        "data": dict(space.data), "epochs": space.budget.epochs, "seed": row["seed"],
        "static": {name: full[name] for name in space.static},
        "knobs": {name: full[name] for name in space.knobs},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    if picture and row.get("best_epoch"):
        figure = new_figure(3, 1.5)
        axes = figure.subplots(1, 3)
        for axis in axes:
            axis.imshow(np.random.default_rng(number).integers(10, size=(8, 8)), cmap="tab10")
            axis.set_axis_off()
        figure.suptitle(f"trial {number}")
        save_figure(figure, folder / "figures" / f"reconstructions_epoch_{row['epochs']}.png")
