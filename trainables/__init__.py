"""The families and the engine that trains them. Nothing here imports Ray but `ray_worker`."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainables.family import Family

__all__ = ["FAMILIES", "family_named", "static_key"]

FAMILIES = {
    "selection": "trainables.selection:SELECTION",
    "multitask": "trainables.multitask:MULTITASK",
    "beta_vae": "trainables.beta_vae:BETA_VAE",
    "panels": "trainables.panels:PANELS",
    "tokens": "trainables.tokens:TOKENS",
}


def family_named(name: str) -> Family:
    """The family called `name`: a key of FAMILIES, or `package.module:ATTRIBUTE` for a user's own.

    Raises KeyError for an unknown name, ImportError or AttributeError for a path that leads nowhere, and
    TypeError when what it leads to is no Family.
    """
    if ":" in name and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # an installed program does not look there by itself
    target = name if ":" in name else FAMILIES[name]
    module_name, attribute = target.split(":", 1)
    family = getattr(importlib.import_module(module_name), attribute)
    from trainables.family import Family

    if not isinstance(family, Family):
        raise TypeError(f"{target} is a {type(family).__name__}, not an instance of trainables.family.Family")
    return family


def static_key(static: Mapping[str, Any]) -> str:
    """One string for a static setting: trials with equal keys can share a stack."""
    return json.dumps(dict(static), sort_keys=True)
