"""The commands that read a run: show, check, export, tensorboard."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.console import complain, duration, number, print_table, say, short, shown_path
from search.errors import BadInput, DamagedRun
from search.session import Out, RunName

if TYPE_CHECKING:
    from search.stored_run import StoredRun

__all__ = ["check", "export", "show", "tensorboard"]

RUNS = Path("runs")
ENDED = ("COMPLETE", "PRUNED", "FAIL")
LOOKS, BETWEEN_LOOKS_S = 4, 1.0  # of `check` at a run that is being written
REFRESH_S = 15.0  # how often TensorBoard's copy of a run in a store is brought up to date
TENSORBOARD_PORTS = range(6006, 6026)


def show(
    name: RunName,
    trial: Annotated[
        int | None, typer.Argument(metavar="TRIAL", help="A trial's number, for everything about it.")
    ] = None,
    out: Out = RUNS,
) -> None:
    """Show how RUN stands, or everything about one TRIAL.

    Works while the run is going on. The tables of an experiment are shown where the space declares one. With
    TRIAL: its knobs, its state and why, its curves as numbers, files.

    \b
    Examples:
      loss-search show beta_vae-20260131-120000
      loss-search show runs/beta_vae-20260131-120000 7
    """
    from search.experiment_tables import experiment_of, print_experiment
    from search.record import read_trials
    from search.run import Run
    from search.run_directory import RunDirectory
    from search.standing import standing_of

    directory = RunDirectory.open(name, out)
    space = Run.stored_space(directory)
    rows = [row for row in read_trials(directory.path).to_pylist() if row["phase"] == "search"]
    if trial is not None:
        row = next((row for row in rows if row["trial"] == trial), None)
        if row is None:
            known = (
                f"its trials are 0 to {max(row['trial'] for row in rows)}" if rows else "it has no trials yet"
            )
            raise BadInput(f"{shown_path(directory.path)}: has no trial {trial}; {known}")
        _show_trial(row, directory, space)
        return
    standing = standing_of(directory, space)
    ended = f"{standing.word}, {standing.ended} of {standing.wanted} trials ended"
    say(f"{directory.name}: {ended}; {space.family_name}, {space.budget.epochs} epochs a trial")
    say(f"objective: {space.objectives[0]}")
    columns = (
        "trial",
        "preset",
        "state",
        "reason",
        "epochs",
        "best",
        "at epoch",
        "time",
        "engine",
    )
    cells = [
        (
            row["trial"],
            row["preset"],
            _state(row, directory, standing.running),
            row["stop_reason"],
            row["epochs"] or 0,
            number(row["objective"]),
            number(row["best_epoch"]),
            duration(row["seconds"] or 0.0),
            row["engine"],
        )
        for row in rows
    ]
    print_table(columns, cells, right=("trial", "epochs", columns[5], "at epoch", "time"))
    experiment = experiment_of(directory, space)
    if experiment is not None:
        print_experiment(experiment, directory)
        say()
    if standing.confirm_trials:
        say(_confirmation(standing, directory))
    if not standing.finished and not standing.running:
        say(f"continue with: loss-search resume {shown_path(directory.path)}")


def _confirmation(standing: Any, directory: Any) -> str:
    """How far the confirmation is, in one line."""
    ended, command = (
        sum(one["state"] in ENDED for one in standing.confirm_trials),
        f"loss-search confirm {shown_path(directory.path)}",
    )
    if standing.confirmed:
        return f"confirmed by {ended} trials with fresh seeds; {command} shows them and trains nothing"
    if standing.running:
        return f"its confirmation has {ended} trials so far"
    return f"its confirmation stopped after {ended} trials; continue with: {command}"


def _state(row: Mapping[str, Any], directory: Any, running: bool) -> str:
    """A trial's state as a person means it: to the study one runs that only waits for a slot."""
    from search.summary import is_queued

    if row["state"] != "RUNNING":
        return row["state"].lower()
    if not running:
        return "interrupted"
    return "queued" if is_queued(row, directory) else "running"


def _show_trial(row: Mapping[str, Any], directory: Any, space: Any) -> None:
    from search.record import read_epochs

    preset = f", preset {row['preset']}" if row["preset"] else ""
    reason = f" ({row['stop_reason']})" if row["stop_reason"] else ""
    ended = f"{row['state'].lower()}{reason}"
    say(f"trial {row['trial']}{preset}: {ended}, {row['epochs'] or 0} epochs, seed {row['seed']}")
    if row["objective"] is not None:
        say(f"best {space.objectives[0]} {number(row['objective'])} at epoch {row['best_epoch']}")
    if row["error"]:
        say(f"error: {row['error']}")
    say()
    settings = [name for name in row if name.startswith(("static.", "knob."))]
    print_table(
        ("setting", "value", ""),
        [
            (column.partition(".")[2], short(row[column]), _role(column, row[column], space))
            for column in settings
        ],
    )
    key = (row["phase"], row["trial"])
    epochs = [one for one in read_epochs(directory.path).to_pylist() if (one["phase"], one["trial"]) == key]
    if epochs:
        shown = [column for column in _curves(space) if epochs[0].get(column) is not None]
        say()
        print_table(
            ("epoch", *shown, "seconds"),
            [
                (one["epoch"], *(number(one[column]) for column in shown), number(one["seconds"]))
                for one in epochs
            ],
            right=("epoch", *shown, "seconds"),
        )
    files = sorted(path for path in directory.trial(row["trial"]).rglob("*") if path.is_file())
    say()
    for path in files:
        say(f"{shown_path(path)}  {path.stat().st_size:,} bytes")


def _role(column: str, value: Any, space: Any) -> str:
    parameter = space.parameters.get(column.partition(".")[2])
    if value is None:
        return "not in force"
    return "searched" if parameter is not None and parameter.searched else "fixed"


def _curves(space: Any) -> list[str]:
    """The columns that a trial is read by: losses, then validation metrics that have a better side."""
    metrics = [name for name, metric in space.family.metrics.items() if metric.higher_is_better is not None]
    terms = [f"val.{term}" for term in space.family.terms]
    wanted = [f"val.{name}" for name in (*space.objectives, *metrics)]
    return [*dict.fromkeys(["train.loss", "val.loss", *terms, *wanted])]


def check(name: RunName, out: Out = RUNS) -> None:
    """Check that RUN's record is whole.

    No reported epoch is lost or there twice, study and files agree, checksums hold. Exits with 0 when it is
    whole, 3 when it is whole and waits to be resumed, 4 when it is damaged.

    \b
    Example:
      loss-search check runs/beta_vae-20260131-120000
    """
    from search.run import Run
    from search.run_directory import RunDirectory
    from search.standing import standing_of

    directory = RunDirectory.open(name, out)
    space = Run.stored_space(directory)
    complaints: list[str] = []
    for look in range(LOOKS):
        standing = standing_of(directory, space)
        found, waiting = _complaints(directory, space, standing)
        # Files are replaced one after the other while a search writes: only what stays wrong is wrong.
        complaints = [line for line in found if look == 0 or line in complaints]
        if not (complaints and standing.running):
            break
        time.sleep(BETWEEN_LOOKS_S)
    run = shown_path(directory.path)
    for complaint in complaints:
        complain(complaint)
    if complaints:
        raise DamagedRun(
            f"{run}: {len(complaints)} complaint(s); `loss-search resume {run}` restores what it can"
        )
    say(f"{run}: whole; {standing.word}, {standing.ended} of {standing.wanted} trials ended")
    if standing.confirm_trials:
        say(_confirmation(standing, directory))
    if waiting:
        say(f"{waiting} reported epoch(s) are in the event log and not yet in Parquet")
    if not standing.finished and not standing.running:
        say(f"continue with: loss-search resume {run}")
        raise typer.Exit(3)
    if standing.confirm_trials and not standing.confirmed and not standing.running:
        raise typer.Exit(3)


def _complaints(directory: Any, space: Any, standing: Any) -> tuple[list[str], int]:
    """What is wrong, and how many reported rows only the event log has: a flaw of a finished phase alone."""
    from search.events import phase_of
    from search.record import read_epochs
    from search.record_check import check_record

    minimise = [n for n, d in zip(space.objectives, space.directions, strict=True) if d == "minimize"]
    whole = {"search": standing.finished, "confirm": standing.confirmed}
    events, waiting = list(standing.events), 0
    if not all(whole.values()):
        table = read_epochs(directory.path, [])
        keys = (table[name].to_pylist() for name in ("phase", "trial", "epoch"))
        stored = set(zip(*keys, strict=True))
        events = [
            event
            for event in events
            if event["kind"] != "reported"
            or whole[phase_of(event)]
            or (phase_of(event), event["row"].get("trial"), event["row"].get("epoch")) in stored
        ]
        waiting = len(standing.events) - len(events)
    if not standing.trials and not events:
        return [*standing.warnings], 0
    found = check_record(
        directory.path,
        standing.trials,
        events,
        minimise=minimise,
        confirm_trials=standing.confirm_trials,
    )
    return [*standing.warnings, *found], waiting


def export(
    name: RunName,
    to: Annotated[Path, typer.Option(help="A directory that is made; must not hold anything yet.")],
    out: Out = RUNS,
) -> None:
    """Export RUN: tables as CSV, the best model, its settings.

    \b
    Example:
      loss-search export runs/beta_vae-20260131-120000 --to shared/beta_vae
    """
    from search.exporting import export_run
    from search.run import Run
    from search.run_directory import RunDirectory

    directory = RunDirectory.open(name, out)
    for line in export_run(directory, Run.stored_space(directory), to):
        say(line)


def tensorboard(
    name: RunName,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Where to listen.", show_default="first free from 6006"),
    ] = None,
    out: Out = RUNS,
) -> None:
    """Open TensorBoard on RUN's trials.

    It can be reached from this machine only. Ctrl-C ends it.

    \b
    Example:
      loss-search tensorboard beta_vae-20260131-120000
    """
    from search.run_directory import RunDirectory

    directory = RunDirectory.open(name, out)
    if directory.stored is not None:
        directory.stored.refresh(trials=True)
    confirmed = directory.confirmations.is_dir()
    port = _free_port(TENSORBOARD_PORTS if port is None else (port,))
    say(f"TensorBoard: http://127.0.0.1:{port}/  (Ctrl-C ends it)")
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(directory.path if confirmed else directory.trials),
    ]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    if directory.stored is not None:
        return _follow(directory.stored, command)
    os.execv(sys.executable, command)  # in the place of this process: what ends one ends the other


def _follow(stored: StoredRun, command: list[str]) -> None:
    """TensorBoard on a copy of a run in a store, which is brought up to date until it ends."""
    import subprocess

    board = subprocess.Popen(command)
    try:
        while board.poll() is None:
            try:
                board.wait(REFRESH_S)
            except subprocess.TimeoutExpired:
                try:
                    stored.refresh(trials=True)
                except BadInput as error:  # away for a moment: what is here stays readable
                    complain(error)
    except KeyboardInterrupt:
        board.wait()
    finally:
        board.terminate()
        board.wait()


def _free_port(ports: Iterable[int]) -> int:
    import socket

    ports = list(ports)
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    taken = f"port {ports[0]} is" if len(ports) == 1 else f"ports {ports[0]} to {ports[-1]} are"
    raise BadInput(f"--port: {taken} taken on 127.0.0.1; name another with --port")
