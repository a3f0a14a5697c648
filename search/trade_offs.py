"""Which trials are not beaten in both of two metrics: the Pareto front. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Front", "pareto_front"]


@dataclass(frozen=True)
class Front:
    """The trials that no other beats in both metrics, the best in `first` at the front.

    numbers: trials on the front; first_values, second_values: theirs. all_*: of every trial with both.
    """

    first: str
    second: str
    maximize: tuple[bool, bool]
    numbers: list[int]
    first_values: list[float]
    second_values: list[float]
    all_numbers: list[int]
    all_first: list[float]
    all_second: list[float]
    sentence: str


def pareto_front(
    numbers: np.ndarray,
    first_values: np.ndarray,
    second_values: np.ndarray,
    names: tuple[str, str],
    maximize: tuple[bool, bool],
) -> Front:
    """The front of two metrics over trials; those without one of them are left out.

    A trial is beaten when another is at least as good in both and better in one; equal ones all stay.
    O(n log n).
    """
    known = np.isfinite(first_values) & np.isfinite(second_values)
    numbers, x, y = numbers[known], first_values[known], second_values[known]
    a, b = (values * (1 if more else -1) for values, more in zip((x, y), maximize, strict=True))
    order = np.lexsort((-b, -a))  # best first metric first, among equals the best second
    front, best, at = [], -np.inf, None
    for place in order:
        if b[place] > best or (b[place] == best and a[place] == at):
            front.append(place)
            best, at = b[place], a[place]
    return Front(
        *names,
        maximize=maximize,
        numbers=numbers[front].tolist(),
        first_values=x[front].tolist(),
        second_values=y[front].tolist(),
        all_numbers=numbers.tolist(),
        all_first=x.tolist(),
        all_second=y.tolist(),
        sentence=_sentence(names, numbers[front], x[front], y[front], len(numbers)),
    )


def _sentence(names: tuple[str, str], numbers: np.ndarray, x: np.ndarray, y: np.ndarray, n: int) -> str:
    one, other = names
    if not n:
        return f"No trial has both {one} and {other}."
    if len(set(zip(x.tolist(), y.tolist(), strict=True))) == 1:
        trials = ", ".join(map(str, numbers[:5]))
        return f"No trade-off: trial {trials} is best in both {one} ({x[0]:.3g}) and {other} ({y[0]:.3g})."
    return (
        f"{len(numbers)} of {n} trials are beaten by none in both: from trial {numbers[0]} ({one} "
        f"{x[0]:.3g}, {other} {y[0]:.3g}) to trial {numbers[-1]} ({one} {x[-1]:.3g}, {other} {y[-1]:.3g})."
    )
