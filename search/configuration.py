"""One configuration as a file: `trials/N/config.yaml`, `report/recommended.yaml`, or one written by hand.

    family: beta_vae
    source: trial 7
    data: {source: arc, min_background: 0.8, ...}
    epochs: 20
    seed: 0
    static: {latent_dim: 16, ...}
    knobs: {kl.weight: 0.02, ...}

Read as strictly as a space file, every complaint with file:line. What `data`, `static` and `knobs` leave out
has the family's default; the file may come from anywhere, and nothing in it is executed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from search.errors import BadInput, BadSpace, nearest
from search.value_lines import check_keys, read_settings, read_value, read_word, section
from search.yaml_lines import Complaints, Leaf, Node, Table, parse, read_text, sayable
from trainables import FAMILIES, family_named

if TYPE_CHECKING:
    from trainables.family import Family

__all__ = ["Configuration", "known_family", "load_configuration", "write_configuration"]

KEYS = ("family", "source", "objective", "data", "epochs", "seed", "static", "knobs")


@dataclass(frozen=True)
class Configuration:
    """Everything that training one model needs. `source` says where it comes from, for people."""

    family_name: str
    source: str
    data: Mapping[str, Any]
    epochs: int
    seed: int
    static: Mapping[str, Any]
    knobs: Mapping[str, Any]
    objective: str = "selection_accuracy"  # the validation metric that picks the best epoch

    @property
    def family(self) -> Family:
        return family_named(self.family_name)

    def plain(self) -> dict[str, Any]:
        """The content of its file."""
        return {
            "family": self.family_name,
            "source": self.source,
            "objective": self.objective,
            "data": dict(self.data),
            "epochs": self.epochs,
            "seed": self.seed,
            "static": dict(self.static),
            "knobs": dict(self.knobs),
        }


def known_family(name: str) -> Family:
    """The family called `name`. Raises BadInput for a word that is none, or a path that leads to none."""
    if ":" not in name and name not in FAMILIES:
        listed = ", ".join(FAMILIES)
        raise BadInput(
            f"{name}: no such family; there are {listed}, or package.module:NAME.{nearest(name, FAMILIES)}"
        )
    try:
        return family_named(name)
    except (ImportError, AttributeError, TypeError, ValueError, SyntaxError) as error:
        raise BadInput(f"{name}: cannot be loaded as a family ({error})") from error


def load_configuration(path: Path, family_name: str | None = None) -> Configuration:
    """Read a configuration of the family `family_name` (None: of whichever the file names).

    A user's own family is imported only when `family_name` gives it: a file alone makes nothing run.

    Raises:
        BadInput: the file is missing, is no such file, or is of another family; BadSpace names the line.
    """
    from search.space_lines import BUDGET, SEARCH  # needs torch, through the families' declarations

    if not os.path.exists(path):
        raise BadInput(
            f"{path}: no such file; a run keeps its configurations in report/recommended.yaml and "
            "trials/NUMBER/config.yaml"
        )
    complaints = Complaints()
    root = parse(read_text(path, str(path)), str(path), complaints)
    if not isinstance(root, Table):
        found = "an empty file" if root is None else sayable(root)
        raise BadSpace(
            f"{path}:1: found {found}, but a configuration is a mapping with family, epochs and knobs."
        )
    check_keys(root, KEYS, "a configuration", complaints)
    name = _family_name(root, family_name, complaints)
    family = known_family(name)
    parts = {
        "source": _text(root.entries.get("source")),
        "objective": _objective(root, family, complaints),
        "data": _data(root, family, complaints),
        "epochs": _whole(root, "epochs", BUDGET["epochs"], complaints),
        "seed": _whole(root, "seed", SEARCH["seed"], complaints),
        "static": _settings(root, "static", family.statics, complaints),
        "knobs": _settings(root, "knobs", family.knobs, complaints),
    }
    if "epochs" not in root.entries:
        complaints.add(root.place, "epochs is missing (the full budget). Write epochs: 20.")
    complaints.settle()
    return Configuration(family_name=name, **parts)


def write_configuration(configuration: Configuration, path: Path, comment: str = "") -> None:
    """Write `path` so that a reader sees the former file or the whole new one. `comment` comes first."""
    lines = "".join(f"# {line}\n" for line in comment.splitlines())
    text = lines + yaml.safe_dump(configuration.plain(), sort_keys=False, allow_unicode=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _family_name(root: Table, wanted: str | None, complaints: Complaints) -> str:
    node = root.entries.get("family")
    name = node.value if isinstance(node, Leaf) else None
    if not isinstance(name, str):
        found = "missing" if node is None else sayable(node)
        complaints.add(
            root.place if node is None else node.place, f"family is {found}, but must be a family's name."
        )
        complaints.settle()
    if wanted is not None and name != wanted:
        complaints.add(
            node.place, f"family is {name}, but the command says {wanted}. Write `loss-search train {name}`."
        )
        complaints.settle()
    if wanted is None and name not in FAMILIES:
        complaints.add(node.place, f"family is {name}, which is none of {', '.join(FAMILIES)}.")
        complaints.settle()
    return name


def _objective(root: Table, family: Family, complaints: Complaints) -> str:
    node = root.entries.get("objective")
    if node is None:
        return "selection_accuracy"
    allowed = [name for name, metric in family.metrics.items() if metric.higher_is_better is not None]
    return read_word(node, allowed, "objective", complaints) or "selection_accuracy"


def _text(node: Node | None) -> str:
    return node.text if isinstance(node, Leaf) else "a file"


def _whole(root: Table, key: str, setting: Any, complaints: Complaints) -> int:
    node = root.entries.get(key)
    value = None if node is None else read_value(node, setting, key, complaints)
    return int(setting.default) if value is None else int(value)


def _settings(root: Table, key: str, settings: Mapping[str, Any], complaints: Complaints) -> dict[str, Any]:
    table = section(root, key, complaints) or Table(root.place, {})
    check_keys(table, settings, key, complaints)
    return read_settings(table, settings, key, complaints)


def _data(root: Table, family: Family, complaints: Complaints) -> dict[str, Any]:
    """`source`, `path` (None without a file) and every data setting, as a space has them."""
    table = section(root, "data", complaints) or Table(root.place, {})
    check_keys(table, ("source", "path", *family.data_settings), "data", complaints)
    source = family.sources[0]
    if "source" in table.entries:
        source = read_word(table.entries["source"], family.sources, "data.source", complaints) or source
    node = table.entries.get("path")
    path = node.value if isinstance(node, Leaf) else None
    if source == "file" and not (isinstance(path, str) and path):
        complaints.add(
            node.place if node else table.place, "data.source is file, but data.path names no file."
        )
    elif source != "file" and path is not None:
        complaints.add(node.place, f"data.path has no meaning with source {source}. Remove it.")
    return {"source": source, "path": path, **read_settings(table, family.data_settings, "data", complaints)}
