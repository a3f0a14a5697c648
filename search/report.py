"""The report of a run: a page that opens offline, figures as PNG, a summary, recommended.yaml.

    gather()        Parquet ──► Found     (while the search goes on, and after it was interrupted, too)
    write_report()  Found ──► summary, conclusion, head and sections ──► `templates/report.html` ──► report/

Analysis is `search.analyse`, the conclusion `search.verdict`; here is only what stands where.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from search import report_head
from search.analyse import analyse
from search.experiment_page import experiment_section
from search.experiment_tables import experiment_of
from search.findings import Found, gather
from search.page import Figure, render, write_bytes, write_page
from search.report_pictures import pictures
from search.report_sections import sections
from search.report_tables import full_table, parallel_spec
from search.run_directory import RunDirectory, version
from search.summary import collapse_of, read_conclusion, summarise, write

__all__ = ["gather", "write_report"]

PAGE, SCRIPTS = "index.html", ("table.js", "parallel.js")
OURS = re.compile(r"[a-z0-9_]+\.png")  # names of figures that a report writes, and may remove again


def write_report(found: Found) -> Path:
    """Write everything below `report/`; returns the page's path. Raises OSError (disk full)."""
    directory = found.directory
    conclusion = read_conclusion(directory, found.space)
    summary = summarise(found.rows, found.space, directory.name, found.chance, found.warnings, conclusion)
    experiment = experiment_of(directory, found.space)
    if experiment is not None:
        summary["experiment"] = experiment
    shown = {trial: collapse_of(row) for trial, row in found.rows.last.items()}
    analysis = analyse(found.table, found.space, shown)
    table = full_table(found.rows, found.space)
    first = [knob.name for knob in analysis.importance.knobs]
    parallel = parallel_spec(found.rows, found.space, table, first)
    parts = sections(found, summary, conclusion, analysis, parallel)
    figures = [figure for part in parts for figure in (*part.figures, *part.small)]
    cost = report_head.cost_of_search(found)
    summary |= {"cost": cost, "sentences": {figure.name: figure.sentence for figure in figures}}
    summary["importance"] = [asdict(knob) for knob in analysis.importance.knobs]
    directory.report.mkdir(exist_ok=True)
    write(summary, found.rows, directory)
    _write_figures(directory, figures)
    title = f"{directory.name}: report of a search"
    context = _context(found, summary, conclusion) | {"sections": parts, "parallel": parallel, "table": table}
    write_page(directory.report / PAGE, render("report.html", title=title, scripts=SCRIPTS, **context))
    return directory.report / PAGE


def _context(
    found: Found, summary: Mapping[str, Any], conclusion: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Everything that the template shows, as plain values and figures."""
    return {
        "run": found.directory.name,
        "version": version(),
        "summary": summary,
        "status": report_head.status(found, summary),
        "head": report_head.recommendation(found, summary, conclusion),
        "cost_tiles": report_head.cost_tiles(summary["cost"], summary),
        "searched": report_head.searched_table(found),
        "environment": report_head.made_with(found),
        "pictures": pictures(found, _chosen(summary, conclusion), summary["objective"]),
        "remarks": report_head.remarks(found, summary),
        "experiment": experiment_section(summary["experiment"], found.directory)
        if "experiment" in summary
        else None,
    }


def _chosen(summary: Mapping[str, Any], conclusion: Mapping[str, Any] | None) -> int | None:
    """The trial whose configuration is recommended."""
    if conclusion is not None and conclusion["recommended"] is not None:
        return conclusion["recommended"]
    return summary["best"] and summary["best"]["trial"]


def _write_figures(directory: RunDirectory, figures: Sequence[Figure]) -> None:
    """Each figure as a PNG; those of an earlier report that are none any more go."""
    names = {f"{figure.name}.png" for figure in figures}
    for figure in figures:
        write_bytes(directory.report / f"{figure.name}.png", figure.png)
    for path in directory.report.glob("*.png"):
        if path.name not in names and OURS.fullmatch(path.name):
            path.unlink()
