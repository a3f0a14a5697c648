"""Rows and runs for the tests of the record and of its checker."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

from search.record import Recorder, read_epochs, summarise

METADATA = {"space": "family: beta_vae", "versions": '{"torch": "2.13"}'}


def row(trial: int, epoch: int, **more) -> dict:
    return {
        "trial": trial,
        "epoch": epoch,
        "engine": "engine-0",
        "slot": trial % 4,
        "seconds": 1.5,
        "lr": 1e-3,
        "grad_norm": 0.7,
        "train.kl": 3.0 / epoch,
        "val.selection_accuracy": epoch / 10 + trial,
        "weight.kl": 0.5,
        "active.kl": 128.0,
        "collapsed.mode": 0,
        "collapsed.posterior": math.nan,
        "vectors": {"kl_per_dim": [0.1, 0.2 * epoch]},
        **more,
    }


def fill(run_dir: Path, trials: int = 3, epochs: int = 4) -> Recorder:
    """A recorder with one part an epoch."""
    recorder = Recorder(run_dir, METADATA)
    for epoch in range(1, epochs + 1):
        for trial in range(trials):
            recorder.add(row(trial, epoch))
        recorder.flush()
    return recorder


def keys(run_dir: Path) -> list[tuple[int, int]]:
    warnings: list[str] = []
    table = read_epochs(run_dir, warnings)
    return list(zip(table["trial"].to_pylist(), table["epoch"].to_pylist(), strict=True))


def parts(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "epochs").glob("part-*.parquet"))


ALL = [(trial, epoch) for trial in range(3) for epoch in range(1, 5)]


def trial_row(number: int, **more) -> dict:
    rows = [row(number, epoch) for epoch in range(1, 5)]
    return {
        "trial": number,
        "state": "COMPLETE",
        "seed": 2**40 + number,
        "started_at": 1_700_000_000.5,
        "finished_at": datetime(2023, 11, 15, tzinfo=UTC),
        "retries": 0,
        "engine": "engine-0",
        "knob.kl.weight": 0.5,
        "static.latent_dim": 16,
        **summarise(rows, ["selection_accuracy"]),
        **more,
    }
