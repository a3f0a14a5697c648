"""Charts of what a model makes of a split, drawn with matplotlib and without a display."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MOST_BARS", "draw_bars", "new_figure", "save_figure"]

MOST_BARS = 512  # of one vector; a codebook may have more codes than a picture has pixels
DPI = 100


def new_figure(width: float, height: float) -> Figure:
    """A figure of `width` x `height` inches that belongs to no display and to no global state."""
    from matplotlib.figure import Figure  # half a second; engines draw seldom

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def save_figure(figure: Figure, path: Path) -> None:
    """PNG under `path`, which shows the former file or the whole new one at every moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, format="png")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def draw_bars(vectors: Mapping[str, Sequence[float]], path: Path, title: str) -> None:
    """One bar chart a vector (KL per dimension, recall per class, codebook usage), as a PNG at `path`.

    Of more than `MOST_BARS` entries the largest are drawn, and the label says so.

    Raises:
        ValueError: there is no vector.
    """
    if not vectors:
        raise ValueError("no vectors to draw")
    figure = new_figure(7.0, 0.6 + 2.1 * len(vectors))
    axes = figure.subplots(len(vectors), 1, squeeze=False)[:, 0]
    for axis, (name, values) in zip(axes, vectors.items(), strict=True):
        shown, label = list(values), name
        if len(shown) > MOST_BARS:
            shown, label = sorted(shown, reverse=True)[:MOST_BARS], f"{name}, the largest {MOST_BARS}"
        axis.bar(range(len(shown)), shown, color="#0072b2")
        axis.set_ylabel(label.replace("_", " ").replace(".", "\n"))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.margins(x=0.01)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)
