"""The tree of errors that a user can meet.

    LossSearchError            anything that ends a command with one clear message and no traceback
    ├── BadInput               what the user gave cannot be used                        exit 2
    │   ├── BadSpace           a space file: every complaint carries file:line
    │   └── BadData            a data file or a data source
    ├── RunFailed              the run started and could not go on                      exit 1
    ├── Incomplete             stopped before its end, `resume` continues it            exit 3
    └── DamagedRun             a run directory that is damaged, foreign or newer        exit 4

A message names the place, what was found, what is allowed, and the likely repair.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from trainables.errors import BadData as _BadDataValue

__all__ = [
    "BadData",
    "BadInput",
    "BadSpace",
    "DamagedRun",
    "Incomplete",
    "LossSearchError",
    "RunFailed",
    "nearest",
]


class LossSearchError(Exception):
    """Ends a command with its message alone; `exit_code` is what the shell sees."""

    exit_code = 1


class BadInput(LossSearchError):
    exit_code = 2


class BadSpace(BadInput):
    """A complaint about a space file, worded `file:line: what was found, what is allowed, the repair`."""


class BadData(BadInput, _BadDataValue):
    """A data file or source that cannot be used."""


class RunFailed(LossSearchError):
    exit_code = 1


class Incomplete(LossSearchError):
    exit_code = 3


class DamagedRun(LossSearchError):
    exit_code = 4


def nearest(word: object, allowed: Iterable[object]) -> str:
    """The end of a message about a wrong word: `Did you mean 'x'?`, or nothing when no word is near."""
    names = [str(item) for item in allowed]
    matches = difflib.get_close_matches(str(word), names, n=1, cutoff=0.6)
    return f" Did you mean '{matches[0]}'?" if matches else ""
