"""The command `confirm`, and the confirmation at the end of a `run` whose space asks for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.console import say
from search.errors import BadInput, RunFailed
from search.session import Address, Engines, Out, RunName, Slots, Verbose, Workers, options_of

if TYPE_CHECKING:
    from search.confirm import Settings
    from search.driver import Driver, Outcome
    from search.run_directory import RunDirectory
    from search.space import Space

__all__ = ["confirm", "confirm_in", "end_of_confirmation", "too_few"]

RUNS = Path("runs")
FEWEST = 2  # complete trials of a search that has chosen at all


def confirm(
    context: typer.Context,
    name: RunName,
    top: Annotated[
        int | None,
        typer.Option(help="Best configurations that are trained again.", show_default="the space's, or 3"),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Fresh seeds for each.", show_default="the space's, or 5")
    ] = None,
    max_seeds: Annotated[
        int | None,
        typer.Option(
            "--max-seeds",
            help="Add seeds, one for each, up to so many until the verdict is clear.",
            show_default="--seeds",
        ),
    ] = None,
    engines: Engines = None,
    workers_per_engine: Workers = 1,
    slots: Slots = None,
    address: Address = None,
    out: Out = RUNS,
    verbose: Verbose = False,
) -> None:
    """Train the winners of RUN again, and say whether they beat the best preset.

    The best trial of a search is partly lucky. Here the top configurations and the best preset get their full
    budget again, each with the same fresh seeds, and are measured on the test split, which the search never
    used. Nothing but divergence ends a trial early. The verdict decides report/recommended.yaml.

    Ctrl-C stops it, and the same command continues. With larger --seeds or --top what is missing is added;
    with --max-seeds seeds are added until the verdict is clear, which is paid for with wider intervals.

    \b
    Examples:
      loss-search confirm beta_vae-20260131-120000
      loss-search confirm runs/beta_vae-20260131-120000 --top 2 --seeds 5 --max-seeds 12
    """
    from search import logs
    from search.confirm import settings_of
    from search.driver import Driver
    from search.preflight import check_data
    from search.run import Run
    from search.run_directory import RunDirectory
    from search.standing import confirmation_of, standing_of
    from search.summary_files import page_of, write_summary

    directory = context.with_resource(RunDirectory.held(name, out))
    space = Run.stored_space(directory)
    given = {"top": top, "seeds": seeds, "max_seeds": max_seeds}
    settings = settings_of(space, confirmation_of(directory.journal, space)[0], given)
    standing = standing_of(directory, space)
    if few := too_few(standing.trials):
        raise BadInput(f"{directory.shown}: {few}; go on with: loss-search resume {name}")
    options = options_of(engines, workers_per_engine, slots, address, verbose)
    checked = check_data(space, workers_per_engine)
    context.obj.run, context.obj.log = directory.path, directory.log
    if not standing.finished:
        so_far = f"{standing.ended} of {standing.wanted} trials have ended"
        say(f"the search is not finished ({so_far}): the best so far are confirmed")
    with logs.configure(directory.log, verbose):
        with Driver(directory, options) as driver:
            outcome = confirm_in(driver, directory, space, settings)
            summary = write_summary(directory, space, checked)
        if outcome.complete:
            page_of(directory, space)
    if not outcome.worked and outcome.complete:
        say("everything is confirmed already; larger --seeds or --top add what is missing")
    end_of_confirmation(outcome, summary, directory)


def too_few(trials: Sequence[Mapping[str, Any]]) -> str | None:
    """Why a search with these trials has nothing to confirm; None when it has."""
    complete = sum(trial["state"] == "COMPLETE" for trial in trials)
    if complete >= FEWEST:
        return None
    return f"there is nothing to confirm: {complete} of its trials are complete, and it takes {FEWEST}"


def confirm_in(driver: Driver, directory: RunDirectory, space: Space, settings: Settings) -> Outcome:
    """Run the confirmation, or what is left of it, on the driver's engines."""
    from search.display import Display
    from search.run import Run

    most = f" to {settings.max_seeds}" if settings.max_seeds > settings.seeds else ""
    say()
    seeds = f"{settings.seeds}{most} fresh seeds each, {space.budget.epochs} epochs"
    say(f"{directory.name}: confirming the best {settings.top} and the best preset, {seeds}")
    with Display(directory.path, announce=driver.engines is None) as display:
        return driver.work(lambda: Run(directory, space, settings), display)


def end_of_confirmation(outcome: Outcome, summary: Mapping[str, Any], directory: RunDirectory) -> None:
    """Print what the confirmation has shown. Ends the program with 3 when it can be continued."""
    from search.confirm_lines import print_conclusion, print_recommendation

    conclusion = summary["conclusion"]
    if not outcome.complete:
        say()
        say(f"stopped; continue with: loss-search confirm {directory.shown}")
        raise typer.Exit(3)
    if not any(plain["test"]["n"] for plain in conclusion["configurations"]):
        raise RunFailed(f"no trial of the confirmation has a test score; see {directory.log}")
    print_conclusion(conclusion, directory)
    print_recommendation(conclusion, directory, summary["family"])
