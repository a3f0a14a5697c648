"""The `experiment:` section of a space file -> Experiment.

experiment:
  compare: [latent, globals.weight]       # the axes of the table; `preset` is one, too
  metrics: [rec_tokens, total_loss]
  checks:                                 # asked of every cell, answered yes or no
    - {says: types are learnt, value: selection_accuracy, at_least: 0.5}
  expect:                                 # what the experiment is expected to show
    - {says: rec_globals falls from weight 0 to 1, value: rec_globals, falls: {globals.weight: [0.0, 1.0]}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from search.experiment_cells import FIGURES, PRESET, Claim, Experiment
from search.parameters import Parameter, Preset
from search.value_lines import check_keys, listed, read_number, read_value, read_word, read_words
from search.yaml_lines import Complaints, Items, Leaf, Node, Table, sayable
from trainables.family import Choice, Family, Number

__all__ = ["plain_experiment", "read_experiment"]

KEYS = ("compare", "metrics", "checks", "expect")
BOUNDS, ORDERS = ("between", "at_least", "at_most"), ("rises", "falls")
BOUND = Number(0.0, -1e300, 1e300, "a bound")
MARGIN = Number(0.0, 0.0, 1e300, "least difference")
MOST_VALUES = 100  # of an axis: a table with more is none that one reads
MOST_SIGNS = 200  # of a sentence


def read_experiment(
    root: Table,
    family: Family,
    parameters: Mapping[str, Parameter],
    presets: Sequence[Preset],
    complaints: Complaints,
) -> Experiment | None:
    """What `experiment:` declares; None when there is none, when it is `off`, and after a complaint."""
    node = root.entries.get("experiment")
    if node is None or (isinstance(node, Leaf) and node.value in (False, None, "off")):
        return None
    if not isinstance(node, Table):
        complaints.add(
            node.place, f"experiment is {sayable(node)}, but must be a mapping with {listed(KEYS)}, or 'off'."
        )
        return None
    check_keys(node, KEYS, "experiment", complaints)
    axes = _axes(node, parameters, presets, complaints)
    if axes is None:
        return None
    reader = _Reader(family, axes, complaints)
    metrics = ("selection_accuracy",)
    if "metrics" in node.entries:
        found = read_words(node.entries["metrics"], tuple(family.metrics), "experiment.metrics", complaints)
        metrics = found or metrics
    checks = reader.claims(node.entries.get("checks"), "experiment.checks", BOUNDS)
    expect = reader.claims(node.entries.get("expect"), "experiment.expect", (*BOUNDS, *ORDERS))
    return Experiment(tuple(axes), metrics, checks, expect)


def plain_experiment(experiment: Experiment) -> dict[str, object]:
    """Plain values that `read_experiment` reads back to an equal experiment."""
    plain: dict[str, object] = {"compare": list(experiment.compare), "metrics": list(experiment.metrics)}
    for key, claims in (("checks", experiment.checks), ("expect", experiment.expect)):
        if claims:
            plain[key] = [_plain(claim) for claim in claims]
    return plain


def _plain(claim: Claim) -> dict[str, object]:
    plain: dict[str, object] = {"says": claim.says, claim.figure: claim.column}
    if claim.order is not None:
        plain[claim.order] = {claim.axis: list(claim.along)}
        if claim.by:
            plain["by"] = claim.by
    elif claim.low is not None and claim.high is not None:
        plain["between"] = [claim.low, claim.high]
    elif claim.low is not None:
        plain["at_least"] = claim.low
    else:
        plain["at_most"] = claim.high
    return {**plain, "where": {k: list(v) for k, v in claim.where.items()}} if claim.where else plain


def _axes(
    node: Table, parameters: Mapping[str, Parameter], presets: Sequence[Preset], complaints: Complaints
) -> dict[str, Choice | Parameter] | None:
    """The axes by name: a Choice of preset names, or the parameter."""
    what = "experiment.compare"
    if "compare" not in node.entries:
        complaints.add(
            node.place, f"{what} is missing: the parameters whose values are compared, or {PRESET}."
        )
        return None
    wanted = node.entries["compare"]
    finite = {name: p for name, p in parameters.items() if p.num_values <= MOST_VALUES}
    for item in wanted.items if isinstance(wanted, Items) else (wanted,):
        name = item.value if isinstance(item, Leaf) else None
        if name in parameters and name not in finite:
            complaints.add(
                item.place, f"{what} names {name}, which has a range; an axis needs a choice of values."
            )
            return None
    names = tuple(preset.name for preset in presets)
    allowed = [*([PRESET] if names else []), *(n for n, p in finite.items() if p.searched)]
    allowed += [n for n, p in finite.items() if not p.searched]  # `--set` may have fixed an axis
    words = read_words(wanted, allowed, what, complaints)
    if words is None:
        return None
    return {
        word: Choice(names[0], names, "a preset") if word == PRESET else parameters[word] for word in words
    }


class _Reader:
    """Reads claims about the cells that `axes` span."""

    def __init__(
        self, family: Family, axes: Mapping[str, Choice | Parameter], complaints: Complaints
    ) -> None:
        self.family, self.axes, self.complaints = family, axes, complaints
        self.settings = {**family.statics, **family.knobs}
        measured = (*family.metrics, *family.terms, "loss")
        self.columns = (
            *measured,
            *(f"{split}.{name}" for split in ("val", "train") for name in measured),
        )

    def claims(self, node: Node | None, what: str, forms: tuple[str, ...]) -> tuple[Claim, ...]:
        if node is None:
            return ()
        if not isinstance(node, Items):
            self.complaints.add(node.place, f"{what} is {sayable(node)}, but must be a list.")
            return ()
        found = [self._claim(item, f"{what}[{index}]", forms) for index, item in enumerate(node.items)]
        return tuple(claim for claim in found if claim is not None)

    def _claim(self, node: Node, what: str, forms: tuple[str, ...]) -> Claim | None:
        if not isinstance(node, Table):
            form = "{says: ..., value: pixel_accuracy, at_least: 0.7}"
            self.complaints.add(node.place, f"{what} is {sayable(node)}, but must be a mapping: {form}.")
            return None
        check_keys(node, ("says", *FIGURES, *forms, "by", "where"), what, self.complaints)
        figure, form = self._one_of(node, FIGURES, what), self._one_of(node, forms, what)
        says = self._sentence(node, what)
        where = self._where(node, what)
        if figure is None or form is None or says is None or where is None:
            return None
        column = read_word(node.entries[figure], self.columns, f"{what}.{figure}", self.complaints)
        if column is None:
            return None
        claim = Claim(says, figure, str(column), where=where)
        return (
            self._ordered(node, claim, form, what)
            if form in ORDERS
            else self._bounded(node, claim, form, what)
        )

    def _one_of(self, node: Table, keys: tuple[str, ...], what: str) -> str | None:
        given = [key for key in keys if key in node.entries]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            self.complaints.add(node.place, f"{what} needs one of {listed(keys)}; found {found}.")
            return None
        return given[0]

    def _sentence(self, node: Table, what: str) -> str | None:
        said = node.entries.get("says")
        if isinstance(said, Leaf) and isinstance(said.value, str) and 0 < len(said.text) <= MOST_SIGNS:
            return said.text
        found = "is missing" if said is None else f"is {sayable(said)}"
        needed = f"a sentence of at most {MOST_SIGNS} characters"
        self.complaints.add(node.place if said is None else said.place, f"{what}.says {found}: {needed}.")
        return None

    def _bounded(self, node: Table, claim: Claim, form: str, what: str) -> Claim | None:
        place, bound = f"{what}.{form}", node.entries[form]
        if "by" in node.entries:
            self.complaints.add(
                node.keys["by"], f"{what}.by has a meaning only with {' or '.join(ORDERS)}. Remove it."
            )
        if form != "between":
            value = read_number(bound, BOUND, place, self.complaints)
            low, high = (value, None) if form == "at_least" else (None, value)
            return None if value is None else claim.bounded(low, high)
        if not isinstance(bound, Items) or len(bound.items) != 2:
            self.complaints.add(bound.place, f"{place} is {sayable(bound)}, but must be [low, high].")
            return None
        low, high = (read_number(item, BOUND, place, self.complaints) for item in bound.items)
        if low is None or high is None:
            return None
        if low > high:
            self.complaints.add(
                bound.place, f"{place} is upside down: {low:g} is above {high:g}. Write [{high:g}, {low:g}]."
            )
            return None
        return claim.bounded(low, high)

    def _ordered(self, node: Table, claim: Claim, form: str, what: str) -> Claim | None:
        place, order = f"{what}.{form}", node.entries[form]
        shape = "{axis: [first, second, ...]}"
        if not isinstance(order, Table) or len(order.entries) != 1:
            self.complaints.add(order.place, f"{place} is {sayable(order)}, but must be {shape}.")
            return None
        axis, values = next(iter(order.entries.items()))
        along = self._values(axis, values, order, place)
        if along is None:
            return None
        if len(along) < 2:
            self.complaints.add(values.place, f"{place}.{axis} needs at least two values to compare.")
            return None
        by = 0.0
        if "by" in node.entries:
            by = read_number(node.entries["by"], MARGIN, f"{what}.by", self.complaints)
        return None if by is None else claim.ordered(form, axis, along, by)

    def _where(self, node: Table, what: str) -> dict[str, tuple] | None:
        where = node.entries.get("where")
        if where is None:
            return {}
        if not isinstance(where, Table):
            self.complaints.add(
                where.place, f"{what}.where is {sayable(where)}, but must be {{axis: value}}."
            )
            return None
        found = {
            axis: self._values(axis, values, where, f"{what}.where") for axis, values in where.entries.items()
        }
        return None if None in found.values() else found

    def _values(self, axis: str, node: Node, table: Table, what: str) -> tuple | None:
        """Values of an axis, each once, that can occur there; None after a complaint."""
        if axis not in self.axes:
            self.complaints.add(
                table.keys[axis], f"{what} names {axis}, but compare has {listed(self.axes)}."
            )
            return None
        domain = self.axes[axis]
        items = node.items if isinstance(node, Items) else (node,)
        if isinstance(domain, Choice):
            return read_words(node, domain.options, f"{what}.{axis}", self.complaints)
        values = [read_value(item, self.settings[axis], f"{what}.{axis}", self.complaints) for item in items]
        if not values or None in values:
            return None
        for item, value in zip(items, values, strict=True):
            # A fixed one was narrowed by `--set`: its other values are missing, which the table says.
            if domain.searched and not domain.holds(value):
                found = f"{what}.{axis} is {value}, but in this space {axis} is {domain.allowed}"
                self.complaints.add(
                    item.place, f"{found}. Change it, or do without the tables: experiment: off."
                )
                return None
        if len(set(values)) < len(values):
            self.complaints.add(node.place, f"{what}.{axis} names a value twice. Remove one.")
            return None
        return tuple(values)
