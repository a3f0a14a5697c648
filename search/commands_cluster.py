"""The commands for a cluster: submit, status, logs, stop, fetch, and `cluster` for before `ray up`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.console import complain, print_table, say, shown_path
from search.errors import BadInput, Incomplete, RunFailed
from search.session import (
    Engines,
    Epochs,
    QuickTest,
    Seed,
    Set,
    Slots,
    SpaceName,
    Trials,
    Workers,
    overrides_of,
    slots_of,
)

__all__ = ["cluster", "fetch", "logs", "status", "stop", "submit"]

Dashboard = Annotated[
    str, typer.Option(help="The cluster's dashboard; `ray dashboard cluster.yaml` opens a tunnel to it.")
]
LOCAL = "http://127.0.0.1:8265"
JobName = Annotated[str, typer.Argument(metavar="JOB", help="As `loss-search status` lists it.")]
LauncherFile = Annotated[Path, typer.Option("--cluster", help="The file that `ray up` launched.")]

cluster = typer.Typer(
    no_args_is_help=True, help="What a cluster needs before `ray up`.", rich_markup_mode=None
)


def submit(
    space: SpaceName,
    address: Dashboard = LOCAL,
    trials: Trials = None,
    epochs: Epochs = None,
    quick_test: QuickTest = False,
    engines: Engines = None,
    workers_per_engine: Workers = 1,
    slots: Slots = None,
    seed: Seed = None,
    settings: Set = None,
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR|URI", help="Where the cluster keeps runs.", show_default="its own place"),
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Continue this run of SPACE instead of a new one.")
    ] = None,
    confirm: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="Confirm the winners of this run of SPACE, as SPACE's confirm: says, instead."
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once, without following.")] = False,
) -> None:
    """Search SPACE on a cluster, from outside.

    Ships the space, the data file that it names and the module of a family of your own, and follows the log.
    Ctrl-C ends the following, not the search.

    \b
    Examples:
      loss-search submit beta_vae --quick-test
      loss-search submit my_space.yaml --engines 8 --detach
      loss-search submit my_space.yaml --resume my_space-20260131-120000
      loss-search submit my_space.yaml --confirm my_space-20260131-120000 --set confirm.seeds=8
    """
    from search import jobs
    from search.commands_run import asked_space
    from search.preflight import check_data

    on = _run_to_work_on(resume, confirm)
    if on is not None:
        _refuse_what_a_run_has(on[0], settings, trials, epochs, seed, quick_test)
    asked = asked_space(space, overrides_of(settings), quick_test, trials, epochs, seed)
    slots_of(slots)
    check_data(asked, workers_per_engine, seek_traps=False)  # the head says its warnings
    options = [
        text
        for name, value in (("--engines", engines), ("--slots", slots))
        if value is not None
        for text in (name, str(value))
    ]
    options += ["--workers-per-engine", str(workers_per_engine)] if workers_per_engine != 1 else []
    for key, value in asked.confirm.items() if confirm is not None else ():
        options += [f"--{key.replace('_', '-')}", str(value)]
    client = jobs.client_of(address)
    name = jobs.submit(client, asked, options, out=out, on=on)
    say(f"submitted {name}")
    say(f"to follow it  loss-search logs {name}{_at(address)}")
    say(f"to stop it    loss-search stop {name}{_at(address)}")
    if not detach:
        say()
        _follow(client, name, address)


def status(address: Dashboard = LOCAL) -> None:
    """List the searches that were submitted to a cluster."""
    from search import jobs

    found = jobs.jobs(jobs.client_of(address))
    if not found:
        say("nothing was submitted to this cluster since its head started")
        return
    rows = [(job.name, job.status, f"{job.started:%Y-%m-%d %H:%M}" if job.started else None) for job in found]
    print_table(("job", "status", "started"), rows)


def logs(job: JobName, address: Dashboard = LOCAL) -> None:
    """Follow the log of a search on a cluster, from its beginning to its end.

    Ends with the exit code of the search. Ctrl-C ends the following, not the search.
    """
    from search import jobs

    client = jobs.client_of(address)
    jobs.find(client, job)
    _follow(client, job, address)


def stop(job: JobName, address: Dashboard = LOCAL) -> None:
    """End a search on a cluster as Ctrl-C would: trials in progress are saved, and it can be resumed."""
    from search import jobs

    if jobs.stop(jobs.client_of(address), job):
        say(f"{job} is asked to stop; it saves its trials and says in its log how to continue")
    else:
        say(f"{job} has ended already")


def fetch(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="The run's name, its path on the head, or its URI.")
    ],
    cluster_file: LauncherFile = Path("cluster.yaml"),
    to: Annotated[Path, typer.Option(help="The directory that gets the run.")] = Path("runs"),
    everything: Annotated[
        bool, typer.Option("--everything", help="Of a run in an object store, the files of every trial.")
    ] = False,
) -> None:
    """Bring a run home from a cluster: tables, report, logs, pictures and best models.

    From the head's disk it comes over ssh, with the key that launched the cluster; from an object store it is
    read there, with the files of the best trials. Call it again, also while the search runs: only what has
    changed is brought.

    \b
    Examples:
      loss-search fetch beta_vae-20260131-120000 --cluster cluster.yaml
      loss-search fetch s3://bucket/runs/beta_vae-20260131-120000
    """
    from search.launching import bring_run, uri_of

    uri = uri_of(run, cluster_file)
    if uri is not None:
        from search.fetching import fetch_run

        for line in fetch_run(uri, to, everything=everything):
            say(line)
        return
    directory = bring_run(run, cluster_file, to)
    say(f"fetched {shown_path(directory)}")
    say(f"to read it  loss-search show {shown_path(directory)}")


@cluster.command()
def token() -> None:
    """Make the token that keeps strangers off a cluster, readable by you alone; keeps one that exists.

    Call it once before `ray up`: the launcher's file brings it to every node.
    """
    from search.launching import make_token

    path, made = make_token()
    say(f"{path}: {'made' if made else 'exists already'}, readable by you alone")


@cluster.command(name="on-premise")
def on_premise(
    head: Annotated[str, typer.Argument(metavar="HEAD", help="Address of the host that becomes the head.")],
    workers: Annotated[list[str], typer.Argument(metavar="WORKER...", help="Addresses of the other hosts.")],
    ssh_user: Annotated[str, typer.Option(help="Who logs in on the hosts.")],
    ssh_key: Annotated[Path, typer.Option(help="Private key for it, copied to the head: not your own.")],
    runs: Annotated[str, typer.Option(metavar="DIR", help="A directory that all hosts share (NFS).")],
    template: Annotated[
        Path | None, typer.Option(help="Adapt this file; by default the cluster.yaml that came along.")
    ] = None,
) -> None:
    """Print cluster.yaml for hosts of your own instead of AWS.

    \b
    Examples:
      loss-search cluster on-premise 10.0.0.4 10.0.0.5 10.0.0.6 --ssh-user lab --ssh-key ~/.ssh/cluster \\
        --runs /shared/runs > lab.yaml
    """
    from search.launching import SHIPPED, render_on_premise

    typer.echo(render_on_premise(template or SHIPPED, head, workers, ssh_user, ssh_key, runs), nl=False)


# ---------------------------------------------------------------------- what they share


def _at(address: str) -> str:
    return "" if address == LOCAL else f" --address {address}"


def _run_to_work_on(resume: str | None, confirm: str | None) -> tuple[str, str] | None:
    """The command that is wanted on a run that is there, and the run."""
    if resume is not None and confirm is not None:
        raise BadInput(
            "--resume and --confirm: one at a time; a resumed run is confirmed if its space says so"
        )
    if resume is not None:
        return "resume", resume
    return ("confirm", confirm) if confirm is not None else None


def _refuse_what_a_run_has(
    command: str,
    settings: list[str] | None,
    trials: int | None,
    epochs: int | None,
    seed: int | None,
    quick_test: bool,
) -> None:
    """Raises BadInput for options that change a space: a run keeps the one that it began with."""
    others = [one for one in settings or () if command == "resume" or not one.startswith("confirm.")]
    given = {"--trials": trials, "--epochs": epochs, "--seed": seed, "--quick-test": quick_test or None}
    named = [name for name, value in given.items() if value is not None]
    named += [f"--set {one}" for one in others]
    if named:
        may = "; --set confirm.top and the like are taken" if command == "confirm" else ""
        raise BadInput(
            f"--{command} with {', '.join(named)}: a run keeps the space that it began with{may}; leave that "
            "away, or submit a new run"
        )


def _follow(client: object, name: str, address: str) -> None:
    from search import jobs

    try:
        code = jobs.follow(client, name, say)
    except KeyboardInterrupt:
        complain(f"no longer followed; the search goes on: loss-search logs {name}{_at(address)}")
        raise typer.Exit(0) from None
    if code == Incomplete.exit_code:
        complain(
            f"{name} stopped before its end; `loss-search submit SPACE --resume RUN` (or --confirm RUN) "
            "continues it"
        )
    if code:
        raise typer.Exit(code if code in (2, 3, 4) else RunFailed.exit_code)
