"""The tables of an experiment as text for the terminal, and where its pictures are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from search.console import number, print_table, say, short, shown_path
from search.expectations import NOT_ENOUGH
from search.experiment_cells import FIGURES
from search.run_directory import RunDirectory
from search.space import Space

__all__ = [
    "bounds_in_words",
    "checks_of",
    "effects_of",
    "experiment_of",
    "headline",
    "label_of",
    "metric_in_words",
    "part_in_words",
    "pictures_of",
    "place_of",
    "print_experiment",
    "says_more_than_matrices",
    "table_of",
    "verdict_in_words",
]

Values = Mapping[str, Any]
STATES = {"FAIL": "failed", "RUNNING": "in progress", "WAITING": "queued"}
SEPARATE = 6  # pictures that are listed one by one


def experiment_of(directory: RunDirectory, space: Space) -> dict[str, Any] | None:
    """What the experiment of a run shows so far, `search.experiments.experiment_values` of its record with
    the `pictures` of each cell; None for a space that declares none."""
    from search.experiments import experiment_values
    from search.record import read_epochs, read_trials

    if space.experiment is None:
        return None
    trials = read_trials(directory.path).to_pylist()
    values = experiment_values(space, trials, read_epochs(directory.path).to_pylist())
    for cell in values["cells"]:
        cell["pictures"] = pictures_of(cell, directory, space)
    return values


def pictures_of(cell: Values, directory: RunDirectory, space: Space) -> list[str]:
    """The pictures of a cell's best epochs, one a trial, as paths below the run directory."""
    name = f"{space.family.picture.name}_best.png"
    phase = cell["phase"] or "search"
    paths = [directory.trial(trial, phase) / "figures" / name for trial in cell["trials"]]
    # A link in a run from elsewhere could name any file of the reader's.
    return [
        str(path.relative_to(directory.path)) for path in paths if path.is_file() and not path.is_symlink()
    ]


# ---------------------------------------------------------------------- words


def label_of(at: Mapping[str, Any]) -> str:
    """A cell by its values: `none, globals.weight 10`."""
    return ", ".join(
        value if isinstance(value, str) else f"{axis} {place_of(value)}" for axis, value in at.items()
    )


def place_of(value: Any) -> str:
    """A cell's place on one axis."""
    return "not in force" if value is None else short(value)


def spread_in_words(spread: Values | None) -> str:
    """`0.7965`, or of several runs `0.7965 +- 0.0120`."""
    if spread is None:
        return ""
    if spread["mean"] is None:
        return "-"
    return number(spread["mean"]) + (f" +- {number(spread['sd'])}" if spread["sd"] is not None else "")


def bounds_in_words(claim: Values) -> str:
    """What a check compares: `fluctuation of pixel_accuracy at most 0.03`."""
    figure = claim["column"] if claim["figure"] == FIGURES[0] else f"{claim['figure']} of {claim['column']}"
    if "order" in claim:
        margin = f" by more than {short(claim['by'])}" if claim["by"] else ""
        along = " -> ".join(short(value) for value in claim["along"])
        return f"{figure} {claim['order']}{margin} along {claim['axis']} {along}"
    low, high = claim["low"], claim["high"]
    if low is None or high is None:
        return f"{figure} at least {short(low)}" if high is None else f"{figure} at most {short(high)}"
    return f"{figure} from {short(low)} to {short(high)}"


def part_in_words(part: Values) -> str:
    """One part of an expectation with its numbers: `vq: 0.1200 -> 0.3100`."""
    figures = " -> ".join(spread_in_words(value) for value in part["values"])
    told = "; ".join(filter(None, map(_step_in_words, part.get("steps", ()))))
    figures += f" ({told})" if told else ""
    return f"{label_of(part['at'])}: {figures}" if part["at"] else figures


def _step_in_words(step: Values) -> str:
    """The interval of a difference, or why a difference of few seeds decides nothing."""
    if step["seeds"] > 1:
        return f"by {number(step['gain'])}, 95 % interval {number(step['low'])} to {number(step['high'])}"
    if step["verdict"] == NOT_ENOUGH and step["low"] is not None:
        return f"the curves move by {number(step['high'] - step['gain'])} an epoch"
    return ""


def verdict_in_words(expectation: Values) -> str:
    """`held`, or of several parts `did not hold (in 1 of 3)`."""
    verdict, parts = expectation["verdict"], expectation["parts"]
    count = sum(part["verdict"] == verdict for part in parts)
    return verdict if count == len(parts) else f"{verdict} (in {count} of {len(parts)})"


def table_of(values: Values) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: a row a cell, its place on the axes, its figures, and a remark."""
    heads = [
        *(axis["name"] for axis in values["axes"]),
        *(metric["name"] for metric in values["metrics"]),
        "runs",
        "",
    ]
    rows = []
    for cell in values["cells"]:
        place = [place_of(value) for value in cell["at"].values()]
        figures = [spread_in_words(cell["figures"][metric["name"]]) for metric in values["metrics"]]
        rows.append([*place, *figures, str(len(cell["trials"])), "; ".join(_remarks(cell))])
    return heads, rows


def says_more_than_matrices(values: Values) -> bool:
    """Whether `table_of` tells what matrices of means leave out: remarks, and deviations of several runs."""
    return not values["matrices"] or any(
        len(cell["trials"]) > 1 or any(_remarks(cell)) for cell in values["cells"]
    )


def checks_of(values: Values) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: a row a cell, each check answered yes or no with the figure that it saw."""
    heads = [*(axis["name"] for axis in values["axes"]), *(check["says"] for check in values["checks"])]
    answers = {True: "yes", False: "no", None: "no data"}
    rows = []
    for cell in values["cells"]:
        place = [place_of(value) for value in cell["at"].values()]
        told = [
            "" if check is None else answers[check["holds"]] + (f" ({seen})" if check["n"] else "")
            for check in cell["checks"]
            for seen in [spread_in_words(check)]
        ]
        rows.append([*place, *told])
    return heads, rows


def _remarks(cell: Values) -> Iterable[str]:
    if not cell["trials"] and not cell["without"]:
        yield "no trial yet"
    for state, count in cell["without"].items():
        yield f"{count} {STATES.get(state, state.lower())}"
    if cell["phase"] == "confirm":
        yield "confirmed"
    for cut in cell["cut"]:
        yield f"trial {cut['trial']} ended after {cut['epochs']} of {cut['of']} epochs"
    for kind, count in cell["collapsed"].items():
        yield f"collapsed ({kind})" + (f" in {count} of {len(cell['trials'])}" if count > 1 else "")


def effects_of(values: Values) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: the mean at each value of each axis, over the settings of all other axes."""
    metrics = [metric["name"] for metric in values["metrics"]]
    rows = []
    for axis in values["axes"]:
        own = {one["metric"]: one for one in values["effects"] if one["axis"] == axis["name"]}
        for index, value in enumerate(axis["values"]):
            means = [number(own[name]["means"][index]) for name in metrics]
            rows.append([axis["name"], place_of(value), *means])
    return ["axis", "value", *metrics], rows


def headline(values: Values) -> str:
    """What is compared, and how many runs a figure stands for."""
    runs = max((len(cell["trials"]) for cell in values["cells"]), default=0)
    seeds = "one seed each" if runs <= 1 else f"means of up to {runs} seeds"
    return f"{', '.join(axis['name'] for axis in values['axes'])}; at the last epoch, {seeds}"


def metric_in_words(metric: Values) -> str:
    """A metric's name with its meaning and its better side."""
    sides = {True: "higher is better", False: "lower is better", None: "no better side"}
    return f"{metric['name']}: {metric['help']} ({sides[metric['higher_is_better']]})"


# ---------------------------------------------------------------------- print


def print_experiment(values: Values, directory: RunDirectory) -> None:
    """Print it: the figures of each cell, the checks, the expectations one by one, the pictures."""
    say()
    say(f"Experiment: {headline(values)}")
    if values["matrices"]:
        _print_matrices(values)
    if says_more_than_matrices(values):
        heads, rows = table_of(values)
        if values["matrices"]:
            say()
        numeric = [metric["name"] for metric in values["metrics"]]
        print_table(heads, rows, right=[*numeric, "runs"])
    if values["effects"]:
        heads, rows = effects_of(values)
        say()
        say("Each axis by itself: means over the other axes")
        print_table(heads, rows, right=heads[2:])
    if values["checks"]:
        say()
        heads, rows = checks_of(values)
        print_table(heads, rows)
        for check in values["checks"]:
            say(f"  {check['says']}: {bounds_in_words(check)}")
    if values["expect"]:
        say()
        rows = [
            (verdict_in_words(one), one["says"], "; ".join(part_in_words(part) for part in one["parts"]))
            for one in values["expect"]
        ]
        print_table(("verdict", "expected", "found"), rows)
    _print_pictures(values, directory)


def _print_matrices(values: Values) -> None:
    rows, columns = values["axes"]
    metrics = {metric["name"]: metric for metric in values["metrics"]}
    for matrix in values["matrices"]:
        say()
        metric = metrics[matrix["metric"]]
        say(metric_in_words(metric))
        lines = [
            [
                short(row),
                *(
                    _marked(mean, matrix["best_in_row"][y] == x, matrix["best_in_column"][x] == y)
                    for x, mean in enumerate(matrix["means"][y])
                ),
            ]
            for y, row in enumerate(rows["values"])
        ]
        heads = [f"{columns['name']} {short(value)}" for value in columns["values"]]
        print_table([rows["name"], *heads], lines, right=heads)
    say("  r: best of its row, c: best of its column")


def _marked(mean: float | None, in_row: bool, in_column: bool) -> str:
    if mean is None or math.isnan(mean):
        return "-   "
    return f"{number(mean)} {'r' if in_row else ' '}{'c' if in_column else ' '}"


def _print_pictures(values: Values, directory: RunDirectory) -> None:
    told: Sequence[tuple[str, str]] = [
        (label_of(cell["at"]), path) for cell in values["cells"] for path in cell.get("pictures", ())
    ]
    if not told:
        return
    say()
    if len(told) > SEPARATE:
        say(f"Pictures: {shown_path(directory.path)}/trials/*/figures")
        return
    print_table(("picture", "file"), [(label, shown_path(directory.path / path)) for label, path in told])
