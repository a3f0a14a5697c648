"""What the commands share: options with one meaning everywhere, and what an error message needs to know."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.errors import BadInput
from search.storage import place_of

if TYPE_CHECKING:
    from search.driver import Options

__all__ = [
    "Address",
    "Engines",
    "Epochs",
    "Out",
    "QuickTest",
    "RunName",
    "Seed",
    "Session",
    "Set",
    "Slots",
    "SpaceName",
    "Trials",
    "Verbose",
    "Workers",
    "options_of",
    "overrides_of",
    "slots_of",
]


@dataclass
class Session:
    """One call of the program: filled in as it goes, read by whoever words its last message."""

    traceback: bool = False
    run: Path | None = None  # the run directory that is open
    log: Path | None = None  # the run.log that is being written


SpaceName = Annotated[
    str, typer.Argument(metavar="SPACE", help="A shipped space (`loss-search spaces`), or a YAML file.")
]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="A run directory or its URI, or the name of one below --out.")
]
Trials = Annotated[int | None, typer.Option(help="Configurations to try, instead of the space's budget.")]
Epochs = Annotated[int | None, typer.Option(help="Full budget of a trial, instead of the space's.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the sampler and of the trials.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one entry of the space; may be repeated."),
]
QuickTest = Annotated[
    bool, typer.Option("--quick-test", help="At most 8 trials of 5 epochs, stop rules scaled to fit.")
]
Engines = Annotated[int | None, typer.Option(help="Worker groups; by default one a core, or one a GPU.")]
Workers = Annotated[int, typer.Option("--workers-per-engine", help="Processes that share an engine's batch.")]
Slots = Annotated[
    str | None, typer.Option(metavar="N|auto", help="Trials that an engine trains at once; auto measures it.")
]
Address = Annotated[
    str | None, typer.Option(help="Search on a running Ray cluster: auto, or HOST:PORT of its head.")
]
Out = Annotated[
    Path,
    typer.Option(
        parser=place_of,
        metavar="DIR|URI",
        envvar="LOSS_SEARCH_RUNS",
        help="What holds runs: a directory, or a URI as s3://bucket/prefix.",
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show what Ray and the engines say.")]


def overrides_of(settings: list[str] | None) -> dict[str, str]:
    """What `--set` gave, by key. Raises BadInput for one without `=`, or given twice."""
    found: dict[str, str] = {}
    for setting in settings or []:
        key, sign, value = setting.partition("=")
        key = key.strip()
        if not sign or not key:
            raise BadInput(f"--set {setting}: must be KEY=VALUE, as in --set budget.epochs=10")
        if key in found:
            raise BadInput(f"--set {key}: given twice, as {found[key]} and {value}; remove one")
        found[key] = value
    return found


def options_of(
    engines: int | None, workers_per_engine: int, slots: str | None, address: str | None, verbose: bool
) -> Options:
    """How a session runs; refused here when this machine has no room: before anything is written."""
    from search.cluster import plan_engines
    from search.driver import Options

    options = Options(engines, workers_per_engine, slots_of(slots), address, verbose)
    plan_engines(options.engines, options.workers_per_engine, options.slots, options.address, verbose=verbose)
    return options


def slots_of(text: str | None) -> int | str | None:
    """The value of --slots. Raises BadInput for another word than `auto`."""
    if text is None or text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise BadInput(f"--slots {text}: must be a whole number from 1, or auto") from None
