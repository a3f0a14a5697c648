"""A run directory as a search leaves it, made through `search.run.Run` with made-up reports: no Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from search.run import Run
from search.run_directory import RunDirectory
from search.space import Space, load_space
from search.study import Asked

SPACE = {
    "name": "toy",
    "family": "tiny_family:TINY",
    "budget": {"trials": 6, "epochs": 4},
    "knobs": {
        "penalty.weight": {"float": [0.001, 1.0], "log": True},
        "penalty.schedule": {"choice": ["constant", "delayed"]},
        "penalty.start": {"float": [0.0, 0.5], "when": {"penalty.schedule": "delayed"}},
    },
    "start_from": [
        {"name": "habit", "penalty.weight": 0.1, "penalty.schedule": "constant"},
        {"name": "bold [red]", "penalty.weight": 0.5, "penalty.schedule": "constant"},
    ],
    "search": {"sampler": "random", "seed": 3},
    "stop": {
        "prune": "off",
        "plateau": "off",
        "collapse": {"warmup": 0, "patience": 4},
    },
}
# By trial, the accuracy at each epoch: 0 collapses, 1 and 2 complete, 3 diverges, 4 raises, 5 is pruned.
CURVES = {0: [0.5] * 4, 1: [0.6, 0.7, 0.65, 0.66], 2: [0.5, 0.8, 0.9, 0.85], 3: [0.5, 0.55], 5: [0.4, 0.3]}


def toy_space(folder: Path, **changes: Any) -> Space:
    """The toy space, read from a file that is written to `folder`."""
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump({**SPACE, **changes}, sort_keys=False), encoding="utf-8")
    return load_space(path)


def message(
    trial: int, epoch: int, accuracy: float, *, diverged: bool = False, **flags: float
) -> dict[str, Any]:
    """One epoch's report as an engine posts it."""
    row = {
        "lr": 0.01,
        "grad_norm": 1.0,
        "seconds": 0.5,
        "train.loss": 1 / epoch,
        "val.loss": 2 / epoch,
        "val.reconstruction": 1.5 / epoch,
        "val.penalty": 0.1,
        "val.selection_accuracy": accuracy,
        "val.error": 1 - accuracy,
        "val.code_scale": 0.3,
        "train.selection_accuracy": accuracy,
        "collapsed.code": 0.0,
        **{f"collapsed.{kind}": value for kind, value in flags.items()},
    }
    return {
        "trial": trial,
        "epoch": epoch,
        "row": row,
        "vectors": {"errors": [0.1, 0.2]},
        "diverged": diverged,
        "done": diverged,
        "engine": "engine-0",
        "slot": 0,
    }


def play(run: Run, trials: int) -> None:
    """Run `trials` trials from start to end, as `CURVES` says."""
    for _ in range(trials):
        asked = run.next_trial()
        number = asked.number
        if number not in CURVES:
            error = "Traceback:\nValueError: the family\x1b[31m raised"
            run.receive({"trial": number, "failed": "raised", "error": error, "retries": 2})
            continue
        for epoch, accuracy in enumerate(CURVES[number], start=1):
            last = epoch == len(CURVES[number])
            run.receive(
                message(number, epoch, accuracy, diverged=number == 3 and last, code=float(number == 0))
            )
        if number == 5:
            run.end(5, "PRUNED", "successive_halving")


def play_confirmation(
    run: Run, score: Callable[[int, int], float], *, trials: int | None = None, only: Asked | None = None
) -> list[tuple[int, int, int]]:
    """Run a confirmation's trials (`trials` of them, or `only` one) to their end.

    `score` gives the test score by source and the seed's place. Returns (number, source, seed) of each.
    """
    played = []
    while trials is None or len(played) < trials:
        asked = only or run.next_trial()
        if asked is None:
            break
        number, epochs = asked.number, run.space.budget.epochs
        for epoch in range(len(run.trials[number].rows) + 1, epochs + 1):
            report = {**message(number, epoch, 0.5 + 0.1 * epoch / epochs), "done": epoch == epochs}
            if report["done"]:
                value = score(asked.source, run.queue.seeds.index(asked.seed))
                report["row"]["test.selection_accuracy"] = value
            run.receive(report)
        played.append((number, asked.source, asked.seed))
        if only is not None:
            break
    return played


def toy_run(out: Path, *, trials: int = 6, **changes: Any) -> tuple[RunDirectory, Space]:
    """A run below `out` of which `trials` trials were played to their end; with all six it is finished."""
    out.mkdir(parents=True, exist_ok=True)
    space = toy_space(out.parent, **changes)
    directory = Run.create(space, out)
    with directory.locked(), Run(directory, space) as run:
        play(run, trials)
        run.close()
    return directory, space
