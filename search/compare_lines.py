"""A comparison of runs as tables: for the terminal, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from search.console import duration, number, print_table, say, short

__all__ = ["Shown", "csv_files", "print_comparison", "tables_of"]

Facts = Mapping[str, Any]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MOST_ROWS = 20  # of configurations in the terminal; CSV and JSON have all


class Shown(NamedTuple):
    """A table for people: `numeric` are the heads whose cells are numbers; `note` says what to see in it."""

    name: str
    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[str]
    note: str


def tables_of(facts: Facts) -> Iterator[Shown]:
    """The tables of a comparison, in the order in which they are read; those without a row are left out."""
    for table_of in (_scores, _confirmed, _costs, _budget, _common, _apart):
        table = table_of(facts)
        if table.rows:
            yield table


def print_comparison(facts: Facts) -> None:
    """Print it: what is compared, warnings, the tables."""
    way = "higher is better" if facts["direction"] == "maximize" else "lower is better"
    say(f"{len(facts['runs'])} runs of {facts['family']}, by {facts['metric']} ({way})")
    for warning in facts["warnings"]:
        say(f"warning: {warning}")
    for table in tables_of(facts):
        say()
        say(table.title)
        hidden = len(table.rows) - MOST_ROWS if table.name == "configurations" else 0
        print_table(table.heads, table.rows[:MOST_ROWS] if hidden > 0 else table.rows, right=table.numeric)
        if hidden > 0:
            say(f"  and {hidden} more: --csv DIR or --json has all")
        if table.note:
            say(f"  {table.note}")
        if table.name == "scores":
            for letter, run in zip(letters(facts), facts["runs"], strict=True):
                if run["confirmed"] is not None:
                    say(f"  {letter}: {run['confirmed']['sentence']}")
    if facts["why_none_in_common"]:
        say()
        say(f"Configurations in common: none; {facts['why_none_in_common']}.")


# ---------------------------------------------------------------------- tables


def letters(facts: Facts) -> list[str]:
    """A short name for each run, in the order in which they were given."""
    return [LETTERS[index] for index in range(len(facts["runs"]))]


def _scores(facts: Facts) -> Shown:
    rows = []
    for letter, run in zip(letters(facts), facts["runs"], strict=True):
        best, preset, confirmed = run["best"], run["preset"], run["confirmed"]
        rows.append(
            [
                letter,
                run["run"],
                "-" if best is None else number(best["value"]),
                "" if best is None else _named(best),
                "" if best is None else number(best["epoch"]),
                "" if preset is None else f"{number(preset['value'])} ({preset['preset']})",
                "" if confirmed is None else confirmed_in_words(confirmed),
            ]
        )
    heads = ["", "run", "best", "trial", "at epoch", "best preset", "confirmed on test data"]
    kept = [index for index in range(len(heads)) if index < 5 or any(row[index] for row in rows)]
    rows = [[row[index] for index in kept] for row in rows]
    return Shown(
        "scores",
        f"Scores: {facts['metric']}",
        [heads[index] for index in kept],
        rows,
        ["best", "at epoch"],
        "A best score is of one seed, the luckiest of its search; a confirmed one is a mean of fresh seeds.",
    )


def _named(best: Facts) -> str:
    state = "" if best["state"] == "COMPLETE" else f", {best['state'].lower()}"
    return f"{best['trial']}{' ' + best['preset'] if best['preset'] else ''}{state}"


def confirmed_in_words(confirmed: Facts) -> str:
    """What a confirmation recommends, with its score."""
    if confirmed["trial"] is None:
        return "nothing recommended" if confirmed["complete"] else "not finished"
    return f"{interval_in_words(confirmed['score'])} ({confirmed['name']})"


def interval_in_words(scored: Facts | None) -> str:
    """`0.214, 0.207 to 0.221 (95 %), 5 seeds`."""
    if scored is None or scored["mean"] is None:
        return "no score"
    seeds = f"{scored['n']} seed{'s' if scored['n'] != 1 else ''}"
    if scored["low"] is None:
        return f"{number(scored['mean'])}, {seeds}"
    within = f"{number(scored['low'])} to {number(scored['high'])}"
    return f"{number(scored['mean'])}, {within} ({100 * (1 - scored['miss']):.0f} %), {seeds}"


def _costs(facts: Facts) -> Shown:
    rows = [
        [
            letter,
            run["standing"],
            f"{run['trials']['ended']} of {run['trials']['wanted']}",
            _states(run["trials"]["states"]),
            f"{run['epochs']:,}",
            duration(run["seconds"]),
            f"{run['sampler']}, seed {run['seed']}",
            run["objective"],
        ]
        for letter, run in zip(letters(facts), facts["runs"], strict=True)
    ]
    heads = ["", "standing", "trials", "states", "epochs", "slot time", "proposed by", "objective"]
    note = "Slot time is the sum over trials; trials side by side count each."
    return Shown("costs", "What they cost", heads, rows, ["epochs", "slot time"], note)


def _states(states: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state.lower()}" for state, count in sorted(states.items()))


def _confirmed(facts: Facts) -> Shown:
    rows, marks = [], letters(facts)
    for one in facts["confirmed"]:
        within = "-" if one["low"] is None else f"{number(one['low'])} to {number(one['high'])}"
        verdict = "better" if one["mean"] > 0 else "worse"
        verdict = verdict if one["sure"] else "no reliable difference"
        rows.append([marks[one["run"]], marks[one["over"]], signed(one["mean"]), within, verdict])
    heads = ["run", "against", "gain", "95 % interval", "verdict"]
    note = "Positive is better. Over the same seeds pair by pair, else by Welch; all together miss in 5 %."
    return Shown("confirmed", "Confirmed scores, test data", heads, rows, ["gain"], note)


def _budget(facts: Facts) -> Shown:
    budget = facts["budget"]
    points = [one for one in budget["at"] if any(value is not None for value in one["values"])]
    heads = ["", *(f"after {one['epochs']}" for one in points)]
    needed = f"epochs to {number(budget['target'])}" if budget["target"] is not None else None
    rows = [
        [
            letter,
            *(number(one["values"][index]) for one in points),
            *([f"{budget['needed'][index]:,}"] if needed else []),
        ]
        for index, letter in enumerate(letters(facts))
    ]
    title = f"Best so far, at the same number of epochs spent ({budget['epochs']:,} in common)"
    note = "The value to reach is what all of them had reached by then." if needed else ""
    heads += [needed] if needed else []
    return Shown("curves", title, heads, rows if points else [], heads[1:], note)


def _common(facts: Facts) -> Shown:
    names = list(dict.fromkeys(name for one in facts["common"] for name in one["settings"]))
    with_preset = any(one["preset"] for one in facts["common"])
    marks = letters(facts)
    rows = []
    for one in facts["common"]:
        values = [
            number(value) if value is not None else _unfinished(trials)
            for value, trials in zip(one["values"], one["trials"], strict=True)
        ]
        apart = [
            "" if None in (one["values"][0], value) else signed(value - one["values"][0])
            for value in one["values"][1:]
        ]
        settings = [short(one["settings"][name]) if name in one["settings"] else "" for name in names]
        rows.append([*([one["preset"] or ""] if with_preset else []), *settings, *values, *apart])
    apart = [f"{letter} - A" for letter in marks[1:]]
    heads = [*(["preset"] if with_preset else []), *names, *marks, *apart]
    note = " ".join(
        agreement_in_words(f"{letter} - A", one)
        for letter, one in zip(marks[1:], facts["agreement"], strict=True)
    )
    return Shown("configurations", "Configurations in common", heads, rows, [*marks, *apart], note)


def signed(value: float) -> str:
    """A difference for people: three digits and a sign, 0 without."""
    return f"{value:+.3g}" if value else "0"


def _unfinished(trials: Sequence[Facts]) -> str:
    return ", ".join(dict.fromkeys(one["state"].lower() for one in trials))


def agreement_in_words(who: str, one: Facts) -> str:
    """How far two runs agree on what both completed, in a sentence."""
    count = one["configurations"]
    if count == 0:
        return f"{who}: both completed none of them."
    if one["equal"] == count:
        return f"{who}: {f'all {count} ' if count > 1 else ''}equal to the last digit."
    spread = "" if one["sd"] is None else f", standard deviation {number(one['sd'])}"
    extent = f", from {signed(one['low'])} to {signed(one['high'])}" if count > 1 else ""
    of = f"{count} configurations" if count > 1 else "1 configuration"
    return f"{who}: mean {signed(one['mean'])} of {of}{extent}{spread}."


def _apart(facts: Facts) -> Shown:
    rows = [[one["what"], *(_cell(value) for value in one["values"])] for one in facts["differences"]]
    return Shown("differences", "What differs", ["", *letters(facts)], rows, [], "")


def _cell(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else short(value)


# ---------------------------------------------------------------------- csv


def csv_files(facts: Facts) -> dict[str, str]:
    """Text by file name: scores.csv, curves.csv, configurations.csv, differences.csv; all digits."""
    names = [run["run"] for run in facts["runs"]]
    scores = [["run", "path", "finished", "trials", "epochs", "seconds", "best", "best_trial", "best_epoch",
               "preset", "preset_value", "confirmed", "confirmed_low", "confirmed_high", "confirmed_seeds",
               "confirmed_trial"]]  # fmt: skip
    for run in facts["runs"]:
        best, preset, confirmed = run["best"] or {}, run["preset"] or {}, run["confirmed"] or {}
        score = confirmed.get("score") or {}
        scores.append([run["run"], run["path"], run["finished"], run["trials"]["ended"], run["epochs"],
                       run["seconds"], best.get("value"), best.get("trial"), best.get("epoch"),
                       preset.get("preset"), preset.get("value"), score.get("mean"), score.get("low"),
                       score.get("high"), score.get("n"), confirmed.get("trial")])  # fmt: skip
    curves = [["run", "epochs", "best"]]
    for curve in facts["curves"]:
        curves += [[curve["run"], *pair] for pair in zip(curve["epochs"], curve["best"], strict=True)]
    settings = list(dict.fromkeys(name for one in facts["common"] for name in one["settings"]))
    common = [["preset", *settings, *names]]
    common += [
        [one["preset"], *(one["settings"].get(name) for name in settings), *one["values"]]
        for one in facts["common"]
    ]
    apart = [["what", *names], *([one["what"], *one["values"]] for one in facts["differences"])]
    tables = {"scores": scores, "curves": curves, "configurations": common, "differences": apart}
    return {f"{name}.csv": _csv(rows) for name, rows in tables.items()}


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
