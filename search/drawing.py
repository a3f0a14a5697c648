"""How figures look: one size, colours that the colour-blind can tell apart, text taken literally.

Colours are Okabe and Ito's (Color Universal Design, 2008). Where colour carries a meaning, a mark, a dash or
a label carries it too.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

# fmt: off
__all__ = [
    "BLACK", "BLUE", "GREEN", "GREY", "ORANGE", "PALE", "PURPLE", "SKY", "VERMILLION", "WIDTH", "framed",
    "label_x", "label_y", "legend", "literal", "logarithmic", "new_figure", "plain_number", "png", "ramp",
    "shortened",
]
# fmt: on

BLUE, ORANGE, GREEN, VERMILLION = "#0072b2", "#e69f00", "#009e73", "#d55e00"
RAMP = ("#c7e9b4", "#7fcdbb", "#41b6c4", "#1d91c0", "#225ea8", "#0c2c84")
SKY, PURPLE, BLACK, GREY, PALE = "#56b4e9", "#cc79a7", "#1a1f26", "#8a939d", "#d5dae0"
WIDTH, DPI, FONT_PT = 4.8, 200, 8.5  # inches; on a phone such a figure is shown at 75 pixels an inch
UNSEEN = "\u25a1"  # for a sign that the font lacks
MOST_LETTERS = 34


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """A figure that belongs to no display and to no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def framed(axes: Axes) -> Axes:
    """Axes as all figures have them: two thin sides, small ticks, a faint grid of values."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=GREY, linewidth=0.7)
    axes.tick_params(labelsize=FONT_PT, color=GREY, length=3, width=0.7)
    axes.grid(axis="y", color=PALE, linewidth=0.5)
    axes.set_axisbelow(True)
    return axes


def logarithmic(axis: Axis) -> None:
    """A logarithmic axis with plain numbers, a few of them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    (axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale)("log")
    low, high = sorted(axis.get_view_interval())
    few = high / low < 200 if low > 0 else False
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda number, _: plain_number(number)))
    axis.set_minor_formatter(NullFormatter())


def plain_number(number: float) -> str:
    """Four digits at most: 0.002, 1e-5."""
    mantissa, _, exponent = f"{number:.4g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def label_x(axes: Axes, text: str) -> None:
    """The words below the axis."""
    axes.set_xlabel(literal(text), fontsize=FONT_PT, color=BLACK)


def label_y(axes: Axes, text: str) -> None:
    """The words beside the axis."""
    axes.set_ylabel(literal(text), fontsize=FONT_PT, color=BLACK)


def legend(axes: Axes, handles: Sequence[Any] | None = None) -> None:
    """A legend without a frame below the axes; of `handles`, or of what is labelled in the axes."""
    given = {"handles": axes.get_legend_handles_labels()[0] if handles is None else handles}
    look = {"fontsize": FONT_PT - 0.5, "frameon": False, "handlelength": 1.6, "ncols": 2}
    axes.figure.legend(**given, **look, loc="outside lower center")


def ramp() -> LinearSegmentedColormap:
    """Pale green to dark blue (ColorBrewer's YlGnBu without its yellow): worse to better."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("worse_to_better", RAMP)


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    sink = io.BytesIO()
    FigureCanvasAgg(figure).print_png(sink, metadata={"Software": None})
    return sink.getvalue()


def literal(text: object) -> str:
    """`text` as matplotlib draws it letter by letter: no formula is read in it, and no sign lacks a shape."""
    known = _glyphs()
    return "".join("\\$" if c == "$" else c if ord(c) in known else UNSEEN for c in shortened(str(text), 200))


def shortened(text: str, most: int = MOST_LETTERS) -> str:
    """`text` on one line with at most `most` letters, the middle left out."""
    text = re.sub(r"\s+", " ", text).strip()
    if len(text) <= most:
        return text
    tail = most // 3
    return f"{text[: most - tail - 1]}…{text[-tail:]}"


@cache
def _glyphs() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties())).get_charmap())
