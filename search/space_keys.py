"""All keys of a space file in one table, from the declarations by which they are read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from search.space_lines import BUDGET, CONFIRM, SEARCH
from search.stopping import rule_settings
from trainables.family import Setting

__all__ = ["SpaceKey", "space_keys", "space_keys_markdown"]

BOUNDLESS = 1e6  # a bound from here on only keeps nonsense out, and is not shown


class SpaceKey(NamedTuple):
    """One key: where it stands, what it takes, its default ("": it has none), what it means."""

    name: str
    takes: str
    default: str
    meaning: str


# What rules take beside their settings: words of the family.
WORDS = {
    "plateau": SpaceKey("metric", "a metric, or a list", "the objectives", "what has to improve"),
    "collapse": SpaceKey("kinds", "kinds of collapse", "all", "which of the family's kinds end a trial"),
    "target": SpaceKey("metric", "a metric", "the objective", "what has to reach it"),
}
PARAMETERS = (
    SpaceKey("static.NAME, knobs.NAME", "a value, or a range", "the family's", "fixed, or searched"),
    SpaceKey("NAME.float, NAME.int", "[low, high]", "", "a range of numbers, of whole numbers"),
    SpaceKey("NAME.choice", "[value, ...]", "", "a few values"),
    SpaceKey("NAME.log", "true, false", "false", "whether a range is drawn evenly over orders of magnitude"),
    SpaceKey("NAME.when", "{OTHER: value or list}", "always", "searched only where another choice is so"),
)
EXPERIMENT = (
    SpaceKey("experiment.compare", "a choice, or a list; preset", "", "axes of the tables; must be given"),
    SpaceKey("experiment.metrics", "a metric, or a list", "selection_accuracy", "the figures shown"),
    SpaceKey("experiment.checks", "[{says: ..., FIGURE, BOUND}, ...]", "none", "asked of every cell"),
    SpaceKey(
        "experiment.expect",
        "[{says: ..., FIGURE, BOUND or ORDER}, ...]",
        "none",
        "asked of the cells in `where`, or of the steps along an axis",
    ),
)


def space_keys() -> Iterator[SpaceKey]:
    """Every key that a space can have, in the order of a file."""
    yield SpaceKey("family", "a name, or module:ATTRIBUTE", "", "what is trained; must be given")
    yield SpaceKey("name", "letters, digits, `_-.`", "the file's", "names the study and the run directory")
    yield SpaceKey("data.source", "a source of the family", "its first", "where the examples come from")
    yield SpaceKey("data.path", "a file", "", "must be given with source file")
    yield SpaceKey("data.NAME", "a value", "the family's", "the family's data settings")
    for key in _keys("budget", BUDGET):
        limit = key.name == "budget.minutes"
        must = "" if limit else "; must be given"
        yield key._replace(default="no limit" if limit else "", meaning=key.meaning + must)
    yield SpaceKey("objective", "a metric, or a list", "selection_accuracy", "what is optimised")
    yield from PARAMETERS
    yield SpaceKey("start_from", "[{name: ..., NAME: value}, ...]", "none", "presets, tried first")
    yield from _keys("search", SEARCH)
    for rule, settings in rule_settings().items():
        yield from _keys(f"stop.{rule}", settings)
        if rule in WORDS:
            yield WORDS[rule]._replace(name=f"stop.{rule}.{WORDS[rule].name}")
    yield SpaceKey("stop.any, stop.all", "[{RULE: ...}, ...]", "", "rules of which one, or each, must fire")
    for key in _keys("confirm", CONFIRM):
        yield key._replace(default="seeds") if key.name == "confirm.max_seeds" else key
    yield from EXPERIMENT


def space_keys_markdown() -> str:
    """The table as the README has it."""
    lines = ["| key | takes | default | meaning |", "|---|---|---|---|"]
    for key in space_keys():
        names = ", ".join(f"`{name}`" for name in key.name.split(", "))
        lines.append(f"| {names} | {key.takes} | {key.default} | {key.meaning} |")
    return "\n".join(lines) + "\n"


def _keys(where: str, settings: Mapping[str, Setting]) -> Iterator[SpaceKey]:
    for key, setting in settings.items():
        default = setting.default
        if isinstance(default, float):
            default = "" if math.isnan(default) else f"{default:g}"
        meaning = setting.help.replace("has no default", "must be given")
        yield SpaceKey(f"{where}.{key}", _takes(setting), str(default), meaning)


def _takes(setting: Setting) -> str:
    if hasattr(setting, "options"):
        return ", ".join(map(str, setting.options))
    kind = "whole number" if setting.integer else "number"
    low = f" from {setting.low:g}" if abs(setting.low) < BOUNDLESS else ""
    high = f" to {setting.high:g}" if abs(setting.high) < BOUNDLESS else ""
    return kind + low + high
