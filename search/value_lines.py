"""Located nodes -> values that a setting allows, or a complaint that says what it allows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from search.errors import nearest
from search.parameters import same
from search.yaml_lines import Complaints, Items, Leaf, Node, Table, sayable

if TYPE_CHECKING:
    from trainables.family import Choice, Number, Setting

__all__ = [
    "check_keys",
    "listed",
    "read_number",
    "read_settings",
    "read_truth",
    "read_value",
    "read_word",
    "read_words",
    "section",
]

POINTLESS = re.compile(
    r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+"
)  # a number to people, text to YAML 1.1


def listed(words: Iterable[object]) -> str:
    return ", ".join(map(str, words))


def section(root: Table, key: str, complaints: Complaints, *, inside: str = "") -> Table | None:
    """The mapping at `key` of `root`, None when it is absent or, after a complaint, something else."""
    node = root.entries.get(key)
    if node is None or isinstance(node, Table):
        return node
    complaints.add(node.place, f"{inside}{key} is {sayable(node)}, but must be a mapping of settings.")
    return None


def check_keys(table: Table, allowed: Iterable[str], where: str, complaints: Complaints) -> None:
    """Complain about every key of `table` that `where` does not have."""
    allowed = tuple(allowed)
    for key in table.entries:
        if key not in allowed:
            found = f"unknown key '{key}'" if len(key) <= 80 else f"unknown key '{key[:77]}...'"
            complaints.add(
                table.keys[key], f"{found} in {where}; allowed: {listed(allowed)}.{nearest(key, allowed)}"
            )


def read_number(node: Node, number: Number, what: str, complaints: Complaints) -> int | float | None:
    """The number of `node` within `number`'s range; None after a complaint."""
    kind = "a whole number" if number.integer else "a number"
    allowed = f"{kind} from {_shown(number.low, number)} to {_shown(number.high, number)}"
    if isinstance(node, Leaf) and node.faulty:
        return None
    value = node.value if isinstance(node, Leaf) else None
    if isinstance(value, str) and not node.quoted and POINTLESS.fullmatch(value) and len(value) < 40:
        complaints.add(
            node.place, f"{what} is {value}, which YAML reads as text. Write {_with_point(value)}."
        )
        return None
    if isinstance(value, (bool, str)) or value is None or (number.integer and value != int(value)):
        complaints.add(node.place, f"{what} is {sayable(node)}, but must be {allowed}.")
        return None
    if not number.low <= value <= number.high:
        complaints.add(node.place, f"{what} is {node.text}, outside its range: {allowed}.")
        return None
    return int(value) if number.integer else float(value)


def read_word(node: Node, options: Iterable[object], what: str, complaints: Complaints) -> str | int | None:
    """One of `options`; None after a complaint, which for a bare `off` or `no` says that YAML reads false."""
    options = tuple(options)
    if isinstance(node, Leaf):
        if node.faulty:
            return None
        for option in options:
            if same(node.value, option):
                return option
        if isinstance(node.value, bool):
            read = f"{what} is {node.text}, which YAML reads as {str(node.value).lower()}"
            repair = f" Quote it: '{node.text}'." if node.text in options else _guess(node, options)
            complaints.add(node.place, f"{read}, but that is one of {listed(options)}.{repair}")
            return None
    complaints.add(
        node.place, f"{what} is {sayable(node)}, but that is one of {listed(options)}.{_guess(node, options)}"
    )
    return None


def read_truth(node: Node, what: str, complaints: Complaints) -> bool | None:
    if isinstance(node, Leaf) and isinstance(node.value, bool):
        return node.value
    complaints.add(node.place, f"{what} is {sayable(node)}, but must be true or false.")
    return None


def read_value(node: Node, setting: Setting, what: str, complaints: Complaints) -> object:
    """One value that `setting` allows; None after a complaint."""
    if hasattr(setting, "options"):
        choice: Choice = setting
        return read_word(node, choice.options, what, complaints)
    return read_number(node, setting, what, complaints)


def read_settings(
    table: Table, settings: Mapping[str, Setting], where: str, complaints: Complaints
) -> dict[str, object]:
    """The values of `table` for `settings`; defaults for what it does not say or says wrongly."""
    values = {}
    for name, setting in settings.items():
        node = table.entries.get(name)
        value = None if node is None else read_value(node, setting, f"{where}.{name}", complaints)
        default = setting.default
        if getattr(setting, "integer", False):
            default = int(default)
        values[name] = default if value is None else value
    return values


def read_words(node: Node, options: Iterable[object], what: str, complaints: Complaints) -> tuple | None:
    """One of `options` or a list of some of them, each once; None after a complaint."""
    items = node.items if isinstance(node, Items) else (node,)
    words = [read_word(item, options, what, complaints) for item in items]
    if not items:
        complaints.add(node.place, f"{what} is an empty list; allowed: one or more of {listed(options)}.")
    for number, word in enumerate(words):
        if word is not None and word in words[:number]:
            complaints.add(items[number].place, f"{what} names '{word}' twice. Remove one.")
    return None if not words or None in words or len(set(words)) < len(words) else tuple(words)


def _guess(node: Node, options: tuple[object, ...]) -> str:
    """The likely repair; `off`, `no` and an empty value are how people write 'none'."""
    if not isinstance(node, Leaf):
        return ""
    absent = not node.quoted and (node.value is None or node.value is False)
    return nearest("none" if absent and "none" in options else node.text, options)


def _shown(bound: float, number: Number) -> str:
    return f"{int(bound):,}" if number.integer else f"{bound:g}"


def _with_point(text: str) -> str:
    """A number in the form that YAML 1.1 reads as one: with a point, and a sign before the exponent."""
    mantissa, exponent = re.split("[eE]", text)
    mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
    mantissa = mantissa.replace(".", "0.", 1) if mantissa.lstrip("+-").startswith(".") else mantissa
    return f"{mantissa}e{exponent if exponent[0] in '+-' else '+' + exponent}"
