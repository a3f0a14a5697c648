"""YAML text -> nodes that know their line, so that every complaint about a space file can name its place.

Read with PyYAML's safe node composer and converted here, for YAML 1.1 has readings that nobody means: `off`
is false, `010` is eight, `1:30` is ninety, `1e-4` is text, and the last of two equal keys wins silently.
Aliases, tags, deep nesting and oversized files are refused while they are read, before they can cost memory.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from search.errors import BadSpace

__all__ = [
    "Complaints",
    "Items",
    "Leaf",
    "Node",
    "Place",
    "Table",
    "parse",
    "read_text",
    "replace",
    "sayable",
]

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
MAX_NODES = 20_000  # a node costs about 2 KB while it is composed
MAX_DIGITS = 40  # longer numbers are a mistake, and int() of a very long one is slow
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
KINDS = {yaml.MappingNode: "a mapping", yaml.SequenceNode: "a list"}


@dataclass(frozen=True)
class Place:
    """Where something was said: `line` (from 1) of the file `source`, or an option (line None)."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True)
class Leaf:
    """A scalar: `text` as it was written, `value` as YAML 1.1 reads it.

    `quoted` ones are always text; a `faulty` one has been complained about already and has no value.
    """

    place: Place
    value: str | int | float | bool | None
    text: str
    quoted: bool = False
    faulty: bool = False


@dataclass(frozen=True)
class Items:
    """A list."""

    place: Place
    items: tuple[Node, ...]


@dataclass(frozen=True)
class Table:
    """A mapping; `keys` holds the place of each key."""

    place: Place
    entries: Mapping[str, Node]
    keys: Mapping[str, Place] = field(default_factory=dict)


Node = Leaf | Items | Table


class Complaints:
    """Everything that is wrong with one file, so that its author is told at once."""

    def __init__(self) -> None:
        self._found: list[tuple[bool, int, str]] = []

    def add(self, place: Place, message: str) -> None:
        entry = (place.line is None, place.line or 0, f"{place}: {message}")
        if entry not in self._found:
            self._found.append(entry)

    def __bool__(self) -> bool:
        return bool(self._found)

    def settle(self) -> None:
        """Raise BadSpace with all complaints, one a line, sorted by line; the command line's come last."""
        if self._found:
            raise BadSpace(
                "\n".join(message for _, _, message in sorted(self._found, key=lambda entry: entry[:2]))
            )


def sayable(node: Node) -> str:
    """What was found, short enough for a message."""
    if isinstance(node, Table):
        return "a mapping"
    if isinstance(node, Items):
        return "a list"
    if node.value is None and not node.quoted:
        return "nothing"
    text = node.text if len(node.text) <= 60 else node.text[:57] + "..."
    return f"'{text}'" if isinstance(node.value, str) else text


def read_text(path: Path, shown: str) -> str:
    """The text of the file `path`, called `shown` in messages.

    Raises BadSpace when it is missing, no plain file, larger than 1 MiB, not UTF-8 or holds control
    characters.
    """
    if not os.path.exists(path):  # unlike Path.exists, False too for a name that is too long
        raise BadSpace(
            f"{shown}: no such file. `loss-search spaces` lists the spaces that come with the package."
        )
    if not os.path.isfile(path):
        raise BadSpace(f"{shown}: found a directory or device, but a space is a plain YAML file.")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadSpace(f"{shown}: cannot be read: {error.strerror}.") from error
    if len(raw) > MAX_BYTES:
        raise BadSpace(
            f"{shown}: larger than 1 MiB ({path.stat().st_size:,} bytes), which no space file needs."
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{raw[error.start]:02x} is not UTF-8"
        raise BadSpace(f"{shown}:{line}: {found}; save the file as UTF-8 text.") from error
    # Read as an editor shows it: one line end, so that the lines in messages agree.
    return io.StringIO(text, newline=None).read()


def parse(text: str, source: str, complaints: Complaints, *, only: Place | None = None) -> Node | None:
    """The located node of `text`, None when it is empty; every place is `only` when that is given.

    Raises BadSpace for what cannot be read at all; what can be read but is not meant goes to `complaints`.
    """

    def at(mark: yaml.Mark | None) -> Place:
        return only or Place(source, mark.line + 1 if mark else 1)

    control = CONTROL.search(text)
    if control:
        place = only or Place(source, text.count("\n", 0, control.start()) + 1)
        raise BadSpace(
            f"{place}: control character U+{ord(control[0]):04X}; only printable text is allowed. Delete it."
        )
    try:
        loader = _Loader(text)
        tree = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        place = at(error.problem_mark or error.context_mark)
        if error.problem == "but found another document":
            raise BadSpace(
                f"{place}: a second document begins; a space file holds one. Remove the '---'."
            ) from error
        if isinstance(error, _Refused):
            raise BadSpace(f"{place}: {error.problem}") from error
        begun = error.context_mark.line + 1 if error.context_mark and not only else place.line
        since = f", {error.context} that begins on line {begun}" if begun != place.line else ""
        raise BadSpace(f"{place}: not YAML: {error.problem or error.context}{since}.") from error
    return None if tree is None else _located(tree, at, complaints)


class _Refused(yaml.MarkedYAMLError):
    """What is legal YAML and has no place in a space file."""


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
        event = self.peek_event()
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            sign = "*" if isinstance(event, yaml.AliasEvent) else "&"
            raise _Refused(
                problem=f"{sign}{event.anchor} is a YAML anchor or alias, which a space file may not use. "
                "Write the value out, or quote it.",
                problem_mark=mark,
            )
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise _Refused(
                problem=f"the YAML tag {tag} is not allowed: a space holds plain values. Remove it.",
                problem_mark=mark,
            )
        self._depth, self._nodes = self._depth + 1, self._nodes + 1
        if self._depth > MAX_DEPTH:
            raise _Refused(
                problem=f"nested deeper than {MAX_DEPTH} levels; a space needs 5.", problem_mark=mark
            )
        if self._nodes > MAX_NODES:
            raise _Refused(
                problem=f"more than {MAX_NODES:,} values, which no space needs.", problem_mark=mark
            )
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _located(tree: yaml.Node, at: object, complaints: Complaints) -> Node:
    place = at(tree.start_mark)
    if isinstance(tree, yaml.ScalarNode):
        return _leaf(tree, place, complaints)
    if isinstance(tree, yaml.SequenceNode):
        return Items(place, tuple(_located(item, at, complaints) for item in tree.value))
    entries: dict[str, Node] = {}
    keys: dict[str, Place] = {}
    for key, value in tree.value:
        key_place = at(key.start_mark)
        if not isinstance(key, yaml.ScalarNode):
            complaints.add(key_place, f"found {KINDS[type(key)]} as a key, but a key is one word.")
        elif key.value in entries:
            first = keys[key.value]
            where = f"on line {first.line}" if first.line else "before"
            complaints.add(key_place, f"'{key.value}' is given twice, first {where}. Remove one of them.")
        else:
            entries[key.value], keys[key.value] = _located(value, at, complaints), key_place
    return Table(place, entries, keys)


def _leaf(node: yaml.ScalarNode, place: Place, complaints: Complaints) -> Leaf:
    text, quoted = node.value, node.style is not None
    kind = "str" if quoted else node.tag.rpartition(":")[2]
    if kind == "null":
        return Leaf(place, None, text)
    if kind == "bool":
        return Leaf(place, text.lower() in ("true", "yes", "on"), text)
    if kind in ("int", "float"):
        number = _number(text, kind, place, complaints)
        return Leaf(place, number, text, faulty=number is None)
    return Leaf(place, text, text, quoted)


def _number(text: str, kind: str, place: Place, complaints: Complaints) -> int | float | None:
    """What a plain scalar that YAML takes for a number stands for; None after a complaint."""
    if len(text) > MAX_DIGITS:
        found = f"the number {text[:MAX_DIGITS]}... has {len(text)} characters"
        complaints.add(place, f"{found}; at most {MAX_DIGITS} are read.")
    elif ":" in text:
        complaints.add(
            place, f"YAML reads {text} as a number to base 60. Write a plain number, or quote it: '{text}'."
        )
    elif kind == "int" and not DECIMAL.fullmatch(text):
        complaints.add(
            place, f"YAML reads {text} as octal, binary or hexadecimal. Write a plain decimal number."
        )
    elif kind == "int":
        return int(text.replace("_", ""))
    elif text.lower().lstrip("+-") in (".inf", ".nan") or not math.isfinite(float(text.replace("_", ""))):
        complaints.add(place, f"{text} is not a finite number, but every number of a space is finite.")
    else:
        return float(text.replace("_", ""))
    return None


def replace(table: Table, path: list[str], node: Node) -> Table:
    """`table` with `node` at the keys `path`; tables on the way are made where there are none."""
    key, rest = path[0], path[1:]
    if rest:
        inner = table.entries.get(key)
        node = replace(inner if isinstance(inner, Table) else Table(node.place, {}), rest, node)
    keys = {**table.keys, key: table.keys[key] if rest and key in table.keys else node.place}
    return Table(table.place, {**table.entries, key: node}, keys)
