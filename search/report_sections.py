"""The parts of a report that hold figures: each is computed, drawn, and said in one sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from search import curve_plots, drawing, plots
from search.findings import Found
from search.page import Figure, value
from search.run_directory import RunDirectory
from search.summary import collapse_of

__all__ = ["Picture", "Section", "pictures", "sections"]

Row = Mapping[str, Any]

PICTURE = re.compile(r"(.+)_(best|epoch_(\d+))\.png")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MOST_PICTURE_BYTES = 2_000_000
MOST_LOOKED_AT = 50  # trials among which one with a picture is looked for


@dataclass(frozen=True)
class Section:
    """A part of the page between two headings: paragraphs, then figures; `empty` is said where both lack."""

    id: str
    title: str
    nav: str
    paragraphs: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    empty: str = ""


class Picture(NamedTuple):
    """A trial's own picture: which trial it is, why it is shown, what it scored."""

    role: str
    caption: str
    figure: Figure


def sections(found: Found, summary: Mapping[str, Any], conclusion: Mapping[str, Any] | None) -> list[Section]:
    """All parts between the recommendation and the table of all trials, in their order.

    Parts without figures are filled by the template: parallel coordinates, pictures, what to beware of.
    """
    best = None if summary["best"] is None else summary["best"]["trial"]
    asked = [Section("experiment", "The experiment", "Experiment")] if "experiment" in summary else []
    return [
        *asked,
        _spending_section(found),
        _progress_section(found, summary),
        _standing_section(found, summary, conclusion),
        Section("parallel", "All settings at once", "Parallel", empty="There are too few settings to draw."),
        _curves_section(found, best, summary),
        Section("pictures", "Pictures", "Pictures", empty="No trial has a picture yet."),
        Section("beware", "What to beware of", "Beware", empty="No trap is known in this space."),
    ]


def _spending_section(found: Found) -> Section:
    data = curve_plots.spending_data(found.rows.trials, found.space)
    figures = []
    if data is not None:
        alt = "Bars: epochs spent on trials by how they ended."
        figures.append(
            _figure("spending", "Where the epochs went", data.sentence, curve_plots.draw_spending(data), alt)
        )
    return Section(
        "cost",
        "What was searched, and what it cost",
        "Cost",
        figures=figures,
        empty="No epoch has been reported yet.",
    )


def _progress_section(found: Found, summary: Mapping[str, Any]) -> Section:
    data = plots.progress_data(found.rows.trials, found.space, summary["chance"])
    if not np.isfinite(data.values).any():
        return Section("progress", "Best so far", "Progress", empty=data.sentence)
    alt = "Points: results of trials. Steps: the best so far. Lines: the best preset, guessing."
    figures = [
        _figure(
            "best_by_trials",
            "Best so far, against trials",
            data.sentence,
            plots.draw_progress(data, "trials"),
            alt,
        ),
        _figure(
            "best_by_epochs",
            "Best so far, against epochs spent",
            data.epochs_sentence,
            plots.draw_progress(data, "epochs"),
            alt,
        ),
    ]
    return Section("progress", "Best so far", "Progress", figures=figures)


def _standing_section(
    found: Found, summary: Mapping[str, Any], conclusion: Mapping[str, Any] | None
) -> Section:
    data = plots.standing_data(summary, conclusion, found.confirm)
    if data is None:
        return Section(
            "presets",
            "Presets against the winner",
            "Presets",
            empty="There is no preset with a value to compare with.",
        )
    alt = "One line a configuration: its score."
    figure = _figure("presets", data.of.capitalize(), data.sentence, plots.draw_standing(data), alt)
    return Section("presets", "Presets against the winner", "Presets", figures=[figure])


def _curves_section(found: Found, best: int | None, summary: Mapping[str, Any]) -> Section:
    data = curve_plots.curves_data(found.rows.trials, found.curves, found.space, best, summary["chance"])
    if data is None:
        return Section("curves", "Learning curves", "Curves", empty="No epoch has been reported yet.")
    alt = "Lines: the objective by epoch, one a trial, coloured and dashed by how the trial ended."
    figure = _figure("curves", "The objective by epoch", data.sentence, curve_plots.draw_curves(data), alt)
    return Section("curves", "Learning curves", "Curves", figures=[figure])


def _figure(name: str, title: str, sentence: str, drawn: Any, alt: str) -> Figure:
    return Figure(name, title, sentence, drawing.png(drawn), alt)


# ---------------------------------------------------------------------- pictures


def pictures(found: Found, summary: Mapping[str, Any]) -> list[Picture]:
    """The pictures of the best, the median and a collapsed trial, where they have any."""
    best = summary["best"]
    if best is None:
        return []
    objective, found_pictures, used = summary["objective"], [], set()
    complete = [
        row for row in found.rows.trials if row["state"] == "COMPLETE" and row["objective"] is not None
    ]
    complete.sort(key=lambda row: row["objective"])
    middle = sorted(complete, key=lambda row: abs(complete.index(row) - (len(complete) - 1) / 2))
    collapsed = [row for row in found.rows.trials if collapse_of(found.rows.last.get(row["trial"], {}))]
    collapsed.sort(key=lambda row: -(row["epochs"] or 0))
    by_number = {row["trial"]: row for row in found.rows.trials}
    for role, candidates in (
        ("Best", [by_number[best["trial"]]]),
        ("Median", middle),
        ("Collapsed", collapsed),
    ):
        for row in candidates[:MOST_LOOKED_AT]:
            if row["trial"] in used or (picture := _picture_of(found.directory, row["trial"])) is None:
                continue
            used.add(row["trial"])
            kinds = collapse_of(found.rows.last.get(row["trial"], {}))
            told = f"trial {row['trial']}, {objective} {value(row['objective'])}" + (
                f", {', '.join(kinds)} collapse" if kinds else ""
            )
            alt = f"What the model of trial {row['trial']} makes of examples."
            found_pictures.append(
                Picture(role, told, Figure(f"picture_{role.lower()}", role, told, picture, alt))
            )
            break
    return found_pictures


def _picture_of(directory: RunDirectory, trial: int) -> bytes | None:
    """The picture of a trial's best epoch, else its last; None where there is no PNG."""
    folder = directory.trial(trial) / "figures"
    found = []
    for path in folder.glob("*.png") if folder.is_dir() else ():
        named = PICTURE.fullmatch(path.name)
        # A link in a run from elsewhere could name any file of the reader's.
        if named and named[1] != "vectors" and path.is_file() and not path.is_symlink():
            found.append((named[2] == "best", int(named[3] or 0), path))
    for _, _, path in sorted(found, reverse=True):
        if path.stat().st_size <= MOST_PICTURE_BYTES:
            data = path.read_bytes()
            if data.startswith(PNG_SIGNATURE):
                return data
    return None
