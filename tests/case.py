"""A family as the laws of the engine are tested on it: small, with knobs that differ between trials."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainables.family import Data, Family
from trainables.slots import default_knobs

__all__ = ["Case"]


class Case(NamedTuple):
    """A family with a small static setting, small data, and knob sets that differ from one another."""

    name: str
    family: Family
    static: dict[str, Any]
    settings: dict[str, Any]
    knob_sets: tuple[dict[str, Any], ...]

    def load(self) -> Data:
        if self.name not in _LOADED:
            defaults = {key: setting.default for key, setting in self.family.data_settings.items()}
            settings = {"source": self.family.sources[0], "path": None, **defaults, **self.settings}
            _LOADED[self.name] = self.family.load(settings)
        return _LOADED[self.name]

    def knobs(self, number: int) -> dict[str, Any]:
        """All knobs of the trial `number`."""
        return {**default_knobs(self.family), **self.knob_sets[number % len(self.knob_sets)]}

    @property
    def full_static(self) -> dict[str, Any]:
        return {name: setting.default for name, setting in self.family.statics.items()} | self.static


_LOADED: dict[str, Data] = {}  # by the case's name
