"""The summary of a search as a person reads it at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from search.console import is_copy, number, print_table, say, short, shown_path
from search.run_directory import RunDirectory
from search.space import Space
from search.summary import is_queued, read_rows, reason_in_words

__all__ = ["next_steps", "print_summary"]

# where another word is clearer than the study's
STATES = {"RUNNING": "in progress", "WAITING": "queued", "FAIL": "failed"}
ENDED = ("COMPLETE", "PRUNED", "FAIL")
METRICS_SHOWN = 12
FEWEST_MORE = 8  # trials proposed for going on: below that a sampler has hardly anything to learn from


def print_summary(summary: Mapping[str, Any], space: Space, directory: RunDirectory) -> None:
    """Print it: the best configuration, the presets, how trials ended, and where the files are."""
    say()
    counted = sorted(_states(summary, directory).items())
    states = ", ".join(f"{count} {STATES.get(state, state.lower())}" for state, count in counted)
    ended = sum(count for state, count in counted if state in ENDED)
    trials = f"{ended} of {summary['budget']['trials']} trials ended ({states})"
    say(f"{summary['run']}: {trials}, {summary['epochs']} epochs")
    if summary["best"] is None:
        say("No trial finished: none has a value for the objective.")
        if summary["first_error"]:
            say(f"The first error: {summary['first_error']}")
    else:
        _best(summary, space)
        _presets(summary, space)
    _ends(summary)
    say()
    _files(summary, directory)


def _states(summary: Mapping[str, Any], directory: RunDirectory) -> Counter[str]:
    """How many trials are in each state; to the study one runs from when it is asked for."""
    states = Counter(summary["states"])
    if states["RUNNING"]:
        queued = sum(is_queued(row, directory) for row in read_rows(directory, kinds=()).trials)
        states.update(RUNNING=-queued, WAITING=queued)
    return +states


def _best(summary: Mapping[str, Any], space: Space) -> None:
    best = summary["best"]
    name = f" (preset {best['preset']})" if best["preset"] else ""
    chance = "" if summary["chance"] is None else f" (guessing: {number(summary['chance'])})"
    say()
    value = f"{summary['objective']} {number(best['value'])}{chance}"
    say(f"Best: trial {best['trial']}{name}, {value} at epoch {best['epoch']}")
    if best["state"] != "COMPLETE":
        state = STATES.get(best["state"], best["state"].lower())
        say(f"  No trial is complete yet; this one is {state} after {best['epochs']} epochs.")
    if best["collapsed"]:
        say(f"  Beware: at its last epoch it shows collapse ({', '.join(best['collapsed'])}).")
    settings = ", ".join(f"{name}={short(value)}" for name, value in best["searched"].items())
    others = [f"{name}={number(value)}" for name, value in _others(best["at_best"], summary).items()]
    more = f", and {len(others) - METRICS_SHOWN} more in summary.json" if len(others) > METRICS_SHOWN else ""
    say(f"  settings  {settings}")
    say(f"  metrics   {', '.join(others[:METRICS_SHOWN])}{more}")


def _others(metrics: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """The other metrics that there are: one that was not measured, as a codebook's without one, is NaN."""
    return {
        name: value
        for name, value in metrics.items()
        if name != summary["objective"] and value is not None and value == value
    }


def _presets(summary: Mapping[str, Any], space: Space) -> None:
    """What people use today, against the best, by the objective and the first other metric that ranks."""
    if not summary["presets"]:
        return
    directed = [name for name, metric in space.family.metrics.items() if metric.higher_is_better is not None]
    second = next((name for name in directed if name != summary["objective"]), None)
    columns = ["preset", "trial", "best", "at epoch", *([second, "at its end"] if second else []), "ended"]
    say()
    also = f", {second} at that epoch and at the trial's end" if second else ""
    say(f"Presets: best {summary['objective']}{also}")
    print_table(columns, [_preset_row(preset, second) for preset in summary["presets"]], right=columns[1:-1])
    gain = summary["gain"]
    if gain is None or summary["best"]["state"] != "COMPLETE":
        return  # nothing has been compared yet
    if gain["trial"] == summary["best"]["trial"]:
        say(f"No other trial beat preset {gain['over']}.")
    elif gain["value"] <= 0:
        say(f"The best complete trial is {number(-gain['value'])} behind preset {gain['over']}.")
    else:
        more = f"{number(gain['value'])} {summary['objective']}"
        say(f"Gain of the best trial over the best preset, {gain['over']}: {more}.")
        say(summary["caution"])


def _preset_row(preset: Mapping[str, Any], second: str | None) -> list[str]:
    if preset["state"] == "WAITING":
        return [preset["preset"], *[""] * (5 if second else 3), "not tried yet"]
    ended = STATES.get(preset["state"], preset["state"].lower())
    remarks = []
    if preset["reason"] and preset["reason"] != "completed" and not preset["reason"].startswith("collapse:"):
        remarks.append(preset["reason"])
    if preset["collapsed"]:
        remarks.append(f"collapsed ({', '.join(preset['collapsed'])})")
    epoch = f"{number(preset['epoch'])} of {number(preset['epochs'])}"
    cells = [preset["preset"], str(preset["trial"]), number(preset["value"]), epoch]
    if second is not None:
        cells += [number(preset["at_best"][second]), number(preset["at_end"][second])]
    return [*cells, ": ".join([ended, ", ".join(remarks)]) if remarks else ended]


def _ends(summary: Mapping[str, Any]) -> None:
    if not summary["reasons"]:
        return
    say()
    say("How trials ended")
    for reason, count in summary["reasons"].items():
        say(f"  {count:>4}  {reason_in_words(reason)}" if reason else f"  {count:>4}  for no recorded reason")
    if summary["collapsed"]:
        kinds = ", ".join(f"{count} {kind}" for kind, count in summary["collapsed"].items())
        say(f"  Showing collapse at their last epoch: {kinds}")


def _files(summary: Mapping[str, Any], directory: RunDirectory) -> None:
    run = shown_path(directory.path)
    say(f"Files in {run}")
    say("  trials.parquet, epochs.parquet   every trial, every epoch")
    if (directory.report / "index.html").is_file():
        reader = "for a browser once it is fetched" if is_copy(directory.path) else "for a browser"
        say(f"  report/index.html                the report, {reader}; its figures as PNG beside it")
    say("  report/summary.json, summary.csv")
    if summary["best"] is not None:
        say("  report/recommended.yaml          the best configuration")
        say(f"  trials/{summary['best']['trial']}/                        its model.pt, figures and log")


def next_steps(summary: Mapping[str, Any], space: Space, directory: RunDirectory) -> None:
    """Print the commands that make sense after a search that has all its trials."""
    run = shown_path(directory.path)
    say()
    say("Next")
    if summary["best"] is not None:
        recommended = shown_path(directory.report / "recommended.yaml")
        say(f"  loss-search train {summary['family']} --config {recommended}")
        say(f"  loss-search show {run} {summary['best']['trial']}")
        if summary["conclusion"] is None and summary["states"].get("COMPLETE", 0) > 1:
            say(f"  loss-search confirm {run}")
    if is_copy(directory.path):
        say(f"  loss-search fetch {run}")
    say(f"  loss-search tensorboard {run}")
    if space.sampler != "grid" and space.budget.trials > len(space.presets):
        say(f"  loss-search resume {run} --trials +{max(FEWEST_MORE, space.budget.trials // 2)}")
