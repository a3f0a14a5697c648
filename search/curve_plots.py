"""How trials ended: epochs spent by outcome, and learning curves. `*_data()` computes, `draw_*()` draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from search import drawing
from search.drawing import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from search.space import Space

# fmt: off
__all__ = [
    "Curves", "CurvesData", "Outcome", "Spending", "curves_data", "draw_curves", "draw_spending", "outcome",
    "spending_data",
]
# fmt: on

Row = Mapping[str, Any]

ENDED = ("COMPLETE", "PRUNED", "FAIL")
MOST_CURVES = 240  # a picture of more shows no single one
BEST_CURVES = 12  # always among them


class Outcome(NamedTuple):
    """A way in which trials end: what it is called, and how it is drawn."""

    name: str
    color: str
    dash: Any = "-"


OUTCOMES = {
    "completed": Outcome("whole budget", BLUE),
    "plateau": Outcome("levelled off", SKY, (0, (5, 1.2))),
    "target_reached": Outcome("reached the target", GREEN),
    "successive_halving": Outcome("pruned, behind the others", GREY),
    "median": Outcome("pruned, below the median", GREY),
    "collapse": Outcome("collapsed", VERMILLION, (0, (3, 1))),
    "diverged": Outcome("diverged", PURPLE, (0, (1, 1))),
    "over_budget": Outcome("out of time", ORANGE, (0, (5, 1, 1, 1))),
}
FAILED, RUNNING = Outcome("failed", BLACK, (0, (1, 2))), Outcome("in progress", BLACK, (0, (4, 2)))
ELSE = Outcome("another rule", GREY, (0, (2, 2)))


def outcome(row: Row) -> Outcome:
    """How a trial ended, as figures tell it; trials of one outcome look alike."""
    reason = row["stop_reason"] or ""
    if row["state"] not in ENDED:
        return RUNNING
    if row["state"] == "FAIL":
        return FAILED
    return OUTCOMES.get(reason.partition(":")[0], ELSE)


# ---------------------------------------------------------------------- what was spent on what


@dataclass(frozen=True)
class Spending:
    """(outcome, trials, epochs), the largest share of epochs first."""

    parts: Sequence[tuple[Outcome, int, int]]
    most: int
    sentence: str


def spending_data(trials: Sequence[Row], space: Space) -> Spending | None:
    """How many epochs went to trials of each outcome; None before the first epoch."""
    epochs: Counter[Outcome] = Counter()
    counted: Counter[Outcome] = Counter()
    for row in trials:
        if row["state"] != "WAITING":
            epochs[outcome(row)] += row["epochs"] or 0
            counted[outcome(row)] += 1
    spent, most = sum(epochs.values()), sum(counted.values()) * space.budget.epochs
    if not spent:
        return None
    parts = [(one, counted[one], epochs[one]) for one, _ in epochs.most_common()]
    first = parts[0]
    sentence = (
        f"{spent:,} epochs were spent, {_percent(spent, most)} of the {most:,} that these "
        f"{sum(counted.values()):,} trials would have had without early stopping; most of them, "
        f"{_percent(first[2], spent)}, went to trials of this end: {first[0].name}."
    )
    return Spending(parts, most, sentence)


def draw_spending(data: Spending) -> Figure:
    """One bar an outcome."""
    figure = drawing.new_figure(0.7 + 0.32 * len(data.parts))
    axes = drawing.framed(figure.subplots())
    axes.grid(visible=False, axis="y")
    places = np.arange(len(data.parts))[::-1]
    axes.barh(
        places, [part[2] for part in data.parts], color=[part[0].color for part in data.parts], height=0.62
    )
    for place, (_, trials, epochs) in zip(places, data.parts, strict=True):
        axes.annotate(
            f" {epochs:,} ({trials:,} trial{'s' * (trials != 1)})",
            (epochs, place),
            va="center",
            fontsize=drawing.FONT_PT - 0.5,
        )
    axes.set_yticks(places, [part[0].name for part in data.parts])
    axes.set_xlim(0, 1.32 * max(part[2] for part in data.parts))
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=5)
    drawing.label_x(axes, "epochs spent")
    return figure


# ---------------------------------------------------------------------- learning curves


class Curves(NamedTuple):
    """The objective by trial and epoch, as columns sorted by both."""

    trial: np.ndarray
    epoch: np.ndarray
    value: np.ndarray

    def of(self, trial: int) -> tuple[np.ndarray, np.ndarray]:
        """The epochs and values of one trial."""
        first, last = np.searchsorted(self.trial, [trial, trial + 1])
        return self.epoch[first:last], self.value[first:last]


@dataclass(frozen=True)
class CurvesData:
    """Curves that are drawn, each with its trial's outcome; `best` is drawn on top, `total` are there."""

    objective: str
    lines: Sequence[tuple[int, Outcome, np.ndarray, np.ndarray]]
    best: int | None
    total: int
    budget: int
    chance: float | None
    sentence: str


def curves_data(
    trials: Sequence[Row], curves: Curves, space: Space, best: int | None, chance: float | None = None
) -> CurvesData | None:
    """Learning curves, thinned where there are many: the best, the presets, and of the rest an even share of
    each outcome. None before the first epoch."""
    shown = [row for row in trials if row["epochs"]]
    if not shown or not len(curves.trial):
        return None
    chosen = _chosen(shown, space)
    lines = [(row["trial"], outcome(row), *curves.of(row["trial"])) for row in chosen]
    return CurvesData(
        space.objectives[0],
        lines,
        best,
        len(shown),
        space.budget.epochs,
        chance,
        _curves_sentence(shown, best, space),
    )


def _chosen(shown: Sequence[Row], space: Space) -> Sequence[Row]:
    if len(shown) <= MOST_CURVES:
        return shown
    sign = 1 if space.directions[0] == "maximize" else -1
    valued = [row for row in shown if np.isfinite(_finite(row["objective"]))]
    first = sorted(valued, key=lambda row: -sign * row["objective"])[:BEST_CURVES]
    kept = {row["trial"]: row for row in [*first, *(row for row in shown if row["preset"])][:MOST_CURVES]}
    groups: dict[Outcome, list[Row]] = {}
    for row in shown:
        groups.setdefault(outcome(row), []).append(row)
    room = MOST_CURVES - len(kept)
    for rows in groups.values():
        share = max(3, round(room * len(rows) / len(shown)))
        for place in np.unique(np.linspace(0, len(rows) - 1, min(share, len(rows))).round().astype(int)):
            kept.setdefault(rows[place]["trial"], rows[place])
    return sorted(kept.values(), key=lambda row: row["trial"])


def _curves_sentence(shown: Sequence[Row], best: int | None, space: Space) -> str:
    counted = Counter(outcome(row) for row in shown)
    said = []
    for one, count in counted.most_common():
        ends = [row["epochs"] for row in shown if outcome(row) is one]
        middle = int(np.median(ends))
        at = "" if one is OUTCOMES["completed"] or one is RUNNING else f" (half of them by epoch {middle})"
        said.append(f"{count:,} {one.name}{at}")
    winner = next((row for row in shown if row["trial"] == best), None)
    late = ""
    if winner is not None and winner["best_epoch"]:
        late = f" The best trial was at its best at epoch {winner['best_epoch']} of {winner['epochs']}"
        budget = space.budget.epochs
        still = winner["best_epoch"] >= 0.95 * budget and budget > 1
        late += ", at the end of its budget: a longer one may give more." if still else "."
    return f"{len(shown):,} trial{'s' * (len(shown) != 1)}: {', '.join(said)}.{late}"


def draw_curves(data: CurvesData) -> Figure:
    """A line a trial, coloured and dashed by how it ended."""
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

    figure = drawing.new_figure(3.3)
    axes = drawing.framed(figure.subplots())
    alpha = max(0.25, min(0.9, 12 / max(len(data.lines), 1) ** 0.6))
    kinds = list(dict.fromkeys(line[1] for line in data.lines))
    kinds.sort(key=lambda kind: kind not in (OUTCOMES["successive_halving"], OUTCOMES["median"]))
    for kind in kinds:
        segments = [np.column_stack(line[2:]) for line in data.lines if line[1] is kind]
        axes.add_collection(
            LineCollection(segments, colors=kind.color, linewidths=0.8, linestyles=[kind.dash], alpha=alpha)
        )
        single = [line for line in data.lines if line[1] is kind and len(line[2]) == 1]
        axes.scatter([line[2][0] for line in single], [line[3][0] for line in single], s=5, color=kind.color)
    for number, kind, x, y in data.lines:
        if number == data.best:
            axes.plot(x, y, color=BLACK, linewidth=2.6)
            axes.plot(x, y, color=kind.color, linewidth=1.5)
    if data.chance is not None:
        axes.axhline(data.chance, color=BLACK, linewidth=0.8, dashes=(6, 2, 1, 2))
    axes.autoscale_view()
    axes.set_xlim(0.5, data.budget + 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=8)
    handles = [
        Line2D([], [], color=kind.color, linestyle=kind.dash, linewidth=1.6, label=kind.name)
        for kind in kinds
    ]
    if data.best is not None:
        handles.append(Line2D([], [], color=BLACK, linewidth=2.6, label=f"best (trial {data.best})"))
    if data.chance is not None:
        handles.append(Line2D([], [], color=BLACK, linewidth=0.8, dashes=(6, 2, 1, 2), label="guessing"))
    drawing.legend(axes, handles)
    thinned = f", {len(data.lines)} of {data.total:,} trials" if len(data.lines) < data.total else ""
    drawing.label_x(axes, f"epoch{thinned}")
    drawing.label_y(axes, f"{data.objective}, validation")
    return figure


def _finite(number: Any) -> float:
    return float("nan") if number is None else float(number)


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %"
