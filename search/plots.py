"""The figures that say how far a search has come: `*_data()` computes, with a sentence, `draw_*()` draws.

progress_data   the best so far, against trials and against epochs spent
standing_data   presets against the winner
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from search import drawing
from search.console import number
from search.drawing import BLACK, BLUE, GREEN, GREY, ORANGE, literal, shortened
from search.page import value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from search.best_so_far import BestSoFar
    from search.space import Space

__all__ = [
    "Progress",
    "Stand",
    "Standing",
    "draw_progress",
    "draw_standing",
    "progress_data",
    "standing_data",
]

Row = Mapping[str, Any]

ENDED = ("COMPLETE", "PRUNED", "FAIL")
MANY = 500  # trials beyond which points are drawn small
SHUFFLED = ("shuffled", "shuffled_low", "shuffled_high", "shuffled_by_epochs")


# ---------------------------------------------------------------------- best so far


@dataclass(frozen=True)
class Progress:
    """Trials that have ended, in the order in which they did: their values and the best so far.

    `epochs` f[n] are those spent until then; `presets` name -> value; `chance` the score of guessing;
    `scale` what chance alone would have found (None: not known), see `search.best_so_far`.
    """

    objective: str
    maximize: bool
    values: np.ndarray
    counts: np.ndarray  # whether a value counts: it is a trial's whole result
    best: np.ndarray
    epochs: np.ndarray
    scale: BestSoFar | None
    presets: Mapping[str, float]
    chance: float | None
    sentence: str
    epochs_sentence: str


def progress_data(
    trials: Sequence[Row], space: Space, chance: float | None = None, scale: BestSoFar | None = None
) -> Progress:
    """The best value after each trial that has ended.

    Only COMPLETE trials count, as long as there is one: a pruned trial's value is none of its whole budget.
    """
    ended = [row for row in trials if row["state"] in ENDED]
    ended.sort(key=lambda row: (row["finished_at"] is None, row["finished_at"] or 0, row["trial"]))
    values = np.array([_finite(row["objective"]) for row in ended], dtype=float)
    complete = np.array([row["state"] == "COMPLETE" for row in ended], dtype=bool) & np.isfinite(values)
    counts = complete if complete.any() else np.isfinite(values)
    maximize = space.directions[0] == "maximize"
    worst, better = (-np.inf, np.maximum) if maximize else (np.inf, np.minimum)
    best = better.accumulate(np.where(counts, values, worst)) if len(values) else values
    best = np.where(np.isfinite(best), best, np.nan)
    epochs = np.cumsum([row["epochs"] or 0 for row in ended], dtype=float)
    presets = {
        row["preset"]: row["objective"]
        for row in ended
        if row["preset"] and np.isfinite(_finite(row["objective"]))
    }
    if scale is not None and len(scale.best) != len(values):
        scale = None
    sentence = _progress_sentence(ended, best, epochs, space.objectives[0], scale)
    return Progress(
        space.objectives[0],
        maximize,
        values,
        counts,
        best,
        epochs,
        scale,
        presets,
        chance,
        sentence,
        _epochs_sentence(best, epochs, space.objectives[0]),
    )


def _progress_sentence(
    ended: Sequence[Row],
    best: np.ndarray,
    epochs: np.ndarray,
    objective: str,
    scale: BestSoFar | None,
) -> str:
    known = np.flatnonzero(np.isfinite(best))
    if not known.size:
        return (
            "No trial has a value yet."
            if not len(ended)
            else f"None of the {len(ended)} trials that ended has a value."
        )
    last = int(np.flatnonzero(best == best[-1])[0])
    said = (
        f"The best {objective} so far is {number(float(best[-1]))}; trial {ended[last]['trial']} reached it, "
        f"the {_ordinal(last + 1)} of {len(ended):,} to end, after {int(epochs[last]):,} of "
        f"{int(epochs[-1]):,} epochs."
    )
    if len(ended) >= 8 and last >= 0.8 * len(ended):
        said += " The last improvement came late: more trials may well find more."
    elif len(ended) >= 8 and last < 0.5 * len(ended):
        said += f" The {len(ended) - last - 1} trials after it brought nothing better."
    if scale is not None and scale.random is not None:
        drawn, reached = len(scale.random), number(scale.random[-1])
        said += f" The {drawn} trials that were drawn at random reached {reached}."
    return said


def _epochs_sentence(best: np.ndarray, epochs: np.ndarray, objective: str) -> str:
    """When most of what was gained had been gained."""
    known = np.flatnonzero(np.isfinite(best))
    if not known.size:
        return "No trial has a value yet."
    first, last = float(best[known[0]]), float(best[-1])
    if first == last:
        return f"The first result, {number(last)} after {int(epochs[known[0]]):,} epochs, is still the best."
    share = np.abs(best[known] - first) >= 0.9 * abs(last - first)
    there = known[int(np.argmax(share))]
    return (
        f"From {number(first)} after {int(epochs[known[0]]):,} epochs to {number(last)} after "
        f"{int(epochs[-1]):,}; nine tenths of that gain were there after {int(epochs[there]):,} "
        f"({100 * epochs[there] / epochs[-1]:.0f} %)."
    )


def draw_progress(data: Progress, against: str) -> Figure:
    """`against` "trials" or "epochs"."""
    figure = drawing.new_figure(3.1)
    axes = drawing.framed(figure.subplots())
    x = np.arange(1, len(data.values) + 1) if against == "trials" else data.epochs
    size = 9 if len(data.values) <= MANY else 2
    look = {"s": size, "color": GREY, "alpha": 1.0 if size > 2 else 0.5}
    axes.scatter(x[data.counts], data.values[data.counts], linewidths=0, label="a trial's result", **look)
    others = ~data.counts & np.isfinite(data.values)
    if others.any():
        axes.scatter(x[others], data.values[others], marker="x", linewidths=0.6, label="ended early", **look)
    axes.step(x, data.best, where="post", color=BLUE, linewidth=1.8, label="best so far")
    if data.scale is not None:
        _draw_scale(axes, data.scale, against, x)
    if data.presets:
        name = (max if data.maximize else min)(data.presets, key=data.presets.get)
        axes.axhline(
            data.presets[name],
            color=GREEN,
            linewidth=1,
            dashes=(1, 1.5),
            label=literal(shortened(f"best preset: {name}")),
        )
    if data.chance is not None:
        axes.axhline(data.chance, color=BLACK, linewidth=0.8, dashes=(6, 2, 1, 2), label="guessing")
    axes.set_xlim(left=0)
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
    drawing.label_x(axes, "trials ended" if against == "trials" else "epochs spent, all trials together")
    drawing.label_y(axes, data.objective)
    drawing.legend(axes)
    return figure


def _draw_scale(axes: Axes, scale: BestSoFar, against: str, x: np.ndarray) -> None:
    """What random draws, and the same trials in random order, would be expected to have found."""
    numbers = {name: np.array(getattr(scale, name), dtype=float) for name in SHUFFLED}
    if against == "trials":
        axes.fill_between(
            x, numbers["shuffled_low"], numbers["shuffled_high"], color=GREY, alpha=0.15, linewidth=0
        )
        axes.plot(
            x, numbers["shuffled"], color=GREY, linewidth=1, dashes=(2, 1), label="same trials, random order"
        )
        if scale.random is not None:
            draws = np.arange(1, len(scale.random) + 1)
            axes.plot(
                draws,
                scale.random,
                color=ORANGE,
                linewidth=1.3,
                dashes=(4, 2),
                label="random search, expected",
            )
    else:
        expected = numbers["shuffled_by_epochs"]
        axes.plot(x, expected, color=GREY, linewidth=1, dashes=(2, 1), label="same trials, random order")


# ---------------------------------------------------------------------- presets against the winner


class Stand(NamedTuple):
    """One configuration's score: `low` to `high` is a 95 % interval of its mean, None with one seed alone."""

    name: str
    mean: float
    low: float | None
    high: float | None
    seeds: tuple[float, ...]
    role: str  # "winner", "preset" or "other"
    remark: str


@dataclass(frozen=True)
class Standing:
    """`of`: on which data and how often these were measured."""

    metric: str
    of: str
    maximize: bool
    stands: Sequence[Stand]
    chance: float | None
    sentence: str


def standing_data(
    summary: Mapping[str, Any], conclusion: Mapping[str, Any] | None, confirm: Sequence[Row] = ()
) -> Standing | None:
    """The winner beside the presets: as confirmed, where there is a conclusion, else as the search saw them.

    None when there is nothing to compare.
    """
    maximize, metric = summary["direction"] == "maximize", summary["objective"]
    if conclusion is not None and any(one["test"]["n"] for one in conclusion["configurations"]):
        stands = _confirmed(conclusion, confirm, metric)
        of = "test split, fresh seeds"
        return Standing(
            metric, of, maximize, stands, summary["chance"], f"Of fresh seeds: {conclusion['sentence']}."
        )
    best = summary["best"]
    if best is None:
        return None
    stands = [
        Stand(one["preset"], one["value"], None, None, (one["value"],), "preset", _remark(one))
        for one in summary["presets"]
        if one["value"] is not None and one["trial"] != best["trial"]
    ]
    if not stands and not best["preset"]:
        return None
    name = best["preset"] or f"trial {best['trial']}"
    stands.append(Stand(name, best["value"], None, None, (best["value"],), "winner", _remark(best)))
    stands.sort(key=lambda stand: stand.mean * (1 if maximize else -1))
    return Standing(
        metric, "validation split, one seed", maximize, stands, summary["chance"], _gain_sentence(summary)
    )


def _confirmed(conclusion: Mapping[str, Any], confirm: Sequence[Row], metric: str) -> list[Stand]:
    stands = []
    for one in conclusion["configurations"]:
        test = one["test"]
        if not test["n"]:
            continue
        seeds = tuple(
            row[f"test.{metric}"]
            for row in confirm
            if row["source"] == one["source"] and np.isfinite(_finite(row.get(f"test.{metric}")))
        )
        chosen = one["source"] == conclusion["recommended"]
        role = "winner" if chosen else "preset" if one["preset"] else "other"
        broken = one["broken"]
        remark = f"broke at {len(broken)} of {len(broken) + len(seeds)} seeds" if broken else ""
        stands.append(Stand(one["name"], test["mean"], test["low"], test["high"], seeds, role, remark))
    return sorted(stands, key=lambda stand: stand.mean * (1 if conclusion["direction"] == "maximize" else -1))


def _remark(one: Mapping[str, Any]) -> str:
    return f"collapsed ({', '.join(one['collapsed'])})" if one["collapsed"] else ""


def _gain_sentence(summary: Mapping[str, Any]) -> str:
    gain, best = summary["gain"], summary["best"]
    if gain is None:
        return "No preset has a value to compare with."
    if gain["trial"] == best["trial"]:
        return f"No other trial beat preset {gain['over']}, which scored {number(best['value'])}."
    word = "ahead of" if gain["value"] > 0 else "behind"
    return (
        f"Trial {best['trial']} scored {number(best['value'])}, {value(abs(gain['value']), 3)} {word} the "
        f"best preset, {gain['over']}; both ran once, so part of the difference is luck."
    )


def draw_standing(data: Standing) -> Figure:
    """One line a configuration: its mean with the interval, and each seed's score."""
    figure = drawing.new_figure(1.1 + 0.36 * len(data.stands))
    axes = drawing.framed(figure.subplots())
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x", color=drawing.PALE, linewidth=0.5)
    colors = {"winner": BLUE, "preset": ORANGE, "other": GREY}
    marks = {"winner": "D", "preset": "o", "other": "s"}
    for y, stand in enumerate(data.stands):
        color = colors[stand.role]
        if stand.low is not None:
            axes.plot([stand.low, stand.high], [y, y], color=color, linewidth=2.2, solid_capstyle="butt")
        if len(stand.seeds) > 1:
            axes.scatter(
                stand.seeds, np.full(len(stand.seeds), y + 0.24), s=7, color=color, alpha=0.6, linewidths=0
            )
        axes.scatter([stand.mean], [y], s=34, marker=marks[stand.role], color=color, zorder=3)
    if data.chance is not None:
        axes.axvline(data.chance, color=BLACK, linewidth=0.8, dashes=(6, 2, 1, 2), label="guessing")
        drawing.legend(axes)
    names = [
        literal(shortened(stand.name) + (f"\n{stand.remark}" if stand.remark else ""))
        for stand in data.stands
    ]
    names = [
        name.replace(" collapsed (", "\ncollapsed (").replace(" broke at ", "\nbroke at ") for name in names
    ]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.margins(x=0.08)
    drawing.label_x(axes, f"{data.metric} ({data.of})")
    return figure


# ---------------------------------------------------------------------- words


def _finite(number: Any) -> float:
    return float("nan") if number is None else float(number)


def _ordinal(number: int) -> str:
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{({1: 'st', 2: 'nd', 3: 'rd'}).get(number % 10, 'th')}"
