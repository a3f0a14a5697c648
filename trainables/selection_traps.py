"""Warnings about spaces of selection that are valid and yet unlikely to do what their authors want."""

from __future__ import annotations

from typing import Any

__all__ = ["traps"]


def traps(space: Any) -> list[str]:
    """What the author of `space` should know, one sentence or two each."""
    return [*_reconstruction_traps(space), *_game_traps(space)]


def _reconstruction_traps(space: Any) -> list[str]:
    """Searched settings of the reconstruction that cannot matter."""
    weight, leak = space.knobs["reconstruction.weight"], space.knobs["reconstruction.leak"]
    searched = [name for name in space.searched() if name.startswith(("reconstruction.", "class_weights."))]
    if _only_zero(weight) and searched:
        names = ", ".join(searched)
        return [f"reconstruction.weight is 0, so {names} cannot matter: fix them, or raise the weight."]
    if _only_zero(weight) or not _only_zero(leak):
        return []
    # Other figures than the selection's depend on how the reconstructor is trained, if not how hard.
    alone = set(space.objectives) == {"selection_accuracy"}
    idle = [name for name in searched if alone or name == "reconstruction.weight"]
    idle = [name for name in idle if name != "reconstruction.leak"]
    if not idle:
        return []
    return [
        f"{', '.join(idle)}: searched while reconstruction.leak is 0, which trains the reconstructor apart, "
        "under an optimiser that ignores a loss's scale; selection accuracy can change through optim.clip "
        "alone. Give reconstruction.leak a range, or fix them."
    ]


def _game_traps(space: Any) -> list[str]:
    """Games that do not compare, or that are too easy."""
    found = []
    if space.static["distractors"].searched:
        found.append(
            "distractors is searched, and fewer are easier (chance 0.25 with 3, 0.03 with 31): the "
            "trials do not compare. Fix it."
        )
    if space.data["distractors.same_task"] == 0 and space.data["source"] != "synthetic":
        found.append(
            "distractors.same_task is 0: size or palette alone then tells most grids from their "
            "distractors, and high accuracy says little. Raise it."
        )
    return found


def _only_zero(parameter: Any) -> bool:
    """Whether a parameter of a space can be nothing but 0."""
    return parameter.kind in ("fixed", "choice") and all(value == 0 for value in parameter.values())
