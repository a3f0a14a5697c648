"""The family selection in the laws of the engine."""

from case import Case

CASES: tuple[Case, ...] = ()
