"""The family tokens in the laws of the engine."""

from case import Case

CASES: tuple[Case, ...] = ()
