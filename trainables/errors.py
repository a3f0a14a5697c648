"""Errors that the trainables raise about what a user gave; `search.errors` turns them into exit codes."""

from __future__ import annotations

__all__ = ["BadCheckpoint", "BadData", "NotShared"]


class BadData(ValueError):
    """A data file or source that cannot be used: names the file, the field, what was found and what is
    allowed.
    """


class BadCheckpoint(ValueError):
    """A checkpoint that is torn, foreign, or of another version or static setting."""


class NotShared(RuntimeError):
    """A node on which an engine runs does not see the run directory."""
