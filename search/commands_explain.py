"""The command that says why one trial of a run ended as it did: explain."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.console import say, shown_path
from search.errors import BadInput
from search.session import Out, RunName

if TYPE_CHECKING:
    from search.replay import Evidence
    from search.run_directory import RunDirectory
    from search.space import Space

__all__ = ["explain"]

RUNS = Path("runs")
RUNG = "completed_rung_"  # under which Optuna's successive halving keeps a trial's value at a rung


def explain(
    name: RunName,
    trial: Annotated[int, typer.Argument(metavar="TRIAL", help="A trial's number.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the same facts as JSON.")] = False,
    out: Out = RUNS,
) -> None:
    """Explain why TRIAL of RUN ended as it did.

    The rule that ended it with the numbers that it saw, computed again from the stored epochs; its settings
    beside the best trial's and beside the nearest trial that did better; its curves, warnings and files.
    Works while the run is going on.

    \b
    Examples:
      loss-search explain beta_vae-20260131-120000 7
      loss-search explain runs/beta_vae-20260131-120000 7 --json
    """
    from search.explain_lines import print_explanation
    from search.explaining import explain as explained
    from search.run import Run
    from search.run_directory import RunDirectory

    directory = RunDirectory.open(name, out)
    space = Run.stored_space(directory)
    evidence = _evidence(directory, space)
    if trial not in evidence.trials:
        numbers = evidence.trials.keys()
        known = f"its trials are 0 to {max(numbers)}" if numbers else "it has no trials yet"
        raise BadInput(f"{shown_path(directory.path)}: has no trial {trial}; {known}")
    facts = {"run": directory.name, **explained(trial, evidence, space), "files": _files(directory, trial)}
    if as_json:
        say(json.dumps(_plain(facts), indent=1, allow_nan=False))
    else:
        print_explanation(facts, directory)


def _evidence(directory: RunDirectory, space: Space) -> Evidence:
    """What is stored about a run: trials from the study, epochs from the event log, and from Parquet those
    that the log lacks."""
    from search.events import phase_of
    from search.record import read_epochs, rows_from_events
    from search.replay import Evidence
    from search.standing import standing_of

    standing = standing_of(directory, space)
    events = [event for event in standing.events if phase_of(event) == "search"]
    rows: dict[tuple[int, int], Mapping[str, Any]] = {}
    for row in rows_from_events(events):
        rows[row["trial"], row["epoch"]] = row
    for row in read_epochs(directory.path, []).to_pylist():
        if row["phase"] == "search":
            rows.setdefault((row["trial"], row["epoch"]), _as_reported(row))
    epochs: dict[int, list[Mapping[str, Any]]] = {}
    for number, epoch in sorted(rows):
        epochs.setdefault(number, []).append(rows[number, epoch])
    trials = {one["number"]: _trial(one, epochs.get(one["number"], []), space) for one in standing.trials}
    return Evidence(trials, epochs, events, _rungs(directory, space), standing.running)


def _as_reported(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of epochs.parquet as the event log has it: what was not measured or judged is NaN."""
    return {name: math.nan if value is None else value for name, value in row.items()}


def _trial(one: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], space: Space) -> dict[str, Any]:
    from search.record import summarise

    attributes, ways = one["user_attrs"], zip(space.objectives, space.directions, strict=True)
    found = summarise(rows, space.objectives, [n for n, way in ways if way == "minimize"]) if rows else {}
    return {
        "trial": one["number"],
        "state": one["state"],
        # Attributes are stored just before the state: while it is not there, the trial has not ended.
        "reason": None if one["state"] in ("RUNNING", "WAITING") else attributes.get("stop_reason"),
        "numbers": attributes.get("stop_numbers") or {},
        "preset": attributes.get("preset"),
        "seed": attributes.get("seed"),
        "retries": attributes.get("retries", 0),
        "engine": attributes.get("engine"),
        "error": attributes.get("error"),
        "value": found.get("objective"),
        "best_epoch": found.get("best_epoch"),
        "epochs": len(rows),
        "recorded_epochs": attributes.get("epochs"),
        "settings": dict(one["params"]),
    }


def _rungs(directory: RunDirectory, space: Space) -> dict[int, dict[int, float]] | None:
    """The values that successive halving kept in the study; None where the space prunes otherwise."""
    if space.stop.prune is None or space.stop.prune["rule"] != "successive_halving":
        return None
    import optuna

    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(directory.journal))
    )
    studies = [study.study_name for study in optuna.get_all_study_summaries(storage)]
    if space.name not in studies:
        return {}
    study = optuna.load_study(study_name=space.name, storage=storage)
    return {
        trial.number: {
            int(key.removeprefix(RUNG)): value
            for key, value in trial.system_attrs.items()
            if key.startswith(RUNG)
        }
        for trial in study.get_trials(deepcopy=False)
    }


def _files(directory: RunDirectory, number: int) -> dict[str, Any]:
    """The trial's files that there are, as one would type them here."""
    folder = directory.trial(number)
    single = {name: folder / name for name in ("model.pt", "last.pt", "config.yaml", "run.log")}
    return {
        "pictures": [shown_path(path) for path in sorted((folder / "figures").glob("*.png"))],
        **{name: shown_path(path) for name, path in single.items() if path.is_file()},
        **({"log of the run": shown_path(directory.log)} if directory.log.is_file() else {}),
    }


def _plain(value: Any) -> Any:
    """`value` with null for every number that is not finite: JSON has none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
