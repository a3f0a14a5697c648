"""What a search has found, for its end: figures, the text that is printed, and three small files.

    read_rows()  trials.parquet, epochs.parquet ──► Rows
    summarise()  Rows ──► plain values; `summary_lines` words them
    write()      report/summary.json, report/summary.csv, report/recommended.yaml

The study is not asked. The words fit any family: metrics are called as it calls them.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from search.configuration import load_configuration, write_configuration
from search.preflight import num_trials
from search.run_directory import RunDirectory
from search.space import Space

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Rows",
    "collapse_of",
    "described",
    "read_conclusion",
    "read_rows",
    "reason_in_words",
    "summarise",
    "write",
]

Row = Mapping[str, Any]

ENDED = ("COMPLETE", "PRUNED", "FAIL")
# What summary.csv leaves out of trials.parquet: it is about the search, with all collapses in one column.
NOT_IN_CSV = ("phase", "source", "test.", "collapsed.")
REASONS = {
    "completed": "had their whole budget",
    "plateau": "levelled off",
    "target_reached": "reached the target",
    "successive_halving": "pruned, behind the others (successive_halving)",
    "median": "pruned, below the median",
    "over_budget": "used up their time",
    "diverged": "diverged: a loss or gradient was not finite",
    "out_of_memory": "ran out of memory",
    "raised": "raised an error",
    "no_finite_objective": "never had a finite objective",
}
CAUTION = (
    "Each trial ran once, with one seed, and the best of many is partly lucky: before relying on the gain, "
    "confirm it with fresh seeds on the test split (loss-search confirm)."
)


class Rows(NamedTuple):
    """`trials`: the rows of trials.parquet. `last`: each trial's last row of epochs.parquet, by number."""

    trials: Sequence[Row]
    last: Mapping[int, Row]


def is_queued(row: Row, directory: RunDirectory) -> bool:
    """Whether a trial that runs to the study has only waited for a slot so far.

    An engine that takes a trial in says so in the trial's log, an epoch before its first row.
    """
    log = directory.trial(row["trial"], row["phase"]) / "run.log"
    return row["state"] == "RUNNING" and not row["epochs"] and not log.exists()


def read_rows(
    directory: RunDirectory, table: pa.Table | None = None, kinds: Sequence[str] | None = None
) -> Rows:
    """The search's rows of a run, whether it is finished or not.

    `table`: trials.parquet, where it is read. `kinds` of collapse: of the epochs only their columns are read.
    """
    import numpy as np
    import pyarrow.compute as pc

    from search.record import read_epochs, read_trials

    table = read_trials(directory.path) if table is None else table
    trials = [row for row in table.to_pylist() if row["phase"] == "search"]
    keys = ["trial", "epoch", "phase"]
    columns = None if kinds is None else [*keys, *(f"collapsed.{kind}" for kind in kinds)]
    epochs = read_epochs(directory.path, columns=columns)
    epochs = epochs.filter(pc.equal(epochs["phase"], "search"))
    numbers = epochs["trial"].to_numpy()  # sorted, within a trial by epoch
    ends = np.flatnonzero(np.diff(numbers, append=-1))
    return Rows(trials, {row["trial"]: row for row in epochs.take(ends).to_pylist()})


def summarise(
    rows: Rows,
    space: Space,
    run: str,
    chance: float | None = None,
    warnings: Sequence[str] = (),
    conclusion: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that the end of a search says, as plain values.

    Args:
        run: the run's name.
        chance: `selection_accuracy` of guessing, where it is known.
        warnings: what was said about data and space before the search.
        conclusion: of its confirmation, see `read_conclusion`.

    Returns:
        `best` is None when no trial has a value for the objective.
    """
    trials, last = rows
    best = _best(trials, space)
    presets = [_preset(preset.name, trials, last, space) for preset in space.presets]
    return {
        "run": run,
        "family": space.family_name,
        "objective": space.objectives[0],
        "direction": space.directions[0],
        "chance": chance if space.objectives[0] == "selection_accuracy" else None,
        "trials": len(trials),
        "budget": {"trials": num_trials(space), "epochs": space.budget.epochs},
        "epochs": sum(row["epochs"] or 0 for row in trials),
        "states": dict(Counter(row["state"] for row in trials)),
        "reasons": dict(Counter(row["stop_reason"] for row in trials if row["state"] in ENDED).most_common()),
        "collapsed": dict(Counter(kind for row in last.values() for kind in collapse_of(row))),
        "first_error": next((row["error"] for row in trials if row["error"]), None),
        "best": None if best is None else described(best, last, space),
        "presets": presets,
        "gain": _gain(best, presets, space),
        "caution": CAUTION,
        "warnings": list(warnings),
        "conclusion": None if conclusion is None else {**conclusion, "current": _current(conclusion, best)},
    }


def read_conclusion(directory: RunDirectory, space: Space) -> dict[str, Any] | None:
    """What a run's confirmation has shown so far (`search.verdict.conclude`); None when there is none.

    `finished` tells whether it has all that it was asked for.
    """
    from search.confirm import Settings
    from search.record import read_trials
    from search.standing import confirmation_of
    from search.verdict import conclude

    rows = read_trials(directory.path).to_pylist()
    found, confirmed = ([row for row in rows if row["phase"] == phase] for phase in ("search", "confirm"))
    if not confirmed:
        return None
    settings, finished = confirmation_of(directory.journal, space)
    return {**conclude(found, confirmed, space, Settings(**settings).looks), "finished": finished}


def collapse_of(row: Row) -> list[str]:
    """The kinds of collapse that an epoch's row shows; none where they were not judged."""
    return [
        name.removeprefix("collapsed.")
        for name, value in row.items()
        if name.startswith("collapsed.") and value
    ]


def reason_in_words(reason: str) -> str:
    """A stop reason as a person says it; the reason itself where there are no words for it."""
    if reason.startswith("collapse:"):
        return f"collapsed ({reason.removeprefix('collapse:')})"
    return REASONS.get(reason, reason)


def write(summary: Mapping[str, Any], rows: Rows, directory: RunDirectory) -> None:
    """Write the report files; there is no recommended.yaml as long as no trial has a value."""
    directory.report.mkdir(exist_ok=True)
    _replace(
        directory.report / "summary.json", json.dumps(_finite(summary), indent=1, allow_nan=False) + "\n"
    )
    _replace(directory.report / "summary.csv", _csv(rows))
    best = summary["best"]
    if best is None:
        return
    number, why = best["trial"], _unconfirmed(summary)
    conclusion = summary["conclusion"]
    if conclusion is not None and conclusion["current"] and conclusion["recommended"] is not None:
        number, why = conclusion["recommended"], _confirmed(summary)
    configuration = load_configuration(directory.trial(number) / "config.yaml", summary["family"])
    how = f"Train it: loss-search train {summary['family']} --config recommended.yaml"
    write_configuration(configuration, directory.report / "recommended.yaml", f"{why}\n{how}")


def _unconfirmed(summary: Mapping[str, Any]) -> str:
    best = summary["best"]
    what = f"Trial {best['trial']} of {summary['run']}, {best['state']}: {summary['objective']}"
    stale = "It was found after the run's confirmation.\n" if summary["conclusion"] else ""
    return (
        f"{what} {best['value']:.4f} on validation data at epoch {best['epoch']}.\n{stale}"
        f"{textwrap.fill(CAUTION, 100)}"
    )


def _confirmed(summary: Mapping[str, Any]) -> str:
    conclusion = summary["conclusion"]
    plain = next(one for one in conclusion["configurations"] if one["source"] == conclusion["recommended"])
    preset = f", preset {plain['preset']}" if plain["preset"] else ""
    what = f"Trial {plain['source']} of {summary['run']}{preset}, confirmed with fresh seeds."
    return "\n".join(textwrap.fill(line, 100) for line in (what, f"{conclusion['sentence']}."))


# ---------------------------------------------------------------------- figures


def _best(trials: Sequence[Row], space: Space) -> Row | None:
    """The best COMPLETE trial, or the best of any state while none is; None without any value."""
    sign = 1.0 if space.directions[0] == "maximize" else -1.0
    valued = [row for row in trials if row["objective"] is not None and not math.isnan(row["objective"])]
    complete = [row for row in valued if row["state"] == "COMPLETE"]
    return max(complete or valued, key=lambda row: sign * row["objective"], default=None)


def _current(conclusion: Mapping[str, Any], best: Row | None) -> bool:
    """Whether all that was to be confirmed is, and the search's best is among it."""
    known = [plain["search"] for plain in conclusion["configurations"]]
    return conclusion["finished"] and best is not None and best["objective"] in known


def described(row: Row, last: Mapping[int, Row], space: Space) -> dict[str, Any]:
    """One trial: its result, its metrics at the best and the last epoch, and what was searched in force."""
    prefixed = {
        **{f"static.{name}": name for name in space.static},
        **{f"knob.{name}": name for name in space.knobs},
    }
    searched = space.searched()
    return {
        "trial": row["trial"],
        "preset": row["preset"],
        "seed": row["seed"],
        "state": row["state"],
        "reason": row["stop_reason"],
        "value": row["objective"],
        "epoch": row["best_epoch"],
        "epochs": row["epochs"],
        "at_best": {name: row.get(f"best.val.{name}") for name in space.family.metrics},
        "at_end": {name: row.get(f"final.val.{name}") for name in space.family.metrics},
        "collapsed": collapse_of(last.get(row["trial"], {})),
        "searched": {
            name: row[column]
            for column, name in prefixed.items()
            if name in searched and row.get(column) is not None
        },
    }


def _preset(name: str, trials: Sequence[Row], last: Mapping[int, Row], space: Space) -> dict[str, Any]:
    row = next((row for row in trials if row["preset"] == name), None)
    if row is None or row["state"] == "WAITING":
        return {"preset": name, "state": "WAITING", "value": None}
    return described(row, last, space)


def _gain(best: Row | None, presets: Sequence[Mapping[str, Any]], space: Space) -> dict[str, Any] | None:
    """By how much the best trial beats the best preset (positive: it does); None without both."""
    sign = 1.0 if space.directions[0] == "maximize" else -1.0
    valued = [preset for preset in presets if preset["value"] is not None]
    if best is None or not valued:
        return None
    over = max(valued, key=lambda preset: sign * preset["value"])
    return {
        "over": over["preset"],
        "trial": over["trial"],
        "value": sign * (best["objective"] - over["value"]),
    }


# ---------------------------------------------------------------------- files


def _csv(rows: Rows) -> str:
    """One line a trial; empty where there is no value."""
    trials, last = rows
    columns = [name for name in (trials[0] if trials else {}) if not name.startswith(NOT_IN_CSV)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, "collapsed"])
    for row in trials:
        writer.writerow([*(row[name] for name in columns), " ".join(collapse_of(last.get(row["trial"], {})))])
    return text.getvalue()


def _finite(value: Any) -> Any:
    """`value` with null for every number that is not finite: JSON has none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
