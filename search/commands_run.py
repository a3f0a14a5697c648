"""The commands that search or train: run, resume, validate, train."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.commands_confirm import confirm_in, end_of_confirmation, too_few
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
    options_of,
    overrides_of,
)
from search.storage import file_of

if TYPE_CHECKING:
    from search.driver import Options
    from search.preflight import Checked
    from search.run_directory import RunDirectory
    from search.space import Space
    from search.standing import Standing

__all__ = ["asked_space", "resume", "run", "train", "validate"]

RUNS = Path("runs")
logger = logging.getLogger("loss_search.cli")

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
    asked = asked_space(space, overrides, quick_test, trials, epochs, seed)
    options = options_of(engines, workers_per_engine, slots, address, verbose)
    full = asked_space(space, overrides, False, trials, epochs, seed) if quick_test else asked
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

    Trials in progress go on from their last checkpoint; then come those that are left, and the confirmation
    where the space asks for one.

    \b
    Examples:
      loss-search resume beta_vae-20260131-120000
      loss-search resume runs/beta_vae-20260131-120000 --trials +16
    """
    from search.preflight import check_data
    from search.run import Run
    from search.run_directory import RunDirectory
    from search.standing import standing_of

    more = _more(trials)
    directory = context.with_resource(RunDirectory.held(name, out))
    asked = Run.stored_space(directory)
    if more and asked.sampler == "grid":
        raise BadInput("--trials: a grid is searched when its cells are; start a new run with a larger grid")
    standing = standing_of(directory, asked)
    to_confirm = bool(asked.confirm) and too_few(standing.trials) is None and not standing.confirmed
    if not more and standing.finished and not to_confirm:
        _tell_finished(directory, asked, standing)
        return
    options = options_of(engines, workers_per_engine, slots, address, verbose)
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

    asked = asked_space(space, overrides_of(settings), quick_test, trials, epochs, seed)
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
    epochs: Annotated[
        int | None, typer.Option(help="Epochs to train.", show_default="the configuration's")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of weights, batches and noise.", show_default="the configuration's"),
    ] = None,
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


def asked_space(
    space: str,
    overrides: dict[str, str],
    quick_test: bool,
    trials: int | None,
    epochs: int | None,
    seed: int | None,
) -> Space:
    """SPACE as the options of the command change it."""
    from search.preflight import quick_space
    from search.space import load_space

    if quick_test:
        return quick_space(space, overrides, trials, epochs, seed)
    return load_space(space, overrides=overrides, trials=trials, epochs=epochs, seed=seed)


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


def _tell_finished(directory: RunDirectory, space: Space, standing: Standing) -> None:
    from search.summary import read_conclusion, read_rows, summarise
    from search.summary_files import write_summary
    from search.summary_lines import next_steps

    run = directory.shown
    say(f"{run} is finished: there is nothing to continue.")
    if standing.confirm_trials and not standing.confirmed:
        say(f"Its confirmation is not: continue with: loss-search confirm {run}")
    if (directory.report / "summary.json").exists():
        conclusion = read_conclusion(directory, space)
        summary = summarise(read_rows(directory), space, directory.name, conclusion=conclusion)
    else:  # killed between its last trial and its report
        summary = write_summary(directory, space)
    next_steps(summary, space, directory)


def _search(
    session: Session, directory: RunDirectory, space: Space, options: Options, checked: Checked
) -> None:
    """Search with everything that a person sees of it, and confirm where the space asks for it.

    Ends the program with 3 when it can be continued.
    """
    from search import logs
    from search.confirm import settings_of
    from search.describe import warn
    from search.display import Display
    from search.driver import Driver
    from search.run import Run
    from search.standing import confirmation_of
    from search.summary_files import page_of, write_summary
    from search.summary_lines import next_steps

    session.run, session.log = directory.path, directory.log
    sizes = ", ".join(f"{size:,} {split}" for split, size in checked.sizes.items())
    say(f"{space.name}: {space.family_name} on {space.data['source']} ({sizes})")
    warn(checked)
    say()
    with logs.configure(directory.log, options.verbose):
        for warning in checked.warnings:
            logger.info("warning: %s", warning)
        with Driver(directory, options) as driver:
            with Display(directory.path) as display:
                outcome = driver.work(lambda: Run(directory, space), display)
            summary = write_summary(directory, space, checked)
            confirmed = None
            if outcome.complete and _is_to_be_confirmed(space, directory):
                _print_search(summary, space, directory)
                settings = settings_of(space, confirmation_of(directory.journal, space)[0], {})
                confirmed = confirm_in(driver, directory, space, settings)
                summary = write_summary(directory, space, checked)
        if outcome.complete:
            page_of(directory, space)
    if confirmed is not None:
        end_of_confirmation(confirmed, summary, directory)
        return
    _print_search(summary, space, directory)
    if not outcome.complete:
        say()
        run = shown_path(directory.path)
        say(f"stopped; continue with: loss-search resume {run}")
        if summary["best"] is not None:
            say(f"what there is so far: loss-search report {run}")
        raise typer.Exit(3)
    if summary["states"].keys() == {"FAIL"}:
        raise RunFailed(f"every trial failed; the first error: {summary['first_error']}; see {directory.log}")
    next_steps(summary, space, directory)


def _print_search(summary: dict[str, Any], space: Space, directory: RunDirectory) -> None:
    from search.experiment_tables import print_experiment
    from search.summary_lines import print_summary

    print_summary(summary, space, directory)
    if "experiment" in summary:
        print_experiment(summary["experiment"], directory)


def _is_to_be_confirmed(space: Space, directory: RunDirectory) -> bool:
    """Whether the space asks for it and the search has chosen anything; says so when it has not."""
    from search.standing import study_trials

    few = too_few(study_trials(directory.journal, space)) if space.confirm else None
    if few:
        say(few)
    return bool(space.confirm) and few is None
