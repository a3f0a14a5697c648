"""Trials in two dimensions, drawn: where they collapse, what they trade off, all settings at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from search import drawing
from search.collapses import range_in_words
from search.console import short
from search.drawing import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILLION, literal, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from search.collapses import Collapse, Place
    from search.columns import Columns, Setting
    from search.trade_offs import Front

__all__ = ["draw_collapse", "draw_front", "draw_parallel", "draw_places"]

MOST_PLACES = 6  # of one kind
MANY_ON_FRONT = 40
NEARLY = 0.9  # of the trials
MOST_POINTS = 2000
MOST_LINES = 400
ONE_LINE = 14  # letters of an axis' name
MARKS = "sv^DPX<>"  # of the presets
JITTER = 0.18


def draw_collapse(data: Collapse, columns: Columns) -> Figure:
    """All trials over the two knobs that tell most about this kind; those that collapsed stand out."""
    names = _telling(data, columns)
    figure = drawing.new_figure(3.2)
    axes = drawing.framed(figure.subplots())
    hit = np.isin(columns.numbers, data.numbers)
    random = np.random.default_rng(0)
    places = [_placed(columns.settings[name], random) for name in names]
    if len(places) == 1:
        places.append(random.uniform(0, 1, len(hit)))
    known = np.isfinite(places[0]) & np.isfinite(places[1])
    for which, color, mark, name in (
        (~hit, GREY, "o", "not"),
        (hit, VERMILLION, "^", f"{data.kind} collapse"),
    ):
        rows = _some(np.flatnonzero(which & known))
        look = {"s": 15 if which is hit else 9, "color": color, "alpha": 0.75, "linewidths": 0}
        axes.scatter(places[0][rows], places[1][rows], marker=mark, label=literal(name), **look)
    axes.grid(visible=False)
    _scale(axes, "x", columns.settings[names[0]])
    if len(names) > 1:
        _scale(axes, "y", columns.settings[names[1]])
    else:
        axes.set_yticks([])
    drawing.legend(axes)
    return figure


def _telling(data: Collapse, columns: Columns) -> list[str]:
    """The knob of the surest place, and of the next sure one that is in force nearly everywhere; else any."""
    first, everywhere = data.places[0].knob, NEARLY * len(columns.numbers)
    wide = [
        name for name, one in columns.settings.items() if name != first and one.in_force.sum() >= everywhere
    ]
    sure = [place.knob for place in data.places if place.p < 1 and place.knob in wide]
    numbers = [name for name in wide if not columns.settings[name].is_choice]
    return [first, *[*sure, *numbers, *wide][:1]]


def draw_places(data: Collapse) -> Figure:
    """The share of trials that collapsed, in the parts of the space where that is most frequent."""
    places = [place for at, place in enumerate(data.places[:MOST_PLACES]) if place.p < 1 or at < 2]
    figure = drawing.new_figure(0.75 + 0.34 * len(places))
    axes = drawing.framed(figure.subplots())
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x", color=drawing.PALE, linewidth=0.5)
    for y, place in zip(range(len(places) - 1, -1, -1), places, strict=True):
        axes.plot([100 * place.share_low, 100 * place.share_high], [y, y], color=VERMILLION, linewidth=2)
        axes.scatter([100 * place.share], [y], color=VERMILLION, s=28, zorder=3)
        if place.elsewhere_trials:
            axes.scatter(
                [100 * place.elsewhere_collapsed / place.elsewhere_trials], [y], color=GREY, marker="|", s=70
            )
    names = [f"{place_in_words(place)}  ({place.collapsed} of {place.trials})" for place in places]
    axes.set_yticks(range(len(places) - 1, -1, -1), [literal(shortened(name, 48)) for name in names])
    axes.set_ylim(-0.6, len(places) - 0.4)
    axes.set_xlim(-3, 103)
    drawing.label_x(axes, "% of trials (bar: elsewhere)")
    return figure


def place_in_words(place: Place) -> str:
    """`kl.weight 0.5 to under 4`."""
    return f"{place.knob} {short(place.word) if place.low is None else range_in_words(place)}"


def _placed(setting: Setting, random: np.random.Generator) -> np.ndarray:
    """Values on the knob's axis; words as their positions, a little spread."""
    if setting.is_choice:
        return setting.unit + random.uniform(-JITTER, JITTER, len(setting.unit))
    numbers = np.array([np.nan if value is None else value for value in setting.values], dtype=float)
    return np.where(setting.in_force, numbers, np.nan)


def _scale(axes: Axes, side: str, setting: Setting) -> None:
    parameter = setting.parameter
    axis = axes.xaxis if side == "x" else axes.yaxis
    if setting.is_choice:
        axis.set_ticks(
            range(len(parameter.choices)), [literal(shortened(short(word), 16)) for word in parameter.choices]
        )
        (axes.set_xlim if side == "x" else axes.set_ylim)(-0.5, len(parameter.choices) - 0.5)
        if side == "x" and sum(len(str(word)) for word in parameter.choices) > 40:
            axes.tick_params(axis="x", rotation=20)
    elif parameter.log:
        drawing.logarithmic(axis)
    (drawing.label_x if side == "x" else drawing.label_y)(axes, shortened(setting.name, 40))


def draw_front(data: Front, marked: Mapping[int, str]) -> Figure:
    """All trials by two metrics, the front as a line; `marked` names trials (the winner, presets)."""
    figure = drawing.new_figure(3.4)
    axes = drawing.framed(figure.subplots())
    axes.grid(visible=True, axis="x", color=drawing.PALE, linewidth=0.5)
    rows = _some(np.arange(len(data.all_numbers)))
    x, y = np.array(data.all_first), np.array(data.all_second)
    axes.scatter(x[rows], y[rows], s=9, color=GREY, alpha=0.6, linewidths=0, label="a trial")
    axes.plot(
        data.first_values,
        data.second_values,
        color=BLUE,
        linewidth=1.2,
        marker="o",
        ms=4 if len(data.numbers) <= MANY_ON_FRONT else 1.5,
        label="beaten by none in both",
    )
    at = {number: place for place, number in enumerate(data.all_numbers)}
    for index, (number, name) in enumerate(marked.items()):
        if number in at:
            place, chosen = at[number], name.startswith("recommended")
            mark, color = ("*", ORANGE) if chosen else (MARKS[index % len(MARKS)], GREEN)
            look = {"s": 120 if chosen else 26, "color": color, "edgecolors": BLACK, "linewidths": 0.7}
            axes.scatter(
                [x[place]], [y[place]], marker=mark, zorder=4, label=literal(shortened(name)), **look
            )
    better = ["higher is better" if more else "lower is better" for more in data.maximize]
    axes.margins(0.06)
    drawing.label_x(axes, f"{data.first} ({better[0]})")
    axes.set_ylabel(f"{literal(data.second)}\n({better[1]})", fontsize=drawing.FONT_PT, color=BLACK)
    drawing.legend(axes)
    return figure


def draw_parallel(spec: Mapping[str, Any]) -> Figure:
    """The parallel coordinates of `search.report_tables.parallel_spec` on paper."""
    from matplotlib.collections import LineCollection

    axes_of, count = spec["axes"], len(spec["score"])
    figure = drawing.new_figure(3.6, max(drawing.WIDTH, 0.95 * len(axes_of)))
    axes = figure.subplots()
    axes.set_axis_off()
    places = np.stack(
        [
            [share(axis, value) for value in values]
            for axis, values in zip(axes_of, spec["values"], strict=True)
        ]
    )
    score = np.array([np.nan if value is None else value for value in spec["score"]], dtype=float)
    good = score if spec["maximize"] else -score
    known = good[np.isfinite(good)]
    low, high = np.quantile(known, [0.1, 1.0]) if known.size else (0.0, 1.0)
    order = np.argsort(np.where(np.isfinite(good), good, -np.inf), kind="stable")
    if count > MOST_LINES:
        order = order[np.unique(np.linspace(0, count - 1, MOST_LINES).round().astype(int))]
    shares = np.clip((good - low) / (high - low), 0, 1) if high > low else np.ones(count)
    colors = drawing.ramp()(np.nan_to_num(shares))
    colors[~np.isfinite(good)] = (0.75, 0.77, 0.8, 1.0)
    alpha = max(0.2, min(0.9, 30 / np.sqrt(12 * max(1, len(order)))))
    # A line with a gap is drawn up to the gap: matplotlib breaks it at NaN.
    lines = [np.column_stack([np.arange(len(axes_of)), places[:, trial]]) for trial in order]
    axes.add_collection(LineCollection(lines, colors=colors[order], linewidths=0.8, alpha=alpha))
    for at, axis in enumerate(axes_of):
        axes.plot([at, at], [0, 1], color=GREY, linewidth=0.8)
        if axis["kind"] == "words":
            ends = [(short(word), share(axis, word)) for word in axis["words"]]
        else:
            ends = [(short(axis["low"]), 0.0), (short(axis["high"]), 1.0)]
        for text, place in ends:
            axes.annotate(literal(shortened(text, 14)), (at + 0.04, place), fontsize=6.5, va="center")
        name = literal(shortened(axis["name"], 30))
        name = name.replace(".", ".\n", 1) if len(name) > ONE_LINE else name
        axes.annotate(name, (at, 1.05), fontsize=6.5, ha="center", va="bottom", weight="bold")
    axes.set_xlim(-0.4, len(axes_of) - 0.3)
    axes.set_ylim(-0.05, 1.2)
    return figure


def share(axis: Mapping[str, Any], value: Any) -> float:
    """Where a value lies on its axis, from 0 to 1; NaN for none."""
    if value is None:
        return float("nan")
    if axis["kind"] == "words":
        words: Sequence[Any] = axis["words"]
        at = words.index(value) if value in words else float("nan")
        return at / (len(words) - 1) if len(words) > 1 else 0.5
    scale = np.log if axis["kind"] == "log" else float
    low, high = scale(axis["low"]), scale(axis["high"])
    return float(np.clip((scale(value) - low) / (high - low), 0, 1)) if high > low else 0.5


def _some(rows: np.ndarray) -> np.ndarray:
    """At most `MOST_POINTS` of these positions, evenly spread."""
    if len(rows) <= MOST_POINTS:
        return rows
    return rows[np.unique(np.linspace(0, len(rows) - 1, MOST_POINTS).round().astype(int))]
