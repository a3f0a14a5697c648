"""What the knobs did, drawn: importance, effects, the strongest pair. The data are `search.analyse`'s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from search import drawing
from search.console import short
from search.drawing import BLACK, BLUE, GREY, ORANGE, SKY, literal, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from search.effects import Effect
    from search.importance import Importance
    from search.interactions import Interaction

__all__ = ["draw_effect", "draw_importance", "draw_interaction"]

MOST_KNOBS = 14  # bars of one figure
MOST_POINTS = 1500  # of one figure
JITTER = 0.16  # of a word's column, to both sides


def draw_importance(data: Importance) -> Figure:
    """A bar a knob with its interval, the most important on top."""
    knobs = data.knobs[:MOST_KNOBS]
    figure = drawing.new_figure(0.7 + 0.27 * len(knobs))
    axes = drawing.framed(figure.subplots())
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x", color=drawing.PALE, linewidth=0.5)
    places = np.arange(len(knobs))[::-1]
    shares = np.array([knob.share for knob in knobs])
    # Through rounding an interval of resamples may lie beside the share by a hair.
    below = np.maximum(0, shares - [knob.low for knob in knobs])
    above = np.maximum(0, [knob.high for knob in knobs] - shares)
    axes.barh(places, 100 * shares, height=0.62, color=SKY)
    axes.errorbar(
        100 * shares, places, xerr=100 * np.stack([below, above]), fmt="none", ecolor=BLACK, elinewidth=1
    )
    axes.set_yticks(places, [literal(shortened(knob.name)) for knob in knobs])
    axes.set_xlim(left=0)
    drawing.label_x(axes, "share of importance, %, with 95 % interval")
    return figure


def draw_effect(data: Effect, objective: str, maximize: bool) -> Figure:
    """Trials as points; the expected score with its band, where there are enough of them."""
    figure = drawing.new_figure(2.5, 3.4)
    axes = drawing.framed(figure.subplots())
    kept = _some(len(data.points_x))
    y = np.array(data.points_y, dtype=float)[kept]
    if data.kind == "choice":
        _words(axes, data, [data.points_x[place] for place in kept], y)
    else:
        x = np.array(data.points_x, dtype=float)[kept]
        axes.scatter(x, y, s=7, color=GREY, alpha=0.55, linewidths=0)
        if data.x:
            axes.fill_between(data.x, data.low, data.high, color=BLUE, alpha=0.18, linewidth=0)
            axes.plot(data.x, data.mean, color=BLUE, linewidth=1.6)
        if data.log:
            drawing.logarithmic(axes.xaxis)
        elif data.kind == "int":
            axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
    _view(axes, y, data, maximize)
    drawing.label_x(axes, shortened(data.name, 40))
    drawing.label_y(axes, objective)
    return figure


def _words(axes: Axes, data: Effect, words: Sequence[Any], y: np.ndarray) -> None:
    options = list(data.x) or list(dict.fromkeys(words))
    names = {_key(word): place for place, word in enumerate(options)}
    places = np.array([names[_key(word)] for word in words], dtype=float)
    shift = np.random.default_rng(0).uniform(-JITTER, JITTER, size=len(places))
    axes.scatter(places + shift, y, s=7, color=GREY, alpha=0.55, linewidths=0)
    if data.x:
        middle, low, high = (np.array(values) for values in (data.mean, data.low, data.high))
        at = np.arange(len(options))
        axes.errorbar(
            at,
            middle,
            yerr=np.maximum(0, [middle - low, high - middle]),
            fmt="D",
            color=BLUE,
            ms=4.5,
            elinewidth=2,
        )
    steep = sum(len(str(option)) for option in options) > 34
    look = {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if steep else {}
    axes.set_xticks(
        range(len(options)), [literal(shortened(short(option), 18)) for option in options], **look
    )
    axes.set_xlim(-0.5, len(options) - 0.5)


def _key(word: Any) -> tuple[str, Any]:
    """Words, truth values and numbers apart: True is not 1."""
    return ("bool" if isinstance(word, bool) else "", word)


def _view(axes: Axes, y: np.ndarray, data: Effect, maximize: bool) -> None:
    """Of scores without a bound, as losses, the worst few would press all others to a line."""
    if len(y) < 8:
        return
    low, high = np.quantile(y, [0.0, 0.95] if not maximize else [0.05, 1.0])
    shown = [*data.low, *data.high]
    low, high = min([low, *shown]), max([high, *shown])
    if np.ptp(y) > 4 * (high - low) > 0:
        axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))


def draw_interaction(data: Interaction, objective: str, maximize: bool) -> Figure:
    """The expected score over both knobs; darker is better."""
    figure = drawing.new_figure(3.3)
    axes = figure.subplots()
    values = np.array(data.values)
    ramp = drawing.ramp() if maximize else drawing.ramp().reversed()
    shown = axes.imshow(values, origin="lower", aspect="auto", cmap=ramp)
    for axis, name, places, log in (
        (axes.xaxis, data.first, data.x, data.x_log),
        (axes.yaxis, data.second, data.y, data.y_log),
    ):
        step = max(1, round(len(places) / 5)) if not isinstance(places[0], str) else 1
        at = list(range(0, len(places), step))
        axis.set_ticks(at, [literal(_tick(places[place])) for place in at])
        axis.set_label_text(
            literal(shortened(name, 40) + (" (log)" if log else "")), fontsize=drawing.FONT_PT, color=BLACK
        )
    if isinstance(data.x[0], str) and sum(map(len, map(str, data.x))) > 40:
        axes.tick_params(axis="x", rotation=20)
    axes.tick_params(labelsize=drawing.FONT_PT, color=GREY, length=3, width=0.7)
    axes.spines[:].set_visible(False)
    best = np.unravel_index(np.argmax(values if maximize else -values), values.shape)
    axes.scatter([best[1]], [best[0]], marker="*", s=110, color=ORANGE, edgecolors=BLACK, linewidths=0.7)
    bar = figure.colorbar(shown, ax=axes, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=drawing.FONT_PT - 0.5, length=2, width=0.6)
    bar.set_label(literal(f"expected {objective}"), fontsize=drawing.FONT_PT)
    return figure


def _tick(place: Any) -> str:
    return (
        drawing.plain_number(float(f"{place:.2g}"))
        if isinstance(place, float)
        else shortened(short(place), 16)
    )


def _some(count: int) -> np.ndarray:
    """Positions of at most `MOST_POINTS` points, evenly spread over the trials."""
    if count <= MOST_POINTS:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, MOST_POINTS).round().astype(int))
