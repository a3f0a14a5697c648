"""The picture of a comparison: `curves_data()` computes, with a sentence, `draw_curves()` draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search import drawing
from search.drawing import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION
from search.page import value

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Curves", "curves_data", "draw_curves"]

COLOURS = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, BLACK, GREY)
DASHES = ((None, None), (5, 2), (1.5, 1.5))  # the ninth run has the first colour again, dashed


@dataclass(frozen=True)
class Curves:
    """Best so far of each run against epochs spent: `names`, and by run where it improved, up to `budget`."""

    metric: str
    names: Sequence[str]
    epochs: Sequence[Sequence[int]]
    best: Sequence[Sequence[float]]
    budget: int
    sentence: str


def curves_data(facts: Mapping[str, Any], names: Sequence[str]) -> Curves:
    """The curves of a comparison, cut where the shortest run ended; `names` are short."""
    budget = facts["budget"]
    epochs, best = [], []
    for curve in facts["curves"]:
        pairs = zip(curve["epochs"], curve["best"], strict=True)
        points = [(spent, reached) for spent, reached in pairs if spent <= budget["epochs"]]
        epochs.append([spent for spent, _ in points])
        best.append([reached for _, reached in points])
    return Curves(facts["metric"], names, epochs, best, budget["epochs"], _sentence(facts, names))


def _sentence(facts: Mapping[str, Any], names: Sequence[str]) -> str:
    budget = facts["budget"]
    if budget["target"] is None:
        return "Not every run has a value yet, so that there is nothing to compare."
    ends = budget["at"][-1]["values"]
    best = (max if facts["direction"] == "maximize" else min)(ends)
    leaders = [name for name, end in zip(names, ends, strict=True) if end == best]
    fastest = min(budget["needed"])
    first = [name for name, needed in zip(names, budget["needed"], strict=True) if needed == fastest]
    lead = f"{leaders[0]} leads with" if len(leaders) == 1 else f"{_listed(leaders)} are level at"
    last, target = max(budget["needed"]), value(budget["target"])
    who = f": {_listed(first)} after {fastest:,} epochs, the last" if last > fastest else ""
    return (
        f"After the {budget['epochs']:,} epochs that all runs spent, {lead} {value(best)}. All reached "
        f"{target}{who} after {last:,}{'' if who else ' epochs'}."
    )


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def draw_curves(data: Curves) -> Figure:
    """A step where a run found something better; colours and dashes tell runs apart."""
    figure = drawing.new_figure(3.3)
    axes = drawing.framed(figure.subplots())
    for index, (name, epochs, best) in enumerate(zip(data.names, data.epochs, data.best, strict=True)):
        if not epochs:
            continue
        (line,) = axes.step(
            [*epochs, data.budget],
            [*best, best[-1]],
            where="post",
            color=COLOURS[index % len(COLOURS)],
            linewidth=1.8,
            marker="os^Dv<>P"[index % 8],
            markersize=3.5,
            label=name,
        )
        dashes = DASHES[index // len(COLOURS)]
        if dashes[0] is not None:
            line.set_dashes(dashes)
    axes.set_xlim(left=0)
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
    drawing.label_x(axes, "epochs spent, all trials together")
    drawing.label_y(axes, data.metric)
    drawing.legend(axes)
    return figure
