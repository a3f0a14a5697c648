"""The `static:` and `knobs:` sections of a space file -> Parameters, with their conditions settled."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace

from search.errors import nearest
from search.parameters import Parameter, in_dependency_order, same
from search.value_lines import check_keys, listed, read_number, read_truth, read_value, section
from search.yaml_lines import Complaints, Items, Leaf, Node, Place, Table, sayable
from trainables.family import Choice, Family, Number, Setting

__all__ = ["family_in_force", "read_parameters"]

MAX_CHOICES = 1000
RANGES = ("float", "int", "choice")
FORMS = "{float: [low, high]}, {int: [low, high]}, {choice: [...]} or one value"


def read_parameters(
    root: Table, family: Family, complaints: Complaints
) -> tuple[dict[str, Parameter], dict[str, Parameter]]:
    """(statics, knobs): every one of `family`, those that the file does not name fixed at their default.

    Knobs are ordered so that a condition's target comes before what depends on it.
    """
    read: dict[str, Parameter] = {}
    conditions: dict[str, Node] = {}
    places: dict[str, Place] = {}
    for heading, settings in (("static", family.statics), ("knobs", family.knobs)):
        table = section(root, heading, complaints) or Table(root.place, {})
        for name, node in table.entries.items():
            if name not in settings:
                complaints.add(table.keys[name], _unknown(name, heading, family))
                continue
            places[name] = table.keys[name]
            if isinstance(node, Table) and "when" in node.entries:
                conditions[name] = node.entries["when"]
            parameter = _read(name, node, settings[name], complaints)
            if parameter:
                read[name] = replace(parameter, line=places[name].line or 0)
    settings = {**family.statics, **family.knobs}
    broken = places.keys() - read.keys()  # complained of: nothing more is said of what depends on them
    everything = {name: read.get(name) or _default(name, setting) for name, setting in settings.items()}
    for name, node in conditions.items():
        if name in read:
            when = _read_when(name, node, everything, places, broken, family, complaints)
            if when is None:  # the command line has narrowed a target: it can never be in force
                everything[name] = replace(_default(name, settings[name]), line=read[name].line)
            else:
                everything[name] = replace(read[name], when=when)
    everything = _ordered(everything, places, complaints)
    for name in read:
        everything[name] = _effective(everything[name], everything, places, broken, family, complaints)
    statics = {name: parameter for name, parameter in everything.items() if name in family.statics}
    return statics, {name: parameter for name, parameter in everything.items() if name in family.knobs}


def family_in_force(settings: Mapping[str, Setting], name: str, values: Mapping[str, object]) -> bool:
    """Whether the family says that `name` has an effect under `values`, which give every static and knob."""
    return all(
        any(same(values[target], item) for item in allowed) and family_in_force(settings, target, values)
        for target, allowed in settings[name].when.items()
    )


def _default(name: str, setting: Setting) -> Parameter:
    integer = isinstance(setting, Number) and setting.integer
    return Parameter(name, "fixed", value=int(setting.default) if integer else setting.default)


def _unknown(name: str, heading: str, family: Family) -> str:
    kind, other = ("static setting", family.knobs) if heading == "static" else ("knob", family.statics)
    names = family.statics if heading == "static" else family.knobs
    if name in other:
        place = "knobs" if heading == "static" else "static"
        return f"{name} is no {kind} of {family.name}; it belongs under {place}."
    shown = name if len(name) <= 80 else name[:77] + "..."
    return f"{family.name} has no {kind} '{shown}'; it has {listed(names)}.{nearest(name, names)}"


def _read(name: str, node: Node, setting: Setting, complaints: Complaints) -> Parameter | None:
    """One parameter without its conditions; None after a complaint."""
    if isinstance(node, Items):
        complaints.add(node.place, f"{name} is a list, but must be {FORMS}. Write {{choice: [...]}}.")
        return None
    if isinstance(node, Leaf):
        value = read_value(node, setting, name, complaints)
        return None if value is None else Parameter(name, "fixed", value=value)
    check_keys(node, (*RANGES, "log", "when"), name, complaints)
    kinds = [kind for kind in RANGES if kind in node.entries]
    if len(kinds) != 1:
        found = f"has {' and '.join(kinds)}" if kinds else "has no range"
        complaints.add(node.place, f"{name} {found}, but must be exactly one of {FORMS}.")
        return None
    kind = kinds[0]
    if kind == "choice":
        if "log" in node.entries:
            complaints.add(
                node.keys["log"], f"{name} is a choice, and log has no meaning for one. Remove it."
            )
        return _read_choice(name, node.entries["choice"], setting, complaints)
    log = read_truth(node.entries["log"], f"{name}: log", complaints) if "log" in node.entries else False
    return _read_range(name, kind, node.entries[kind], setting, bool(log), complaints)


def _read_choice(name: str, node: Node, setting: Setting, complaints: Complaints) -> Parameter | None:
    if not isinstance(node, Items) or not node.items:
        found = "an empty list" if isinstance(node, Items) else sayable(node)
        complaints.add(node.place, f"{name}: choice is {found}, but must be a list of values.")
        return None
    if len(node.items) > MAX_CHOICES:
        found = f"a choice of {len(node.items):,} values; at most {MAX_CHOICES:,} are allowed"
        complaints.add(node.place, f"{name} has {found}. Use a range.")
        return None
    choices: list[object] = []
    for item in node.items:
        value = read_value(item, setting, name, complaints)
        if value is not None and any(same(value, other) for other in choices):
            complaints.add(item.place, f"{name}: {value} is in the list twice. Remove one.")
        choices.append(value)
    if "inverse" in choices and "balanced" in choices:
        why = "are one formula under two names, and the search would pay twice for it"
        complaints.add(node.place, f"{name}: inverse and balanced {why}. Remove one.")
    return None if None in choices else Parameter(name, "choice", choices=tuple(choices))


def _read_range(
    name: str, kind: str, node: Node, setting: Setting, log: bool, complaints: Complaints
) -> Parameter | None:
    if isinstance(setting, Choice):
        options = listed(setting.options)
        complaints.add(
            node.place, f"{name} is one of {options}, and no {kind} range. Write {{choice: [{options}]}}."
        )
        return None
    if (kind == "int") != setting.integer:
        own = "int" if setting.integer else "float"
        what = "a whole number" if setting.integer else "a real number"
        complaints.add(node.place, f"{name} is {what}, but its range is {kind}. Write {own}.")
        return None
    if not isinstance(node, Items) or len(node.items) != 2:
        found = f"a list of {len(node.items)}" if isinstance(node, Items) else sayable(node)
        complaints.add(node.place, f"{name}: {kind} is {found}, but must be [low, high].")
        return None
    if log and setting.low <= 0 and _touches_zero(node):
        complaints.add(
            node.place,
            f"{name} has log: true and begins at {sayable(node.items[0])}, but a logarithm needs a low end "
            "above 0. Raise it, or remove log.",
        )
        return None
    low, high = (read_number(item, setting, name, complaints) for item in node.items)
    if low is None or high is None:
        return None
    if low >= high:
        repair = (
            f"Write {node.items[0].text} alone to fix it" if low == high else f"Write [{high:g}, {low:g}]"
        )
        how = "is one point" if low == high else "is upside down"
        complaints.add(node.place, f"{name}: the range [{low:g}, {high:g}] {how}. {repair}.")
        return None
    return Parameter(name, kind, low=low, high=high, log=log)


def _touches_zero(node: Items) -> bool:
    low = node.items[0]
    return isinstance(low, Leaf) and isinstance(low.value, (int, float)) and low.value <= 0


def _read_when(
    name: str,
    node: Node,
    everything: Mapping[str, Parameter],
    places: Mapping[str, Place],
    broken: Set[str],
    family: Family,
    complaints: Complaints,
) -> dict[str, tuple] | None:
    """The conditions of `name`; None when the command line has made them impossible."""
    if not isinstance(node, Table) or not node.entries:
        found = "an empty mapping" if isinstance(node, Table) else sayable(node)
        complaints.add(node.place, f"{name}: when is {found}, but must be a mapping like {{knob: value}}.")
        return {}
    when: dict[str, tuple] = {}
    possible = True
    for target, values in node.entries.items():
        place = node.keys[target]
        problem = _bad_target(name, target, everything, family)
        if problem:
            complaints.add(place, f"{name} {problem}")
            continue
        if target in broken:
            when[target] = ()
            continue
        parameter = everything[target]
        narrowed = target in places and places[target].line is None
        items = values.items if isinstance(values, Items) else (values,)
        if not items:
            complaints.add(
                values.place, f"{name} is searched only when {target} is one of nothing. Give a value."
            )
        allowed: list[object] = []
        for item in items:
            value = item.value if isinstance(item, Leaf) and not item.faulty else None
            if value is not None and parameter.holds(value):
                if any(same(value, other) for other in allowed):
                    complaints.add(item.place, f"{name}: when names {target} {value} twice. Remove one.")
                allowed.append(value)
            elif not (narrowed and item.place.line) and not (isinstance(item, Leaf) and item.faulty):
                complaints.add(item.place, _cannot_occur(name, parameter, item))
        when[target] = tuple(allowed)
        possible = possible and not (narrowed and not allowed)
    return when if possible else None


def _bad_target(name: str, target: str, everything: Mapping[str, Parameter], family: Family) -> str:
    """What is wrong with a condition on `target`, or nothing."""
    if target not in everything:
        return f"depends on '{target}', which {family.name} does not have.{nearest(target, everything)}"
    if target == name:
        return "depends on itself. Remove the condition."
    if name in family.statics and target in family.knobs:
        return (
            f"is a static setting and cannot depend on the knob {target}. Only statics decide over statics."
        )
    if everything[target].kind == "float":
        return f"depends on {target}, a range of real numbers. Only a choice or a whole number can decide."
    return ""


def _cannot_occur(name: str, target: Parameter, item: Node) -> str:
    found = f"{name} is searched only when {target.name} is {sayable(item)}, but that is {target.allowed}"
    if isinstance(item, Leaf) and isinstance(item.value, bool):
        return f"{found}. YAML reads {item.text} as {str(item.value).lower()}: quote it if you mean the word."
    if target.kind == "fixed":
        return f"{found}. Give {target.name} a choice with it."
    values = target.choices if target.kind == "choice" else ()
    return f"{found}.{nearest(item.text, values) if isinstance(item, Leaf) else ''}"


def _ordered(
    everything: dict[str, Parameter], places: Mapping[str, Place], complaints: Complaints
) -> dict[str, Parameter]:
    while True:
        try:
            return in_dependency_order(everything)
        except ValueError as error:
            first = str(error).split(" -> ")[0]
            complaints.add(places[first], f"the conditions form a circle: {error}. Remove one of them.")
            everything = {**everything, first: replace(everything[first], when={})}


def _effective(
    parameter: Parameter,
    everything: Mapping[str, Parameter],
    places: Mapping[str, Place],
    broken: Set[str],
    family: Family,
    complaints: Complaints,
) -> Parameter:
    """`parameter`, after a complaint where the family gives it no effect anywhere in this space.

    Where the command line is the cause, its fixed default instead.
    """
    settings = {**family.statics, **family.knobs}
    default = _default(parameter.name, settings[parameter.name])
    if parameter.kind == "fixed" and same(parameter.value, default.value):
        return parameter
    for target, allowed in settings[parameter.name].when.items():
        if target in broken or parameter.when.get(target) == ():  # said already
            continue
        possible = [value for value in allowed if everything[target].holds(value)]
        if any(same(value, item) for value in possible for item in parameter.when.get(target, possible)):
            continue
        if target in places and places[target].line is None and places[parameter.name].line is not None:
            return replace(default, line=parameter.line)
        says = f"has an effect only when {target} is {' or '.join(map(str, allowed))}"
        here = everything[target].allowed if target not in parameter.when else listed(parameter.when[target])
        complaints.add(
            places[parameter.name],
            f"{parameter.name} {says}, but here that is {here}. Remove {parameter.name}.",
        )
    return parameter
