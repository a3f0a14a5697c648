"""A space: what may vary in a search, under which budget, judged how. Read from YAML.

    text ──► yaml_lines: located nodes ──► space_lines: sections, checked against the family ──► Space

Every complaint carries file:line. What is damaged or hostile is refused before torch is imported.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search import parameters
from search.errors import BadSpace, nearest
from search.experiment_cells import Experiment
from search.parameters import Budget, Parameter, Preset
from search.stopping import StopRules
from search.traps import traps
from search.value_lines import check_keys
from search.yaml_lines import Complaints, Leaf, Node, Place, Table, parse, read_text, replace, sayable
from trainables import FAMILIES

if TYPE_CHECKING:
    from trainables.family import Family

__all__ = [
    "Budget",
    "Parameter",
    "Preset",
    "Space",
    "fingerprint_of",
    "load_space",
    "shipped_spaces",
    "traps",
]

SECTIONS = (
    "name", "family", "data", "budget", "objective", "static", "knobs", "start_from", "search", "stop",
    "confirm", "experiment",
)  # fmt: skip
FAMILY_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
# How many keys a `--set` of each section reaches down; the names of knobs hold dots of their own.
DEPTH = {"stop": 3, "budget": 2, "search": 2, "confirm": 2, "data": 2, "static": 2, "knobs": 2}


@dataclass(frozen=True)
class Space:
    """One space file, complete: every static and knob of the family is there, what the file omits fixed.

    Attributes:
        path, text: the file as messages call it, and what it said (without what the command line changed).
        data: `source`, `path` (absolute, or None) and every data setting of the family.
        directions: "maximize" or "minimize" for each of `objectives`.
        static, knobs: in dependency order: a condition's target comes before what depends on it.
        confirm: {"top", "seeds"} and perhaps "max_seeds", or empty when the file does not ask for it.
        experiment: the tables that the file declares, or None; they decide nothing about the search.

    Two spaces are equal when they ask for the same search, wherever they were read from.
    """

    path: str = field(compare=False)
    text: str = field(compare=False, repr=False)
    name: str
    family_name: str
    data: Mapping[str, object]
    budget: Budget
    objectives: tuple[str, ...]
    directions: tuple[str, ...]
    static: Mapping[str, Parameter]
    knobs: Mapping[str, Parameter]
    presets: tuple[Preset, ...]
    sampler: str
    seed: int
    stop: StopRules
    confirm: Mapping[str, int]
    experiment: Experiment | None = field(default=None, compare=False)

    @property
    def family(self) -> Family:
        from trainables import family_named

        return family_named(self.family_name)

    @property
    def parameters(self) -> dict[str, Parameter]:
        """Every static, then every knob."""
        return {**self.static, **self.knobs}

    def searched(self) -> dict[str, Parameter]:
        """Statics, then knobs, that are not fixed, in dependency order."""
        return {name: parameter for name, parameter in self.parameters.items() if parameter.searched}

    def in_force(self, name: str, values: Mapping[str, object]) -> bool:
        """Whether `name`'s conditions hold under `values` of the searched parameters, recursively."""
        return parameters.in_force(self.parameters, name, values)

    def complete(self, values: Mapping[str, object]) -> dict[str, object]:
        """Every static and knob: the given value, else the fixed one, else the family's default.

        Raises KeyError for a name that the family does not have.
        """
        settings = self._settings()
        for name in values:
            if name not in settings:
                raise KeyError(name)
        whole = {name: parameter.value for name, parameter in self.parameters.items()}
        for name, parameter in self.searched().items():
            integer = parameter.kind == "int" or getattr(settings[name], "integer", False)
            whole[name] = int(settings[name].default) if integer else settings[name].default
        return {**whole, **values}

    def preset_values(self, preset: Preset) -> dict[str, object]:
        """The searched parameters that are in force under `preset`: its value, else the family's default."""
        defaults = self.complete({})
        chosen: dict[str, object] = {}
        for name in self.searched():
            if self.in_force(name, chosen):
                chosen[name] = preset.values.get(name, defaults[name])
        return chosen

    def cells(self) -> Iterator[dict[str, object]]:
        """Every distinct assignment of the searched parameters in force, once, always in the same order.

        Raises ValueError on a float range.
        """
        return parameters.cells(self.parameters)

    def num_cells(self) -> float:
        """How many `cells` there are; infinite with a float range. See `search.parameters.num_cells`."""
        return parameters.num_cells(self.parameters)

    def resolved(self) -> dict[str, object]:
        """Plain values, which `yaml.safe_dump` writes and `load_space` reads back to an equal Space."""
        from search.experiment_lines import plain_experiment
        from search.stop_lines import plain_stop_rules

        budget = {"trials": self.budget.trials, "epochs": self.budget.epochs}
        if self.budget.minutes is not None:
            budget["minutes"] = self.budget.minutes
        plain: dict[str, object] = {
            "name": self.name,
            "family": self.family_name,
            "data": {key: value for key, value in self.data.items() if value is not None},
            "budget": budget,
            "objective": list(self.objectives) if len(self.objectives) > 1 else self.objectives[0],
            "static": {name: _plain(parameter) for name, parameter in self.static.items()},
            "knobs": {name: _plain(parameter) for name, parameter in self.knobs.items()},
            "start_from": [{"name": preset.name, **preset.values} for preset in self.presets],
            "search": {"sampler": self.sampler, "seed": self.seed},
            "stop": plain_stop_rules(self.stop),
        }
        if self.confirm:
            plain["confirm"] = dict(self.confirm)
        if self.experiment is not None:
            plain["experiment"] = plain_experiment(self.experiment)
        return plain

    def fingerprint(self) -> str:
        """SHA-256 of all that decides results: not `budget.trials`, `budget.minutes` and `experiment`.

        `budget.epochs` counts, for schedules are fractions of it: half of 20 epochs is no trial of 10.
        """
        return fingerprint_of(self.resolved())

    def _settings(self) -> dict[str, object]:
        family = self.family
        return {**family.statics, **family.knobs}


def load_space(
    path_or_name: str | Path,
    *,
    overrides: Mapping[str, str] | None = None,
    trials: int | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    data_here: bool = True,
) -> Space:
    """Read a shipped space by its name, or a space file by its path.

    Args:
        overrides: what `--set key=value` gave, applied over the file: `budget.epochs`, `static.latent_dim`,
            `knobs.kl.weight`, `objective`, `stop.collapse.patience`, ... Values are YAML.
        trials, epochs, seed: what the options of these names gave; they win over `overrides`.
        data_here: whether a data file that is not there is an error; a finished run is read without it.

    Raises:
        BadSpace: with every complaint, one a line, as `file:line: ...` or `--set key: ...`.
    """
    shown, stem, text = _find(str(path_or_name))
    complaints = Complaints()
    root = parse(text, shown, complaints)
    if isinstance(root, Table):
        for key, value in (overrides or {}).items():
            root = _override(root, key, value, complaints)
        options = {"trials": ("budget", trials), "epochs": ("budget", epochs), "seed": ("search", seed)}
        for option, (section, value) in options.items():
            if value is not None:
                root = replace(root, [section, option], Leaf(Place(f"--{option}"), value, str(value)))
    root, family_name = _well_formed(root, shown, complaints)
    from search.space_lines import read_parts  # needs torch, through the families' declarations

    return Space(
        path=shown, text=text, **read_parts(root, family_name, stem, complaints, data_here=data_here)
    )


def fingerprint_of(resolved: Mapping[str, Any]) -> str:
    """`Space.fingerprint` of the values that `Space.resolved` gave, as a file of any version has them."""
    plain = {key: value for key, value in resolved.items() if key != "experiment"}
    plain["budget"] = plain["budget"]["epochs"]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def shipped_spaces() -> list[tuple[str, str, str]]:
    """(name, family, first comment line) of every space that comes with the package, by name."""
    found = []
    for file in sorted(importlib.resources.files("spaces").iterdir(), key=lambda file: file.name):
        if not file.name.endswith(".yaml"):
            continue
        text = file.read_text(encoding="utf-8")
        comment = next((line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("#")), "")
        root = parse(text, f"spaces/{file.name}", Complaints())
        assert isinstance(root, Table), file.name
        found.append((file.name.removesuffix(".yaml"), root.entries["family"].text, comment))
    return found


def _find(path_or_name: str) -> tuple[str, str, str]:
    """(what messages call it, stem, text) of a shipped space or a file."""
    plain_name = not any(sign in path_or_name for sign in "/\\") and not path_or_name.endswith(
        (".yaml", ".yml")
    )
    if plain_name and not os.path.isfile(path_or_name):
        names = [name for name, _, _ in shipped_spaces()]
        if path_or_name not in names:
            raise BadSpace(
                f"{path_or_name}: neither a file nor a space that comes with the package; those are "
                f"{', '.join(names)}.{nearest(path_or_name, names)}"
            )
        file = importlib.resources.files("spaces") / f"{path_or_name}.yaml"
        return f"spaces/{path_or_name}.yaml", path_or_name, file.read_text(encoding="utf-8")
    path = Path(path_or_name)
    return path_or_name, path.stem, read_text(path, path_or_name)


def _well_formed(root: Node | None, shown: str, complaints: Complaints) -> tuple[Table, str]:
    """The file as a mapping with a family's name: as much as can be known before torch is imported."""
    if root is None:
        raise BadSpace(f"{shown}:1: the file is empty; a space needs at least family, budget and knobs.")
    if not isinstance(root, Table):
        found = f"found {sayable(root)}"
        raise BadSpace(f"{root.place}: {found}, but a space is a mapping with family, budget and knobs.")
    check_keys(root, SECTIONS, "a space", complaints)
    node = root.entries.get("family")
    name = node.value if isinstance(node, Leaf) else None
    known = f"one of {', '.join(FAMILIES)}, or package.module:NAME of your own"
    if node is None:
        complaints.add(root.place, f"family is missing; it is {known}.")
        complaints.settle()
    if not isinstance(name, str) or (name not in FAMILIES and not FAMILY_PATH.fullmatch(name)):
        guess = nearest(name, FAMILIES) if isinstance(name, str) else ""
        complaints.add(node.place, f"family is {sayable(node)}, but that is {known}.{guess}")
        complaints.settle()
    return root, str(name)


def _override(root: Table, key: str, value: str, complaints: Complaints) -> Table:
    """`root` with what `--set key=value` says."""
    place = Place(f"--set {key}")
    section, _, rest = key.partition(".")
    if section not in SECTIONS:
        complaints.add(
            place, f"a space has no '{section}'; it has {', '.join(SECTIONS)}.{nearest(section, SECTIONS)}"
        )
        return root
    path = key.split(".", DEPTH.get(section, 1) - 1)
    if len(path) < 2 and section in DEPTH and section != "stop":
        complaints.add(place, f"names a whole section; name one setting of it, as in {section}.NAME=VALUE.")
        return root
    node: Node | None = parse(value, str(place), complaints, only=place)
    return replace(root, path, node or Leaf(place, None, ""))


def _plain(parameter: Parameter) -> object:
    """A parameter in the form of the file."""
    if parameter.kind == "fixed":
        return parameter.value
    if parameter.kind == "choice":
        form: dict[str, object] = {"choice": list(parameter.choices)}
    else:
        form = {parameter.kind: [parameter.low, parameter.high]} | ({"log": True} if parameter.log else {})
    return form | ({"when": {k: list(v) for k, v in parameter.when.items()}} if parameter.when else {})
