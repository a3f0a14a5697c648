"""A run in files that need nothing of this package: CSV, one model, one configuration."""

from __future__ import annotations

import csv
import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from search.console import shown_path
from search.errors import BadInput
from search.record import read_epochs, read_trials
from search.run_directory import RunDirectory
from search.space import Space
from search.summary import read_rows, summarise

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["export_run"]


def export_run(directory: RunDirectory, space: Space, to: Path) -> list[str]:
    """Write trials.csv, epochs.csv, space.yaml, and of the best trial model.pt and config.yaml into `to`.

    Returns lines that say what was written. Raises BadInput when `to` holds something or cannot be made.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise BadInput(f"--to {to}: exists and is not empty; name a new directory")
    try:
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--to {to}: cannot be made ({error.strerror})") from error
    trials, confirmed = _by_phase(read_trials(directory.path))
    epochs, confirm_epochs = _by_phase(read_epochs(directory.path))
    _write_csv(trials, to / "trials.csv")
    _write_csv(epochs, to / "epochs.csv")
    shutil.copyfile(directory.space, to / "space.yaml")
    said = [
        f"{shown_path(to / 'trials.csv')}: {trials.num_rows} trials",
        f"{shown_path(to / 'epochs.csv')}: {epochs.num_rows} epochs",
        f"{shown_path(to / 'space.yaml')}: what was searched",
    ]
    if confirmed.num_rows:
        _write_csv(confirmed, to / "confirm_trials.csv")
        _write_csv(confirm_epochs, to / "confirm_epochs.csv")
        said.append(
            f"{shown_path(to / 'confirm_trials.csv')}: {confirmed.num_rows} trials of the confirmation, with "
            "confirm_epochs.csv"
        )
    best = summarise(read_rows(directory), space, directory.name)["best"]
    if best is None:
        return [*said, "no trial has a value yet: there is no best model to export"]
    for name in ("config.yaml", "model.pt"):
        source = directory.trial(best["trial"]) / name
        # A link in a run from elsewhere could name any file of the reader's.
        if source.is_file() and not source.is_symlink():
            shutil.copyfile(source, to / name)
            said.append(f"{shown_path(to / name)}: of trial {best['trial']}, the best")
        else:
            said.append(f"trial {best['trial']}, the best, has no {name} yet")
    return said


def _by_phase(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The rows of the search, without what only a confirmation has, and those of the confirmation."""
    search, confirm = (table.filter(pc.equal(table["phase"], phase)) for phase in ("search", "confirm"))
    only = [name for name in table.column_names if name == "source" or name.startswith("test.")]
    return search.drop_columns(only), confirm


def _write_csv(table: pa.Table, path: Path) -> None:
    """One line a row: empty for null, JSON for lists, ISO 8601 for times."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.column_names)
        for row in table.to_pylist():
            writer.writerow([_cell(value) for value in row.values()])


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return json.dumps(value)
    return value.isoformat() if isinstance(value, datetime) else value
