"""What `search.explaining` found about a trial, as a person reads it in a terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from search.console import duration, number, print_table, say, short, shown_path
from search.run_directory import RunDirectory

__all__ = ["print_explanation", "sentence", "sparkline"]

Facts = Mapping[str, Any]

BLOCKS, PLAIN_BLOCKS = "▁▂▃▄▅▆▇█", "_.-=+*%#"
NO_NUMBER = "?"
WIDTH = 32  # signs of a curve; longer ones are averaged
PICTURES_SHOWN = 4
OUTCOMES = {
    "completed": "had its whole budget",
    "plateau": "levelled off",
    "target_reached": "reached the target",
    "successive_halving": "was pruned, behind the others",
    "median": "was pruned, below the median of the complete trials",
    "over_budget": "used up its time",
    "diverged": "diverged",
    "out_of_memory": "failed: it ran out of memory",
    "raised": "failed: it raised an error",
    "engine_died": "failed: its engine died",
    "proxy_failed": "failed: its proxy process died",
    "no_finite_objective": "failed: it never had a finite objective",
}


def print_explanation(facts: Facts, directory: RunDirectory) -> None:
    """Print it: what became of the trial, the rule, the settings, the curves, the warnings, the files."""
    say(sentence(facts))
    say()
    for line in _end_lines(facts, directory):
        say(line)
    _print_settings(facts)
    _print_curves(facts)
    for line in [*_weight_lines(facts), *_active_lines(facts), *_collapse_lines(facts)]:
        say(line)
    if facts["warnings"]:
        say()
        say("Warnings")
        for warning in facts["warnings"]:
            say(f"  {warning}")
    _print_files(facts)


def sentence(facts: Facts) -> str:
    """What became of the trial in one sentence: state, reason, epoch, objective, rank."""
    who = f"Trial {facts['trial']}" + (f" (preset {facts['preset']})" if facts["preset"] else "")
    epochs, budget = facts["epochs"], facts["budget"]
    if facts["state"] == "WAITING":
        return f"{who} has not been tried yet (WAITING)."
    if facts["state"] == "RUNNING":
        went = "is in progress" if facts["running"] else "was interrupted and can be resumed"
        what = f"{who} {went} (RUNNING), {epochs} of {budget} epochs reported"
    else:
        marks = ", ".join(word for word in (facts["state"], facts["reason"]) if word)
        what = f"{who} {_outcome(facts['reason'])} ({marks}) after {epochs} of {budget} epochs"
    if facts["rank"] is None:
        return f"{what}; it has no value for {facts['objective']}."
    value = f"{facts['objective']} {number(facts['value'])} at epoch {facts['best_epoch']}"
    by = " by the first objective" if len(facts["objectives"]) > 1 else ""
    return f"{what}; best {value}, rank {facts['rank']} of {facts['ranked']}{by}."


def _outcome(reason: str | None) -> str:
    if reason is None:
        return "ended for no recorded reason"
    if reason.startswith("all("):
        return " and ".join(_outcome(part) for part in reason.removeprefix("all(").rstrip(")").split("+"))
    if reason.startswith("collapse:"):
        return f"was ended for collapse ({reason.removeprefix('collapse:')})"
    return OUTCOMES.get(reason, f"ended for {reason}")


# ---------------------------------------------------------------------- the rule


def _end_lines(facts: Facts, directory: RunDirectory) -> list[str]:
    end = facts["end"]
    if facts["state"] in ("RUNNING", "WAITING"):
        return _standing_lines(facts)
    lines = ["Why it ended"]
    for seen in end["rules"]:
        lines += [f"  {line}" for line in RULES[seen["rule"]](seen, facts)]
    if facts["state"] == "FAIL":
        lines += [f"  {line}" for line in _fault_lines(facts, directory)]
    return [*lines, f"  {_agreement(facts)}"]


def _agreement(facts: Facts) -> str:
    """One line: does what the rules say today equal what was recorded?"""
    end = facts["end"]
    if end["agrees"] is None:
        stored = f"{facts['epochs']} of its {number(end['recorded_epochs'])} epochs are stored"
        return f"Its verdict cannot be computed again: {stored}."
    if end["agrees"] and end["recomputed"] is None:
        return "Computed again from the stored epochs: no rule had ended it by then."
    if end["agrees"]:
        return "Computed again from the stored epochs: the same verdict with the same numbers as recorded."
    again = end["recomputed"]
    found = f"{again['reason']}{_listed(again['numbers'])}" if again else "no rule ends it there"
    recorded = f"{end['recorded']['reason']}{_listed(end['recorded']['numbers'])}"
    return f"NOT the same as recorded: the stored epochs give {found}; recorded was {recorded}."


def _listed(numbers: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{name} {number(value)}' for name, value in numbers.items())})" if numbers else ""


def _standing_lines(facts: Facts) -> list[str]:
    lines = ["Where it stands"]
    if not facts["epochs"]:
        return [*lines, "  No epoch has been reported yet."]
    last = next((c["last"] for c in facts["curves"] if c["name"] == f"val.{facts['objective']}"), None)
    since = f"its best was {facts['epochs'] - facts['best_epoch']} epochs ago" if facts["best_epoch"] else ""
    lines.append(f"  At epoch {facts['epochs']}: {facts['objective']} {number(last)}; {since}".rstrip("; "))
    if facts["end"]["recomputed"]:
        lines.append(
            f"  Its last epoch ends it: {facts['end']['recomputed']['reason']}, not yet in the study."
        )
    elif facts["end"]["next_rung"]:
        lines.append(
            f"  Successive halving compares it with the others at epoch {facts['end']['next_rung']}."
        )
    return lines


def _fault_lines(facts: Facts, directory: RunDirectory) -> Iterable[str]:
    end = facts["end"]
    if end["error"]:
        yield f"Its error: {end['error']}"
        yield f"The traceback is in {shown_path(directory.log)} (search for: trial {facts['trial']} failed)."
    if end["retries"]:
        yield f"It was started again {_times(end['retries'])} before it was given up."


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _plateau(seen: Facts, facts: Facts) -> Iterable[str]:
    given = seen["settings"]
    yield (
        f"plateau: a trial ends when the metric gained no more than {short(given['min_delta'])} (min_delta) "
        f"for {given['patience']} epochs (patience) after the first {given['warmup']} (warmup)."
    )
    for name, saw in seen["metrics"].items():
        if math.isnan(saw["best"]):
            yield f"{name} never had a number; it waited {saw['waited']} epochs."
            continue
        gain = (
            "none of them had a number"
            if math.isnan(saw["gain"])
            else f"the best of them was {number(saw['reached'])}, a gain of {_signed(saw['gain'])}"
        )
        yield (
            f"{name}: the last value that counted was {number(saw['best'])} at epoch {saw['best_epoch']}; "
            f"{saw['waited']} epochs were waited through; in the last {given['patience']}, {gain}."
        )


def _signed(value: float) -> str:
    return f"-{number(-value)}" if value < 0 else number(value)


def _collapse(seen: Facts, facts: Facts) -> Iterable[str]:
    given = seen["settings"]
    yield (
        f"collapse: a trial ends when one kind shows in {given['patience']} epochs in a row (patience), all "
        f"after the first {given['warmup']} (warmup)."
    )
    for kind, saw in seen["kinds"].items():
        words = facts["collapse"].get(kind, {}).get("words", kind)
        yield f"{kind}: {words}."
        last = f"after the warm-up in the last {saw['run']} in a row"
        yield f"It showed in epochs {_spans(saw['epochs'])}; {last}."


def _target(seen: Facts, facts: Facts) -> Iterable[str]:
    given = seen["settings"]
    side = "at least" if given["maximise"] else "at most"
    yield (
        f"target: a trial ends when {given['metric']} is {side} {short(given['target'])} for "
        f"{given['patience']} epochs in a row (patience)."
    )
    yield f"It was {', '.join(map(number, seen['values']))} up to epoch {seen['epoch']}."


def _time(seen: Facts, facts: Facts) -> Iterable[str]:
    yield f"time: a trial ends when its epochs took {short(seen['settings']['seconds'])} s together."
    yield (
        f"Its {facts['epochs']} epochs took {number(seen['seconds'])} s ({duration(seen['seconds'])}), "
        f"{number(seen['epoch_seconds'])} s each."
    )


def _diverged(seen: Facts, facts: Facts) -> Iterable[str]:
    yield "diverged: a trial ends with the first epoch in which a loss or gradient is not finite."
    if seen["figures"]:
        yield f"At epoch {seen['epoch']} these were not finite: {', '.join(seen['figures'])}."
    else:
        yield (
            f"It was epoch {seen['epoch']}; every reported figure of it is finite, so it was the loss or "
            "gradient of a step."
        )


def _completed(seen: Facts, facts: Facts) -> Iterable[str]:
    yield f"No rule ended it: it trained for all {facts['budget']} epochs."
    if seen["also"]:
        yield f"With its last epoch {seen['also']} held too, which cut nothing off."


def _halving(seen: Facts, facts: Facts) -> Iterable[str]:
    given = seen["settings"]
    if "epoch" not in seen:
        yield "successive_halving: what it compared cannot be reproduced from the space and the event log."
        return
    rungs, factor = [given["min_epochs"]], given["reduction"]
    while rungs[-1] * factor < max(facts["budget"], seen["epoch"] + 1):
        rungs.append(rungs[-1] * factor)
    yield (
        f"successive_halving: of the trials that got to epoch {' or '.join(map(str, rungs))} so far "
        f"(min_epochs {rungs[0]}, reduction {factor}), the best 1 in {factor} goes on; presets are left out."
    )
    for rung in seen["passed"]:
        yield f"At epoch {rung['epoch']} it was number {rung['place']} of {rung['reached']} and went on."
    yield (
        f"At epoch {seen['epoch']} it had {number(seen['value'])}, number {seen['place']} of the "
        f"{seen['reached']} that had got there by then, of which {seen['kept']} may go on; it would have "
        f"needed {number(seen['needed'])}."
    )
    if not seen["exact"]:
        yield "This is not exact: the study's own values at the rung differ from those of the event log."


def _median(seen: Facts, facts: Facts) -> Iterable[str]:
    if "epoch" not in seen:
        yield "median: what it compared cannot be reproduced from the space and the event log."
        return
    yield (
        f"median: from epoch {seen['settings']['min_epochs']} on (min_epochs), a trial ends when its best "
        "value so far is behind the median of the complete trials at the same epoch."
    )
    yield (
        f"At epoch {seen['epoch']} its best was {number(seen['best'])}; the median of {seen['compared']} of "
        f"the {seen['complete']} trials complete by then was {number(seen['median'])}."
    )
    if not seen["exact"]:
        yield "This is not exact: by the event log it would have gone on."


RULES = {
    "plateau": _plateau,
    "collapse": _collapse,
    "target": _target,
    "time": _time,
    "diverged": _diverged,
    "completed": _completed,
    "successive_halving": _halving,
    "median": _median,
}


# ---------------------------------------------------------------------- settings


def _print_settings(facts: Facts) -> None:
    best, near = facts["best"], facts["nearest_better"]
    say()
    if facts["state"] == "WAITING":
        say("Settings: none yet, they are drawn when it starts.")
        return
    if best is None:
        say("Settings: no other trial has a value to compare with.")
        return
    role = "It is the best trial; the next best is" if best["is_best"] else "The best trial is"
    say(f"{role} {_trial_named(best, facts)}")
    _print_differences(best, facts)
    if near is None:
        if not best["is_best"] and facts["rank"] == 1:
            say("No trial had a better value, in any state.")
        return
    say()
    share = f"{near['near']} of {near['settings']} settings equal or near (within a tenth of the range)"
    if near["trial"] == best["trial"]:
        say(f"That is also the nearest trial that did better: {share}.")
        return
    say(f"The nearest trial that did better is {_trial_named(near, facts)}: {share}")
    _print_differences(near, facts)


def _trial_named(other: Facts, facts: Facts) -> str:
    preset = f" (preset {other['preset']})" if other["preset"] else ""
    state = other["state"].lower() if other["state"] != "RUNNING" else "in progress"
    return f"trial {other['trial']}{preset}, {state}, {facts['objective']} {number(other['value'])}"


def _print_differences(other: Facts, facts: Facts) -> None:
    if not other["differs"]:
        say("  They have the same settings; what differs is not searched, or chance.")
        return
    cells = [
        (f"  {one['setting']}", _setting(one["this"]), _setting(one["other"]), "near" if one["near"] else "")
        for one in other["differs"]
    ]
    print_table(("  setting", f"trial {facts['trial']}", f"trial {other['trial']}", ""), cells)


def _setting(value: Any) -> str:
    return "not in force" if value is None else short(value)


# ---------------------------------------------------------------------- curves


def _print_curves(facts: Facts) -> None:
    if not facts["curves"]:
        return
    say()
    columns = ("curve", f"epochs 1 to {facts['epochs']}", "first", "best", "at epoch", "last")
    cells = [
        (
            curve["name"],
            sparkline(curve["values"], _blocks()),
            number(curve["first"]),
            number(curve["best"]),
            curve["best_epoch"],
            number(curve["last"]),
        )
        for curve in facts["curves"]
    ]
    print_table(columns, cells, right=columns[2:])


def sparkline(values: Sequence[float | None], blocks: str = BLOCKS) -> str:
    """A curve as one line of blocks between its own lowest and highest value.

    Longer curves than WIDTH are averaged in equal pieces; `?` stands where there is no finite number. A curve
    that does not move is drawn at its lowest block.
    """
    pieces = min(len(values), WIDTH)
    edges = [round(index * len(values) / pieces) for index in range(pieces + 1)] if pieces else []
    means = [_mean(values[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    finite = [mean for mean in means if mean is not None]
    if not finite:
        return NO_NUMBER * pieces
    low, high = min(finite), max(finite)

    def block(mean: float | None) -> str:
        if mean is None:
            return NO_NUMBER
        # Halves first: the span of two huge numbers may overflow.
        share = (mean / 2 - low / 2) / (high / 2 - low / 2) if high > low else 0.0
        return blocks[min(int(share * len(blocks)), len(blocks) - 1)]

    return "".join(map(block, means))


def _mean(values: Sequence[float | None]) -> float | None:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return sum(value / len(finite) for value in finite) if finite else None


def _blocks() -> str:
    """Blocks, or plain signs for a terminal that cannot write them."""
    try:
        BLOCKS.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return PLAIN_BLOCKS
    return BLOCKS


def _weight_lines(facts: Facts) -> Iterable[str]:
    if facts["weights"]:
        each = (
            f"{term} {short(found['first'])}"
            + (f" to {short(found['last'])}" if found["last"] != found["first"] else "")
            for term, found in facts["weights"].items()
        )
        yield ""
        yield f"Weights in force, first to last epoch: {', '.join(each)}"


def _active_lines(facts: Facts) -> Iterable[str]:
    for term, found in facts["active"].items():
        counts = f"{number(found['first'])} examples in the first, {number(found['last'])} in the last"
        yield f"Term {term} had no active example in epochs {_spans(found['inactive'])} ({counts})"


def _collapse_lines(facts: Facts) -> Iterable[str]:
    shown = {kind: found for kind, found in facts["collapse"].items() if found["epochs"]}
    for kind, found in shown.items():
        unjudged = f"; not judged in {_spans(found['not_judged'])}" if found["not_judged"] else ""
        yield f"Collapse ({kind}) showed in epochs {_spans(found['epochs'])}{unjudged}"
    if not shown and facts["epochs"] and facts["collapse"]:
        yield "Collapse showed in no epoch"


def _spans(epochs: Sequence[int]) -> str:
    """Epochs with runs joined, as in `1 to 4, 7`."""
    spans: list[list[int]] = []
    for epoch in epochs:
        if spans and epoch == spans[-1][-1] + 1:
            spans[-1].append(epoch)
        else:
            spans.append([epoch])
    return ", ".join(str(span[0]) if len(span) == 1 else f"{span[0]} to {span[-1]}" for span in spans)


# ---------------------------------------------------------------------- files


def _print_files(facts: Facts) -> None:
    files = facts["files"]
    say()
    say("Files")
    pictures = files["pictures"]
    for path in pictures[:PICTURES_SHOWN]:
        say(f"  picture         {path}")
    if len(pictures) > PICTURES_SHOWN:
        say(f"                  and {len(pictures) - PICTURES_SHOWN} more beside it")
    for name, path in files.items():
        if name != "pictures":
            say(f"  {name:<15} {path}")
