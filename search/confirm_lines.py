"""A confirmation's result as a person reads it at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.console import number, print_table, say
from search.run_directory import RunDirectory

__all__ = ["print_conclusion", "print_recommendation"]

Plain = Mapping[str, Any]


def print_conclusion(conclusion: Plain, directory: RunDirectory) -> None:
    """Print a table of the configurations, the verdict, what limits it, and what it recommends."""
    named = {plain["source"]: plain for plain in conclusion["configurations"]}
    reference = named.get(conclusion["reference"])
    say()
    say(f"{directory.name}: confirmed with fresh seeds; {conclusion['objective']} on the test split")
    columns = ["configuration", "seeds", "mean", "sd", "95 % interval", "search", "optimism"]
    against = [f"against {reference['name']}"] if reference is not None else []
    print_table(
        [*columns, *against],
        [_row(plain, bool(against)) for plain in conclusion["configurations"]],
        right=("seeds", "mean", "sd", "search", "optimism"),
    )
    say()
    say(f"Verdict: {conclusion['sentence']}.")
    if conclusion["optimism_sentence"]:
        say(f"Optimism: {conclusion['optimism_sentence']}.")
    for note in conclusion["notes"]:
        say(f"note: {note}")


def _row(plain: Plain, compared: bool) -> list[str]:
    test, optimism, over = plain["test"], plain["optimism"], plain["difference"]
    name = f"{plain['name']} (trial {plain['source']})" if plain["preset"] else plain["name"]
    cells = [
        name,
        str(test["n"]),
        number(test["mean"]),
        number(test["sd"]),
        "-" if test["low"] is None else f"{number(test['low'])} to {number(test['high'])}",
        number(plain["search"]),
        "-" if optimism is None else f"{optimism['total']:+.4f}",
    ]
    return [*cells, *([_against(over)] if compared else [])]


def _against(over: Plain | None) -> str:
    if over is None:
        return ""
    if over["mean"] is None:
        return "-"
    interval = "" if over["low"] is None else f" ({over['low']:+.4f} to {over['high']:+.4f})"
    return f"{over['mean']:+.4f}{interval}"


def print_recommendation(conclusion: Plain, directory: RunDirectory, family: str) -> None:
    """Print what to use, and the commands that make sense now."""
    run, recommended = directory.shown, conclusion["recommended"]
    named = {plain["source"]: plain for plain in conclusion["configurations"]}
    say()
    if recommended is not None and conclusion["current"]:
        path = f"{run}/report/recommended.yaml"
        say(f"Recommended: {named[recommended]['name']}, in {path}")
        say(f"  loss-search train {family} --config {path}")
    elif conclusion["finished"]:
        say("The search has found a better trial since; confirm it too:")
        say(f"  loss-search confirm {run}")
    say(f"  loss-search tensorboard {run}")
    if conclusion["verdict"] == "unclear":
        more = 2 * len(conclusion["seeds"])
        say(f"  loss-search confirm {run} --max-seeds {more}   adds seeds until the verdict is clear")
