"""Warnings about spaces of panels that are valid and yet unlikely to do what their authors want."""

from __future__ import annotations

from typing import Any

from trainables.family import Data

__all__ = ["traps"]

TERMS = ("contrastive", "reconstruction", "alignment")
TEMPERATURES = (0.02, 0.5)  # of cosines; why not beyond them: see `_temperature_traps`


def traps(space: Any, data: Data | None) -> list[str]:
    """What the author of `space` should know, one sentence or two each."""
    return [*_temperature_traps(space), *_weight_traps(space), *_data_traps(space, data)]


def _temperature_traps(space: Any) -> list[str]:
    """Temperatures at which a term teaches little."""
    found = []
    for term in ("contrastive", "alignment"):
        low, high = _bounds(space.knobs[f"{term}.temperature"])
        if high > TEMPERATURES[1]:
            found.append(
                f"{term}.temperature may be {high:g}: above {TEMPERATURES[1]} cosines, which end at 1, "
                "hardly tell panels apart, and embeddings do not spread; lower it."
            )
        if low < TEMPERATURES[0]:
            found.append(
                f"{term}.temperature may be {low:g}: below {TEMPERATURES[0]} the one most similar panel "
                f"gives all of the gradient, right or wrong; raise it."
            )
    return found


def _weight_traps(space: Any) -> list[str]:
    """Weights with which the search learns little, or embeddings collapse."""
    weights = {term: space.knobs[f"{term}.weight"] for term in TERMS}
    found, off = [], {term for term, weight in weights.items() if _bounds(weight)[1] == 0}
    if off == set(weights):
        found.append("All three weights are 0: nothing is trained; give one of them a weight.")
    elif len(off) == 2:
        (only,) = set(weights) - off
        if weights[only].searched:
            found.append(
                f"{only}.weight is searched while both other weights are 0, where AdamW's steps do not "
                "depend on it; fix it, or give another term a weight."
            )
    target = space.static["reconstruction_target"]
    if target.holds("attached") and _bounds(weights["contrastive"])[0] == 0 and "reconstruction" not in off:
        found.append(
            "reconstruction_target may be attached while contrastive.weight may be 0: equal embeddings for "
            "all panels are then the best answer (collapse); keep contrastive.weight above 0."
        )
    for term in ("contrastive", "alignment"):
        if term in off and space.knobs[f"{term}.temperature"].searched:
            found.append(
                f"{term}.temperature is searched though {term}.weight is 0, where it has no effect; fix it."
            )
    if "alignment" in off:
        found.append(
            "alignment.weight is 0: image-text recall, half of selection_accuracy, stays near chance; give "
            "it a weight, or judge trials by page_retrieval."
        )
    return found


def _data_traps(space: Any, data: Data | None) -> list[str]:
    """A term for which the data has nothing."""
    if data is None or data.facts["num_aligned"] > 1 or _bounds(space.knobs["alignment.weight"])[1] == 0:
        return []
    return [
        "No two training panels have image and text, so that alignment is never active; set alignment.weight "
        "to 0."
    ]


def _bounds(parameter: Any) -> tuple[float, float]:
    """Smallest and largest value that a numeric parameter can take."""
    if parameter.kind == "fixed":
        return parameter.value, parameter.value
    if parameter.kind == "choice":
        return min(parameter.choices), max(parameter.choices)
    return parameter.low, parameter.high
