"""The `stop:` section of a space file -> StopRules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from search.stopping import Group, Rule, StopRules, rule_settings
from search.value_lines import check_keys, read_settings, read_words
from search.yaml_lines import Complaints, Items, Leaf, Node, Place, Table, sayable
from trainables.family import Family

__all__ = ["plain_stop_rules", "read_stop_rules"]

RULES = ("target", "collapse", "plateau", "time")  # in the order in which they are judged
GROUPS = ("any", "all")
ON_BY_DEFAULT = ("collapse", "plateau")
WORDS = {"plateau": ("metric",), "target": ("metric",), "collapse": ("kinds",)}  # beside their settings


@dataclass(frozen=True)
class _Context:
    family: Family
    objectives: tuple[str, ...]
    complaints: Complaints

    @property
    def directed(self) -> tuple[str, ...]:
        """The metrics of which one direction is better."""
        return tuple(
            name for name, metric in self.family.metrics.items() if metric.higher_is_better is not None
        )

    def maximise(self, metric: str) -> bool:
        return bool(self.family.metrics[metric].higher_is_better)


def read_stop_rules(
    table: Table, family: Family, objectives: tuple[str, ...], complaints: Complaints
) -> StopRules:
    """What `stop:` asks for. A rule that it does not mention has its defaults: pruning (with one objective),
    plateau and collapse are on, target and time off. `off` switches a rule off; a rule inside a group stands
    only
    there."""
    context = _Context(family, objectives, complaints)
    check_keys(table, ("prune", *RULES, *GROUPS), "stop", complaints)
    groups = [_group(table.entries[join], join, "stop", context) for join in GROUPS if join in table.entries]
    grouped = {rule.name for rule in StopRules(None, tuple(groups)).flat()}
    rules = []
    for name in RULES:
        node = table.entries.get(name)
        if node is None:
            if name not in ON_BY_DEFAULT or name in grouped:
                continue
            node = Table(table.place, {})
        rule = None if _is_off(node) else _rule(node, name, "stop", context)
        rules += [rule] if rule else []
    unwritten = {rule.name for rule in rules if rule.name not in table.entries}
    unwritten |= {"prune"} - set(table.entries)
    return StopRules(_prune(table, context), (*rules, *groups), frozenset(unwritten))


def _is_off(node: Node) -> bool:
    return isinstance(node, Leaf) and (node.value is False or node.value is None or node.value == "off")


def _prune(table: Table, context: _Context) -> dict[str, object] | None:
    complaints, settings = context.complaints, rule_settings()["prune"]
    node = table.entries.get("prune")
    if node is None:
        node = Leaf(table.place, False, "off") if len(context.objectives) > 1 else Table(table.place, {})
    if _is_off(node):
        return None
    if not isinstance(node, Table):
        complaints.add(
            node.place, f"stop.prune is {sayable(node)}, but must be a mapping of settings, or 'off'."
        )
        return None
    check_keys(node, settings, "stop.prune", complaints)
    values = read_settings(node, settings, "stop.prune", complaints)
    used = {"none": ("rule",), "median": ("rule", "min_epochs")}.get(values["rule"], tuple(settings))
    for key in node.entries:
        if key in settings and key not in used:
            complaints.add(
                node.keys[key], f"stop.prune.{key} has no meaning with rule {values['rule']}. Remove it."
            )
    if values["rule"] == "none":
        return None
    if len(context.objectives) > 1:
        several = f"there are {len(context.objectives)} objectives, and Optuna prunes by one only"
        complaints.add(
            node.place, f"stop.prune is on, but {several}. Write prune: off, or keep one objective."
        )
    return {key: value for key, value in values.items() if key in used}


def _rule(node: Node, name: str, where: str, context: _Context) -> Rule | None:
    """One rule from its settings; None after a complaint."""
    where = f"{where}.{name}"
    if not isinstance(node, Table):
        context.complaints.add(
            node.place, f"{where} is {sayable(node)}, but must be a mapping of settings, or 'off'."
        )
        return None
    settings = rule_settings()[name]
    check_keys(node, (*settings, *WORDS.get(name, ())), where, context.complaints)
    for key in ("target", "seconds"):
        if key in settings and key not in node.entries:
            context.complaints.add(
                node.place, f"{where} needs {key}: {settings[key].help.partition(';')[0]}."
            )
    values = read_settings(node, settings, where, context.complaints)
    if name == "collapse":
        kinds = tuple(context.family.collapse_kinds)
        if "kinds" in node.entries:
            kinds = read_words(node.entries["kinds"], kinds, f"{where}.kinds", context.complaints) or kinds
        return Rule(name, {**values, "kinds": tuple(kinds)})
    if name == "time":
        return Rule(name, values)
    metrics = context.objectives
    if "metric" in node.entries:
        metrics = (
            read_words(node.entries["metric"], context.directed, f"{where}.metric", context.complaints)
            or metrics
        )
    if name == "plateau":
        return Rule(name, {**values, "metrics": metrics, "maximise": tuple(map(context.maximise, metrics))})
    if len(metrics) != 1:
        context.complaints.add(
            node.place, f"{where} needs one metric; {len(metrics)} are given: {', '.join(metrics)}."
        )
    if not metrics:
        return None
    low, high = context.family.metrics[metrics[0]].low, context.family.metrics[metrics[0]].high
    if values["target"] < low or values["target"] > high:  # NaN when it was complained of
        allowed = f"from {low:g} to {high:g}" if high < math.inf else f"of at least {low:g}"
        said = f"{where}.target is {values['target']:g}, but {metrics[0]} is a number {allowed}"
        context.complaints.add(node.keys["target"], f"{said}.")
    return Rule(name, {**values, "metric": metrics[0], "maximise": context.maximise(metrics[0])})


def _group(node: Node, join: str, where: str, context: _Context) -> Group:
    """`any: [...]` or `all: [...]`: a list whose items are mappings of one rule or one inner group."""
    where = f"{where}.{join}"
    if not isinstance(node, Items) or len(node.items) < 2:
        found = sayable(node) if not isinstance(node, Items) else f"a list of {len(node.items)}"
        context.complaints.add(node.place, f"{where} is {found}, but must be a list of at least two rules.")
        return Group(join, ())
    members = []
    for item in node.items:
        if not isinstance(item, Table) or len(item.entries) != 1:
            form = "{plateau: {patience: 6}}"
            context.complaints.add(
                item.place, f"{where} holds {sayable(item)}, but each item names one rule: {form}."
            )
            continue
        (name, inner), place = next(iter(item.entries.items())), item.place
        check_keys(item, (*RULES, *GROUPS), where, context.complaints)
        if name in GROUPS:
            members.append(_group(inner, name, where, context))
        elif name in RULES:
            members.append(_member(inner, name, where, place, context))
    return Group(join, tuple(member for member in members if member))


def _member(node: Node, name: str, where: str, place: Place, context: _Context) -> Rule | None:
    """A rule of a group, where `{collapse: }` means its defaults and `off` would mean nothing."""
    if isinstance(node, Leaf) and node.value is None and not node.quoted:
        node = Table(place, {})
    return _rule(node, name, where, context)


def plain_stop_rules(rules: StopRules) -> dict[str, object]:
    """`rules` as plain values that `read_stop_rules` reads back to equal ones."""
    plain: dict[str, object] = {"prune": dict(rules.prune) if rules.prune else "off"}
    plain |= {name: "off" for name in ON_BY_DEFAULT}
    for member in rules.rules:
        plain |= _plain(member)
    return plain


def _plain(member: Rule | Group) -> Mapping[str, object]:
    if isinstance(member, Group):
        return {member.join: [_plain(inner) for inner in member.members]}
    settings = {key: value for key, value in member.settings.items() if key not in ("maximise", "metrics")}
    if "metrics" in member.settings:
        settings["metric"] = list(member.settings["metrics"])
    return {member.name: {key: list(v) if isinstance(v, tuple) else v for key, v in settings.items()}}
