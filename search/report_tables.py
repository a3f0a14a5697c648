"""The tables of a report, as plain values: every trial, the recommended settings, what was searched. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from search.console import short
from search.page import DataTable, TableColumn, value
from search.parameters import Parameter
from search.space import Space
from search.summary import Rows, collapse_of, reason_in_words

__all__ = [
    "edge_remarks",
    "full_table",
    "parallel_sentence",
    "parallel_spec",
    "range_in_words",
    "settings_table",
]

Row = Mapping[str, Any]

EDGE = 0.02  # of a range (of its logarithm, where that is drawn): closer to its end is at its end (ours)
MOST_AXES = 16
FEWEST_SCORED = 6  # trials among which the best three are something
AT_BEST = "at the objective's best epoch, validation"


def full_table(rows: Rows, space: Space) -> DataTable:
    """Every trial with what was searched and what came of it, in the order of their numbers."""
    searched = [(f"static.{n}" if n in space.static else f"knob.{n}", p) for n, p in space.searched().items()]
    ranked = [name for name, metric in space.family.metrics.items() if metric.higher_is_better is not None]
    metrics = [name for name in ranked if name not in space.objectives]
    columns = [
        TableColumn("trial", "trial", True, "the trial's number in the Optuna study"),
        TableColumn("state", "state", False, "COMPLETE, PRUNED, FAIL, RUNNING or WAITING"),
        TableColumn("reason", "ended because", False, "the rule that stopped it, or the fault"),
        TableColumn("preset", "preset", False, "name under start_from"),
        *(TableColumn(n, n, True, _hint(n, space, AT_BEST)) for n in space.objectives),
        TableColumn("best_epoch", "best epoch", True, "first epoch at which the objective was best"),
        TableColumn("epochs", "epochs", True, "epochs reported"),
        TableColumn("seconds", "training, s", True, "sum over its epochs"),
        *(TableColumn(p.name, p.name, p.kind != "choice", range_in_words(p)) for _, p in searched),
        *(TableColumn(n, n, True, _hint(n, space, AT_BEST)) for n in metrics),
        TableColumn("collapse", "collapse", False, "kinds that show at its last epoch"),
        TableColumn("seed", "seed", True, "the trial's seed"),
        TableColumn("error", "error", False, "the last line of the error that ended it"),
    ]  # fmt: skip
    lines = [
        [
            row["trial"],
            row["state"],
            row["stop_reason"],
            row["preset"],
            *(row.get(f"objective.{name}") for name in space.objectives),
            row["best_epoch"],
            row["epochs"],
            row["seconds"],
            *(row.get(column) for column, _ in searched),
            *(row.get(f"best.val.{name}") for name in metrics),
            ", ".join(collapse_of(rows.last.get(row["trial"], {}))) or None,
            row["seed"],
            row["error"],
        ]
        for row in rows.trials
    ]
    filled = [
        at
        for at, column in enumerate(columns)
        if column.name not in ("preset", "collapse", "error", *metrics)
        or any(line[at] is not None for line in lines)
    ]
    caption = f"All {len(lines):,} trials, the best first; metrics are of validation data, at its best epoch."
    example = next((p.name for _, p in searched if p.kind != "choice"), space.objectives[0])
    return DataTable(
        "trials",
        caption,
        [columns[at] for at in filled],
        [[line[at] for at in filled] for line in lines],
        f"words, or as in: state=complete {example}<0.1",
        (space.objectives[0], space.directions[0] == "maximize") if lines else None,
    )


def settings_table(
    space: Space, chosen: Mapping[str, Any], other: Mapping[str, Any] | None
) -> list[tuple[str, ...]]:
    """(setting, chosen, other, what was searched) of each searched parameter that is in force in either.

    `chosen` and `other` hold the searched parameters in force, by name; without `other` it has no column.
    """
    columns = [chosen] if other is None else [chosen, other]
    return [
        (name, *(_set(column.get(name)) for column in columns), range_in_words(parameter))
        for name, parameter in space.searched().items()
        if any(name in column for column in columns)
    ]


def range_in_words(parameter: Parameter) -> str:
    """What a parameter may be: `0.001 to 4 (log)`."""
    if parameter.kind == "choice":
        return ", ".join(map(short, parameter.choices))
    return f"{parameter.low:g} to {parameter.high:g}" + (" (log)" if parameter.log else "")


def edge_remarks(space: Space, chosen: Mapping[str, Any], name: str) -> list[str]:
    """A sentence for each number of the configuration `name` that lies at an end of its range."""
    found, settings = [], {**space.family.statics, **space.family.knobs}
    for setting, parameter in space.searched().items():
        number = chosen.get(setting)
        if number is None or parameter.kind == "choice" or parameter.low == parameter.high:
            continue
        scale = math.log if parameter.log else float
        low, high = scale(parameter.low), scale(parameter.high)
        place = (scale(number) - low) / (high - low)
        if EDGE < place < 1 - EDGE:
            continue
        end, bound = ("lower", parameter.low) if place <= EDGE else ("upper", parameter.high)
        if bound in (settings[setting].low, settings[setting].high):
            continue  # no space can go further
        found.append(
            f"{setting} of {name} is {short(number)}, at the {end} end of what was searched "
            f"({range_in_words(parameter)}): a wider range may hold better."
        )
    return found


def parallel_spec(
    rows: Rows, space: Space, table: DataTable, first: Sequence[str] = ()
) -> dict[str, Any] | None:
    """What `parallel.js` draws: the objectives, then one axis a searched parameter, one line a trial.

    `first` names the parameters by importance. Those with conditions come last: a value of None, where one
    was not in force, breaks its line. None when fewer than two axes or no trial would be there.
    """
    searched = space.searched()
    ranks = {name: rank for rank, name in enumerate(first)}
    names = sorted(searched, key=lambda name: (bool(searched[name].when), ranks.get(name, len(ranks))))
    axes, values = [], []
    for name in space.objectives:
        scores = [row.get(f"objective.{name}") for row in rows.trials]
        known = [score for score in scores if score is not None and math.isfinite(score)]
        if known:
            axes.append(
                {"name": name, "kind": "linear", "low": min(known), "high": max(known), "column": None}
            )
            values.append(scores)
    for name in names[:MOST_AXES]:
        axes.append(_axis(searched[name], space))
        values.append([row.get(axes[-1]["column"]) for row in rows.trials])
    if len(axes) < 2 or not any(row["state"] != "WAITING" for row in rows.trials):
        return None
    return {
        "table": table.id,
        "axes": axes,
        "values": values,
        "objective": space.objectives[0],
        "maximize": space.directions[0] == "maximize",
        "score": [row.get("objective") for row in rows.trials],
    }


def parallel_sentence(spec: Mapping[str, Any]) -> str:
    """What the best tenth of the trials (at least three) have in common, of what they might differ in.

    A word that at least 80 % of them share and fewer of all do; a range of at most a third of its axis.
    """
    sign = 1 if spec["maximize"] else -1
    scored = [
        (score, at) for at, score in enumerate(spec["score"]) if score is not None and math.isfinite(score)
    ]
    if len(scored) < FEWEST_SCORED:
        return (
            f"Only {len(scored)} of {len(spec['score'])} trials have a value: too few to see what is shared."
        )
    best = [at for _, at in sorted(scored, key=lambda pair: -sign * pair[0])][: max(3, len(scored) // 10)]
    said = []
    for axis, values in zip(spec["axes"], spec["values"], strict=True):
        own = [values[at] for at in best if values[at] is not None]
        if axis["column"] is None or len(own) < len(best):
            continue
        shared = _shared_word(axis, own, values) if axis["kind"] == "words" else _shared_range(axis, own)
        said += [shared] if shared else []
    if not said:
        return f"The best {len(best)} of {len(scored)} trials share no setting: several ways lead there."
    return f"The best {len(best)} of {len(scored)} trials share: {'; '.join(said)}."


def _shared_word(axis: Mapping[str, Any], own: Sequence[Any], values: Sequence[Any]) -> str | None:
    word, count = Counter(own).most_common(1)[0]
    everywhere = sum(value == word for value in values) / max(1, sum(value is not None for value in values))
    if count < 0.8 * len(own) or everywhere >= 0.8:
        return None
    return f"{axis['name']} {short(word)}" + ("" if count == len(own) else f" ({count} of {len(own)})")


def _shared_range(axis: Mapping[str, Any], own: Sequence[float]) -> str | None:
    scale = math.log if axis["kind"] == "log" else float
    extent = scale(axis["high"]) - scale(axis["low"])
    if extent <= 0 or scale(max(own)) - scale(min(own)) > extent / 3:
        return None
    return f"{axis['name']} {value(float(min(own)), 3)} to {value(float(max(own)), 3)}"


def _axis(parameter: Parameter, space: Space) -> dict[str, Any]:
    column = f"static.{parameter.name}" if parameter.name in space.static else f"knob.{parameter.name}"
    axis: dict[str, Any] = {"name": parameter.name, "column": column}
    if parameter.kind == "choice":
        return axis | {"kind": "words", "words": list(parameter.choices)}
    return axis | {"kind": "log" if parameter.log else "linear", "low": parameter.low, "high": parameter.high}


def reasons_table(summary: Mapping[str, Any]) -> list[tuple[str, int]]:
    """(how trials ended, how many), the most frequent first."""
    return [
        (reason_in_words(reason or "for no recorded reason"), n) for reason, n in summary["reasons"].items()
    ]


def _hint(name: str, space: Space, where: str) -> str:
    metric = space.family.metrics.get(name)
    return f"{metric.help}; {where}" if metric is not None else where


def _set(value: Any) -> str:
    return "not in force" if value is None else short(value)
