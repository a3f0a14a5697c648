"""The command that writes what a run has found as a page: report."""

from __future__ import annotations

from pathlib import Path

from search.console import say, shown_path
from search.session import Out, RunName

__all__ = ["report"]

RUNS = Path("runs")


def report(name: RunName, out: Out = RUNS) -> None:
    """Write the report of RUN: one page that opens offline.

    With it its figures as PNG, summary.csv, summary.json and recommended.yaml. Works while the run is going
    on; a page of then is replaced by calling it again.

    \b
    Example:
      loss-search report beta_vae-20260131-120000
    """
    from search.findings import gather
    from search.report import write_report
    from search.run import Run
    from search.run_directory import RunDirectory

    directory = RunDirectory.open(name, out)
    page = write_report(gather(directory, Run.stored_space(directory)))
    if directory.stored is None:
        say(f"{shown_path(page)}: open it in a browser")
    else:  # which opens no store
        directory.stored.publish("report")
        say(f"{shown_path(page)}: uploaded")
        say(f"{page}: open this copy in a browser")
    names = sorted(path.name for path in directory.report.iterdir() if path != page)
    figures = [name for name in names if name.endswith(".png")]
    others = [name for name in names if name not in figures]
    say(f"beside it: {len(figures)} figures as PNG, {', '.join(others)}")
