"""What may vary in a search: parameters, their conditions, and the cells of a grid. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

__all__ = [
    "MAX_CELLS",
    "Budget",
    "Parameter",
    "Preset",
    "cells",
    "in_dependency_order",
    "in_force",
    "num_cells",
]

MAX_CELLS = 100_000


@dataclass(frozen=True)
class Parameter:
    """One static setting or knob of a space.

    Attributes:
        kind: "fixed" (`value`), "choice" (`choices`), "float" or "int" (`low` to `high`, both included; `log`
            draws the logarithm uniformly).
        when: the parameter is in force only while each named parameter is in force and has one of these
        values. line: where the space file speaks of it; 0 when it does not, or the command line does.
    """

    name: str
    kind: str
    value: object = None
    choices: tuple = ()
    low: float | None = None
    high: float | None = None
    log: bool = False
    when: Mapping[str, tuple] = field(default_factory=dict)
    line: int = field(default=0, compare=False)

    @property
    def searched(self) -> bool:
        return self.kind != "fixed"

    def holds(self, value: object) -> bool:
        """Whether the parameter can take `value`."""
        if self.kind == "fixed":
            return same(value, self.value)
        if self.kind == "choice":
            return any(same(value, choice) for choice in self.choices)
        if isinstance(value, (bool, str)) or value is None:
            return False
        return self.low <= value <= self.high and (self.kind == "float" or value == int(value))

    @property
    def allowed(self) -> str:
        """The allowed values, for a message."""
        if self.kind == "fixed":
            return f"always {self.value}"
        if self.kind == "choice":
            return f"one of {', '.join(map(str, self.choices))}"
        return f"{self.low:g} to {self.high:g}"

    @property
    def num_values(self) -> float:
        """How many values it can take; infinite for a float range."""
        sizes = {"fixed": 1, "choice": len(self.choices), "float": math.inf}
        return sizes[self.kind] if self.kind in sizes else int(self.high) - int(self.low) + 1

    def values(self) -> Iterator[object]:
        """Its values in order. Raises ValueError for a float range, which has no end of them."""
        if self.kind == "float":
            raise ValueError(
                f"{self.name} has a float range, {self.low:g} to {self.high:g}: no list of values"
            )
        if self.kind == "int":
            return iter(range(int(self.low), int(self.high) + 1))
        return iter((self.value,) if self.kind == "fixed" else self.choices)


@dataclass(frozen=True)
class Preset:
    """A configuration that is tried first: values of some parameters, defaults for the others."""

    name: str
    values: Mapping[str, object]
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Budget:
    """`trials` in all, each of `epochs` at most; `minutes` of wall time in all (None: no limit)."""

    trials: int
    epochs: int
    minutes: float | None = None


def same(one: object, other: object) -> bool:
    """Equality that keeps words, truth values and numbers apart: 1 == 1.0, but not True == 1."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def in_dependency_order(parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """`parameters` with every condition's target before what depends on it, otherwise in the given order.

    Targets outside `parameters` are passed over. Raises ValueError naming the circle when conditions form
    one.
    """
    ordered: dict[str, Parameter] = {}
    open_names: list[str] = []

    def visit(name: str) -> None:
        if name in ordered:
            return
        if name in open_names:
            raise ValueError(" -> ".join([*open_names[open_names.index(name) :], name]))
        open_names.append(name)
        for target in parameters[name].when:
            if target in parameters:
                visit(target)
        open_names.pop()
        ordered[name] = parameters[name]

    for name in parameters:
        visit(name)
    return ordered


def in_force(parameters: Mapping[str, Parameter], name: str, values: Mapping[str, object]) -> bool:
    """Whether the conditions of `name` hold, those of their targets included, under `values`.

    `values` gives the searched parameters that are in force; KeyError when one that decides is missing.
    """
    for target, allowed in parameters[name].when.items():
        parameter = parameters[target]
        if not in_force(parameters, target, values):
            return False
        value = values[target] if parameter.searched else parameter.value
        if not any(same(value, item) for item in allowed):
            return False
    return True


def cells(parameters: Mapping[str, Parameter], only: set[str] | None = None) -> Iterator[dict[str, object]]:
    """Every distinct assignment of the searched parameters in force, once; the last one varies fastest.

    `parameters` in dependency order; `only` limits the walk to some names, which must include their targets.
    """
    names = [
        name for name, parameter in parameters.items() if parameter.searched and (not only or name in only)
    ]

    def walk(depth: int, values: dict[str, object]) -> Iterator[dict[str, object]]:
        if depth == len(names):
            yield dict(values)
        elif not in_force(parameters, names[depth], values):
            yield from walk(depth + 1, values)
        else:
            for value in parameters[names[depth]].values():
                yield from walk(depth + 1, {**values, names[depth]: value})

    return walk(0, {})


def num_cells(parameters: Mapping[str, Parameter]) -> float:
    """The number of `cells`, infinite with a float range.

    Exact while the parameters that decide over others have at most MAX_CELLS assignments among themselves;
    with more, some number above MAX_CELLS that is not larger than the true one.
    """
    searched = {name: parameter for name, parameter in parameters.items() if parameter.searched}
    deciding = {target for parameter in searched.values() for target in parameter.when if target in searched}
    if any(parameter.kind == "float" for parameter in searched.values()):
        return math.inf
    if not deciding:
        return math.prod(parameter.num_values for parameter in searched.values())
    total = 0
    for count, cell in enumerate(cells(parameters, deciding)):
        if count >= MAX_CELLS:
            break
        rest = [
            p for name, p in searched.items() if name not in deciding and in_force(parameters, name, cell)
        ]
        total += math.prod(parameter.num_values for parameter in rest)
    return max(total, count + 1)
