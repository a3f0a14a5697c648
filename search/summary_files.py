"""What `report/` holds, brought up to date from the record."""

from __future__ import annotations

import logging
from typing import Any

from search.console import say
from search.experiment_tables import experiment_of
from search.preflight import Checked, num_trials
from search.run_directory import RunDirectory
from search.space import Space
from search.summary import read_conclusion, read_rows, summarise, write

__all__ = ["page_of", "write_summary"]

logger = logging.getLogger("loss_search.cli")

MOST_REPORTED = 500  # trials of which a page is written at once, in a few seconds (tests/bench/LOG.md)


def write_summary(directory: RunDirectory, space: Space, checked: Checked | None = None) -> dict[str, Any]:
    """Write summary.json, summary.csv and recommended.yaml; returns the summary.

    `checked` has what only the data tells: the score of guessing, and warnings.
    """
    rows = read_rows(directory)
    chance, warnings = (checked.chance, checked.warnings) if checked is not None else (None, ())
    conclusion = read_conclusion(directory, space)
    summary = summarise(rows, space, directory.name, chance, warnings, conclusion)
    experiment = experiment_of(directory, space)
    if experiment is not None:
        summary["experiment"] = experiment
    write(summary, rows, directory)
    return summary


def page_of(directory: RunDirectory, space: Space) -> None:
    """Write the page of a phase that is complete, unless it would take long.

    What is wrong with it is told, for the search is not.
    """
    from search.findings import gather
    from search.report import write_report

    if num_trials(space) > MOST_REPORTED:
        return
    try:
        write_report(gather(directory, space))
    except OSError:
        raise  # a full disk, which ends every command alike
    except Exception as error:
        # The search has ended and its record is whole: a page that cannot be drawn is no failed run.
        logger.exception("the report's page was not written")
        again = f"loss-search report {directory.shown}"
        say(f"The report's page was not written ({type(error).__name__}); see {directory.log}, then: {again}")
