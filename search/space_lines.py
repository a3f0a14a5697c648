"""The located nodes of a space file -> the parts of a Space."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from search.experiment_lines import read_experiment
from search.parameter_lines import family_in_force, read_parameters
from search.parameters import (
    MAX_CELLS,
    Budget,
    Parameter,
    Preset,
    in_dependency_order,
    in_force,
    num_cells,
)
from search.stop_lines import read_stop_rules
from search.value_lines import (
    check_keys,
    listed,
    read_settings,
    read_value,
    read_word,
    read_words,
    section,
)
from search.yaml_lines import Complaints, Items, Leaf, Node, Table, sayable
from trainables import family_named
from trainables.family import Choice, Family, Number

__all__ = ["SAMPLERS", "read_parts"]

SAMPLERS = ("tpe", "random", "grid", "nsga2", "gp")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")  # becomes part of a directory's name
BUDGET = {
    "trials": Number(1, 1, 1_000_000, "configurations in all", integer=True),
    "epochs": Number(1, 1, 1_000_000, "a trial's full budget", integer=True),
    "minutes": Number(1.0, 0.01, 1e7, "wall time of the whole search"),
}
SEARCH = {
    "sampler": Choice("tpe", SAMPLERS, "how configurations are proposed"),
    "seed": Number(0, 0, 2**31 - 1, "seed of the sampler and of the trials", integer=True),
}
CONFIRM = {
    "top": Number(3, 1, 1000, "how many of the best are run again", integer=True),
    "seeds": Number(5, 2, 1000, "fresh seeds for each", integer=True),
    "max_seeds": Number(
        5, 2, 1000, "seeds are added up to so many, until the verdict is clear", integer=True
    ),
}
MAX_PRESETS = 1000


def read_parts(
    root: Table, family_name: str, stem: str, complaints: Complaints, *, data_here: bool = True
) -> dict[str, object]:
    """The fields of a Space from the node of its file. Raises BadSpace with all that is wrong with it.

    With `data_here` a data file that is not there is wrong, too.
    """
    budget = _read_budget(root, complaints)
    try:
        family = family_named(family_name)
    except (ImportError, AttributeError, TypeError, SyntaxError) as error:
        absent = isinstance(error, ModuleNotFoundError)
        repair = " Run the command in the directory that holds the module, or install it." if absent else ""
        complaints.add(
            root.entries["family"].place, f"family {family_name} cannot be loaded: {error}.{repair}"
        )
        complaints.settle()
        raise
    objectives = _read_objectives(root, family, complaints)
    statics, knobs = read_parameters(root, family, complaints)
    search = _read_plain(root, "search", SEARCH, complaints)
    confirm = _read_confirm(root, complaints)
    stop_table = section(root, "stop", complaints) or Table(root.place, {})
    stop = read_stop_rules(stop_table, family, objectives, complaints)
    data = _read_data(root, family, complaints, here=data_here)
    name = _read_name(root, stem, complaints)
    clean = not complaints
    presets = _read_presets(root, family, {**statics, **knobs}, complaints, judge=clean)
    experiment = read_experiment(root, family, {**statics, **knobs}, presets, complaints) if clean else None
    if clean:
        _check_search(root, {**statics, **knobs}, search["sampler"], complaints)
    complaints.settle()
    return {
        "name": name,
        "family_name": family_name,
        "data": data,
        "budget": budget,
        "objectives": objectives,
        "directions": tuple(
            "maximize" if family.metrics[m].higher_is_better else "minimize" for m in objectives
        ),
        "static": statics,
        "knobs": knobs,
        "presets": presets,
        "sampler": search["sampler"],
        "seed": search["seed"],
        "stop": stop,
        "confirm": confirm,
        "experiment": experiment,
    }


def _read_name(root: Table, stem: str, complaints: Complaints) -> str:
    """The `name:` of the file, else its stem with '-' for what a directory's name should not hold."""
    node = root.entries.get("name")
    if node is None:
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-.")[:100] or "space"
    if isinstance(node, Leaf) and isinstance(node.value, str) and NAME.fullmatch(node.value):
        return node.value
    allowed = "1 to 100 of the characters A-Z a-z 0-9 _ . -, beginning with a letter, a digit or _"
    complaints.add(node.place, f"name is {sayable(node)}, but must be {allowed}.")
    return stem


def _read_budget(root: Table, complaints: Complaints) -> Budget:
    if "budget" not in root.entries:
        complaints.add(root.place, "budget is missing. Write budget: {trials: 32, epochs: 20}.")
    table = section(root, "budget", complaints)
    if table is None:
        return Budget(1, 1)
    check_keys(table, BUDGET, "budget", complaints)
    for key in ("trials", "epochs"):
        if key not in table.entries:
            example = {"trials": 32, "epochs": 20}[key]
            complaints.add(
                table.place, f"budget.{key} is missing ({BUDGET[key].help}). Write {key}: {example}."
            )
    values = read_settings(table, BUDGET, "budget", complaints)
    return Budget(
        values["trials"], values["epochs"], values["minutes"] if "minutes" in table.entries else None
    )


def _read_objectives(root: Table, family: Family, complaints: Complaints) -> tuple[str, ...]:
    node = root.entries.get("objective")
    default = ("selection_accuracy",)
    if node is None:
        return default
    for item in node.items if isinstance(node, Items) else (node,):
        metric = family.metrics.get(item.text) if isinstance(item, Leaf) else None
        if metric is not None and metric.higher_is_better is None:
            why = f"the objective {item.text} has no better direction ({metric.help})"
            complaints.add(item.place, f"{why}. Choose one of {listed(_directed(family))}.")
            return default
    return read_words(node, _directed(family), "objective", complaints) or default


def _directed(family: Family) -> list[str]:
    return [name for name, metric in family.metrics.items() if metric.higher_is_better is not None]


def _read_plain(root: Table, key: str, settings: Mapping, complaints: Complaints) -> dict[str, object]:
    table = section(root, key, complaints) or Table(root.place, {})
    check_keys(table, settings, key, complaints)
    return read_settings(table, settings, key, complaints)


def _read_confirm(root: Table, complaints: Complaints) -> dict[str, object]:
    """`top`, `seeds` and, where it is given, `max_seeds`; nothing without the section."""
    if "confirm" not in root.entries:
        return {}
    confirm, node = _read_plain(root, "confirm", CONFIRM, complaints), root.entries["confirm"]
    most = node.entries.get("max_seeds") if isinstance(node, Table) else None
    if most is None:
        del confirm["max_seeds"]
    elif confirm["max_seeds"] < confirm["seeds"]:
        found = f"confirm.max_seeds is {confirm['max_seeds']}, less than confirm.seeds, {confirm['seeds']}"
        complaints.add(most.place, f"{found}. Give at least as many, or remove it.")
    return confirm


def _read_data(root: Table, family: Family, complaints: Complaints, *, here: bool) -> dict[str, object]:
    """`source`, `path` (absolute, or None) and every data setting of the family."""
    table = section(root, "data", complaints) or Table(root.place, {})
    check_keys(table, ("source", "path", *family.data_settings), "data", complaints)
    source = family.sources[0]
    if "source" in table.entries:
        source = read_word(table.entries["source"], family.sources, "data.source", complaints) or source
    path, node = None, table.entries.get("path")
    if source == "file" and node is None:
        complaints.add(table.place, "data.source is file, but data.path is missing. Give the file's path.")
    elif source != "file" and node is not None:
        repair = "Write source: file, or remove path" if "file" in family.sources else "Remove it"
        complaints.add(node.place, f"data.path has no meaning with source {source}. {repair}.")
    elif node is not None:
        path = _read_path(node, complaints, here=here)
    return {"source": source, "path": path, **read_settings(table, family.data_settings, "data", complaints)}


def _read_path(node: Node, complaints: Complaints, *, here: bool) -> str | None:
    if not isinstance(node, Leaf) or not isinstance(node.value, str) or not node.value:
        complaints.add(node.place, f"data.path is {sayable(node)}, but must be the path of a file. Quote it.")
        return None
    # A relative path is meant from where the command is typed; made absolute, for `resume` may run elsewhere.
    path = Path(os.path.expanduser(node.value)).absolute()
    if here and not os.path.exists(path):
        complaints.add(node.place, f"data.path is '{node.value}', but there is no file {path}.")
    return str(path)


def _read_presets(
    root: Table, family: Family, parameters: Mapping[str, Parameter], complaints: Complaints, *, judge: bool
) -> tuple[Preset, ...]:
    """The `start_from:` list; `judge` holds each against the space, once that is free of errors."""
    node = root.entries.get("start_from")
    if node is None:
        return ()
    if not isinstance(node, Items) or len(node.items) > MAX_PRESETS:
        found = f"a list of {len(node.items):,}" if isinstance(node, Items) else sayable(node)
        form = f"a list of at most {MAX_PRESETS:,} mappings like {{name: today, knob: value}}"
        complaints.add(node.place, f"start_from is {found}, but must be {form}.")
        return ()
    tables = [table for table in map(root.entries.get, ("static", "knobs")) if table]
    by_hand = {name for table in tables for name, place in table.keys.items() if place.line is None}
    presets: list[Preset] = []
    for item in node.items:
        name = item.entries.get("name") if isinstance(item, Table) else None
        if not isinstance(name, Leaf) or not isinstance(name.value, str) or not 0 < len(name.value) <= 100:
            complaints.add(
                item.place, "each entry of start_from is a mapping with a name, like {name: today}."
            )
            continue
        if any(preset.name == name.value for preset in presets):
            complaints.add(name.place, f"start_from has two presets called '{name.value}'. Rename one.")
        values = _preset_values(item, name.value, family, complaints)
        presets.append(Preset(name.value, values, item.place.line or 0))
        if judge and len(values) == len(item.entries) - 1:
            _judge_preset(presets[-1], item, family, parameters, by_hand, complaints)
    return tuple(presets)


def _preset_values(table: Table, name: str, family: Family, complaints: Complaints) -> dict[str, object]:
    settings = {**family.statics, **family.knobs}
    check_keys(table, ("name", *settings), f"preset {name}", complaints)
    given = {key: node for key, node in table.entries.items() if key in settings}
    read = {
        key: read_value(node, settings[key], f"preset {name}: {key}", complaints)
        for key, node in given.items()
    }
    return {key: value for key, value in read.items() if value is not None}


def _judge_preset(
    preset: Preset,
    table: Table,
    family: Family,
    parameters: Mapping[str, Parameter],
    by_hand: set[str],
    complaints: Complaints,
) -> None:
    """Complain where `preset` leaves the space, or sets what has no effect beside its other values."""
    settings = {**family.statics, **family.knobs}
    unsaid = {n: settings[n].default if p.searched else p.value for n, p in parameters.items()}
    whole = {**unsaid, **preset.values}
    chosen: dict[str, object] = {}
    for name, parameter in parameters.items():
        given = name in preset.values
        said = f"sets {name} to" if given else f"leaves {name} at its default"
        said = f"preset {preset.name} {said} {whole[name]}"
        place, inactive = table.keys.get(name, table.place), ""
        if not in_force(parameters, name, chosen):
            inactive = f"is searched only when {_spoken(parameter.when)}"
        elif given and parameter.searched and not family_in_force(settings, name, whole):
            inactive = f"has an effect only when {_spoken(settings[name].when)}"
        if inactive:
            if given:
                complaints.add(place, f"{said}, but that {inactive}. Remove it.")
            continue
        if parameter.searched:
            chosen[name] = whole[name]
        if parameter.holds(whole[name]):
            continue
        repair = "Change it, or widen the range" if given else "Set it in the preset"
        if name in by_hand:
            repair = "Add --set start_from=[] to leave the presets out"
        complaints.add(place, f"{said}, but here that is {parameter.allowed}. {repair}.")


def _spoken(when: Mapping[str, tuple]) -> str:
    return " and ".join(f"{name} is {' or '.join(map(str, values))}" for name, values in when.items())


def _check_search(
    root: Table, parameters: Mapping[str, Parameter], sampler: object, complaints: Complaints
) -> None:
    """Complain when nothing is searched, or when a grid cannot be walked."""
    searched = [parameter for parameter in parameters.values() if parameter.searched]
    place = root.keys.get("knobs", root.place)
    if not searched:
        complaints.add(
            place, "nothing is searched: every static and knob is fixed. Give at least one a range."
        )
    if sampler != "grid":
        return
    for parameter in searched:
        tables = map(root.entries.get, ("static", "knobs"))
        said_at = next(
            table.keys[parameter.name] for table in tables if table and parameter.name in table.keys
        )
        if parameter.kind == "float":
            repair = f"Write {{choice: [{parameter.low:g}, {parameter.high:g}]}} with the values to try"
            complaints.add(
                said_at,
                f"{parameter.name} has a float range, which no grid can walk. {repair}.",
            )
        elif parameter.log:
            complaints.add(
                said_at,
                f"{parameter.name} has log: true, which a grid ignores. Remove it.",
            )
    if all(parameter.kind != "float" for parameter in searched):
        count = num_cells(in_dependency_order(parameters))
        if count > MAX_CELLS:
            found = f"the grid has {count:,} cells; at most {MAX_CELLS:,} are allowed"
            complaints.add(place, f"{found}. Shorten some choices, or use sampler: tpe.")
