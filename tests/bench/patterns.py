"""Three ways to train the same configurations of beta_vae; `overhead.py` starts each in a process of its own.

- search: `search.driver.search`, long-lived engines, one a core, one slot each
- nested: Ray's documented pattern, a Tune function that calls `TorchTrainer.fit` (one worker), a trial a core
- loop: one plain process a core around `trainables.engine.Engine`, no Ray

All three train with the same engine, K = 1 and one thread; what differs is what starts, feeds and ends it.
Each writes for every configuration its best validation score and its last validation loss, and when its first
epoch's row and its end reached the process that runs the list.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

__all__ = ["CONFIGURATIONS", "REGIMES", "Regime", "WAYS", "configurations"]

CONFIGURATIONS = 12
DRAW_SEED = 20261121
TRIAL_SEED = 0
OBJECTIVE = "selection_accuracy"
RESOURCES_OF_A_TUNE_FUNCTION = {"CPU": 0.01}  # with the default of 1 two trials leave no core for a worker


@dataclass(frozen=True)
class Regime:
    """How much one trial computes: training grids of the synthetic source, and epochs."""

    name: str
    grids: int
    epochs: int


REGIMES = {
    regime.name: regime
    for regime in (Regime("short", 512, 5), Regime("long", 4096, 13), Regime("quick", 128, 3))
}


@dataclass
class Times:
    """What the process that runs the list sees, by configuration: Unix times in s, and results."""

    first: dict[int, float] = field(default_factory=dict)
    ended: dict[int, float] = field(default_factory=dict)
    best: dict[int, float] = field(default_factory=dict)
    loss: dict[int, float] = field(default_factory=dict)

    def row(self, index: int, score: float, loss: float, now: float) -> None:
        self.first.setdefault(index, now)
        self.best[index] = max(score, self.best.get(index, score))
        self.loss[index] = loss


def configurations() -> list[dict[str, Any]]:
    """The fixed list: what each configuration sets, drawn once; all else is the family's default."""
    draw = random.Random(DRAW_SEED)
    return [
        {
            "reconstruction.gamma": round(draw.uniform(0.0, 4.0), 4),
            "class_weights.method": draw.choice(["none", "inverse", "sqrt_inverse"]),
            "kl.weight": round(10 ** draw.uniform(-3.0, -0.5), 6),
            "optim.lr": round(10 ** draw.uniform(-3.5, -2.5), 6),
        }
        for _ in range(CONFIGURATIONS)
    ]


def space_of(regime: Regime, count: int, directory: Path) -> Any:
    """A space whose presets are the first `count` configurations, and whose budget is just those,
    unstopped.
    """
    from search.space import load_space

    content = {
        "name": f"overhead-{regime.name}",
        "family": "beta_vae",
        "data": {"source": "synthetic", "size": regime.grids, "seed": 0},
        "budget": {"trials": count, "epochs": regime.epochs},
        "objective": OBJECTIVE,
        "static": {"encoder": "mlp", "latent_dim": 16},
        "knobs": {
            "reconstruction.gamma": {"float": [0.0, 4.0]},
            "class_weights.method": {"choice": ["none", "inverse", "sqrt_inverse"]},
            "kl.weight": {"float": [0.001, 0.5], "log": True},
            "optim.lr": {"float": [0.0003, 0.004], "log": True},
        },
        "start_from": [{"name": f"c{i}", **chosen} for i, chosen in enumerate(configurations()[:count])],
        "search": {"sampler": "random", "seed": TRIAL_SEED},
        "stop": {"prune": "off", "plateau": "off", "collapse": "off"},
    }
    path = directory / "space.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return load_space(str(path))


@dataclass(frozen=True)
class Work:
    """One configuration as an engine takes it, plain values all of it."""

    index: int
    data: dict[str, Any]
    static: dict[str, Any]
    knobs: dict[str, Any]
    epochs: int


def work_of(space: Any) -> list[Work]:
    """What the search would hand to its engines, for the ways that do without it."""
    found = []
    for index, preset in enumerate(space.presets):
        everything = space.complete(space.preset_values(preset))
        static = {name: everything[name] for name in space.static}
        knobs = {name: everything[name] for name in space.knobs}
        found.append(Work(index, dict(space.data), static, knobs, space.budget.epochs))
    return found


def rows_of(work: Work, engine: Any) -> Iterator[dict[str, float]]:
    """Train `work` in the only slot of `engine`; validation score and loss after each epoch."""
    from trainables.member import Job

    engine.admit(Job(work.index, TRIAL_SEED, work.epochs, work.knobs), 0)
    done = False
    while not done:
        (report,) = engine.run_epoch()
        done = report.done
        yield {"score": report.row[f"val.{OBJECTIVE}"], "loss": report.row["val.loss"]}
    engine.evict(0)


def engine_for(work: Work) -> Any:
    """An engine of one slot and one thread."""
    import torch

    from trainables import family_named
    from trainables.engine import Engine

    torch.set_num_threads(1)
    family = family_named("beta_vae")
    return Engine(family, family.load(work.data), work.static, 1, objective=OBJECTIVE)


# ---------------------------------------------------------------------- search


def through_search(regime: Regime, count: int, directory: Path) -> Times:
    """The product's own way; the times are those of its event log."""
    from search.driver import Options, search
    from search.events import read_events
    from search.run import Run

    space = space_of(regime, count, directory)
    run = Run.create(space, directory)
    outcome = search(run, space, Options(), lambda snapshot: None)
    if not outcome.complete:
        sys.exit("the search was interrupted")
    times = Times()
    index = {}
    for event in read_events(run.events)[0]:
        if event["kind"] == "started":
            index[event["trial"]] = int(event["preset"].removeprefix("c"))
        elif event["kind"] == "reported":
            row = event["row"]
            times.row(index[row["trial"]], row[f"val.{OBJECTIVE}"], row["val.loss"], event["time"])
        elif event["kind"] == "finished":
            times.ended[index[event["trial"]]] = event["time"]
    return times


# ---------------------------------------------------------------------- nested


def through_nested(regime: Regime, count: int, directory: Path) -> Times:
    """A Tune trial a configuration, and in each of them a Ray Train run of its own.

    On a private Ray as the search has it: without dashboard, loggers and metrics, and with its process
    groups, which open no port. All of that only saves time here.
    """
    from search.cluster import RayOptions, connect, plan_engines

    work = work_of(space_of(regime, count, directory))
    plan = plan_engines(None, 1, 1, None)
    with connect(RayOptions(None, plan, verbose=False)):
        from ray import tune

        watcher = _watcher()
        tuner = tune.Tuner(
            tune.with_resources(_train_driver, RESOURCES_OF_A_TUNE_FUNCTION),
            param_space={"work": tune.grid_search(work), "storage": str(directory / "train")},
            tune_config=tune.TuneConfig(max_concurrent_trials=plan.engines),
            run_config=tune.RunConfig(
                name="nested", storage_path=str(directory / "tune"), callbacks=[watcher], verbose=0
            ),
        )
        errors = [str(result.error) for result in tuner.fit() if result.error]
    if errors:
        sys.exit(f"{len(errors)} trials failed; the first: {errors[0]}")
    return watcher.times


def _watcher() -> Any:
    """A Tune callback that keeps the times as the driver sees them."""
    from ray import tune

    class Watcher(tune.Callback):
        def __init__(self) -> None:
            self.times = Times()

        def on_trial_result(
            self, iteration: int, trials: list, trial: Any, result: dict, **info: Any
        ) -> None:
            self.times.row(trial.config["work"].index, result["score"], result["loss"], time.time())

        def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            self.times.ended[trial.config["work"].index] = time.time()

    return Watcher()


def _train_driver(config: dict[str, Any]) -> None:
    """The body of a Tune trial, as the Ray Train guide to hyperparameter optimization has it."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    from search.process_group import GroupConfig

    work = config["work"]
    TorchTrainer(
        _train_worker,
        train_loop_config={"work": work},
        torch_config=GroupConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(
            name=f"c{work.index}", storage_path=config["storage"], callbacks=[TuneReportCallback()]
        ),
    ).fit()


def _train_worker(config: dict[str, Any]) -> None:
    import ray.train

    for row in rows_of(config["work"], engine_for(config["work"])):
        ray.train.report(row)


# ---------------------------------------------------------------------- loop


def through_loop(regime: Regime, count: int, directory: Path) -> Times:
    """One process a core, each with one engine; configurations are dealt from a queue."""
    work = work_of(space_of(regime, count, directory))
    spawn = multiprocessing.get_context("spawn")
    tasks, rows = spawn.SimpleQueue(), spawn.SimpleQueue()
    cores = len(os.sched_getaffinity(0))
    processes = [spawn.Process(target=_loop, args=(tasks, rows), daemon=True) for _ in range(cores)]
    for process in processes:
        process.start()
    for task in [*work, *[None] * cores]:
        tasks.put(task)
    times = Times()
    remaining = {one.index: one.epochs for one in work}
    while any(remaining.values()):
        index, row = rows.get()
        now = time.time()
        times.row(index, row["score"], row["loss"], now)
        remaining[index] -= 1
        if not remaining[index]:
            times.ended[index] = now
    for process in processes:
        process.join()
    return times


def _loop(tasks: Any, rows: Any) -> None:
    engine = None
    while (work := tasks.get()) is not None:
        engine = engine or engine_for(work)
        for row in rows_of(work, engine):
            rows.put((work.index, row))


# ---------------------------------------------------------------------- as a process

WAYS: dict[str, Callable[[Regime, int, Path], Times]] = {
    "search": through_search,
    "nested": through_nested,
    "loop": through_loop,
}


def main() -> None:
    """Run one way and write what it saw to `result`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("regime", choices=REGIMES)
    parser.add_argument("count", type=int)
    parser.add_argument("directory", type=Path)
    parser.add_argument("result", type=Path)
    given = parser.parse_args()
    signal.signal(
        signal.SIGTERM, lambda number, frame: sys.exit(128 + number)
    )  # so that every `finally` runs
    with tempfile.TemporaryDirectory(dir=given.directory, prefix=f"{given.way}-") as scratch:
        times = WAYS[given.way](REGIMES[given.regime], given.count, Path(scratch))
    given.result.write_text(json.dumps(vars(times)), encoding="utf-8")


if __name__ == "__main__":
    main()
