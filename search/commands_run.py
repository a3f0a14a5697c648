"""The commands that search or train: run, resume, validate, train."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.console import say, shown_path
from search.errors import BadInput, RunFailed
from search.session import (
    Address,
    Engines,
    Epochs,
    Out,
    QuickTest,
    RunName,
    Seed,
    Session,
    Set,
    Slots,
    SpaceName,
    Trials,
    Verbose,
    Workers,
    overrides_of,
    slots_of,
)
from search.storage import file_of

if TYPE_CHECKING:
    from search.driver import Options
    from search.preflight import Checked
    from search.run_directory import RunDirectory
    from search.space import Space

__all__ = ["resume", "run", "train", "validate"]

RUNS = Path("runs")
logger = logging.getLogger("loss_search.cli")

MOST_REPORTED = 500  # trials of which a page is written at once, in a few seconds (tests/bench/LOG.md)
MORE = re.compile(r"\+(\d{1,7})")


def run(
    context: typer.Context,
    space: SpaceName,
    trials: Trials = None,
    epochs: Epochs = None,
    quick_test: QuickTest = False,
    engines: Engines = None,
    workers_per_engine: Workers = 1,
    slots: Slots = None,
    address: Address = None,
    out: Out = RUNS,
    seed: Seed = None,
    settings: Set = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be searched and what it costs, then stop.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Search SPACE for its best configuration.

    Trains many configurations at once, ends the poor ones early, and keeps a record of every epoch.

    \b
    Examples:
      loss-search run beta_vae --quick-test
      loss-search run my_space.yaml --trials 64 --set stop.plateau.patience=8
    """
    from search.preflight import check_data

    overrides = overrides_of(settings)
    asked = _space(space, overrides, quick_test, trials, epochs, seed)
    options = _options(engines, workers_per_engine, slots, address, verbose)
    full = _space(space, overrides, False, trials, epochs, seed) if quick_test else asked
    checked = check_data(asked, workers_per_engine, full)
    if dry_run:
        from search.describe import describe

        describe(asked, checked)
        return
    from search.run import Run

    directory = Run.create(asked, out)
    context.with_resource(directory.kept())
    _search(context.obj, directory, asked, options, checked)


def resume(
    context: typer.Context,
    name: RunName,
    trials: Annotated[
        str | None, typer.Option(metavar="+N", help="Try N configurations more than the run was made for.")
    ] = None,
    engines: Engines = None,
    workers_per_engine: Workers = 1,
    slots: Slots = None,
    address: Address = None,
    out: Out = RUNS,
    verbose: Verbose = False,
) -> None:
    """Continue RUN where it stopped.

    Trials in progress go on from their last checkpoint; then come those that are left.

    \b
    Examples:
      loss-search resume beta_vae-20260131-120000
      loss-search resume runs/beta_vae-20260131-120000 --trials +16
    """
    from search.preflight import check_data
    from search.run import Run
    from search.run_directory import RunDirectory
    from search.standing import standing_of
    from search.summary import read_rows, summarise, write
    from search.summary_lines import next_steps

    more = _more(trials)
    directory = context.with_resource(RunDirectory.held(name, out))
    asked = Run.stored_space(directory)
    if more and asked.sampler == "grid":
        raise BadInput("--trials: a grid is searched when its cells are; start a new run with a larger grid")
    if not more and standing_of(directory, asked).finished:
        say(f"{shown_path(directory.path)} is finished: there is nothing to continue.")
        rows = read_rows(directory)
        summary = summarise(rows, asked, directory.name)
        if not (directory.report / "summary.json").exists():  # killed between its last trial and its report
            write(summary, rows, directory)
        next_steps(summary, asked, directory)
        return
    options = _options(engines, workers_per_engine, slots, address, verbose)
    checked = check_data(asked, workers_per_engine, seek_traps=False)  # they were said when it began
    checked = replace(checked, warnings=(*checked.warnings, *_other_versions(directory)))
    if more:
        with directory.locked():
            asked = Run.stored_space(directory, more)
    _search(context.obj, directory, asked, options, checked)


def validate(
    space: SpaceName,
    trials: Trials = None,
    epochs: Epochs = None,
    quick_test: QuickTest = False,
    seed: Seed = None,
    settings: Set = None,
    time: Annotated[
        bool, typer.Option("--time", help="Train a few steps, and say how many minutes it would take here.")
    ] = False,
) -> None:
    """Check SPACE and say what it would cost.

    Reads its data too; says what would be searched, in how many epochs, and what to beware of.

    \b
    Examples:
      loss-search validate my_space.yaml --time
      loss-search validate beta_vae --set static.latent_dim=32
    """
    from search.describe import describe
    from search.preflight import check_data, minutes_of

    asked = _space(space, overrides_of(settings), quick_test, trials, epochs, seed)
    describe(asked, check_data(asked))
    if time:
        minutes, seconds = minutes_of(asked)
        say()
        shown = f"about {minutes:.0f} minutes" if minutes >= 1.5 else "about a minute or less"
        say(f"time        {shown} on this machine ({seconds:.2g} s an epoch of one trial)")


def train(
    context: typer.Context,
    family: Annotated[str, typer.Argument(metavar="FAMILY", help="As the configuration names it.")],
    config: Annotated[
        Path,
        typer.Option(
            parser=file_of,
            metavar="FILE",
            help="A configuration: a run's report/recommended.yaml or trials/N/config.yaml.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Where the model goes.", show_default="models/FAMILY-DATE-TIME"),
    ] = None,
    epochs: Epochs = None,
    seed: Seed = None,
) -> None:
    """Train one model of FAMILY, ready to use.

    It gets its full budget and is measured on validation and test data. After Ctrl-C the same command with
    the same --out continues.

    \b
    Examples:
      loss-search train beta_vae --config runs/beta_vae-20260131-120000/report/recommended.yaml
      loss-search train beta_vae --config recommended.yaml --seed 1 --out models/second-seed
    """
    from search.configuration import known_family, load_configuration
    from search.training import train as train_one

    for name, value, least in (("--epochs", epochs, 1), ("--seed", seed, 0)):
        if value is not None and value < least:
            raise BadInput(f"{name} {value}: must be at least {least}")
    known_family(family)
    configuration = load_configuration(config, family)
    changes = {key: value for key, value in (("epochs", epochs), ("seed", seed)) if value is not None}
    configuration = replace(configuration, **changes)
    short = configuration.family.name
    directory = out or Path("models") / f"{short}-{datetime.now():%Y%m%d-%H%M%S}"
    context.obj.log = directory / "run.log"
    train_one(configuration, directory, say)


# ---------------------------------------------------------------------- what they share


def _space(
    space: str,
    overrides: dict[str, str],
    quick_test: bool,
    trials: int | None,
    epochs: int | None,
    seed: int | None,
) -> Space:
    from search.preflight import quick_space
    from search.space import load_space

    if quick_test:
        return quick_space(space, overrides, trials, epochs, seed)
    return load_space(space, overrides=overrides, trials=trials, epochs=epochs, seed=seed)


def _options(
    engines: int | None, workers_per_engine: int, slots: str | None, address: str | None, verbose: bool
) -> Options:
    """The options of a search, refused here when this machine has no room: before anything is written."""
    from search.cluster import plan_engines
    from search.driver import Options

    options = Options(engines, workers_per_engine, slots_of(slots), address, verbose)
    plan_engines(options.engines, options.workers_per_engine, options.slots, options.address)
    return options


def _other_versions(directory: RunDirectory) -> list[str]:
    changed = directory.changed_versions()
    if not changed:
        return []
    listed = ", ".join(f"{name} {began} (now {now})" for name, (began, now) in changed.items())
    again = "; trials in progress start again from their seed" if "loss-search" in changed else ""
    return [f"the run began with {listed}: new rows may differ from its first ones{again}."]


def _more(trials: str | None) -> int:
    if trials is None:
        return 0
    found = MORE.fullmatch(trials)
    if found is None or int(found[1]) == 0:
        raise BadInput(f"--trials {trials}: must be how many more, with a plus sign, as in --trials +16")
    return int(found[1])


def _search(
    session: Session, directory: RunDirectory, space: Space, options: Options, checked: Checked
) -> None:
    """Search with everything that a person sees of it. Ends the program with 3 when it can be continued."""
    from search import logs
    from search.describe import warn
    from search.display import Display
    from search.driver import search
    from search.experiment_tables import experiment_of, print_experiment
    from search.summary import read_rows, summarise, write
    from search.summary_lines import next_steps, print_summary

    session.run, session.log = directory.path, directory.log
    sizes = ", ".join(f"{size:,} {split}" for split, size in checked.sizes.items())
    say(f"{space.name}: {space.family_name} on {space.data['source']} ({sizes})")
    warn(checked)
    say()
    with logs.configure(directory.log, options.verbose):
        for warning in checked.warnings:
            logger.info("warning: %s", warning)
        with Display(directory.path) as display:
            outcome = search(directory, space, options, display)
        rows = read_rows(directory)
        summary = summarise(rows, space, directory.name, checked.chance, checked.warnings)
        experiment = experiment_of(directory, space)
        if experiment is not None:
            summary["experiment"] = experiment
        write(summary, rows, directory)
        if outcome.complete and len(rows.trials) <= MOST_REPORTED:
            _report(directory, space)
    print_summary(summary, space, directory)
    if experiment is not None:
        print_experiment(experiment, directory)
    if not outcome.complete:
        say()
        say(f"stopped; continue with: loss-search resume {shown_path(directory.path)}")
        raise typer.Exit(3)
    if summary["states"].keys() == {"FAIL"}:
        raise RunFailed(f"every trial failed; the first error: {summary['first_error']}; see {directory.log}")
    next_steps(summary, space, directory)


def _report(directory: RunDirectory, space: Space) -> None:
    """The page of a search that is complete; what is wrong with it is told, for the search is not."""
    from search.findings import gather
    from search.report import write_report

    try:
        write_report(gather(directory, space))
    except OSError:
        raise  # a full disk, which ends every command alike
    except Exception as error:
        # The search has ended and its record is whole: a page that cannot be drawn is no failed run.
        logger.exception("the report's page was not written")
        again = f"loss-search report {shown_path(directory.path)}"
        say(f"The report's page was not written ({type(error).__name__}); see {directory.log}, then: {again}")
