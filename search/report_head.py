"""What a report says in words: the configuration to use and how sure that is, the cost, what to beware of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.console import number, short
from search.findings import Found, stored_object
from search.page import signed, value
from search.report_tables import edge_remarks, range_in_words, settings_table
from search.summary import described

__all__ = [
    "cost_of_search",
    "cost_tiles",
    "made_with",
    "recommendation",
    "remarks",
    "searched_table",
    "status",
]

ENDED = ("COMPLETE", "PRUNED", "FAIL")


def status(found: Found, summary: Mapping[str, Any]) -> str:
    """How far the search is."""
    ended = sum(count for state, count in summary["states"].items() if state in ENDED)
    wanted = summary["budget"]["trials"]
    if found.running and ended >= wanted:
        return f"The search is finished: {ended} of {wanted} trials ended; its confirmation is going on."
    if found.running:
        return f"The search is going on: {ended} of {wanted} trials have ended so far."
    if ended < wanted:
        return f"The search stopped after {ended} of {wanted} trials; it can be resumed."
    return f"The search is finished: {ended} of {wanted} trials ended."


def recommendation(
    found: Found, summary: Mapping[str, Any], conclusion: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The configuration to use, how sure that is, and what to do next, as the template shows it."""
    empty: dict[str, Any] = {"cautions": [], "notes": [], "tiles": [], "settings": [], "beside": None}
    empty |= {"confirmed": [], "commands": []}
    if summary["best"] is None:
        said = "There is nothing to recommend yet: no trial has a value for the objective."
        error = summary["first_error"]
        return empty | {"sentence": said, "cautions": [f"The first error: {error}"] if error else []}
    run = found.directory.shown
    train = ("Train it to its full budget, ready to use:",
             f"loss-search train {summary['family']} --config {run}/report/recommended.yaml")  # fmt: skip
    current = conclusion is not None and summary["conclusion"]["current"]  # finished, of the present best
    if current and conclusion["recommended"] is not None:
        return empty | _confirmed(found, summary, conclusion) | {"commands": [train]}
    commands = [train]
    if summary["best"]["state"] == "COMPLETE" and not found.running:
        commands.insert(0, ("Confirm it with fresh seeds on the test split:", f"loss-search confirm {run}"))
    notes = [] if conclusion is None else [_partly_confirmed(conclusion)]
    return empty | _unconfirmed(found, summary) | {"commands": commands, "notes": notes}


def _partly_confirmed(conclusion: Mapping[str, Any]) -> str:
    """What a confirmation says that has not ended, or is of other configurations than the present best."""
    if not conclusion["finished"]:
        return f"Its confirmation has not ended; so far: {conclusion['sentence']}."
    return f"A confirmation was made before the present best was found: {conclusion['sentence']}."


def _unconfirmed(found: Found, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The best of the search, which ran once."""
    best, gain = summary["best"], summary["gain"]
    name = f"trial {best['trial']}" + (f", preset {best['preset']}," if best["preset"] else "")
    sentence = f"Use {name} with {summary['objective']} {number(best['value'])} on validation data"
    others = [
        one for one in summary["presets"] if gain and one.get("trial") == gain["trial"] != best["trial"]
    ]
    beside = others[0] if others else None
    if beside is not None:
        word = "better" if gain["value"] > 0 else "worse"
        sentence += f", {value(abs(gain['value']), 3)} {word} than the best preset, {gain['over']}"
    cautions = [f"Not confirmed. {summary['caution']}"]
    if best["state"] != "COMPLETE":
        ended = "still in progress" if best["state"] == "RUNNING" else best["state"].lower()
        cautions.insert(0, f"No trial is complete yet; this one is {ended} after {best['epochs']} epochs.")
    if best["collapsed"]:
        cautions.insert(0, f"At its last epoch it shows collapse ({', '.join(best['collapsed'])}).")
    better = "higher is better" if summary["direction"] == "maximize" else "lower is better"
    tiles = [
        (summary["objective"], number(best["value"]), f"one seed, {better}"),
        (
            "best epoch",
            f"{best['epoch']} of {best['epochs']}",
            f"budget {summary['budget']['epochs']} epochs",
        ),
    ]
    if beside is not None:
        tiles.insert(1, (f"gain over {gain['over']}", signed(gain["value"]), "positive is better"))
    if summary["chance"] is not None:
        tiles.append(("guessing", number(summary["chance"]), "the same metric"))
    settings = settings_table(found.space, best["searched"], beside and beside["searched"])
    return {
        "sentence": f"{sentence}.",
        "cautions": cautions,
        "tiles": tiles,
        "settings": settings,
        "beside": beside and beside["preset"],
    }


def _confirmed(found: Found, summary: Mapping[str, Any], conclusion: Mapping[str, Any]) -> dict[str, Any]:
    """What fresh seeds say of the best few and the best preset."""
    by_source = {one["source"]: one for one in conclusion["configurations"]}
    chosen = by_source[conclusion["recommended"]]
    reference = by_source.get(conclusion["reference"])
    rows = {row["trial"]: row for row in found.rows.trials}
    own = described(rows[chosen["source"]], found.rows.last, found.space)
    beside = None
    if reference is not None and reference is not chosen and reference["source"] in rows:
        beside = described(rows[reference["source"]], found.rows.last, found.space)
    said = conclusion["sentence"]
    tiles = [(f"test {summary['objective']}", number(chosen["test"]["mean"]), _interval(chosen["test"]))]
    if chosen["difference"] is not None and chosen["difference"]["mean"] is not None:
        over = reference["name"] if reference is not None else ""
        difference = chosen["difference"]
        tiles.append((f"better than {over} by", signed(difference["mean"]), _interval(difference)))
    if chosen["optimism"]:
        total = chosen["optimism"]["total"]
        tiles.append(("optimism of the search", signed(total), "its score minus the confirmed one"))
    if summary["chance"] is not None:
        tiles.append(("guessing", number(summary["chance"]), "the same metric"))
    sentences = [one["sentence"] for one in conclusion["configurations"]]
    optimism = [conclusion["optimism_sentence"]] if conclusion["optimism_sentence"] else []
    return {
        "sentence": _advice(chosen, said),
        "cautions": [_capital(note) for note in conclusion["notes"]],
        "notes": [_capital(text) + "." for text in optimism],
        "tiles": tiles,
        "settings": settings_table(found.space, own["searched"], beside and beside["searched"]),
        "beside": beside and (beside["preset"] or f"trial {beside['trial']}"),
        "confirmed": [
            (one["name"], one["search"], one["test"]["mean"], _interval(one["test"], with_n=False),
             one["test"]["n"], len(one["broken"]), sentence)
            for one, sentence in zip(conclusion["configurations"], sentences, strict=True)
        ],
    }  # fmt: skip


def _advice(chosen: Mapping[str, Any], said: str) -> str:
    """The verdict with what to do first: `Use trial 7: it beats option_b by 0.061, ...`."""
    name = chosen["name"]
    if said.startswith(f"{name} "):
        return f"Use {name}: it {said.removeprefix(name).lstrip()}."
    return f"{_capital(said)}."


def _interval(scored: Mapping[str, Any], with_n: bool = True) -> str:
    """`95 % interval 0.24 to 0.26, 5 seeds` of a mean over seeds."""
    seeds = f"{scored['n']} seed{'s' * (scored['n'] != 1)}"
    if scored["low"] is None:
        return f"no interval, {seeds}" if with_n else "–"
    told = f"{value(scored['low'], 3)} to {value(scored['high'], 3)}"
    return f"95 % interval {told}, {seeds}" if with_n else told


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# ---------------------------------------------------------------------- what it cost


def cost_of_search(found: Found) -> dict[str, Any]:
    """What the search took: trials, epochs, seconds of training and by the clock, engines."""
    trials = [row for row in found.rows.trials if row["state"] != "WAITING"]
    starts = [row["started_at"] for row in trials if row["started_at"] is not None]
    ends = [row["finished_at"] for row in trials if row["finished_at"] is not None]
    return {
        "trials": len(trials),
        "epochs": sum(row["epochs"] or 0 for row in trials),
        "most_epochs": len(trials) * found.space.budget.epochs,
        "training_s": sum(row["seconds"] or 0.0 for row in trials),
        "clock_s": (max(ends) - min(starts)).total_seconds() if starts and ends else None,
        "engines": len({row["engine"] for row in trials if row["engine"]}),
        "retries": sum(row["retries"] or 0 for row in trials),
        "confirm_trials": len(found.confirm),
        "confirm_epochs": sum(row["epochs"] or 0 for row in found.confirm),
    }


def cost_tiles(cost: Mapping[str, Any], summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(label, figure, note) of what the search took."""
    states = summary["states"]
    ended = sum(count for state, count in states.items() if state in ENDED)
    kinds = ", ".join(f"{count:,} {state.lower()}" for state, count in sorted(states.items()))
    tiles = [
        ("trials ended", f"{ended:,} of {summary['budget']['trials']:,}", kinds),
        ("epochs spent", f"{cost['epochs']:,}", f"at most {cost['most_epochs']:,} without early stopping"),
    ]
    if cost["clock_s"] is not None:
        engines = f"{cost['engines']} engine{'s' * (cost['engines'] != 1)}"
        tiles.append(("by the clock", _time(cost["clock_s"]), f"first start to last end, {engines}"))
    tiles.append(("training", _time(cost["training_s"]), "epochs of all trials, one after the other"))
    if cost["confirm_trials"]:
        trials = f"{cost['confirm_trials']:,} trial{'s' * (cost['confirm_trials'] != 1)} of fresh seeds"
        tiles.append(("confirmation", f"{cost['confirm_epochs']:,} epochs", trials))
    if cost["retries"]:
        tiles.append(("retries", str(cost["retries"]), "starts after a fault"))
    return tiles


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def searched_table(found: Found) -> list[tuple[str, str, str]]:
    """(setting, values, condition) of everything that was searched."""
    return [
        (
            parameter.name,
            range_in_words(parameter),
            " and ".join(
                f"{name} is {' or '.join(map(str, values))}" for name, values in parameter.when.items()
            ),
        )
        for parameter in found.space.searched().values()
    ]


def made_with(found: Found) -> list[tuple[str, str]]:
    """With what the run was made: data, sampler, machine, versions."""
    about, space = stored_object(found.directory.environment), found.space
    machine, versions = about.get("machine") or {}, about.get("versions") or {}
    data = ", ".join(f"{name} {short(given)}" for name, given in space.data.items() if given is not None)
    told = [
        ("data", data),
        ("sampler", f"{space.sampler}, seed {space.seed}"),
        ("made", str(about.get("created", ""))),
        ("machine", f"{machine.get('system', '')}, {machine.get('cores', '?')} cores"),
        ("versions", ", ".join(f"{name} {number}" for name, number in versions.items())),
        ("git commit", str(about.get("git_commit") or "")),
    ]
    return [(name, text) for name, text in told if text]


def remarks(found: Found, summary: Mapping[str, Any]) -> list[str]:
    """What to beware of: said before the search, and seen in what it found."""
    best, space = summary["best"], found.space
    said = list(found.warnings)
    if best is None:
        return said
    said += edge_remarks(space, best["searched"], f"trial {best['trial']}")
    if best["epoch"] == best["epochs"] == space.budget.epochs > 1:
        said.append(
            f"Trial {best['trial']} was at its best in the last epoch of its budget: a longer budget may "
            "give more, and another winner."
        )
    failed = summary["states"].get("FAIL", 0)
    if failed:
        said.append(
            f"{failed} of {summary['trials']} trials failed; the first error: {summary['first_error']}"
        )
    return said
