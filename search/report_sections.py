"""The parts of a report that hold figures: each is computed, drawn, and said in one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from search import curve_plots, drawing, knob_plots, plots, region_plots
from search.analyse import Analysis
from search.effects import Effect
from search.findings import Found
from search.page import Figure
from search.report_tables import parallel_sentence
from search.space import Space
from search.trade_offs import pareto_front

__all__ = ["Section", "sections"]

Row = Mapping[str, Any]

MOST_EFFECTS, MOST_COLLAPSES = 12, 4  # figures of them


@dataclass(frozen=True)
class Section:
    """A part of the page: paragraphs, figures, `small` ones; `empty` is said where figures lack."""

    id: str
    title: str
    nav: str
    paragraphs: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    small: Sequence[Figure] = ()
    empty: str = ""


def sections(
    found: Found,
    summary: Mapping[str, Any],
    conclusion: Mapping[str, Any] | None,
    analysis: Analysis,
    parallel: Mapping[str, Any] | None,
) -> list[Section]:
    """All parts between the recommendation and the table of all trials, in their order.

    Parts without figures are filled by the template: parallel coordinates, pictures, what to beware of.
    """
    best = None if summary["best"] is None else summary["best"]["trial"]
    asked = [Section("experiment", "The experiment", "Experiment")] if "experiment" in summary else []
    return [
        *asked,
        _spending_section(found),
        _progress_section(found, summary, analysis),
        _standing_section(found, summary, conclusion),
        _knobs_section(analysis, found.space),
        _parallel_section(parallel),
        _curves_section(found, best, summary),
        _collapse_section(analysis),
        _trade_off_section(found, summary, conclusion),
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


def _progress_section(found: Found, summary: Mapping[str, Any], analysis: Analysis) -> Section:
    data = plots.progress_data(found.rows.trials, found.space, summary["chance"], analysis.best_so_far)
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
    drawn = data.scale is not None and data.scale.random_trials > 0
    note = [data.scale.caveat] if drawn else []
    return Section("progress", "Best so far", "Progress", note, figures)


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


def _knobs_section(analysis: Analysis, space: Space) -> Section:
    """Importance, the strongest pair, and the effect of each knob, the most important first."""
    rated, maximize, objective = analysis.importance, space.directions[0] == "maximize", space.objectives[0]
    figures = []
    if rated.knobs:
        alt = "Bars: each setting's share of importance, with its interval."
        figures.append(
            _figure(
                "importance",
                "Which settings mattered",
                rated.sentence,
                knob_plots.draw_importance(rated),
                alt,
            )
        )
    pair = analysis.interaction
    if pair is not None:
        drawn = knob_plots.draw_interaction(pair, objective, maximize)
        alt = (
            f"A map of the expected {objective} over {pair.first} and {pair.second}, with a star at the best."
        )
        figures.append(_figure("interaction", "The strongest pair", pair.sentence, drawn, alt))
    order = [knob.name for knob in rated.knobs]
    ranked = sorted(
        analysis.effects.values(), key=lambda one: order.index(one.name) if one.name in order else len(order)
    )
    alt = f"Points: trials by this setting and {objective}. Line: what is expected there, with a band."
    drawn = [one for one in ranked if one.enough][:MOST_EFFECTS]
    small = [
        _figure(
            f"effect_{place}", one.name, _of_one(one), knob_plots.draw_effect(one, objective, maximize), alt
        )
        for place, one in enumerate(drawn, 1)
    ]
    said = [rated.method[:1].upper() + rated.method[1:] + "."] if rated.knobs else [rated.sentence]
    if rated.knobs and (unseen := [one.sentence for one in ranked if not one.enough]):
        said.append(" ".join(unseen))
    return Section("knobs", "Which settings mattered", "Settings", said, figures, small)


def _of_one(effect: Effect) -> str:
    """Its sentence without its name, which is the figure's title."""
    said = effect.sentence.removeprefix(f"{effect.name}: ")
    return said[:1].upper() + said[1:]


def _parallel_section(parallel: Mapping[str, Any] | None) -> Section:
    title, nav = "All settings at once", "Parallel"
    if parallel is None:
        return Section("parallel", title, nav, empty="There are too few settings or trials to draw.")
    alt = "A line a trial over one axis a setting; darker lines scored better."
    figure = _figure(
        "parallel", title, parallel_sentence(parallel), region_plots.draw_parallel(parallel), alt
    )
    return Section("parallel", title, nav, figures=[figure])


def _collapse_section(analysis: Analysis) -> Section:
    title, nav = "Where trials collapse", "Collapse"
    figures = []
    for place, one in enumerate(analysis.collapses[:MOST_COLLAPSES], 1):
        if not one.places:
            continue
        name = one.kind if one.kind == "diverged" else f"{one.kind} collapse"
        alt = f"Trials over two settings; triangles: {name}."
        drawn = region_plots.draw_collapse(one, analysis.columns)
        figures.append(_figure(f"collapse_{place}", f"{name.capitalize()}: where", one.sentence, drawn, alt))
        alt = f"The share of trials with {name} in parts of the space, with 95 % intervals."
        drawn, first = region_plots.draw_places(one), one.places[0]
        said = (
            f"{first.collapsed} of {first.trials} trials with {region_plots.place_in_words(first)} show it, "
            f"elsewhere {first.elsewhere_collapsed} of {first.elsewhere_trials}."
        )
        figures.append(
            _figure(f"collapse_{place}_places", f"{name.capitalize()}: how often", said, drawn, alt)
        )
    return Section("collapse", title, nav, figures=figures, empty="No trial collapsed or diverged.")


def _trade_off_section(
    found: Found, summary: Mapping[str, Any], conclusion: Mapping[str, Any] | None
) -> Section:
    """The family's two main metrics, or the first two objectives where several were searched."""
    title, nav, space = "Trade-offs", "Trade-offs", found.space
    names = space.objectives[:2] if len(space.objectives) > 1 else space.family.trade_off
    if len(names) != 2:
        return Section(
            "trade_offs", title, nav, empty="The family names no two metrics to weigh against each other."
        )
    maximize = tuple(bool(space.family.metrics[name].higher_is_better) for name in names)
    numbers = np.array([row["trial"] for row in found.rows.trials])
    first, second = (
        np.array([row.get(f"best.val.{name}") for row in found.rows.trials], dtype=float) for name in names
    )
    front = pareto_front(numbers, first, second, tuple(names), maximize)
    if not front.all_numbers:
        return Section("trade_offs", title, nav, empty=front.sentence)
    marked = {one["trial"]: one["preset"] for one in summary["presets"] if one["value"] is not None}
    chosen = summary["best"] and summary["best"]["trial"]
    if conclusion is not None and conclusion["recommended"] is not None:
        chosen = conclusion["recommended"]
    if chosen is not None:
        marked[chosen] = f"recommended: trial {chosen}"
    alt = f"Points: trials by {names[0]} and {names[1]}. Line: those that no other beats in both."
    figure = _figure(
        "trade_off",
        f"{names[0]} against {names[1]}",
        front.sentence,
        region_plots.draw_front(front, marked),
        alt,
    )
    return Section("trade_offs", title, nav, figures=[figure])


def _curves_section(found: Found, best: int | None, summary: Mapping[str, Any]) -> Section:
    data = curve_plots.curves_data(found.rows.trials, found.curves, found.space, best, summary["chance"])
    if data is None:
        return Section("curves", "Learning curves", "Curves", empty="No epoch has been reported yet.")
    alt = "Lines: the objective by epoch, one a trial, coloured and dashed by how the trial ended."
    figure = _figure("curves", "The objective by epoch", data.sentence, curve_plots.draw_curves(data), alt)
    return Section("curves", "Learning curves", "Curves", figures=[figure])


def _figure(name: str, title: str, sentence: str, drawn: Any, alt: str) -> Figure:
    return Figure(name, title, sentence, drawing.png(drawn), alt)
