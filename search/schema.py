"""The columns of a run's Parquet files, and the conversion of plain Python values to them.

A column whose name ends with `*` stands for all columns that share its beginning; which of them a file has
depends on the family. Types are the same in every file of a run, so that parts can be laid together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple

import pyarrow as pa

__all__ = [
    "ENDED",
    "EPOCH_COLUMNS",
    "STATES",
    "TRIAL_COLUMNS",
    "Column",
    "find_column",
    "schema_markdown",
    "summarise",
    "table_of",
    "typed_epoch",
    "typed_trial",
]

Row = Mapping[str, Any]

STATES = ("COMPLETE", "PRUNED", "FAIL", "RUNNING", "WAITING")
ENDED = ("COMPLETE", "PRUNED", "FAIL")


class Column(NamedTuple):
    """One column, or with a `*` at the end of `name` all that begin so. `type` None: by the values."""

    name: str
    type: pa.DataType | None
    unit: str
    meaning: str


FLOAT, FLOATS, MOMENT = pa.float64(), pa.list_(pa.float64()), pa.timestamp("us", tz="UTC")

EPOCH_COLUMNS = (
    Column("trial", pa.int32(), "", "the trial's number in its phase's Optuna study"),
    Column("epoch", pa.int32(), "epochs", "the trial's own epoch, from 1"),
    Column(
        "phase", pa.string(), "", "`search`, or `confirm` for what was found trained again with a fresh seed"
    ),
    Column("engine", pa.string(), "", "the worker group that trained the epoch"),
    Column("slot", pa.int32(), "", "the row of that engine's stack, from 0"),
    Column("seconds", FLOAT, "s", "wall time of the epoch; all slots of a stack share it"),
    Column("lr", FLOAT, "", "learning rate at the end of the epoch"),
    Column("grad_norm", FLOAT, "", "mean over the steps of the gradient's norm before clipping"),
    Column(
        "train.*",
        FLOAT,
        "as the term or metric",
        "a loss term (unweighted), a metric, or `loss`, the weighted sum, on the training split",
    ),
    Column("val.*", FLOAT, "as the term or metric", "the same on the validation split"),
    Column("weight.*", FLOAT, "", "weight of a loss term at the end of the epoch, after its schedule"),
    Column("active.*", pa.int64(), "examples", "examples in which a loss term took part during the epoch"),
    Column("diverged", pa.bool_(), "", "whether a loss or gradient of the epoch was not finite"),
    Column("collapsed.*", pa.bool_(), "", "whether this kind of collapse shows; null where it is not judged"),
    Column(
        "test.*",
        FLOAT,
        "as the term or metric",
        "in the last row of a confirmation's trial: its best epoch's model on the held-out test split",
    ),
    Column("vector.*", FLOATS, "as the metric", "a metric by class, dimension or task (one list a row)"),
)
TRIAL_COLUMNS = (
    Column("trial", pa.int32(), "", "the trial's number in its phase's Optuna study"),
    Column("phase", pa.string(), "", "`search` or `confirm`"),
    Column("source", pa.int32(), "", "the trial of the search that a trial of the confirmation repeats"),
    Column("state", pa.string(), "", "one of " + ", ".join(STATES)),
    Column(
        "stop_reason",
        pa.string(),
        "",
        "why it ended: `completed` (its whole budget), the rule that stopped it, or the fault; null before",
    ),
    Column("preset", pa.string(), "", "name under `start_from`; null for a sampled configuration"),
    Column("seed", pa.int64(), "", "the trial's seed"),
    Column("objective", FLOAT, "as the metric", "the (first) objective's value at the best epoch"),
    Column("objective_*", FLOAT, "as the metric", "the second and later objectives, numbered from 1"),
    Column("objective.*", FLOAT, "as the metric", "every objective again, under its metric's name"),
    Column("best_epoch", pa.int32(), "epochs", "first epoch at which the (first) objective was best"),
    Column("epochs", pa.int32(), "epochs", "epochs reported"),
    Column("knob.*", None, "as the knob", "a knob's value; null where its condition put it out of force"),
    Column("static.*", None, "as the setting", "a static setting's value"),
    Column("best.val.*", FLOAT, "as the metric", "validation figures at the best epoch"),
    Column("best.train.*", FLOAT, "as the metric", "training figures at the best epoch"),
    Column("final.val.*", FLOAT, "as the metric", "validation figures at the last epoch"),
    Column("final.train.*", FLOAT, "as the metric", "training figures at the last epoch"),
    Column("test.*", FLOAT, "as the metric", "a confirmation's: the best epoch's model on the test split"),
    Column(
        "collapsed.*", pa.bool_(), "", "whether this kind of collapse shows at the last epoch; null as there"
    ),
    Column("started_at", MOMENT, "UTC", "when the trial first got a slot"),
    Column("finished_at", MOMENT, "UTC", "when it ended; null while it runs"),
    Column("seconds", FLOAT, "s", "sum over its epochs"),
    Column("engine", pa.string(), "", "the engine that trained its last epoch"),
    Column("retries", pa.int32(), "", "how often it was started again after a fault"),
    Column("error", pa.string(), "", "the last line of the error that ended it"),
)


def schema_markdown() -> str:
    """Both tables of columns as Markdown, for the README."""
    lines = []
    for name, columns in (("epochs.parquet", EPOCH_COLUMNS), ("trials.parquet", TRIAL_COLUMNS)):
        lines += [f"`{name}`", "", "| column | type | unit | meaning |", "|---|---|---|---|"]
        for column in columns:
            kind = "f64, i64, bool or string" if column.type is None else _type_name(column.type)
            lines.append(f"| `{column.name}` | {kind} | {column.unit} | {column.meaning} |")
        lines.append("")
    return "\n".join(lines)


def find_column(name: str, columns: tuple[Column, ...]) -> Column:
    """The column of `columns` that `name` is or belongs to. Raises ValueError when there is none."""
    for column in columns:
        if column.name == name:
            return column
        beginning = column.name.removesuffix("*")
        if beginning != column.name and name.startswith(beginning) and name != beginning:
            return column
    raise ValueError(
        f"column {name!r} is not of the record's schema; {', '.join(c.name for c in columns)} are"
    )


def typed_epoch(row: Row) -> dict[str, Any]:
    """One epoch's row as columns: `phase` filled in, `vectors` as `vector.<name>`, values typed.

    Raises ValueError for an unknown column, a value of another type, a trial below 0 or an epoch below 1, and
    KeyError for a row without trial or epoch.
    """
    typed = {
        name: _convert(name, value, _epoch_conversion(name))
        for name, value in row.items()
        if name != "vectors"
    }
    for name, values in (row.get("vectors") or {}).items():
        typed[f"vector.{name}"] = _convert(name, values, _epoch_conversion(f"vector.{name}"))
    typed["phase"] = typed.get("phase") or "search"
    if typed["trial"] is None or typed["epoch"] is None or typed["trial"] < 0 or typed["epoch"] < 1:
        raise ValueError(
            f"trial={typed['trial']}, epoch={typed['epoch']}: a row needs a trial from 0, an epoch from 1"
        )
    return typed


def typed_trial(row: Row) -> dict[str, Any]:
    """One trial's row with every value of its column's type; knobs and settings stay as they are.

    Raises ValueError for an unknown column, a value of another type or a state that Optuna does not have, and
    KeyError for a row without trial or state.
    """
    typed = {name: _convert(name, value, _trial_conversion(name)) for name, value in row.items()}
    typed["phase"] = typed.get("phase") or "search"
    if typed["state"] not in STATES:
        raise ValueError(f"trial {typed['trial']}: state={typed['state']!r}, allowed: {', '.join(STATES)}")
    return typed


def summarise(
    rows: Sequence[Row], objectives: Sequence[str], minimise: Collection[str] = ()
) -> dict[str, Any]:
    """What a row of trials.parquet says about one trial's epochs; `rows` in any order, at least one.

    The best epoch is the first at which `val.<objectives[0]>` is largest (smallest when in `minimise`), NaN
    never; all objectives are taken from it. They are None when no epoch has a number.
    """
    rows = sorted(rows, key=lambda row: row["epoch"])
    name = f"val.{objectives[0]}"
    sign = -1.0 if objectives[0] in minimise else 1.0
    judged = [row for row in rows if row.get(name) is not None and not math.isnan(row[name])]
    best = max(judged, key=lambda row: sign * row[name], default=None)
    summary: dict[str, Any] = {"epochs": len(rows), "best_epoch": best["epoch"] if best else None}
    summary["seconds"] = sum(row.get("seconds") or 0.0 for row in rows)
    for index, objective in enumerate(objectives):
        value = best.get(f"val.{objective}") if best else None
        summary[f"objective_{index}" if index else "objective"] = value
        summary[f"objective.{objective}"] = value
    for moment, row in (("best", best or {}), ("final", rows[-1])):
        summary |= {f"{moment}.{key}": row[key] for key in row if key.startswith(("val.", "train."))}
    return summary | {key: rows[-1][key] for key in rows[-1] if key.startswith(("test.", "collapsed."))}


def table_of(
    rows: Sequence[Row], columns: tuple[Column, ...], kinds: Mapping[str, type] | None = None
) -> pa.Table:
    """Converted rows as a table: all plain columns of `columns`, and those of its patterns that some row has.

    `kinds` gives the type (float, int, bool or str) of columns that follow their values; for the others of
    these it is bool, int64 or float64 where all values are, else string, and float64 where there is no value
    at all.
    """
    places = {column.name: index for index, column in enumerate(columns)}
    seen = {column.name: None for column in columns if not column.name.endswith("*")}
    for row in rows:
        seen |= dict.fromkeys(row)
    names = sorted(
        seen, key=lambda name: places[find_column(name, columns).name]
    )  # stable: the first seen first
    arrays = {}
    for name in names:
        values = [row.get(name) for row in rows]
        kind = find_column(name, columns).type
        if kind is None:
            kind = PYTHON_TYPES[(kinds or {}).get(name) or _kind_of(values)]
            values = [_convert(name, value, CONVERSIONS[kind]) for value in values]
        arrays[name] = pa.array(values, kind)
    return pa.table(arrays)


class Conversion(NamedTuple):
    """How a plain value becomes a column's; `words` say what was expected."""

    call: Callable[[Any], Any]
    words: str


@cache  # looked up for every cell, and adding a row must cost microseconds
def _epoch_conversion(name: str) -> Conversion:
    return CONVERSIONS[find_column(name, EPOCH_COLUMNS).type]


@cache
def _trial_conversion(name: str) -> Conversion:
    return CONVERSIONS[find_column(name, TRIAL_COLUMNS).type]


def _convert(name: str, value: Any, conversion: Conversion) -> Any:
    """`value` as its column takes it. None stays; NaN among whole numbers or flags means null."""
    if value is None:
        return None
    try:
        return conversion.call(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name}={value!r} is not {conversion.words}") from error


def _number(value: Any) -> float:
    if isinstance(value, str):  # float("0.5") works, but a word where a number belongs is a mistake
        raise TypeError
    return float(value)


def _numbers(values: Any) -> list[float]:
    return list(values) if set(map(type, values)) <= {float} else [_number(value) for value in values]


def _whole(value: Any, bits: int) -> int | None:
    if isinstance(value, str):
        raise TypeError
    if math.isnan(value):
        return None
    if value != int(value) or not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
        raise ValueError
    return int(value)


def _flag(value: Any) -> bool | None:
    if value in (0, 1):
        return bool(value)
    if isinstance(value, float) and math.isnan(value):
        return None
    raise ValueError


def _moment(value: Any) -> datetime:
    """From Unix seconds or an aware datetime."""
    if not isinstance(value, datetime):
        return datetime.fromtimestamp(_number(value), UTC)
    if value.tzinfo is None:
        raise ValueError
    return value


CONVERSIONS: Mapping[pa.DataType | None, Conversion] = {
    None: Conversion(lambda value: value, "anything"),  # by the values of the whole column: see `table_of`
    FLOAT: Conversion(_number, "a number"),
    FLOATS: Conversion(_numbers, "a list of numbers"),
    MOMENT: Conversion(_moment, "Unix seconds or a datetime with its time zone"),
    pa.int32(): Conversion(lambda value: _whole(value, 32), "a whole number of 32 bits"),
    pa.int64(): Conversion(lambda value: _whole(value, 64), "a whole number of 64 bits"),
    pa.bool_(): Conversion(_flag, "0, 1 or NaN"),
    pa.string(): Conversion(str, "text"),
}
PYTHON_TYPES: Mapping[type, pa.DataType] = {
    float: FLOAT,
    int: pa.int64(),
    bool: pa.bool_(),
    str: pa.string(),
}


def _kind_of(values: Iterable[Any]) -> type:
    """The narrowest of bool, int, float and str that holds all `values`; float when there is none."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) == 1 and kinds < PYTHON_TYPES.keys():
        return kinds.pop()
    return float if kinds <= {int, float} else str


def _type_name(kind: pa.DataType) -> str:
    return str(kind).replace("double", "f64").replace("int", "i").replace("item: ", "")
