"""Runs in a store for the tests: searches that are played with made-up reports (`toy_run`), without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toy_run import play, toy_space

from search.fetching import Copy
from search.record import read_epochs
from search.record_check import check_record
from search.run import Run
from search.run_directory import RunDirectory
from search.space import Space
from search.standing import standing_of
from search.storage import Location
from trainables.object_store import ObjectStore


@contextmanager
def searching(directory: RunDirectory, space: Space) -> Iterator[Run]:
    """A run that is open, held and mirrored, as a search has it."""
    with directory.kept(), directory.locked(), Run(directory, space) as run:
        yield run


def search(out: Location, tmp_path: Path, trials: int = 6) -> RunDirectory:
    """A run in the store of which `trials` trials were played; with all six it is finished."""
    space = toy_space(tmp_path)
    directory = Run.create(space, out)
    with searching(directory, space) as run:
        play(run, trials)
        run.close()
    return directory


def complaints(path: Path, run: str) -> list[str]:
    """What a reader of the store as it is now would complain about."""
    copy = Copy(ObjectStore(f"file://{path}/{run}"), path.parent / "reader" / run)
    copy.refresh()
    directory = RunDirectory(copy.local)
    space = Run.stored_space(directory)
    standing = standing_of(directory, space)
    table = read_epochs(copy.local, found := [])
    stored = set(zip(table["trial"].to_pylist(), table["epoch"].to_pylist(), strict=True))
    known = {(e["row"]["trial"], e["row"]["epoch"]) for e in standing.events if e["kind"] == "reported"}
    found += [f"row {key} is in a table and not in the event log" for key in stored - known]
    events = [
        event
        for event in standing.events
        if event["kind"] != "reported" or (event["row"]["trial"], event["row"]["epoch"]) in stored
    ]
    return [*found, *standing.warnings, *check_record(copy.local, standing.trials, events)]
